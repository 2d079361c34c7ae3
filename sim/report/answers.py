"""What a report says first: what waits and why, what would help and whom it costs, how sure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.times import DAY_S
from scheduler.policies.catalog import DISCIPLINES
from sim.report import comparison, queues, sharing
from sim.report.days import part_word
from sim.report.digest import Digest, overall
from sim.report.growing import Growth, different_jobs
from sim.report.omissions import left_out_sentences
from sim.report.sizes import size_words
from sim.report.wording import (
    bounded,
    clock,
    count,
    counted,
    duration,
    exact,
    listed,
    percent,
    plural,
)
from sim.runs.metrics import SIZE_CLASSES, Quantile
from sim.schema.config import RunConfig

#: waits that differ by less are not spoken of
LEAST_S, LEAST_RATIO = 60.0, 0.1
MOST_COSTS = 3
ALIKE = 1.02  #: p99s within this factor are called equal
LEAST_HELD = 0.01  #: part of the held GPU time; a smaller one held for nothing is not spoken of
#: reasons that every pod has for a moment, however much is free
PASSING = (PendingReason.OWN_PARTIAL_HOLD, PendingReason.CONTROL_PLANE, PendingReason.STARTING)
MOSTLY = 0.95
CURVES = ("curves-largest", "curves")
TABLE_LINK = ("table", "table")
LEFT_OUT = (("left-out", "jobs left out"),)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, and the parts of the page that show it."""

    text: str
    links: tuple[tuple[str, str], ...]  #: anchor, after the name of the section, and what is there


@dataclass(frozen=True, slots=True)
class Answer:
    """A question that the head of the page answers."""

    question: str
    sentences: tuple[Sentence, ...]


def describe(config: RunConfig) -> str:
    """Return in plain words how an arm schedules."""
    if config.admission == "pod":
        return "pod by pod"
    if config.admission == "permit":
        return "pods one by one, held until the gang is whole"
    policy = config.policy
    order = "FIFO" if policy.order == "fifo" else policy.order
    if config.queues is not None:
        return f"whole gangs, {order}, {queues.named(config)}"
    if policy.discipline == "strict":
        return f"whole gangs, strict {order}"
    if policy.discipline == "easy":
        return f"whole gangs, {order} with EASY backfill"
    return f"whole gangs, {order}; {DISCIPLINES[policy.discipline].does}"


def answers(digests: Sequence[Digest], growth: Growth) -> tuple[Answer, ...]:
    """Answer the three questions for one workload, on its largest cluster."""
    by_arm = comparison.by_size_and_arm(digests)[-1]
    chosen = _chosen(by_arm)
    return (
        Answer("What waits, and why?", tuple(_what_waits(by_arm[0]))),
        Answer("What would help?", tuple(_what_helps(by_arm, chosen))),
        Answer("How sure is that?", tuple(_how_sure(digests, by_arm, chosen, growth))),
    )


def _name(seeds: Sequence[Digest]) -> str:
    return seeds[0].head.arm


def _arm(seeds: Sequence[Digest]) -> str:
    """Return an arm's name with what it does, where the name alone does not say it."""
    name, does = _name(seeds), describe(seeds[0].config)
    return name if name == does else f"{name} ({does})"


def _pods(seeds: Sequence[Digest], name: str) -> float:
    return float(np.median([overall(one.shared)[f"{name}_pods"] for one in seeds]))


def _chosen(by_arm: Sequence[Sequence[Digest]]) -> int:
    """Return the arm with the fewest pods pending at p99; of equal ones the least delay at p95."""
    p99 = np.nan_to_num([_pods(seeds, "p99") for seeds in by_arm], nan=np.inf)
    alike = np.flatnonzero(p99 <= ALIKE * p99.min())

    def p95_s(at: int) -> float:
        delay = comparison.middle([one.shared.delay[1] for one in by_arm[at]]).value
        return np.inf if isnan(delay) else delay

    return min((int(at) for at in alike), key=p95_s)


# -- what waits, and why -----------------------------------------------------------------------


