"""One cluster with four real nodes of one GPU each, for all end-to-end tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane import components, images, requirements
from tests.live.conftest import Kube

NODES = 4


def lack() -> str:
    """Say what this machine lacks for real nodes."""
    return components.lack(real_nodes=True) or requirements.lack()


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """Return a running cluster of real nodes."""
    lacking = lack()
    if lacking:
        pytest.skip(lacking)
    folder = Path(tmp_path_factory.mktemp("e2e")) / "cluster"
    settings = {"timeouts": {"bind_s": 20.0, "repair_s": 20.0}}
    yield clusters.up(folder, nodes=0, kubelets=NODES, muster_settings=settings)
    kept = os.environ.get("MUSTER_KEEP_LOGS")
    if kept:
        ignored = shutil.ignore_patterns("etcd", "kubelet", "containerd")
        shutil.copytree(folder, kept, dirs_exist_ok=True, ignore=ignored)
    clusters.down(folder)


@pytest.fixture
def kube(rig: clusters.Cluster) -> Kube:
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
