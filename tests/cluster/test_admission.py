"""Gangs start whole or not at all, on the real control plane."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from tests.cluster.conftest import NODES, Kube, gang, group, missing, pod, pytorchjob

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


def test_a_gang_starts_whole_and_the_next_waits_for_it(kube: Kube, space: str) -> None:
    kube.create(*gang(space, "first", NODES - 2))
    kube.until("first is bound", lambda: len(kube.bound(space)) == NODES - 2)
    kube.create(*gang(space, "second", 3))
    seen = kube.until(
        "second waits for capacity",
        lambda: (e := kube.explain(space, "second")).get("reason") == "capacity" and e,
    )
    assert seen["text"] == "needs 24 GPUs for 3 pods; 16 are free on nodes it may use"
    assert seen["position"] == 1
    assert {p for p in kube.bound(space) if p.startswith("second")} == set()
    assert all(
        pod["spec"]["schedulingGates"] == [{"name": "muster.dev/queued"}]
        for name, pod in kube.pods(space).items()
        if name.startswith("second")
    )
    for i in range(NODES - 2):
        kube.delete(f"/api/v1/namespaces/{space}/pods/first-{i}")
    kube.until("second is bound", lambda: len(kube.bound(space)) == 3)
    assert len(set(kube.bound(space).values())) == 3


def test_45_no_pod_starts_before_its_gang_is_complete(kube: Kube, space: str) -> None:
    whole = gang(space, "late", 4)
    kube.create(*whole[:-1])
    kube.until("its size is known", lambda: kube.explain(space, "late").get("pods_needed") == 4)
    assert kube.explain(space, "late")["reason"] == "members"
    assert kube.bound(space) == {}
    kube.create(whole[-1])
    kube.until("late is bound", lambda: len(kube.bound(space)) == 4)


def test_46_pods_beyond_the_minimum_follow_when_it_runs(kube: Kube, space: str) -> None:
    label = {"scheduling.x-k8s.io/pod-group": "elastic"}
    kube.create(group(space, "elastic", 2))
    kube.create(*(pod(space, f"elastic-{i}", labels=label) for i in range(4)))
    kube.until("all four are bound", lambda: len(kube.bound(space)) == 4)


def test_the_canonical_pytorchjob_is_admitted_unchanged(kube: Kube, space: str) -> None:
    kube.create(pytorchjob(space, "canon", 3))
    kube.until("four pods run", lambda: len(kube.bound(space)) == 4)
    seen = kube.explain(space, "canon")
    assert (seen["pods_needed"], seen["source"]) == (4, "PodGroup.scheduling.x-k8s.io")


def test_scaling_a_waiting_pytorchjob_remakes_pods_with_the_old_world_size(
    kube: Kube, space: str
) -> None:
    kube.create(*gang(space, "blocker", NODES))
    kube.until("blocker is bound", lambda: len(kube.bound(space)) == NODES)
    kube.create(pytorchjob(space, "scaled", 3, gpus=1))
    kube.until("four pods wait", lambda: len(kube.pods(space)) == NODES + 4)
    path = f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs/scaled"
    for workers in (30, 2):
        kube.patch(path, {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": workers}}}})
        kube.until(
            f"all of {workers + 1} pods agree on the world size",
            lambda n=workers + 1: world_sizes(kube, space) == [str(n)] * n,
        )
    for i in range(NODES):
        kube.delete(f"/api/v1/namespaces/{space}/pods/blocker-{i}")
    kube.until("the scaled job runs", lambda: len(kube.bound(space)) == 3)


def world_sizes(kube: Kube, space: str) -> list[str]:
    """Return WORLD_SIZE of every pod of the scaled job."""
    return [
        variable["value"]
        for name, one in kube.pods(space).items()
        if name.startswith("scaled")
        for variable in one["spec"]["containers"][0]["env"]
        if variable["name"] == "WORLD_SIZE"
    ]


def test_two_jobs_too_large_together_run_one_after_the_other(kube: Kube, space: str) -> None:
    for name in ("one", "two"):
        kube.create(pytorchjob(space, name, NODES - 4, 8, annotations={"muster.dev/run-for": "2s"}))
    for name in ("one", "two"):
        kube.until(f"{name} succeeded", lambda n=name: succeeded(kube, space, n))


def succeeded(kube: Kube, space: str, name: str) -> bool:
    job = kube.call("GET", f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs/{name}")
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] == "Succeeded" and c["status"] == "True" for c in conditions)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """Return a cluster of the same size without muster."""
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    folder = Path(tmp_path_factory.mktemp("stock")) / "cluster"
    try:
        yield Kube(clusters.up(folder, nodes=NODES, with_muster=False))
    finally:
        clusters.down(folder)


def test_without_muster_the_same_two_jobs_stay_half_placed(stock: Kube) -> None:
    operator = stock.cluster.process("training-operator")
    for number in range(5):  # it is a race, and one of the jobs may win it whole
        space = f"race-{number}"
        stock.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        operator.signal(signal.SIGSTOP)  # so that it sees both at once, as on a busy cluster
        for name in ("one", "two"):
            stock.create(pytorchjob(space, name, NODES - 4, 8))
        operator.signal(signal.SIGCONT)
        stock.until("every node is taken", lambda space=space: len(stock.bound(space)) == NODES)
        placed = [sum(p.startswith(name) for p in stock.bound(space)) for name in ("one", "two")]
        if all(0 < count < NODES - 3 for count in placed):
            return
        for name in ("one", "two"):
            stock.delete(f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs/{name}")
        stock.until("they are gone", lambda space=space: not stock.pods(space))
    pytest.fail(f"the stock scheduler placed one of two jobs whole, five times: {placed}")
