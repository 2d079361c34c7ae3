"""One cluster with four real nodes of one GPU each, for all end-to-end tests."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane import components, images, requirements
from scheduler.controlplane.record import Cluster
from scheduler.journal.replay import replay
from tests.cluster.conftest import Kube, end, num_refused
from tests.e2e.jobs import Job, pytorchjob, volume

NODES = 4
#: a pod on a dead node is made anew within this: kube-controller-manager looks for such pods every
#: 20 s. With as long a repair it was chance whether muster first ended the rest of the gang, whose
#: new pods then load torch while the others fail to find them, ever later.
REPAIR_S = 45.0
Submit = Callable[..., Job]


def lack() -> str:
    """Say what this machine lacks for real nodes."""
    return components.lack(real_nodes=True) or requirements.lack()


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a running cluster of real nodes."""
    lacking = lack()
    if lacking:
        pytest.skip(lacking)
    folder = Path(tmp_path_factory.mktemp("e2e")) / "cluster"
    settings = {"timeouts": {"bind_s": 20.0, "repair_s": REPAIR_S}}
    try:
        found = clusters.up(folder, nodes=0, kubelets=NODES, muster_settings=settings)
        yield found
        assert not num_refused(found), "muster was refused what its manifests should grant"
        replayed = replay(found.dir / "journal.jsonl")
        assert not replayed.difference, replayed.difference
    finally:
        end(folder, "etcd", "kubelet", "containerd")


@pytest.fixture
def kube(rig: Cluster) -> Kube:
    """Return the API of the cluster."""
    found = Kube(rig)
    found.until("all nodes are ready", lambda: num_ready(found) == NODES)
    return found


def num_ready(kube: Kube) -> int:
    """Count nodes that are ready."""
    return sum(
        any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"]["conditions"])
        for n in kube.call("GET", "/api/v1/nodes")["items"]
        if n["status"].get("conditions")
    )


def pod(name: str, *command: str, gpus: int = 1, **spec: object) -> dict[str, object]:
    """Return a pod in the namespace default that runs a command."""
    container = {
        "name": "main",
        "image": images.TRAIN,
        "command": list(command),
        "resources": {"limits": {"nvidia.com/gpu": gpus}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "containers": [container],
            **spec,
        },
    }


def until_account(kube: Kube, namespace: str) -> None:
    """Wait until pods may be made in a namespace: each gets its service account."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    kube.until(f"{namespace} has its account", lambda: kube.call("GET", path)["items"])


@pytest.fixture
def space(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a namespace of the test's own with a claim `runs`; it is empty afterwards."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("no torch beside this Python; `make test-e2e` installs it")
    short = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    name = f"{short}-{time.monotonic_ns() % 10**6}"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    kube.create(*volume(name, kube.cluster.dir / "shared" / name))
    until_account(kube, name)
    yield name
    clear(kube, name)


def clear(kube: Kube, space: str) -> None:
    """Remove jobs and pods of a namespace and wait until they are gone."""
    jobs = f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs"
    for item in kube.call("GET", jobs)["items"]:
        kube.delete(f"{jobs}/{item['metadata']['name']}")

    def empty() -> bool:
        for name in kube.pods(space):
            kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
        return not kube.pods(space)

    kube.until("the pods are gone", empty)
    kube.delete(f"/api/v1/namespaces/{space}/persistentvolumeclaims/runs")
    kube.delete(f"/api/v1/persistentvolumes/{space}")


@pytest.fixture
def submit(kube: Kube, space: str) -> Submit:
    """Return a function that submits a job."""

    def create(name: str, workers: int = NODES - 1, **settings: object) -> Job:
        kube.create(pytorchjob(space, name, workers, **settings))
        folder = kube.cluster.dir / "shared" / space / name
        return Job(kube, space, name, workers + 1, folder)

    return create
