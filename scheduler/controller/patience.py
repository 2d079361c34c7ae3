"""Since when pods cannot use the nodes that they are pinned to.

Nodes blink: one is cordoned, NotReady or gone for a moment, all of them are when the API server is
late. A pin cannot be changed, and a pod that is deleted may cost its owner; so it waits.
"""

from __future__ import annotations

from scheduler.controller.membership import LiveGang
from scheduler.controller.work import Work
from scheduler.workloads.gangs import GangKey

BLINK_S = 30.0  #: no node blinks for longer, however long binds may take


class Patience:
    """What is waited for, by node."""

    def __init__(self, work: Work, bind_s: float) -> None:
        self._work = work
        self._most_s = min(bind_s, BLINK_S)
        #: by node and uid of a pod: its gang, and since when that node does not serve it
        self.since: dict[str, dict[str, tuple[GangKey, float]]] = {}

    def is_over(self, gang: LiveGang, uid: str, node: str) -> bool:
        """Note that a node does not serve a pod; True if that is so for long enough.

        Nobody could say that it serves again while the API server was away.
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
        """Note that a node serves a pod, or that the pod is gone; True if that was waited for."""
        pods = self.since.get(node)
        if pods is None or pods.pop(uid, None) is None:
            return False
        if not pods:
            del self.since[node]
        return True

    def node_changed(self, node: str) -> None:
        """Have the gangs looked at that wait for a node."""
        for key, _ in self.since.get(node, {}).values():
            self._work.touch(key)
