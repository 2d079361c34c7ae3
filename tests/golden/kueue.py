"""Kueue's victims as the product chooses them: what a scenario says, as a contest, and back.

Rules swapped: the order of candidates of one kind (`kueue_order`); a gang that borrows may take
what others have the better right to (`spares_own`); nobody remembers for whom it was evicted
(`gave_way` stays empty), so that gangs may evict each other in turn. All others are the product's.
"""

from __future__ import annotations

from scheduler.core.queues import ShareRule
from scheduler.core.times import to_us
from scheduler.policies.contest import Contender, Contest, Why
from scheduler.policies.flavors import Assignment, Mode
from tests.golden import kueue_words
from tests.golden.kueue_words import Fields

MODES = {
    Mode.NEVER_FITS: "NoFit",
    Mode.NO_FIT: "NoFit",
    Mode.NO_CANDIDATES: "Preempt",
    Mode.PREEMPT: "Preempt",
    Mode.RECLAIM: "Preempt",
    Mode.FIT: "Fit",
}
REASONS = {
    Why.QUEUE: "InClusterQueue",
    Why.RECLAIM: "InCohortReclamation",
    Why.BORROW_WITHIN: "InCohortReclaimWhileBorrowing",
    Why.SHARE: "InCohortFairSharing",
}
RULES = {
    "LessThanOrEqualToFinalShare": ShareRule.FINAL,
    "LessThanInitialShare": ShareRule.INITIAL,
}


def kueue_order(gang: Contender) -> tuple[int | str, ...]:
    """Lower priority first, then the youngest, then by name; nothing counts what is lost."""
    return (gang.priority, -gang.admitted_us, gang.name)


def contest(fields: Fields) -> Contest:
    """Return what runs at the start of a scenario."""
    tree = kueue_words.tree(fields)
    rules = tuple(RULES[name] for name in fields.get("strategies", RULES))
    running: list[list[Contender]] = [[] for _ in tree.queues]
    found = Contest(
        tree, running, rules if fields.get("fair") else (), kueue_order, spares_own=False
    )
    for one in fields["running"]:
        used = {f"{one['flavor'][res]}/{res}": amount for res, amount in one["request"].items()}
        gang = contender(found, one)
        gang.amounts = kueue_words.amounts(tree, used)
        gang.admitted_us = to_us(one["admitted"])
        gang.leaving = one.get("evicted", False)
        tree.take(gang.queue, gang.amounts)
        running[gang.queue].append(gang)
    return found


def contender(of: Contest, one: Fields) -> Contender:
    """Return a gang that holds nothing."""
    queue = of.tree.index_of[one["queue"]]
    return Contender(one["name"], queue, one["priority"], to_us(one["created"]))


def flavors(of: Contest, found: Assignment, *, modes: bool) -> Fields:
    """Return the flavor of each resource, and its mode."""
    names = {cell: key for key, cell in of.tree.cells.items()}
    told: Fields = {}
    for role in found.roles:
        for cell, outlook in role.by_cell.items():
            flavor, resource = names[cell]
            told[resource] = [flavor, MODES[outlook.mode]] if modes else flavor
    return told
