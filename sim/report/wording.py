"""Figures as people read them: numbers, durations and clock times."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

from scheduler.core.times import DAY_S, HOUR_S
from sim.runs.metrics import Quantile

MINUS = "\N{MINUS SIGN}"  #: as long as a plus; lines do not break after it


def number(value: float) -> str:
    """Return three significant digits with thousands separated: 0.765, 12.3, 4,310."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    decimals = max(2 - math.floor(math.log10(abs(rounded))), 0)
    return f"{rounded:,.{decimals}f}"


def count(value: float) -> str:
    """Return a count with three significant digits: 42, 4,310."""
    if math.isnan(value):
        return "–"
    return number(value).split(".")[0] if value == round(value) else number(value)


def exact(value: float) -> str:
    """Return a count in full: 4,312."""
    return f"{value:,.0f}"


def counted(number: float, noun: str) -> str:
    """Return a count with its noun: 1 job, 4,312 jobs."""
    return f"{exact(number)} {noun}{'' if number == 1 else 's'}"


def plural(value: float, noun: str) -> str:
    """Return a count of three significant digits with its noun: 1 pod, 4,310 pods."""
    text = count(value)
    return f"{text} {noun}{'' if text == '1' else 's'}"


def listed(texts: Sequence[str], last: str = "and") -> str:
    """Return texts as a list in a sentence: a, b and c."""
    return f" {last} ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def percent(ratio: float) -> str:
    """Return a ratio as whole percent, or with three digits where that says more: 71 %, 0.3 %."""
    if math.isnan(ratio):
        return "–"
    value = 100 * ratio
    if abs(value) < 1e-9:  # what sums leave of nothing
        value = 0.0
    return f"{value:.0f} %" if value >= 1 or value == 0 else f"{value:.1g} %"


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits it: 12.3 s, 4.05 min, 7.20 h, 3.10 d."""
    if math.isnan(seconds):
        return "–"
    if seconds < 0.05:
        return "0 s"
    for unit, size, largest in (("s", 1, 60), ("min", 60, 3600), ("h", HOUR_S, 3 * DAY_S)):
        if seconds < largest * 0.9995:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds / DAY_S)} d"


def bounded(quantile: Quantile, form: Callable[[float], str]) -> str:
    """Return a quantile, marked where jobs that are not over could only raise it."""
    text = form(quantile.value)
    return f"≥ {text}" if quantile.is_lower_bound and not math.isnan(quantile.value) else text


_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": HOUR_S, "d": DAY_S}


def seconds(text: str, option: str) -> float:
    """Read a duration such as 90, 90s, 5min, 6h or 2d.

    Raises:
        ValueError: it is none, and names `option`.
    """
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) *(s|min|m|h|d)?", text.strip())
    if found is None:
        raise ValueError(
            f"{option} is {text!r}; give seconds, or a number with s, min, h or d, such as 6h"
        )
    return float(found[1]) * _UNITS[found[2] or "s"]


def clock(time_s: float) -> str:
    """Return a time of the run as day and time of day: day 12 14:03.

    The first day is day 0, as on the time axes: day 12 begins 12 days after the run's zero.
    """
    minutes = int(time_s // 60)
    days, minutes = divmod(minutes, 1440)
    return f"day {days} {minutes // 60:02d}:{minutes % 60:02d}"


def span(start_s: float, end_s: float) -> str:
    """Return two clock times, the second without its day where it is the same one."""
    start, end = clock(start_s), clock(end_s)
    same_day = start.rsplit(" ", 1)[0] == end.rsplit(" ", 1)[0]
    return f"{start} to {end.rsplit(' ', 1)[1] if same_day else end}"


def factor(ratio: float) -> str:
    """Return how many times as a short factor: 4.2x, 13x."""
    return f"{ratio:.2g}x" if ratio < 10 else f"{ratio:,.0f}x"


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> Iterator[str]:
    """Yield lines of columns: those of `left` to the left, all others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
