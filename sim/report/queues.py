"""What each queue of a run had: waits, pending pods, GPU time against its quota, and evictions."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.times import HOUR_S
from scheduler.policies import queuesfile
from sim.report.wording import aligned, bounded, counted, duration, exact, number, percent
from sim.runs import metrics
from sim.runs.folder import read_config, read_table
from sim.runs.metrics import Quantile, Window
from sim.runs.steps import Steps, pending_steps
from sim.schema.queues import queue_called
from sim.schema.tables import REASONS

if TYPE_CHECKING:
    from scheduler.core.queues import Queues
    from sim.schema.config import RunConfig

#: queues that are told one by one; the others are in the tables
MOST_TOLD = 10
NO_QUEUE = "(no queue)"
ALL = 0.995  #: a share above it reads as 100 %


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue of one run. What needs quota is NaN in a run without a queues file."""

    queue: str
    nominal_gpus: float
    nominal_ratio: float  #: of the nominal GPUs of all queues
    num_jobs: int  #: of the window, as in all figures of delays
    num_never: int  #: jobs that can never start
    wait_p50: Quantile
    wait_p95: Quantile
    waited_pod_h: dict[PendingReason, float]  #: of these jobs, by reason
    used_gpu_h: float  #: of the whole run, as all that follows
    share_ratio: float  #: of the GPU-hours of all queues
    borrowed_gpu_h: float
    lent_gpu_h: float
    preemptions: float  #: of its gangs
    preemptions_caused: float  #: for its gangs
    lost_gpu_h: float  #: by evictions of its gangs
    caused_gpu_h: float  #: lost by gangs that were evicted for its own
    makespan: Quantile  #: from its first submission to its last end, of these jobs
    #: for which queues its gangs were evicted: how many, and GPU-hours lost; the most lost first
    evicted_for: tuple[tuple[str, int, float], ...] = ()

    @property
    def waiting(self) -> float:
        """Pod-hours that its jobs were pending."""
        return sum(self.waited_pod_h.values())

    @property
    def mostly(self) -> str:
        """For what most of it was."""
        reason = max(self.waited_pod_h, key=lambda one: self.waited_pod_h[one])
        share = self.waited_pod_h[reason] / self.waiting
        return TABLE[reason].label + (f" {percent(share)}" if share < ALL else "")


def named(config: RunConfig) -> str:
    """Return how many queues have quota, and whose file says so: 13 queues of teams.toml."""
    of = f" of {config.queues_file}" if config.queues_file else ""
    return f"{counted(config.num_queues, 'queue')}{of}"


def told(config: RunConfig) -> str:
    """Return which queues have quota: 13 of teams.toml, SHA-256 1f0a9c; none without a file.

    The file may have changed between two runs: the digest is that of its words.
    """
    if config.queues is None:
        return "none"
    of = f" of {config.queues_file}" if config.queues_file else ""
    sha = hashlib.sha256(queuesfile.write(config.queues).encode()).hexdigest()
    return f"{exact(config.num_queues)}{of}, SHA-256 {sha[:6]}"


def labels(jobs: pd.DataFrame, file: Queues | None) -> pd.Series[str]:
    """Return the queue of each job: of a queues file, or else the label that the job has."""
    label = jobs["queue"].fillna("")
    known = {
        one: (one if file is None else queue_called(file, one)) or NO_QUEUE
        for one in label.unique()
    }
    return label.map(known)


def figures(
    jobs: pd.DataFrame, queues: Mapping[str, Mapping[str, Any]], window: Window, file: Queues | None
) -> tuple[QueueFigures, ...]:
    """Return the figures of each queue: of `queues` of a summary, or else of the labels of jobs.

    `file` says which labels are one queue; delays are those of jobs of the window.
    """
    jobs = jobs.assign(queue=labels(jobs, file))
    inside = metrics.in_window(jobs, window)
    never = jobs.loc[jobs["outcome"] == "never_fits", "queue"].value_counts()
    used = (jobs["held_gpu_s"].groupby(jobs["queue"]).sum() / HOUR_S).to_dict()
    names = list(queues) or sorted(jobs["queue"].unique())
    total = sum(row["nominal_gpus"] for row in queues.values())
    all_used = sum(used.values())
    return tuple(
        _of_queue(
            name,
            inside[inside["queue"] == name],
            int(never.get(name, 0)),
            window,
            queues.get(name) or {"used_gpu_s": used[name] * HOUR_S, "nominal_gpus": nan,
                               "share_ratio": used[name] / all_used if all_used else nan},
            total,
        )
        for name in names
    )  # fmt: skip


