"""What muster's token is good for beyond what muster does: the shipped fence in force."""

from __future__ import annotations

import copy
import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.controller.pins import pin
from tests.cluster.conftest import Kube, counted, gang, pod

pytestmark = [pytest.mark.k8s, pytest.mark.slow]
MERGE = "application/merge-patch+json"
GATES = [{"name": "muster.dev/queued"}, {"name": "own/gate"}]


@pytest.fixture
def muster(kube: Kube) -> Kube:
    """Return the API as whoever has muster's token sees it."""
    config = json.loads((kube.cluster.dir / "muster.kubeconfig").read_text())
    found = copy.copy(kube)
    found._token = config["users"][0]["user"]["token"]
    return found


def refused(who: Kube, method: str, path: str, body: Any = None) -> str:
    """Return why somebody may not do a thing; nothing if they may. Nothing is done."""
    kind = MERGE if method == "PATCH" else "application/json"
    try:
        who.call(method, f"{path}?dryRun=All", body, kind)
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read())["message"])
    return ""


@pytest.fixture
def waiting(kube: Kube, space: str) -> str:
    """Return the address of a pod behind two gates, which muster leaves alone."""
    one = pod(
        space, "one", schedulingGates=GATES, annotations={"muster.dev/ignore": "", "own": "x"}
    )
    kube.create(one)
    return f"/api/v1/namespaces/{space}/pods/one"


def of(**spec: Any) -> dict[str, Any]:
    return {"spec": spec}


#: by the API server to every pod
GIVEN = [
    {
        "key": f"node.kubernetes.io/{what}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 300,
    }
    for what in ("not-ready", "unreachable")
]
IMAGE = of(containers=[pod("", "", 8)["spec"]["containers"][0] | {"image": "mine:1"}])
WRITES: dict[str, tuple[dict[str, Any], str]] = {
    "image": (IMAGE, "gate and node affinity"),
    "tolerations": (of(tolerations=[*GIVEN, {"operator": "Exists"}]), "gate and node affinity"),
    "selector": (of(nodeSelector={"a": "b"}), "gate and node affinity"),
    "deadline": (of(activeDeadlineSeconds=1), "gate and node affinity"),
    "all gates": (of(schedulingGates=None), "only its own gate"),
    "label": ({"metadata": {"labels": {"app": "x"}}}, "no labels"),
    "finalizer": ({"metadata": {"finalizers": ["a.example/b"]}}, "no labels, owners or finalizers"),
    "annotation": ({"metadata": {"annotations": {"own": "y"}}}, "its own annotations"),
    "annotation gone": ({"metadata": {"annotations": {"own": None}}}, "its own annotations"),
    "another annotation": ({"metadata": {"annotations": {"x": "y"}}}, "its own annotations"),
}


@pytest.mark.parametrize("what", WRITES)
def test_musters_token_changes_nothing_else_of_a_pod(muster: Kube, waiting: str, what: str) -> None:
    body, said = WRITES[what]
    assert said in refused(muster, "PATCH", waiting, body)
    assert not refused(Kube(muster.cluster), "PATCH", waiting, body), "others are not concerned"


def test_musters_token_does_what_muster_does(kube: Kube, muster: Kube, waiting: str) -> None:
    plan = {"metadata": {"annotations": {"muster.dev/plan": "x/1/-0"}}}
    spec = {"schedulingGates": GATES[1:], "affinity": pin(None, "node-00000")}
    assert not refused(muster, "PATCH", waiting, {**plan, "spec": spec})
    status = {"nominatedNodeName": "node-00000"}
    assert not refused(muster, "PATCH", f"{waiting}/status", {**plan, "status": status})
    assert not refused(muster, "DELETE", waiting)


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Failed"},
        {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
        {"conditions": [{"type": "Ready", "status": "True"}]},
        {"reason": "Evicted"},
    ],
)
def test_musters_token_writes_no_other_status(
    muster: Kube, waiting: str, status: dict[str, Any]
) -> None:
    said = refused(muster, "PATCH", f"{waiting}/status", {"status": status})
    assert "its own condition" in said


@pytest.fixture
def system(kube: Kube) -> Iterator[str]:
    """Return the address of a pod in kube-system."""
    kube.create(pod("kube-system", "of-the-system", 0, schedulingGates=[{"name": "own/gate"}]))
    path = "/api/v1/namespaces/kube-system/pods/of-the-system"
    yield path
    kube.delete(path)


def test_musters_token_changes_nothing_in_kube_system(muster: Kube, system: str) -> None:
    said = "muster may change nothing in kube-system"
    note = {"metadata": {"annotations": {"muster.dev/plan": "x"}}}
    assert said in refused(muster, "PATCH", system, note)
    assert said in refused(muster, "PATCH", f"{system}/status", note)
    assert said in refused(muster, "DELETE", system)
    meta = {"name": "of-the-system", "namespace": "kube-system"}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    assert said in refused(muster, "POST", f"{system}/eviction", eviction)


