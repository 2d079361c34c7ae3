"""Each function of usage and division that is broken makes scenarios fail: they do test it."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scheduler import compiled
from scheduler.core import usage
from scheduler.core.usage import Smoothed
from scheduler.policies import division
from scheduler.policies.division import Claim
from tests.golden import test_kai, test_kueue_usage
from tests.golden.conftest import CHOSEN
from tests.golden.scenarios import scenarios

TESTS: tuple[ModuleType, ...] = (test_kai, test_kueue_usage)
divide, sample, start, rounds = division.divide, Smoothed.sample, Smoothed.start, division._rounds


def children_divide_what_may_be_held(total: float, claims: list[Claim], k: float = 0.0) -> None:
    divide(total, claims, k)
    for claim in claims:
        if claim.below:
            children_divide_what_may_be_held(claim.allocatable, claim.below, k)


def penalties_stay(queue: Smoothed, dt_us: int, running: dict[str, int]) -> None:
    penalty = queue.penalty
    sample(queue, dt_us, running)
    queue.penalty = penalty


def one_round(rest: float, claims: list[Claim], k: float) -> Any:
    kept = [claim for claim in claims if claim.open <= rest / len(claims)]
    return rounds(rest, kept, k)


BROKEN: dict[str, tuple[object, str, object]] = {
    "no quota first": (Claim, "quota", property(lambda _: 0.0, lambda *_: None)),
    "no limit": (Claim, "open", property(lambda one: max(0.0, one.request - one.share))),
    "quota is not allocatable": (Claim, "allocatable", property(lambda one: one.share)),
    "no priority": (division, "_urgency", lambda _: 0),
    "smallest remainder first": (
        division, "_largest_fraction", lambda left: (left[0], left[1].created_s, left[1].name)
    ),
    "fractions are given": (division, "floor", lambda value: value),
    "rounded up": (division, "floor", ceil),
    "all in one round": (division, "_rounds", one_round),
    "use does not count": (
        division, "weights_by_usage", lambda weights, used, _: usage_free(weights, used, 0.0)
    ),
    "equal weights": (
        division, "weights_by_usage", lambda weights, used, k: usage_free([1] * len(used), used, k)
    ),
    "children divide more": (division, "divide", children_divide_what_may_be_held),
    "nothing decays": (usage, "kept_ratio", lambda *_: 1.0),
    "rounded to the nearest": (usage, "_times", lambda amount, ratio: round(amount * ratio)),
    "penalties stay": (Smoothed, "sample", penalties_stay),
    "starts are free": (Smoothed, "start", lambda *_: None),
    "no order key": (Smoothed, "key", lambda *_: 0.0),
}  # fmt: skip
usage_free: Callable[..., list[float]] = usage.weights_by_usage


def failing(golden: Path) -> int:
    failed = 0
    for test in TESTS:
        for one in scenarios(golden):
            if one.kind in test.KINDS:
                try:
                    failed += test.told(one.fields) != one.fields["expect"]
                except (KeyError, ZeroDivisionError):
                    failed += 1
    return failed


@pytest.mark.skipif(compiled.which() == "compiled", reason="compiled functions cannot be replaced")
@pytest.mark.skipif(bool(CHOSEN), reason="another folder need not test every rule")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_function_is_seen(
    name: str, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BROKEN[name])
    assert failing(golden) > 0


def test_whole_functions_fail_nowhere(golden: Path) -> None:
    assert failing(golden) == 0
