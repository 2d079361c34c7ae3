"""Control groups of one cluster's nodes, created before and removed after them."""

from __future__ import annotations

import os
import time
from pathlib import Path


def hierarchies(mounts: str | None = None) -> list[Path]:
    """Return where hierarchies are mounted; a hybrid has those of both versions."""
    lines = (Path("/proc/mounts").read_text() if mounts is None else mounts).splitlines()
    return [Path(f[1]) for f in (line.split() for line in lines) if f[2] in ("cgroup", "cgroup2")]


def make(name: str) -> None:
    """Make the group NAME, such as CLUSTER/NODE, with all controllers."""
    for root in hierarchies():
        folder = root
        for part in name.split("/"):
            if (root / "cgroup.controllers").exists():  # version 2: children get what is passed on
                _pass_on(folder)
            folder = folder / part
            folder.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                path = folder / file
                # version 1: a group of no processor takes no process
                if (folder / "tasks").exists() and path.exists() and not path.read_text().strip():
                    path.write_text((folder.parent / file).read_text())
        if (folder / "cgroup.controllers").exists():
            _pass_on(folder)


def weigh(name: str, processes: int) -> None:
    """Give a group the share of the processors that so many processes beside it would have."""
    for root in hierarchies():
        for file, one in (("cpu.shares", 1024), ("cpu.weight", 100)):
            path = root / name / file
            if path.exists():
                path.write_text(str(processes * one))


def _pass_on(folder: Path) -> None:
    for controller in (folder / "cgroup.controllers").read_text().split():
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def remove(name: str, within_s: float = 10.0) -> None:
    """Remove the group and those below; its processes are dying.

    Raises:
        ValueError: something still lives in it.
    """
    end_s = time.monotonic() + within_s
    while left := [root / name for root in hierarchies() if (root / name).is_dir()]:
        for top in left:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    break
        if time.monotonic() > end_s and any(top.is_dir() for top in left):
            raise ValueError(f"{left[0]}: processes still run in this control group; end them")
        time.sleep(0.02)
