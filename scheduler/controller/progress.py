"""How far the schedulers have come with released pods.

`bind_s` is the time that a scheduler has for a pod it has come to, not for those before it. Its
clock stands while the scheduler does nothing at all: then it, or the API server, is away. A pod is
late once `bind_s` went by, and

- its scheduler was never seen at work: nobody serves that name, or
- it has gone on to pods that were told later, of no higher priority, which it takes first, and
  `bind_s` went by since that was seen, or
- all this took `MOST` times `bind_s`, so that nothing is waited for without end; but not if others
  of its gang run that need it: they would be ended because a scheduler was away.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection
from math import inf

from scheduler.controller.slots import Slot

MOST = 20.0
MOST_NAMES = 256  #: of schedulers, beside known ones; whoever creates pods chooses them
MOST_PRIORITIES = 64  #: of pods that it has come to, the lowest


class Progress:
    """What schedulers were seen to do, by name."""

    def __init__(self, bind_s: float, known: Collection[str] = ()) -> None:
        self._bind_s = bind_s
        self._known = known  #: by the settings: they have a place whatever others write
        self.seen_s: dict[str, float] = {}  #: when it last came to a pod
        #: by priority, upwards: when the latest pod of no higher one was told that it has come to
        self._fronts: dict[str, list[tuple[int, float]]] = {}

    def works(self, name: str) -> None:
        """Note that a scheduler has bound a pod at some time."""
        if name in self.seen_s or (len(self.seen_s) >= MOST_NAMES and name not in self._known):
            return
        self.seen_s[name] = -inf
        self._fronts[name] = []

    def reached(self, name: str, slot: Slot, now_s: float, priority: int = 0) -> None:
        """Note that a scheduler has come to the pod of a slot, which has this priority."""
        self.works(name)
        front, at_s = self._fronts.get(name), slot.queued_s
        if front is None:
            return  # one of too many
        self.seen_s[name] = now_s
        if _front_s(front, priority) >= at_s:
            return
        kept = [one for one in front if one[0] < priority or one[1] > at_s]
        insort(kept, (priority, at_s))
        self._fronts[name] = kept[:MOST_PRIORITIES]

    def is_late(
        self, name: str, slot: Slot, now_s: float, priority: int = 0, *, others: bool = False
    ) -> bool:
        """Judge a pod whose deadline has passed; if it is not late, it has `bind_s` more."""
        seen_s = self.seen_s.get(name)
        if seen_s is None or (now_s - slot.told_s >= MOST * self._bind_s and not others):
            return True
        # a scheduler that did nothing since the last look is away, or has nothing to do
        goes_on = seen_s > slot.deadline_s - self._bind_s
        if goes_on and _front_s(self._fronts[name], priority) > slot.queued_s:
            if slot.is_passed:
                return True
            slot.is_passed = True
        slot.deadline_s = now_s + self._bind_s
        return False


def _front_s(front: list[tuple[int, float]], priority: int) -> float:
    """Return when the latest pod of no higher priority was told."""
    for least, at_s in reversed(front):
        if least <= priority:
            return at_s
    return -inf
