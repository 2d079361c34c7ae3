"""How long gangs waited for others to leave, which were evicted for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.decisions import PendingReason
from scheduler.core.quota import Amounts
from sim.engines.waits import CODE, StepLog, Stints, coded

PREEMPTING = coded(CODE[PendingReason.PREEMPTING], "gpus")


class ClaimedStints:
    """Times in which nodes were kept for gangs; they wait for nothing else then."""

    def __init__(self) -> None:
        self.since_us: dict[int, int] = {}  #: by job, of those under way
        self._takes: dict[int, Amounts] = {}  #: by job: of its queue's quota, the last time
        self._rows: list[tuple[int, float, float]] = []  #: job, from, to
        self.took: list[Amounts] = []  #: by row

    def begin(self, job: int, now_us: int, takes: Amounts) -> None:
        """Note that nodes and so much quota are kept for a job from now on."""
        self.since_us[job] = now_us
        self._takes[job] = takes

    def end(self, job: int, now_us: int) -> None:
        """Note that it starts, or that they are kept no longer."""
        since_us = self.since_us.pop(job, None)
        if since_us is not None and now_us > since_us:
            self._rows.append((job, since_us / 1e6, now_us / 1e6))
            self.took.append(self._takes[job])

    def stints(self) -> Stints:
        """Return these times."""
        job, from_s, to_s = zip(*self._rows, strict=True) if self._rows else ((), (), ())
        return Stints(np.array(job, np.int64), np.array(from_s), np.array(to_s))

    def cut_out(self, stints: Stints) -> Stints:
        """Return the stints in the queue without these times; none is left that took no time."""
        of_job: dict[int, list[tuple[float, float]]] = {}
        for one, begin_s, end_s in self._rows:
            of_job.setdefault(one, []).append((begin_s, end_s))
        job, from_s, to_s = _cut(stints, of_job) if of_job else stints
        waited = to_s > from_s
        return Stints(job[waited], from_s[waited], to_s[waited])

    def settle(
        self,
        log: StepLog,
        num_pods: NDArray[np.int64],
        gpus: NDArray[np.int64],
        pod_s: dict[int, NDArray[np.float64]],
        queue_of_job: NDArray[np.int64],
    ) -> None:
        """Log what pods waited for, and add the pod-seconds to those by reason and job."""
        if not self._rows:
            return
        job, from_s, to_s = self.stints()
        pods, queue = num_pods[job], queue_of_job[job]
        log.extend(from_s, PendingReason.PREEMPTING, pods, gpus[job], queue)
        log.extend(to_s, PendingReason.PREEMPTING, -pods, -gpus[job], queue)
        found = pod_s.setdefault(PREEMPTING, np.zeros(len(num_pods)))
        np.add.at(found, job, (to_s - from_s) * pods)


def _cut(stints: Stints, of_job: dict[int, list[tuple[float, float]]]) -> Stints:
    """Return the stints without these times of each job, which are in order."""
    jobs, begins, ends = stints.job.tolist(), stints.from_s.tolist(), stints.to_s.tolist()
    for at in range(len(jobs)):
        for from_s, to_s in of_job.get(jobs[at], ()):
            if begins[at] <= from_s and to_s <= ends[at]:
                jobs.append(jobs[at])
                begins.append(begins[at])
                ends.append(from_s)
                begins[at] = to_s
    return Stints(np.array(jobs, np.int64), np.array(begins), np.array(ends))
