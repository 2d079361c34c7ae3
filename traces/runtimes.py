"""Run time given the size: three log-normals, by quantile, with how such a job ends."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from traces.profiles import Lognormal, Outcomes, Trace, calibration

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: no record is shorter: the published curves begin at one second
SHORTEST_S = 1.0
OUTCOMES = ("completed", "cancelled", "failed")
_NUM_POINTS = 800
_STANDARD = NormalDist()


class Curve(NamedTuple):
    """Quantile function of one size, over the normal score of the quantile."""

    score: Floats
    log_s: Floats


@cache
def curve(trace_name: str, long_ratio: float) -> Curve:
    """Tabulate ln(run time) over normal scores for the mixture with this share of long jobs."""
    trace = calibration().trace[trace_name]
    longest = math.log(trace.longest_s)
    scores, logs = [], []
    for log_s in np.linspace(math.log(0.01), longest, _NUM_POINTS).tolist():
        ratio = cdf(trace, long_ratio, log_s)
        if 1e-9 < ratio < 1.0 - 1e-9:
            scores.append(_STANDARD.inv_cdf(ratio))
            logs.append(log_s)
    return Curve(np.array([*scores, 8.3]), np.array([*logs, longest]))


def cdf(trace: Trace, long_ratio: float, log_s: float) -> float:
    """Return the share of jobs that run at most exp(`log_s`) seconds."""
    body = trace.short_ratio * _below(trace.short, log_s)
    body += (1.0 - trace.short_ratio) * _below(trace.medium, log_s)
    reach = _below(trace.long, math.log(trace.longest_s))
    return (1.0 - long_ratio) * body + long_ratio * min(_below(trace.long, log_s) / reach, 1.0)


def run_times(trace_name: str, long_ratio: float, score: Floats) -> Floats:
    """Return the run times in s at these normal scores."""
    table = curve(trace_name, long_ratio)
    return np.maximum(np.exp(np.interp(score, table.score, table.log_s)), SHORTEST_S)


def is_long(trace: Trace, long_ratio: float, duration_s: Floats, uniform: Floats) -> Flags:
    """Draw, for jobs of known run time, whether they came from the long log-normal."""
    log_s = np.log(duration_s)
    reach = _below(trace.long, math.log(trace.longest_s))
    body = trace.short_ratio * _density(trace.short, log_s)
    body += (1.0 - trace.short_ratio) * _density(trace.medium, log_s)
    body *= 1.0 - long_ratio
    long = long_ratio * _density(trace.long, log_s) / reach
    return np.asarray(uniform * (body + long) < long)


def outcome_codes(trace: Trace, long: Flags, uniform: Floats) -> npt.NDArray[np.int64]:
    """Draw indexes into `OUTCOMES`."""
    first, second = (
        np.where(long, late, early)
        for early, late in zip(
            _thresholds(trace.body_outcome), _thresholds(trace.long_outcome), strict=True
        )
    )
    return (uniform >= first).astype(np.int64) + (uniform >= second)


def _thresholds(outcome: Outcomes) -> tuple[float, float]:
    total = outcome.completed + outcome.cancelled + outcome.failed
    return outcome.completed / total, (outcome.completed + outcome.cancelled) / total


def _below(law: Lognormal, log_s: float) -> float:
    return 0.5 * math.erfc((law.log_median - log_s) / (law.sigma * math.sqrt(2.0)))


def _density(law: Lognormal, log_s: Floats) -> Floats:
    return np.exp(-0.5 * ((log_s - law.log_median) / law.sigma) ** 2) / law.sigma
