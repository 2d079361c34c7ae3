"""Measurements as processes of their own, and how large they are."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass

from bench.rows import OUT, ROOT
from scheduler import compiled


@dataclass(frozen=True)
class Size:
    """How large the measurements are."""

    peer_jobs: int = 20_000
    nodes: int = 7_500
    days: float = 30.0
    growth: tuple[tuple[int, float], tuple[int, float]] = ((2_500, 30.0), (75_000, 3.0))
    pod_days: tuple[float, ...] = (2.0, 7.0)  #: the cluster begins empty and is full after a day
    repeats: int = 3
    rows: int = 5_000_000  #: of a jobs file
    flood_nodes: int = 2_500
    gangs: int = 2_000  #: that run where one preempts


FULL = Size()
QUICK = Size(
    5_000, 750, 10.0, ((250, 30.0), (2_500, 10.0)), (1.0,), 1, 1_000_000, 750, 200
)  # fmt: skip


def measured(*arguments: object, interpreted: bool = False) -> dict[str, float]:
    """Run one measurement in a fresh process, compiled if it can be."""
    command = [sys.executable, str(ROOT / "bench" / "sim.py"), "--one", *map(str, arguments)]
    env = {**os.environ, **({compiled.SWITCH: "1"} if interpreted else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    return read(done)


def read(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    """Return what a measurement printed."""
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def process_s(command: list[str], extra: dict[str, str] | None = None) -> float:
    """Run a command and return the CPU seconds of its process, start and end included.

    Python keeps its compiled files in `bench/out`, also where the environment forbids to write
    them beside the source: whoever installs a program has them.
    """
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(OUT / "bytecode"), **(extra or {})}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=env,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
