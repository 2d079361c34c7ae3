"""Figures of a run: pure functions from its tables to the numbers that reports print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scheduler.core.decisions import PendingReason
from scheduler.core.times import DAY_S, HOUR_S
from sim.runs.steps import Counts, Floats, Steps, count_quantiles
from sim.schema.tables import GOODPUT_PARTS, RESOURCES

TAU_S = 10.0  #: bounded slowdown divides by at least this many seconds

#: gang size classes: label and largest number of GPUs
SIZE_CLASSES: tuple[tuple[str, float], ...] = (
    ("<=8", 8),
    ("9-64", 64),
    ("65-512", 512),
    ("513-4096", 4096),
    (">4096", np.inf),
)
#: columns of jobs that `in_window` looks at
TIMES = ("submit_s", "start_s", "end_s", "outcome")
TIMEOUTS = ("rendezvous_timeout", "permit_timeout")


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a run that figures cover.

    Curves and jobs count if they fall between `start_s` and `end_s` (the submission window);
    what happens to those jobs is followed until `horizon_s`.
    """

    start_s: float
    end_s: float
    horizon_s: float

    @property
    def days(self) -> float:
        return (self.end_s - self.start_s) / DAY_S

    def cut(self, other: Window) -> Window:
        """Return the part of this window that `other` covers too, for figures side by side."""
        return Window(
            max(self.start_s, other.start_s),
            min(self.end_s, other.end_s),
            min(self.horizon_s, other.horizon_s),
        )


@dataclass(frozen=True, slots=True)
class Quantile:
    """One quantile; `is_lower_bound` if jobs that still waited could only raise it."""

    value: float
    is_lower_bound: bool


def lower_bound_name(name: str) -> str:
    """Return the column or key that says whether a quantile is a lower bound, without its unit."""
    return f"{name.removesuffix('_s')}_is_lower_bound"


def short_shares(jobs: pd.DataFrame) -> dict[str, float]:
    """Return the share of the time pods waited for want of a resource, by resource, largest first.

    Empty if none did, or for a run of a version that did not record it.
    """
    waited = {
        name: float((jobs[f"short_{name}_s"] * jobs["num_pods"]).sum())
        for name in RESOURCES
        if f"short_{name}_s" in jobs
    }
    total = sum(waited.values())
    by_size = sorted(waited.items(), key=lambda one: -one[1])
    return {name: pod_s / total for name, pod_s in by_size if pod_s > 0}


def pending_quantiles(steps: Steps) -> pd.DataFrame:
    """Return time-weighted quantiles of pending pods, overall and by reason.

    Columns: reason, p50_pods, p99_pods, max_pods, mean_pods, share_ratio (of all pending
    pod-seconds). The row `all` is the sum; `all_but_own_hold` leaves out the placed pods of
    incomplete gangs, which Kubernetes shows as Running in pod-by-pod admission.
    """
    widths_s = steps.widths_s
    total = steps.total()
    own = steps.column(PendingReason.OWN_PARTIAL_HOLD)
    curves: list[tuple[str, Counts]] = [("all", total), ("all_but_own_hold", total - own)]
    curves += [(name, steps.values[:, index]) for index, name in enumerate(steps.columns)]
    span_s = float(widths_s.sum())
    everything = float(widths_s @ total)
    rows = []
    for name, counts in curves:
        p50, p99 = count_quantiles(counts, widths_s, (0.5, 0.99))
        area = float(widths_s @ counts)
        rows.append(
            {
                "reason": name,
                "p50_pods": p50,
                "p99_pods": p99,
                "max_pods": float(counts.max(initial=0)),
                "mean_pods": area / span_s if span_s > 0 else np.nan,
                "share_ratio": area / everything if everything > 0 else 0.0,
            }
        )
    return pd.DataFrame(rows)


def in_window(jobs: pd.DataFrame, window: Window) -> pd.DataFrame:
    """Return the jobs submitted in the window that fit the empty cluster.

    A start or end after the horizon becomes NaN, as it would in a run that stopped there.
    """
    submit_s = jobs["submit_s"]
    inside = (submit_s >= window.start_s) & (submit_s < window.end_s)
    chosen = jobs[inside & (jobs["outcome"] != "never_fits")]
    return chosen.assign(
        start_s=chosen["start_s"].where(chosen["start_s"] <= window.horizon_s),
        end_s=chosen["end_s"].where(chosen["end_s"] <= window.horizon_s),
    )


