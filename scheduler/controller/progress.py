"""How far the schedulers have come with the pods that were told of their nodes.

`bind_s` is the time that a scheduler has for a pod it has come to, not for those before it. Its
clock stands while the scheduler does nothing at all: then it, or the API server, is away. A pod is
late once `bind_s` went by, and

- its scheduler was never seen at work: nobody serves that name, or
- it has gone on to pods that were told later, and `bind_s` went by since that was seen, or
- all this took `MOST` times `bind_s`, so that nothing is waited for without end.
"""

from __future__ import annotations

from math import inf

from scheduler.controller.slots import Slot

MOST = 20.0
MOST_NAMES = 256  #: of schedulers; whoever creates pods chooses them


class Progress:
    """What schedulers were seen to do, by name."""

    def __init__(self, bind_s: float) -> None:
        self._bind_s = bind_s
        self.seen_s: dict[str, float] = {}  #: when it last came to a pod
        self._front_s: dict[str, float] = {}  #: when the latest pod was told that it has come to

    def works(self, name: str) -> None:
        """Note that a scheduler has bound a pod, whenever that was."""
        if name not in self.seen_s and len(self.seen_s) < MOST_NAMES:
            self.seen_s[name] = self._front_s[name] = -inf

    def reached(self, name: str, slot: Slot, now_s: float) -> None:
        """Note that a scheduler has come to the pod of a slot."""
        if name not in self.seen_s:
            self.works(name)
            if name not in self.seen_s:
                return  # one of too many
        self.seen_s[name] = now_s
        if slot.queued_s > self._front_s[name]:
            self._front_s[name] = slot.queued_s

    def is_late(self, name: str, slot: Slot, now_s: float) -> bool:
        """Judge a pod whose deadline has passed; if it is not late, it has `bind_s` more."""
        seen_s = self.seen_s.get(name)
        if seen_s is None or now_s - slot.told_s >= MOST * self._bind_s:
            return True
        # a scheduler that did nothing since the last look is away, or has nothing to do
        goes_on = seen_s > slot.deadline_s - self._bind_s
        if goes_on and self._front_s[name] > slot.queued_s:
            if slot.is_passed:
                return True
            slot.is_passed = True
        slot.deadline_s = now_s + self._bind_s
        return False