def test_musters_token_suspends_no_job_and_tells_nothing_in_kube_system(
    kube: Kube, muster: Kube
) -> None:
    said, meta = "muster may change nothing in kube-system", {"name": "of-the-system"}
    jobs = "/apis/batch/v1/namespaces/kube-system/jobs"
    container = {"name": "a", "image": "a"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    spec = {"suspend": True, "template": template}
    kube.call("POST", jobs, {"metadata": meta, "spec": spec})
    try:
        path = f"{jobs}/of-the-system"
        assert said in refused(muster, "PATCH", path, {"spec": {"suspend": False}})
        note = {"metadata": {"annotations": {"muster.dev/suspended": "x"}}}
        assert said in refused(muster, "PATCH", path, note)
        assert not refused(kube, "PATCH", path, note), "others are not concerned"
    finally:
        kube.delete(f"{jobs}/of-the-system")
    event = {
        "metadata": meta,
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "muster",
        "reportingInstance": "muster",
        "action": "Plan",
        "reason": "Planned",
        "type": "Normal",
        "regarding": {"kind": "Pod", "name": "x", "namespace": "kube-system"},
    }
    where = "/apis/events.k8s.io/v1/namespaces/kube-system/events"
    assert said in refused(muster, "POST", where, event)
    assert not refused(kube, "POST", where, event)


def test_pods_of_kube_system_are_no_gang(kube: Kube, space: str) -> None:
    """What muster may not release would wait for ever."""
    member = pod("kube-system", "alone", 1, labels={"scheduling.x-k8s.io/pod-group": "g"})
    path = "/api/v1/namespaces/kube-system/pods/alone"
    kube.create(member)
    try:
        kube.until("it is bound", lambda: kube.call("GET", path)["spec"].get("nodeName"))
    finally:
        kube.delete(path)


def test_musters_token_deletes_no_pod_that_runs(kube: Kube, muster: Kube, space: str) -> None:
    kube.create(*gang(space, "runs", 2))
    kube.until("it is bound", lambda: len(kube.bound(space)) == 2)
    path = f"/api/v1/namespaces/{space}/pods/runs-0"
    assert "delete only pods without a node" in refused(muster, "DELETE", path)
    meta = {"name": "runs-0", "namespace": space}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    assert not refused(muster, "POST", f"{path}/eviction", eviction)


def test_musters_token_binds_with_nothing_but_its_own_annotations(
    muster: Kube, waiting: str, space: str
) -> None:
    target = {"apiVersion": "v1", "kind": "Node", "name": "node-00000"}
    for more in ({"annotations": {"own": "z"}}, {"labels": {"app": "x"}}):
        meta = {"name": "one", "namespace": space, **more}
        item = {"apiVersion": "v1", "kind": "Binding", "metadata": meta, "target": target}
        said = refused(muster, "POST", f"{waiting}/binding", item)
        assert "with its own annotations" in said


def test_muster_binds_to_a_node_in_a_zone(kube: Kube, space: str) -> None:
    """The API server adds the zone of the node to what muster writes."""
    path, zone = "/api/v1/nodes/node-00000", "topology.kubernetes.io/zone"
    kube.patch(path, {"metadata": {"labels": {zone: "a"}}})
    try:
        kube.create(pod(space, "alone", 1, nodeSelector={zone: "a"}))
        kube.create(
            *gang(space, "own", 1, 4, schedulerName="muster-direct", nodeSelector={zone: "a"})
        )
        kube.until("both are bound", lambda: len(kube.bound(space)) == 2)
        assert {one["metadata"]["labels"][zone] for one in kube.pods(space).values()} == {"a"}
    finally:
        kube.patch(path, {"metadata": {"labels": {zone: None}}})


def test_config_maps_of_others_are_not_musters(kube: Kube, muster: Kube) -> None:
    there = "/api/v1/namespaces/muster-system/configmaps"
    for name, labels in (("settings-of-a-test", {}), ("old-record", {"muster.dev/plan": "true"})):
        kube.call("POST", there, {"metadata": {"name": name, "labels": labels}})
    try:
        said = refused(muster, "DELETE", f"{there}/settings-of-a-test")
        assert "no ConfigMaps but plan records" in said
        assert not refused(muster, "DELETE", f"{there}/old-record")
        assert "cannot create" in refused(muster, "POST", there, {"metadata": {"name": "new"}})
        assert "cannot patch" in refused(muster, "PATCH", f"{there}/old-record", {"data": {}})
    finally:
        kube.delete(f"{there}/settings-of-a-test")
        kube.delete(f"{there}/old-record")
    assert not counted(kube.cluster, "muster_gangs_set_aside_total{", 'where="step"')