def censored_quantiles(
    values: Floats, at_least: Floats, at: Sequence[float]
) -> tuple[Quantile, ...]:
    """Return quantiles where NaN in `values` means: not over yet, `at_least` so much.

    The lower bounds stand in for the missing values. A quantile that any of them could still
    raise is marked as a lower bound.
    """
    if len(values) == 0:
        return tuple(Quantile(np.nan, False) for _ in at)
    is_open = np.isnan(values)
    known = np.where(is_open, at_least, values)
    found = np.quantile(known, at, method="inverted_cdf")
    lowest_open = float(at_least[is_open].min()) if is_open.any() else np.inf
    return tuple(Quantile(float(value), bool(lowest_open <= value)) for value in found)


def queueing_delay(jobs: pd.DataFrame, window: Window, at: Sequence[float]) -> tuple[Quantile, ...]:
    """Return quantiles of first start minus submit of the jobs submitted in the window."""
    chosen = in_window(jobs[[*TIMES]], window)
    submit_s = chosen["submit_s"].to_numpy(np.float64)
    delay_s = chosen["start_s"].to_numpy(np.float64) - submit_s
    left_s = chosen["end_s"].fillna(window.horizon_s).to_numpy(np.float64)  # taken back, unstarted
    return censored_quantiles(delay_s, np.maximum(left_s - submit_s, 0.0), at)


def size_code(gpus: pd.Series[int]) -> Counts:
    """Return the index into `SIZE_CLASSES` of each gang [num_jobs]."""
    edges = np.array([largest for _, largest in SIZE_CLASSES])
    return np.asarray(np.searchsorted(edges, gpus.to_numpy(np.float64), side="left"))


def delay_by_size(jobs: pd.DataFrame, window: Window) -> pd.DataFrame:
    """Return queueing delay by gang size class, all classes always present.

    Columns: size_class, num_jobs, num_waiting (not started by the horizon), p50_s, p95_s and
    for both `*_is_lower_bound`: True where jobs still waiting make the value a lower bound.
    """
    chosen = in_window(jobs[[*TIMES, "gpus"]], window)
    code_of = size_code(chosen["gpus"])
    rows = []
    for code, (label, _) in enumerate(SIZE_CLASSES):
        members = chosen[code_of == code]
        p50, p95 = queueing_delay(members, window, (0.5, 0.95))
        rows.append(
            {
                "size_class": label,
                "num_jobs": len(members),
                "num_waiting": int(members["start_s"].isna().sum()),
                "p50_s": p50.value,
                "p50_is_lower_bound": p50.is_lower_bound,
                "p95_s": p95.value,
                "p95_is_lower_bound": p95.is_lower_bound,
            }
        )
    return pd.DataFrame(rows)


def waiting_by_size(jobs: pd.DataFrame) -> tuple[float, ...]:
    """Return the pod-seconds that these jobs were pending, by gang size class."""
    pods = jobs["num_pods"].to_numpy(np.float64)
    waited_s = sum((jobs[f"pending_{r}_s"].to_numpy(np.float64) for r in PendingReason), pods * 0)
    found = np.bincount(size_code(jobs["gpus"]), waited_s * pods, minlength=len(SIZE_CLASSES))
    return tuple(float(value) for value in found)


