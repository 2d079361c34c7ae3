"""When jobs are submitted: campaigns over the hours of the week, in bursts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from traces.profiles import Arrivals
from traces.schema import DAY_S, HOUR_S
from traces.streams import Stream, generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def intensity(model: Arrivals, num_gpus: int, days: float, seed: int) -> Floats:
    """Return the arrival rate of each hour, relative to a flat one; day 0 is a Monday.

    Hour of day x weekday x a log-normal factor of mean 1 whose logarithm is an AR(1) process.
    """
    hours = np.arange(math.ceil(days * 24.0))
    cv = model.hourly_cv / math.sqrt(max(num_gpus / model.cv_gpus, 1.0))
    sigma = math.sqrt(math.log1p(cv * cv))
    carry = math.exp(-1.0 / model.correlation_h)
    shocks = generator(seed, Stream.INTENSITY).standard_normal(len(hours)).tolist()
    fresh = math.sqrt(1.0 - carry * carry)
    levels: list[float] = shocks[:1]
    for shock in shocks[1:]:
        levels.append(carry * levels[-1] + fresh * shock)
    calendar = np.array(model.hour)[hours % 24] * np.array(model.weekday)[hours // 24 % 7]
    return np.asarray(calendar * np.exp(sigma * np.array(levels) - 0.5 * sigma * sigma))


def campaign_starts(
    model: Arrivals, num_campaigns: int, num_gpus: int, days: float, seed: int
) -> Floats:
    """Return one start in [0, days) for each campaign, in no order."""
    rate = intensity(model, num_gpus, days, seed)
    edges = np.minimum(np.arange(len(rate) + 1) * HOUR_S, days * DAY_S)
    cumulated = np.concatenate([[0.0], np.cumsum(rate * np.diff(edges))])
    uniform = generator(seed, Stream.ARRIVALS).random(num_campaigns)
    return np.asarray(np.interp(uniform * cumulated[-1], cumulated, edges))


def submissions(model: Arrivals, jobs_of: Ints, num_gpus: int, days: float, seed: int) -> Floats:
    """Return submission times, campaign by campaign; `jobs_of` counts each campaign's jobs.

    The jobs of a campaign follow each other at exponential gaps. A campaign that would run over the
    end of the window starts earlier by that much.
    """
    window_s = days * DAY_S
    starts = campaign_starts(model, len(jobs_of), num_gpus, days, seed)
    first = np.cumsum(jobs_of) - jobs_of
    gaps = generator(seed, Stream.GAPS).exponential(model.gap_s, int(jobs_of.sum()))
    gaps[first] = 0.0
    elapsed = np.cumsum(gaps)
    elapsed -= np.repeat(elapsed[first], jobs_of)
    last = np.nextafter(window_s, 0.0)
    starts = np.minimum(starts, last - elapsed[first + jobs_of - 1])
    return np.clip(np.repeat(starts, jobs_of) + elapsed, 0.0, last)
