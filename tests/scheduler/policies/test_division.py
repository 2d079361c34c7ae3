"""Weighted division: quotas first, then the surplus by priority and weight, then fractions."""

from __future__ import annotations

from math import inf

import pytest

from scheduler.policies.division import Claim, divide


def test_the_example_of_three_queues() -> None:
    """10 GPUs, quotas 2, 2, 3: the surplus of 3 goes to the higher priority, 3/2 and 3/2."""
    claims = [
        Claim("a", 2, 10, weight=2, priority=2, created_s=2),
        Claim("b", 2, 10, weight=1, priority=2, created_s=1),
        Claim("c", 3, 10, weight=1, priority=1, created_s=0),
    ]
    divide(10, claims)
    assert [claim.share for claim in claims] == [4, 3, 3]


def test_a_half_each_goes_to_the_older() -> None:
    claims = [Claim("a", 2, 10, created_s=5), Claim("b", 2, 10, created_s=4)]
    divide(7, claims)
    assert [claim.share for claim in claims] == [3, 4]


def test_what_one_does_not_want_the_others_get() -> None:
    claims = [Claim("a", 0, 1), Claim("b", 0, 10, limit=3), Claim("c", 0, 10)]
    divide(12, claims)
    assert [claim.share for claim in claims] == [1, 3, 8]


def test_use_shifts_the_surplus_and_never_a_quota() -> None:
    heavy, light = Claim("heavy", 4, 20, used=0.8), Claim("light", 0, 20, used=0.2)
    divide(14, [heavy, light], k=1.0)
    assert (heavy.share, light.share) == (6, 8)


def test_children_divide_the_share_of_their_parent() -> None:
    below = [Claim("x", 0, 8), Claim("y", 0, 2)]
    parent = Claim("parent", 6, 10, below=below)
    divide(6, [parent])
    assert [claim.share for claim in below] == [4, 2]


@pytest.mark.parametrize("quota", [0.0, 9.0, inf])
def test_more_quota_than_there_is(quota: float) -> None:
    """Quotas above the total stay; without a bound a quota is the total."""
    claims = [Claim("a", quota, 20), Claim("b", 9.0, 20)]
    divide(10, claims)
    assert claims[1].share == 9.0
    assert claims[0].share == {0.0: 1.0, 9.0: 9.0, inf: 10.0}[quota]
    assert claims[0].allocatable == max(quota, claims[0].share)
