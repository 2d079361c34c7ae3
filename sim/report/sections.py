"""What a report says of one workload: answers, tables, pictures, episodes, commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from scheduler.core.times import DAY_S
from sim.report import commands, comparison, days, deadlocks, episodes, groups, held, plots
from sim.report.answers import Answer, answers
from sim.report.commands import Command
from sim.report.comparison import Cell, Column, Row
from sim.report.digest import Digest
from sim.report.growing import Growth, different_jobs, growth_of
from sim.report.headlines import resources_text
from sim.report.omissions import left_out_sentences, never_lines
from sim.report.pictures import Picture
from sim.report.sharing import OfSize, sharing
from sim.report.sizes import label as size_label
from sim.report.sizes import occurring
from sim.report.sparkline import sparkline
from sim.report.wording import bounded, counted, duration, exact, listed, number, span
from sim.runs.metrics import Quantile

#: a page tells the episodes of so many runs; tables have those of all
MOST_TOLD = 24
MOST_DAY_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Told:
    """The episodes of one run in words, each with its picture as SVG."""

    nodes: str
    arm: str
    deadlock: str
    episodes: tuple[tuple[str, str], ...]
    short: str  #: which resources were short, if not only GPUs


@dataclass(frozen=True, slots=True)
class Days:
    """The peaks of each day on one cluster size."""

    title: str
    what: str  #: day or hour
    arms: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    note: str
    is_open: bool  #: the largest cluster is shown, the others unfold


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Jobs that no figure counts, and what they ask for."""

    sentences: tuple[str, ...]
    requests: tuple[tuple[str, tuple[str, ...]], ...]  #: nodes, lines


@dataclass(frozen=True, slots=True)
class Section:
    """What the report says of one workload."""

    name: str
    anchor: str
    subtitle: str
    answers: tuple[Answer, ...]
    heading: list[tuple[str, list[str]]]  #: of the first table, in two lines
    shared_days: str  #: the windows of the first table
    shared: tuple[Row, ...]
    whole: tuple[Row, ...]  #: empty if no run has a longer window of its own
    sizes: tuple[Row, ...]
    size_labels: tuple[str, ...]  #: of its columns
    curves: tuple[groups.Group, ...]
    sharing: tuple[OfSize, ...]  #: how queues share the cluster
    delay: Picture
    growth: Growth
    growth_picture: Picture | None
    covers: str  #: which days there are
    told: tuple[Told, ...]
    untold: str  #: of how many more runs `episodes` tells
    days: tuple[Days, ...]
    left_out: LeftOut
    held: tuple[Row, ...]  #: what held GPU time went into; empty without costs
    held_picture: Picture | None
    commands: dict[str, Command]  #: below which picture a command stands

    def pictures(self) -> Iterator[Picture]:
        """Yield every picture."""
        for group in self.curves:
            yield group.picture
        for size in self.sharing:
            for one in size.curves:
                yield one.picture
        yield self.delay
        if self.growth_picture is not None:
            yield self.growth_picture
        if self.held_picture is not None:
            yield self.held_picture

    @property
    def labels(self) -> list[str]:
        """Headings of the first table in one line."""
        found = ["jobs"]
        for group, labels in self.heading:
            found += [f"{group} {label}" for label in labels] or [group]
        return found

    @property
    def has_seeds(self) -> bool:
        """True if rows are medians over several seeds."""
        return any(cell.spread for row in self.shared for cell in row.cells)


def section(
    digests: Sequence[Digest], arms: Sequence[str], at: int, study: Sequence[str], room: groups.Room
) -> Section:
    """Return the section of one workload; `arms` are those of the page, in their order.

    `room` is what the page has left for its curves.
    """
    name = digests[0].head.workload
    shown = comparison.columns(digests)
    longer = [one for one in digests if _says_more(one)]
    growth = growth_of(digests, arms)
    by_size = comparison.by_size_and_arm(digests)
    told = _told_runs(by_size)
    first = [seeds[0] for arms_ in by_size for seeds in arms_]
    codes = occurring(one.shared.by_size for one in digests)
    return Section(
        name=name,
        anchor=f"w{at}",
        subtitle=_subtitle(digests),
        answers=answers(digests, growth),
        heading=comparison.groups(shown),
        shared_days=_days({one.shared.window.days for one in digests}),
        shared=tuple(comparison.rows(digests, lambda one: one.shared, shown)),
        whole=tuple(comparison.rows(longer, lambda one: one.whole, shown)),
        sizes=tuple(_size_rows(by_size, codes)),
        size_labels=tuple(size_label(code) for code in codes),
        curves=tuple(groups.make_groups(digests, f"w{at}", room)),
        sharing=sharing(digests),
        delay=plots.delay_by_size(
            [_median(seeds) for arms_ in by_size for seeds in arms_], arms, f"delay-{name}"
        ),
        growth=growth,
        growth_picture=plots.growth(growth.lines, arms, f"growth-{name}")
        if growth.is_known
        else None,
        covers=_covers(digests),
        told=tuple(_tell(one) for one in told),
        untold=_untold(len(digests), len(told)),
        days=tuple(_days_of(arms_, arms_ is by_size[-1]) for arms_ in by_size),
        left_out=_left_out(digests),
        held=tuple(_held_rows(first)),
        held_picture=held.picture(first, f"held-{name}"),
        commands=_commands(by_size[-1], digests, study),
    )


