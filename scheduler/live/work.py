"""What has to be looked at and when, and the writes that are under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from scheduler.live.gangs import GangKey

log = logging.getLogger("muster.work")
#: facts that arrive together are looked at together; a burst of creations is one step
GATHER_S = 0.01
LONGEST_S = 30.0


class Work:
    """The clock, the list of gangs to look at, and the tasks of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.active = False  #: leader and synced: may write
        self.zero_unix_s = time.time()
        self._clock = clock
        self._zero_s = clock()
        self._touched: set[GangKey] = set()
        self._wake = asyncio.Event()
        self._timers: list[tuple[float, GangKey]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def now_s(self) -> float:
        """Seconds since this process's zero, by the monotonic clock, in whole microseconds."""
        return round(self._clock() - self._zero_s, 6)

    def wake(self) -> None:
        """Have the next step made soon."""
        self._wake.set()

    def touch(self, key: GangKey) -> None:
        """Have a gang mended in the next step, whenever that is."""
        self._touched.add(key)

    def look_again(self, key: GangKey, at_s: float) -> None:
        """Mend a gang at `at_s`, if nothing makes it earlier."""
        self._timers.append((at_s, key))
        if at_s <= self.now_s():
            self._wake.set()

    def take(self) -> set[GangKey]:
        """Return the gangs to mend now, and begin a new list."""
        touched, self._touched = self._touched, set()
        return touched

    def touch_due(self, now_s: float) -> None:
        """Have the gangs mended whose time has come."""
        due = {key for at_s, key in self._timers if at_s <= now_s}
        if due:
            self._timers = [entry for entry in self._timers if entry[0] > now_s]
            self._touched |= due
            self._wake.set()

    async def something(self) -> None:
        """Return once a step is due."""
        while True:
            now_s = self.now_s()
            self.touch_due(now_s)
            next_s = min((at_s for at_s, _ in self._timers), default=now_s + LONGEST_S)
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, next_s - now_s))
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            return

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
        """Wait for writes that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