def _what_waits(seeds: Sequence[Digest]) -> Iterator[Sentence]:
    one = seeds[0]
    where = f"On {counted(one.head.nodes, 'node')} {_arm(seeds)}"
    if not _pods(seeds, "max") > 0:
        yield Sentence(f"{where} leaves no pod pending.", (CURVES,))
        return
    median = "" if len(seeds) == 1 else f" (medians of {exact(len(seeds))} seeds)"
    yield Sentence(
        f"{where} leaves {plural(_pods(seeds, 'p50'), 'pod')} pending at the median and "
        f"{count(_pods(seeds, 'p99'))} at p99{median}; {_reasons(one)}.",
        (CURVES,),
    )
    highest = max(seeds, key=lambda each: each.episodes[0].peak_pods if each.episodes else 0)
    if highest.episodes:
        worst = highest.episodes[0]
        top = [f"{TABLE[reason].label} {percent(share)}" for reason, share in worst.shares[:3]]
        yield Sentence(
            f"{_who(one)} The peak is {plural(worst.peak_pods, 'pod')} at {clock(worst.peak_s)}"
            f"{_seed(highest, seeds)}: {', '.join(top)}.",
            (("episodes", "episodes"), ("days", "peak of each " + part_word(one.whole.window))),
        )


def _seed(one: Digest, seeds: Sequence[Digest]) -> str:
    return f" (seed {one.head.seed})" if len(seeds) > 1 else ""


def _reasons(one: Digest) -> str:
    """Say for what pods wait, by pod-time over the window."""
    pending = one.shared.pending.set_index("reason")["share_ratio"]
    shares = sorted(((float(pending[reason]), reason) for reason in PendingReason), reverse=True)
    if sum(share for share, reason in shares if reason in PASSING) >= MOSTLY:
        return "nothing waits for GPUs: pods are pending only until they are bound and started"
    told = [f"{TABLE[reason].label} {percent(share)}" for share, reason in shares[:3]
            if share >= 0.05]  # fmt: skip
    most = TABLE[shares[0][1]]
    return f"reasons, on average: {', '.join(told)}. {most.label.capitalize()} means: {most.means}"


def _who(one: Digest) -> str:
    """Say which gangs most of the waiting pods belong to."""
    total = sum(one.shared.waiting_by_size)
    if total <= 0:
        return ""
    code = int(np.argmax(one.shared.waiting_by_size))
    share = one.shared.waiting_by_size[code] / total
    words = size_words(code)
    return f"{words[0].upper()}{words[1:]} account for {percent(share)} of all waiting."


# -- what would help ---------------------------------------------------------------------------


def _what_helps(by_arm: Sequence[Sequence[Digest]], chosen: int) -> Iterator[Sentence]:
    first, best = by_arm[0], by_arm[chosen]
    if len(by_arm) == 1:
        told = "this is a live cluster, and nothing else was simulated"
        if not first[0].is_live:
            told = f"only {_name(first)} was simulated"
        yield Sentence(
            f"Not known: {told}. The commands below the pictures try something else.",
            (("curves", "commands"),),
        )
        return
    ours, theirs = _pods(best, "p99"), _pods(first, "p99")
    if chosen == 0:
        others = listed([_name(seeds) for seeds in by_arm[1:]], "or")
        highest = max(_pods(seeds, "p99") for seeds in by_arm)
        text = f"{_name(best)} already does best: no other arm ({others}) leaves fewer pods pending"
        if highest <= ALIKE * ours:
            every = listed([_name(seeds) for seeds in by_arm])
            text = f"None of the arms: {every} all leave about {plural(ours, 'pod')} pending"
        yield Sentence(f"{text} at p99.", (TABLE_LINK,))
    else:
        fewer = f"{percent(1 - ours / theirs)} fewer than" if ours * ALIKE < theirs else "about as"
        many = "" if ours * ALIKE < theirs else " many as"
        yield Sentence(
            f"{_arm(best)} leaves {plural(ours, 'pod')} pending at p99, "
            f"{fewer}{many} {_name(first)} with {count(theirs)}; "
            f"p95 of queueing delay is {_delay(best)} instead of {_delay(first)}.",
            (TABLE_LINK,),
        )
    yield Sentence(_whom_it_costs(by_arm, chosen), (("sizes", "wait by gang size"),))
    if chosen and (said := sharing.gains_of(first, best)):
        yield Sentence(said, (("queues", "queues"),))
    held = [_held(seeds) for seeds in by_arm]
    if any(idle >= LEAST_HELD for _, idle in held):
        wasted = [
            f"{percent(idle)} under {_name(seeds)} ({percent(allocated)} allocated)"
            for seeds, (allocated, idle) in zip(by_arm, held, strict=True)
        ]
        yield Sentence(
            "Gangs that are not whole hold a part of the allocated GPU time for nothing: "
            f"{listed(wasted)}.",
            (TABLE_LINK,),
        )


