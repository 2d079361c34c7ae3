"""Priority queues without preemption (Cobham, Operations Research 2(1), 1954).

Each interval misses the true value with probability 0.1 % (Student's t over 16 runs;
`queues.FALSE_ALARM`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from tests.theory.queues import Arrivals, Interval, erlang_c, estimate, poisson

pytestmark = pytest.mark.slow

NUM_JOBS = 5_000


def cobham(residual_s: float, loads: list[float]) -> list[float]:
    """Return the mean wait of each class, most urgent first.

    `residual_s` is the mean time until a server is free for one who finds nobody waiting; `loads`
    are the classes' shares of all servers.
    """
    waits_s = []
    above = 0.0
    for load in loads:
        waits_s.append(residual_s / (1 - above) / (1 - above - load))
        above += load
    return waits_s


def class_waits(
    shares: list[float],
    means_s: list[float],
    spreads: list[str],
    rate_per_s: float,
    servers: int,
) -> list[Interval]:
    """Return an interval of each class's mean wait; a larger number is more urgent."""
    urgencies = np.arange(len(shares))[::-1]

    def draw(rng: np.random.Generator) -> Arrivals:
        drawn = rng.choice(len(shares), NUM_JOBS, p=shares)
        mean_s = np.array(means_s)[drawn]
        random = np.array([spread == "exponential" for spread in spreads])[drawn]
        service_s = np.where(random, rng.exponential(mean_s), mean_s)
        return Arrivals(poisson(rng, rate_per_s, NUM_JOBS), service_s, urgencies[drawn])

    def of_class(urgency: int) -> Callable[[pd.DataFrame], float]:
        def measure(jobs: pd.DataFrame) -> float:
            return float(jobs.loc[jobs["priority"] == urgency, "wait_s"].mean())

        return measure

    found = estimate(
        draw,
        {str(urgency): of_class(urgency) for urgency in urgencies},
        seed=len(shares),
        mean_service_s=float(np.dot(shares, means_s)),
        mean_gap_s=1 / rate_per_s,
        servers=servers,
        order="priority",
    )
    return [found[str(urgency)] for urgency in urgencies]


def test_one_server_with_classes_of_other_lengths() -> None:
    """Urgent gangs of 50 s each, others of 100 s on average; each takes the whole cluster."""
    rate_per_s = 0.7 / 80.0
    found = class_waits([0.4, 0.6], [50.0, 100.0], ["constant", "exponential"], rate_per_s, 1)
    residual_s = rate_per_s * (0.4 * 50.0**2 + 0.6 * 2 * 100.0**2) / 2
    expected = cobham(residual_s, [rate_per_s * 0.4 * 50.0, rate_per_s * 0.6 * 100.0])
    for interval, wait_s in zip(found, expected, strict=True):
        assert interval.holds(wait_s, within_ratio=0.2), (interval, wait_s)


def test_four_servers_with_three_classes() -> None:
    load_ratio, mean_s = 0.7, 100.0
    rate_per_s = load_ratio * 4 / mean_s
    shares = [0.2, 0.3, 0.5]
    found = class_waits(shares, [mean_s] * 3, ["exponential"] * 3, rate_per_s, 4)
    residual_s = erlang_c(4, 4 * load_ratio) * mean_s / 4
    expected = cobham(residual_s, [load_ratio * share for share in shares])
    for interval, wait_s in zip(found, expected, strict=True):
        assert interval.holds(wait_s, within_ratio=0.2), (interval, wait_s)
