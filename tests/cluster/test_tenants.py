"""A tenant of a labelled namespace cannot leave the queue: the shipped policy in force."""

from __future__ import annotations

import copy
import json
import urllib.error
from typing import Any

import pytest

from scheduler.controller.pins import pin
from tests.cluster.conftest import NODES, Kube, collection, gang, pod

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

RBAC = "/apis/rbac.authorization.k8s.io/v1"
GROUP = {"scheduling.x-k8s.io/pod-group": "g"}
GATE = "muster.dev/queued"
Manifest = dict[str, Any]


def account(kube: Kube, space: str, name: str, role: str = "") -> Kube:
    """Return the API as a service account sees it that has a cluster role in a namespace."""
    meta = {"name": name, "namespace": space}
    accounts = f"/api/v1/namespaces/{space}/serviceaccounts"
    kube.call("POST", accounts, {"metadata": meta})
    if role:
        bound = {
            "metadata": {"name": f"{name}-{role}", "namespace": space},
            "roleRef": {"apiGroup": RBAC.split("/")[2], "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        }
        kube.call("POST", f"{RBAC}/namespaces/{space}/rolebindings", bound)
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    own = copy.copy(kube)
    own._token = kube.call("POST", f"{accounts}/{name}/token", asked)["status"]["token"]
    own._jobs = []
    return own


@pytest.fixture
def tenant(kube: Kube, space: str) -> Kube:
    """Return the API as somebody sees it who may edit what is in one namespace."""
    kube.patch(
        f"/api/v1/namespaces/{space}", {"metadata": {"labels": {"muster.dev/tenant": "true"}}}
    )
    found = account(kube, space, "tenant", "edit")
    probe = pod(space, "probe", annotations={"muster.dev/ignore": "true"})
    kube.until("policy and rights are in force", lambda: "no pod of this" in refusal(found, probe))
    return found


def refusal(who: Kube, item: Manifest, dry: str = "?dryRun=All") -> str:
    """Return why somebody may not create an object; nothing if they may."""
    try:
        who.call("POST", collection(item) + dry, item)
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["message"])
    return ""


def change_refused(who: Kube, path: str, body: Manifest) -> str:
    """Return why somebody may not change an object; nothing if they may."""
    try:
        who.call("PATCH", f"{path}?dryRun=All", body, "application/merge-patch+json")
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["message"])
    return ""


CLASS = {"limits": {"deviceclass.resource.kubernetes.io/gpu": "1"}}
CLAIM = {"name": "gpu", "resourceClaimName": "mine"}
INIT = {"name": "first", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
LEAVING: dict[str, tuple[Manifest, str]] = {
    "a node by name": ({"nodeName": "node-00000"}, "spec.nodeName"),
    "a node by name for an init container": (
        {"gpus": 0, "nodeName": "node-00000", "initContainers": [INIT]},
        "spec.nodeName",
    ),
    "a node by name with a claim": (
        {"gpus": 0, "nodeName": "node-00000", "resourceClaims": [CLAIM]},
        "spec.nodeName",
    ),
    "a node by name with a class of devices": (
        {
            "gpus": 0,
            "nodeName": "node-00000",
            "initContainers": [{"name": "first", "image": "i", "resources": CLASS}],
        },
        "spec.nodeName",
    ),
    "a plan that says nothing": ({"annotations": {"muster.dev/plan": ""}}, "muster.dev/plan"),
    "a scheduler of its own": ({"schedulerName": "mine"}, "spec.schedulerName"),
    "ignored": ({"annotations": {"muster.dev/ignore": ""}}, "muster.dev/ignore"),
    "a plan of its own": (
        {"annotations": {"muster.dev/plan": "x"}, "affinity": pin(None, "node-00000")},
        "muster.dev/plan",
    ),
}


@pytest.mark.parametrize("way", LEAVING)
def test_no_pod_leaves_the_queue(kube: Kube, tenant: Kube, space: str, way: str) -> None:
    more, said = LEAVING[way]
    item = pod(space, "p", **{"gpus": 8, **more})
    assert said in refusal(tenant, item)
    assert said in refusal(kube, item), "nor one that a controller makes from a tenant's template"
    elsewhere = pod("default", "p", **{"gpus": 8, **more})
    assert not refusal(kube, elsewhere), "where the label is not, everything stays as it was"


def test_what_is_no_way_around_the_queue_is_left_alone(tenant: Kube, space: str) -> None:
    for more in (
        {"gpus": 0, "nodeName": "node-00000"},
        {"schedulerName": "muster"},
        {"schedulerName": "muster-direct"},
        {"annotations": {"muster.dev/min-member": "2", "muster.dev/walltime": "1h"}},
        {"nodeSelector": {"kubernetes.io/hostname": "node-00000"}},
    ):
        assert not refusal(tenant, pod(space, "p", **{"gpus": 8, **more}))


def test_controllers_make_no_such_pod_for_a_tenant(kube: Kube, tenant: Kube, space: str) -> None:
    meta = {"name": "j", "namespace": space}
    spec = pod(space, "p")["spec"] | {"restartPolicy": "Never"}
    template = {"metadata": {"annotations": {"muster.dev/ignore": "true"}}, "spec": spec}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta,
        "spec": {"template": template},
    }
    tenant.call("POST", f"/apis/batch/v1/namespaces/{space}/jobs", job)

    def told() -> bool:
        items = kube.call("GET", f"/api/v1/namespaces/{space}/events")["items"]
        return any("leave the queue" in item.get("message", "") for item in items)

    kube.until("its owner is told why", told)
    assert not kube.pods(space)


