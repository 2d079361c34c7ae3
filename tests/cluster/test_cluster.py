"""`muster cluster` as users type it: twice, after an interruption, after everything died."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane import private_folder
from scheduler.controlplane.processes import (
    MARK,
    Process,
    environment_of,
    marked,
    start,
    stop,
    sweep,
)
from scheduler.controlplane.record import Cluster, load
from tests.cluster.conftest import Kube, missing
from tests.cluster.typed import Typed, typing_on, until

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
    assert "no cluster runs here" in typed.run("status", 1).stderr
    for _ in range(2):
        typed.run("up --nodes 3")
        assert typed.status().keys() == COMPONENTS
        assert "all done after" in typed.run("demo --jobs 2 --seed 2").stdout
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
    assert "all done after" in typed.run("demo --jobs 2 --seed 2").stdout
    typed.kill_all()
    assert "ended" in typed.run("down").stderr
    assert "no cluster runs here" in typed.run("down").stderr


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
    assert "runs already" in typed.run("up --nodes 2 --gpus 4").stderr
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


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    lack = missing()
    if lack:
        pytest.skip(f"the control plane cannot be built: {lack}")
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="holds no cluster"):
        clusters.up(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all my work"


def test_what_a_dead_program_left_in_its_session_is_ended(tmp_path: Path) -> None:
    found = start("parent", ["sh", "-c", "sleep 600 & wait"], tmp_path)
    until("both run", lambda: len(found.left()) == 2)
    os.kill(found.pid, signal.SIGKILL)
    until("the child is alone", lambda: len(found.left()) == 1)
    assert not found.alive()
    stop([found])
    assert found.left() == []
    stop([found])  # gone already


def test_what_is_in_no_books_is_found_by_its_mark(tmp_path: Path) -> None:
    other = start("other", ["sleep", "600"], tmp_path.parent)
    start("lost", ["sh", "-c", "trap '' TERM; sleep 600 & wait; wait"], tmp_path)
    try:
        sweep(tmp_path, within_s=0.2)
        assert all(Path(log).parent != tmp_path for _, log in marked())
        assert other.alive()
    finally:
        stop([other])


def test_a_program_has_its_mark_as_soon_as_it_is_started(tmp_path: Path) -> None:
    """Also in the moment of its exec, in which the system tells nothing of it yet."""
    for _ in range(300):
        found = start("new", ["sleep", "600"], tmp_path)
        assert f"{MARK}={found.log}".encode() in environment_of(found.pid).split(b"\0")
        stop([found])


def reads_of(shared: Path, own: Path, user: int) -> Process:
    """Start, as a user, a program that copies what it reads at `shared` into `own`."""
    own.parent.mkdir(exist_ok=True)
    prefix = private_folder.seen_at(shared, own)
    assert prefix[:1] == ["unshare"]
    (own / "name").write_text(own.parent.name)
    (own / "read").touch()
    script = f"cat {shared}/name > {shared}/read; sleep 600"
    command = [*prefix, "sh", "-c", script]
    if user:
        for path in (own, own / "name", own / "read"):
            os.chown(path, user, user)
        drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        command = [*drop, "unshare", "--map-root-user", *command[1:]]
    return start("reader", command, own.parent)


@pytest.mark.parametrize("user", [0, 65534])
def test_two_clusters_see_two_folders_at_one_path(tmp_path: Path, user: int) -> None:
    if user and os.geteuid():
        pytest.skip("only root can become another user")
    for way in private_folder.WAYS:
        if subprocess.run([*way, "true"], capture_output=True).returncode:
            pytest.skip(f"{' '.join(way)} is not allowed on this system")
    for folder in (tmp_path, *tmp_path.parents):
        if user and not folder.stat().st_mode & 0o001:
            os.chmod(folder, folder.stat().st_mode | 0o011)
    shared = tmp_path / "shared"
    started = []
    try:
        started.append(reads_of(shared, tmp_path / "one" / "own", user))
        started.append(reads_of(shared, tmp_path / "two" / "own", user))
        for name in ("one", "two"):
            seen = tmp_path / name / "own" / "read"
            until(f"{name} is read", lambda seen=seen, name=name: seen.read_text() == name)
        assert not (shared / "name").exists()
    finally:
        stop(started)


def test_without_namespaces_the_second_cluster_is_told_of_the_first(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "own").mkdir(parents=True)
    private_folder.claim(shared, tmp_path / "one" / "own")
    private_folder.claim(shared, tmp_path / "one" / "own")
    assert (tmp_path / "one" / "own").readlink() == shared
    runs = start("operator", ["sleep", "600"], tmp_path / "one")
    try:
        with pytest.raises(ValueError, match=f"muster cluster down --dir {tmp_path / 'one'}"):
            private_folder.claim(shared, tmp_path / "two" / "own")
    finally:
        stop([runs])
    private_folder.claim(shared, tmp_path / "two" / "own")
    assert (tmp_path / "two" / "own").readlink() == shared
