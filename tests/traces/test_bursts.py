"""Burst statistics, on series whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from traces import bursts


def test_bursts_are_of_one_owner_and_size_within_a_minute() -> None:
    submit_s = np.array([0.0, 60.0, 120.5, 30.0, 10.0, 15.0])
    owner = np.array(["a", "a", "a", "b", "a", "a"], object)
    gpus = np.array([8, 8, 8, 8, 1, 8])
    burst = bursts.numbered(submit_s, owner, gpus)
    groups = {tuple(np.flatnonzero(burst == number)) for number in set(burst.tolist())}
    assert groups == {(0, 1, 5), (2,), (3,), (4,)}
    assert bursts.ratio_in_bursts(burst) == pytest.approx(0.5)
    assert bursts.batch_size(burst) == pytest.approx((9 + 1 + 1 + 1) / 6)


def test_geometric_batches_have_twice_their_mean_less_one() -> None:
    jobs = np.random.default_rng(0).geometric(1 / 5.85, 200_000)
    assert bursts.batch_size(np.repeat(np.arange(len(jobs)), jobs)) == pytest.approx(10.7, rel=0.02)


def test_counts_and_weights_per_bin() -> None:
    at = np.array([0.0, 59.9, 60.0, 200.0])
    assert bursts.per_bin(at, 60.0).tolist() == [2, 1, 0, 1]
    assert bursts.per_bin(at, 60.0, np.array([1, 2, 4, 8])).tolist() == [3, 4, 0, 8]


def test_the_calendar_is_taken_out() -> None:
    """A pure hour x weekday pattern leaves nothing to explain."""
    hour = 1.0 + 0.5 * np.sin(np.arange(24))
    day = np.array([1.0, 1.1, 1.3, 1.2, 0.9, 0.6, 0.9])
    counts = np.tile((day[:, None] * hour).ravel(), 10)
    assert bursts.coefficient_of_variation(counts) > 0.3
    left = bursts.beyond_calendar(counts)
    assert left == pytest.approx(np.ones(len(counts)))
    empty = counts.reshape(-1, 24).copy()
    empty[:, 3] = 0.0
    assert bursts.beyond_calendar(empty.ravel()).reshape(-1, 24)[:, 3].tolist() == [0.0] * 70


def test_hours_find_a_known_variation() -> None:
    """An AR(1) factor of known spread and memory comes back, with Poisson noise made small."""
    rng = np.random.default_rng(4)
    level = [0.0]
    for shock in rng.standard_normal(20_000):
        level.append(0.75 * level[-1] + np.sqrt(1 - 0.75**2) * shock)
    factor = np.exp(0.5 * np.array(level) - 0.125)
    counts = np.rint(60 * factor).astype(int)
    submit_s = np.repeat(np.arange(len(counts)) * 3_600.0, counts)
    found = bursts.hours(submit_s)
    assert found.cv == pytest.approx(np.sqrt(np.expm1(0.25)), rel=0.08)
    expected = [np.expm1(0.25 * 0.75**lag) / np.expm1(0.25) for lag in bursts.LAGS_H]
    assert found.autocorrelation == pytest.approx(expected, abs=0.05)


def test_poisson_arrivals_have_no_memory() -> None:
    submit_s = np.sort(np.random.default_rng(1).uniform(0, 200 * 86_400.0, 480_000))
    found = bursts.hours(submit_s)
    assert found.cv == pytest.approx(0.1, rel=0.1)
    assert np.abs(found.autocorrelation).max() < 0.05