def _says_more(one: Digest) -> bool:
    """True if figures over a run's own window differ from those over the shared one."""
    if one.whole is one.shared:
        return False
    shared = [*one.shared.delay, *one.shared.completion.values()]
    is_longer = one.whole.window.days > one.shared.window.days * (1 + 1e-9)
    return is_longer or any(quantile.is_lower_bound for quantile in shared)


def _days(values: set[float]) -> str:
    low, high = min(values), max(values)
    text = duration(low * DAY_S)
    return text if high - low < 0.02 * high else f"{text} to {duration(high * DAY_S)}"


def _covers(digests: Sequence[Digest]) -> str:
    """Say which days of the workload the runs have, so that nobody looks for the others."""
    first = min(one.whole.window.start_s for one in digests)
    last = max(one.whole.window.end_s for one in digests)
    full = max((one.head.full_days or 0.0 for one in digests), default=0.0)
    text = f"these runs cover {span(first, last)}"
    if last - first >= days.DAYS_FROM_S:
        text = f"these runs cover days {int(first // DAY_S)} to {ceil(last / DAY_S) - 1}"
    if full * DAY_S > 1.02 * last:
        return f"{text}, of {number(full)} days of the workload."
    return f"{text}."


def _subtitle(digests: Sequence[Digest]) -> str:
    loads = {one.head.load for one in digests if one.head.load is not None}
    seeds = sorted({one.head.seed for one in digests if not one.is_live})
    text = [f"offered load {', '.join(number(load) for load in sorted(loads))}"] if loads else []
    if seeds:
        text.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(str(seed) for seed in seeds)}")
    full = {one.head.full_days for one in digests if one.head.full_days is not None}
    days_ = max(one.whole.window.days for one in digests)
    if full and days_ < 0.98 * max(full):
        text.append(
            f"{duration(days_ * DAY_S)} of the {number(max(full))} days of the workload "
            "(muster study --full simulates all of them)"
        )
    sizes = sorted({one.head.nodes for one in digests})
    if len(sizes) == 1:
        text.append(f"a cluster of {counted(sizes[0], 'node')}")
    else:
        text.append(f"clusters of {listed([exact(nodes) for nodes in sizes])} nodes")
    return "; ".join(text)


def _median(seeds: Sequence[Digest]) -> Digest:
    """Return the first of several seeds with the median delays by gang size of all."""
    if len(seeds) == 1:
        return seeds[0]
    table = seeds[0].shared.by_size.copy()
    for name in ("p50", "p95"):
        found = [_of_class(seeds, code, name) for code in range(len(table))]
        table[f"{name}_s"] = [one.value for one in found]
        table[f"{name}_is_lower_bound"] = [one.is_lower_bound for one in found]
    table["num_jobs"] = sum(one.shared.by_size["num_jobs"] for one in seeds)
    return replace(seeds[0], shared=replace(seeds[0].shared, by_size=table))


def _size_rows(
    by_size: Sequence[Sequence[Sequence[Digest]]], codes: Sequence[int]
) -> Iterator[Row]:
    """Yield p50 / p95 of queueing delay by gang size class; the best p95 of a class is marked."""
    p95 = Column("", "p95", lambda figures: figures.delay[1], duration)
    for arms in by_size:
        same_jobs = len({seeds[0].shared.left_out.names_sha256 for seeds in arms}) == 1
        texts: list[list[str]] = [[] for _ in arms]
        best: list[set[int]] = []
        for code in codes:
            low, high = ([_of_class(seeds, code, at) for seeds in arms] for at in ("p50", "p95"))
            best.append(comparison.best_of(p95, high) if same_jobs else set())
            for mine, p50_, p95_ in zip(texts, low, high, strict=True):
                pair = [bounded(one, duration) for one in (p50_, p95_)]
                mine.append("–" if pair == ["–", "–"] else " / ".join(pair))
        for at, seeds in enumerate(arms):
            cells = [
                Cell(text, is_best=at in winners)
                for text, winners in zip(texts[at], best, strict=True)
            ]
            yield Row(exact(seeds[0].head.nodes), seeds[0].head.arm, tuple(cells), at == 0)


def _of_class(seeds: Sequence[Digest], code: int, name: str) -> Quantile:
    rows = [one.shared.by_size.iloc[code] for one in seeds]
    return comparison.middle(
        [Quantile(float(row[f"{name}_s"]), bool(row[f"{name}_is_lower_bound"])) for row in rows]
    )


