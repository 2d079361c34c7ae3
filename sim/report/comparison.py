"""Arms side by side: one row per cluster size and arm, the best of a size, and changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from sim.report.digest import Digest, Figures, overall
from sim.report.wording import MINUS, bounded, count, duration, exact, number, percent
from sim.runs.metrics import Quantile

NOT_KNOWN = "not known"
BEST = "✓"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of the table."""

    group: str  #: heading over several columns; empty for one of its own
    label: str
    of: Callable[[Any], Quantile]  #: figures of a run, or of one of its queues
    form: Callable[[float], str]
    unit: str = ""  #: of a change that is not given in percent
    is_better: int = -1  #: -1: less is better, 1: more is; 0: neither is
    in_points: bool = False  #: a ratio: changes are percentage points


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure as text."""

    text: str
    change: str = ""  #: from the first arm of the size
    spread: str = ""  #: lowest and highest of several seeds
    is_best: bool = False

    @property
    def plain(self) -> str:
        """All of it in one line."""
        text = f"{self.text} {BEST}" if self.is_best else self.text
        more = ", ".join(part for part in (self.spread, self.change) if part)
        return f"{text} ({more})" if more else text


@dataclass(frozen=True, slots=True)
class Row:
    """One arm on one cluster size."""

    nodes: str
    arm: str
    cells: tuple[Cell, ...]
    begins_group: bool  #: the first arm of a cluster size


def _known(value: float) -> Quantile:
    return Quantile(float(value), False)


def columns(digests: Sequence[Digest]) -> tuple[Column, ...]:
    """Return the columns of the table; goodput where a run has costs."""
    pending = ("pending pods", "queueing delay", "JCT", "bounded slowdown", "GPU-hours lost in")
    found = [
        Column(pending[0], "p50", lambda f: _known(overall(f)["p50_pods"]), count, "pods"),
        Column(pending[0], "p99", lambda f: _known(overall(f)["p99_pods"]), count, "pods"),
        Column(pending[0], "max", lambda f: _known(overall(f)["max_pods"]), count, "pods"),
        Column(pending[1], "p50", lambda f: f.delay[0], duration),
        Column(pending[1], "p95", lambda f: f.delay[1], duration),
        Column(pending[2], "p50", lambda f: f.completion["jct_p50_s"], duration),
        Column(pending[2], "p95", lambda f: f.completion["jct_p95_s"], duration),
        Column(pending[3], "p50", lambda f: f.completion["slowdown_p50"], number),
        Column(pending[3], "p95", lambda f: f.completion["slowdown_p95"], number),
        Column("GPU time", "allocated", lambda f: _known(f.use.allocation_ratio), percent,
               is_better=0, in_points=True),
        Column("GPU time", "of it for nothing", lambda f: _known(f.use.idle_hold_ratio), percent,
               in_points=True),
        Column(pending[4], "partial holds", lambda f: _known(f.use.idle_hold_gpu_h), number),
        Column(pending[4], "timeouts", lambda f: _known(f.timeout_gpu_h), number),
    ]  # fmt: skip
    if any(one.whole.held is not None for one in digests):
        goodput = Column("", "goodput", _goodput, percent, is_better=1, in_points=True)
        found.insert(11, goodput)
    return tuple(found)


def _goodput(figures: Figures) -> Quantile:
    return _known(np.nan if figures.held is None else figures.held["productive"])


def groups(shown: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Return headings in two lines: each with the columns below it; a lone one has none."""
    found: list[tuple[str, list[str]]] = []
    for column in shown:
        if not column.group:
            found.append((column.label, []))
        elif found and found[-1][0] == column.group:
            found[-1][1].append(column.label)
        else:
            found.append((column.group, [column.label]))
    return found


def by_size_and_arm(digests: Sequence[Digest]) -> list[list[list[Digest]]]:
    """Return the runs of each cluster size, of each arm, of each seed, in the order given."""
    found: dict[int, dict[str, list[Digest]]] = {}
    for one in digests:
        found.setdefault(one.head.nodes, {}).setdefault(one.head.arm, []).append(one)
    return [list(arms.values()) for arms in found.values()]


def middle(values: Sequence[Quantile]) -> Quantile:
    """Return the median over seeds: a lower bound if one of them is."""
    known = [one for one in values if not isnan(one.value)]
    if not known:
        return Quantile(np.nan, False)
    return Quantile(
        float(np.median([one.value for one in known])), any(one.is_lower_bound for one in known)
    )


