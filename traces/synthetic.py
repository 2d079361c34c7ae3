"""Synthetic workloads calibrated to published clusters; profiles.toml holds the figures."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from traces import runtimes
from traces.arrivals import submissions
from traces.estimates import walltimes
from traces.profiles import Arrivals, Cell, calibration, cells
from traces.schema import COLUMNS, DAY_S, GPUS_PER_NODE
from traces.streams import Stream, generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FIRST_CHUNK = 4096


class Drawn(NamedTuple):
    """Jobs before they have a time, campaign by campaign."""

    campaign: Ints
    cell: Ints  #: index into the profile's cells
    gpus: Ints
    duration_s: Floats

    def taken(self, rows: Ints | slice) -> Drawn:
        """Return the jobs at these rows, as a copy."""
        return Drawn(
            self.campaign[rows].copy(),
            self.cell[rows].copy(),
            self.gpus[rows].copy(),
            self.duration_s[rows].copy(),
        )


def generate(
    profile: str,
    *,
    num_gpus: int,
    days: float = 30.0,
    load: float,
    seed: int = 0,
    tail_scale: float = 1.0,
) -> pd.DataFrame:
    """Return a canonical jobs table whose GPU-seconds are `load` x `num_gpus` x `days`.

    Time zero is a Monday, 0:00. Sizes of 256 GPUs and more grow with the cluster, see `Sizes`;
    `tail_scale` 0 keeps them as published. With the same seed, a larger load has the campaigns of
    the smaller one and more. `user` is the campaign, `queue` the trace it is calibrated to.
    """
    _check(profile, num_gpus, days, load, tail_scale)
    model = calibration()
    target = load * num_gpus * days * DAY_S
    drawn = _draw(profile, num_gpus, tail_scale, seed, target)
    jobs_of = np.bincount(drawn.campaign)
    submit_s = submissions(model.arrivals, jobs_of, num_gpus, days, seed)
    walltime_s = walltimes(model.estimates, drawn.duration_s, drawn.campaign, seed)
    outcome = _outcomes(profile, drawn, seed)
    order = np.argsort(submit_s, kind="stable")
    return _table(
        cells(profile),
        drawn.taken(order),
        submit_s[order],
        walltime_s[order],
        outcome[order],
    )


class Sizes:
    """Sizes of a profile's jobs on one cluster.

    A published size of `from_gpus` or more is multiplied by (cluster / reference)^(tail_scale U)
    with U uniform per campaign: that larger clusters run larger jobs is an assumption, since no
    public trace has jobs above 1,024 GPUs. No job is larger than `largest_cluster_ratio` of the
    cluster; above one node, jobs are whole nodes.
    """

    def __init__(self, profile: str, num_gpus: int, tail_scale: float) -> None:
        tail = calibration().tail
        self.cells = cells(profile)
        self._published = np.array([cell.size.gpus for cell in self.cells])
        self._cumulated = np.cumsum(_campaign_shares(self.cells))
        self._cumulated /= self._cumulated[-1]
        self._grows = self._published >= tail.from_gpus
        self._log_growth = tail_scale * math.log(num_gpus / tail.reference_gpus)
        self._largest = largest_gang(num_gpus)

    def draw(self, uniform: Floats) -> tuple[Ints, Ints]:
        """Return (cell, GPUs) of campaigns from two uniforms each, [num_campaigns, 2]."""
        cell = np.searchsorted(self._cumulated, uniform[:, 0], side="right")
        gpus = self._published[cell].astype(np.float64)
        grown = gpus * np.exp(self._log_growth * uniform[:, 1])
        gpus = np.where(self._grows[cell], grown, gpus)
        whole_nodes = np.maximum(np.rint(gpus / GPUS_PER_NODE), 1.0) * GPUS_PER_NODE
        gpus = np.where(gpus > GPUS_PER_NODE, whole_nodes, np.rint(gpus))
        return cell, np.minimum(gpus, self._largest).astype(np.int64)


def largest_gang(num_gpus: int) -> int:
    """Return the GPUs of the largest job drawn for a cluster, whole nodes if more than one."""
    largest = math.floor(calibration().tail.largest_cluster_ratio * num_gpus)
    return largest if largest <= GPUS_PER_NODE else largest // GPUS_PER_NODE * GPUS_PER_NODE


def _check(profile: str, num_gpus: int, days: float, load: float, tail_scale: float) -> None:
    smallest = min(cell.size.gpus for cell in cells(profile))
    if largest_gang(num_gpus) < smallest:
        ratio = calibration().tail.largest_cluster_ratio
        raise ValueError(
            f"num_gpus {num_gpus}: too few for profile {profile!r}, whose jobs have {smallest} "
            f"GPUs or more and at most {ratio:.0%} of the cluster; "
            f"use {math.ceil(smallest / ratio)} GPUs or more"
        )
    for name, value in (("days", days), ("load", load)):
        if not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"{name} {value}: must be a number above 0")
    if not 0.0 <= tail_scale <= 2.0:
        raise ValueError(f"tail_scale {tail_scale}: must be between 0 and 2")


def _campaign_jobs(model: Arrivals, gpus: Ints) -> Floats:
    """Return the mean number of jobs in campaigns of these published sizes."""
    return np.where(
        gpus < model.small_below_gpus, model.small_campaign_jobs, model.large_campaign_jobs
    )


def _campaign_shares(profile_cells: tuple[Cell, ...]) -> Floats:
    """Return the share of campaigns of each cell, so that the shares of jobs come out."""
    gpus = np.array([cell.size.gpus for cell in profile_cells])
    jobs = np.array([cell.jobs for cell in profile_cells])
    return jobs / _campaign_jobs(calibration().arrivals, gpus)


def _draw(profile: str, num_gpus: int, tail_scale: float, seed: int, target: float) -> Drawn:
    """Draw campaigns until their GPU-seconds reach `target`.

    The job that crosses the target is cut there and all later ones are left out. Streams are read
    front to back, so that the chunks do not matter.
    """
    arrivals = calibration().arrivals
    sizes = Sizes(profile, num_gpus, tail_scale)
    campaign_gpus = np.array([cell.size.gpus for cell in sizes.cells])
    mean_jobs = _campaign_jobs(arrivals, campaign_gpus)
    shared = math.sqrt(arrivals.log_duration_rho)
    own = math.sqrt(1.0 - arrivals.log_duration_rho)
    streams = (Stream.SIZES, Stream.CAMPAIGNS, Stream.RUNTIMES, Stream.MEMBERS)
    size_draw, count_draw, runtime_draw, member_draw = (generator(seed, name) for name in streams)

    parts: list[Drawn] = []
    num_campaigns, reached, chunk = 0, 0.0, _FIRST_CHUNK
    while reached < target:
        cell, gpus = sizes.draw(size_draw.random((chunk, 2)))
        jobs_of = _geometric(mean_jobs[cell], count_draw.random(chunk))
        campaign = np.repeat(np.arange(chunk), jobs_of)
        score = shared * runtime_draw.standard_normal(chunk)[campaign]
        score += own * member_draw.standard_normal(len(campaign))
        part = Drawn(
            campaign + num_campaigns,
            cell[campaign],
            gpus[campaign],
            _durations(sizes.cells, cell[campaign], score),
        )
        parts.append(part)
        num_campaigns += chunk
        reached += float(np.sum(part.gpus * part.duration_s))
        chunk = math.ceil(1.05 * num_campaigns * max(target / reached - 1.0, 0.0)) + 64
    drawn = Drawn(
        np.concatenate([part.campaign for part in parts]),
        np.concatenate([part.cell for part in parts]),
        np.concatenate([part.gpus for part in parts]),
        np.concatenate([part.duration_s for part in parts]),
    )
    return _cut(drawn, target)


def _geometric(mean: Floats, uniform: Floats) -> Ints:
    """Return counts of 1, 2, ... with these means."""
    return 1 + np.floor(np.log1p(-uniform) / np.log1p(-1.0 / mean)).astype(np.int64)


def _durations(profile_cells: tuple[Cell, ...], cell: Ints, score: Floats) -> Floats:
    duration_s = np.empty_like(score)
    for index, (trace, size, _) in enumerate(profile_cells):
        rows = np.flatnonzero(cell == index)
        duration_s[rows] = runtimes.run_times(trace, size.long, score[rows])
    return duration_s


def _cut(drawn: Drawn, target: float) -> Drawn:
    """Keep the jobs up to the target; the last one is shortened to meet it."""
    cumulated = np.cumsum(drawn.gpus * drawn.duration_s)
    last = min(int(np.searchsorted(cumulated, target)), len(cumulated) - 1)
    excess_s = (cumulated[last] - target) / drawn.gpus[last]
    shortened_s = float(drawn.duration_s[last] - excess_s)
    if shortened_s < runtimes.SHORTEST_S and last > 0:
        return drawn.taken(slice(last))
    kept = drawn.taken(slice(last + 1))
    kept.duration_s[-1] = shortened_s
    return kept


def _outcomes(profile: str, drawn: Drawn, seed: int) -> Ints:
    uniform = generator(seed, Stream.OUTCOMES).random((len(drawn.cell), 2))
    codes = np.zeros(len(drawn.cell), dtype=np.int64)
    for index, (name, size, _) in enumerate(cells(profile)):
        rows = np.flatnonzero(drawn.cell == index)
        trace = calibration().trace[name]
        long = runtimes.is_long(trace, size.long, drawn.duration_s[rows], uniform[rows, 0])
        codes[rows] = runtimes.outcome_codes(trace, long, uniform[rows, 1])
    return codes


def _table(
    profile_cells: tuple[Cell, ...],
    drawn: Drawn,
    submit_s: Floats,
    walltime_s: Floats,
    outcome: Ints,
) -> pd.DataFrame:
    num_jobs = len(submit_s)
    per_pod = np.minimum(drawn.gpus, GPUS_PER_NODE).astype(np.int32)
    num_pods = (drawn.gpus // per_pod).astype(np.int32)
    by_start, first = np.unique(drawn.campaign, return_index=True)
    rank = np.empty(int(by_start[-1]) + 1, dtype=np.int64)
    rank[by_start[np.argsort(first, kind="stable")]] = np.arange(len(by_start))
    source = np.array([cell.trace for cell in profile_cells])
    empty = pd.Series([""] * num_jobs, dtype="str")
    zero = np.zeros(num_jobs)
    table = pd.DataFrame(
        {
            "job": _labels("j", np.arange(num_jobs)),
            "submit_s": submit_s,
            "duration_s": drawn.duration_s,
            "num_pods": num_pods,
            "gpus_per_pod": per_pod,
            "last_pod_gpus": per_pod,
            "walltime_s": walltime_s,
            "priority": np.zeros(num_jobs, dtype=np.int32),
            "queue": pd.Series(source[drawn.cell], dtype="str"),
            "user": _labels("c", rank[drawn.campaign]),
            "min_member": num_pods,
            "gpu_model": empty,
            "pool": empty,
            "cpu_per_pod": zero,
            "mem_gib_per_pod": zero,
            "evicts": np.ones(num_jobs, dtype=bool),
            "evictable": np.ones(num_jobs, dtype=bool),
            "outcome": pd.Series(np.array(runtimes.OUTCOMES)[outcome], dtype="str"),
        }
    )
    return table[[column.name for column in COLUMNS]]


def _labels(prefix: str, number: Ints) -> pd.Series:
    """Return names such as j-000123, padded so that text order is number order."""
    width = max(6, len(str(int(number.max()))))
    return pd.Series([f"{prefix}-{index:0{width}d}" for index in number.tolist()], dtype="str")
