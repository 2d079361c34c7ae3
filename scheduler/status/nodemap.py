"""Nodes by pool and rack, as their labels have it, and what is on each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from scheduler.controller.controller import Controller
from scheduler.controller.mirror import Ledger
from scheduler.kube.objects import Pod
from scheduler.status.pages import Breath
from scheduler.status.phases import standing
from scheduler.status.plain import plain
from scheduler.status.way_out import closed_by
from scheduler.workloads.requests import pod_shape

#: labels that name the pool of a node; the first that it has counts
POOLS = (
    "muster.dev/pool",
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "karpenter.sh/nodepool",
    "kubernetes.azure.com/agentpool",
    "node.kubernetes.io/instance-type",
)
#: labels that name the rack of a node, or what is next to it in its network; likewise
RACKS = (
    "muster.dev/rack",
    "topology.kubernetes.io/rack",
    "network.topology.nvidia.com/leaf",
    "nvidia.com/gpu.clique",
    "cloud.google.com/gce-topology-subblock",
    "topology.k8s.aws/network-node-layer-3",
    "oci.oraclecloud.com/rdma.local_block_id",
    "muster.dev/block",
)
MOST_OTHERS = 100  #: pods of no gang that are named
FEW = 2  #: nodes; racks that hold fewer on average are no racks

#: name, GPUs, free GPUs, and why it takes no pods: cordoned, not ready, or nothing
MapNode = tuple[str, int, int, str]


class Rack(msgspec.Struct):
    """Nodes of one rack; without a name all nodes of a pool that have none."""

    rack: str
    nodes: list[MapNode]


class Pool(msgspec.Struct):
    """Racks of one pool."""

    pool: str
    racks: list[Rack]


def place_of(labels: Mapping[str, str]) -> tuple[str, str]:
    """Return the pool and the rack of a node; empty where no label names one."""
    pool = next((labels[key] for key in POOLS if labels.get(key)), "")
    rack = next((labels[key] for key in RACKS if labels.get(key)), "")
    return plain(pool), plain(rack)


async def node_map(ledger: Ledger, breath: Breath) -> list[Pool]:
    """Return all nodes by pool and rack, each sorted by name."""
    capacity = ledger.state.capacity
    found: dict[str, dict[str, list[MapNode]]] = {}
    for i, node in enumerate(list(capacity.nodes)):
        known = ledger.nodes.get(node.name)
        pool, rack = place_of(known.metadata.labels if known is not None else {})
        closed = closed_by(ledger, node.name) if i in capacity.unschedulable else ""
        seen = (node.name, node.capacity.gpus, capacity.free_on(i).gpus, closed)
        found.setdefault(pool, {}).setdefault(rack, []).append(seen)
        await breath()
    return [Pool(pool, _racks(found[pool])) for pool in sorted(found)]


def _racks(found: dict[str, list[MapNode]]) -> list[Rack]:
    """Return the racks of a pool; one without a name where labels divide it into single nodes."""
    num_nodes = sum(map(len, found.values()))
    if len(found) > 1 and num_nodes < FEW * len(found):
        found = {"": [node for nodes in found.values() for node in nodes]}
    return [Rack(name, sorted(found[name])) for name in sorted(found)]


def rack_of(ledger: Ledger, name: str) -> str:
    """Return the rack of a node, as its labels have it."""
    known = ledger.nodes.get(name)
    return place_of(known.metadata.labels)[1] if known is not None else ""


class OnNode(msgspec.Struct):
    """Pods of one gang on a node."""

    gang: str
    phase: str
    gpus: int  #: that they hold there
    pods: list[str]


class NodeView(msgspec.Struct):
    """A node and what is on it."""

    name: str
    pool: str
    rack: str
    gpus: int
    free_gpus: int
    closed: str  #: why it takes no pods: cordoned, not ready, or nothing
    gangs: list[OnNode]
    others: list[str]  #: pods of no gang that hold GPUs there
    num_others: int  #: all pods of no gang


def node_view(control: Controller, name: str, uids: Iterable[str]) -> NodeView:
    """Describe a node; `uids` are the pods that have it, or are to have it."""
    ledger = control.ledger
    capacity, known = ledger.state.capacity, ledger.nodes[name]
    at = capacity.index_of.get(name)
    gpus = capacity.nodes[at].capacity.gpus if at is not None else 0
    free_gpus = capacity.free_on(at).gpus if at is not None else 0
    gangs: dict[str, OnNode] = {}
    others: list[str] = []
    num_others = 0
    for uid in uids:
        pod, key = control.pods.get(uid), control.key_of_pod.get(uid)
        if pod is None or pod.ended:
            continue
        gang = control.gangs.get(key) if key is not None else None
        if gang is None:
            num_others += 1
            if _gpus(control, pod):
                others.append(plain(pod.where))
            continue
        seen = gangs.get(gang.name)
        if seen is None:
            phase = standing(gang, ledger).phase
            seen = gangs[gang.name] = OnNode(gang.name, phase, 0, [])
        seen.gpus += _gpus(control, pod)
        seen.pods.append(pod.metadata.name)
    closed = "" if ledger.usable(name) else closed_by(ledger, name)
    return NodeView(
        name,
        *place_of(known.metadata.labels),
        gpus,
        free_gpus,
        closed,
        sorted(gangs.values(), key=lambda one: one.gang),
        others[:MOST_OTHERS],
        num_others,
    )


def _gpus(control: Controller, pod: Pod) -> int:
    """Return the GPUs that a pod requests; none where nobody can read it."""
    try:
        return pod_shape(pod, control.settings.resource).gpus
    except ValueError:
        return 0
