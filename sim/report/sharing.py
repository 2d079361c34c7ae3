"""How queues share a cluster under each arm: who gains and who loses, what each had, and curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan
from typing import Any

import pandas as pd

from sim.report import comparison, curves, gains
from sim.report.comparison import Cell, Column, Row
from sim.report.digest import Digest
from sim.report.pictures import Picture, render
from sim.report.queues import QueueFigures, by_waiting, count_or_dash
from sim.report.wording import bounded, counted, duration, exact, listed, number, percent
from sim.runs.metrics import Quantile

#: queues in the open; the others unfold
MOST_OPEN = 8
MOST_EVICTED = 12
MOST_PICTURES = 12  #: of a workload; one seed of each arm, the largest cluster first
COLUMNS = (
    Column("wait", "p50", lambda q: q.wait_p50, duration),
    Column("wait", "p95", lambda q: q.wait_p95, duration),
    Column("", "makespan", lambda q: q.makespan, duration),
    Column("", "pod-hours waited", lambda q: _known(q.waiting), number),
    Column("GPU time", "share", lambda q: _known(q.share_ratio), percent, in_points=True),
    Column("GPU time", "of all quota", lambda q: _known(q.nominal_ratio), percent, in_points=True),
    Column("GPU-hours", "used", lambda q: _known(q.used_gpu_h), number),
    Column("GPU-hours", "borrowed", lambda q: _known(q.borrowed_gpu_h), number),
    Column("GPU-hours", "lent", lambda q: _known(q.lent_gpu_h), number),
    Column("evictions", "suffered", lambda q: _known(q.preemptions), count_or_dash),
    Column("evictions", "caused", lambda q: _known(q.preemptions_caused), count_or_dash),
    Column("GPU-hours lost", "by it", lambda q: _known(q.lost_gpu_h), number),
    Column("GPU-hours lost", "for it", lambda q: _known(q.caused_gpu_h), number),
)
#: columns of which nothing is to be said where no queue has anything in them
_EVICTIONS = ("evictions", "GPU-hours lost")


def _known(value: float) -> Quantile:
    return Quantile(float(value), False)


@dataclass(frozen=True, slots=True)
class Curves:
    """The pending pods of the queues of one run."""

    arm: str
    caption: str
    picture: Picture


@dataclass(frozen=True, slots=True)
class OfSize:
    """The queues on one cluster size, each under every arm."""

    title: str
    num_arms: int
    sentences: tuple[str, ...]  #: who gains and who loses, against the first arm
    heading: list[tuple[str, list[str]]]
    rows: tuple[Row, ...]  #: of the queues that wait most; `nodes` of a row is the queue
    more: tuple[Row, ...]  #: of the others
    num_more: int
    #: who was evicted for whom: arm, queue, for queue, gangs, GPU-hours lost
    evicted: tuple[tuple[str, ...], ...]
    num_evicted: int  #: pairs of queues; `evicted` has those that lost most
    curves: tuple[Curves, ...]
    is_open: bool  #: the largest cluster is shown, the others unfold

    @property
    def labels(self) -> list[str]:
        """Headings in one line."""
        found = ["jobs"]
        for group, labels in self.heading:
            found += [f"{group} {label}" for label in labels] or [group]
        return found


def sharing(digests: Sequence[Digest]) -> tuple[OfSize, ...]:
    """Return what there is to say of queues, the largest cluster first; empty without several.

    `digests` are the runs of one workload, in the order of the page.
    """
    if not any(one.queues for one in digests):
        return ()
    by_size = comparison.by_size_and_arm(digests)
    drawn = [seeds[0] for arms in reversed(by_size) for seeds in arms if seeds[0].of_queues]
    pictures = {id(one): _curves(one) for one in drawn[:MOST_PICTURES]}
    return tuple(_of_size(arms, pictures, arms is by_size[-1]) for arms in reversed(by_size))


# -- tables ------------------------------------------------------------------------------------


def _of_size(
    arms: Sequence[Sequence[Digest]], pictures: Mapping[int, Curves], is_open: bool
) -> OfSize:
    found = [[_by_name(one) for one in seeds] for seeds in arms]
    waited: dict[str, float] = {}
    for seeds in found:
        for of_seed in seeds:
            for name, one in of_seed.items():
                waited[name] = max(waited.get(name, 0.0), one.waiting)
    names = sorted(waited, key=lambda name: -waited[name])
    evicted = [row for seeds in arms for row in _evicted(seeds[0])]
    shown = _shown([one for seeds in found for of_seed in seeds for one in of_seed.values()])
    arm_names = [seeds[0].head.arm for seeds in arms]
    rows = [list(_rows(name, arm_names, found, shown)) for name in names]
    return OfSize(
        title=counted(arms[0][0].head.nodes, "node"),
        num_arms=len(arms),
        sentences=tuple(_gains(arms)),
        heading=comparison.groups(shown),
        rows=tuple(row for mine in rows[:MOST_OPEN] for row in mine),
        more=tuple(row for mine in rows[MOST_OPEN:] for row in mine),
        num_more=len(rows[MOST_OPEN:]),
        evicted=tuple(row for _, row in sorted(evicted, key=lambda one: -one[0])[:MOST_EVICTED]),
        num_evicted=len(evicted),
        curves=tuple(pictures[id(s[0])] for s in arms if id(s[0]) in pictures),
        is_open=is_open,
    )


def _evicted(one: Digest) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Yield the GPU-hours lost by a queue for another, and the row that says so."""
    for queue in one.queues:
        for other, gangs, lost_gpu_h in queue.evicted_for:
            texts = (one.head.arm, queue.queue, other, exact(gangs), number(lost_gpu_h))
            yield lost_gpu_h, texts


