"""M/G/1 by Pollaczek and Khinchine: gangs that each take the whole cluster.

Each interval misses the true value with probability 0.1 % (Student's t over 16 runs;
`queues.FALSE_ALARM`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.theory.queues import Arrivals, Floats, estimate, mean_wait_s, poisson, waiting_ratio

pytestmark = pytest.mark.slow

SERVICE_S = 100.0
NUM_JOBS = 5_000


def constant(rng: np.random.Generator) -> Floats:
    return np.full(NUM_JOBS, SERVICE_S)


def hyperexponential(rng: np.random.Generator) -> Floats:
    """Nine in ten are short: mean 50 and 550 s, squared coefficient of variation 5.5."""
    return rng.exponential(np.where(rng.random(NUM_JOBS) < 0.9, 50.0, 550.0))


@pytest.mark.parametrize(
    ("service", "second_moment", "load_ratio"),
    [
        (constant, SERVICE_S**2, 0.7),
        (hyperexponential, 2 * (0.9 * 50.0**2 + 0.1 * 550.0**2), 0.5),
    ],
)
def test_mg1(
    service: Callable[[np.random.Generator], Floats], second_moment: float, load_ratio: float
) -> None:
    rate_per_s = load_ratio / SERVICE_S

    def draw(rng: np.random.Generator) -> Arrivals:
        return Arrivals(poisson(rng, rate_per_s, NUM_JOBS), service(rng))

    found = estimate(
        draw,
        {"waiting": waiting_ratio, "wait": mean_wait_s},
        seed=round(100 * load_ratio),
        mean_service_s=SERVICE_S,
        mean_gap_s=1 / rate_per_s,
        servers=1,
    )
    wait_s = rate_per_s * second_moment / 2 / (1 - load_ratio)
    assert found["waiting"].holds(load_ratio, within_ratio=0.08), (found, load_ratio)
    assert found["wait"].holds(wait_s, within_ratio=0.2), (found, wait_s)
