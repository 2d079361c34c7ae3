"""`muster train`: a gang on this machine, its faults, and what they cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.commands.main import invoke
from sim.commands.train import _prepare
from sim.goodput.split import split
from sim.report.parts import Part
from tests.trainer.conftest import START_S, events, sets


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "4", "--kill-rank", "4"], "--kill-rank 4: with --ranks 4 give 0 to 3"),
        (["--at-step", "9"], "--at-step 9 goes with --kill-rank RANK"),
        (["--preempt-at-step", "100"], "preemption at step 100, but there are only 100 steps"),
        (["--set", "gpt.depth=3"], "unknown field `depth`"),
        (["--ranks", "3", "--set", "global_batch=32"], "32 is not a multiple of 3 ranks"),
    ],
)
def test_bad_orders_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["train", "--out", str(tmp_path / "run"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.mark.torch
def test_a_folder_of_something_else_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").write_text("mine", "utf-8")
    assert invoke(["train", "--out", str(tmp_path), "--force"]) == 2
    assert "is not empty and holds no training run" in capsys.readouterr().err
    assert (tmp_path / "notes").exists()


def test_a_run_may_go_where_a_link_leads(tmp_path: Path) -> None:
    disk, link = tmp_path / "disk", tmp_path / "run"
    link.symlink_to(disk)
    _prepare(link, force=False)
    assert (disk / "goodput").is_dir()
    (disk / "goodput" / "rank_0.jsonl").write_text("{}", "utf-8")
    _prepare(link, force=True)
    assert link.is_symlink() and list(disk.iterdir()) == [disk / "goodput"]
    assert not any((disk / "goodput").iterdir())


@pytest.mark.slow
@pytest.mark.torch
def test_a_run_with_faults_ends_in_a_table_and_a_picture(
    tmp_path: Path, corpus_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = sets({"data": str(corpus_file), "checkpoint.every_steps": 10, "log_every": 5})
    orders = ["--ranks", "2", "--steps", "120", "--kill-rank", "1", "--at-step", "15"]
    command = ["train", *orders, "--preempt-at-step", "25", "--out", str(out), *settings]
    assert invoke(command) == 0
    shown = capfd.readouterr()
    assert "kill -9 of rank 1 at step 15" in shown.err
    assert "attempt 3: all pods succeeded" in shown.err
    assert "goodput by attempt, seconds" in shown.out
    assert (out / "time_split.png").stat().st_size > 10_000

    found = split([out / "goodput"])
    assert [one.reason for one in found.attempts] == ["failed", "preempted", "finished"]
    assert found.lost_steps >= 5
    lines = [one for rank in range(2) for one in events(out, rank)]
    starts = [one for one in lines if one["event"] == "process_start"]
    begin_s = min(one["t_unix_s"] - one["dur_s"] - one["launcher_s"] for one in starts)
    wall_s = max(one["t_unix_s"] for one in lines) - begin_s
    assert sum(found.seconds.values()) == pytest.approx(wall_s, rel=0.01)
    assert found.seconds[Part.OTHER] < 0.1 * wall_s

    assert invoke(command) == 0  # done is done, and the log says so
    assert events(out, 0, "exit")[-1]["step"] == 120


@pytest.mark.slow
@pytest.mark.torch
def test_an_interrupt_saves_and_leaves_nothing_running(tmp_path: Path) -> None:
    out = tmp_path / "run"
    muster = [sys.executable, "-m", "sim.commands.main"]
    command = [*muster, "train", "--ranks", "2", "--steps", "100000"]
    with subprocess.Popen(
        [*command, "--out", str(out), "--set", "model=toy"], stderr=subprocess.PIPE, text=True
    ) as process:
        beats = [out / "heartbeat" / f"rank_{rank:05d}" for rank in range(2)]
        until_s = time.monotonic() + START_S
        while not all(beat.exists() and beat.read_text("ascii").split() for beat in beats):
            assert time.monotonic() < until_s
            assert process.poll() is None
            time.sleep(0.05)
        pids = [int(beat.read_text("ascii").split()[0]) for beat in beats]
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=START_S)
    assert process.returncode == 130
    assert "interrupted; give the same command again to go on" in said
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    end = events(out, 0, "exit")[-1]
    assert (end["reason"], end["committed_step"]) == ("preempted", end["step"])
