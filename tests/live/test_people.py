"""What people see: the plugin, the status page, the answers behind them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.conftest import NODES, Kube, gang

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


def plugin(kube: Kube, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the plugin."""
    return subprocess.run(
        [sys.executable, "-m", "scheduler.live.plugin", *arguments],
        env={**os.environ, "MUSTER_URL": kube.cluster.status_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def busy(kube: Kube, space: str) -> str:
    """Return a namespace in which one gang runs and two wait."""
    kube.create(*gang(space, "runs", NODES - 2))
    kube.until("runs is bound", lambda: len(kube.bound(space)) == NODES - 2)
    kube.create(*gang(space, "large", 4), *gang(space, "small", 1))
    kube.until("two wait", lambda: kube.explain(space, "small").get("reason") == "behind_head")
    return space


def test_why_names_reason_numbers_place_and_way_out(kube: Kube, busy: str) -> None:
    done = plugin(kube, "why", "large", "-n", busy)
    assert done.returncode == 0, done.stderr
    assert "needs 32 GPUs for 4 pods; 16 are free on nodes it may use" in done.stdout
    assert "place in the queue: 1; priority 0" in done.stdout
    assert "16 more GPUs would have to come free" in done.stdout
    done = plugin(kube, "why", f"{busy}/small-0")
    assert f"{busy}/large is first in the queue" in done.stdout


def test_a_cordoned_node_is_hinted_at(kube: Kube, busy: str) -> None:
    free = {kube.call("GET", "/api/v1/nodes")["items"][i]["metadata"]["name"] for i in range(NODES)}
    name = sorted(free - set(kube.bound(busy).values()))[0]
    kube.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
    try:
        kube.until(
            "muster counts 8 GPUs less", lambda: kube.explain(busy, "large")["free_gpus"] == 8
        )
        assert (
            "1 nodes with 8 free GPUs take no pods"
            in plugin(kube, "why", "large", "-n", busy).stdout
        )
        assert "1 nodes take no pods" in plugin(kube, "nodes").stdout
    finally:
        kube.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})


def test_queue_gangs_and_nodes(kube: Kube, busy: str) -> None:
    lines = plugin(kube, "queue").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:3]] == [f"{busy}/large", f"{busy}/small"]
    assert f"{busy}/runs" in plugin(kube, "gangs").stdout
    assert (
        "16 GPUs are free; 0% of them not on nodes that are free whole"
        in plugin(kube, "nodes").stdout
    )


def test_unknown_names_and_addresses_are_one_line(kube: Kube) -> None:
    done = plugin(kube, "why", "nothing")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no gang or pod 'default/nothing'" in done.stderr
    done = plugin(kube, "queue", "--url", "http://127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_page_shows_the_queue(kube: Kube, busy: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium to look at the page with")
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=4000",
            "--dump-dom",
            f"{kube.cluster.status_url}/#{busy}%2Flarge",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    page = done.stdout
    assert 'data-ready="yes"' in page
    assert "5 pods of 2 gangs are pending" in page
    assert "needs 32 GPUs for 4 pods; 16 are free on nodes it may use" in page
    assert "large-3" in page, "the chosen gang's story is shown"
    assert f"2 of {NODES} nodes are free whole" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", ""), "no outside assets"
