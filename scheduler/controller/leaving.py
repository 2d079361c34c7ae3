"""Pods that are being deleted, and their deadlines: an overdue pod may stay for good."""

from __future__ import annotations

from enum import IntEnum
from heapq import heappop, heappush
from math import inf

from scheduler.controller.work import Work
from scheduler.kube.objects import Pod, unix_s


class Lasts(IntEnum):
    """How long the core counts something as held by a pod of no gang."""

    WITH_A_GANG = 0
    LEAVING = 1  #: the holder is being deleted
    FOR_GOOD = 2


class Leaving:
    """The deadline of each pod that is being deleted."""

    def __init__(self, work: Work, bind_s: float) -> None:
        self._work = work
        self._bind_s = bind_s
        self._due: list[tuple[float, str]] = []  #: a heap: of those that are not overdue
        self._gone_by_s: dict[str, float] = {}  #: the same by uid, also of those that are overdue

    def lasts(self, pod: Pod) -> Lasts:
        """Return how long a pod of no gang will hold its resources.

        Whoever deletes a pod chooses its grace period. Muster believes it once for each pod, and
        for no longer than a bind may take; a pod seen late has the same time.
        """
        leaves = pod.metadata.deletion_timestamp is not None and not self.is_overdue(pod)
        return Lasts.LEAVING if leaves else Lasts.FOR_GOOD

    def is_overdue(self, pod: Pod) -> bool:
        """True if a pod is past its deadline and still there."""
        uid, told = pod.metadata.uid, pod.metadata.deletion_timestamp
        if told is None:
            return False
        now_s, bind_s = self._work.now_s(), self._bind_s
        due_s = self._gone_by_s.get(uid)
        if due_s is None:
            told_s = unix_s(told) - self._work.zero_unix_s
            due_s = min(max(told_s, now_s), now_s + bind_s) + bind_s
            self._gone_by_s[uid] = due_s
            heappush(self._due, (due_s, uid))
        return due_s <= now_s

    def overdue(self, now_s: float) -> list[str]:
        """Return the pods that became overdue since the last call, or are gone."""
        found = []
        while self._due and self._due[0][0] <= now_s:
            found.append(heappop(self._due)[1])
        return found

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone."""
        self._gone_by_s.pop(uid, None)

    @property
    def look_s(self) -> float:
        """When the next pod becomes overdue."""
        return self._due[0][0] if self._due else inf
