"""Queues with known answers: their jobs, the runs, and confidence intervals over runs.

An M/M/c queue is one node of c GPUs and jobs of one 1-GPU pod; a single server is a whole cluster
of which every gang wants every GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sim import run

Floats = NDArray[np.float64]

#: probability that one interval misses a true value. Of 400 intervals for each of M/M/1, M/D/1
#: and M/H2/1, 0 to 2 missed it. The seeds are fixed: a test passes always or never.
FALSE_ALARM = 0.001
#: jobs at the begin and at the end of a run that are not looked at: the queue begins empty, and
#: after the last arrival nobody overtakes
MARGIN = 500


class Interval(NamedTuple):
    """A confidence interval for a mean."""

    low: float
    high: float

    def holds(self, value: float, *, within_ratio: float) -> bool:
        """True if `value` is inside and the interval is narrower than +-`within_ratio` of it."""
        return self.low <= value <= self.high and self.high - self.low < 2 * within_ratio * value


def mean_interval(values: Floats, controls: Floats) -> Interval:
    """Return the interval of the mean of independent runs, by Student's t.

    `controls` [num_runs, num_controls] are quantities of each run whose true mean is 0; what they
    explain is taken out by least squares, and each costs a degree of freedom (Lavenberg and
    Welch, Management Science 27(3), 1981).
    """
    controls = controls[:, controls.std(axis=0) > 0]  # constant service times explain nothing
    num_runs, num_controls = controls.shape
    design = np.column_stack([np.ones(num_runs), controls])
    fitted, *_ = np.linalg.lstsq(design, values, rcond=None)
    freedom = num_runs - num_controls - 1
    variance = float(np.sum((values - design @ fitted) ** 2)) / freedom
    error = np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0])
    reach = float(stats.t.ppf(1 - FALSE_ALARM / 2, freedom) * error)
    return Interval(float(fitted[0]) - reach, float(fitted[0]) + reach)


class Arrivals(NamedTuple):
    """Jobs of one run, in order."""

    submit_s: Floats
    service_s: Floats
    priority: NDArray[np.int64] | None = None


def poisson(rng: np.random.Generator, rate_per_s: float, count: int) -> Floats:
    """Return the times of `count` arrivals."""
    times: Floats = np.cumsum(rng.exponential(1 / rate_per_s, count))
    return times


def estimate(
    draw: Callable[[np.random.Generator], Arrivals],
    measures: dict[str, Callable[[pd.DataFrame], float]],
    *,
    seed: int,
    mean_service_s: float,
    mean_gap_s: float,
    servers: int,
    num_runs: int = 16,
    order: str = "fifo",
) -> dict[str, Interval]:
    """Simulate independent runs and return an interval for each measure of a run's jobs.

    Service times and the gaps between arrivals are the controls: a run in which more work came
    than on average waits longer for no other reason.
    """
    values: dict[str, list[float]] = {name: [] for name in measures}
    controls = []
    for stream in np.random.SeedSequence(seed).spawn(num_runs):
        arrivals = draw(np.random.default_rng(stream))
        jobs = simulate(arrivals, servers, order).iloc[MARGIN:-MARGIN]
        for name, measure in measures.items():
            values[name].append(measure(jobs))
        span_s = float(jobs["submit_s"].iloc[-1] - jobs["submit_s"].iloc[0])
        controls.append(
            (
                float(jobs["duration_s"].mean()) / mean_service_s - 1.0,
                span_s / (len(jobs) - 1) / mean_gap_s - 1.0,
            )
        )
    return {
        name: mean_interval(np.array(of_runs), np.array(controls))
        for name, of_runs in values.items()
    }


def simulate(arrivals: Arrivals, servers: int, order: str) -> pd.DataFrame:
    """Return the jobs table of a run, with `wait_s`."""
    count = len(arrivals.submit_s)
    jobs = pd.DataFrame(
        {
            "job": np.arange(count).astype("str"),
            "submit_s": arrivals.submit_s,
            "duration_s": arrivals.service_s,
            # one server: 3 nodes of 8, of which each gang takes all
            "num_pods": 3 if servers == 1 else 1,
            "gpus_per_pod": 8 if servers == 1 else 1,
        }
    )
    if arrivals.priority is not None:
        jobs["priority"] = arrivals.priority
    nodes, gpus_per_node = (3, 8) if servers == 1 else (1, servers)
    result = run(jobs, nodes=nodes, gpus_per_node=gpus_per_node, order=order, control_plane="ideal")
    return result.jobs.assign(wait_s=result.jobs["start_s"] - result.jobs["submit_s"])


def mean_wait_s(jobs: pd.DataFrame) -> float:
    """Return the mean queueing delay."""
    return float(jobs["wait_s"].mean())


def waiting_ratio(jobs: pd.DataFrame) -> float:
    """Return the share of jobs that do not start at once."""
    return float((jobs["wait_s"] > 0).mean())


def erlang_c(servers: int, load: float) -> float:
    """Return the probability of waiting in M/M/c; `load` is arrivals per mean service time."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / factorial(k) for k in range(servers)) + last)
