"""Two runs of the same jobs: who waited longer, and for what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.times import HOUR_S
from sim.report.omissions import never_lines
from sim.report.wording import aligned, counted, duration, exact, number
from sim.runs.folder import read_manifest, read_table
from sim.runs.left_out import unmet_requests
from sim.runs.metrics import SIZE_CLASSES, size_code
from sim.schema.tables import REASONS

#: waits that differ by less are called equal
EQUAL_S = 1.0
_COLUMNS = [
    "job",
    "submit_s",
    "start_s",
    "num_pods",
    "gpus",
    "outcome",
    "unmet",
    *(f"pending_{reason}_s" for reason in REASONS),
]


def diff_runs(run_a: Path, run_b: Path, *, top: int = 10) -> str:
    """Return, as text, which jobs waited longer in one of two runs of the same jobs, and why.

    Both are looked at until the shorter one ends: a job that has not started by then counts with
    its wait so far, and means over such jobs are lower bounds. A job that only one run starts is
    left out and counted; a job that can never start is named with the reason. Pending pod-hours
    are those of the whole runs.

    Raises:
        ValueError: a folder is not a finished run, the runs share no job, or `top` is negative.
    """
    if top < 0:
        raise ValueError(f"--top is {top}; give 0 or more")
    horizon_s = min(float(read_manifest(Path(run))["end_s"]) for run in (run_a, run_b))
    (a, never_a), (b, never_b) = (_waits(run, horizon_s) for run in (run_a, run_b))
    both = a.add_suffix("_a").join(b.add_suffix("_b"), how="inner")
    if both.empty:
        raise ValueError(
            f"{str(run_a)!r} and {str(run_b)!r} share no job; compare two runs of the same jobs"
        )
    other_size = both["num_pods_a"] != both["num_pods_b"]
    if other_size.any():
        job = str(both.index[other_size][0])
        pods_a, pods_b = (int(both[f"num_pods_{run}"][job]) for run in "ab")
        raise ValueError(
            f"job {job!r} has {counted(pods_a, 'pod')} in {str(run_a)!r} and {pods_b} in "
            f"{str(run_b)!r}; "
            "compare two runs of the same jobs"
        )
    change_s = both["wait_s_b"] - both["wait_s_a"]
    names = (Path(run_a).name, Path(run_b).name)
    lines = [f"A  {run_a}", f"B  {run_b}", "", *_overall(both, change_s)]
    lines += _left_out((a, b), (never_a, never_b), len(both))
    lines += ["", "Pending pod-hours by reason:", *_by_reason(both)]
    lines += ["", "Mean wait by GPUs of the gang:", *_by_size(both)]
    for sign, who in ((1, f"B ({names[1]})"), (-1, f"A ({names[0]})")):
        ranked = (change_s * sign).sort_values(ascending=False, kind="stable")
        longest = ranked[ranked > EQUAL_S].index[:top]
        if len(longest):
            lines += ["", f"Largest extra wait in {who}:"]
            lines += _job_rows(both.loc[longest], sign)
    return "\n".join(lines)


def _waits(folder: Path, horizon_s: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the jobs submitted before `horizon_s`: their waits until then, and the never_fits."""
    jobs = read_table(Path(folder), "jobs", _COLUMNS)
    jobs = jobs[jobs["submit_s"] < horizon_s]
    never = jobs["outcome"] == "never_fits"
    there = jobs[~never].set_index("job")
    start_s = there["start_s"].where(there["start_s"] <= horizon_s)
    wait_s = start_s.fillna(horizon_s) - there["submit_s"]
    return there.assign(is_open=start_s.isna(), wait_s=wait_s), jobs[never]


def _mean_wait(jobs: pd.DataFrame, run: str) -> str:
    """Return the mean wait in a run, marked as a lower bound if some of the jobs still waited."""
    mark = "≥ " if jobs[f"is_open_{run}"].any() else ""
    return f"{mark}{duration(float(jobs[f'wait_s_{run}'].mean()))}"


def _overall(both: pd.DataFrame, change_s: pd.Series[float]) -> Iterable[str]:
    longer, shorter = int((change_s > EQUAL_S).sum()), int((change_s < -EQUAL_S).sum())
    yield (
        f"{counted(len(both), 'job')} in both: {exact(longer)} waited longer in B, "
        f"{exact(shorter)} in A, {exact(len(both) - longer - shorter)} as long"
    )
    yield f"mean wait {_mean_wait(both, 'a')} in A, {_mean_wait(both, 'b')} in B"
    still = [int(both[f"is_open_{run}"].sum()) for run in "ab"]
    if any(still):
        yield (
            f"not started by the end of the shorter run: {exact(still[0])} in A, "
            f"{exact(still[1])} in B; they count with their wait so far"
        )


def _left_out(
    there: Sequence[pd.DataFrame], never: Sequence[pd.DataFrame], num_both: int
) -> Iterable[str]:
    """Say which jobs no figure counts: those that only one run starts, and why."""
    only_a, only_b = (len(one) - num_both for one in there)
    if only_a or only_b:
        yield f"left out: {counted(only_a, 'job')} only in A, {exact(only_b)} only in B"
    for name, jobs in zip("AB", never, strict=True):
        if len(jobs):
            yield f"left out: {counted(len(jobs), 'job')} can never start in {name}"
            yield from (f"  {line}" for line in never_lines(unmet_requests(jobs)))


def _by_reason(both: pd.DataFrame) -> Iterable[str]:
    rows: list[Sequence[str]] = [("", "A", "B", "change")]
    pods = both["num_pods_a"].to_numpy(np.float64)
    for reason in REASONS:
        in_a, in_b = (
            float(both[f"pending_{reason}_s_{run}"].to_numpy(np.float64) @ pods) / HOUR_S
            for run in "ab"
        )
        if in_a or in_b:
            rows.append((TABLE[reason].label, number(in_a), number(in_b), _signed(in_b - in_a)))
    if len(rows) == 1:
        return ["  no pod was pending in either run"]
    return _indented(rows)


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _by_size(both: pd.DataFrame) -> Iterable[str]:
    rows: list[Sequence[str]] = [("", "jobs", "A", "B")]
    code = size_code(both["gpus_a"])
    for index, (label, _) in enumerate(SIZE_CLASSES):
        mine = both[code == index]
        if len(mine):
            waits = (_mean_wait(mine, run) for run in "ab")
            rows.append((label, exact(len(mine)), *waits))
    return _indented(rows)


def _job_rows(chosen: pd.DataFrame, sign: int) -> Iterable[str]:
    rows: list[Sequence[str]] = [("job", "GPUs", "wait A", "wait B", "more of")]
    for job, row in chosen.iterrows():
        more = {
            reason: sign * (row[f"pending_{reason}_s_b"] - row[f"pending_{reason}_s_a"])
            for reason in REASONS
        }
        waits = [
            ("≥ " if row[f"is_open_{run}"] else "") + duration(float(row[f"wait_s_{run}"]))
            for run in "ab"
        ]
        rows.append((str(job), exact(row["gpus_a"]), *waits, _largest(more)))
    return _indented(rows, left=(0, 4))


def _largest(more: dict[PendingReason, float]) -> str:
    reason = max(more, key=lambda one: more[one])
    return f"{TABLE[reason].label} (+{duration(more[reason])})" if more[reason] > 0 else "–"


def _indented(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> Iterable[str]:
    return (f"  {line}" for line in aligned(rows, left))