def rows(
    digests: Sequence[Digest], of: Callable[[Digest], Figures], shown: Sequence[Column]
) -> Iterator[Row]:
    """Yield the table: medians over seeds, changes from the first arm of each size, the best."""
    for arms in by_size_and_arm(digests):
        figures = [[of(one) for one in seeds] for seeds in arms]
        same_jobs = len({(one[0].num_jobs, one[0].left_out.names_sha256) for one in figures}) == 1
        values = [[[column.of(one) for one in seeds] for seeds in figures] for column in shown]
        middles = [[middle(seeds) for seeds in column] for column in values]
        best = [
            best_of(column, found) if same_jobs else set()
            for column, found in zip(shown, middles, strict=True)
        ]
        for at, seeds in enumerate(arms):
            cells = [
                Cell(
                    text=bounded(found[at], column.form),
                    change="" if at == 0 else change(column, found[at], found[0]),
                    spread=_spread(column, of_arm[at]),
                    is_best=at in winners,
                )
                for column, found, of_arm, winners in zip(shown, middles, values, best, strict=True)
            ]
            num_jobs = sorted({one.num_jobs for one in figures[at]})
            jobs = exact(num_jobs[0]) if len(num_jobs) == 1 else _range(num_jobs, exact)
            yield Row(
                nodes=exact(seeds[0].head.nodes),
                arm=seeds[0].head.arm,
                cells=(Cell(jobs, _without(figures[at][0].left_out.num_jobs)), *cells),
                begins_group=at == 0,
            )


def _without(num_jobs: int) -> str:
    if not num_jobs:
        return ""
    return f"without {exact(num_jobs)} that never fit{'s' if num_jobs == 1 else ''}"


def best_of(column: Column, values: Sequence[Quantile]) -> set[int]:
    """Return which arms have the best value; none where bounds leave it open, or all are equal.

    A lower bound is never the best: what it stands for may be anything above it. Values that
    read alike are equally good.
    """
    if not column.is_better or len(values) < 2:
        return set()
    known = [at for at, one in enumerate(values) if not isnan(one.value)]
    exactly = [at for at in known if not values[at].is_lower_bound]
    if not exactly:
        return set()
    top = min(exactly, key=lambda at: -column.is_better * values[at].value)
    text = column.form(values[top].value)
    for at in known:
        bound = values[at]
        if bound.is_lower_bound and (column.is_better > 0 or bound.value < values[top].value):
            return set()
    winners = {at for at in exactly if column.form(values[at].value) == text}
    return set() if len(winners) == len(values) else winners


def change(column: Column, value: Quantile, base: Quantile) -> str:
    """Return the signed change from the first arm, in percent where that has a meaning."""
    if isnan(value.value) or isnan(base.value):
        return ""
    if value.is_lower_bound and base.is_lower_bound:
        return NOT_KNOWN
    mark = "≥ " if value.is_lower_bound else "≤ " if base.is_lower_bound else ""
    return mark + _signed_change(column, value.value, base.value)


def _signed_change(column: Column, value: float, base: float) -> str:
    if column.form(value) == column.form(base):
        return "same"
    if column.in_points:
        points = signed(100 * (value - base), _few)
        return f"{points} point{'' if points[1:] == '1' else 's'}"
    if base > 0 and value / base < 10:
        least = -100.0 if value == 0 else -99.9  # what is left is not nothing
        return signed(max(100 * (value / base - 1), least), _few) + " %"
    text = signed(value - base, column.form)
    if not column.unit:
        return text
    return f"{text} {column.unit.removesuffix('s') if text[1:] == '1' else column.unit}"


def percent_more(ratio: float) -> str:
    """Return how much more a ratio is than 1: 12 %."""
    return f"{_few(100 * (ratio - 1))} %"


def _few(value: float) -> str:
    if 99 < value < 100:
        return f"{value:.1f}"
    return f"{value:.0f}" if value >= 1 else f"{value:.1g}"


def signed(value: float, form: Callable[[float], str]) -> str:
    """Return a number with its sign."""
    return f"{MINUS if value < 0 else '+'}{form(abs(value))}"


def _spread(column: Column, values: Sequence[Quantile]) -> str:
    known = [one.value for one in values if not isnan(one.value)]
    if len(values) < 2 or not known:
        return ""
    return _range((min(known), max(known)), column.form)


def _range(values: Sequence[float], form: Callable[[float], str]) -> str:
    low, high = form(values[0]), form(values[-1])
    return low if low == high else f"{low} to {high}"
