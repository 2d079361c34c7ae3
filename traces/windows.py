"""A part of a jobs table by time, as if the days before it had been lived through."""

from __future__ import annotations

import numpy as np
import pandas as pd

from traces.schema import DAY_S

#: carried-in jobs come one after the other over this time, so that the control plane can follow
CARRY_IN_S = 3600.0


def from_first(jobs: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return jobs whose times count from the first submission, and the seconds taken off."""
    offset_s = float(jobs["submit_s"].min()) if len(jobs) else 0.0
    if offset_s == 0.0:
        return jobs, 0.0
    return jobs.assign(submit_s=jobs["submit_s"] - offset_s), offset_s


def before(jobs: pd.DataFrame, days: float) -> pd.DataFrame:
    """Return the jobs submitted in the first `days`."""
    return jobs[jobs["submit_s"] < days * DAY_S].reset_index(drop=True)


def carried_in(jobs: pd.DataFrame, days: float) -> pd.DataFrame:
    """Return the jobs as a run sees them that begins `days` into the workload.

    Of the jobs submitted before, those come first that would run at that time had none of them
    waited; each needs only its remaining time.
    """
    run_s = days * DAY_S - jobs["submit_s"]
    later = jobs[run_s <= 0].copy()
    later["submit_s"] = -run_s[run_s <= 0]
    first = jobs[(run_s > 0) & (run_s < jobs["duration_s"])].copy()
    # its own rows only: a subtraction over more rows than an empty frame has would add them
    ran_s = run_s[first.index]
    first["duration_s"] -= ran_s
    first["walltime_s"] = (first["walltime_s"] - ran_s).clip(lower=first["duration_s"])
    first["submit_s"] = np.linspace(0.0, CARRY_IN_S, len(first), endpoint=False)
    return pd.concat([first, later]).sort_values("submit_s", kind="stable", ignore_index=True)
