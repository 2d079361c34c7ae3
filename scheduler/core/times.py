"""Times of the core: whole microseconds, so that what ties in decimals ties here.

Drivers convert at their edge: what they know in seconds is rounded to the nearest microsecond, half
to even.
"""

from __future__ import annotations

from math import inf
from typing import Final

US_PER_S = 1_000_000
#: for drivers, which count in seconds
HOUR_S = 3_600.0
DAY_S = 86_400.0
#: stands for a time that never comes, and for a limit that there is not
FOREVER_US = 1 << 60
#: A float that has no room for a fraction once so much is added: the sum is rounded, half to even,
#: by the addition itself, in a tenth of the time that `round` takes.
_ROUNDER: Final = 1.5 * 2.0**52
_EXACT: Final = 2.0**51


def to_us(seconds: float) -> int:
    """Return the nearest whole microsecond, half to even; `FOREVER_US` for more than that, or inf.

    Exact for decimals of up to six places as long as a float tells neighbours apart: 71 years.
    """
    us = seconds * 1e6
    if -_EXACT < us < _EXACT:
        return int((us + _ROUNDER) - _ROUNDER)
    return round(us) if us < FOREVER_US else FOREVER_US


def to_s(us: int) -> float:
    """Return the float nearest to so many microseconds; inf for `FOREVER_US`."""
    return us / 1e6 if us < FOREVER_US else inf


def ends_us(start_us: int, limit_us: int) -> int:
    """Return when something ends that starts then and lasts so long."""
    return start_us + limit_us if limit_us < FOREVER_US else FOREVER_US


def duration(seconds: float) -> str:
    """Return a time span as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
