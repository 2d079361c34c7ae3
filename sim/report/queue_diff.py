"""The queues of two runs of the same jobs: who gains, who loses, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import Any

import pandas as pd

from scheduler.core.queues import Queues
from scheduler.core.times import HOUR_S
from sim.report import gains
from sim.report.queues import MOST_TOLD, labels, makespan, named
from sim.report.wording import bounded, counted, duration, exact, listed, number
from sim.runs.folder import read_config, read_summary
from sim.runs.metrics import Quantile, Window, queueing_delay
from sim.schema.config import RunConfig

#: figures of a queue of one run that its summary has, and what they are called
TOTALS = (
    ("GPU-hours", "used_gpu_h", number),
    ("borrowed", "borrowed_gpu_h", number),
    ("lent", "lent_gpu_h", number),
    ("evicted", "preemptions", exact),
    ("evicts", "preemptions_caused", exact),
    ("lost", "lost_gpu_h", number),
)


@dataclass(frozen=True, slots=True)
class Side:
    """A queue in one of the runs: waits of the jobs in both, the rest of all its jobs."""

    wait_p50: Quantile
    wait_p95: Quantile
    makespan: Quantile
    totals: Mapping[str, float | None]  #: see `TOTALS`; None where the run has no quota


@dataclass(frozen=True, slots=True)
class QueueDiff:
    """Jobs of one queue in both runs; of one in A and another in B where they differ."""

    queue: str
    queue_b: str
    num_jobs: int
    waited_pod_h: float  #: in the run in which it is more
    a: Side
    b: Side

    @property
    def name(self) -> str:
        """How a table calls it."""
        return self.queue if self.queue == self.queue_b else f"{self.queue} -> {self.queue_b}"

    @property
    def change(self) -> gains.Change:
        """The p95 of the wait in both."""
        return gains.Change(self.name, self.a.wait_p95, self.b.wait_p95)


@dataclass(frozen=True, slots=True)
class QueuesDiff:
    """All queues of two runs, those that wait most first."""

    queues: tuple[QueueDiff, ...]
    only_a: tuple[str, ...]  #: queues that the other run lacks
    only_b: tuple[str, ...]
    files: tuple[str, str]  #: which queues each run has, in words


def queues_diff(runs: Sequence[Path], both: pd.DataFrame, horizon_s: float) -> QueuesDiff | None:
    """Compare by queue; None unless a run has several queues with quota.

    `both` are the jobs of both runs by name, with the columns of jobs.parquet as `queue_a`,
    `queue_b` and so on; waits are followed until `horizon_s`.
    """
    configs = [read_config(run) for run in runs]
    files = [config.queues for config in configs]
    several = [file for file in files if file is not None and len(file.queues) > 1]
    if not several:
        return None
    # a run without a file has the labels of jobs, which a file may say are one queue
    known = [file or several[0] for file in files]
    whose = [
        labels(both[[f"queue_{run}"]].set_axis(["queue"], axis=1), file)
        for run, file in zip("ab", known, strict=True)
    ]
    sums = [read_summary(run).get("queues", {}) for run in runs]
    groups = {
        (str(in_a), str(in_b)): jobs
        for (in_a, in_b), jobs in both.groupby(
            [pd.Series(whose[0], name="a"), pd.Series(whose[1], name="b")]
        )
    }
    # totals of a queue are those of all its jobs: none where they are in several rows
    split = [
        {name for name, num in Counter(pair[at] for pair in groups).items() if num > 1}
        for at in range(2)
    ]
    found = [
        _one(
            jobs,
            pair,
            [
                None if queue in several_rows else of_run.get(queue)
                for queue, several_rows, of_run in zip(pair, split, sums, strict=True)
            ],
            horizon_s,
        )
        for pair, jobs in groups.items()
    ]
    names = [_names(file, series) for file, series in zip(files, whose, strict=True)]
    return QueuesDiff(
        tuple(sorted(found, key=lambda one: -one.waited_pod_h)),
        tuple(name for name in names[0] if name not in names[1]),
        tuple(name for name in names[1] if name not in names[0]),
        (_file(configs[0]), _file(configs[1])),
    )


def _file(config: RunConfig) -> str:
    return "no queues file" if config.queues is None else named(config)


def _names(file: Queues | None, whose: pd.Series[str]) -> list[str]:
    return sorted(whose.unique()) if file is None else [queue.name for queue in file.queues]


def _one(
    jobs: pd.DataFrame,
    pair: tuple[str, str],
    sums: Sequence[Mapping[str, Any] | None],
    horizon_s: float,
) -> QueueDiff:
    window = Window(-inf, inf, horizon_s)
    sides, waited = [], []
    for run, of_run in zip("ab", sums, strict=True):
        mine = jobs.filter(regex=f"_{run}$").rename(columns=lambda name: name[:-2])
        ended = mine.assign(end_s=mine["end_s"].where(mine["end_s"] <= horizon_s))
        p50, p95 = queueing_delay(mine, window, (0.5, 0.95))
        sides.append(Side(p50, p95, makespan(ended, window), _totals(mine, of_run)))
        pending_s = mine.filter(regex="^pending_").sum(axis=1) * mine["num_pods"]
        waited.append(float(pending_s.sum()) / HOUR_S)
    return QueueDiff(*pair, len(jobs), max(waited), *sides)


def _totals(jobs: pd.DataFrame, of_run: Mapping[str, Any] | None) -> dict[str, float | None]:
    if of_run is None:
        used = float(jobs["held_gpu_s"].sum()) / HOUR_S
        return {name: used if name == "used_gpu_h" else None for _, name, _ in TOTALS}
    return {
        "used_gpu_h": of_run["used_gpu_s"] / HOUR_S,
        "borrowed_gpu_h": of_run["borrowed_gpu_s"] / HOUR_S,
        "lent_gpu_h": of_run["lent_gpu_s"] / HOUR_S,
        "preemptions": of_run["preemptions"],
        "preemptions_caused": of_run["preemptions_caused"],
        "lost_gpu_h": of_run["preempted_lost_gpu_s"] / HOUR_S,
    }


# -- in words ----------------------------------------------------------------------------------


def sentences(found: QueuesDiff) -> Iterator[str]:
    """Say who gains and who loses, and which queues or jobs are not the same."""
    for name, other, only in (("A", "B", found.only_a), ("B", "A", found.only_b)):
        if only:
            rest = len(only) - MOST_TOLD
            named = [*only[:MOST_TOLD], *([f"{exact(rest)} more"] if rest > 0 else [])]
            yield f"{counted(len(only), 'queue')} of {name} that {other} lacks: {listed(named)}."
    moved = [one for one in found.queues if one.queue != one.queue_b]
    if moved:
        total = sum(one.num_jobs for one in moved)
        yield (
            f"{counted(total, 'job')} {'is' if total == 1 else 'are'} in another queue in B; such "
            "rows name both."
        )
    yield from gains.sentences([one.change for one in found.queues], "A", "B")


def waits(found: QueuesDiff) -> list[Sequence[str]]:
    """Return a table of waits: header and rows, those that wait most first."""
    rows: list[Sequence[str]] = [
        ("", "jobs", "p50 A", "B", "p95 A", "B", "makespan A", "B"),
    ]
    for one in found.queues[:MOST_TOLD]:
        pairs = (
            (one.a.wait_p50, one.b.wait_p50),
            (one.a.wait_p95, one.b.wait_p95),
            (one.a.makespan, one.b.makespan),
        )
        texts = (bounded(value, duration) for pair in pairs for value in pair)
        rows.append((one.name, exact(one.num_jobs), *texts))
    return rows


def totals(found: QueuesDiff) -> list[Sequence[str]]:
    """Return a table of GPU time and evictions: header and rows; nothing of what there is none."""
    kept = [
        (label, name, form)
        for label, name, form in TOTALS
        if any(side.totals[name] for one in found.queues for side in (one.a, one.b))
    ]
    rows: list[Sequence[str]] = [
        ("", *(text for label, *_ in kept for text in (f"{label} A", "B")))
    ]
    for one in found.queues[:MOST_TOLD]:
        values = (side.totals[name] for _, name, _ in kept for side in (one.a, one.b))
        forms = [form for *_, form in kept for _ in "ab"]
        texts = ("–" if v is None else form(v) for v, form in zip(values, forms, strict=True))
        rows.append((one.name, *texts))
    return rows


def more(found: QueuesDiff) -> str:
    """Say how many queues the tables leave out; empty if none."""
    rest = len(found.queues) - MOST_TOLD
    return f"and {counted(rest, 'more queue')}; --json has all" if rest > 0 else ""


# -- as JSON -----------------------------------------------------------------------------------


def as_json(found: QueuesDiff) -> dict[str, Any]:
    """Return all of it as plain values; None where a figure has no meaning."""
    return {
        "queues_of_a": found.files[0],
        "queues_of_b": found.files[1],
        "only_in_a": list(found.only_a),
        "only_in_b": list(found.only_b),
        "queues": [
            {
                "queue": one.queue,
                "queue_b": one.queue_b,
                "num_jobs": one.num_jobs,
                "wait_p95_is": _verdict(one.change.longer_s),
                "a": _side(one.a),
                "b": _side(one.b),
            }
            for one in found.queues
        ],
    }


def _verdict(longer_s: float) -> str:
    if isnan(longer_s):
        return "not known"
    return "longer in b" if longer_s > 0 else "less in b" if longer_s < 0 else "about as long"


def _side(side: Side) -> dict[str, Any]:
    quantiles = {
        "wait_p50": side.wait_p50, "wait_p95": side.wait_p95, "makespan": side.makespan,
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, one in quantiles.items():
        found[f"{name}_s"] = None if isnan(one.value) else one.value
        found[f"{name}_is_lower_bound"] = one.is_lower_bound
    return {**found, **side.totals}
