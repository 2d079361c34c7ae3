"""Usage that decays: Kueue's average, KAI's weights, Slurm's fair tree, and aging."""

from __future__ import annotations

from math import inf

import pytest

from scheduler.core import usage
from scheduler.core.times import DAY_S, FOREVER_US, to_us
from scheduler.core.usage import Association, Billed, Decayed, Smoothed

WEEK_US = to_us(7 * DAY_S)


def test_a_start_counts_at_once_and_only_until_the_next_sample() -> None:
    """A half-life of 168 h and samples of 5 min: 64 GPUs add 0.022."""
    queue = Smoothed(WEEK_US)
    queue.start(to_us(300), {"gpu": 64})
    assert queue.key({}, 1.0) == pytest.approx(0.022, abs=1e-4)
    assert queue.key({"gpu": 0.5}, 2.0) == pytest.approx(0.0055, abs=1e-4)
    assert queue.key({}, 0.0) == inf
    queue.sample(to_us(300), {"gpu": 64})
    assert queue.penalty == {}
    assert queue.key({}, 1.0) == pytest.approx(0.022, abs=1e-4)


def test_an_average_decays_to_nothing() -> None:
    queue = Smoothed(to_us(60))
    queue.sample(to_us(60), {"gpu": 8})
    for _ in range(40):
        queue.sample(to_us(60), {})
    assert queue.consumed == {"gpu": 0}


def test_without_a_half_life_nothing_counts() -> None:
    queue = Smoothed(0)
    queue.sample(to_us(60), {"gpu": 8})
    queue.start(to_us(60), {"gpu": 8})
    assert queue.key({}, 1.0) == 0.0


@pytest.mark.parametrize(
    ("k", "expected"), [(0.0, (0.5, 0.5)), (0.5, (0.35, 0.65)), (1.0, (0.2, 0.8)), (5 / 3, (0, 1))]
)
def test_use_moves_weights_by_k(k: float, expected: tuple[float, float]) -> None:
    assert usage.weights_by_usage([3, 3], [0.8, 0.2], k) == pytest.approx(expected)


def test_weights_without_a_sum_are_none() -> None:
    assert usage.weights_by_usage([0, 0], [0.1, 0.2], 1.0) == [0.0, 0.0]
    assert usage.weights_by_usage([1, 1], [1.0, 0.0], 4.0) == [0.0, 2.5]  # never below 0


def test_use_as_a_share_of_what_the_cluster_had() -> None:
    """24 GPU hours of 100; decayed, what is older counts less, whatever the steps."""
    capacity, queue = Decayed(), Decayed()
    capacity.advance(to_us(36_000), 10)
    queue.advance(to_us(10_800), 8)
    queue.advance(to_us(25_200), 0)
    assert queue.ratio_of(capacity) == pytest.approx(0.24)
    assert Decayed().ratio_of(Decayed()) == 0.0

    once, steps = Decayed(to_us(3600)), Decayed(to_us(3600))
    once.advance(to_us(7200), 4)
    for _ in range(720):
        steps.advance(to_us(10), 4)
    assert steps.amount_us == pytest.approx(once.amount_us)
    assert Decayed(0).ratio_of(capacity) == 0.0


def test_slurms_half_life_leaves_a_little_more_than_half() -> None:
    used = Billed(WEEK_US)
    used.advance(to_us(60), 100.0)
    before_s = used.amount_s
    used.advance(WEEK_US, 0.0)
    assert used.amount_s / before_s == pytest.approx(0.50007, abs=1e-5)
    never = Billed(FOREVER_US)
    never.advance(to_us(10), 2.0)
    never.advance(WEEK_US, 0.0)
    assert never.amount_s == 20.0


def test_slurms_use_is_billed_by_periods_however_seldom_one_asks() -> None:
    """Ten half-lives at once are 7,200 periods of 300 s and a last one of 100 s."""
    period_us = to_us(300)
    once, steps = Billed(WEEK_US, 5.0), Billed(WEEK_US, 5.0)
    once.advance(10 * WEEK_US + to_us(100), 4.0, period_us)
    for _ in range(10 * WEEK_US // period_us):
        steps.advance(period_us, 4.0)
    steps.advance(to_us(100), 4.0)
    assert once.amount_s == pytest.approx(steps.amount_s)
    assert once.amount_s > 4.0 * 604_800
    never = Billed(FOREVER_US)
    never.advance(to_us(700), 2.0, period_us)
    assert never.amount_s == 1400.0


def account(name: str, *below: Association, shares: int = 1) -> Association:
    return Association(name, shares, sum(one.used for one in below), False, list(below))


def test_the_fair_tree_of_slurms_example() -> None:
    """A uses 60 of 100 and B 40, of equal shares: B's user first, then A's by their own use."""
    root = account(
        "root",
        account("A", Association("a1", used=60.0), Association("a2")),
        account("B", Association("b1", used=40.0)),
    )
    assert usage.fair_tree(root) == {"b1": 1.0, "a2": 2 / 3, "a1": 1 / 3}


def test_users_of_equal_standing_have_one_rank_and_the_next_skips_theirs() -> None:
    root = account(
        "root",
        Association("x", used=10.0),
        Association("y", used=10.0),
        Association("z", used=80.0),
        Association("none", shares=0),
    )
    assert usage.fair_tree(root) == {"x": 1.0, "y": 1.0, "z": 0.5, "none": 0.25}


def test_children_of_equal_accounts_are_ranked_together() -> None:
    """A and B used 50 each. Their users go by their standing in their own account."""
    root = account(
        "root",
        account("A", Association("a1", used=40.0), Association("a2", used=10.0)),
        account("B", Association("b1", used=30.0), Association("b2", used=20.0)),
    )
    assert usage.fair_tree(root) == {"a2": 1.0, "b2": 0.75, "b1": 0.5, "a1": 0.25}


def test_a_user_and_an_account_of_equal_standing_share_a_rank() -> None:
    root = account(
        "root",
        account("A", Association("a1", used=30.0), Association("a2", used=20.0)),
        Association("u", used=50.0),
    )
    assert usage.fair_tree(root) == {"u": 1.0, "a2": 1.0, "a1": 1 / 3}


def test_an_account_without_users_ranks_nobody() -> None:
    assert usage.fair_tree(account("root", account("empty"))) == {}


def test_a_wait_grows_to_its_bound() -> None:
    ages = [usage.age_ratio(to_us(days * DAY_S), WEEK_US) for days in (0, 3.5, 7, 70)]
    assert ages == [0.0, 0.5, 1.0, 1.0]
