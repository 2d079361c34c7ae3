"""A list of pods, the API server's audit log and muster's journal give the same jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import traces
from scheduler.controlplane import cluster as clusters
from tests.cluster.conftest import Kube, end, gang, missing, pytorchjob

#: the API server notes creation, and kubelets their containers' times, in whole seconds
STEP_S = 1.0
#: what a played kubelet, and the watch of what it says, may take on a busy machine
LAG_S = 5.0


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    """Return a cluster that keeps an audit log of its pods."""
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    folder = tmp_path / "cluster"
    try:
        yield Kube(clusters.up(folder, nodes=8, audited="pods"))
    finally:
        end(folder)


def jobs_of(path: Path, space: str) -> pd.DataFrame:
    """Return the jobs of one namespace by name, with submission in Unix seconds."""
    loaded = traces.load(path)
    jobs = loaded.jobs.assign(submit_s=loaded.jobs["submit_s"] + loaded.offset_s)
    return jobs[jobs["job"].str.startswith(f"{space}/")].set_index("job").sort_index()


@pytest.mark.k8s
@pytest.mark.slow
def test_the_three_logs_of_a_cluster_hold_the_same_jobs(kube: Kube, tmp_path: Path) -> None:
    space = "default"
    runs = {"short": "4s", "wide": "7s", "late": "5s"}
    kube.create(*gang(space, "short", 2, annotations={"muster.dev/run-for": runs["short"]}))
    kube.create(
        pytorchjob(space, "wide", 3, gpus=4, annotations={"muster.dev/run-for": runs["wide"]})
    )
    kube.create(*gang(space, "late", 3, gpus=2, annotations={"muster.dev/run-for": runs["late"]}))

    def ended() -> bool:
        pods = kube.pods(space).values()
        return len(pods) == 9 and all(one["status"]["phase"] == "Succeeded" for one in pods)

    kube.until("all pods have succeeded", ended)
    listed = tmp_path / "pods.json"
    listed.write_text(json.dumps(kube.call("GET", "/api/v1/pods")))
    kube.until(
        "muster has seen every gang end",
        lambda: (
            set(jobs_of(kube.cluster.dir / "journal.jsonl", space)["outcome"]) == {"completed"}
            and len(jobs_of(kube.cluster.dir / "journal.jsonl", space)) == 3
        ),
    )
    found = {
        "pods": jobs_of(listed, space),
        "audit": jobs_of(kube.cluster.dir / "audit.jsonl", space),
        "journal": jobs_of(kube.cluster.dir / "journal.jsonl", space),
    }
    first = found["pods"]
    assert first.index.tolist() == [f"{space}/{name}" for name in sorted(runs)]
    assert first["num_pods"].tolist() == [3, 2, 4]
    assert first["gpus_per_pod"].tolist() == [2, 8, 4]
    asked_s = [float(runs[name][:-1]) for name in sorted(runs)]
    assert np.allclose(first["duration_s"], asked_s, atol=LAG_S)
    for name, jobs in found.items():
        assert jobs.index.tolist() == first.index.tolist(), name
        same = ["num_pods", "gpus_per_pod", "last_pod_gpus", "outcome", "queue"]
        pd.testing.assert_frame_equal(jobs[same], first[same], obj=name)
        assert np.allclose(jobs["submit_s"], first["submit_s"], atol=STEP_S + 0.1), name
        assert np.allclose(jobs["duration_s"], first["duration_s"], atol=LAG_S), name
