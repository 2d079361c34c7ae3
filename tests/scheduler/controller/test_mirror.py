"""The ledger between facts of the API and the core's state."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.controller.mirror import Ledger
from scheduler.controller.parts import Part, Request
from scheduler.controller.pins import pin
from scheduler.controlplane.objects import node as played
from scheduler.core import ordering, placement
from scheduler.core.decisions import Preempt
from scheduler.core.events import Overtaken
from scheduler.core.model import PodShape
from scheduler.core.queueing import GangState
from scheduler.journal.history import events_of
from scheduler.kube.objects import NodeObject, Pod
from scheduler.policies import catalog
from scheduler.policies.passes import Pass
from scheduler.policies.policy import Policy
from scheduler.policies.spec import PolicySpec
from scheduler.workloads.eligibility import shunned

RESOURCE = "nvidia.com/gpu"


def ledger(*gpus: int) -> Ledger:
    """Return a ledger of nodes with these GPUs, settled."""
    found = Ledger(catalog.policy(PolicySpec("priority")), RESOURCE, lambda now_s, item: None)
    for number, count in enumerate(gpus):
        found.set_node(msgspec.convert(played(number, count), NodeObject))
    found.settle(0.0)
    return found


def pod(name: str, node: str = "", **spec: object) -> Pod:
    """Return a pod, pinned to a node if one is named."""
    affinity = pin(None, node) if node else None
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"affinity": affinity, "containers": [], **spec},
        },
        Pod,
    )


def held(name: str, nodes: list[str], gpus: int) -> Request:
    """Return a request that runs on nodes, pinned there."""
    return Request(name, [Part("worker", PodShape(gpus, 0, 0), nodes=nodes)], 0.0)


def asking(name: str, one: Pod, gpus: int = 8, submit_s: float = 0.0, **more: Any) -> Request:
    """Return a gang of one pod that wants a node."""
    part = Part("worker", PodShape(gpus, 0, 0), one, uids=[one.metadata.uid], **more)
    return Request(name, [part], submit_s)


def starts(book: Ledger, now_s: float) -> dict[str, list[str]]:
    """Make a pass; return the nodes of each gang that starts."""
    return {placed.name: [node for _, _, node in placed.nodes] for placed in book.decide(now_s)}


def names(*numbers: int) -> list[str]:
    return [f"node-{number:05d}" for number in numbers]


def test_pins_of_what_runs_tell_no_nodes_apart() -> None:
    book = ledger(*[8] * 6)
    for number in range(6):
        book.set_gang(held(f"gang-{number}", names(number), 4))
    book.begin_anew()
    book.settle(1.0)
    assert len(book.state.capacity.groups) == 1
    assert {free.gpus for free in book.state.capacity.free_on_each()} == {4}


@pytest.mark.parametrize("gpus", [(8, 8, 4, 4), (4, 8, 4, 8)])
def test_one_gang_may_hold_neighbours_of_different_kinds(gpus: tuple[int, ...]) -> None:
    book = ledger(*gpus)
    book.set_gang(held("wide", names(0, 1, 2, 3), 2))
    book.settle(1.0)
    free = {
        n.name: book.state.capacity.free_on(i).gpus for i, n in enumerate(book.state.capacity.nodes)
    }
    assert free == {name: count - 2 for name, count in zip(names(0, 1, 2, 3), gpus, strict=True)}
    book.drop_gang("wide")
    assert sum(group.free_gpus for group in book.state.capacity.groups) == sum(gpus)


def test_gangs_that_hold_more_than_a_node_has_are_counted_in_full() -> None:
    """As after two muster processes, or a node that came back smaller."""
    book = ledger(8, 8, 8)
    book.set_gang(held("first", names(2), 8))
    parts = [
        Part("master", PodShape(8, 0, 0), nodes=names(0)),
        Part("worker", PodShape(8, 0, 0), nodes=names(1, 2)),
    ]
    book.set_gang(Request("second", parts, 0.0))
    book.settle(1.0)
    assert not any(free.gpus for free in book.state.capacity.free_on_each())
    book.drop_gang("first")
    book.settle(2.0)
    assert not any(free.gpus for free in book.state.capacity.free_on_each()), (
        "second still fills all three"
    )
    assert all(node.capacity.gpus == 8 for node in book.state.capacity.nodes)


def test_a_gang_whose_node_went_is_held_anew() -> None:
    book = ledger(8, 8)
    book.set_gang(held("wide", names(0, 1), 8))
    book.remove_node("node-00001")
    book.settle(1.0)
    book.set_gang(held("wide", names(0), 8))
    book.settle(2.0)
    assert [free.gpus for free in book.state.capacity.free_on_each()] == [0]
    book.drop_gang("wide")
    assert [free.gpus for free in book.state.capacity.free_on_each()] == [8]


def test_what_a_gang_still_holds_is_not_free_when_one_of_its_nodes_went() -> None:
    book = ledger(8, 8, 8)
    book.set_gang(held("wide", names(0, 1), 8))
    book.remove_node("node-00001")
    book.set_gang(asking("eager", pod("e")))
    assert starts(book, 1.0) == {"eager": ["node-00002"]}
    assert not book.has_room("node-00000", PodShape(1, 0, 0))
    book.set_node(msgspec.convert(played(1, 8), NodeObject))
    book.settle(2.0)
    assert not book.has_room("node-00001", PodShape(1, 0, 0)), "its pods are still there"
    book.drop_gang("wide")
    assert book.has_room("node-00001", PodShape(8, 0, 0))


def test_a_gang_without_any_of_its_nodes_holds_nothing() -> None:
    book = ledger(8, 8)
    book.set_gang(held("narrow", names(1), 8))
    book.remove_node("node-00001")
    book.settle(1.0)
    book.drop_gang("narrow")
    assert [free.gpus for free in book.state.capacity.free_on_each()] == [8]


def test_a_waiting_pod_tells_nodes_apart() -> None:
    book = ledger(8, 8)
    chosen = pod("a", nodeSelector={"kubernetes.io/hostname": "node-00001"})
    book.set_gang(asking("picky", chosen))
    assert starts(book, 1.0) == {"picky": ["node-00001"]}


def test_a_node_on_which_kube_scheduler_refused_a_pod_is_kept_off_by_that_request_alone() -> None:
    book = ledger(8, 8)
    once = shunned(pod("a"), book.nodes["node-00000"])
    book.set_gang(asking("burnt", pod("a"), avoid=once))
    book.set_gang(asking("fresh", pod("b"), submit_s=1.0))
    assert starts(book, 1.0) == {"burnt": ["node-00001"], "fresh": ["node-00000"]}


def test_a_volume_in_another_zone_rules_out_the_zone() -> None:
    book = ledger(8, 8, 8)
    for number, zone in enumerate("aab"):
        made = played(number, 8)
        made["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone
        book.set_node(msgspec.convert(made, NodeObject))
    disk = {"name": "d", "persistentVolumeClaim": {"claimName": "d"}}
    zonal = pod("a", volumes=[disk])
    wrong = shunned(zonal, book.nodes["node-00000"])
    book.set_gang(asking("zonal", zonal, avoid=wrong))
    assert starts(book, 1.0) == {"zonal": ["node-00002"]}


@pytest.mark.parametrize("tolerations", [[], [{"key": "broken", "operator": "Exists"}]])
def test_a_taint_that_comes_later_takes_the_node_from_who_does_not_tolerate_it(
    tolerations: list[dict[str, str]],
) -> None:
    book = ledger(8)
    one = pod("a", "node-00000", tolerations=tolerations)
    assert book.takes("node-00000", one)
    made = played(0, 8)
    made["spec"] = {"taints": [{"key": "broken", "effect": "NoSchedule"}]}
    book.set_node(msgspec.convert(made, NodeObject))
    assert book.takes("node-00000", one) is bool(tolerations)


def waiting(name: str, count: int, submit_s: float) -> Request:
    """Return a gang that wants nodes for pods of 8 GPUs."""
    uids = [f"{name}-{number}" for number in range(count)]
    return Request(name, [Part("worker", PodShape(8, 0, 0), pod(name), uids=uids)], submit_s)


def test_how_often_a_head_was_overtaken_outlives_the_state() -> None:
    told: list[object] = []
    policy = catalog.policy(PolicySpec("priority", "skip"))
    book = Ledger(policy, RESOURCE, lambda now_s, item: told.append(item))
    for number in range(2):
        book.set_node(msgspec.convert(played(number, 8), NodeObject))
    book.set_gang(waiting("head", 3, 0.0))
    book.set_gang(waiting("head-too", 2, 0.0))
    book.set_gang(held("runs", names(0), 8))
    book.set_gang(waiting("small", 1, 1.0))
    assert [one.name for one in book.decide(1.0)] == ["small"]
    assert book.state.gangs["head-too"].overtaken == 1
    book.begin_anew()
    book.settle(2.0)
    assert book.state.gangs["head-too"].overtaken == 1
    assert told[-1] == Overtaken("head-too", 1)
    assert not book.find_broken(3.0)
    book.settle(3.0)
    assert book.state.gangs["head-too"].overtaken == 1
    assert [one for one in events_of(book.state) if isinstance(one, Overtaken)] == [
        Overtaken("head-too", 1)
    ]


def test_a_decision_that_nobody_carries_out_is_refused_by_name() -> None:
    def greedy(around: Pass, head: GangState) -> None:
        around.made.append(Preempt(head.gang.name, ("runs",)))

    policy = Policy("greedy", ordering.priority, placement.pack, greedy)
    book = Ledger(policy, RESOURCE, lambda now_s, item: None)
    book.set_node(msgspec.convert(played(0, 8), NodeObject))
    book.set_gang(held("runs", names(0), 8))
    book.set_gang(waiting("head", 1, 0.0))
    with pytest.raises(ValueError, match=r"the core decides Preempt\(gang='head'.*nobody carries"):
        list(book.decide(1.0))


def test_what_was_saved_before_the_gang_started_again_counts_no_more() -> None:
    book = ledger(8, 8)
    first, second = names(0, 1)
    ran = Request("d/g", [Part("worker", PodShape(8), nodes=[first])], 0.0)
    ran.admitted_s, ran.saved_s = 10.0, 50.0
    book.set_gang(ran)
    book.decide(60.0)
    again = asking("d/g", pod("u2"))
    again.admitted_s, again.saved_s = 10.0, 50.0
    book.set_gang(again)
    assert len(starts(book, 100.0)) == 1
    book.begin_anew()
    book.decide(101.0)
    member = book.state.gangs["d/g"]
    assert member.admitted_us == 100_000_000
    assert member.saved_us < member.admitted_us
    stale = held("d/g", [node for node in (first, second) if node in again.nodes], 8)
    stale.admitted_s, stale.saved_s = 10.0, 50.0
    book.set_gang(stale)  # told late, with what was true before
    book.decide(102.0)
    assert "d/g" in book.state.gangs


def test_the_count_of_overtaking_outlives_the_search_for_a_broken_gang() -> None:
    book = Ledger(catalog.policy(PolicySpec(discipline="skip")), RESOURCE, lambda now_s, item: None)
    for number in range(2):
        book.set_node(msgspec.convert(played(number, 8), NodeObject))
    book.set_gang(asking("d/run", pod("r")))
    assert set(starts(book, 1.0)) == {"d/run"}
    head = Request("d/head", [Part("worker", PodShape(8), pod("h"), uids=["h1", "h2"])], 1.0)
    book.set_gang(head)
    book.set_gang(asking("d/small", pod("s"), submit_s=2.0))
    assert set(starts(book, 2.0)) == {"d/small"}
    assert book.state.gangs["d/head"].overtaken == 1
    assert not book.find_broken(3.0)
    book.settle(4.0)
    assert book.state.gangs["d/head"].overtaken == 1


def test_nothing_is_kept_of_nodes_whose_foreign_pods_are_gone() -> None:
    book = ledger()
    for number in range(20):
        book.set_node(msgspec.convert(played(number, 8), NodeObject))
        (name,) = names(number)
        book.set_foreign(f"p{number}", name, PodShape(1))
        book.settle(1.0)
        book.drop_foreign(f"p{number}")
        book.settle(2.0)
        book.remove_node(name)
        book.settle(3.0)
    assert not book._foreign_on
