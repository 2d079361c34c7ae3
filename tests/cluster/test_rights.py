"""The rights in the manifests against what muster asks for: none missing, none that nobody uses."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from scheduler.controller.plans import record_name
from scheduler.controlplane import objects
from scheduler.kube.api import ApiError
from scheduler.workloads.gangs import KINDS, TRAINING_JOBS
from tests.cluster.conftest import NODES, Kube, gang, pod, pytorchjob
from tests.cluster.definitions import DEFINITIONS, create, definition, thing
from tests.cluster.test_failure_wire import RECORDS
from tests.cluster.test_failures import kill_muster
from tests.cluster.test_mending import cordoned, indexed

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

RBAC = Path(__file__).resolve().parents[2] / "deploy" / "base" / "rbac.yaml"


class Right(NamedTuple):
    """One verb on one kind of object."""

    group: str
    resource: str
    verb: str
    inside: str  #: the namespace it is granted in; empty: in all


def granted() -> set[Right]:
    """Return what muster's own roles grant."""
    found = set()
    for item in yaml.safe_load_all(RBAC.read_text()):
        is_ours = item["metadata"]["name"] in ("muster", "muster-plans")
        if item["kind"] not in ("ClusterRole", "Role") or not is_ours:
            continue
        inside = item["metadata"].get("namespace", "")
        for rule in item["rules"]:
            found |= {
                Right(group, resource, verb, inside)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    return found


def asked(kube: Kube) -> Iterator[tuple[Right, int]]:
    """Yield what muster asked the API server for since it runs, and how it was answered."""
    with (kube.cluster.dir / "audit.jsonl").open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                return  # being written
            seen = json.loads(line)
            what = seen.get("objectRef")
            if what is None:  # not about an object
                continue
            if seen["userAgent"] != "muster":  # a test that tries what whoever has its token may do
                continue
            resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
            where = what.get("namespace", "")
            right = Right(what.get("apiGroup", ""), resource, seen["verb"], where)
            yield right, seen.get("responseStatus", {}).get("code", 0)


def used(kube: Kube, rights: set[Right]) -> set[Right]:
    """Return the rights by which a request went through."""
    found = set()
    for right, code in asked(kube):
        if code not in (401, 403):
            found |= {right._replace(inside=""), right}
    return found & rights


class Unused(frozenset[Right]):
    """Rights that nobody used: what a test shows that waits for them in vain."""

    def __bool__(self) -> bool:
        """Count as no, so that the wait goes on."""
        return False


def define_all(kube: Kube) -> None:
    """Make every kind known whose size muster reads: it asks for none that is not."""
    for name, kind in KINDS.items():
        if kind.crd:
            _, _, group, version, plural = kind.path.split("/")
            # muster tells PodGroups apart by their project; other tests make objects of all kinds
            called = "PodGroup" if plural == "podgroups" else name
            assert f"{called.lower()}s" == plural
            try:
                kube.call("POST", DEFINITIONS, definition(group, version, called))
            except urllib.error.HTTPError as error:
                if error.code != 409:  # known already
                    raise


def be_looked_up(kube: Kube, space: str) -> None:
    """Have kube-scheduler refuse a pod its node: muster asks what became of it before it goes."""
    beside = {"labelSelector": {"matchLabels": {"there": "is-none"}}, "topologyKey": "no/such"}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside]}}
    kube.create(*gang(space, "held", 1, affinity=affinity))
    kube.until("muster asks", lambda: used(kube, {Right("", "pods", "get", "")}))
    kube.delete(f"/api/v1/namespaces/{space}/pods/held-0")


OTHER = '{"version": 99}'


def leave_a_record(kube: Kube) -> None:
    """Have a plan record where earlier versions had theirs: the next muster moves it."""
    meta = {"name": "of-an-earlier-version", "namespace": "muster-system"}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"plan": OTHER}}
    kube.create({**config, "metadata": {**meta, "labels": {"muster.dev/plan": "true"}}})


def be_in_the_way(kube: Kube, space: str) -> None:
    """Have a record where muster wants to write one: it asks whose it is."""
    name = record_name(f"{space}/taken")
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "muster-system-plans"},
        "data": {},
    }
    right = Right("", "configmaps", "get", "muster-system-plans")
    kube.create(config)
    try:
        kube.create(*gang(space, "taken", 2))
        kube.until("muster asks whose it is", lambda: used(kube, {right}))
        assert not kube.call("GET", f"{RECORDS}/{name}").get("data"), "it is let alone"
    finally:
        kube.delete(f"{RECORDS}/{name}")


def be_read(kube: Kube) -> None:
    """Read as somebody who is not here: muster asks whose the token is, and what they may."""
    shown = {"Authorization": f"Bearer {kube._token}", "Host": "muster"}
    asked = urllib.request.Request(f"{kube.cluster.status_url}/queue", headers=shown)
    with urllib.request.urlopen(asked, timeout=10) as reply:
        assert reply.status == 200


