"""Since when pods cannot use the nodes that they are pinned to.

A node may be cordoned, NotReady or gone for only a moment; all nodes look so when the API server is
late. A pin cannot be changed, and a deleted pod may count as a failure, so the pod waits.
"""

from __future__ import annotations

from scheduler.controller.membership import LiveGang
from scheduler.controller.work import Work
from scheduler.workloads.gangs import GangKey

BLINK_S = 30.0  #: no node blinks for longer, however long binds may take


class Patience:
    """Pods that wait for their node, by node."""

    def __init__(self, work: Work, bind_s: float) -> None:
        self._work = work
        self._most_s = min(bind_s, BLINK_S)
        #: by node and uid of a pod: its gang, and since when that node does not serve it
        self.since: dict[str, dict[str, tuple[GangKey, float]]] = {}

    def is_over(self, gang: LiveGang, uid: str, node: str) -> bool:
        """Note that a node does not serve a pod; True once that has lasted long enough.

        Time without the API server does not count, because no recovery would have been seen.
        """
        now_s = self._work.now_s()
        pods = self.since.setdefault(node, {})
        _, since_s = pods.setdefault(uid, (gang.key, now_s))
        left_s = self._most_s - self._work.waited_s(since_s)
        if left_s > 0:
            self._work.look_again(gang.key, now_s + left_s, "patience")
        return left_s <= 0

    def waits(self, uid: str, node: str) -> bool:
        """True if a node that does not serve a pod may serve it again in time."""
        known = self.since.get(node, {}).get(uid)
        return known is not None and self._work.waited_s(known[1]) < self._most_s

    def end(self, uid: str, node: str) -> bool:
        """Note that a node serves a pod, or that the pod is gone; True if a pod waited for that."""
        pods = self.since.get(node)
        if pods is None or pods.pop(uid, None) is None:
            return False
        if not pods:
            del self.since[node]
        return True

    def node_changed(self, node: str) -> None:
        """Reconcile the gangs that wait for a node."""
        for key, _ in self.since.get(node, {}).values():
            self._work.touch(key)
