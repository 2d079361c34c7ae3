"""Compare generated workloads and outages with the published figures they are calibrated to.

Every figure is generated for several seeds; a check holds their mean and range.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from traces import bursts, description, faults, philly, synthetic
from traces.profiles import Trace, calibration
from traces.schema import DAY_S, HOUR_S, total_gpus

Floats = npt.NDArray[np.float64]

SEEDS = (0, 1, 2, 3, 4)
#: published traces are compared on a cluster where their largest jobs fit, without growth
NUM_GPUS, DAYS, LOAD = 8_000, 30.0, 0.85

#: nodes of 8 GPUs and offered load of the generated months that are listed
MONTHS = ((2_500, 0.85), (5_000, 0.95), (7_500, 1.10))
MONTH_SEEDS = (0, 1)

#: name of each trace in published_cdfs.csv
SERIES = {"seren": "Seren", "kalos": "Kalos", "helios": "Helios", "philly": "Philly"}
#: upper ends of the size classes in GPUs
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1023, 1024)
QUANTILES = ("p10", "p50", "p75", "p90", "p95", "p99")

#: ends of GPU jobs and of GPU time: completed, cancelled, failed (Acme and Helios papers)
OUTCOMES = {
    "seren": ((0.497, 0.075, 0.429), (0.212, 0.664, 0.124)),
    "kalos": ((0.541, 0.062, 0.397), (0.313, 0.607, 0.080)),
    "helios": ((0.624, 0.221, 0.155), (0.513, 0.394, 0.093)),
    "philly": ((0.604, 0.090, 0.305), (0.321, 0.294, 0.386)),
}

#: Helios' cluster Venus: GPUs, mean allocation and how its submissions vary
VENUS_GPUS, VENUS_LOAD, VENUS_DAYS = 1_064, 0.759, 182.0
VENUS_HOURS = bursts.Hours(0.98, (0.54, 0.37, 0.27, 0.12))
VENUS_TEN_MINUTES_CV = 1.62
VENUS_GPUS_PER_HOUR_CV = 3.7
VENUS_GPUS_PER_HOUR_P99 = 8.9  #: over the mean
VENUS_BATCH_JOBS = 10.7

#: share of its request that a user's median job of at least a minute runs: four CPU sites
USED_RATIOS = (0.075, 0.28)


class Check(NamedTuple):
    """One published figure and what the generator makes of it."""

    topic: str
    profile: str
    what: str
    unit: str  #: ratio, or what the figure counts
    published: float
    generated: float  #: mean over seeds
    low: float  #: over seeds
    high: float

    @property
    def is_miss(self) -> bool:
        """True if the mean is off by more than 2 percentage points, or a fifth."""
        if self.unit == "ratio":
            return abs(self.generated - self.published) > 0.02
        return abs(self.generated - self.published) > 0.2 * abs(self.published)


def published(figure: str, series: str) -> tuple[Floats, Floats]:
    """Return x and the share of jobs or GPU time up to it, as read from the figure."""
    with files("traces").joinpath("data/published_cdfs.csv").open("rb") as file:
        table = pd.read_csv(file)
    curve = table[(table["figure"] == figure) & (table["series"] == series)].sort_values("x")
    return curve["x"].to_numpy(np.float64), curve["y"].to_numpy(np.float64) / 100.0


def checks(
    seeds: Sequence[int] = SEEDS, progress: Callable[[str], None] = lambda _: None
) -> pd.DataFrame:
    """Return one row per published figure, with the columns of `Check` and `is_miss`.

    `progress` is told what is generated next.
    """
    rows: list[Check] = []
    for profile in SERIES:
        progress(profile)
        months = [generated(profile, seed) for seed in seeds]
        rows += [*_sizes(profile, months), *_durations(profile, months)]
        rows += _outcomes(profile, months)
    progress("submissions")
    rows += _submissions(seeds)
    progress("requested walltimes")
    rows += _estimates(seeds)
    progress("outages")
    rows += _outages(seeds)
    return pd.DataFrame([{**row._asdict(), "is_miss": row.is_miss} for row in rows])


def generated(profile: str, seed: int) -> pd.DataFrame:
    """Return a month of a profile as it is compared with the published figures."""
    return synthetic.generate(
        profile, num_gpus=NUM_GPUS, days=DAYS, load=LOAD, seed=seed, tail_scale=0.0
    )


def months() -> pd.DataFrame:
    """Return what generated months bring to clusters of 2,500 to 7,500 nodes.

    Nothing is published to compare them with.
    """
    rows = []
    for nodes, load in MONTHS:
        for seed in MONTH_SEEDS:
            jobs = synthetic.generate("openai_like", num_gpus=8 * nodes, load=load, seed=seed)
            found = description.figures(jobs, 8 * nodes)
            row = {"nodes": nodes, "load": load, "seed": seed}
            names = ("jobs", "pods", "pods_per_minute_p99", "pods_per_minute_max", "largest_gpus")
            rows.append({**row, **{name: found[name] for name in names}})
    return pd.DataFrame(rows)


def _check(
    topic: str, profile: str, what: str, unit: str, goal: float, found: list[float]
) -> Check:
    return Check(topic, profile, what, unit, goal, float(np.mean(found)), min(found), max(found))


def size_labels() -> list[str]:
    """Return the names of the size classes."""
    between = [f"{low + 1}-{high}" for low, high in itertools.pairwise(SIZES[1:-1])]
    return ["1", "2", *between, "1,024 and more"]


def size_shares(profile: str) -> pd.DataFrame:
    """Return the published shares of jobs and of GPU time by size class; `gpus` is its end."""
    table = pd.DataFrame({"gpus": SIZES})
    for name, figure in (("jobs", "acme_gpunum_jobs"), ("gpu_time", "acme_gpunum_gputime")):
        x, y = published(figure, SERIES[profile])
        # a step at 512 is drawn from 511 to 513; what is left at 1,023 is at the clipped end
        ends = np.array([*SIZES[:-2], 1022.96])
        ends[:-1] *= 1.002
        reached = np.concatenate([[0.0], y])[np.searchsorted(x, ends)]
        table[name] = np.diff([*reached, 1.0], prepend=0.0)
    return table


def _sizes(profile: str, months: list[pd.DataFrame]) -> Iterator[Check]:
    shares = [_shares_by_size(jobs) for jobs in months]
    table = size_shares(profile)
    for place, label in enumerate(size_labels()):
        for column, topic in enumerate(("jobs by size", "GPU time by size")):
            goal = float(table[("jobs", "gpu_time")[column]].iloc[place])
            found = [float(share[column][place]) for share in shares]
            if goal > 0.0 or max(found) > 0.0:
                yield _check(topic, profile, f"{label} GPUs", "ratio", goal, found)


def _shares_by_size(jobs: pd.DataFrame) -> tuple[Floats, Floats]:
    gpus = total_gpus(jobs)
    place = np.searchsorted(SIZES, np.minimum(gpus, SIZES[-1]))
    work = gpus * jobs["duration_s"].to_numpy(np.float64)
    count = np.bincount(place, minlength=len(SIZES))
    return count / count.sum(), np.bincount(place, work, minlength=len(SIZES)) / work.sum()


def _durations(profile: str, months: list[pd.DataFrame]) -> Iterator[Check]:
    trace: Trace = calibration().trace[profile]
    runs = [np.sort(jobs["duration_s"].to_numpy(np.float64)) for jobs in months]
    for name in QUANTILES:
        level = float(name[1:]) / 100.0
        found = [float(np.quantile(run, level)) for run in runs]
        goal = float(getattr(trace.published_s, name))
        yield _check("run time", profile, name, "s", goal, found)
    found = [float(run.mean()) for run in runs]
    yield _check("run time", profile, "mean", "s", trace.published_s.mean, found)
    x, y = published("acme_gpujob_duration", SERIES[profile])
    farthest = [
        float(np.abs(np.searchsorted(run, x, "right") / len(run) - y).max()) for run in runs
    ]
    what = "largest distance of the distributions"
    yield _check("run time", profile, what, "ratio", 0.0, farthest)
    work = [float((total_gpus(jobs) * jobs["duration_s"].to_numpy()).mean()) for jobs in months]
    yield _check("run time", profile, "GPU time per job", "GPU-s", trace.gpu_s_per_job, work)


def _outcomes(profile: str, months: list[pd.DataFrame]) -> Iterator[Check]:
    work = [total_gpus(jobs) * jobs["duration_s"].to_numpy(np.float64) for jobs in months]
    for place, outcome in enumerate(("completed", "cancelled", "failed")):
        ends = [(jobs["outcome"] == outcome).to_numpy() for jobs in months]
        of_jobs = [float(end.mean()) for end in ends]
        of_time = [float(one[end].sum() / one.sum()) for one, end in zip(work, ends, strict=True)]
        goals = OUTCOMES[profile]
        yield _check("end", profile, f"jobs {outcome}", "ratio", goals[0][place], of_jobs)
        yield _check("end", profile, f"GPU time {outcome}", "ratio", goals[1][place], of_time)


def _submissions(seeds: Sequence[int]) -> Iterator[Check]:
    """Compare with Venus, and with the Philly list where the same can be counted there."""
    months = [
        synthetic.generate(
            "helios", num_gpus=VENUS_GPUS, days=VENUS_DAYS, load=VENUS_LOAD, seed=seed, tail_scale=0
        )
        for seed in seeds
    ]
    submits = [jobs["submit_s"].to_numpy(np.float64) for jobs in months]
    by_hour = [bursts.hours(submit_s) for submit_s in submits]
    asked = [
        bursts.per_bin(submit_s, HOUR_S, total_gpus(jobs))
        for submit_s, jobs in zip(submits, months, strict=True)
    ]
    owned = [
        bursts.numbered(submit_s, jobs["user"].to_numpy(object), total_gpus(jobs))
        for submit_s, jobs in zip(submits, months, strict=True)
    ]
    ten_minutes = [
        bursts.coefficient_of_variation(
            bursts.beyond_calendar(bursts.per_bin(submit_s, 600.0), per_hour=6)
        )
        for submit_s in submits
    ]

    def row(what: str, unit: str, goal: float, found: list[float]) -> Check:
        return _check("submissions", "helios", what, unit, goal, found)

    yield row("jobs per 10 min, CV beyond the calendar", "", VENUS_TEN_MINUTES_CV, ten_minutes)
    yield row(
        "jobs per hour, CV beyond the calendar", "", VENUS_HOURS.cv, [one.cv for one in by_hour]
    )
    for place, lag_h in enumerate(bursts.LAGS_H):
        goal = VENUS_HOURS.autocorrelation[place]
        found = [one.autocorrelation[place] for one in by_hour]
        yield row(f"the same, autocorrelation at {lag_h} h", "", goal, found)
    found = [bursts.coefficient_of_variation(one) for one in asked]
    yield row("GPUs submitted per hour, CV", "", VENUS_GPUS_PER_HOUR_CV, found)
    found = [float(np.quantile(one, 0.99) / one.mean()) for one in asked]
    yield row("GPUs submitted per hour, p99 / mean", "", VENUS_GPUS_PER_HOUR_P99, found)
    found = [bursts.batch_size(one) for one in owned]
    yield row("burst that a job arrives in, E[K^2] / E[K]", "jobs", VENUS_BATCH_JOBS, found)
    real = philly.full_weeks()
    what = "burst that a job arrives in, E[K^2] / E[K]"
    goal = bursts.batch_size(real.burst)
    yield _check("submissions", "philly", what, "jobs", goal, found)
    copies = [bursts.ratio_in_bursts(one) for one in owned]
    what = "jobs within a minute of another of the same owner and size"
    goal = bursts.ratio_in_bursts(real.burst)
    yield _check("submissions", "philly", what, "ratio", goal, copies)


def _estimates(seeds: Sequence[int]) -> Iterator[Check]:
    found = []
    for seed in seeds:
        jobs = generated("seren", seed)
        ran = jobs[jobs["duration_s"] >= 60.0]
        ratio = ran["duration_s"] / ran["walltime_s"]
        found.append(float(ratio.groupby(ran["user"]).median().median()))
    middle = float(np.mean(USED_RATIOS))
    yield _check("requests", "seren", "median run time / request, by user", "", middle, found)


def _outages(seeds: Sequence[int]) -> Iterator[Check]:
    """Compare the outage model with the real list, on a cluster and window of its size."""
    model = calibration().faults
    nodes, horizon_s = model.stepfun_nodes, model.stepfun_days * DAY_S
    drawn = [faults.calibrated(nodes, horizon_s, seed) for seed in seeds]
    real = _of_outages(faults.listed(), nodes, horizon_s)
    found = [_of_outages(table, nodes, horizon_s) for table in drawn]
    for name, (unit, goal) in real.items():
        yield _check("outages", "stepfun", name, unit, goal, [one[name][1] for one in found])


def _of_outages(table: pd.DataFrame, nodes: int, horizon_s: float) -> dict[str, tuple[str, float]]:
    began = np.sort(table.loc[table["start_s"] > 0.0, "start_s"].to_numpy(np.float64))
    gap_s = np.diff(began, prepend=-np.inf)
    down_s = table["end_s"].clip(upper=horizon_s) - table["start_s"]
    whole = table[table["end_s"] < horizon_s]
    repair_h = (whole["end_s"] - whole["start_s"]).to_numpy(np.float64) / HOUR_S
    by_node = table.sort_values(["node", "start_s"])
    up_s = (by_node["start_s"] - by_node.groupby("node")["end_s"].shift()).to_numpy(np.float64)
    counts = table["node"].value_counts().to_numpy()
    most = counts[: max(nodes // 20, 1)].sum() / counts.sum()
    return {
        "outages per 1,000 node-days": ("", len(began) / (nodes * horizon_s / DAY_S) * 1000.0),
        "node time out of service": ("ratio", float(down_s.sum() / (nodes * horizon_s))),
        "hardware": ("ratio", float((table["kind"] == "hardware").mean())),
        "repair, median": ("h", float(np.median(repair_h))),
        "repair, p90": ("h", float(np.quantile(repair_h, 0.9))),
        "repair, mean": ("h", float(repair_h.mean())),
        "outages within a day after the node's own last": ("ratio", float((up_s < DAY_S).mean())),
        "nodes without any": ("ratio", 1.0 - len(counts) / nodes),
        "outages of the worst 5 % of nodes": ("ratio", float(most)),
        "outages within an hour after another node's": ("ratio", float((gap_s < HOUR_S).mean())),
    }