def _held(seeds: Sequence[Digest]) -> tuple[float, float]:
    """Return the allocation, and the part of it that incomplete gangs hold; medians over seeds."""
    used = [one.shared.use for one in seeds]
    parts = ([one.allocation_ratio for one in used], [one.idle_hold_ratio for one in used])
    allocated, idle = (float(np.median(values)) for values in parts)
    return allocated, idle


def _delay(seeds: Sequence[Digest]) -> str:
    p95 = comparison.middle([one.shared.delay[1] for one in seeds])
    return bounded(p95, duration)


def _of_size(seeds: Sequence[Digest], code: int, name: str) -> Quantile:
    """Return p50 or p95 of the delay of a gang size class; over seeds the median."""
    rows = [one.shared.by_size.iloc[code] for one in seeds]
    found = [Quantile(float(r[f"{name}_s"]), bool(r[f"{name}_is_lower_bound"])) for r in rows]
    return comparison.middle(found)


def _whom_it_costs(by_arm: Sequence[Sequence[Digest]], chosen: int) -> str:
    """Say which gang sizes wait longer than under another arm, and where bounds hide it."""
    name = _name(by_arm[chosen])
    found = [_cost(by_arm, chosen, code) for code in range(len(SIZE_CLASSES))]
    worse = sorted((one for one in found if one.is_worse), key=lambda one: -one.more)
    open_ = [size_words(code) for code, one in enumerate(found) if one.is_open]
    text = f"No gang size is known to wait noticeably longer under {name} than under another arm."
    if not open_:
        text = (
            f"On this size of cluster no gang size waits noticeably longer at p95 under {name} "
            "than under another arm."
        )
    if worse:
        text = f"Its price: {'; '.join(one.text for one in worse[:MOST_COSTS])}."
    for one in found:
        if one.note:
            text += f" {one.note}."
    if open_:
        text += f" Not known for {listed(open_)}: too many still waited at the end."
    return text


@dataclass(frozen=True, slots=True)
class _Cost:
    """Whether gangs of one size wait longer under the chosen arm than under another."""

    more: float = 0.0  #: how much longer, as a ratio
    text: str = ""
    is_open: bool = False  #: bounds do not tell
    note: str = ""  #: how it was told where bounds leave p95 open

    @property
    def is_worse(self) -> bool:
        return bool(self.text)


def _cost(by_arm: Sequence[Sequence[Digest]], chosen: int, code: int) -> _Cost:
    """Compare p95; where bounds leave that open p50; and then the time that pods were pending."""
    for name in ("p95", "p50"):
        values = [_of_size(seeds, code, name) for seeds in by_arm]
        mine = values[chosen]
        if isnan(mine.value):
            return _Cost()
        others = [(one.value, at) for at, one in enumerate(values) if at != chosen]
        exact_ = [(s, at) for s, at in others if not values[at].is_lower_bound and not isnan(s)]
        least, at = min(exact_, default=(np.inf, chosen))
        if mine.value - least > max(LEAST_S, LEAST_RATIO * least):
            return _Cost(
                mine.value / max(least, 1.0),
                f"{size_words(code)} wait {bounded(mine, duration)} instead of "
                f"{duration(least)} under {_name(by_arm[at])} ({name})",
            )
        bounds = [s for s, at in others if values[at].is_lower_bound]
        hidden = [s for s in bounds if mine.value - s > max(LEAST_S, LEAST_RATIO * s)]
        if not mine.is_lower_bound and not hidden:
            return _Cost()
    return _cost_by_time(by_arm, chosen, code)


