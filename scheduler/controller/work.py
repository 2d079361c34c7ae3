"""Which gangs to reconcile and when, and the writes in flight."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from math import inf
from typing import Any

from scheduler.workloads.gangs import GangKey

log = logging.getLogger("muster.work")
#: facts that arrive together are looked at together; while steps are long, so are the gaps
#: between them, so that a burst of creations costs a few steps and not one per pod
GATHER_S, GATHER_MOST_S = 0.025, 0.1
REST_PER_STEP = 10.0
LONGEST_S = 30.0


class Work:
    """The clock, the list of gangs to reconcile, and the tasks of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.admitted = False  #: has read the cluster and was made leader
        self.leads: Callable[[], bool] = lambda: True  #: still, by the clock
        self.zero_unix_s = time.time()
        #: when the API server was last away, on the monotonic clock: what others were to do in that
        #: time they could not
        self.served_since_s: Callable[[], float] = lambda: -inf
        self._clock = clock
        self._zero_s = clock()
        self._touched: set[GangKey] = set()
        self._wake = asyncio.Event()
        #: a heap of times, gangs and reasons; the number breaks ties
        self._timers: list[tuple[float, int, GangKey, str | float]] = []
        self._due_s: dict[tuple[GangKey, str | float], float] = {}  #: those that still count
        self._num_timers = 0
        self.step_at_s = inf  #: the core wants to decide again then, whatever happens
        self._step_s = 0.0  #: the last step took so long
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def active(self) -> bool:
        """True while this process may write.

        The lease is checked at this very moment: a process that was paused for longer than the
        lease must not continue.
        """
        return self.admitted and self.leads()

    def now_s(self) -> float:
        """Seconds since this process's zero, by the monotonic clock, in whole microseconds."""
        return round(self._clock() - self._zero_s, 6)

    def waited_s(self, since_s: float) -> float:
        """Return for how long others could have done something since then."""
        return self.now_s() - max(since_s, self.served_since_s() - self._zero_s)

    def wake(self) -> None:
        """Start the next step soon."""
        self._wake.set()

    def touch(self, key: GangKey) -> None:
        """Reconcile a gang in the next step."""
        self._touched.add(key)

    def forget(self, key: GangKey) -> None:
        """Drop a touched gang: it is gone."""
        self._touched.discard(key)

    def look_again(self, key: GangKey, at_s: float, why: str = "") -> None:
        """Reconcile a gang at `at_s`, if nothing causes it earlier.

        A caller that asks again at each reconciliation gives `why`: there is one timer for it, the
        earliest, because otherwise each would cause the next without end.
        """
        reason = why or at_s
        if self._due_s.get((key, reason), inf) <= at_s:
            return
        self._due_s[key, reason] = at_s
        self._num_timers += 1
        heappush(self._timers, (at_s, self._num_timers, key, reason))
        if at_s <= self.now_s():
            self._wake.set()

    def take(self) -> set[GangKey]:
        """Return the gangs to reconcile now, and begin a new list."""
        touched, self._touched = self._touched, set()
        return touched

    def touch_due(self, now_s: float) -> None:
        """Touch the gangs whose time has come, and start the step that the core asked for."""
        while self._timers and self._timers[0][0] <= now_s:
            at_s, _, key, reason = heappop(self._timers)
            if self._due_s.get((key, reason)) == at_s:  # else another one came before
                del self._due_s[key, reason]
                self._touched.add(key)
                self._wake.set()
        if self.step_at_s <= now_s:
            self.step_at_s = inf
            self._wake.set()

    async def something(self) -> None:
        """Return once a step is due."""
        while True:
            now_s = self.now_s()
            self.touch_due(now_s)
            next_s = self._timers[0][0] if self._timers else now_s + LONGEST_S
            next_s = min(next_s, self.step_at_s)
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, next_s - now_s))
            except TimeoutError:
                continue
            rest_s = min(GATHER_MOST_S, REST_PER_STEP * self._step_s)
            await asyncio.sleep(max(GATHER_S, rest_s))
            self._wake.clear()
            return

    def stepped(self, took_s: float) -> None:
        """Note how long a step took."""
        self._step_s = took_s

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a write beside the steps."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("work failed", exc_info=task.exception())

    async def finish(self, within_s: float) -> None:
        """Wait for writes in flight."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
