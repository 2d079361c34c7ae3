"""57: constraints that kube-scheduler checks and muster does not plan by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import NODES, Kube, gang, pod, pytorchjob
from tests.cluster.test_failure_pods import bound

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

ZONE = "topology.kubernetes.io/zone"
POOL = "example.com/pool"
HOST = "kubernetes.io/hostname"
PORT = {"containerPort": 9090, "hostPort": 9090}


@pytest.fixture
def zones(kube: Kube) -> Iterator[set[str]]:
    """Put one half of the nodes into zone a, the other into b; return those of b."""
    names = [f"node-{number:05d}" for number in range(NODES)]
    for number, name in enumerate(names):
        labels = {ZONE: "a" if number < NODES // 2 else "b", HOST: name}
        kube.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": labels}})
    yield set(names[NODES // 2 :])
    for name in names:
        kube.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {ZONE: None}}})


def job(space: str, name: str, gpus: int, **spec: Any) -> dict[str, Any]:
    """Return a job of two pods with so many GPUs each."""
    found = pytorchjob(space, name, 1, gpus)
    container = spec.pop("container", {})
    for part in found["spec"]["pytorchReplicaSpecs"].values():
        part["template"]["spec"]["containers"][0] |= container
        part["template"]["spec"] |= spec
    return found


@pytest.fixture
def volume(kube: Kube, space: str) -> Iterator[str]:
    """Return a claim that is bound to a volume in zone b."""
    in_b = {"key": ZONE, "operator": "In", "values": ["b"]}
    size = {"storage": "1Gi"}
    kube.call(
        "POST",
        "/api/v1/persistentvolumes",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": space},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": space, "name": "data"},
                "hostPath": {"path": "/nowhere"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [in_b]}]}},
            },
        },
    )
    claims = f"/api/v1/namespaces/{space}/persistentvolumeclaims"
    kube.call(
        "POST",
        claims,
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "",
                "volumeName": space,
                "resources": {"requests": size},
            },
        },
    )
    path = f"{claims}/data"
    kube.until("the claim is bound", lambda: kube.call("GET", path)["status"]["phase"] == "Bound")
    yield "data"
    kube.delete(path)
    kube.delete(f"/api/v1/persistentvolumes/{space}")


def test_57_ports_volumes_and_pods_that_repel_are_planned_around(
    kube: Kube, space: str, zones: set[str], volume: str
) -> None:
    """The first plan of each is refused; what kube-scheduler said is heeded in the second."""
    kube.create(pod(space, "noisy", 4, labels={"app": "noisy"}))
    kube.until("noisy runs", lambda: "noisy" in kube.bound(space))
    selector = {"labelSelector": {"matchLabels": {"app": "noisy"}}, "topologyKey": HOST}
    repelled = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [selector]}}
    disk = {"name": "data", "persistentVolumeClaim": {"claimName": volume}}
    kube.create(
        job(space, "apart", 2, affinity=repelled),
        job(space, "ports", 2, container={"ports": [PORT]}),
        job(space, "zonal", 8, volumes=[disk]),
    )
    kube.until(
        "all three run whole",
        lambda: all(len(bound(kube, space, name)) == 2 for name in ("apart", "ports", "zonal")),
        within_s=120,
    )
    assert kube.bound(space)["noisy"] not in bound(kube, space, "apart").values()
    assert len(set(bound(kube, space, "ports").values())) == 2
    assert set(bound(kube, space, "zonal").values()) <= zones


def test_57_a_gang_that_no_node_suits_says_so_and_is_left_alone(kube: Kube, space: str) -> None:
    few = ["node-00000", "node-00001"]
    for name in few:
        kube.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {POOL: "few"}}})
    try:
        kube.create(*(port_taken(space, name) for name in few))
        kube.until("the ports are taken", lambda: len(kube.bound(space)) == 2)
        one = job(space, "stuck", 8, container={"ports": [PORT]}, nodeSelector={POOL: "few"})
        del one["spec"]["pytorchReplicaSpecs"]["Worker"]
        kube.create(one)
        found = kube.until(
            "both nodes were tried",
            lambda: (e := kube.explain(space, "stuck")).get("aside") and e,
            within_s=120,
        )
        assert found["reason"] == "capacity", "what is refused may pass"
        assert "host port 9090" in found["text"]
        assert "kube-scheduler refused pod stuck-" in found["text"]
        assert "free ports" in found["text"]
        uids = {p["metadata"]["uid"] for p in kube.pods(space).values()}
        tried_s = time.monotonic()
        kube.until("nothing more happens", lambda: time.monotonic() > tried_s + 5.0)
        assert {p["metadata"]["uid"] for p in kube.pods(space).values()} == uids
        assert bound(kube, space, "stuck") == {}
    finally:
        for name in few:
            kube.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {POOL: None}}})


def port_taken(space: str, name: str) -> dict[str, Any]:
    """Return a pod without GPUs that has the port on a node."""
    found = pod(space, f"port-{name}", 0)
    found["spec"]["nodeSelector"] = {HOST: name}
    found["spec"]["containers"][0]["ports"] = [PORT]
    return found


def test_57_muster_binds_nothing_itself_whose_constraints_it_does_not_check(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    whole = gang(space, "bold", 2, 1, schedulerName="muster-direct")
    whole[2]["spec"]["containers"][0]["ports"] = [PORT]
    kube.create(*whole)
    found = kube.until(
        "it says so",
        lambda: (e := kube.explain(space, "bold")).get("text", "").startswith("pod") and e,
    )
    assert found["text"].startswith(
        "pod bold-1 has host port 9090, which only kube-scheduler checks"
    )
    assert kube.bound(space) == {}