def completion(jobs: pd.DataFrame, window: Window, tau_s: float = TAU_S) -> dict[str, Quantile]:
    """Return p50 and p95 of JCT (s) and of bounded slowdown.

    Bounded slowdown is max(1, JCT / max(duration, tau)) (Feitelson, Metrics for Parallel Job
    Scheduling, JSSPP 1998).
    """
    chosen = in_window(jobs[[*TIMES, "duration_s"]], window)
    submit_s = chosen["submit_s"].to_numpy(np.float64)
    jct_s = chosen["end_s"].to_numpy(np.float64) - submit_s
    open_s = np.maximum(window.horizon_s - submit_s, 0.0)
    ideal_s = np.maximum(chosen["duration_s"].to_numpy(np.float64), tau_s)
    jct_p50, jct_p95 = censored_quantiles(jct_s, open_s, (0.5, 0.95))
    slow_p50, slow_p95 = censored_quantiles(
        np.maximum(jct_s / ideal_s, 1.0), np.maximum(open_s / ideal_s, 1.0), (0.5, 0.95)
    )
    return {
        "jct_p50_s": jct_p50,
        "jct_p95_s": jct_p95,
        "slowdown_p50": slow_p50,
        "slowdown_p95": slow_p95,
    }


@dataclass(frozen=True, slots=True)
class Use:
    """How the GPUs were used over a window."""

    allocation_ratio: float  #: GPU-seconds held / GPU-seconds schedulable
    useful_ratio: float  #: the part held by gangs that ran whole / GPU-seconds schedulable
    idle_hold_gpu_h: float  #: held while the gang was not whole: assembling, starting, deadlocked
    unavailable_ratio: float  #: GPU-seconds of nodes down or cordoned / capacity x time

    @property
    def idle_hold_ratio(self) -> float:
        """The part of the held GPU-seconds that gangs held while they were not whole."""
        if not self.allocation_ratio > 0:
            return 0.0 if self.allocation_ratio == 0 else np.nan
        return max(0.0, 1.0 - self.useful_ratio / self.allocation_ratio)


def use(allocation: Steps, num_gpus: int) -> Use:
    """Return allocation figures of the curves of the allocation table."""
    span_s = float(allocation.widths_s.sum())
    allocated, useful, unavailable = allocation.integral()
    schedulable = num_gpus * span_s - unavailable
    if schedulable <= 0:
        return Use(np.nan, np.nan, 0.0, np.nan)
    return Use(
        allocation_ratio=float(allocated / schedulable),
        useful_ratio=float(useful / schedulable),
        idle_hold_gpu_h=float((allocated - useful) / HOUR_S),
        unavailable_ratio=float(unavailable / (num_gpus * span_s)),
    )


def timeout_gpu_hours(attempts: pd.DataFrame, window: Window) -> float:
    """Return GPU-hours of attempts that ended in the window by a rendezvous or permit timeout.

    Those gangs held GPUs, never became whole and gave everything back: the cost of deadlock.
    """
    over = attempts["outcome"].isin(TIMEOUTS)
    inside = (attempts["end_s"] >= window.start_s) & (attempts["end_s"] < window.end_s)
    return float(attempts.loc[over & inside, "lost_gpu_s"].sum()) / HOUR_S


def peaks(steps: Steps, piece_s: float = DAY_S) -> pd.DataFrame:
    """Return peak and p99 of all pending pods in each whole piece (a day) of the curve.

    Columns: piece, start_s, peak_pods, p99_pods.
    """
    rows = []
    total = Steps(steps.time_s, steps.total()[:, None], ("all",), steps.end_s)
    begin_s = float(steps.time_s[0])
    num_pieces = int((steps.end_s - begin_s) / piece_s + 1e-9)
    for piece in range(num_pieces):
        start_s = begin_s + piece * piece_s
        part = total.clip(start_s, start_s + piece_s)
        counts = part.values[:, 0]
        (p99,) = count_quantiles(counts, part.widths_s, (0.99,))
        rows.append((piece, start_s, float(counts.max()), p99))
    return pd.DataFrame(rows, columns=["piece", "start_s", "peak_pods", "p99_pods"])


def piece_length(window: Window) -> float:
    """Return how long the pieces are whose peaks the growth fit takes: a day in long windows."""
    return min(DAY_S, (window.end_s - window.start_s) / 8)


@dataclass(frozen=True, slots=True)
class Growth:
    """Fit of y = c x nodes^exponent with a 95 % interval by block bootstrap."""

    exponent: float
    low: float
    high: float
    nodes: Floats  #: [num_points] where the fitted curve is given
    fitted: Floats  #: [num_points]
    fitted_low: Floats  #: [num_points]
    fitted_high: Floats  #: [num_points]


