"""Who waited for what, and when: kept while the simulation runs, exact, without sampling."""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scheduler.decisions import PendingReason, Wait
from scheduler.model import FamilyKey
from sim.tables import REASONS

CODE = {reason: code for code, reason in enumerate(REASONS)}
CAPACITY = CODE[PendingReason.CAPACITY]
FRAGMENTATION = CODE[PendingReason.FRAGMENTATION]
BEHIND_HEAD = CODE[PendingReason.BEHIND_HEAD]


class StepLog:
    """Changes of a step function per reason, in any order of time."""

    def __init__(self) -> None:
        #: flat rows of time_s, reason, pods, gpus
        self._rows = array("d")
        self._blocks: list[NDArray[np.float64]] = []

    def add(self, time_s: float, reason: int, pods: int, gpus: int) -> None:
        """Note that from `time_s` on so many more pods are pending for `reason`."""
        self._rows.extend((time_s, reason, pods, gpus))

    def extend(
        self,
        time_s: NDArray[np.float64],
        reason: PendingReason,
        pods: NDArray[np.int64],
        gpus: NDArray[np.int64],
    ) -> None:
        """Add many changes of one reason."""
        code = np.full(len(time_s), CODE[reason], np.float64)
        self._blocks.append(np.stack((time_s, code, pods, gpus), axis=1))

    def table(self) -> pd.DataFrame:
        """Return the step function as the pending table: time_s, reason, pods, gpus."""
        blocks = [np.frombuffer(self._rows, np.float64).reshape(-1, 4), *self._blocks]
        rows = np.concatenate(blocks)
        time_s, reason, pods, gpus = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
        steps = []
        for code, name in enumerate(REASONS):
            of_reason = np.flatnonzero(reason == code)
            at, levels = accumulate_steps(
                time_s[of_reason],
                pods[of_reason].astype(np.int64),
                gpus[of_reason].astype(np.int64),
            )
            if len(at):
                steps.append((at, np.full(len(at), code, np.int8), *levels))
        if not steps:
            return pd.DataFrame(
                {
                    "time_s": np.empty(0),
                    "reason": pd.Series([], dtype="str"),
                    "pods": np.empty(0, np.int64),
                    "gpus": np.empty(0, np.int64),
                }
            )
        columns = [np.concatenate(column) for column in zip(*steps, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        at_s, codes, num_pods, num_gpus = (column[order] for column in columns)
        names = np.array([str(reason) for reason in REASONS], object)
        return pd.DataFrame(
            {
                "time_s": at_s,
                "reason": pd.Series(names[codes], dtype="str"),
                "pods": num_pods,
                "gpus": num_gpus,
            }
        )


def accumulate_steps(
    time_s: NDArray[np.float64], *changes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Return distinct times and the levels from then on; times without change are left out."""
    if not len(time_s):
        return time_s, [np.empty(0, np.int64) for _ in changes]
    order = np.argsort(time_s, kind="stable")
    sorted_s = time_s[order]
    last = np.append(np.flatnonzero(np.diff(sorted_s)), len(sorted_s) - 1)
    levels = [np.cumsum(change[order])[last] for change in changes]
    differs = np.zeros(len(last), bool)
    for level in levels:
        differs |= np.diff(level, prepend=0) != 0
    return sorted_s[last][differs], [level[differs] for level in levels]


def integral(time_s: NDArray[np.float64], level: NDArray[np.int64], until_s: float) -> float:
    """Return the integral of a step function from its first step to `until_s`."""
    if not len(time_s):
        return 0.0
    width = np.diff(np.append(np.minimum(time_s, until_s), until_s))
    return float(np.dot(width, level))


class _SizeWait:
    """Waiting gangs of one family and size; all of them wait for the same reason."""

    __slots__ = ("gangs", "gpus", "pods", "reason", "since_s", "waited_s")

    def __init__(self, pods: int, gpus: int, reason: int, now_s: float) -> None:
        self.pods = pods  #: of one gang
        self.gpus = gpus
        self.gangs = 0
        self.reason = reason
        self.since_s = now_s
        #: seconds that the size has spent so far waiting for CAPACITY, FRAGMENTATION, BEHIND_HEAD
        self.waited_s = [0.0, 0.0, 0.0]

    def settle(self, now_s: float) -> None:
        self.waited_s[self.reason - CAPACITY] += now_s - self.since_s
        self.since_s = now_s


class QueueLedger:
    """Splits the wait of queued gangs by reason, as `Wait` decisions move whole sizes."""

    def __init__(self, log: StepLog) -> None:
        self._log = log
        self._sizes: dict[FamilyKey, list[int]] = {}
        self._waits: dict[tuple[FamilyKey, int], _SizeWait] = {}
        self._outlook: dict[FamilyKey, Wait] = {}
        self._joined: dict[int, tuple[_SizeWait, list[float]]] = {}

    def state_wait(self, wait: Wait, now_s: float) -> None:
        """Take a new outlook of a family."""
        key = wait.family
        old = self._outlook.get(key)
        self._outlook[key] = wait
        sizes = self._sizes.get(key)
        if not sizes or old is None:
            return
        lo = min(old.fit_pods, wait.fit_pods, old.free_pods, wait.free_pods)
        hi = max(old.fit_pods, wait.fit_pods, old.free_pods, wait.free_pods)
        for size in sizes[bisect_right(sizes, lo) : bisect_right(sizes, hi)]:
            entry = self._waits[key, size]
            reason = CODE[wait.reason(size)]
            if reason != entry.reason:
                entry.settle(now_s)
                pods, gpus = entry.gangs * entry.pods, entry.gangs * entry.gpus
                self._log.add(now_s, entry.reason, -pods, -gpus)
                self._log.add(now_s, reason, pods, gpus)
                entry.reason = reason

    def join(
        self, job: int, family: FamilyKey, size: int, pods: int, gpus: int, now_s: float
    ) -> None:
        """Note that a gang begins to wait; the outlook of its family is known."""
        entry = self._waits.get((family, size))
        if entry is None:
            reason = CODE[self._outlook[family].reason(size)]
            entry = self._waits[family, size] = _SizeWait(pods, gpus, reason, now_s)
            insort(self._sizes.setdefault(family, []), size)
        else:
            entry.settle(now_s)
        entry.gangs += 1
        self._log.add(now_s, entry.reason, pods, gpus)
        self._joined[job] = (entry, entry.waited_s.copy())

    def leave(self, job: int, family: FamilyKey, size: int, now_s: float) -> list[float] | None:
        """Note that a gang waits no more.

        Return its seconds of CAPACITY, FRAGMENTATION and BEHIND_HEAD, or None if it never waited.
        """
        joined = self._joined.pop(job, None)
        if joined is None:
            return None
        entry, before = joined
        entry.settle(now_s)
        entry.gangs -= 1
        self._log.add(now_s, entry.reason, -entry.pods, -entry.gpus)
        if not entry.gangs:
            del self._waits[family, size]
            sizes = self._sizes[family]
            del sizes[bisect_right(sizes, size) - 1]
        return [now - then for now, then in zip(entry.waited_s, before, strict=True)]
