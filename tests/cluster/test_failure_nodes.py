"""Nodes and processes that fail around a plan. Numbers are failure modes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import objects
from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import NODES, Kube, gang, pytorchjob
from tests.cluster.test_failure_extender import planned

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


@pytest.fixture
def mended(kube: Kube) -> Iterator[None]:
    """Uncordon nodes and make deleted ones anew when the test ends."""
    yield
    there = {item["metadata"]["name"]: item for item in kube.call("GET", "/api/v1/nodes")["items"]}
    for number in range(NODES):
        fresh = objects.node(number, 8)
        old = there.get(fresh["metadata"]["name"])
        if old is None:
            kube.create(fresh)
        else:
            path = f"/api/v1/nodes/{old['metadata']['name']}"
            kept = {"metadata": {"annotations": {HELD: None}}}
            kube.patch(path, {"spec": {"unschedulable": None, "taints": None}, **kept})
            kube.patch(f"{path}/status", {"status": {"conditions": [{**READY, "status": "True"}]}})
    kube.until("all nodes are ready", lambda: num_ready(kube) == NODES)


def num_ready(kube: Kube) -> int:
    """Count ready nodes."""
    return sum(
        any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"]["conditions"])
        for n in kube.call("GET", "/api/v1/nodes")["items"]
        if n["status"].get("conditions")
    )


def held_job(space: str, name: str, workers: int) -> dict[str, object]:
    """Return a job whose pods are planned and bound by nobody."""
    job = pytorchjob(space, name, workers, 8)
    for part in job["spec"]["pytorchReplicaSpecs"].values():
        part["template"]["spec"]["schedulerName"] = "nobody"
    return job


READY = {"type": "Ready", "reason": "KubeletReady", "message": ""}
HELD = "muster.dev/not-ready"  #: kwok leaves nodes alone that have it
TAINT = {"key": "example.com/broken", "effect": "NoSchedule"}
#: what happens to a node, as patches of it and of its status; none: it is deleted
LOSSES: dict[str, dict[str, object]] = {
    "01-deleted": {},
    "02-cordoned": {"": {"spec": {"unschedulable": True}}},
    "02-not-ready": {
        "": {"metadata": {"annotations": {HELD: "yes"}}},
        "/status": {"status": {"conditions": [{**READY, "status": "False"}]}},
    },
    "02-tainted": {"": {"spec": {"taints": [TAINT]}}},
}


@pytest.mark.parametrize("loss", list(LOSSES))
def test_01_02_node_lost_after_plan(
    kube: Kube, space: str, patient: None, mended: None, loss: str
) -> None:
    kube.create(held_job(space, "moved", 3))
    before = planned(kube, space, "moved", 4)
    lost = before["moved-worker-1"]
    for part, patch in LOSSES[loss].items():
        kube.patch(f"/api/v1/nodes/{lost}{part}", patch)
    if not LOSSES[loss]:
        kube.delete(f"/api/v1/nodes/{lost}")

    def elsewhere() -> bool:
        nodes = {p["name"]: p["node"] for p in kube.explain(space, "moved").get("pods", [])}
        return len(set(nodes.values()) - {""}) == 4 and lost not in nodes.values()

    kube.until("all four have other nodes", elsewhere)  # long before the plan's time is over
    after = planned(kube, space, "moved", 4)
    assert len(set(after.values())) == 4
    assert {p: n for p, n in after.items() if n != before[p]}.keys() == {"moved-worker-1"}


def test_02_a_cordoned_node_is_no_room(kube: Kube, space: str, mended: None) -> None:
    kube.patch("/api/v1/nodes/node-00000", {"spec": {"unschedulable": True}})
    kube.create(*gang(space, "all", NODES))

    def waits() -> bool:
        story = kube.explain(space, "all")
        return (story.get("reason"), story.get("free_gpus")) == ("capacity", 8 * NODES - 8)

    kube.until("all waits for the twelfth node", waits)
    assert kube.bound(space) == {}
    kube.patch("/api/v1/nodes/node-00000", {"spec": {"unschedulable": None}})
    kube.until("all starts", lambda: len(kube.bound(space)) == NODES)


def test_16_18_muster_killed_amid_plans_recovers_whole_gangs(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    supervisor = cluster.process("muster").pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    for i in range(3):
        kube.create(*gang(space, f"g{i}", NODES // 3))
    kube.until("one pod is bound", lambda: kube.bound(space))
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    kube.until("all gangs are whole", lambda: len(kube.bound(space)) == NODES, within_s=90)
    kube.until("muster is ready again", lambda: cluster.healthy("muster"), within_s=90)
    assert len(set(kube.bound(space).values())) == NODES


def test_20_21_kube_scheduler_killed_with_a_plan_out(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    cluster.process("kube-scheduler").signal(signal.SIGKILL)
    kube.create(*gang(space, "parked", NODES))
    promised = planned(kube, space, "parked", NODES)
    assert kube.bound(space) == {}
    cluster.restart("kube-scheduler")
    kube.until("parked starts as planned", lambda: kube.bound(space) == promised)
