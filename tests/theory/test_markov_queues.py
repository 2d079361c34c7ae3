"""M/M/c and M^X/M/c: waiting probability and mean wait.

Each interval misses the true value with probability 0.1 % (Student's t over 16 runs;
`queues.FALSE_ALARM`).
"""

from __future__ import annotations

from math import e

import numpy as np
import pytest

from tests.theory.queues import (
    Arrivals,
    Floats,
    erlang_c,
    estimate,
    mean_wait_s,
    poisson,
    waiting_ratio,
)

pytestmark = pytest.mark.slow

SERVICE_S = 100.0
NUM_JOBS = 5_000


def test_erlang_c_has_its_tabled_value() -> None:
    """Kleinrock, Queueing Systems I (1975): for one server it is the load."""
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("servers", "load_ratio"), [(4, 0.7), (8, 0.7)])
def test_mmc(servers: int, load_ratio: float) -> None:
    rate_per_s = load_ratio * servers / SERVICE_S
    longer_s = SERVICE_S / servers / (1 - load_ratio)  # the mean wait of those who wait

    def draw(rng: np.random.Generator) -> Arrivals:
        submit_s = poisson(rng, rate_per_s, NUM_JOBS)
        return Arrivals(submit_s, rng.exponential(SERVICE_S, NUM_JOBS))

    found = estimate(
        draw,
        {
            "waiting": waiting_ratio,
            "wait": mean_wait_s,
            "tail": lambda jobs: float((jobs["wait_s"] > longer_s).mean()),
        },
        seed=servers,
        mean_service_s=SERVICE_S,
        mean_gap_s=1 / rate_per_s,
        servers=servers,
    )
    waiting = erlang_c(servers, load_ratio * servers)
    assert found["waiting"].holds(waiting, within_ratio=0.08), (found, waiting)
    assert found["wait"].holds(waiting * longer_s, within_ratio=0.2), (found, waiting * longer_s)
    assert found["tail"].holds(waiting / e, within_ratio=0.2), (found, waiting / e)


def test_batches() -> None:
    """M^X/M/c: the jobs of a batch come at one instant and take servers in their order.

    The answer comes from the stationary distribution of the number of jobs in the system.
    """
    servers = 4
    sizes = np.array([1, 2, 4, 8])
    shares = np.array([0.5, 0.2, 0.2, 0.1])
    mean_size = float(sizes @ shares)
    rate_per_s = 0.6 * servers / SERVICE_S / mean_size  # of batches

    def draw(rng: np.random.Generator) -> Arrivals:
        num_batches = round(NUM_JOBS / mean_size)
        drawn = rng.choice(sizes, num_batches, p=shares)
        submit_s = np.repeat(poisson(rng, rate_per_s, num_batches), drawn)
        return Arrivals(submit_s, rng.exponential(SERVICE_S, len(submit_s)))

    found = estimate(
        draw,
        {"waiting": waiting_ratio, "wait": mean_wait_s},
        seed=100,
        mean_service_s=SERVICE_S,
        mean_gap_s=1 / rate_per_s / mean_size,
        servers=servers,
    )
    waiting, wait_s = batch_queue(rate_per_s, sizes, shares, servers, 1 / SERVICE_S)
    assert found["waiting"].holds(waiting, within_ratio=0.08), (found, waiting)
    assert found["wait"].holds(wait_s, within_ratio=0.2), (found, wait_s)


def test_the_chain_of_batches_of_one_is_mmc() -> None:
    waiting, wait_s = batch_queue(0.03, np.array([1]), np.array([1.0]), 4, 0.01)
    assert waiting == pytest.approx(erlang_c(4, 3.0))
    assert wait_s == pytest.approx(erlang_c(4, 3.0) / (4 * 0.01 - 0.03))


def batch_queue(
    rate_per_s: float,
    sizes: np.ndarray,
    shares: Floats,
    servers: int,
    service_per_s: float,
    most: int = 500,
) -> tuple[float, float]:
    """Return the waiting probability and the mean wait of a job.

    Solves the balance equations of the chain cut off at `most` jobs. A batch meets the stationary
    state; its k-th job waits for those found, and those before it in the batch, to leave a server.
    """
    states = np.arange(most + 1)
    rates = np.zeros((most + 1, most + 1))
    for size, share in zip(sizes, shares, strict=True):
        np.add.at(rates, (states, np.minimum(states + size, most)), rate_per_s * share)
    rates[states[1:], states[:-1]] += np.minimum(states[1:], servers) * service_per_s
    rates[states, states] -= rates.sum(axis=1)
    balance = np.vstack([rates.T, np.ones(most + 1)])
    found, *_ = np.linalg.lstsq(balance, np.append(np.zeros(most + 1), 1.0), rcond=None)
    assert found[-1] < 1e-9  # the cut does not matter
    waiting = wait_s = 0.0
    for place in range(1, int(sizes.max()) + 1):
        share = float(shares[sizes >= place].sum() / (sizes @ shares))  # of jobs with that place
        must_leave = np.maximum(states + place - servers, 0)
        waiting += share * float(found @ (must_leave > 0))
        wait_s += share * float(found @ must_leave) / (servers * service_per_s)
    return waiting, wait_s