def _by_name(one: Digest) -> dict[str, QueueFigures]:
    return {queue.queue: queue for queue in one.queues}


def _shown(every: Sequence[QueueFigures]) -> list[Column]:
    """Return the columns in which some queue has something."""
    evicted = any(one.preemptions > 0 for one in every)
    lends = any(one.borrowed_gpu_h > 0 for one in every)
    return [
        column
        for column in COLUMNS
        if (evicted or column.group not in _EVICTIONS)
        and (lends or column.label not in ("borrowed", "lent"))
    ]


def _rows(
    name: str,
    arms: Sequence[str],
    found: Sequence[Sequence[dict[str, QueueFigures]]],
    shown: Sequence[Column],
) -> Iterator[Row]:
    """Yield a row for each arm in which there is a queue; changes are from the first of them."""
    there = [
        (arm, mine)
        for arm, seeds in zip(arms, found, strict=True)
        if (mine := [of_seed[name] for of_seed in seeds if name in of_seed])
    ]
    first = [comparison.middle([column.of(one) for one in there[0][1]]) for column in shown]
    for at, (arm, mine) in enumerate(there):
        cells = []
        for column, base in zip(shown, first, strict=True):
            value = comparison.middle([column.of(one) for one in mine])
            change = "" if at == 0 else comparison.change(column, value, base)
            cells.append(Cell(bounded(value, column.form), change))
        jobs = Cell(exact(mine[0].num_jobs), _never(mine[0].num_never))
        yield Row(name, arm, (jobs, *cells), begins_group=at == 0)


def _never(num_jobs: int) -> str:
    return f"{exact(num_jobs)} can never start" if num_jobs else ""


def _gains(arms: Sequence[Sequence[Digest]]) -> Iterator[str]:
    """Say who gains and who loses under each arm against the first, and which jobs never start."""
    for seeds in arms[1:]:
        if said := gains_of(arms[0], seeds):
            yield said
    for seeds in arms:
        never = [(one.num_never, one.queue) for one in seeds[0].queues if one.num_never]
        if never:
            most = [f"{name} ({exact(jobs)})" for jobs, name in sorted(never, reverse=True)]
            total = sum(jobs for jobs, _ in never)
            yield (
                f"{counted(total, 'job')} can never start under {seeds[0].head.arm}, and no wait "
                f"counts {'it' if total == 1 else 'them'}: {listed(most[: gains.MOST_NAMED])}"
                f"{' have most of them' if len(most) > gains.MOST_NAMED else ''}."
            )


def gains_of(first: Sequence[Digest], other: Sequence[Digest]) -> str:
    """Say which queues wait longer or less under another arm than under the first; of all seeds."""
    before, after = _p95(first), _p95(other)
    names = [seeds[0].head.arm for seeds in (first, other)]
    changes = [gains.Change(name, before[name], after[name]) for name in before if name in after]
    said = list(gains.sentences(changes, *names))
    for there, others, arm in ((after, before, names[1]), (before, after, names[0])):
        if only := [name for name in there if name not in others]:
            rest = [f"{exact(len(only) - MOST_OPEN)} more"] if len(only) > MOST_OPEN else []
            said.append(f"Only under {arm}: {listed([*only[:MOST_OPEN], *rest])}.")
    return " ".join(said)


def _p95(seeds: Sequence[Digest]) -> dict[str, Quantile]:
    """Return the p95 of the wait of each queue that has jobs, over seeds the median."""
    found: dict[str, list[Quantile]] = {}
    for one in seeds:
        for queue in one.queues:
            if queue.num_jobs or queue.num_never:
                found.setdefault(queue.queue, []).append(queue.wait_p95)
    return {name: comparison.middle(values) for name, values in found.items()}


# -- pictures ----------------------------------------------------------------------------------


def _curves(one: Digest) -> Curves:
    arm = one.head.arm + ("" if one.is_live else f", seed {one.head.seed}")
    where = f"{one.head.workload}, {counted(one.head.nodes, 'node')}, {arm}"
    name = f"queues-{one.head.workload}-{one.head.nodes}-{one.head.arm}-s{one.head.seed}"
    alt = curves.describe(one.of_queues, f"by queue, {where}")
    return Curves(arm, _caption(one), render(curves.draw(one.of_queues), name, alt))


def _caption(one: Digest) -> str:
    """Say who waits most, and for what."""
    total = sum(queue.waiting for queue in one.queues)
    if not total:
        return "No pod of any queue waits."
    most = [
        f"{queue.queue} {percent(queue.waiting / total)} ({queue.mostly})"
        for queue in by_waiting(one.queues)[:3]
        if queue.waiting
    ]
    return f"Of all waiting, by pod-time: {listed(most)}. Its panels have one scale."


# -- as tables ---------------------------------------------------------------------------------


def table_of(one: Digest) -> pd.DataFrame:
    """Return the figures of each queue as a tidy table."""
    return pd.DataFrame([_tidy(queue) for queue in one.queues])


def _tidy(one: QueueFigures) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field in fields(one):
        value = getattr(one, field.name)
        if isinstance(value, Quantile):
            row[f"{field.name}_s"] = value.value
            row[f"{field.name}_is_lower_bound"] = value.is_lower_bound
        elif isinstance(value, tuple):
            continue  # `evictions_of` has it
        elif isinstance(value, dict):
            row |= {f"waited_{reason}_pod_h": hours for reason, hours in value.items()}
        else:
            row[field.name] = None if isinstance(value, float) and isnan(value) else value
    return row


def evictions_of(one: Digest) -> pd.DataFrame:
    """Return who was evicted for whom as a tidy table."""
    return pd.DataFrame(
        [(queue.queue, *row) for queue in one.queues for row in queue.evicted_for],
        columns=["queue", "for_queue", "preemptions", "lost_gpu_h"],
    )
