"""Programs of a local cluster: marked, found and ended, and each with its own folders."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

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
from tests.waiting import until


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
