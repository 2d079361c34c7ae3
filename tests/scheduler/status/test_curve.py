"""The curve is the step function that was, bounded; its last point is now."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.times import DAY_S
from scheduler.status import curve as module
from scheduler.status.curve import ENVELOPE_S, GAP_S, MOST_EXACT, Curve

T0 = 1_000_020.0  #: in the middle of no stretch of the envelope


def held(points: list[dict[str, float]], unix_s: float) -> float | None:
    """Return how many pods wait at a time, by a curve; None where it does not say."""
    at = bisect_right([point["unix_s"] for point in points], unix_s) - 1
    if at < 0 or points[at].get("until_unix_s", unix_s) < unix_s:
        return None
    return points[at].get("capacity", 0)


def walk(gaps_s: list[float], counts: list[int]) -> tuple[Curve, list[tuple[float, int]]]:
    """Return the curve of what held at times, and the same as it was told."""
    curve, told, now_s = Curve(), [], T0
    for gap_s, count in zip(gaps_s, counts, strict=False):
        now_s = round(now_s + gap_s, 3)
        curve.add(now_s, {"capacity": count} if count else {})
        told.append((now_s, count))
    return curve, told


@given(
    gaps_s=st.lists(st.floats(0.0, GAP_S - 1), min_size=1, max_size=200),
    counts=st.lists(st.integers(0, 3), min_size=200, max_size=200),
)
def test_what_waits_at_any_time_is_what_was_told_last(
    gaps_s: list[float], counts: list[int]
) -> None:
    curve, told = walk(gaps_s, counts)
    last = dict(told)  # of one moment the later word holds
    points = curve.until(told[-1][0] + 5.0, {"capacity": 7})
    for at_s, count in last.items():
        assert held(points, at_s) == count
    for (at_s, _), (next_s, _) in pairwise(told):
        assert held(points, (at_s + next_s) / 2) == last[at_s]
    assert points[-1] == {"unix_s": told[-1][0] + 5.0, "capacity": 7}, "the last point is now"


def test_pods_that_waited_for_a_moment_are_a_moment_wide() -> None:
    """A block as wide as the next sample showed 195 pods as pending while none was."""
    curve = Curve()
    for at_s, count in ((0.0, 0), (10.0, 195), (12.5, 0)):
        curve.add(T0 + at_s, {"capacity": count})
    points = curve.until(T0 + 50.0, {})
    assert [held(points, T0 + at) for at in (9.9, 10.0, 12.4, 12.5, 50.0)] == [0, 195, 195, 0, 0]


@pytest.fixture(scope="module")
def few() -> Iterator[int]:
    """Keep few steps as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_EXACT", 20)
        yield 20


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=300))
def test_what_is_old_keeps_its_highest_its_lowest_and_its_last(few: int, counts: list[int]) -> None:
    curve, told = walk([1.7] * len(counts), counts)
    points = curve.points()
    assert len(points) <= 3 * (1.7 * len(counts) / ENVELOPE_S + 1) + 2 * few
    assert set(told) >= {(p["unix_s"], p.get("capacity", 0)) for p in points}, "none is made up"
    for stretch in {at_s // ENVELOPE_S for at_s, _ in told}:
        was = [count for at_s, count in told if at_s // ENVELOPE_S == stretch]
        is_ = [p.get("capacity", 0) for p in points if p["unix_s"] // ENVELOPE_S == stretch]
        carried = held(points, stretch * ENVELOPE_S)
        seen = [*is_, *([carried] if carried is not None else [])]
        assert max(seen) >= max(was) and min(seen) <= min(was)
        assert held(points, min((stretch + 1) * ENVELOPE_S - 0.001, told[-1][0])) == was[-1]


def test_a_day_of_changes_is_bounded_and_what_is_older_is_forgotten() -> None:
    curve = Curve()
    for number in range(60_000):
        curve.add(T0 + 2.0 * number, {"capacity": number % 7})
    now_s = T0 + 120_000.0
    points = curve.until(now_s, {"capacity": 1})
    assert len(points) <= 3 * (DAY_S / ENVELOPE_S + 2) + 2 * MOST_EXACT
    assert points[0]["unix_s"] == now_s - DAY_S, "what held as the day began is known"


def test_what_held_for_longer_than_a_day_holds() -> None:
    curve = Curve()
    for minute in range(3000):
        curve.add(T0 + 60.0 * minute, {"capacity": 5})
    now_s = T0 + 60.0 * 3000
    first, last = curve.until(now_s, {"capacity": 5})
    assert first == {"unix_s": now_s - DAY_S, "capacity": 5} and last["unix_s"] == now_s


def test_where_nobody_looked_nothing_is_said() -> None:
    curve = Curve()
    for at_s in (0.0, 60.0, 5000.0):
        curve.add(T0 + at_s, {"capacity": 5})
    points = curve.until(T0 + 5001.0, {"capacity": 5})
    assert [held(points, T0 + at_s) for at_s in (60.0, 61.0, 4999.0, 5000.0)] == [5, None, None, 5]
    assert held(curve.until(T0 + 9000.0, {}), T0 + 8000.0) is None


def test_a_clock_that_was_set_back_forgets_what_it_has_not_seen() -> None:
    curve = Curve()
    curve.add(T0, {"capacity": 1})
    curve.add(T0 + 100.0, {"capacity": 2})
    curve.add(T0 + 40.0, {})
    assert [point["unix_s"] for point in curve.points()] == [T0, T0 + 40.0]
    assert held(curve.until(T0 + 41.0, {}), T0 + 40.5) == 0
