"""The event queue: a clock in whole microseconds, and the callbacks that are due.

simpy has this and more: processes that wait for one another. Gang admission needs two plain
callbacks in the life of a gang; creating simpy's events for them took a quarter of a run's time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from heapq import heappop, heappush

from scheduler.core.times import FOREVER_US

#: what happens, given what `Agenda.at` was told to pass on
Act = Callable[[object], None]
#: urgent acts come before the others of their instant
_URGENT = -(1 << 60)


class Agenda:
    """Callbacks by time; within an instant urgent ones come first, then those added first."""

    __slots__ = ("_due", "_is_over", "_next_act", "_next_place", "_next_us", "_noted", "now_us")

    def __init__(self) -> None:
        self.now_us = 0
        self._due: list[tuple[int, int, Act, object]] = []
        self._noted = 0
        self._is_over = False
        # The next act of a series waits beside the others, among which it would be sorted twice.
        self._next_us = FOREVER_US
        self._next_place = 0
        self._next_act: Act | None = None

    def at(self, time_us: int, act: Act, value: object = None, *, urgent: bool = False) -> None:
        """Call `act(value)` at this time, or now if it has passed."""
        self._noted += 1
        place = self._noted + _URGENT if urgent else self._noted
        if time_us < self.now_us:
            time_us = self.now_us
        heappush(self._due, (time_us, place, act, value))

    def at_next(self, time_us: int, act: Act) -> None:
        """Call `act(None)` at this time: one call of a series, of which one is due at a time."""
        assert self._next_us == FOREVER_US, "the previous event of this series is still due"
        self._noted += 1
        self._next_us = max(time_us, self.now_us)
        self._next_place = self._noted
        self._next_act = act

    def next_us(self) -> int:
        """Return when something is due next; `FOREVER_US` if nothing is."""
        if self._due and self._due[0][0] < self._next_us:
            return self._due[0][0]
        return self._next_us

    def run(self, until_us: int = FOREVER_US) -> None:
        """Run everything that is due before `until_us`, or up to the end.

        Python's cycle collector pauses meanwhile: a run creates millions of small objects and no
        cycles, so it would find nothing to collect.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            self._run(until_us)
        finally:
            if collects:
                gc.enable()

    def _run(self, until_us: int) -> None:
        due = self._due
        while not self._is_over:
            time_us = self._next_us
            if due:
                first_us, place, _, _ = due[0]
                if first_us < time_us or (first_us == time_us and place < self._next_place):
                    if first_us >= until_us:
                        break
                    _, _, act, value = heappop(due)
                    self.now_us = first_us
                    act(value)
                    continue
            if time_us >= until_us or self._next_act is None:
                break
            self.now_us = time_us
            self._next_us = FOREVER_US
            self._next_act(None)
        if until_us < FOREVER_US:
            self.now_us = until_us

    def end(self) -> None:
        """Run what is already due at this instant, then stop."""
        self.at(self.now_us, self._end)

    def _end(self, _: object) -> None:
        self._is_over = True
