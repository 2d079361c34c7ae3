"""What no node can take blocks nobody, and starts once that changes. On the real control plane."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import NODES, Kube, gang, pod
from tests.cluster.test_failure_constraints import HOST, PORT
from tests.cluster.test_failure_pods import bound

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

FIRST = "/api/v1/nodes/node-00000"
GROUP = {"muster.dev/group": "bare", "muster.dev/min-member": "2"}


@pytest.fixture
def named(kube: Kube) -> Iterator[None]:
    """Have one node carry its name as a label."""
    kube.patch(FIRST, {"metadata": {"labels": {HOST: "node-00000"}}})
    yield
    kube.patch(FIRST, {"metadata": {"labels": {HOST: None}}, "spec": {"unschedulable": None}})


def bare(space: str, name: str, gpus: int = 8, **spec: Any) -> dict[str, Any]:
    """Return a pod of a gang that nothing makes anew."""
    made = pod(space, name, gpus, annotations=GROUP)
    made["spec"] |= spec
    return made


def test_a_pod_for_a_cordoned_node_lets_others_pass_and_starts_once_it_is_open(
    kube: Kube, space: str, named: None
) -> None:
    kube.patch(FIRST, {"spec": {"unschedulable": True}})
    waits = pod(
        space, "waits", 0, annotations={"muster.dev/group": "w", "muster.dev/min-member": "1"}
    )
    waits["spec"]["nodeSelector"] = {HOST: "node-00000"}
    kube.create(waits)
    kube.until("it stands aside", lambda: kube.explain(space, "w").get("aside"))
    assert "node-00000 is cordoned" in kube.explain(space, "w")["text"]
    kube.create(*gang(space, "other", 2))
    kube.until("the other starts", lambda: len(bound(kube, space, "other")) == 2, 15.0)

    def told() -> bool:
        items = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
        return any(e["reason"] == "SetAside" and "cordoned" in e["note"] for e in items)

    kube.until("an Event says so", told, 15.0)
    kube.patch(FIRST, {"spec": {"unschedulable": None}})
    kube.until("it starts", lambda: kube.bound(space).get("waits") == "node-00000", 15.0)


def test_pods_that_name_a_scheduler_nobody_runs_hold_nothing(kube: Kube, space: str) -> None:
    kube.create(*(bare(space, f"bare-{n}", schedulerName="defualt-scheduler") for n in range(2)))
    kube.until("it says so", lambda: "defualt-scheduler" in kube.explain(space, "bare")["text"])
    kube.create(*gang(space, "whole", NODES))
    kube.until("others start", lambda: len(bound(kube, space, "whole")) == NODES, 20.0)


def test_a_port_that_is_taken_everywhere_is_named_and_used_as_soon_as_it_is_free(
    kube: Kube, space: str
) -> None:
    """Bare pods cannot be pinned elsewhere, so theirs is the node that they were refused on."""
    holders = [f"port-{number:05d}" for number in range(NODES)]
    for number, name in enumerate(holders):
        holder = pod(space, name, 0)
        holder["spec"] |= {"nodeName": f"node-{number:05d}"}
        holder["spec"]["containers"][0]["ports"] = [PORT]
        kube.create(holder)
    for rank in range(2):
        wants = bare(space, f"bare-{rank}")
        wants["spec"]["containers"][0]["ports"] = [PORT]
        kube.create(wants)
    kube.until("refused", lambda: "host port 9090" in kube.explain(space, "bare")["text"])
    kube.create(*gang(space, "whole", NODES))
    kube.until("others start", lambda: len(bound(kube, space, "whole")) == NODES, 20.0)
    for rank in range(NODES):
        kube.delete(f"/api/v1/namespaces/{space}/pods/whole-{rank}")
    for name in holders:
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    freed_s = time.monotonic()
    kube.until("it starts", lambda: len(bound(kube, space, "bare")) == 2, 30.0)
    assert time.monotonic() - freed_s < 30.0


def indexed(space: str, name: str, size: int) -> dict[str, Any]:
    """Return an Indexed Job whose pods start together."""
    made = pod(space, name, 8)
    template = {"spec": made["spec"] | {"restartPolicy": "Never"}}
    spec = {"completionMode": "Indexed", "parallelism": size, "completions": size}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": space},
        "spec": {**spec, "template": template},
    }


def test_jobs_that_a_quota_keeps_half_made_say_so(kube: Kube, space: str) -> None:
    quota = {"hard": {"requests.nvidia.com/gpu": "24"}}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": quota}
    kube.call("POST", f"/api/v1/namespaces/{space}/resourcequotas", body)
    kube.create(indexed(space, "one", 4))
    kube.until(
        "it names the quota",
        lambda: "exceeded quota: few" in kube.explain(space, "one").get("text", ""),
    )


CLASS = "/apis/resource.k8s.io/v1/deviceclasses"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


@pytest.fixture
def cards(kube: Kube) -> Iterator[set[str]]:
    """Have every other node offer a device of the class `nic`; return those nodes."""
    names = [f"node-{number:05d}" for number in range(1, NODES, 2)]
    match = {"cel": {"expression": "device.driver == 'nic.example.com'"}}
    version = {"apiVersion": "resource.k8s.io/v1"}
    item = {**version, "kind": "DeviceClass", "metadata": {"name": "nic"}}
    kube.call("POST", CLASS, {**item, "spec": {"selectors": [match]}})
    for name in names:
        spec = {
            "driver": "nic.example.com",
            "nodeName": name,
            "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "nic-0"}],
        }
        item = {**version, "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec}
        kube.call("POST", SLICES, item)
    yield set(names)
    kube.delete(f"{CLASS}/nic")
    for name in names:
        kube.delete(f"{SLICES}/{name}")


def test_claims_that_half_of_the_nodes_serve_are_named_and_found(
    kube: Kube, space: str, cards: set[str]
) -> None:
    wants = {"requests": [{"name": "nic", "exactly": {"deviceClassName": "nic"}}]}
    item = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "nic"},
        "spec": {"spec": {"devices": wants}},
    }
    path = f"/apis/resource.k8s.io/v1/namespaces/{space}/resourceclaimtemplates"
    kube.call("POST", path, item)
    made = bare(space, "net")
    made["spec"]["resourceClaims"] = [{"name": "fast", "resourceClaimTemplateName": "nic"}]
    made["spec"]["containers"][0]["resources"]["claims"] = [{"name": "fast"}]
    labels = {"muster.dev/group": "bare"}
    template = {"metadata": {"labels": labels, "annotations": GROUP}, "spec": made["spec"]}
    item = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "net"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }
    path = f"/apis/apps/v1/namespaces/{space}/replicasets"
    kube.call("POST", path, item)
    try:
        found = kube.until("bound", lambda: len(b := bound(kube, space, "net")) == 2 and b, 90.0)
    finally:
        kube.delete(f"{path}/net")
    assert set(found.values()) <= cards
    items = kube.call("GET", f"/apis/events.k8s.io/v1/namespaces/{space}/events")["items"]
    said = [e["note"] for e in items if e["reason"] == "Refused"]
    assert said and all("resource claim nic" in note for note in said)


def test_a_volume_that_is_not_there_holds_nothing_and_is_used_once_it_is(
    kube: Kube, space: str
) -> None:
    """The Job's pods are not made anew for it: each that is deleted counts as one that failed."""
    job = indexed(space, "data", 2)
    disk = {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}}
    job["spec"]["template"]["spec"]["volumes"] = [disk]
    kube.create(job)
    kube.until("refused", lambda: '"disk" not found' in kube.explain(space, "data").get("text", ""))
    kube.create(*gang(space, "whole", NODES))
    kube.until("others start", lambda: len(bound(kube, space, "whole")) == NODES, 20.0)
    uids = {one["metadata"]["uid"] for one in kube.pods(space).values()}
    for rank in range(NODES):
        kube.delete(f"/api/v1/namespaces/{space}/pods/whole-{rank}")
    size = {"storage": "1Gi"}
    shared = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        **shared,
        "capacity": size,
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": space, "name": "disk"},
        "hostPath": {"path": "/nowhere"},
    }
    claim = {**shared, "volumeName": space, "resources": {"requests": size}}
    item = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": space}}
    kube.create({**item, "spec": volume})
    item = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    kube.create({**item, "metadata": {"name": "disk", "namespace": space}, "spec": claim})
    try:
        kube.until("it starts", lambda: len(bound(kube, space, "data")) == 2, 40.0)
        assert {one["metadata"]["uid"] for one in kube.pods(space).values()} <= uids
    finally:
        kube.delete(f"/api/v1/namespaces/{space}/persistentvolumeclaims/disk")
        kube.delete(f"/api/v1/persistentvolumes/{space}")


def test_a_claim_that_nobody_serves_holds_nothing_and_is_named(kube: Kube, space: str) -> None:
    wants = {"requests": [{"name": "one", "exactly": {"deviceClassName": "none"}}]}
    item = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"}
    path = f"/apis/resource.k8s.io/v1/namespaces/{space}/resourceclaims"
    kube.call("POST", path, {**item, "metadata": {"name": "c"}, "spec": {"devices": wants}})
    for rank in range(2):
        wants_it = bare(space, f"bare-{rank}")
        wants_it["spec"]["resourceClaims"] = [{"name": "own", "resourceClaimName": "c"}]
        wants_it["spec"]["containers"][0]["resources"]["claims"] = [{"name": "own"}]
        kube.create(wants_it)
    kube.until("named", lambda: "resource claim c" in kube.explain(space, "bare").get("text", ""))
    kube.create(*gang(space, "whole", NODES))
    kube.until("others start", lambda: len(bound(kube, space, "whole")) == NODES, 20.0)
