"""How uneven submissions are: bursts, pods per minute, and hours beyond the calendar."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from traces.schema import HOUR_S

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.object_]

MINUTE_S = 60.0
#: jobs of one burst follow each other within this time
BURST_GAP_S = 60.0
LAGS_H = (1, 2, 3, 6)


class Hours(NamedTuple):
    """Submissions per hour over what the hour of the day and the weekday explain."""

    cv: float
    autocorrelation: tuple[float, ...]  #: at `LAGS_H`


def numbered(submit_s: Floats, owner: Labels, gpus: Ints) -> Ints:
    """Number the bursts: jobs of one owner and size, each at most a minute after the one before."""
    order = np.lexsort((submit_s, gpus, owner))
    begins = np.ones(len(order), bool)
    begins[1:] = (
        (owner[order][1:] != owner[order][:-1])
        | (gpus[order][1:] != gpus[order][:-1])
        | (np.diff(submit_s[order]) > BURST_GAP_S)
    )
    burst = np.empty(len(order), np.int64)
    burst[order] = np.cumsum(begins) - 1
    return burst


def batch_size(burst: Ints) -> float:
    """Return E[K^2] / E[K] of the jobs K per burst: the size of the burst that a job arrives in."""
    jobs = np.bincount(burst).astype(np.float64)
    return float((jobs * jobs).sum() / jobs.sum())


def ratio_in_bursts(burst: Ints) -> float:
    """Return the share of jobs that arrive with at least one other."""
    return float((np.bincount(burst)[burst] > 1).mean())


def per_bin(submit_s: Floats, width_s: float, weight: Floats | Ints | None = None) -> Floats:
    """Return jobs, or the sum of `weight`, in each bin of time from 0 to the last submission."""
    place = (submit_s / width_s).astype(np.int64)
    return np.bincount(place, weight).astype(np.float64)


def coefficient_of_variation(counts: Floats) -> float:
    """Return standard deviation over mean."""
    return float(counts.std() / counts.mean())


def beyond_calendar(counts: Floats, per_hour: int = 1) -> Floats:
    """Divide counts by those expected for the hour of the day and the weekday.

    Both factors are estimated from the counts, as independent; the first bin is Monday, 0:00.
    """
    hour = np.arange(len(counts)) // per_hour
    factor = np.ones(len(counts))
    for place in (hour % 24, hour // 24 % 7):
        mean = np.bincount(place, counts) / np.bincount(place)
        factor *= (mean / counts.mean())[place]
    expected = np.where(factor > 0.0, factor * counts.mean(), 1.0)
    return np.asarray(counts / expected)


def hours(submit_s: Floats) -> Hours:
    """Return how hourly submissions vary beyond the calendar."""
    left = beyond_calendar(per_bin(submit_s, HOUR_S)) - 1.0
    variance = float(left @ left) / len(left)
    lagged = (float(left[lag:] @ left[:-lag]) / (len(left) - lag) / variance for lag in LAGS_H)
    return Hours(variance**0.5, tuple(lagged))
