"""The bar of a study, whose points run in other processes that report in files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from scheduler.core.times import DAY_S
from sim.runs.progress import bar, per_second
from sim.study.task import Task

POLL_S = 0.5  #: how often a study's bar reads what its workers report
REPORT_S = 0.4  #: how often a worker reports


class ProgressFile:
    """What one worker writes: simulated seconds and events of its current task."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written_s = 0.0

    def __call__(self, time_s: float, num_events: int) -> None:
        now_s = monotonic()
        if now_s - self._written_s >= REPORT_S:
            self._written_s = now_s
            self._path.write_text(f"{time_s} {num_events}\n", "ascii")

    def close(self) -> None:
        """Take the file away: the task is over."""
        self._path.unlink(missing_ok=True)


def read_progress(path: Path) -> tuple[float, int] | None:
    """Return what a worker last wrote, or None if there is nothing to read."""
    try:
        time_s, num_events = path.read_text("ascii").split()
        return float(time_s), int(num_events)
    except (OSError, ValueError):  # not there, or half written
        return None


class StudyProgress:
    """One bar over many tasks of unequal work, kept up to date by a thread.

    Workers report in `folder`, each in a file named after its task.
    """

    def __init__(self, description: str, folder: Path, tasks: Sequence[Task]) -> None:
        self._folder = folder
        self._tasks = tasks
        self._open = {task.name for task in tasks}
        self._events: dict[str, int] = {}
        self._num_events = 0
        self._rate = 0.0
        self._read_s = monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        work, _ = self._measure()
        total = max(sum(task.weight for task in tasks), 1e-9)
        self._bar = bar(total, description, initial=work)

    def __enter__(self) -> Self:
        self._show()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        self._bar.close()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            self._show()

    def _measure(self) -> tuple[float, float]:
        """Return work done and simulated seconds done; note finished tasks."""
        work, seconds = 0.0, 0.0
        for task in self._tasks:
            if task.name in self._open and task.is_done():
                self._open.discard(task.name)
            share = 1.0
            if task.name in self._open:
                time_s, num_events = read_progress(self._folder / task.name) or (0.0, 0)
                share = min(time_s / task.span_s, 0.99) if task.span_s else 0.0
                self._events[task.name] = max(num_events, self._events.get(task.name, 0))
            work += task.weight * share
            seconds += task.span_s * share
        return work, seconds

    def _show(self) -> None:
        work, seconds = self._measure()
        self._measure_rate()
        points = [task for task in self._tasks if task.span_s]
        done = sum(task.name not in self._open for task in points)
        total_s = sum(task.span_s for task in points)
        self._bar.set_postfix_str(
            f"{done}/{len(points)} points, {seconds / DAY_S:,.0f}/{total_s / DAY_S:,.0f} "
            f"simulated days, {per_second(self._rate)}",
            refresh=False,
        )
        self._bar.update(max(work - self._bar.n, 0.0))

    def _measure_rate(self) -> None:
        """Update the rate of events: a mean that forgets after about ten readings."""
        now_s, num_events = monotonic(), sum(self._events.values())
        lasted_s = now_s - self._read_s
        if lasted_s > POLL_S / 2:
            rate = (num_events - self._num_events) / lasted_s
            self._rate = 0.9 * self._rate + 0.1 * rate if self._rate else rate
            self._read_s, self._num_events = now_s, num_events
