"""The table of arms: which value is the best, and how others differ from the first arm."""

from __future__ import annotations

from math import nan

import pytest

from sim.report.comparison import Column, best_of, change, middle
from sim.report.wording import count, duration, percent
from sim.runs.metrics import Quantile

DELAY = Column("queueing delay", "p95", lambda figures: figures.delay[1], duration)
PODS = Column("pending pods", "p99", lambda figures: figures.delay[1], count, "pods")
SHARE = Column(
    "", "allocation", lambda figures: figures.delay[1], percent, is_better=0, in_points=True
)
GOODPUT = Column(
    "", "goodput", lambda figures: figures.delay[1], percent, is_better=1, in_points=True
)


def known(*values: float) -> list[Quantile]:
    return [Quantile(value, False) for value in values]


def bound(value: float) -> Quantile:
    return Quantile(value, True)


def test_the_lowest_wait_is_the_best_and_values_that_read_alike_are_equally_good() -> None:
    assert best_of(DELAY, known(60, 30, 90)) == {1}
    assert best_of(DELAY, known(60, 30.001, 30.002)) == {1, 2}
    assert best_of(GOODPUT, known(0.6, 0.7)) == {1}


def test_nothing_is_best_among_equals_or_alone_or_where_neither_way_is_better() -> None:
    assert best_of(DELAY, known(60, 60)) == set()
    assert best_of(DELAY, known(60)) == set()
    assert best_of(SHARE, known(0.6, 0.7)) == set()
    assert best_of(DELAY, known(nan, nan)) == set()


def test_a_lower_bound_is_never_the_best() -> None:
    assert best_of(DELAY, [bound(30), *known(60)]) == set()  # it may stand for more or for less
    assert best_of(DELAY, [bound(90), *known(60)]) == {1}  # it is above 60 for sure
    assert best_of(DELAY, [bound(60), *known(60, 70)]) == {1}
    assert best_of(DELAY, [bound(30), bound(60)]) == set()
    assert best_of(DELAY, known(nan, 60, 70)) == {1}


@pytest.mark.parametrize(
    ("column", "value", "base", "says"),
    [
        (DELAY, 30.0, 60.0, "\N{MINUS SIGN}50 %"),
        (DELAY, 60.2, 60.0, "same"),
        (DELAY, 90.0, 60.0, "+50 %"),
        (DELAY, 7200.0, 1.0, "+2.00 h"),
        (DELAY, 30.0, 0.0, "+30.0 s"),
        (PODS, 12.0, 0.0, "+12 pods"),
        (PODS, 0.0, 0.0, "same"),
        (SHARE, 0.65, 0.7, "\N{MINUS SIGN}5 points"),
        (DELAY, nan, 60.0, ""),
    ],
)
def test_changes_are_signed_and_have_a_unit(
    column: Column, value: float, base: float, says: str
) -> None:
    assert change(column, *known(value, base)) == says


def test_changes_of_bounds_are_bounds() -> None:
    assert change(DELAY, bound(90), known(60)[0]) == "≥ +50 %"
    assert change(DELAY, known(30)[0], bound(60)) == "≤ \N{MINUS SIGN}50 %"
    assert change(DELAY, bound(30), bound(60)) == "not known"


def test_a_median_over_seeds_is_a_bound_if_one_of_them_is() -> None:
    assert middle([*known(10, 20), bound(30)]) == bound(20)
    assert middle(known(10, nan, 30)) == Quantile(20, False)


def test_what_sums_leave_of_nothing_is_nothing() -> None:
    assert [percent(ratio) for ratio in (4e-17, 0.0, 0.003, 0.71)] == [
        "0 %",
        "0 %",
        "0.3 %",
        "71 %",
    ]
