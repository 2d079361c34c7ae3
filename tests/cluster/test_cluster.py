"""`muster cluster` as users type it: twice, after an interruption, after everything died."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane.processes import (
    marked,
)
from scheduler.controlplane.record import Cluster, answers, load
from tests.cluster.conftest import Kube, missing
from tests.cluster.typed import Typed, typing_on
from tests.waiting import until

COMPONENTS = {
    "etcd",
    "kube-apiserver",
    "kwok",
    "muster",
    "kube-controller-manager",
    "kube-scheduler",
    "training-operator",
}


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Typed]:
    """Return the command line on a folder of the test's own."""
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    with typing_on(tmp_path / "cluster") as found:
        yield found


def small(cluster: Cluster | None) -> Kube:
    assert cluster is not None
    return Kube(cluster)


@pytest.mark.k8s
@pytest.mark.slow
def test_up_demo_and_down_twice_and_after_everything_was_killed(typed: Typed) -> None:
    assert "no cluster is running" in typed.run("status", 1).stderr
    for _ in range(2):
        typed.run("up --nodes 3")
        assert typed.status().keys() == COMPONENTS
        assert "all done after" in typed.run("demo --count 2 --seed 2").stdout
        assert "ended" in typed.run("down").stderr
        assert typed.left() == [] and not typed.folder.exists()
    typed.run("up --nodes 3")
    kube = small(load(typed.folder))
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}})
    typed.kill_all()
    assert not any(row["healthy"] for row in typed.status(1).values())
    typed.run("up --nodes 3")
    assert all(row["healthy"] for row in typed.status().values())
    assert kube.call("GET", "/api/v1/namespaces/kept")["metadata"]["name"] == "kept"
    assert "all done after" in typed.run("demo --count 2 --seed 2").stdout
    typed.kill_all()
    assert "ended" in typed.run("down").stderr
    assert "no cluster is running" in typed.run("down").stderr


@pytest.mark.k8s
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_up_is_finished_by_the_next(typed: Typed, number: int) -> None:
    process = subprocess.Popen(typed.command("up --nodes 3"), stderr=subprocess.DEVNULL)
    try:

        def has_api_server() -> bool:
            found = load(typed.folder)
            return found is not None and "kube-apiserver" in {p.name for p in found.processes}

        until("the API server is started", has_api_server)
    finally:
        process.send_signal(number)
        process.wait(30)
    assert process.returncode != 0, "it was not finished yet"
    assert typed.status(1).keys() < COMPONENTS
    first = typed.status(1)["etcd"]["pid"]
    typed.run("up --nodes 3")
    rows = typed.status()
    assert rows.keys() == COMPONENTS and all(row["healthy"] for row in rows.values())
    assert rows["etcd"]["pid"] == first, "what runs is let run"


@pytest.mark.k8s
@pytest.mark.slow
def test_a_running_cluster_is_not_erased_and_a_lost_supervisor_leaves_nothing(
    typed: Typed,
) -> None:
    typed.run("up --nodes 2 --gpus 4")
    before = typed.status()
    assert "is already running" in typed.run("up --nodes 2 --gpus 4").stderr
    for other in (
        "up --nodes 3 --gpus 4",
        "up --nodes 2",
        "up --nodes 2 --gpus 4 --without muster",
    ):
        said = typed.run(other, 2).stderr
        assert "has 2 nodes of 4 GPUs" in said
        assert f"muster cluster down --dir {typed.folder}" in said
    assert typed.status() == before
    exports = typed.run("env").stdout
    assert f"export KUBECONFIG={typed.folder}/admin.kubeconfig" in exports

    supervisor = int(before["muster"]["pid"])
    os.kill(supervisor, signal.SIGKILL)
    until("the supervisor is gone", lambda: not typed.status(1)["muster"]["healthy"])
    assert supervisor not in typed.left()
    typed.run("up --nodes 2 --gpus 4")
    assert typed.status()["muster"]["pid"] != supervisor
    log = str(typed.folder.resolve() / "muster.log")
    assert [name for _, name in marked()].count(log) == 2, "one supervisor with one muster"
    os.kill(int(typed.status()["muster"]["pid"]), signal.SIGKILL)  # the fixture's `down` ends both


@pytest.mark.k8s
@pytest.mark.slow
def test_no_other_user_of_the_machine_gets_into_etcd(cluster: Cluster) -> None:
    """What is written there is believed, so who may write there is root on real nodes."""
    own, keys = cluster.dir / "certificates" / "etcd", cluster.dir / "certificates"
    assert answers(f"https://127.0.0.1:{cluster.ports.etcd}/health", own)
    for port in (cluster.ports.etcd, cluster.ports.etcd_peers):
        for path in ("/health", "/version", "/members", "/metrics"):
            assert not answers(f"http://127.0.0.1:{port}{path}")
            assert not answers(f"https://127.0.0.1:{port}{path}")
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            tls.load_cert_chain(keys / "muster.crt", keys / "muster.key")
            with pytest.raises(OSError, match=r"alert|reset|closed|EOF") as refused:
                urllib.request.urlopen(f"https://127.0.0.1:{port}{path}", context=tls, timeout=3)
            assert not isinstance(refused.value, urllib.error.HTTPError)
    assert cluster.dir.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in own.glob("*.key"))


@pytest.mark.k8s
@pytest.mark.slow
def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="contains no cluster"):
        clusters.up(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all my work"
