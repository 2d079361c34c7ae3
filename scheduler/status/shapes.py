"""What is free on the nodes, class by class, and which gangs would fit."""

from __future__ import annotations

import msgspec

from scheduler.controller.mirror import Ledger
from scheduler.core.model import PodShape, Selector
from scheduler.status.way_out import closed_by, label_of, merged

MOST_SHAPES = 12  #: waiting shapes that are listed


class FreeShape(msgspec.Struct):
    """This many GPUs are free on each of these nodes."""

    free_gpus: int
    num_nodes: int


class Fit(msgspec.Struct):
    """The largest gang of pods with so many GPUs each that fits now."""

    gpus_per_pod: int
    pods: int


class NodeClass(msgspec.Struct):
    """Nodes of one pool, GPU model and size."""

    pool: str
    gpu_model: str
    gpus_per_node: int
    num_nodes: int = 0
    num_ready: int = 0
    num_cordoned: int = 0
    num_not_ready: int = 0
    free_gpus: int = 0  #: on nodes that take pods
    free: list[FreeShape] = []
    fits: list[Fit] = []


class WaitingShape(msgspec.Struct):
    """A waiting gang shape, and how much of the free capacity it cannot use."""

    pods: int
    gpus_per_pod: int
    nodes: str  #: the class of nodes that it may use, if not all
    num_gangs: int
    fit_pods: int
    free_gpus: int  #: on nodes it may use
    fragmentation_ratio: float  #: share of these that gangs of this shape cannot use


class Shapes(msgspec.Struct):
    """The whole cluster."""

    classes: list[NodeClass]
    waiting: list[WaitingShape]


def shapes(ledger: Ledger) -> Shapes:
    """Describe what is free."""
    return Shapes(_classes(ledger), _waiting(ledger))


def _classes(ledger: Ledger) -> list[NodeClass]:
    capacity = ledger.state.capacity
    found: dict[tuple[str, str, int], NodeClass] = {}
    free: dict[tuple[str, str, int], dict[int, int]] = {}
    of_group: dict[int, tuple[str, str, int]] = {}
    for group in capacity.groups:
        if not group.num_nodes:
            continue
        pool = ledger.classes.labels_of(group.pool).get("muster.dev/pool", "")
        key = of_group[id(group)] = (pool, group.gpu_model, group.gpus_each)
        seen = found.setdefault(key, NodeClass(*key))
        seen.num_nodes += group.num_nodes
        seen.num_ready += group.num_nodes
        seen.free_gpus += group.free_gpus
        counts = free.setdefault(key, {})
        for shape, nodes in group.by_free():
            if shape.gpus:
                counts[shape.gpus] = counts.get(shape.gpus, 0) + nodes.size
    for i in capacity.unschedulable:
        seen = found[of_group[id(capacity.group_of[i])]]
        seen.num_ready -= 1
        if closed_by(ledger, capacity.nodes[i].name) == "cordoned":
            seen.num_cordoned += 1
        else:
            seen.num_not_ready += 1
    for key, seen in found.items():
        counts = free[key]
        seen.free = [FreeShape(gpus, counts[gpus]) for gpus in sorted(counts, reverse=True)]
        seen.fits = [
            Fit(gpus, sum(n * (have // gpus) for have, n in counts.items()))
            for gpus in _common(key[2])
        ]
    return [found[key] for key in sorted(found, key=lambda key: (-key[2], key))]


def _common(gpus_per_node: int) -> list[int]:
    """Return the usual GPUs per pod: powers of two, and the whole node."""
    sizes = {1 << n for n in range(gpus_per_node.bit_length()) if 1 << n <= gpus_per_node}
    return sorted(sizes | ({gpus_per_node} if gpus_per_node else set()))


def _waiting(ledger: Ledger) -> list[WaitingShape]:
    """Return the shapes that wait, in queue order, each with its fragmentation."""
    capacity = ledger.state.capacity
    found: dict[tuple[int, PodShape, Selector], WaitingShape] = {}
    for member in ledger.state.queue.in_order():
        hardest = max(merged(member.missing), key=lambda role: (role.pod, role.count))
        pods, pod, selector = hardest.count, hardest.pod, hardest.selector
        key = (pods, pod, selector)
        seen = found.get(key)
        if seen is not None:
            seen.num_gangs += 1
            continue
        if len(found) == MOST_SHAPES:
            break
        fit_pods, free_gpus = capacity.outlook(pod, selector)
        usable = fit_pods // pods * pods * pod.gpus
        groups = capacity.eligible(selector)
        labels = {label_of(ledger, group) for group in groups}
        found[key] = WaitingShape(
            pods,
            pod.gpus,
            "" if len(groups) == len(capacity.groups) else ", ".join(sorted(labels - {""})),
            1,
            fit_pods,
            free_gpus,
            1 - usable / free_gpus if free_gpus else 0.0,
        )
    return list(found.values())
