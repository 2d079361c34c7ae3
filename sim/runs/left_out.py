"""Jobs that no figure of a run counts, because no cluster of that shape could ever start them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pandas as pd

from scheduler.core.times import HOUR_S


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Jobs of a window that can never run. They leave at once, so that nothing waits for them."""

    num_jobs: int
    num_pods: int
    gpu_h: float  #: GPU-hours that they ask for
    of_jobs: int  #: all jobs of the window, these included
    of_gpu_h: float
    names_sha256: str  #: equal where the same jobs are left out; empty where none is

    @property
    def share_ratio(self) -> float:
        """Their share of the GPU-hours asked for; 0 where nothing is asked for."""
        return self.gpu_h / self.of_gpu_h if self.of_gpu_h > 0 else 0.0


def left_out(jobs: pd.DataFrame) -> LeftOut:
    """Count the jobs that never fit among `jobs`, the rows of a jobs table."""
    asked_gpu_h = jobs["gpus"].astype("float64") * jobs["duration_s"].fillna(0.0) / HOUR_S
    never = jobs["outcome"] == "never_fits"
    names = "\n".join(sorted(jobs.loc[never, "job"].astype(str)))
    return LeftOut(
        num_jobs=int(never.sum()),
        num_pods=int(jobs.loc[never, "num_pods"].sum()),
        gpu_h=float(asked_gpu_h[never].sum()),
        of_jobs=len(jobs),
        of_gpu_h=float(asked_gpu_h.sum()),
        names_sha256=hashlib.sha256(names.encode()).hexdigest() if names else "",
    )


def unmet_requests(jobs: pd.DataFrame) -> list[tuple[str, int, str]]:
    """Return (request that no node offers, number of jobs, first of them), the most jobs first."""
    never = jobs[jobs["outcome"] == "never_fits"]
    if "unmet" not in never:  # a run of an earlier version
        return []
    groups = [
        (str(text), len(names), str(names.iloc[0]))
        for text, names in never.groupby("unmet", sort=False)["job"]
    ]
    return sorted(groups, key=lambda one: -one[1])
