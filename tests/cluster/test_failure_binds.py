"""Binds that come too late, or that must not be at all, are refused. Numbers are failure modes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from scheduler.controlplane.record import Cluster
from scheduler.kube.objects import GATE
from tests.cluster.conftest import NODES, Kube, gang, group, pod
from tests.cluster.test_failure_extender import ALL_NODES, Verbs, planned
from tests.cluster.test_failure_room import bind_by_hand, bound

pytestmark = [pytest.mark.k8s, pytest.mark.slow]
LABEL = "scheduling.x-k8s.io/pod-group"


def test_05_pod_deleted_while_binds_are_parked(
    kube: Kube, space: str, cluster: Cluster, ungated: None
) -> None:
    """The first of two binds is parked for the second, whose pod goes: neither is bound."""
    kube.create(*gang(space, "parked", 2, schedulerName="nobody"))
    nodes = planned(kube, space, "parked", 2)
    one = kube.pods(space)["parked-0"]
    with ThreadPoolExecutor(1) as pool:
        call: Future[str] = pool.submit(Verbs(cluster).bind, one, nodes["parked-0"])
        kube.delete(f"/api/v1/namespaces/{space}/pods/parked-1")
        assert call.result(timeout=20), "refused, with the reason"
    assert kube.bound(space) == {}


def test_08_bound_by_another_scheduler_elsewhere(kube: Kube, space: str, cluster: Cluster) -> None:
    kube.create(*gang(space, "taken", 2, schedulerName="nobody"))
    nodes = planned(kube, space, "taken", 2)
    pods = kube.pods(space)
    elsewhere = next(node for node in ALL_NODES if node not in nodes.values())
    bind_by_hand(kube, space, "taken-0", elsewhere)
    verbs = Verbs(cluster)
    assert verbs.bind(pods["taken-0"], nodes["taken-0"]), "409 is told, not hidden"
    assert verbs.bind(pods["taken-1"], nodes["taken-1"]) == ""
    assert kube.bound(space) == {"taken-0": elsewhere, "taken-1": nodes["taken-1"]}
    kube.create(*gang(space, "rest", NODES - 2))
    kube.until("what was promised is free", lambda: len(bound(kube, space, "rest")) == NODES - 2)
    assert len(set(kube.bound(space).values())) == NODES


def test_09_bind_of_a_pod_that_another_gate_holds(kube: Kube, space: str, cluster: Cluster) -> None:
    """It is planned once that gate is off: what the pod asks for may change with it."""
    kube.create(group(space, "quota", 1))
    gates = [{"name": "example.com/quota"}]
    kube.create(pod(space, "quota-0", labels={LABEL: "quota"}, schedulingGates=gates))
    one = kube.pods(space)["quota-0"]
    assert [gate["name"] for gate in one["spec"]["schedulingGates"]] == [gates[0]["name"], GATE]
    assert Verbs(cluster).bind(one, ALL_NODES[0])
    kube.until(
        "muster says whose gate it waits for",
        lambda: "example.com/quota" in kube.explain(space, "quota").get("text", ""),
    )
    assert Verbs(cluster).bind(kube.pods(space)["quota-0"], ALL_NODES[0])
    assert kube.bound(space) == {}
    path = f"/api/v1/namespaces/{space}/pods/quota-0"
    kube.patch(path, {"spec": {"schedulingGates": [{"name": GATE}]}})
    kube.until("it is bound", lambda: kube.bound(space))


def test_10_bind_of_a_pod_that_is_gone(kube: Kube, space: str, cluster: Cluster) -> None:
    kube.create(*gang(space, "gone", 1, schedulerName="nobody"))
    nodes = planned(kube, space, "gone", 1)
    one = kube.pods(space)["gone-0"]
    kube.delete(f"/api/v1/namespaces/{space}/pods/gone-0")
    assert Verbs(cluster).bind(one, nodes["gone-0"])
    kube.create(*gang(space, "all", NODES))
    kube.until("its node is free", lambda: len(bound(kube, space, "all")) == NODES)


def test_27_35_a_plan_that_nobody_binds_is_given_up(
    kube: Kube, space: str, cluster: Cluster, ungated: None
) -> None:
    """And the bind that comes after that is refused."""
    kube.create(*gang(space, "idle", NODES, schedulerName="absent"))
    nodes = planned(kube, space, "idle", NODES)
    pods = kube.pods(space)
    kube.create(*gang(space, "next", NODES))
    kube.until("its promise is over", lambda: len(bound(kube, space, "next")) == NODES)
    verbs = Verbs(cluster)
    for name, node in nodes.items():
        assert verbs.bind(pods[name], node), "a late bind would double-book the node"
    assert bound(kube, space, "idle") == {}


def test_66_a_node_that_is_not_there_is_never_bound_to(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    kube.create(*gang(space, "held", 1, schedulerName="nobody"))
    planned(kube, space, "held", 1)
    verbs = Verbs(cluster)
    lone = kube.call("POST", f"/api/v1/namespaces/{space}/pods", alone(space))
    for one in (kube.pods(space)["held-0"], lone):
        assert verbs.bind(one, "node-99999")
    assert kube.bound(space) == {}


def alone(space: str) -> dict[str, Any]:
    """Return a pod of no gang that no scheduler looks at."""
    return pod(space, "alone", schedulerName="nobody")
