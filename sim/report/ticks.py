"""Where axes have their labels, and what these say: at least two on every axis.

Time axes count as `wording.clock` does: from the run's zero, which is day 0, 00:00.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from scheduler.core.times import DAY_S, HOUR_S
from sim.report.wording import count

MINUTE_S = 60.0
MOST = 7  #: labels of a time axis
#: steps of a time axis, s; below a second they are 1, 2 and 5 of a power of ten
STEPS_S = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(n * MINUTE_S for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR_S for n in (1, 2, 3, 6, 12)),
    *(n * DAY_S for n in (1, 2, 7, 14, 28, 50, 100, 200, 500, 1000)),
)
#: round durations of a logarithmic axis, s, and those between them where the axis is short
ROUND_S = (
    *(1.0, 10.0, MINUTE_S, 10 * MINUTE_S, HOUR_S, 6 * HOUR_S),
    *(n * DAY_S for n in (1, 7, 30, 100, 1000)),
)
BETWEEN_S = (
    *(2.0, 5.0, 20.0, 30.0),
    *(n * MINUTE_S for n in (2, 5, 20, 30)),
    *(n * HOUR_S for n in (2, 3, 12)),
    *(n * DAY_S for n in (2, 3, 14, 60, 200, 500)),
)


def time_axis(axes: Axes, start_s: float, end_s: float) -> None:
    """Label an axis of seconds from `start_s` to `end_s` with days, or with days and times."""
    span_s = max(end_s - start_s, 1e-6)
    axes.set_xlim(start_s, start_s + span_s)
    step_s = time_step(span_s)
    first, last = math.ceil(start_s / step_s - 1e-9), math.floor((start_s + span_s) / step_s + 1e-9)
    at = [number * step_s for number in range(first, last + 1)]
    axes.set_xticks(at, [time_label(time_s, step_s, names_day=time_s == at[0]) for time_s in at])
    axes.set_xlabel("days" if step_s >= DAY_S else "day and time")


def time_step(span_s: float) -> float:
    """Return the least step that gives a span of time at most `MOST` labels, and at least two."""
    found = next((step_s for step_s in STEPS_S if span_s <= MOST * step_s), None)
    if found is None:
        return math.ceil(span_s / MOST / (1000 * DAY_S)) * 1000 * DAY_S
    if found > STEPS_S[0] or span_s > MOST / 2:
        return found
    power = 10.0 ** math.floor(math.log10(span_s / MOST))
    return next(power * n for n in (1, 2, 5, 10) if span_s <= MOST * power * n * (1 + 1e-9))


def time_label(time_s: float, step_s: float, *, names_day: bool = False) -> str:
    """Return the label of one moment on an axis with such steps: 12, day 12, 14:03, 14:03:30."""
    if step_s >= DAY_S:
        return f"{time_s / DAY_S:.0f}"
    if step_s < 1.0:
        return f"{time_s:.6g} s"
    day, rest = divmod(round(time_s), int(DAY_S))
    if rest == 0:
        return f"day {day}"
    hours, rest = divmod(rest, int(HOUR_S))
    minutes, seconds = divmod(rest, 60)
    clock = f"{hours:02d}:{minutes:02d}" + (f":{seconds:02d}" if step_s < MINUTE_S else "")
    return f"day {day} {clock}" if names_day else clock


def log_durations(axes: Axes) -> None:
    """Label a logarithmic y axis of seconds with round durations, and widen it to two of them."""
    _log_axis(axes.yaxis, axes.get_ylim, axes.set_ylim, ROUND_S, BETWEEN_S, _short)


def log_counts(axes: Axes, least: float = 1.0) -> None:
    """Label a logarithmic y axis with powers of ten from `least`, and widen it to two labels."""
    tens = tuple(least * 10.0**power for power in range(16 - round(math.log10(least))))
    between = tuple(n * ten for ten in tens for n in (2, 5))
    _log_axis(axes.yaxis, axes.get_ylim, axes.set_ylim, tens, between, _plain)


def _plain(value: float) -> str:
    return count(value) if value >= 1 else f"{value:g}"


def _log_axis(
    axis: Axis,
    limits: Callable[[], tuple[float, float]],
    widen: Callable[[float, float], object],
    round_: Sequence[float],
    between: Sequence[float],
    form: Callable[[float], str],
) -> None:
    low, high = limits()
    every = sorted({*round_, *between})
    at = [value for value in round_ if low <= value <= high]
    if len(at) < 3:
        at = [value for value in every if low <= value <= high]
    if len(at) < 2:
        low = max((value for value in every if value <= low * (1 + 1e-9)), default=every[0])
        high = min((value for value in every if value >= high * (1 - 1e-9)), default=every[-1])
        if low >= high:
            place = every.index(low)
            low, high = every[max(place - 1, 0)], every[min(place + 1, len(every) - 1)]
        at = [value for value in every if low <= value <= high]
        widen(low / 1.1, high * 1.1)
    axis.set_ticks(at, labels=[form(value) for value in at])
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _short(seconds: float) -> str:
    """Return a round duration: 10 s, 6 h, 1 d."""
    for size, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def whole_numbers(axis: Axis) -> None:
    """Label a linear axis of things that have no halves, such as nodes."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=2))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def counts(axis: Axis) -> None:
    """Label a linear axis of counts that begins at 0."""
    axis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=2))
    axis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
