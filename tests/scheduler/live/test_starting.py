"""Muster starts and leads whatever kinds of objects the API server cannot list, and says so."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scheduler.live import service
from scheduler.live.service import CRDS
from scheduler.workloads.gangs import KINDS
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.live import test_hostile
from tests.scheduler.live.small_api import GPU
from tests.scheduler.live.test_hostile import PODS, Life

INDEX = "batch.kubernetes.io/job-completion-index"
GROUPS = KINDS["coscheduling"].path


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "READ_S", 1.0)


def trained(name: str, uid: str) -> dict[str, Any]:
    """Return a pod of a PyTorchJob of two, whose environment counts processes, not pods."""
    owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": "train"}
    labels = {"training.kubeflow.org/job-name": "train"}
    labels |= {"training.kubeflow.org/replica-type": "worker"}
    labels |= {"training.kubeflow.org/replica-index": name[-1]}
    return {
        "metadata": {
            "name": name,
            "namespace": "tenant",
            "labels": labels,
            "ownerReferences": [{**owner, "uid": uid, "controller": True}],
        },
        "spec": {
            "schedulingGates": [{"name": "muster.dev/queued"}],
            "containers": [
                {
                    "name": "pytorch",
                    "env": [{"name": "WORLD_SIZE", "value": "1"}],
                    "resources": {"limits": {GPU: "1"}},
                }
            ],
        },
        "status": {"phase": "Pending"},
    }


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (KINDS["MPIJob"].path, 500),
        (KINDS["Job"].path, 503),
        (KINDS["JobSet"].path, 401),
        (KINDS["PriorityClass"].path, 504),
        (KINDS["TFJob"].path, 410),
        ("/apis/resource.k8s.io/v1/resourceclaims", 500),
        (GROUPS, 0),
        (CRDS, 500),
        (CRDS, 0),
    ],
)
def test_a_kind_that_cannot_be_listed_keeps_nobody_from_leading(
    path: str, code: int, tmp_path: Path
) -> None:
    life = Life(tmp_path)
    life.api.broken[path] = code
    with life:
        life.starts_a_gang()


def test_gangs_wait_for_a_kind_that_cannot_be_listed_and_start_once_it_can(tmp_path: Path) -> None:
    life = Life(tmp_path)
    jobs = KINDS["PyTorchJob"].path
    life.api.broken[jobs] = 500
    with life:
        spec = {"pytorchReplicaSpecs": {"Worker": {"replicas": 2}}}
        job = {"metadata": {"name": "train", "namespace": "tenant"}, "spec": spec}
        uid = life.api.create(jobs, job)["metadata"]["uid"]
        life.api.create(PODS, trained("train-0", uid))
        life.starts_a_gang()
        said = life.get("/explain/tenant/train")[1].decode()
        assert "cannot be read yet" in said, said
        life.api.create(PODS, trained("train-1", uid))
        life.starts_a_gang()
        assert not any(pod["spec"].get("nodeName") for pod in life.api.all(PODS))
        life.api.broken.clear()
        life.until(
            "it starts", lambda: all(pod["spec"].get("nodeName") for pod in life.api.all(PODS))
        )


def test_what_ran_before_is_not_judged_by_objects_that_cannot_be_listed() -> None:
    async def story(rig: Rig) -> None:
        rig.control.tables.unread |= {"PyTorchJob", "Job"}
        said = {"training.kubeflow.org/job-name": "t", "training.kubeflow.org/replica-index": "0"}
        owner, env = ("PyTorchJob", "t", "uid-t"), {"WORLD_SIZE": "16"}
        rank = pod("t-0", labels=said, owner=owner, env=env, node="node-00000")
        rig.see(rank)
        # an Indexed Job runs two of many tasks at once, and is no gang
        task = pod("j-0", labels={INDEX: "0"}, owner=("Job", "j", "uid-j"), node="node-00001")
        rig.see(task)
        await rig.settle()
        for _ in range(3):
            await rig.pass_s(300.0)
        assert not [path for _, path, _ in rig.api.requests if path.endswith("/eviction")]
        spec = {"parallelism": 2, "completions": 9, "completionMode": "Indexed"}
        rig.thing("Job", "j", spec)
        rig.control.is_read("Job")
        rig.thing("PyTorchJob", "t", {"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}})
        rig.control.is_read("PyTorchJob")
        for _ in range(3):
            await rig.pass_s(300.0)
        assert not [path for _, path, _ in rig.api.requests if path.endswith("/eviction")]
        assert set(rig.control.names) == {"n/t"}
        shape = rig.control.names["n/t"].facts(rank).shape
        assert not rig.ledger.has_room("node-00001", shape), "its pod counts without a gang"

    tried(story)


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/api/v1/nodes", 500, "reading the cluster; nodes (/api/v1/nodes): 500: its webhook"),
        ("/api/v1/pods", 0, "reading the cluster; pods (/api/v1/pods): no answer"),
        ("/apis/coordination.k8s.io/v1/namespaces/muster-system/leases/muster", 500, "the lease:"),
        ("/api/v1/namespaces/muster-system-plans/configmaps", 401, "the plan records in /api/v1/"),
    ],
)
def test_what_muster_needs_and_cannot_read_is_named(
    path: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path)
    life.api.broken[path] = code
    heard: list[str] = []

    def listen() -> None:
        end_s = time.monotonic() + 20.0
        while time.monotonic() < end_s and said not in "".join(heard[-1:]):
            heard.append(life.get("/readyz")[1].decode())
            time.sleep(0.05)
        life.api.broken.clear()

    listener = threading.Thread(target=listen)
    listener.start()
    if not code:  # the request hangs for longer than a test may take
        monkeypatch.setattr(test_hostile, "WITHIN_S", 3.0)
        with pytest.raises(AssertionError, match="it leads"):
            life.__enter__()
        life.__exit__()
    else:
        with life:
            life.starts_a_gang()
    listener.join()
    assert said in heard[-1], heard[-1]