def _of_queue(
    name: str,
    jobs: pd.DataFrame,
    num_never: int,
    window: Window,
    row: Mapping[str, Any],
    total: float,
) -> QueueFigures:
    p50, p95 = metrics.queueing_delay(jobs, window, (0.5, 0.95))
    pods = jobs["num_pods"]
    waited = {
        reason: float((jobs[f"pending_{reason}_s"] * pods).sum()) / HOUR_S for reason in REASONS
    }
    return QueueFigures(
        queue=name,
        nominal_gpus=row["nominal_gpus"],
        nominal_ratio=row["nominal_gpus"] / total if total else nan,
        num_jobs=len(jobs),
        num_never=num_never,
        wait_p50=p50,
        wait_p95=p95,
        waited_pod_h=waited,
        used_gpu_h=row["used_gpu_s"] / HOUR_S,
        share_ratio=nan if row["share_ratio"] is None else row["share_ratio"],
        borrowed_gpu_h=row.get("borrowed_gpu_s", nan) / HOUR_S,
        lent_gpu_h=row.get("lent_gpu_s", nan) / HOUR_S,
        preemptions=row.get("preemptions", nan),
        preemptions_caused=row.get("preemptions_caused", nan),
        lost_gpu_h=row.get("preempted_lost_gpu_s", nan) / HOUR_S,
        caused_gpu_h=row.get("preempting_lost_gpu_s", nan) / HOUR_S,
        makespan=makespan(jobs, window),
        evicted_for=tuple(
            (other, lost["preemptions"], lost["lost_gpu_s"] / HOUR_S)
            for other, lost in row.get("evicted_for", {}).items()
        ),
    )


def makespan(jobs: pd.DataFrame, window: Window) -> Quantile:
    """Return the time from the first submission to the last end; a bound if a job has none."""
    is_open = bool(jobs["end_s"].isna().any())
    end_s = window.horizon_s if is_open else jobs["end_s"].max()
    return Quantile(float(end_s - jobs["submit_s"].min()) if len(jobs) else nan, is_open)


@dataclass(frozen=True, slots=True)
class Teams:
    """Whose jobs a report tells apart, in runs that it shows side by side."""

    file: Queues | None = None  #: says which labels of jobs are one queue where a run has no file
    names: tuple[str, ...] = ()  #: queues that wait: those first that are most of the waiting


NO_TEAMS = Teams()


def teams(folders: Sequence[Path]) -> Teams:
    """Return the queues of runs of the same jobs; none if no run has several."""
    files = [read_config(folder).queues for folder in folders]
    several = [file for file in files if file is not None and len(file.queues) > 1]
    if not several:
        return NO_TEAMS
    columns = ["queue", "num_pods", *(f"pending_{reason}_s" for reason in REASONS)]
    most: dict[str, float] = {}
    for folder, file in zip(folders, files, strict=True):
        if file is None:
            continue
        jobs = read_table(folder, "jobs", columns)
        pod_s = jobs[columns[2:]].sum(axis=1) * jobs["num_pods"]
        for name, waited_s in pod_s.groupby(labels(jobs, file)).sum().items():
            share = waited_s / max(float(pod_s.sum()), 1e-9)
            most[str(name)] = max(most.get(str(name), 0.0), float(share))
    ordered = sorted((name for name in most if most[name] > 0), key=lambda name: -most[name])
    return Teams(several[0], tuple(ordered))


def pending_of(table: pd.DataFrame, queues: Collection[str], end_s: float) -> Steps:
    """Return the pending curves of some queues together, from the table of all."""
    mine = table[table["queue"].isin(queues)]
    changes = mine.groupby(["queue", "reason"])["pods"].diff().fillna(mine["pods"])
    pods = changes.groupby(mine["reason"]).cumsum().astype("int64")
    return pending_steps(mine.assign(pods=pods), end_s)


def by_waiting(found: Sequence[QueueFigures]) -> list[QueueFigures]:
    """Return queues by the pod-hours that their jobs waited, the most first."""
    return sorted(found, key=lambda one: -one.waiting)


HEADER = (
    "queue", "jobs", "wait p50", "p95", "waits for", "GPU time", "nominal", "borrowed", "lent",
    "evicted", "evicts", "lost",
)  # fmt: skip


def run_lines(found: Sequence[QueueFigures]) -> Iterator[str]:
    """Yield a table of the queues of one run, those that waited most first."""
    ordered = by_waiting(found)
    told = ordered[:MOST_TOLD]
    rows = [HEADER, *(_row(one) for one in told)]
    # what no queue did needs no column
    kept = [at for at in range(len(HEADER)) if at < 7 or any(row[at] != "0" for row in rows[1:])]
    lines = aligned([[row[at] for at in kept] for row in rows], left=(0, 4))
    yield from (f"  {line}" for line in lines)
    if len(ordered) > len(told):
        yield f"  and {counted(len(ordered) - len(told), 'more queue')}, in queues.parquet"
    yield (
        "  GPU time: share of all, and of all quota; borrowed, lent and lost (work, by evictions) "
        "are GPU-hours"
    )


def _row(one: QueueFigures) -> tuple[str, ...]:
    return (
        one.queue,
        exact(one.num_jobs),
        bounded(one.wait_p50, duration),
        bounded(one.wait_p95, duration),
        one.mostly if one.waiting else "–",
        percent(one.share_ratio),
        percent(one.nominal_ratio),
        number(one.borrowed_gpu_h),
        number(one.lent_gpu_h),
        count_or_dash(one.preemptions),
        count_or_dash(one.preemptions_caused),
        number(one.lost_gpu_h),
    )


def count_or_dash(value: float) -> str:
    """Return a count in full, or a dash where it has no meaning."""
    return "–" if isnan(value) else exact(value)
