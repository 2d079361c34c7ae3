"""`muster calibrate`, `muster run --costs` and `muster plan-checkpoint`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sim import RunResult
from sim.commands.main import invoke
from sim.report.wording import seconds
from sim.schema.costs import load
from tests.sim.goodput.goodput_logs import Job

JOBS = "job,submit_s,duration_s,num_pods,gpus_per_pod\n" + "".join(
    f"j{i},{60 * i},{600 + 10 * i},{1 + i % 4},8\n" for i in range(10)
)
CUTS = '[[interrupt]]\njob = "j3"\nkind = "kill"\nat_step = 300\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with jobs, cuts, and logs of a run that was killed once."""
    (tmp_path / "jobs.csv").write_text(JOBS)
    (tmp_path / "cuts.toml").write_text(CUTS)
    (tmp_path / "logs").mkdir()
    job = Job(tmp_path / "logs", ranks=4)
    job.start()
    job.train(until=43)
    job.kill()
    job.start()
    job.train(until=120)
    job.finish()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with exit 2; return its one line."""
    assert invoke(arguments.split()) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    return line


def test_from_logs_to_a_report_with_goodput(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["calibrate", "logs", "--out", "costs.toml", "--picture", "split.png"]) == 0
    said = capsys.readouterr().out
    assert "goodput by attempt, seconds" in said
    assert "save_stall_s" in said
    assert (folder / "split.png").stat().st_size > 10_000
    assert load("costs.toml").detect_s.num_samples == 1
    command = "run --jobs jobs.csv --nodes 4 --costs costs.toml --interrupts cuts.toml --out run"
    assert invoke(command.split()) == 0
    said = capsys.readouterr().out
    goodput = next(line for line in said.splitlines() if line.startswith("goodput"))
    assert "lost work" in goodput or "startup" in goodput
    result = RunResult.load("run")
    assert result.attempts["outcome"].value_counts()["killed"] == 1
    held = result.summary["held_share_ratio"]
    assert sum(held.values()) == pytest.approx(1.0)
    assert held["productive"] == result.summary["goodput_ratio"]
    text = Path("run/report.md").read_text("utf-8")
    assert "| GPU time of it for nothing | goodput |" in text
    assert "Where the held GPU time went" in text
    assert "costs 1 run, 2 attempts, 4 ranks" in text.split("## Settings")[1]
    assert "interrupts 1" in text.split("## Settings")[1]
    headline = pd.read_csv("run/tables/headline.csv")
    assert headline["goodput_ratio"].iloc[0] == pytest.approx(held["productive"])
    page = Path("run/report.html").read_text("utf-8")
    assert ">goodput<" in page
    assert (folder / "run" / "pictures" / "held-jobs.png").is_file()
    assert json.loads(Path("run/manifest.json").read_text())["interrupts_not_met"] == 0
    capsys.readouterr()
    assert invoke(["validate", "run", "costs.toml", "cuts.toml"]) == 0
    said = capsys.readouterr().out
    assert "costs.toml: costs: step_s, startup_s" in said
    assert "cuts.toml: interrupts: 1 of 1 job" in said


def test_runs_with_and_without_costs_stand_side_by_side(folder: Path) -> None:
    assert invoke(["calibrate", "logs"]) == 0
    assert (
        invoke(["run", "--jobs", "jobs.csv", "--nodes", "4", "--out", "plain", "--no-report"]) == 0
    )
    command = "run --jobs jobs.csv --nodes 4 --costs costs.toml --out costed --no-report"
    assert invoke(command.split()) == 0
    assert invoke(["report", "plain", "costed", "--out", "both"]) == 0
    rows = [
        line.split("|") for line in Path("both/report.md").read_text("utf-8").splitlines()
        if line.startswith("| 4 |")
    ]  # fmt: skip
    head = {row[2].strip(): row for row in rows[:2]}
    assert head["plain"][15].strip() == "–"
    assert head["costed"][15].strip().removesuffix(" ✓").endswith("%")
    assert {len(row) for row in rows[:2]} == {19}


def test_the_interval_is_told_and_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "plan-checkpoint --mtbf 2000h --nodes 512 --save 2min --restore 12min --days 10"
    assert invoke(command.split()) == 0
    said = capsys.readouterr().out
    assert said.startswith("save every   29.3 min of work (Daly); Young's formula says 30.6 min")
    assert Path("runs/checkpoint/checkpoint.png").is_file()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("calibrate absent", "absent"),
        ("calibrate jobs.csv", "jobs.csv:1: not a goodput event"),
        ("run --jobs jobs.csv --nodes 4 --costs absent.toml --out r", "absent.toml"),
        ("run --jobs jobs.csv --nodes 4 --costs cuts.toml --out r", "interrupt"),
        ("run --jobs jobs.csv --nodes 4 --interrupts cuts.toml --out r", "need costs"),
        ("run --snapshot s.json --costs costs.toml --out r", "--costs needs --jobs"),
        ("plan-checkpoint --mtbf 6x --save 30s", "--mtbf is '6x'"),
        ("plan-checkpoint --mtbf 6h --save 0s", "save_s is 0"),
        ("plan-checkpoint --mtbf 6h --save 30s --nodes 0", "--nodes is 0"),
        ("plan-checkpoint --mtbf 6h --save 30s --days 1", "mostly chance"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    assert says in refused(command, capsys)


def test_durations_are_read_with_their_unit() -> None:
    assert [seconds(text, "x") for text in ("90", "90s", "5min", "1.5 h", "2d", ".5")] == [
        90.0, 90.0, 300.0, 5400.0, 172_800.0, 0.5
    ]  # fmt: skip
    for text in ("", "h", "-3s", "1.2.3", "6 hours"):
        with pytest.raises(ValueError, match="--save is"):
            seconds(text, "--save")
