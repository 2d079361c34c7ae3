"""Whole microseconds: what decimals say exactly, the core has exactly."""

from __future__ import annotations

from decimal import Decimal
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.times import FOREVER_US, ends_us, to_s, to_us

SEVENTY_YEARS_US = 70 * 365 * 86_400 * 1_000_000


@given(st.integers(-SEVENTY_YEARS_US, SEVENTY_YEARS_US))
def test_six_decimals_are_exact_there_and_back(us: int) -> None:
    text = str(Decimal(us).scaleb(-6))
    assert to_us(float(text)) == us
    assert to_s(us) == float(text)


@pytest.mark.parametrize(
    ("seconds", "us"),
    [(0.0000005, 0), (0.0000015, 2), (0.00000051, 1), (0.1 + 0.2, 300_000), (-0.0000015, -2)],
)
def test_finer_times_are_rounded_half_to_even(seconds: float, us: int) -> None:
    assert to_us(seconds) == us


def test_what_never_comes_stays_so() -> None:
    assert to_us(inf) == to_us(1e300) == ends_us(5, FOREVER_US) == FOREVER_US
    assert to_s(FOREVER_US) == inf
    assert ends_us(5, 7) == 12