def _cost_by_time(by_arm: Sequence[Sequence[Digest]], chosen: int, code: int) -> _Cost:
    """Compare how long pods were pending in all, which has no bounds where runs end alike."""
    ends_s = [one.shared.window.horizon_s for seeds in by_arm for one in seeds]
    alike = max(ends_s) <= ALIKE * min(ends_s)
    if not alike or any(one.whole is not one.shared for seeds in by_arm for one in seeds):
        return _Cost(is_open=True)
    spent = [float(np.median([one.shared.waiting_by_size[code] for one in s])) for s in by_arm]
    least = min((at for at in range(len(spent)) if at != chosen), key=lambda at: spent[at])
    if spent[least] <= 0:
        return _Cost()
    more = spent[chosen] / spent[least]
    if more <= 1 + LEAST_RATIO:
        fewer = f"{percent(1 - more)} fewer" if more < 1 - LEAST_RATIO else "about as many"
        than = "than" if more < 1 - LEAST_RATIO else "as"
        return _Cost(
            note=f"For {size_words(code)} p95 has only bounds; in all, their pods wait {fewer} "
            f"pod-hours {than} under {_name(by_arm[least])}"
        )
    return _Cost(
        more,
        f"pods of {size_words(code)} wait {comparison.percent_more(more)} more pod-hours in all "
        f"than under {_name(by_arm[least])}",
    )


# -- how sure ----------------------------------------------------------------------------------


def _how_sure(
    digests: Sequence[Digest],
    by_arm: Sequence[Sequence[Digest]],
    chosen: int,
    growth: Growth,
) -> Iterator[Sentence]:
    arm = _name(by_arm[chosen])
    links = (("growth", "growth of every arm" if len(by_arm) > 1 else "growth"),)
    yield Sentence(growth.sentence(arm, under=not growth.why_unknown), links)
    yield Sentence(" ".join(_seeds(by_arm, chosen)), (TABLE_LINK,))
    for text in left_out_sentences(digests):
        yield Sentence(text, LEFT_OUT)
    uneven = different_jobs(digests)
    if uneven and growth.is_known:
        yield Sentence(f"{uneven[0].upper()}{uneven[1:]}.", LEFT_OUT)


def _seeds(by_arm: Sequence[Sequence[Digest]], chosen: int) -> Iterator[str]:
    best = by_arm[chosen]
    days = duration(max(one.whole.window.days for one in best) * DAY_S)
    if best[0].is_live:
        yield f"These are {days} of one cluster as they were."
    elif len(best) == 1:
        yield f"One seed and {days}: how far other days or seeds would differ is not known."
    else:
        seeds = [one.head.seed for one in best]
        wins = sum(_is_best(by_arm, chosen, seed) for seed in seeds)
        low, high = (f([overall(one.shared)["p99_pods"] for one in best]) for f in (min, max))
        if len(by_arm) > 1:
            yield (
                f"{_name(best)} has the fewest pods pending at p99 in {exact(wins)} of "
                f"{exact(len(seeds))} seeds."
            )
        yield f"Over the seeds its p99 lies between {count(low)} and {plural(high, 'pod')}."
    bounds = sum(
        comparison.middle([one.shared.delay[k] for one in seeds]).is_lower_bound
        for seeds in by_arm
        for k in (0, 1)
    )
    if bounds:
        yield (
            f"{exact(bounds)} of {exact(2 * len(by_arm))} queueing delays on this size are lower "
            "bounds (≥): jobs still waited at the end."
        )


def _is_best(by_arm: Sequence[Sequence[Digest]], chosen: int, seed: int) -> bool:
    p99 = [
        (overall(one.shared)["p99_pods"], at != chosen)
        for at, seeds in enumerate(by_arm)
        for one in seeds
        if one.head.seed == seed
    ]
    return not min(p99)[1]
