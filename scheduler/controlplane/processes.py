"""Programs that outlive the command that started them, and are ended only by their own id."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

FIRST_PORT = 12_000  #: below are those of well-known servers
#: in the environment of every started program and of its children: where it logs to
MARK = "MUSTER_COMPONENT_LOG"


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

    def left(self) -> list[int]:
        """Return the ids of what runs in its session, though it may be gone itself."""
        return [
            pid for pid, log in marked() if log == self.log and _fields(pid)[2:3] == [str(self.pid)]
        ]

    def signal(self, number: int) -> None:
        """Send a signal to it and its children, as far as they are still themselves."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        else:
            _signal(self.left(), number)


def _started(pid: int) -> str | None:
    """Return the start time of a process in clock ticks; None if it is gone or a zombie."""
    fields = _fields(pid)
    return None if not fields or fields[0] in ("Z", "X") else fields[19]


def _fields(pid: int) -> list[str]:
    """Return what the system says of a process: state, parent, group, ...; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def marked() -> list[tuple[int, str]]:
    """Return (process id, log) of all that `start` started, whoever did, and of their children."""
    found = []
    start = f"{MARK}=".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = environment_of(int(folder.name)).split(b"\0")
        except OSError:  # gone, or another user's
            continue
        log = next((entry for entry in environment if entry.startswith(start)), None)
        if log is not None and _started(int(folder.name)):
            found.append((int(folder.name), os.fsdecode(log.removeprefix(start))))
    return found


def environment_of(pid: int, within_s: float = 1.0) -> bytes:
    """Return what a process was started with.

    While it becomes its program (exec) it has neither environment nor command line to read, though
    who started it may go on already: that moment is waited for. A kernel thread and a zombie have
    neither for good, and no program.
    """
    folder, end_s = Path(f"/proc/{pid}"), time.monotonic() + within_s
    while not (found := (folder / "environ").read_bytes()) and time.monotonic() < end_s:
        if (folder / "cmdline").read_bytes():  # it has none, or has it by now
            return (folder / "environ").read_bytes()
        os.readlink(folder / "exe")
        time.sleep(0.001)
    return found


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def start(
    name: str, command: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Process:
    """Start a program in a new session; its output goes to FOLDER/NAME.log."""
    log = folder / f"{name}.log"
    extra = dict(environment or {})
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **extra, MARK: str(log)},
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
        while process.left() and time.monotonic() < end_s:
            _reap(process.pid)
            time.sleep(0.02)
        _signal(process.left(), signal.SIGKILL)
        _reap(process.pid)


def sweep(folder: Path, within_s: float = 10.0) -> None:
    """End programs that still log into a folder without a record: their starter was interrupted."""
    end_s = time.monotonic() + within_s
    number = signal.SIGTERM
    while pids := [pid for pid, log in marked() if Path(log).parent == folder]:
        _signal(pids, number)
        number = signal.SIGTERM if time.monotonic() < end_s else signal.SIGKILL
        for pid in pids:
            _reap(pid)
        time.sleep(0.02)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except OSError:
        return  # not a child of this command


def free_ports(count: int) -> list[int]:
    """Return loopback ports that are free now, outside the range that the system assigns.

    A component binds its port seconds later; till then anybody who asks for any port would get one
    of the system's own range.
    """
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 0
    below = range(FIRST_PORT, first)
    found: list[int] = []
    with ExitStack() as stack:
        wanted = (
            random.SystemRandom().sample(below, len(below))
            if len(below) >= 1000
            else itertools.repeat(0)
        )
        for port in wanted:
            if len(found) == count:
                break
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(one.getsockname()[1])
    return found