def test_only_muster_changes_what_is_musters(kube: Kube, tenant: Kube, space: str) -> None:
    """Gates and plans of a gang that waits, which then starts as any other."""
    size, *others, last = gang(space, "g", 3)
    kube.create(size)
    tenant.create(*others)
    path = f"/api/v1/namespaces/{space}/pods/g-0"
    kube.until("it is gated", lambda: kube.call("GET", path)["spec"].get("schedulingGates"))
    off = {"spec": {"schedulingGates": None}}
    assert "only muster may remove this gate" in change_refused(tenant, path, off)
    forged = {**off, "metadata": {"annotations": {"muster.dev/plan": "x"}}}
    forged["spec"] = {**off["spec"], "affinity": pin(None, "node-00000")}
    assert "muster.dev/plan" in change_refused(tenant, path, forged)
    for key in ("ignore", "plan"):
        said = {"metadata": {"annotations": {f"muster.dev/{key}": "x"}}}
        assert f"muster.dev/{key}" in change_refused(tenant, path, said)
    assert not change_refused(tenant, path, {"metadata": {"annotations": {"mine": "x"}}})
    assert not change_refused(kube, path, off), "an administrator may: muster ungate"
    tenant.create(last)
    kube.until("the gang starts", lambda: len(kube.bound(space)) == 3)
    gone = {"metadata": {"annotations": {"muster.dev/plan": None}}}
    assert "muster.dev/plan" in change_refused(tenant, path, gone)
    assert not change_refused(tenant, path, {"metadata": {"labels": {"mine": "x"}}})


def test_only_muster_notes_on_a_job_that_it_suspended_it(
    kube: Kube, tenant: Kube, space: str
) -> None:
    note = {"metadata": {"annotations": {"muster.dev/suspended": "x"}}}
    spec = pod(space, "p")["spec"] | {"restartPolicy": "Never"}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "namespace": space},
        "spec": {"suspend": True, "template": {"spec": spec}},
    }
    jobs = f"/apis/batch/v1/namespaces/{space}/jobs"
    noted = {**job, "metadata": {**job["metadata"], **note["metadata"]}}
    assert "only muster may write this" in refusal(tenant, noted)
    tenant.call("POST", jobs, job)
    assert "only muster may write this" in change_refused(tenant, f"{jobs}/j", note)
    kube.call("PATCH", f"{jobs}/j", note, "application/merge-patch+json")
    other = {"metadata": {"annotations": {"muster.dev/suspended": "y"}}}
    assert "only muster may write this" in change_refused(tenant, f"{jobs}/j", other)
    assert not change_refused(tenant, f"{jobs}/j", {"metadata": {"labels": {"mine": "x"}}})
    gone = {"metadata": {"annotations": {"muster.dev/suspended": None}}}
    assert not change_refused(tenant, f"{jobs}/j", gone), "its owner keeps it suspended"


def test_pins_of_owners_start_no_part_of_a_gang(kube: Kube, space: str) -> None:
    """Where no policy keeps them from it, they take the gates off and leave what muster would."""
    kube.create(*gang(space, "head", NODES))
    kube.until("the cluster is full", lambda: len(kube.bound(space)) == NODES)
    kube.create(*gang(space, "forged", 4))
    pods = [f"/api/v1/namespaces/{space}/pods/forged-{i}" for i in range(4)]
    for number, path in enumerate(pods):
        kube.until(
            "it is gated", lambda path=path: kube.call("GET", path)["spec"]["schedulingGates"]
        )
        affinity = pin(None, f"node-{number:05d}")
        body = {"metadata": {"annotations": {"muster.dev/plan": f"{space}/forged/1/-{number}"}}}
        kube.patch(path, {**body, "spec": {"schedulingGates": None, "affinity": affinity}})
    for number in range(2):  # room for a part
        name = next(p for p, n in kube.bound(space).items() if n == f"node-{number:05d}")
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
    kube.until("two nodes are free", lambda: len(kube.bound(space)) == NODES - 2)
    kube.cluster.restart("muster")
    kube.until("muster is ready", lambda: kube.cluster.healthy("muster"))
    kube.until("it waits", lambda: kube.explain(space, "forged").get("reason"))
    seen = kube.explain(space, "forged")
    assert (seen["phase"], seen["pods_bound"]) == ("waiting", 0), seen
    assert not [name for name in kube.bound(space) if name.startswith("forged")]