def fit_growth(
    pieces: pd.DataFrame,
    column: str = "peak_pods",
    *,
    seed: int = 0,
    resamples: int = 2000,
    block: int = 3,
) -> Growth:
    """Fit how a peak grows with the number of nodes: least squares in logarithms.

    `pieces` has the columns nodes, run, piece and `column`. The interval resamples circular blocks
    of `block` pieces within each run (Politis and Romano 1992), because a backlog lasts longer
    than one day. A piece without pending pods counts as one pod. Any two sizes lie on a power law,
    so with two its interval is not known: NaN. Raises ValueError for fewer than two cluster sizes.
    """
    sizes = np.sort(pieces["nodes"].unique()).astype(np.float64)
    if len(sizes) < 2:
        raise ValueError(
            f"growth fit: runs of one cluster size only ({sizes.tolist()} nodes);"
            " add runs of at least one other size"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    log_nodes, counts, means, drawn = [], [], [], []
    for _, group in pieces.groupby(["nodes", "run"], sort=True):
        values = np.log(np.maximum(group.sort_values("piece")[column].to_numpy(np.float64), 1.0))
        log_nodes.append(float(np.log(group["nodes"].iloc[0])))
        counts.append(float(len(values)))
        means.append(float(values.mean()))
        drawn.append(_resampled_means(values, min(block, len(values)), resamples, rng))
    x, weight = np.array(log_nodes), np.array(counts)
    slope, level = _line(x, np.array(means)[:, None], weight)
    slopes, levels = _line(x, np.array(drawn), weight)
    grid = np.geomspace(sizes[0], sizes[-1], 25)
    curves = levels[:, None] + slopes[:, None] * np.log(grid)[None, :]
    low, high = np.quantile(slopes, (0.025, 0.975))
    if len(sizes) == 2:
        low, high, curves = np.nan, np.nan, curves * np.nan
    return Growth(
        exponent=float(slope[0]),
        low=float(low),
        high=float(high),
        nodes=grid,
        fitted=np.exp(level[0] + slope[0] * np.log(grid)),
        fitted_low=np.exp(np.quantile(curves, 0.025, axis=0)),
        fitted_high=np.exp(np.quantile(curves, 0.975, axis=0)),
    )


def _resampled_means(
    values: Floats, block: int, resamples: int, rng: np.random.Generator
) -> Floats:
    """Return means of `resamples` circular block resamples of one series [resamples]."""
    around = np.concatenate((values, values[: block - 1]))
    block_means = np.convolve(around, np.full(block, 1.0 / block), mode="valid")
    num_blocks = -(-len(values) // block)
    picks = rng.integers(0, len(values), size=(resamples, num_blocks))
    return np.asarray(block_means[picks].mean(axis=1), dtype=np.float64)


def _line(x: Floats, y: NDArray[np.float64], weight: Floats) -> tuple[Floats, Floats]:
    """Return slopes and intercepts of weighted least squares for each column of y."""
    share = weight / weight.sum()
    centre = float(share @ x)
    spread = float(share @ (x - centre) ** 2)
    slopes = (share * (x - centre)) @ y / spread
    return slopes, share @ y - slopes * centre


def held_shares(jobs: pd.DataFrame, attempts: pd.DataFrame) -> dict[str, float]:
    """Return how the GPU-seconds held by these jobs were spent, as ratios that add up to 1.

    `bind` is held before all ranks run; the others are `tables.GOODPUT_PARTS` without their unit.
    `productive` is goodput. Needs a run with costs; NaN if nothing was held.
    """
    mine = attempts[attempts["job"].isin(jobs["job"])]
    gpus = mine["job"].map(jobs.set_index("job")["gpus"]).to_numpy(np.float64)
    held = float(mine["held_gpu_s"].sum())
    if held <= 0:
        return {"bind": np.nan, **{part.removesuffix("_s"): np.nan for part in GOODPUT_PARTS}}
    shares = {
        part.removesuffix("_s"): float(mine[part].to_numpy() @ gpus) / held
        for part in GOODPUT_PARTS
    }
    return {"bind": 1.0 - sum(shares.values()), **shares}
