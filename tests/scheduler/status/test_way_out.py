"""What would have to change for a gang to start, and what is free, on nodes without a cluster."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec
import pytest

from scheduler.controller.mirror import Ledger
from scheduler.controller.parts import Part, Request
from scheduler.controlplane.objects import node as played
from scheduler.core.decisions import PendingReason
from scheduler.kube.objects import NodeObject, Pod
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from scheduler.status.shapes import shapes
from scheduler.status.way_out import WayOut, sentences, way_out
from scheduler.workloads.requests import pod_shape

RESOURCE = "nvidia.com/gpu"


def book(*gpus: int, policy: str = "strict") -> Ledger:
    """Return a ledger of nodes with these GPUs."""
    found = Ledger(
        catalog.policy(PolicySpec("priority", policy)), RESOURCE, lambda now_s, item: None
    )
    for number, count in enumerate(gpus):
        found.set_node(node(number, count))
    return found


def node(
    number: int, gpus: int, *, ready: bool = True, cordoned: bool = False, **labels: str
) -> Any:
    item = played(number, gpus)
    item["metadata"]["labels"].update({key.replace("__", "/"): v for key, v in labels.items()})
    item["spec"] = {"unschedulable": cordoned}
    item["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
    return msgspec.convert(item, NodeObject)


def request(
    name: str, pods: int, gpus: int, nodes: tuple[int, ...] = (), cpu: int = 0, **more: Any
) -> Request:
    resources = {"limits": {RESOURCE: str(gpus)}, "requests": {"cpu": str(cpu)}}
    pod = msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"containers": [{"resources": resources}], **more.pop("spec", {})},
        },
        Pod,
    )
    names = [f"node-{number:05d}" for number in nodes]
    uids = [f"{name}-{number}" for number in range(pods - len(nodes))]
    part = Part("worker", pod_shape(pod, RESOURCE), pod, nodes=names, uids=uids)
    return Request(name, [part], 0.0, **more)


def asked(ledger: Ledger, name: str, now_s: float = 0.0) -> tuple[PendingReason, WayOut, list[str]]:
    """Return reason, numbers and sentences of a waiting request."""
    list(ledger.decide(now_s))
    said = ledger.explain(name)
    assert said is not None, "it waits"
    found = way_out(ledger, name, said.reason, now_s)
    return said.reason, found, sentences(found, said.reason)


def test_only_what_is_lacking_counts() -> None:
    """A gang of nine of which eight run lacks one pod, not nine."""
    ledger = book(*[8] * 9)
    ledger.set_gang(request("big", 9, 8, tuple(range(8)), walltime_s=1.0))
    ledger.set_gang(request("other", 1, 8, (8,)))
    reason, found, said = asked(ledger, "big")
    assert reason is PendingReason.CAPACITY
    assert [(kind.pods, kind.gpus, kind.more_pods) for kind in found.lacks] == [(1, 8, 1)]
    assert said[0] == "1 more pod of 8 GPUs would have to fit: 0 of 1 fit now"
    assert any("other (8 GPUs, no walltime known)" in line for line in said)
    assert [ending.gang for ending in found.endings] == ["other"], "its own end helps nobody"


def test_gangs_that_end_are_named_soonest_first_and_give_a_time() -> None:
    ledger = book(*[8] * 4)
    for name, at, hours in (("late", 0, 9), ("soon", 1, 1), ("next", 2, 2), ("open", 3, inf)):
        ledger.set_gang(request(name, 1, 8, (at,), walltime_s=hours * 3600.0))
    ledger.set_gang(request("waits", 2, 8))
    _, found, said = asked(ledger, "waits", 600.0)
    assert [(e.gang, e.makes_room_for) for e in found.endings] == [("soon", 1), ("next", 2)]
    assert found.starts_in_s == 2 * 3600.0 - 600.0
    assert said[-1] == (
        "room is free soonest when these end: soon (8 GPUs, ends within 50 min), next (8 GPUs, "
        "ends within 1.8 h)"
    )


def test_without_walltimes_the_smallest_gangs_that_suffice_are_named() -> None:
    ledger = book(*[8] * 6)
    ledger.set_gang(request("huge", 3, 8, (0, 1, 2)))
    ledger.set_gang(request("fair", 2, 8, (3, 4)))
    ledger.set_gang(request("tiny", 1, 8, (5,)))
    ledger.set_gang(request("waits", 2, 8))
    _, found, said = asked(ledger, "waits")
    assert [ending.gang for ending in found.endings] == ["fair", "huge"]
    assert found.any_ending and found.starts_in_s is None
    assert said[-1].startswith(
        "enough room is free when this gang ends: fair (16 GPUs, no walltime"
    )


def test_a_promise_of_the_policy_is_the_time() -> None:
    ledger = book(8, 8)
    ledger.policy = catalog.policy(PolicySpec("priority", "easy"))
    ledger.set_gang(request("runs", 2, 8, (0, 1), walltime_s=1000.0))
    ledger.set_gang(request("waits", 1, 8))
    assert asked(ledger, "waits", 400.0)[1].starts_in_s == pytest.approx(600.0)


def test_cordoned_and_not_ready_nodes_are_told_apart_and_hide_nothing() -> None:
    ledger = book(8, 8)
    ledger.set_node(node(2, 8, cordoned=True))
    ledger.set_node(node(3, 8, ready=False))
    ledger.set_node(node(4, 4, cordoned=True))  # too small: no hint
    ledger.set_gang(request("runs", 2, 8, (0, 1)))
    ledger.set_gang(request("waits", 2, 8))
    _, found, said = asked(ledger, "waits")
    assert [(c.state, c.nodes, c.fit_pods) for c in found.closed] == [
        ("cordoned", ["node-00002"], 1),
        ("not ready", ["node-00003"], 1),
    ]
    assert "1 node with room for 1 of its pods is cordoned: kubectl uncordon node-00002" in said
    assert "1 node with room for 1 of its pods is not ready: node-00003" in said
    assert said[0] == "2 more pods of 8 GPUs would have to fit: 0 of 2 fit now"
    assert any("runs (16 GPUs" in line for line in said)


def test_nodes_of_another_class_are_no_way_out() -> None:
    ledger = book(8)
    ledger.set_node(node(1, 8, cordoned=True, zone="b"))
    ledger.set_gang(request("runs", 1, 8, (0,)))
    ledger.set_gang(request("waits", 1, 8, spec={"nodeSelector": {"zone": "a"}}))
    ledger.set_node(node(2, 8, cordoned=True, zone="a"))
    assert [closed.nodes for closed in asked(ledger, "waits")[1].closed] == [["node-00002"]]


def test_fragmentation_shows_the_largest_block() -> None:
    ledger = book(8, 8, 8)
    for number in range(3):
        ledger.set_gang(request(f"runs-{number}", 1, 4 + number % 2, (number,)))
    ledger.set_gang(request("waits", 1, 8))
    reason, found, said = asked(ledger, "waits")
    assert reason is PendingReason.FRAGMENTATION
    assert [(b.free_gpus, b.num_nodes) for b in found.blocks] == [(4, 2), (3, 1)]
    assert (
        "largest free block: 4 GPUs on one node, a pod needs 8 "
        "(free GPUs: 4 on 2 nodes, 3 on 1 node)" in said
    )


def test_nodes_with_gpus_and_too_little_cpu_are_said() -> None:
    ledger = book(8)
    cpus = ledger.nodes["node-00000"].status.allocatable["cpu"]
    ledger.set_gang(request("runs", 1, 1, (0,), cpu=int(str(cpus)) - 1))
    ledger.set_gang(request("waits", 1, 4, cpu=2))
    _, found, said = asked(ledger, "waits")
    assert found.short_of == "cpu"
    assert any("too little cpu: a pod asks for 2 CPUs" in line for line in said)


def test_never_fits_says_what_the_largest_class_holds() -> None:
    ledger = book(8, 8, 8, 4)
    ledger.set_gang(request("many", 5, 8))
    ledger.set_gang(request("wide", 1, 16))
    ledger.set_gang(request("nowhere", 1, 1, spec={"nodeSelector": {"zone": "moon"}}))
    assert (
        "3 nodes of 8 GPUs (local), holds 3 of its 5 pods of 8 GPUs" in asked(ledger, "many")[2][0]
    )
    assert asked(ledger, "wide")[2] == [
        "no node holds a pod of 16 GPUs; the largest class has 3 nodes of 8 GPUs (local)"
    ]
    assert asked(ledger, "nowhere")[2] == [
        "no node matches its node selector, its affinity and its tolerations"
    ]


def test_classes_are_told_by_pool_model_and_size() -> None:
    ledger = book()
    for number in range(3):
        ledger.set_node(
            node(number, 8, muster_dev__pool="x", **{"nvidia.com__gpu.product": "H100"})
        )
    ledger.set_node(node(3, 4, cordoned=True))
    ledger.set_node(node(4, 4, ready=False))
    ledger.set_gang(request("runs", 1, 6, (0,)))
    list(ledger.decide(0.0))
    big, small = shapes(ledger).classes
    assert (big.gpu_model, big.gpus_per_node, big.num_nodes, big.free_gpus) == ("H100", 8, 3, 18)
    assert [(f.free_gpus, f.num_nodes) for f in big.free] == [(8, 2), (2, 1)]
    assert [(f.gpus_per_pod, f.pods) for f in big.fits] == [(1, 18), (2, 9), (4, 4), (8, 2)]
    assert (small.num_ready, small.num_cordoned, small.num_not_ready) == (0, 1, 1)
    assert small.free_gpus == 0 and not small.free


def test_fragmentation_is_of_the_shape_that_waits() -> None:
    """Of 22 free GPUs gangs of 2 x 8 use 16 at most, and with one whole node fewer none."""
    ledger = book(8, 8, 8, 8)
    ledger.set_gang(request("a", 1, 2, (0,)))
    ledger.set_gang(request("b", 1, 8, (1,)))
    ledger.set_gang(request("waits", 4, 8))
    ledger.set_gang(request("more", 2, 8, priority=-1))
    ledger.set_gang(request("same", 2, 8, priority=-2))
    list(ledger.decide(0.0))
    first, second = shapes(ledger).waiting
    assert (first.pods, first.fit_pods, first.free_gpus) == (4, 2, 22)
    assert first.fragmentation_ratio == 1.0
    assert second.num_gangs == 2
    assert second.fragmentation_ratio == pytest.approx(6 / 22)
