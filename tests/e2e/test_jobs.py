"""PyTorchJobs on real nodes with nothing mocked, from the manifest to equal parameters."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from tests.cluster.conftest import Kube
from tests.e2e.conftest import NODES, Submit, clear, num_ready, until_account
from tests.e2e.jobs import PATIENCE_S, Job, pytorchjob, volume

pytestmark = [pytest.mark.k8s, pytest.mark.slow, pytest.mark.timeout(1200)]
PLAYED = 2


def test_canonical_job(submit: Submit, tmp_path: Path) -> None:
    job = submit("canonical", steps=40, log_every=10)
    job.until_succeeded()
    digests = job.parameters()
    assert len(set(digests)) == 1, digests
    assert len({pod["spec"]["nodeName"] for pod in job.pods().values()}) == NODES
    assert job.restarts() == dict.fromkeys(job.pods(), 0)
    assert [e["reason"] for e in job.events("exit")] == ["finished"]
    costs = tmp_path / "costs.toml"
    command = [sys.executable, "-m", "sim.commands.main", "calibrate", str(job.folder / "goodput")]
    done = subprocess.run([*command, "--out", str(costs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    learnt = tomllib.loads(costs.read_text())
    assert "4 ranks" in learnt["measured"]
    assert learnt["startup_s"]["num_samples"] == 1 and learnt["startup_s"]["p50"] > 0


def test_two_jobs_run_one_after_the_other(kube: Kube, submit: Submit) -> None:
    jobs = [submit(name, steps=10, log_every=5) for name in ("left", "right")]
    both: list[tuple[set[str], ...]] = []

    def done() -> bool:
        found = kube.pods(jobs[0].space)  # one reading: a moment later it is the other job's turn
        held = tuple(job.holding(found) for job in jobs)
        if all(held):
            both.append(held)
        return all(job.condition() == "Succeeded" for job in jobs)

    kube.until("both succeeded", done, within_s=PATIENCE_S)
    assert not both, "two gangs of four held some of four GPUs each"
    for job in jobs:
        assert len(set(job.parameters())) == 1


@pytest.fixture
def without_muster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """Return the same nodes under stock scheduling, beside played ones without GPUs."""
    folder = tmp_path_factory.mktemp("stock") / "cluster"
    try:
        found = clusters.up(folder, nodes=PLAYED, gpus=0, kubelets=NODES, with_muster=False)
        kube = Kube(found)
        kube.until("all nodes are ready", lambda: num_ready(kube) == NODES + PLAYED)
        yield kube
    finally:
        clusters.down(folder)


def test_two_jobs_deadlock_without_muster(without_muster: Kube) -> None:
    """Pods of jobs that come together mix; if by luck they did not, they come together again."""
    kube = without_muster
    for number in range(5):
        space = f"stock-{number}"
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        until_account(kube, space)
        kube.create(*volume(space, kube.cluster.dir / space))
        jobs = [Job(kube, space, name, NODES, kube.cluster.dir) for name in ("left", "right")]
        kube.create(*(pytorchjob(space, job.name, NODES - 1) for job in jobs))

        def full(jobs: list[Job] = jobs) -> list[set[str]]:
            held = [job.holding() for job in jobs]
            return held if sum(map(len, held)) == NODES else []

        held = kube.until("all GPUs are held", full)
        if all(held):
            break
        clear(kube, space)
    assert all(0 < len(pods) < NODES for pods in held), "each holds what the other waits for"

    def refused() -> bool:
        waiting = [p for p in kube.pods(space).values() if not p["spec"].get("nodeName")]
        return len(waiting) == NODES and all(
            any(c.get("reason") == "Unschedulable" for c in pod["status"].get("conditions", ()))
            for pod in waiting
        )

    kube.until("there is no room for the others", refused)
    assert [job.holding() for job in jobs] == held
    assert num_ready(kube) == NODES + PLAYED, "played nodes send heartbeats, too"
