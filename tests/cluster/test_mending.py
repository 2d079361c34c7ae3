"""Running gangs that lose ranks: what is kept for them, and who is ended for it."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import NODES, Kube, gang, pytorchjob
from tests.cluster.test_failure_pods import bound, fill, reason, remove
from tests.cluster.test_operator import JOBS
from tests.cluster.test_rules import events

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

REPAIR_S = 6.0  #: of the cluster that tests share


@contextmanager
def cordoned(kube: Kube, *nodes: str) -> Iterator[None]:
    """Close nodes, and open them again."""
    for node in nodes:
        kube.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": True}})
    try:
        yield
    finally:
        for node in nodes:
            kube.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": None}})


def wait_s(kube: Kube, what: str, seconds: float) -> None:
    """Let time go by in which nothing must happen."""
    until_s = time.monotonic() + seconds
    kube.until(what, lambda: time.monotonic() > until_s)


def running(kube: Kube, space: str, name: str) -> list[dict[str, Any]]:
    """Create a gang of two, wait until it is bound, and return its objects: the group, its pods."""
    whole = gang(space, name, 2)
    kube.create(*whole)
    kube.until(f"{name} is bound", lambda: len(bound(kube, space, name)) == 2)
    return whole


def test_a_lost_rank_gets_a_node_before_the_gang_that_waits(kube: Kube, space: str) -> None:
    """Its own node is closed, and the head of the queue cannot use the ones that are free."""
    fill(kube, space, NODES - 4)
    whole = running(kube, space, "runs")
    kube.create(*gang(space, "waits", 4))
    reason(kube, space, "waits", "capacity")
    with cordoned(kube, bound(kube, space, "runs")["runs-1"]):
        remove(kube, space, "runs-1")
        kube.create(whole[2])
        kube.until("it is bound again", lambda: len(bound(kube, space, "runs")) == 2)
        wait_s(kube, "a repair would be over", REPAIR_S + 2.0)
        assert len(bound(kube, space, "runs")) == 2
        assert kube.explain(space, "runs")["phase"] == "running"
        assert not bound(kube, space, "waits")


def test_a_node_that_opens_again_is_the_lost_ranks_and_no_fillers(kube: Kube, space: str) -> None:
    fill(kube, space, NODES - 2)
    whole = running(kube, space, "runs")
    kube.create(*gang(space, "next", 1))
    reason(kube, space, "next", "capacity")
    with cordoned(kube, bound(kube, space, "runs")["runs-1"]):
        remove(kube, space, "runs-1")
        reason(kube, space, "runs", "members")
    kube.create(whole[2])
    kube.until("it is bound again", lambda: len(bound(kube, space, "runs")) == 2)
    assert not bound(kube, space, "next")


def test_an_evicted_gang_stands_before_those_that_came_after_it(kube: Kube, space: str) -> None:
    fill(kube, space, NODES - 2)
    whole = running(kube, space, "old")
    wait_s(kube, "the next second", 1.1)
    kube.create(*gang(space, "young", 2))
    reason(kube, space, "young", "capacity")
    with cordoned(kube, bound(kube, space, "old")["old-1"]):
        remove(kube, space, "old-1")
        kube.create(whole[2])
        kube.until("old is evicted", lambda: not bound(kube, space, "old"))
        kube.create(whole[1])
        kube.until("both wait", lambda: kube.explain(space, "old").get("pods_present") == 2)
        assert not bound(kube, space, "young")
    kube.until("old runs again", lambda: len(bound(kube, space, "old")) == 2)
    assert not bound(kube, space, "young")


def test_a_budget_that_forbids_an_eviction_is_named(kube: Kube, space: str) -> None:
    label = {"scheduling.x-k8s.io/pod-group": "frail"}
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "keep", "namespace": space},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": label}},
    }
    kube.create(budget, *gang(space, "frail", 2))
    kube.until("frail is bound", lambda: len(bound(kube, space, "frail")) == 2)
    remove(kube, space, "frail-1")
    said = "pod frail-0 may not be evicted: "
    text = kube.until(
        "why it is not evicted is said",
        lambda: said in (found := kube.explain(space, "frail").get("text", "")) and found,
    )
    assert "The disruption budget keep needs 2 healthy pods" in text
    kube.until("an Event says so, too", lambda: events(kube, space, "NotEvicted"))
    assert not events(kube, space, "Evicted"), "nothing was"
    assert set(bound(kube, space, "frail")) == {"frail-0"}
    path = f"/apis/policy/v1/namespaces/{space}/poddisruptionbudgets/keep"
    kube.patch(path, {"spec": {"minAvailable": 0}})
    kube.until("it is evicted", lambda: not bound(kube, space, "frail"))
    kube.until("an Event says so", lambda: events(kube, space, "Evicted"))


def restart(kube: Kube, cluster: Cluster) -> None:
    """Kill muster, and let the next one read what there is."""
    cluster.restart("muster")
    kube.until("muster is ready", lambda: cluster.healthy("muster"))


def indexed(space: str, name: str, completions: int) -> dict[str, Any]:
    """Return an Indexed Job of which index 0 is done after a second."""
    container = {"name": "main", "image": "train:1"}
    container["resources"] = {"limits": {"nvidia.com/gpu": "8"}}  # type: ignore[assignment]
    template = {
        "metadata": {"labels": {"of": name}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "completions": completions,
            "parallelism": completions,
            "completionMode": "Indexed",
            "template": template,
        },
    }


def end_well(kube: Kube, space: str, name: str) -> None:
    """Have a pod succeed, as if its container had exited with 0, and remove what is left of it."""
    path = f"/api/v1/namespaces/{space}/pods/{name}"
    kube.patch(f"{path}/status", {"status": {"phase": "Succeeded"}})

    def seen() -> bool:
        return not any(
            f.startswith("batch.kubernetes.io")
            for f in kube.call("GET", path)["metadata"].get("finalizers", ())
        )

    kube.until("its owner has seen it", seen)
    kube.delete(path)


@pytest.mark.parametrize("of", ["Job", "PodGroup"])
def test_a_success_whose_pod_is_gone_outlives_muster(
    kube: Kube, space: str, cluster: Cluster, of: str
) -> None:
    if of == "Job":
        kube.create(indexed(space, "early", 3))
    else:
        kube.create(*gang(space, "early", 3))
    kube.until("early is bound", lambda: len(bound(kube, space, "early")) == 3)
    first, *others = sorted(bound(kube, space, "early"))
    kube.until(
        "all run",
        lambda: all(p["status"]["phase"] == "Running" for p in kube.pods(space).values()),
    )
    end_well(kube, space, first)
    kube.until("it is gone", lambda: first not in kube.pods(space))
    restart(kube, cluster)
    wait_s(kube, "a repair would be over", 2 * REPAIR_S)
    assert sorted(bound(kube, space, "early")) == others
    assert kube.explain(space, "early")["phase"] == "running"
    assert not events(kube, space, "Evicted")
    if of == "Job":  # it goes on: what is lost comes again, and runs
        remove(kube, space, others[0])
        kube.until(
            "rank 1 is bound again",
            lambda: len(found := bound(kube, space, "early")) == 2 and others[0] not in found,
        )


def condition(kube: Kube, space: str, name: str, kind: str) -> str:
    """Return the status of a condition of a training job."""
    job = kube.call("GET", JOBS.format(space, name))
    conditions = job.get("status", {}).get("conditions", ())
    return next((c["status"] for c in conditions if c["type"] == kind), "")


def test_a_job_that_muster_ends_half_way_resumes(
    kube: Kube, space: str, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    """Its master exits with 0 when it is told to end, which its operator takes for success."""
    fill(kube, space, NODES - 2)
    kube.create(pytorchjob(space, "half", 1, 8))
    kube.until("half is bound", lambda: len(bound(kube, space, "half")) == 2)
    kube.until("it runs", lambda: condition(kube, space, "half", "Running") == "True")
    master, worker = "half-master-0", "half-worker-0"
    path = f"/api/v1/namespaces/{space}/pods/{master}"
    uid = kube.pods(space)[master]["metadata"]["uid"]
    # while nobody plays its node a pod that is told to end does so when the test says it
    cluster.process("kwok").signal(signal.SIGSTOP)
    request.addfinalizer(lambda: cluster.process("kwok").signal(signal.SIGCONT))
    with cordoned(kube, bound(kube, space, "half")[worker]):
        remove(kube, space, worker)
        kube.until(
            "the rest is told to end",
            lambda: kube.call("GET", path)["metadata"].get("deletionTimestamp"),
        )
        kube.patch(f"{path}/status", {"status": {"phase": "Succeeded"}})
        wait_s(kube, "its operator has seen it", 3.0)
        assert condition(kube, space, "half", "Succeeded") != "True"
        assert condition(kube, space, "half", "Suspended") == "True"
        kube.delete(path)

    def again() -> bool:
        pods = kube.pods(space)
        anew = master in pods and pods[master]["metadata"]["uid"] != uid
        return anew and set(bound(kube, space, "half")) == {master, worker}

    kube.until("half runs again", again)
    assert condition(kube, space, "half", "Succeeded") != "True"
    job = kube.call("GET", JOBS.format(space, "half"))
    assert not job["spec"]["runPolicy"].get("suspend")
    assert "muster.dev/suspended" not in job["metadata"].get("annotations", {})


def test_muster_changes_nothing_of_a_job_but_whether_it_is_suspended(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    config = json.loads((cluster.dir / "muster.kubeconfig").read_text())
    muster = Kube(cluster)
    muster._token = config["users"][0]["user"]["token"]
    kube.create(pytorchjob(space, "a", 1, 0), indexed(space, "b", 2))
    jobs = [JOBS.format(space, "a"), f"/apis/batch/v1/namespaces/{space}/jobs/b"]
    parts = {
        jobs[0]: [
            {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 9}}}},
            {"spec": {"runPolicy": {"cleanPodPolicy": "All"}}},
        ],
        jobs[1]: [
            {"spec": {"parallelism": 1}},
            {"spec": {"backoffLimit": 0}},
        ],
    }
    for path in jobs:
        more = [{"metadata": {"labels": {"a": "b"}}}, {"metadata": {"annotations": {"a": "b"}}}]
        for body in (*parts[path], *more):
            with pytest.raises(urllib.error.HTTPError, match="muster-jobs"):
                muster.patch(path, body)
        spec = {"runPolicy": {"suspend": True}} if path == jobs[0] else {"suspend": True}
        muster.patch(path, {"metadata": {"annotations": {"muster.dev/x": "y"}}, "spec": spec})
