"""`muster cluster demo`: every job goes through, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane.demo import NAMESPACE
from scheduler.controlplane.record import Cluster
from sim.journals.recorded import recorded
from tests.cluster.conftest import Kube, missing
from tests.scheduler.controlplane.test_demo import command


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Return a cluster of this file's own: its journal tells of the demo and of nothing else."""
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    folder = tmp_path_factory.mktemp("demo") / "cluster"
    try:
        yield clusters.up(folder, nodes=6)
    finally:
        clusters.down(folder)


def is_gone(kube: Kube) -> bool:
    try:
        kube.call("GET", f"/api/v1/namespaces/{NAMESPACE}")
    except urllib.error.HTTPError as error:
        return error.code == 404
    return False


@pytest.mark.k8s
@pytest.mark.slow
def test_stock_scheduling_gets_stuck_and_the_demo_says_in_what(tmp_path: Path) -> None:
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    folder = tmp_path / "cluster"
    try:
        found = clusters.up(folder, nodes=4, with_muster=False)
        done = subprocess.run(
            command(folder, "--count", "8", "--limit-s", "20"),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "stuck after 20 s:" in done.stdout
        assert re.search(r"half placed: \d+ of \d+ pods hold \d+ GPUs", done.stdout)
        assert is_gone(Kube(found))
    finally:
        clusters.down(folder)


@pytest.mark.k8s
@pytest.mark.slow
def test_all_jobs_go_through_and_nothing_stays(cluster: Cluster, kube: Kube) -> None:
    done = subprocess.run(
        command(cluster.dir, "--count", "5", "--seed", "2"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"5 jobs, \d+ pods, all done after \d", done.stdout)
    said = r"^too-large: needs 7 pods .*(of which the nodes have 48|that it may use hold 6)"
    assert re.search(said, done.stdout, re.M)
    assert "could never fit and was removed" in done.stdout
    assert "half placed" not in done.stdout
    assert is_gone(kube)


@pytest.mark.k8s
@pytest.mark.slow
def test_ctrl_c_leaves_nothing(cluster: Cluster, kube: Kube) -> None:
    process = subprocess.Popen(
        command(cluster.dir, "--count", "8"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        kube.until("its pods are there", lambda: not is_gone(kube) and kube.pods(NAMESPACE))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, errors.decode()
    assert is_gone(kube)


@pytest.mark.k8s
@pytest.mark.slow
def test_the_journal_of_all_that_gives_a_report(cluster: Cluster, kube: Kube) -> None:
    """Its books balance, or `recorded` raises."""

    def told() -> bool:  # what was not flushed yet is not there
        run = recorded([cluster.dir / "journal.jsonl"])
        of_demo = run.jobs[run.jobs["job"].str.startswith(f"{NAMESPACE}/")]
        return {"never_fits", "completed"} <= set(of_demo["outcome"])

    kube.until("the demo is told", told, within_s=90)
