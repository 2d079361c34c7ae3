"""The jobs table as the engines read it: plain lists, with equal roles shared."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scheduler.core.model import PodShape, Role, Selector
from scheduler.core.times import FOREVER_US
from sim.schema.cluster import GIB
from traces import schema

#: multiples of it spread evenly over [0, 1)
GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0


class Workload:
    """Jobs in order of submission; lists are indexed by job.

    `roles` are those of each job, where they are more than the columns of a table can say.
    """

    def __init__(
        self,
        jobs: pd.DataFrame,
        seed: int = 0,
        *,
        limits_pods: bool = False,
        roles: Sequence[tuple[Role, ...]] | None = None,
    ) -> None:
        self._places = int(limits_pods)  #: that a pod takes of a node's limit of pods
        jobs = schema.complete(jobs)
        if not jobs["submit_s"].is_monotonic_increasing:
            jobs = jobs.sort_values("submit_s", kind="stable", ignore_index=True)
        exact = {name: in_us(jobs[name]) for name in ("submit_s", "duration_s", "walltime_s")}
        np.maximum(exact["walltime_s"], 1, out=exact["walltime_s"])  # a limit is never nothing
        # Tables say what was simulated.
        jobs = jobs.assign(**{name: us / 1e6 for name, us in exact.items()})
        self.table = jobs
        self.num_jobs = len(jobs)
        self.submit_us: list[int] = exact["submit_s"].tolist()
        self.duration_us: list[int] = exact["duration_s"].tolist()
        self.walltime_us: list[int] = exact["walltime_s"].tolist()
        self.job: list[str] = jobs["job"].tolist()
        self.submit_s: list[float] = jobs["submit_s"].tolist()
        self.duration_s: list[float] = jobs["duration_s"].tolist()
        self.num_pods: list[int] = jobs["num_pods"].tolist()
        self.priority: list[int] = jobs["priority"].tolist()
        self.queue: list[str] = jobs["queue"].tolist()
        self.min_member: list[int] = jobs["min_member"].tolist()
        self.evicts: list[bool] = jobs["evicts"].tolist()
        self.evictable: list[bool] = jobs["evictable"].tolist()
        self.roles: list[tuple[Role, ...]] = []
        self.role_gpus: list[tuple[int, ...]] = []
        #: distinct roles, and for each job the index of its own there
        self.distinct_roles: list[tuple[Role, ...]] = []
        self.roles_index = np.empty(self.num_jobs, np.int64)
        if roles is None:
            self._share_roles(jobs)
        else:
            self._share_given(roles)
        self.gpus: list[int] = [sum(role.gpus for role in each) for each in self.roles]
        schema.check_gpus(self.job, self.gpus, self.num_pods)
        stream = np.random.SeedSequence(seed, spawn_key=(7,))
        self._jitter: list[float] = np.random.default_rng(stream).random(self.num_jobs).tolist()

    def _share_roles(self, jobs: pd.DataFrame) -> None:
        columns = [
            "num_pods",
            "gpus_per_pod",
            "last_pod_gpus",
            "cpu_per_pod",
            "mem_gib_per_pod",
            "pool",
            "gpu_model",
        ]
        made: dict[tuple[object, ...], tuple[int, tuple[Role, ...], tuple[int, ...]]] = {}
        rows = zip(*(jobs[column].tolist() for column in columns), strict=True)
        for job, key in enumerate(rows):
            known = made.get(key)
            if known is None:
                roles = _roles(*key, places=self._places)
                known = made[key] = (len(made), roles, tuple(role.pod.gpus for role in roles))
                self.distinct_roles.append(roles)
            self.roles_index[job] = known[0]
            self.roles.append(known[1])
            self.role_gpus.append(known[2])

    def _share_given(self, given: Sequence[tuple[Role, ...]]) -> None:
        made: dict[tuple[Role, ...], int] = {}
        for job, roles in enumerate(given):
            if roles not in made:
                made[roles] = len(made)
                self.distinct_roles.append(roles)
            self.roles_index[job] = made[roles]
            self.roles.append(roles)
            self.role_gpus.append(tuple(role.pod.gpus for role in roles))

    def jitter(self, job: int, attempt: int) -> float:
        """Return the job's random number in [0, 1) for this attempt: the same for every policy."""
        return (self._jitter[job] + attempt * GOLDEN_RATIO) % 1.0


def in_us(seconds: pd.Series[float] | NDArray[np.float64]) -> NDArray[np.int64]:
    """Return whole microseconds, as `times.to_us` does."""
    us = np.rint(np.asarray(seconds, np.float64) * 1e6)
    return np.minimum(us, float(FOREVER_US)).astype(np.int64)


def whole_us(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return seconds, rounded to whole microseconds."""
    rounded: NDArray[np.float64] = np.rint(seconds * 1e6) / 1e6
    return rounded


def _roles(
    num_pods: int,
    gpus_per_pod: int,
    last_pod_gpus: int,
    cpu_per_pod: float,
    mem_gib_per_pod: float,
    pool: str,
    gpu_model: str,
    *,
    places: int,
) -> tuple[Role, ...]:
    where = Selector(pool, gpu_model)

    def pod(gpus: int) -> PodShape:
        return PodShape(gpus, round(cpu_per_pod * 1000), round(mem_gib_per_pod * GIB), places)

    if last_pod_gpus == gpus_per_pod:
        return (Role(num_pods, pod(gpus_per_pod), where),)
    last = Role(1, pod(last_pod_gpus), where, "last")
    if num_pods == 1:
        return (last,)
    return (Role(num_pods - 1, pod(gpus_per_pod), where), last)