def lose_a_rank(kube: Kube, space: str) -> None:
    """End a rank that nobody makes anew: the rest is evicted."""
    kube.create(*gang(space, "torn", 2, schedulerName="muster-direct"))
    kube.until("torn is bound", lambda: {"torn-0", "torn-1"} <= set(kube.bound(space)))
    kube.delete(f"/api/v1/namespaces/{space}/pods/torn-0")
    kube.until("the other goes, too", lambda: "torn-1" not in kube.pods(space))


def end_jobs(kube: Kube, space: str) -> None:
    """Let gangs of every kind of job run in part: the job is suspended, and the rest evicted."""
    kube.create(pytorchjob(space, "pytorchjob", 1), indexed(space, "job", 3))
    names = [kind.lower() for kind in TRAINING_JOBS]
    for kind in TRAINING_JOBS:
        if kind == "PyTorchJob":
            continue  # its operator makes its pods
        name = kind.lower()
        spec = {f"{name}ReplicaSpecs": {"Worker": {"replicas": 2}}}
        made = create(kube, thing(space, "kubeflow.org/v1", kind, name, spec))
        owner = {"apiVersion": "kubeflow.org/v1", "kind": kind, "name": name, "controller": True}
        for index in range(2):
            labels = {
                "training.kubeflow.org/job-name": name,
                "training.kubeflow.org/replica-type": "worker",
                "training.kubeflow.org/replica-index": str(index),
            }
            one = pod(space, f"{name}-worker-{index}", 1, labels=labels)
            one["metadata"]["ownerReferences"] = [{**owner, "uid": made["metadata"]["uid"]}]
            kube.create(one)
    all_run = 2 * len(names) + 3
    kube.until("all are bound", lambda: len(kube.bound(space)) >= all_run)
    wanted = {Right("kubeflow.org", f"{name}s", "patch", "") for name in names}
    wanted.add(Right("batch", "jobs", "patch", ""))
    wanted.add(Right("policy", "poddisruptionbudgets", "list", ""))
    with cordoned(kube, *(f"node-{i:05}" for i in range(NODES))):
        lost = [p for p in kube.bound(space) if "worker-0" in p or p.startswith("job-0")]
        for name in lost:
            kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
        kube.until("all are suspended", lambda: used(kube, wanted) == wanted)


def scale_what_waits(kube: Kube, space: str) -> None:
    """Change a waiting job's size: its pods are deleted, to be made anew."""
    kube.create(pytorchjob(space, "waits", NODES, gpus=8))
    kube.until("it waits", lambda: kube.explain(space, "waits").get("reason"))
    path = f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs/waits"
    before = {name: one["metadata"]["uid"] for name, one in kube.pods(space).items()}
    kube.patch(path, {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": NODES + 2}}}})

    def anew() -> bool:
        pods = kube.pods(space)
        old = [n for n, uid in before.items() if n in pods and pods[n]["metadata"]["uid"] == uid]
        return not [name for name in old if name.startswith("waits-")]

    kube.until("all its pods are made anew", anew)


def test_each_right_is_used_and_none_is_missing(kube: Kube, space: str) -> None:
    rights = granted()
    assert len(rights) > 30
    define_all(kube)
    leave_a_record(kube)
    kill_muster(kube)  # the next reads all there is
    kube.until("muster is ready", lambda: kube.cluster.healthy("muster"))
    be_looked_up(kube, space)
    be_in_the_way(kube, space)
    be_read(kube)
    lose_a_rank(kube, space)
    end_jobs(kube, space)
    scale_what_waits(kube, space)

    kube.until(
        "each right is used",
        lambda: used(kube, rights) == rights or Unused(rights - used(kube, rights)),
    )
    refused = {right for right, code in asked(kube) if code in (401, 403)}
    missing = {r for r in refused if r not in rights and r._replace(inside="") not in rights}
    assert not missing, f"asked for and not granted: {sorted(missing)}"


def test_a_namespace_that_ends_is_no_missing_right(kube: Kube) -> None:
    name = "ends-slowly"
    held = f"/api/v1/namespaces/{name}/configmaps/held"
    meta = {"name": "held", "namespace": name, "finalizers": ["example.com/held"]}
    kube.create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta},
    )
    kube.delete(f"/api/v1/namespaces/{name}")

    async def write() -> tuple[int, dict[tuple[str, int], int]]:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}}
        async with await objects.connect(kube.cluster.kubeconfig) as api:
            with pytest.raises(ApiError) as refused:
                await api.call("POST", f"/api/v1/namespaces/{name}/configmaps", body)
            return refused.value.code, api.calls

    try:
        code, calls = asyncio.run(write())
    finally:
        kube.patch(held, {"metadata": {"finalizers": []}})
    assert code == 404
    assert calls == {("POST", 404): 1}
