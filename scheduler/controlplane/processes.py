"""Programs that run on after the command that started them, and are ended by nobody else's id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec


class Process(msgspec.Struct):
    """A started program. Process ids are used again; with the start time they are unique."""

    name: str
    pid: int
    started: str
    log: str
    command: list[str]
    environment: dict[str, str] = {}

    def alive(self) -> bool:
        """True while this very process runs."""
        return _started(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal to it and its children, if it is still itself."""
        if self.alive():
            os.killpg(self.pid, number)


def _started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def start(
    name: str, command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Process:
    """Start a program in a session of its own; its output goes to FOLDER/NAME.log."""
    log = folder / f"{name}.log"
    extra = dict(environment or {})
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **extra},
            cwd=folder,
        )
    started = _started(child.pid) or ""
    child.returncode = 0  # it outlives this command; nobody here waits for it
    return Process(name, child.pid, started, str(log), command, extra)


def stop(processes: list[Process], within_s: float = 10.0) -> None:
    """End processes, at first politely, one after the other in the given order."""
    for process in processes:
        process.signal(signal.SIGTERM)
        end_s = time.monotonic() + within_s
        while process.alive() and time.monotonic() < end_s:
            _reap(process.pid)
            time.sleep(0.02)
        process.signal(signal.SIGKILL)
        _reap(process.pid)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except OSError:
        return  # not a child of this command


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody uses now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
