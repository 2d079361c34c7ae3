"""Queues of Volcano: kind Queue of scheduling.volcano.sh v1beta1 (volcano, apis/scheduling)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.core.queues import DEFAULT_FLAVOR, Flavor, Holding, Queues, Serve, Sharing, Victims
from sim.queues.kueue import RESOURCES
from sim.queues.notes import Notes
from sim.queues.objects import Fields, Object
from sim.queues.tree import Amounts, Cell, Node, grown

GROUP = "scheduling.volcano.sh"
#: above all queues that have no parent, whether it is an object or not
ROOT = "root"
DISCIPLINES = {"": Holding.SKIP, "traverse": Holding.SKIP, "fifo": Holding.STRICT}


def queues_of(objects: Sequence[Object], totals: Mapping[Cell, int], notes: Notes) -> Queues:
    """Return the queues that objects of Volcano describe.

    `deserved` is nominal, `capability` is a limit, `guarantee` is never lent.

    Raises:
        ValueError: a field has a value that Volcano does not have.
    """
    parents = {one.text("parent") for one in objects}
    nodes = [_node(one, one.name not in parents, notes) for one in objects if one.name != ROOT]
    notes.add(
        "Volcano orders queues by their use of what they deserve; here heads are ordered by fair "
        "share"
    )
    sharing = Sharing(Serve.SHARE)
    return grown(nodes, ROOT, totals, [Flavor(DEFAULT_FLAVOR)], notes, sharing)


def _node(one: Object, is_leaf: bool, notes: Notes) -> Node:
    parent = one.text("parent")
    weight = one.quantity("weight")
    deserved = _amounts(one.below("deserved"))
    guarantee = _amounts(one.below("guarantee").below("resource"))
    if not deserved:
        deserved = dict(guarantee)
        notes.add(
            "it has no `deserved` (its share follows from its weight): only its guarantee is "
            "nominal",
            one.name,
        )
    node = Node(
        one.name,
        "" if parent == ROOT else parent,
        1.0 if weight is None else float(weight),
        deserved,
        _amounts(one.below("capability")),
        guarantee,
        takes_jobs=is_leaf,
    )
    if is_leaf:
        node.within, node.reclaim = Victims.LOWER_PRIORITY, Victims.ANY
    told = one.text("dequeueStrategy")
    if told not in DISCIPLINES:
        raise one.wrong("dequeueStrategy", told, "fifo or traverse")
    node.discipline = DISCIPLINES[told]
    if one.get("reclaimable") is False:
        notes.add("it is not reclaimable; here others may reclaim what it borrows", one.name)
    for key in one.unasked():
        notes.add(f"spec.{key} has no counterpart", one.name)
    return node


def _amounts(fields: Fields) -> Amounts:
    found: Amounts = {}
    for name in fields.names():
        core, units = RESOURCES.get(name, (name, 1))
        amount = fields.quantity(name)
        if amount is not None:
            cell = (DEFAULT_FLAVOR, core)
            found[cell] = found.get(cell, 0) + int(amount * units)
    return found
