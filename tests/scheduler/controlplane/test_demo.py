"""`muster cluster demo`: what it submits, and how it draws."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.controlplane import demo
from scheduler.controlplane.demo import DemoJob, check, mixed
from scheduler.controlplane.demo_view import Screen, Total
from tests.scheduler.controller.rig import Recorder


def command(folder: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "sim.commands.main",
        "cluster",
        "demo",
        "--dir",
        str(folder),
        *options,
    ]


@pytest.mark.parametrize("nodes", [1, 12, 100, 7500])
@pytest.mark.parametrize("seed", range(5))
def test_all_jobs_but_one_fit(nodes: int, seed: int) -> None:
    jobs = mixed(nodes, 8, 12, seed)
    assert jobs == mixed(nodes, 8, 12, seed)
    assert len(jobs) == 13
    *fits, never = jobs
    for job in fits:
        assert 1 <= job.pods <= nodes * (8 // job.gpus_per_pod)
    assert never.never
    assert never.pods > nodes or never.gpus_per_pod > 8
    assert len({job.name for job in jobs}) == 13


class Terminal(io.StringIO):
    """A terminal as far as `Screen` can tell."""

    def isatty(self) -> bool:
        return True


def half_placed() -> DemoJob:
    job = DemoJob("train-00", 10, 8, 5)
    job.placed, job.running, job.done = 5, 3, 2
    job.reason, job.text = "capacity", "needs 80 GPUs for 10 pods; 16 are free"
    return job


def test_a_terminal_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    screen = Screen(out)
    screen.show([half_placed()], Total(40, 80, 1.5))
    screen.show([half_placed()], Total(80, 80, 2.0))
    first, second = out.getvalue().split("\x1b[2F\x1b[J")
    bare = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", first).splitlines()
    assert len(bare[0]) == 69, "a line never wraps"
    assert bare[0].count("█") == 12 and bare[0].count("▒") == 5 and bare[0].count("·") == 7
    assert bare[1].count("█") == 20 and "40 of 80 used   1.5 s" in bare[1]
    assert "80 of 80 used" in second


def test_elsewhere_only_changes_are_told() -> None:
    out = io.StringIO()
    screen = Screen(out)
    job = half_placed()
    for now_s in (1.0, 2.0):
        screen.show([job], Total(40, 80, now_s))
    job.reason = job.text = ""
    job.done, job.running, job.ended_s = 10, 0, 3.0
    screen.show([job], Total(0, 80, 3.0))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 and "\x1b" not in out.getvalue()
    assert "waiting (capacity): needs 80 GPUs" in lines[0] and "done" in lines[1]


def test_the_operator_is_reminded_of_a_job_that_it_forgot() -> None:
    recorder: Any = Recorder()
    nobody: Any = None
    job = DemoJob("forgotten", pods=4, gpus_per_pod=8, run_s=5)
    show = demo.Demo(nobody, recorder, [job], 60.0, nobody)

    async def look(num_pods: int, *at_s: float) -> int:
        for now_s in at_s:
            await show._remind(job, num_pods, now_s)
        return len(recorder.requests)

    assert asyncio.run(look(3, 0.0, 5.0, 9.0)) == 0
    assert asyncio.run(look(3, 11.0, 12.0, 20.0, 22.0)) == 2
    assert asyncio.run(look(4, 40.0)) == asyncio.run(look(3, 49.0)) == 2
    assert {path for _, path, _ in recorder.requests} == {f"{demo.JOBS}/forgotten"}


def test_without_a_cluster_there_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "none"), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "muster: no cluster is running; start one with: muster cluster up\n",
    )
    with pytest.raises(ValueError, match="start one with: muster cluster up"):
        check(None)
