"""Drawn queues files, and trees of which gangs took something."""

from __future__ import annotations

from hypothesis import strategies as st

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, Victims, checked
from scheduler.core.quota import Amounts, QuotaTree

limits = st.none() | st.integers(0, 12)
WITHIN = (Victims.NEVER, Victims.LOWER_PRIORITY, Victims.LOWER_OR_NEWER_EQUAL_PRIORITY)
RECLAIM = (Victims.NEVER, Victims.LOWER_PRIORITY, Victims.ANY)


def quotas(draw: st.DrawFn, *, limited: bool, lends_own: bool) -> dict[str, dict[str, Quota]]:
    """Draw quota for two flavors; within its own if it is a queue's."""
    found: dict[str, dict[str, Quota]] = {}
    for flavor in ("f", "g"):
        for resource in ("gpus", "cpu"):
            if draw(st.booleans()):
                nominal = draw(st.integers(0, 12))
                lend = draw(st.none() | st.integers(0, nominal if lends_own else 12))
                borrow = draw(limits)
                quota = Quota(nominal, borrow, lend) if limited else Quota(nominal)
                found.setdefault(flavor, {})[resource] = quota
    return found


@st.composite
def files(draw: st.DrawFn) -> Queues:
    """Draw a queues file of up to three levels."""
    cohorts: list[Cohort] = []
    for name in ("r", "s", "t")[: draw(st.integers(0, 3))]:
        parent = draw(st.sampled_from(["", *(one.name for one in cohorts)]))
        quota = quotas(draw, limited=bool(parent), lends_own=False)
        cohorts.append(Cohort(name, parent, draw(st.sampled_from([0.0, 0.5, 1.0])), quota))
    queues = []
    for name in ("a", "b", "c", "d")[: draw(st.integers(1, 4))]:
        cohort = draw(st.sampled_from(["", *(one.name for one in cohorts)]))
        quota = quotas(draw, limited=bool(cohort), lends_own=True)
        queues.append(
            Queue(
                name,
                cohort,
                draw(st.sampled_from([0.0, 1.0, 2.0])),
                quota,
                within=draw(st.sampled_from(WITHIN)),
                reclaim=draw(st.sampled_from(RECLAIM)),
            )
        )
        if queues[-1].reclaim is not Victims.NEVER and draw(st.booleans()):
            queues[-1].borrow_within = Victims.LOWER_PRIORITY
    return checked(Queues((Flavor("f"), Flavor("g")), tuple(cohorts), tuple(queues)), "queues.toml")


@st.composite
def used(draw: st.DrawFn) -> tuple[QuotaTree, list[tuple[int, Amounts]]]:
    """Draw a tree and what gangs take from it, fits or not."""
    tree = QuotaTree(draw(files()))
    takes = []
    for _ in range(draw(st.integers(0, 8))):
        cells = draw(st.sets(st.integers(0, max(0, len(tree.cells) - 1)), max_size=2))
        amounts = tuple((cell, draw(st.integers(1, 10))) for cell in sorted(cells))
        if tree.cells:
            takes.append((draw(st.integers(0, tree.num_queues - 1)), amounts))
    for queue, amounts in takes:
        tree.take(queue, amounts)
    return tree, takes