def _held_rows(digests: Sequence[Digest]) -> Iterator[Row]:
    last = -1
    for one in digests:
        if one.shared.held is None:
            continue
        seeds = {other.head.seed for other in digests}
        arm = one.head.arm + (f", seed {one.head.seed}" if len(seeds) > 1 else "")
        cells = tuple(Cell(text) for text in held.cells(one.shared.held))
        yield Row(exact(one.head.nodes), arm, cells, one.head.nodes != last)
        last = one.head.nodes


# -- episodes and days -------------------------------------------------------------------------


def _told_runs(by_size: Sequence[Sequence[Sequence[Digest]]]) -> list[Digest]:
    """Return the runs whose episodes the page tells: one seed of each arm, largest sizes first."""
    return [seeds[0] for arms in reversed(by_size) for seeds in arms][:MOST_TOLD]


def _untold(num_runs: int, num_told: int) -> str:
    rest = num_runs - num_told
    if not rest:
        return ""
    return f"Those of {counted(rest, 'more run')} are in tables/episodes.csv."


def _tell(one: Digest) -> Told:
    has_head = one.config.admission == "gang"
    told = tuple(
        (
            sparkline(episode),
            episodes.explain(
                episode, num_gpus=one.head.num_gpus, has_queue_head=has_head, is_live=one.is_live
            ),
        )
        for episode in one.episodes
    )
    found = one.deadlocks
    return Told(
        nodes=counted(one.head.nodes, "node"),
        arm=one.head.arm + ("" if one.is_live else f", seed {one.head.seed}"),
        deadlock="" if found is None else deadlocks.explain(found, one.head.num_gpus),
        episodes=told,
        short=_short(one.short),
    )


def _short(shares: dict[str, float]) -> str:
    """Say which resources pods found too little of; nothing where it was GPUs all the time."""
    if shares.keys() <= {"gpus"}:
        return ""
    return f"What pods were short of, by waiting time: {resources_text(shares)}."


def _days_of(arms: Sequence[Sequence[Digest]], is_largest: bool) -> Days:
    """Return the peaks of each day, a column for each arm; of several seeds the first."""
    shown = [seeds[0] for seeds in arms][:MOST_DAY_COLUMNS]
    part_s = max(days.part_length(one.whole.window) for one in shown)
    tables = [
        days.by_start(one.days) for one in shown if days.part_length(one.whole.window) == part_s
    ]
    starts = sorted({start_s for table in tables for start_s in table})
    kept = starts[: days.MOST_PARTS]
    rows = tuple(
        (
            days.part_name(start_s, part_s),
            tuple(
                table[start_s].lines() if start_s in table else ("not simulated",)
                for table in tables
            ),
        )
        for start_s in kept
    )
    what = "day" if part_s >= DAY_S else "hour"
    notes = []
    if len(arms[0]) > 1:
        notes.append(f"Seed {shown[0].head.seed}.")
    if len(starts) > len(kept) or len(arms) > len(tables) or len(arms[0]) > 1:
        notes.append(f"tables/days.csv has every {what} of every run.")
    return Days(
        title=counted(shown[0].head.nodes, "node"),
        what=what,
        arms=tuple(one.head.arm for one in shown if days.part_length(one.whole.window) == part_s),
        rows=rows,
        note=" ".join(notes),
        is_open=is_largest,
    )


# -- what is missing, and what to ask next -----------------------------------------------------


def _left_out(digests: Sequence[Digest]) -> LeftOut:
    sentences = list(left_out_sentences(digests))
    uneven = different_jobs(digests)
    if uneven:
        sentences.append(f"{uneven[0].upper()}{uneven[1:]}.")
    requests: dict[str, tuple[str, ...]] = {}
    for one in digests:
        if one.never:
            requests.setdefault(counted(one.head.nodes, "node"), tuple(never_lines(one.never)))
    return LeftOut(tuple(sentences), tuple(requests.items()))


def _commands(
    arms: Sequence[Sequence[Digest]], digests: Sequence[Digest], study: Sequence[str]
) -> dict[str, Command]:
    """Return a command for each picture, about the largest cluster."""
    first, last = arms[0][0], arms[-1][0]
    gang = next((seeds[0] for seeds in reversed(arms) if seeds[0].config.admission == "gang"), last)
    found = {
        "curves": commands.compare(first, last)
        if len(arms) > 1
        else commands.other_discipline(first),
        "sizes": commands.shortest_first(gang),
        "table": commands.enough_nodes(gang, study),
        "growth": commands.longer_study(study, digests)
        if len({one.head.nodes for one in digests}) > 1
        else commands.more_sizes(gang, study),
        "episodes": commands.more_nodes(gang),
        "held": commands.checkpoints(gang) or commands.other_discipline(gang),
    }
    return {place: command for place, command in found.items() if command is not None}
