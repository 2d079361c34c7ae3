"""Trees of quotas and limits, as KAI, Volcano and Slurm have them, in muster's words.

There a node has a *limit*, never to be exceeded, and all that the cluster has beyond the quotas may
be used by anybody. Here a node borrows from its cohort at most limit - quota, and what no quota
covers is the root's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Queue,
    Queues,
    Quota,
    Quotas,
    Sharing,
    Victims,
)
from sim.queues.notes import Notes

#: (flavor, resource)
Cell = tuple[str, str]
Amounts = dict[Cell, int]


@dataclass
class Node:
    """One queue or account."""

    name: str
    parent: str = ""  #: none: below the root
    weight: float = 1.0
    quota: Amounts = field(default_factory=dict)
    limit: Amounts = field(default_factory=dict)  #: a cell that is not there has none
    kept: Amounts = field(default_factory=dict)  #: of its quota, never lent
    takes_jobs: bool = True
    discipline: Holding = Holding.SKIP
    within: Victims = Victims.NEVER
    reclaim: Victims = Victims.NEVER


@dataclass
class _Own:
    """What a node comes to, per cell."""

    quota: Quotas = field(default_factory=dict)
    lent: Amounts = field(default_factory=dict)  #: what it and all below it lend upwards
    full: Amounts = field(default_factory=dict)  #: the same with what is never lent


def grown(
    nodes: Sequence[Node],
    root: str,
    totals: Mapping[Cell, int],
    flavors: Sequence[Flavor],
    notes: Notes,
    sharing: Sharing,
) -> Queues:
    """Return the tree below one cohort, which has what no quota covers.

    It is called `root`, or something similar if a queue has that name.

    `totals` is what the cluster has, as far as it is known. CPUs and memory are counted only where
    it is: without it nobody could use more than the quotas.

    Raises:
        ValueError: a parent is not there, or nodes are a cycle.
    """
    by_name = {node.name: node for node in nodes}
    if len(by_name) < len(nodes):
        names = [node.name for node in nodes]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"queue {twice!r} is there more than once; give each once")
    while root in by_name:
        root += "-all"
    below: dict[str, list[Node]] = {}
    for node in nodes:
        if node.parent and node.parent not in by_name:
            raise ValueError(
                f"queue {node.name!r}: its parent {node.parent!r} is not among them; get them all"
            )
        below.setdefault(node.parent, []).append(node)
    # a queue without limits may use all GPUs, which quota at the root says
    named = {(flavor.name, "gpus") for flavor in flavors}
    named |= {cell for node in nodes for cell in (*node.quota, *node.limit)}
    cells = sorted(cell for cell in named if _counts(cell, totals))
    unknown = sorted({resource for _, resource in named} - {cell[1] for cell in cells})
    if unknown:
        notes.add(
            f"quotas and limits of {' and '.join(unknown)} are left out, because what the cluster "
            "has of it is not known; give --cluster FILE.toml"
        )
    cohorts, queues = [Cohort(root)], []
    done: set[str] = set()

    def grow(node: Node, cohort: str) -> _Own:
        done.add(node.name)
        children = below.get(node.name, [])
        if not children:
            own = _own(node, cells, [], notes)
            queues.append(_queue(node, cohort, own.quota))
            return own
        name = f"{node.name}/all" if node.takes_jobs else node.name
        one = Cohort(name, cohort, node.weight)
        cohorts.append(one)
        grown_children = [grow(child, name) for child in children]
        if node.takes_jobs:
            beside = Node(
                node.name, discipline=node.discipline, within=node.within, reclaim=node.reclaim
            )
            queues.append(_queue(beside, name, _own(beside, cells, [], notes).quota))
        own = _own(node, cells, grown_children, notes)
        for flavor, resources in own.quota.items():
            told = {name: quota for name, quota in resources.items() if quota != Quota()}
            if told:
                one.quota[flavor] = told
        return own

    tops = [grow(node, root) for node in below.get("", [])]
    if left := sorted(by_name.keys() - done):
        raise ValueError(f"queues {', '.join(left)} are a cycle of parents; get them again")
    for flavor, resource in cells:
        total = totals.get((flavor, resource))
        if total is None:
            notes.add(
                f"what the cluster has of {resource} is not known, so only what quotas leave can "
                "be borrowed; give --nodes N or --cluster FILE.toml"
            )
        elif spare := max(0, total - sum(top.full[flavor, resource] for top in tops)):
            cohorts[0].quota.setdefault(flavor, {})[resource] = Quota(spare)
    return Queues(tuple(flavors), tuple(cohorts), tuple(queues), sharing=sharing)


def _counts(cell: Cell, totals: Mapping[Cell, int]) -> bool:
    return cell[1] == "gpus" or cell in totals


def _own(node: Node, cells: Sequence[Cell], below: Sequence[_Own], notes: Notes) -> _Own:
    own = _Own()
    for cell in cells:
        lent_below = sum(child.lent[cell] for child in below)
        full_below = sum(child.full[cell] for child in below)
        limit = node.limit.get(cell)
        wanted = node.quota.get(cell, 0)
        if limit is not None:
            wanted = min(wanted, limit)
        full = max(wanted, full_below)
        if limit is not None and full > limit:
            notes.add(
                f"its limit of {cell[1]} is below the quotas of the queues in it, which count",
                node.name,
            )
        subtree = full - full_below + lent_below
        # what queues below never lend is part of what this one keeps
        kept = min(max(0, node.kept.get(cell, 0) - (full_below - lent_below)), subtree)
        flavor, resource = cell
        own.quota.setdefault(flavor, {})[resource] = Quota(
            full - full_below,
            None if limit is None else max(0, limit - full),
            subtree - kept if kept else None,
        )
        own.full[cell], own.lent[cell] = full, subtree - kept
    return own


def _queue(node: Node, cohort: str, quota: Quotas) -> Queue:
    return Queue(
        node.name,
        cohort,
        node.weight,
        quota,
        discipline=node.discipline,
        within=node.within,
        reclaim=node.reclaim,
    )
