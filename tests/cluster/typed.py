"""`muster cluster` as users type it, on a folder of the test's own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scheduler.controlplane.processes import marked
from tests.waiting import until


class Typed:
    """The command line on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, what: str) -> list[str]:
        """Return `muster cluster WHAT` on the folder."""
        words = [sys.executable, "-m", "sim.commands.main", "cluster", *shlex.split(what)]
        return [*words, "--dir", str(self.folder)]

    def run(self, what: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command that ends with `code`."""
        done = subprocess.run(self.command(what), capture_output=True, text=True, timeout=400)
        assert done.returncode == code, f"{what}: {done.stdout}{done.stderr}"
        return done

    def status(self, code: int = 0) -> dict[str, dict[str, Any]]:
        """Return the components by name."""
        return {row["name"]: row for row in json.loads(self.run("status --json", code).stdout)}

    def left(self) -> list[int]:
        """Return the processes of the cluster, whoever started them."""
        return [pid for pid, log in marked() if Path(log).parent == self.folder.resolve()]

    def kill_all(self) -> None:
        """Kill every process of the cluster at once, and wait until they are gone."""
        for pid in self.left():
            with suppress(ProcessLookupError):  # some end with their parents
                os.kill(pid, signal.SIGKILL)
        until("all are gone", lambda: not self.left())


@contextmanager
def typing_on(folder: Path) -> Iterator[Typed]:
    """Give the command line on a folder, and end its cluster after it."""
    found = Typed(folder)
    try:
        yield found
    finally:
        found.run("down")
    assert found.left() == []
    assert not found.folder.exists()
