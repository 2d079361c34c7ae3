"""Queues of KAI: kind Queue of scheduling.run.ai v2 (KAI, pkg/apis/scheduling/v2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.core.queues import DEFAULT_FLAVOR, Flavor, Holding, Queues, Serve, Sharing, Victims
from sim.queues.notes import Notes
from sim.queues.objects import Object
from sim.queues.tree import Cell, Node, grown

GROUP = "scheduling.run.ai"
ROOT = "cluster"
#: its names, ours, and units of ours in one of KAI's: GPUs, thousandths of a CPU, megabytes
RESOURCES = (("gpu", "gpus", 1), ("cpu", "cpu", 1), ("memory", "memory", 1_000_000))
UNLIMITED = -1


def queues_of(objects: Sequence[Object], totals: Mapping[Cell, int], notes: Notes) -> Queues:
    """Return the queues that objects of KAI describe.

    Quota is nominal, the limit is what may be borrowed beyond it, overQuotaWeight is the weight.

    Raises:
        ValueError: a field has a value that KAI does not have.
    """
    parents = {one.text("parentQueue") for one in objects}
    nodes = [_node(one, one.name not in parents, totals, notes) for one in objects]
    notes.add(
        "KAI divides what no quota covers in whole units by weight, each priority before the next; "
        "here heads are ordered by fair share. If it counts past use, set k and half_life_s of "
        "[sharing] as its configuration has them"
    )
    sharing = Sharing(Serve.SHARE)
    return grown(nodes, ROOT, totals, [Flavor(DEFAULT_FLAVOR)], notes, sharing)


def _node(one: Object, is_leaf: bool, totals: Mapping[Cell, int], notes: Notes) -> Node:
    node = Node(one.name, one.text("parentQueue"), takes_jobs=is_leaf, discipline=Holding.SKIP)
    if is_leaf:
        node.within, node.reclaim = Victims.LOWER_PRIORITY, Victims.ANY
    one.text("displayName")
    resources = one.below("resources")
    for theirs, ours, units in RESOURCES:
        told = resources.below(theirs)
        cell = (DEFAULT_FLAVOR, ours)
        amounts = {key: told.quantity(key) or 0 for key in ("quota", "limit", "overQuotaWeight")}
        if amounts["limit"] != UNLIMITED:
            node.limit[cell] = int(amounts["limit"] * units)
        if amounts["quota"] == UNLIMITED:
            node.quota[cell] = totals.get(cell, 0)
            if cell not in totals and theirs == "gpu":
                notes.add(
                    "its quota is unlimited, and what the cluster has is not known: it has no "
                    "quota here; give --nodes N or --cluster FILE.toml",
                    one.name,
                )
        else:
            node.quota[cell] = int(amounts["quota"] * units)
            if node.quota[cell] != amounts["quota"] * units:
                notes.add(f"its quota of {theirs} is rounded down to whole units", one.name)
        if theirs == "gpu":
            node.weight = float(amounts["overQuotaWeight"])
            if node.limit.get(cell) == 0:
                notes.add("its GPU limit is 0 or not set: no job with GPUs starts in it", one.name)
    for key in one.unasked():
        notes.add(f"spec.{key} has no counterpart", one.name)
    return node
