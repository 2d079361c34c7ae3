"""What a running job goes through when its pods, processes and nodes are taken from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane.record import Cluster
from sim.goodput.split import split
from sim.report.parts import Part
from tests.cluster.conftest import Kube
from tests.e2e.conftest import NODES, REPAIR_S, Submit, num_ready
from tests.e2e.jobs import GRACE_S, Job

pytestmark = [pytest.mark.k8s, pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS, EVERY = 100, 10
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
PACE = {"steps": STEPS, "log_every": 5, "checkpoint.every_steps": EVERY}


def begin(submit: Submit, name: str, **settings: object) -> Job:
    """Submit a job and wait until it has something to lose."""
    job = submit(name, **{**PACE, "health.step_timeout_s": 15, **settings})
    job.until_trained(EVERY + 5)
    return job


def resumed(job: Job, *, lost_at_most: int) -> int:
    """Wait for the end; check that nothing is missing and return the steps that were lost."""
    job.until_succeeded()
    assert len(set(job.parameters())) == 1
    restores = job.events("restore")
    assert restores, "it was interrupted"
    lost = 0
    for restore in restores:
        # when a peer is lost, the last step may have ended on some ranks only
        told = [e for rank in range(job.size) for e in job.events(rank=rank)]
        before = [e for e in told if e["attempt"] < restore["attempt"]]
        saved = max((e["step"] for e in before if e["event"] == "save_committed"), default=0)
        start = restore["from_step"]
        assert start == saved, "it goes on from the newest committed checkpoint"
        lost += max(e["step"] for e in before) - start
    assert lost <= lost_at_most
    reported = split([job.folder / "goodput"])
    assert reported.lost_steps == lost, reported.table()
    assert (reported.seconds[Part.LOST_WORK] > 0) == (lost > 0)
    return lost


def test_a_worker_is_deleted(kube: Kube, submit: Submit) -> None:
    job = begin(submit, "deleted")
    uid = job.pods()["worker-1"]["metadata"]["uid"]
    kube.call("DELETE", job.path("worker-1"))
    kube.until(
        "another worker is there",
        lambda: job.pods().get("worker-1", {"metadata": {"uid": uid}})["metadata"]["uid"] != uid,
    )
    # all ranks stopped after the same step and saved it
    assert resumed(job, lost_at_most=0) == 0
    assert [e["reason"] for e in job.events("exit")] == ["preempted", "finished"]
    others = {name: n for name, n in job.restarts().items() if name != "worker-1"}
    assert others == dict.fromkeys(("master-0", "worker-0", "worker-2"), 1)


def test_a_rank_is_killed(submit: Submit) -> None:
    job = begin(submit, "killed")
    job.kill_rank("worker-2")
    resumed(job, lost_at_most=EVERY + 10)
    assert job.restarts() == dict.fromkeys(job.pods(), 1)


def test_all_pods_are_evicted(kube: Kube, submit: Submit) -> None:
    """As `kubectl drain` of all its nodes does."""
    job = begin(submit, "evicted")
    uids = {pod["metadata"]["uid"] for pod in job.pods().values()}
    for name in job.pods():
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": f"{job.name}-{name}", "namespace": job.space},
        }
        kube.call("POST", job.path(name) + "/eviction", eviction)
    assert resumed(job, lost_at_most=0) == 0
    assert not uids & {pod["metadata"]["uid"] for pod in job.pods().values()}


@pytest.fixture
def power(rig: Cluster, kube: Kube) -> Iterator[Any]:
    """Return what switches nodes off and on; all are on and serve when the test ends."""
    off: set[str] = set()

    def switch(name: str, *, on: bool) -> None:
        clusters.power(rig.dir, name, on=on)
        (off.discard if on else off.add)(name)

    yield switch
    for name in sorted(off):
        serve_again(kube, name)
        clusters.power(rig.dir, name, on=True)
    kube.until("all nodes are ready", lambda: num_ready(kube) == NODES)


def serve_again(kube: Kube, node: str) -> None:
    """Take the word back that a node is out of service."""
    path = f"/api/v1/nodes/{node}"
    taints = kube.call("GET", path)["spec"].get("taints") or []
    kept = [taint for taint in taints if taint["key"] != OUT_OF_SERVICE]
    kube.patch(path, {"spec": {"taints": kept or None}})


def test_a_node_is_lost_and_another_takes_its_place(kube: Kube, submit: Submit, power: Any) -> None:
    job = begin(submit, "moved", workers=NODES - 2, global_batch=24)
    before = job.pods()
    lost = before.pop("worker-1")["spec"]["nodeName"]
    power(lost, on=False)
    kube.until("the loss is seen", lambda: num_ready(kube) == NODES - 1)
    path = f"/api/v1/nodes/{lost}"
    taint = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
    taints = kube.call("GET", path)["spec"].get("taints") or []
    kube.patch(path, {"spec": {"taints": [*taints, taint]}})
    resumed(job, lost_at_most=EVERY + 10)
    after = job.pods()
    assert after.pop("worker-1")["spec"]["nodeName"] != lost
    uids = [{n: pod["metadata"]["uid"] for n, pod in pods.items()} for pods in (before, after)]
    assert uids[0] == uids[1], "the others keep their pods and restart in place"


def test_a_node_is_lost_and_comes_back(kube: Kube, submit: Submit, power: Any) -> None:
    """Nobody says that the node is out of service, so its pod may still run, and stays."""
    job = begin(submit, "back")
    lost = job.pods()["worker-0"]["spec"]["nodeName"]
    power(lost, on=False)
    kube.until(
        "its pod is told to go",
        lambda: "deletionTimestamp" in job.pods()["worker-0"]["metadata"],
    )
    began_s = time.monotonic()
    kube.until(
        "no GPU is held but the lost one",
        lambda: job.holding() <= {"worker-0"},
        REPAIR_S + GRACE_S + 30,
    )
    assert time.monotonic() - began_s > REPAIR_S / 2, "the others were given a chance"
    assert job.holding() == {"worker-0"}, "nobody forces a pod that may run"
    kube.until("the others come again", lambda: len(job.pods()) == NODES)
    story = kube.until("they wait", lambda: kube.explain(job.space, job.name).get("reason"))
    assert story == "members"
    assert job.holding() == {"worker-0"}
    power(lost, on=True)
    resumed(job, lost_at_most=EVERY + 10)
