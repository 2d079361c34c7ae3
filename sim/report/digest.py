"""What a report keeps of a run, so that only one run's large tables are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.report import queues
from sim.report.days import peaks_by_part
from sim.report.deadlocks import Deadlocks, deadlocks
from sim.report.episodes import Episode, find_episodes
from sim.report.queues import NO_TEAMS, QueueFigures, Teams
from sim.report.waiting import PendingCurve, find_waits, pending_curve
from sim.runs import metrics
from sim.runs.folder import RunResult, read_manifest, read_table
from sim.runs.left_out import LeftOut, left_out, unmet_requests
from sim.runs.metrics import Quantile, Window
from sim.runs.steps import Steps, allocation_steps, pending_steps
from sim.runs.summary import submission_window
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig

CURVE_BINS = 700  #: of the curves in `tables/`
TOP_EPISODES = 3
MOST_CURVES = 6  #: queues with a pending curve of their own; the others are one


@dataclass(frozen=True, slots=True)
class Head:
    """Which run this is, as far as its small files tell."""

    folder: Path
    workload: str
    nodes: int
    num_gpus: int
    arm: str
    seed: int
    window: Window
    source: str  #: tells which runs met the same jobs, apart from the length of their windows
    load: float | None
    full_days: float | None = None  #: of the workload, where the run is a point of a study

    @property
    def name(self) -> str:
        """Return a name for files and captions."""
        return f"{self.workload}-{self.nodes}-{self.arm}-s{self.seed}"

    @property
    def comparable(self) -> tuple[str, int, int]:
        """Runs with the same value are shown side by side."""
        return (self.workload, self.nodes, self.seed)


@dataclass(frozen=True, slots=True)
class Figures:
    """Headline figures of a run over one window."""

    window: Window
    pending: pd.DataFrame  #: see `metrics.pending_quantiles`
    delay: tuple[Quantile, Quantile]  #: p50 and p95 of all gangs, s
    by_size: pd.DataFrame  #: see `metrics.delay_by_size`
    use: metrics.Use
    timeout_gpu_h: float
    completion: dict[str, Quantile]
    num_jobs: int
    num_pods: int
    left_out: LeftOut  #: jobs of the window that no figure counts
    waiting_by_size: tuple[float, ...]  #: pod-seconds pending, by gang size class
    held: dict[str, float] | None = None  #: see `metrics.held_shares`; None without costs


@dataclass(frozen=True, slots=True)
class Digest:
    """One run as reports show it."""

    head: Head
    config: RunConfig
    manifest: dict[str, Any]
    whole: Figures  #: over the run's own window
    shared: Figures  #: over the window that it shares with the runs beside it
    curve: Steps  #: pending pods by reason, thinned to what a table needs
    beside: PendingCurve  #: over the shared window, for pictures
    alone: PendingCurve | None  #: over the run's own window, where that is longer
    peaks: pd.DataFrame  #: see `metrics.peaks`
    days: pd.DataFrame  #: see `days.peaks_by_part`
    episodes: list[Episode] = field(default_factory=list)
    is_uniform: bool = True  #: two numbers on the command line describe the cluster
    deadlocks: Deadlocks | None = None  #: over the run's own window
    short: dict[str, float] = field(default_factory=dict)  #: share of want, by resource
    never: tuple[tuple[str, int, str], ...] = ()  #: see `left_out.unmet_requests`
    queues: tuple[QueueFigures, ...] = ()  #: over the shared window; empty where none has several
    of_queues: tuple[PendingCurve, ...] = ()  #: their pending pods; the last is all others together

    @property
    def is_live(self) -> bool:
        """True if it tells of a live cluster, not of a simulated one."""
        return bool(self.manifest.get("is_live"))


def read_heads(folders: Sequence[Path]) -> list[Head]:
    """Read which runs these are; two runs of one name get numbers.

    Raises:
        ValueError: a folder is not a finished run.
    """
    if not folders:
        raise ValueError("a report needs at least one run; give run folders")
    heads = [_head(Path(folder)) for folder in folders]
    seen: dict[str, int] = {}
    named = []
    for head in heads:
        again = seen[head.name] = seen.get(head.name, 0) + 1
        if again > 1:
            fields = {name: getattr(head, name) for name in Head.__slots__}
            head = Head(**{**fields, "arm": f"{head.arm} ({again})"})
        named.append(head)
    return named


def _head(folder: Path) -> Head:
    manifest = read_manifest(folder)
    point = manifest.get("point", {})
    jobs = read_table(folder, "jobs", ["submit_s", "end_s"])
    source = str(manifest.get("input_sha256") or point.get("jobs_sha256") or "")
    name = manifest.get("input") or "jobs"
    return Head(
        folder=folder,
        workload=str(point.get("workload") or Path(str(name)).stem),
        nodes=int(manifest["num_nodes"]),
        num_gpus=int(manifest["num_gpus"]),
        arm=str(point.get("arm") or manifest.get("label") or folder.name)
        + (f" on {point['cluster']}" if point.get("cluster") else ""),
        seed=int(manifest["seed"]),
        window=_window(manifest, jobs),
        source=source,
        load=point.get("load"),
        full_days=point.get("full_days"),
    )


def _window(manifest: dict[str, Any], jobs: pd.DataFrame) -> Window:
    end_s = float(manifest["end_s"])
    if "window_s" in manifest:  # a live journal: the cluster is watched from first to last line
        start_s, last_s = manifest["window_s"]
        return Window(start_s, last_s, end_s)
    return submission_window(jobs, end_s)


def shared_window(head: Head, heads: Sequence[Head]) -> Window:
    """Return the window that all runs beside `head` cover."""
    window = head.window
    for other in heads:
        if other.comparable == head.comparable:
            window = window.cut(other.window)
    return window


def digest(
    head: Head,
    shared: Window,
    known: RunResult | None = None,
    *,
    num_bins: int = CURVE_BINS,
    teams: Teams = NO_TEAMS,
) -> Digest:
    """Read a run, if it is not known already, and keep what the report shows of it.

    Curves of pictures keep the extremes of `num_bins` pieces of their window. `teams` are the
    queues of the runs beside it.
    """
    run = known or RunResult.load(head.folder)
    end_s = float(run.manifest["end_s"])
    pending = pending_steps(run.pending, end_s)
    allocation = allocation_steps(run.allocation, end_s)
    whole = _figures(run, pending, allocation, head.window)
    same = shared == head.window
    window = _curve_window(head.window)
    seen = pending.clip(window.start_s, window.end_s)
    waits = find_waits(run.jobs, run.attempts)

    def picture(window: Window) -> PendingCurve:
        part = pending.clip(window.start_s, window.end_s)
        return pending_curve(head.arm, part, run.jobs, run.attempts, num_bins, waits)

    return Digest(
        head=head,
        config=run.config,
        manifest=run.manifest,
        whole=whole,
        shared=whole if same else _figures(run, pending, allocation, shared),
        curve=seen.thin(CURVE_BINS),
        beside=picture(_curve_window(shared)),
        alone=None if same else picture(window),
        peaks=metrics.peaks(seen, metrics.piece_length(window)),
        days=peaks_by_part(seen, window, run.jobs, waits),
        episodes=find_episodes(
            seen,
            allocation.clip(window.start_s, window.end_s),
            run.jobs,
            run.attempts,
            num_gpus=head.num_gpus,
            order=run.config.policy.order,
            top=TOP_EPISODES,
            cluster=run.cluster,
        ),
        is_uniform=_is_uniform(run.cluster),
        deadlocks=deadlocks(run.jobs, run.attempts, run.config, window.start_s, window.end_s),
        short=metrics.short_shares(run.jobs),
        never=tuple(unmet_requests(run.jobs)),
        queues=()
        if teams.file is None
        else queues.figures(
            run.jobs, run.summary.get("queues", {}), shared, run.config.queues or teams.file
        ),
        of_queues=tuple(_of_queues(run, _curve_window(shared), end_s, teams.names)),
    )


def _of_queues(
    run: RunResult, window: Window, end_s: float, names: Sequence[str]
) -> Iterator[PendingCurve]:
    """Yield the curves of the first of these queues, and that of all others."""
    if run.pending_by_queue.empty:
        return
    told, every = names[:MOST_CURVES], run.pending_by_queue["queue"].unique()
    others = [name for name in every if name not in told]
    parts = [((name,), name) for name in told if name in every]
    if others:
        parts.append(
            (tuple(others), others[0] if len(others) == 1 else f"{len(others)} other queues")
        )
    for queues_, name in parts:
        steps = queues.pending_of(run.pending_by_queue, queues_, end_s)
        part = steps.clip(window.start_s, window.end_s)
        yield pending_curve(name, part, run.jobs[:0], run.attempts[:0], CURVE_BINS)


def _is_uniform(cluster: Cluster) -> bool:
    (pool, *others) = cluster.pool
    return not others and cluster == Cluster.uniform(pool.nodes, pool.gpus_per_node)


def _curve_window(window: Window) -> Window:
    """Return where curves are looked at: the whole run if everything is submitted at once."""
    if window.end_s - window.start_s > 1e-6:
        return window
    return Window(window.start_s, max(window.horizon_s, window.start_s + 1e-6), window.horizon_s)


def _figures(run: RunResult, pending: Steps, allocation: Steps, window: Window) -> Figures:
    curves = _curve_window(window)
    jobs = metrics.in_window(run.jobs, window)
    delay = metrics.queueing_delay(run.jobs, window, (0.5, 0.95))
    submit_s = run.jobs["submit_s"]
    inside = (submit_s >= window.start_s) & (submit_s < window.end_s)
    return Figures(
        window=curves,
        pending=metrics.pending_quantiles(pending.clip(curves.start_s, curves.end_s)),
        delay=(delay[0], delay[1]),
        by_size=metrics.delay_by_size(run.jobs, window),
        use=metrics.use(allocation.clip(curves.start_s, curves.end_s), run.cluster.num_gpus),
        timeout_gpu_h=metrics.timeout_gpu_hours(run.attempts, curves),
        completion=metrics.completion(run.jobs, window),
        num_jobs=len(jobs),
        num_pods=int(jobs["num_pods"].sum()),
        left_out=left_out(run.jobs[inside]),
        waiting_by_size=metrics.waiting_by_size(jobs),
        held=metrics.held_shares(jobs, run.attempts) if "productive_s" in jobs else None,
    )


def overall(figures: Figures) -> dict[str, float]:
    """Return the row `all` of the pending figures."""
    rows = figures.pending[figures.pending["reason"] == "all"].drop(columns="reason")
    return {str(name): float(value) for name, value in rows.iloc[0].items()}


def headline_row(digest: Digest, figures: Figures) -> dict[str, object]:
    """Return the headline figures as one tidy row; a lower bound could only grow."""
    pending = overall(figures)
    row: dict[str, object] = {
        "workload": digest.head.workload,
        "nodes": digest.head.nodes,
        "num_gpus": digest.head.num_gpus,
        "arm": digest.head.arm,
        "seed": digest.head.seed,
        "window_days": figures.window.days,
        "num_jobs": figures.num_jobs,
        "num_pods": figures.num_pods,
        "num_never_fits": figures.left_out.num_jobs,
        "num_never_fits_pods": figures.left_out.num_pods,
        "never_fits_gpu_h_ratio": figures.left_out.share_ratio,
        "pending_pods_p50": pending["p50_pods"],
        "pending_pods_p99": pending["p99_pods"],
        "pending_pods_max": pending["max_pods"],
        "pending_pods_mean": pending["mean_pods"],
        "allocation_ratio": figures.use.allocation_ratio,
        "useful_ratio": figures.use.useful_ratio,
        "idle_hold_gpu_h": figures.use.idle_hold_gpu_h,
        "timeout_gpu_h": figures.timeout_gpu_h,
        "unavailable_ratio": figures.use.unavailable_ratio,
    }
    if figures.held is not None:
        row["goodput_ratio"] = figures.held["productive"]
    p50, p95 = figures.delay
    quantiles = {"queueing_delay_p50_s": p50, "queueing_delay_p95_s": p95, **figures.completion}
    for name, quantile in quantiles.items():
        row[name] = quantile.value
        row[metrics.lower_bound_name(name)] = quantile.is_lower_bound
    return row


def identity(one: Digest) -> dict[str, str | int]:
    """Return the columns that say which run a row is about, and how many jobs it leaves out."""
    head = one.head
    return {
        "workload": head.workload,
        "nodes": head.nodes,
        "arm": head.arm,
        "seed": head.seed,
        "num_never_fits": one.whole.left_out.num_jobs,
    }


def with_identity(one: Digest, table: pd.DataFrame) -> pd.DataFrame:
    """Put the columns of `identity` before a table."""
    named = table.copy()
    for at, (name, value) in enumerate(identity(one).items()):
        named.insert(at, name, value)
    return named


def curve_table(digest: Digest) -> pd.DataFrame:
    """Return the thinned pending curve as a tidy table: time_s, reason, pods."""
    curve = digest.curve
    shown = [i for i in range(len(curve.columns)) if curve.values[:, i].any()]
    return pd.DataFrame(
        {
            "time_s": np.tile(curve.time_s, len(shown)),
            "reason": np.repeat([curve.columns[i] for i in shown], len(curve.time_s)),
            "pods": np.concatenate([curve.values[:, i] for i in shown]) if shown else [],
        }
    )
