"""Calibration of the synthetic workloads and faults: the typed content of profiles.toml."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib import resources
from typing import NamedTuple

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file."""


class Lognormal(Record, frozen=True):
    """Run time whose logarithm is normal."""

    log_median: float  #: ln s
    sigma: float


class Outcomes(Record, frozen=True):
    """Probabilities of how a job ends."""

    completed: float
    cancelled: float
    failed: float


class SizeClass(Record, frozen=True):
    """Jobs of one size."""

    gpus: int
    jobs: float  #: share of all jobs
    gpu_time: float  #: published share of the GPU time; only for comparison
    long: float  #: share of the jobs whose run time is drawn from `Trace.long`


class DurationQuantiles(Record, frozen=True):
    """Published run times of GPU jobs, s."""

    p10: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float
    mean: float


class Trace(Record, frozen=True):
    """One cluster's jobs: sizes, and run time given the size as three log-normals.

    The short and the medium one are the body (tests, evaluations); the long one ends at
    `longest_s`.
    """

    gpu_s_per_job: float
    longest_s: float
    short_ratio: float  #: of the body
    short: Lognormal
    medium: Lognormal
    long: Lognormal
    body_outcome: Outcomes
    long_outcome: Outcomes
    published_s: DurationQuantiles
    sizes: tuple[SizeClass, ...]


class Mixture(Record, frozen=True):
    """A profile: traces by share of GPU time, and the smallest job kept."""

    gpu_time: dict[str, float]
    min_gpus: int = 1


class Tail(Record, frozen=True):
    """How the largest jobs grow with the cluster."""

    from_gpus: int
    reference_gpus: int
    largest_cluster_ratio: float


class Arrivals(Record, frozen=True):
    """When campaigns come and how many jobs they bring."""

    hour: tuple[float, ...]
    weekday: tuple[float, ...]
    hourly_cv: float
    cv_gpus: float
    correlation_h: float
    small_campaign_jobs: float
    large_campaign_jobs: float
    small_below_gpus: int
    gap_s: float
    log_duration_rho: float


class Estimates(Record, frozen=True):
    """What users ask for."""

    exact_ratio: float
    gamma_shape: float
    gamma_scale: float
    menu_h: tuple[float, ...]


class Repair(Record, frozen=True):
    """Log-normal time out of service."""

    median_h: float
    mean_h: float

    @property
    def sigma(self) -> float:
        return math.sqrt(2.0 * math.log(self.mean_h / self.median_h))


class FaultModel(Record, frozen=True):
    """Node outages."""

    frailty_shape: float
    refault_ratio: float
    refault_gap_h: tuple[float, float]
    hardware_ratio: float
    hardware: Repair
    other: Repair
    longest_d: float
    warm_up_d: float
    stepfun_nodes: int
    stepfun_days: float


class Calibration(Record, frozen=True):
    """The whole file."""

    profile: dict[str, Mixture]
    tail: Tail
    arrivals: Arrivals
    estimates: Estimates
    faults: FaultModel
    trace: dict[str, Trace]


class Cell(NamedTuple):
    """One size of one trace within a profile."""

    trace: str
    size: SizeClass
    jobs: float  #: share of the profile's jobs


@cache
def calibration() -> Calibration:
    """Return the calibration that comes with muster."""
    text = resources.files("traces").joinpath("profiles.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Calibration)


def names() -> tuple[str, ...]:
    """Return the names of all profiles."""
    return tuple(calibration().profile)


@cache
def cells(profile: str) -> tuple[Cell, ...]:
    """Return the sizes of a profile with their shares of its jobs, which add up to 1.

    A trace's share of the jobs is its share of GPU time over its GPU time per job; sizes below the
    profile's `min_gpus` are left out afterwards.
    """
    everything = calibration()
    mixture = everything.profile.get(profile)
    if mixture is None:
        raise ValueError(f"workload profile {profile!r}: not known; choose {', '.join(names())}")
    weighed = [
        Cell(name, size, gpu_time / everything.trace[name].gpu_s_per_job * size.jobs)
        for name, gpu_time in mixture.gpu_time.items()
        for size in everything.trace[name].sizes
        if size.gpus >= mixture.min_gpus
    ]
    total = sum(cell.jobs for cell in weighed)
    return tuple(cell._replace(jobs=cell.jobs / total) for cell in weighed)
