"""Which pending curves stand under each other in a report, and how much detail each keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.report import curves, explorer
from sim.report.curves import DRAWN_BINS
from sim.report.digest import Digest
from sim.report.pictures import Picture, render
from sim.report.waiting import PendingCurve
from sim.report.wording import counted, duration

#: pieces of time of all curves of a page together: some 25 bytes each, 2 MB in all
PAGE_BINS = 70_000
MOST_BINS, LEAST_BINS = 8_000, 300  #: of one curve
FULLY_DRAWN, LEAST_DRAWN_BINS = 24, 40  #: still pictures of more curves have less detail
MOST_EXPLORED = 48  #: curves of a page that one can zoom; the rest are pictures


def bins_each(num_runs: int) -> int:
    """Return into how many pieces the curve of one run is cut where a page has so many."""
    return max(LEAST_BINS, min(MOST_BINS, PAGE_BINS // max(min(num_runs, MOST_EXPLORED), 1)))


def room_of(num_runs: int, num_explored: int) -> Room:
    """Return what is left of a page with so many runs, of which so many are explored already."""
    drawn = DRAWN_BINS * FULLY_DRAWN // max(num_runs, FULLY_DRAWN)
    return Room(MOST_EXPLORED - num_explored, max(drawn, LEAST_DRAWN_BINS))


@dataclass(frozen=True, slots=True)
class Room:
    """What a page has room for."""

    num_explored: int  #: more curves that one can zoom
    drawn_bins: int  #: pieces of time of a curve in a still picture


@dataclass(frozen=True, slots=True)
class Group:
    """Curves of one cluster size under each other."""

    key: str  #: no other group of the page has it
    title: str
    caption: str
    picture: Picture
    explorer: str  #: see `explorer.packed`; empty where the page has enough of them
    height_px: int  #: that the explorer takes
    num_explored: int  #: curves that one can zoom
    is_largest: bool  #: the first of the largest cluster, of which the head of the page speaks


def make_groups(digests: Sequence[Digest], key: str, room: Room) -> Iterator[Group]:
    """Yield the curves of one workload: those of a cluster size and seed together.

    All show the window that they share. Runs that go on beyond it follow in a group of their own.
    `key` tells the workload from others of the page.
    """
    left = room.num_explored
    kinds = list(dict.fromkeys(one.head.comparable for one in digests))
    seeds = {one.head.seed for one in digests}
    most_nodes = max(one.head.nodes for one in digests)
    is_led_to = False  # the head of the page links to one of them
    for kind in kinds:
        members = [one for one in digests if one.head.comparable == kind]
        title = counted(members[0].head.nodes, "node")
        if len(seeds) > 1:
            title += f", seed {members[0].head.seed}"
        longer = [one for one in members if one.alone is not None]
        for shown, what in (
            ([(one.head.arm, one.beside) for one in members], ""),
            ([(one.head.arm, one.alone) for one in longer if one.alone is not None],
             ", over windows of their own"),
        ):  # fmt: skip
            if not shown:
                continue
            pending = [curve for _, curve in shown]
            can_explore = left >= len(pending)
            left -= len(pending) if can_explore else 0
            number = f"{members[0].head.nodes}-s{members[0].head.seed}{'-own' * bool(what)}"
            name = f"pending-{members[0].head.workload}-{number}"
            alt = curves.describe(pending, f"{members[0].head.workload}, {title}{what}")
            yield Group(
                key=f"{key}-{number}",
                title=title + what,
                caption=_caption(pending, can_explore),
                picture=render(curves.draw(pending, room.drawn_bins), name, alt),
                explorer=explorer.packed(pending, f"{key}-{number}") if can_explore else "",
                height_px=explorer.height_px(pending),
                num_explored=len(pending) if can_explore else 0,
                is_largest=members[0].head.nodes == most_nodes and not is_led_to,
            )
            is_led_to |= members[0].head.nodes == most_nodes


def _caption(shown: Sequence[PendingCurve], can_explore: bool) -> str:
    start_s, end_s = curves.span_s(shown)
    text = f"{duration(end_s - start_s)} of the run."
    if len(shown) > 1:
        text = f"All panels show the same {duration(end_s - start_s)}, on one scale."
    coarsest = max(curve.bin_s for curve in shown)
    if coarsest > 0:
        text += (
            f" Of more than three changes in {duration(coarsest)}, the lowest, the highest and the"
            " last are shown, so no peak is lost."
        )
    if not can_explore:
        text += " This page has enough pictures to zoom; make a report of fewer runs for this one."
    return text
