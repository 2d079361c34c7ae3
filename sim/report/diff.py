"""Two runs of the same jobs: who waited longer, and for what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.times import HOUR_S
from sim.report import queue_diff
from sim.report.omissions import never_lines
from sim.report.queue_diff import QueuesDiff, queues_diff
from sim.report.wording import aligned, counted, duration, exact, number
from sim.runs.folder import read_manifest, read_table
from sim.runs.left_out import unmet_requests
from sim.runs.metrics import SIZE_CLASSES, size_code
from sim.schema.tables import REASONS

#: waits that differ by less are called equal
EQUAL_S = 1.0
_COLUMNS = [
    "job",
    "queue",
    "submit_s",
    "start_s",
    "end_s",
    "duration_s",
    "num_pods",
    "gpus",
    "outcome",
    "held_gpu_s",
    "unmet",
    *(f"pending_{reason}_s" for reason in REASONS),
]


@dataclass(frozen=True, slots=True)
class Diff:
    """Two runs of the same jobs, until the shorter one ends."""

    runs: tuple[Path, Path]
    both: pd.DataFrame  #: jobs that both start, by name; columns end in `_a` or `_b`
    only: tuple[int, int]  #: how many jobs one of them starts, and the other does not have
    never: tuple[pd.DataFrame, pd.DataFrame]  #: jobs that can never start
    queues: QueuesDiff | None  #: where one of them has several queues with quota

    @property
    def change_s(self) -> pd.Series[float]:
        """By how much each job waits longer in B."""
        return self.both["wait_s_b"] - self.both["wait_s_a"]


def compare(run_a: Path, run_b: Path) -> Diff:
    """Compare two runs of the same jobs: who waited longer in which, and why.

    Both are looked at until the shorter one ends: a job that has not started by then counts with
    its wait so far, and means over such jobs are lower bounds. A job that only one run starts is
    left out and counted; a job that can never start is named with the reason. Pending pod-hours
    are those of the whole runs.

    Raises:
        ValueError: a folder is not a finished run, or the runs share no job.
    """
    runs = (Path(run_a), Path(run_b))
    horizon_s = min(float(read_manifest(run)["end_s"]) for run in runs)
    (a, never_a), (b, never_b) = (_waits(run, horizon_s) for run in runs)
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
    only = (len(a) - len(both), len(b) - len(both))
    return Diff(runs, both, only, (never_a, never_b), queues_diff(runs, both, horizon_s))


def diff_runs(run_a: Path, run_b: Path, *, top: int = 10) -> str:
    """Return what `compare` finds as text.

    Raises:
        ValueError: see `compare`; or `top` is negative.
    """
    return text(compare(run_a, run_b), top=top)


def text(found: Diff, *, top: int = 10) -> str:
    """Return a difference as text, with the `top` jobs whose wait grew most in either run.

    Raises:
        ValueError: `top` is negative.
    """
    _check(top)
    both, change_s = found.both, found.change_s
    files = ("", "") if found.queues is None else found.queues.files
    lines = [
        f"{name}  {run}" + (f"  ({file})" if file else "")
        for name, run, file in zip("AB", found.runs, files, strict=True)
    ]
    lines += ["", *_overall(both, change_s)]
    lines += _other_jobs(both)
    lines += _left_out(found)
    if found.queues is not None:
        lines += _by_queue(found.queues)
    lines += ["", "Pending pod-hours by reason:", *_by_reason(both)]
    lines += ["", "Mean wait by GPUs of the gang:", *_by_size(both)]
    for sign, who in (
        (1, f"B ({found.runs[1].name})"),
        (-1, f"A ({found.runs[0].name})"),
    ):
        longest = _longest(change_s * sign, top)
        if len(longest):
            lines += ["", f"Largest extra wait in {who}:"]
            lines += _job_rows(both.loc[longest], sign)
    return "\n".join(lines)


def as_json(found: Diff, *, top: int = 10) -> dict[str, Any]:
    """Return a difference as plain values; None where a figure has no meaning.

    Raises:
        ValueError: `top` is negative.
    """
    _check(top)
    both, change_s = found.both, found.change_s
    longer, shorter = int((change_s > EQUAL_S).sum()), int((change_s < -EQUAL_S).sum())
    queues = None if found.queues is None else queue_diff.as_json(found.queues)
    return {
        "a": str(found.runs[0]),
        "b": str(found.runs[1]),
        "num_jobs": len(both),
        "num_longer_in_b": longer,
        "num_longer_in_a": shorter,
        "num_as_long": len(both) - longer - shorter,
        "num_other_jobs": int(_is_other(both).sum()),
        "runs": {
            run: {
                "mean_wait_s": float(both[f"wait_s_{run}"].mean()),
                "mean_wait_is_lower_bound": bool(both[f"is_open_{run}"].any()),
                "num_not_started": int(both[f"is_open_{run}"].sum()),
                "num_only_here": found.only[at],
                "num_never_fits": len(found.never[at]),
            }
            for at, run in enumerate("ab")
        },
        "pending_pod_h": {str(reason): dict(zip("ab", h, strict=True))
                          for reason, h in _pod_hours(both)},
        "queues": None if queues is None else queues.pop("queues"),
        **(queues or {}),
        "longest": {
            run: [
                {
                    "job": str(job),
                    "queue": str(both[f"queue_{run}"][job]),
                    "gpus": int(both["gpus_a"][job]),
                    **{f"wait_{one}_s": float(both[f"wait_s_{one}"][job]) for one in "ab"},
                }
                for job in _longest(change_s * sign, top)
            ]
            for run, sign in (("a", -1), ("b", 1))
        },
    }  # fmt: skip


def _check(top: int) -> None:
    if top < 0:
        raise ValueError(f"--top is {top}; give 0 or more")


def _longest(longer_s: pd.Series[float], top: int) -> pd.Index:
    """Return the jobs that wait longest on top of what they do in the other run."""
    ranked = longer_s.sort_values(ascending=False, kind="stable")
    return ranked[ranked > EQUAL_S].index[:top]


def _is_other(both: pd.DataFrame) -> pd.Series[bool]:
    """Return which jobs are not the same in both: they run longer, or ask for other GPUs."""
    return (both["duration_s_a"] != both["duration_s_b"]) | (both["gpus_a"] != both["gpus_b"])


def _other_jobs(both: pd.DataFrame) -> Iterable[str]:
    is_other = _is_other(both)
    if is_other.any():
        job = both.index[is_other][0]
        num = int(is_other.sum())
        yield (
            f"not the same jobs: {counted(num, 'job')} of these {'has' if num == 1 else 'have'} "
            f"another run time or other GPUs in B, such as {str(job)!r}; so not all of the "
            "difference is due to the policy"
        )


def _by_queue(found: QueuesDiff) -> Iterable[str]:
    yield ""
    yield "By queue:"
    yield from (f"  {line}" for line in queue_diff.sentences(found))
    yield from ("", "Wait by queue, and time from its first submission to its last end:")
    yield from _indented(queue_diff.waits(found))
    yield from ("", "GPU time by queue, in GPU-hours of the whole runs:")
    yield from _indented(queue_diff.totals(found))
    if rest := queue_diff.more(found):
        yield f"  {rest}"


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


def _left_out(found: Diff) -> Iterable[str]:
    """Say which jobs no figure counts: those that only one run starts, and why."""
    only_a, only_b = found.only
    if only_a or only_b:
        yield f"left out: {counted(only_a, 'job')} only in A, {exact(only_b)} only in B"
    for name, jobs in zip("AB", found.never, strict=True):
        if len(jobs):
            yield f"left out: {counted(len(jobs), 'job')} can never start in {name}"
            yield from (f"  {line}" for line in never_lines(unmet_requests(jobs)))


def _by_reason(both: pd.DataFrame) -> Iterable[str]:
    rows: list[Sequence[str]] = [("", "A", "B", "change")]
    for reason, (in_a, in_b) in _pod_hours(both):
        rows.append((TABLE[reason].label, number(in_a), number(in_b), _signed(in_b - in_a)))
    if len(rows) == 1:
        return ["  no pod was pending in either run"]
    return _indented(rows)


def _pod_hours(both: pd.DataFrame) -> Iterable[tuple[PendingReason, tuple[float, float]]]:
    """Yield pending pod-hours in A and B for each reason that some pod had."""
    pods = both["num_pods_a"].to_numpy(np.float64)
    for reason in REASONS:
        hours = [
            float(both[f"pending_{reason}_s_{run}"].to_numpy(np.float64) @ pods) / HOUR_S
            for run in "ab"
        ]
        if any(hours):
            yield reason, (hours[0], hours[1])


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
