"""Two runs side by side, on cases small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sim import run
from sim.report.diff import diff_runs
from sim.report.report import build_report


def table(rows: list[tuple[str, float, float, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["job", "submit_s", "duration_s", "num_pods"])
    return frame.assign(gpus_per_pod=8)


JOBS = table([("first", 0, 100, 3), ("wide", 10, 100, 4), ("narrow", 20, 50, 1)])


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    fifo = run(JOBS, nodes=4).save(tmp_path / "fifo")
    easy = run(JOBS, nodes=4, backfill="easy").save(tmp_path / "easy")
    return fifo, easy


def test_says_who_waited_longer_and_for_what(runs: tuple[Path, Path]) -> None:
    text = diff_runs(*runs)
    # strict: wide starts at 100, narrow behind it at 200; EASY: narrow starts at once
    assert "3 jobs in both: 0 waited longer in B, 1 in A, 2 as long" in text
    assert "mean wait 1.50 min in A, 30.0 s in B" in text  # (90 + 180) / 3 and 90 / 3
    line = next(line for line in text.splitlines() if line.strip().startswith("narrow"))
    assert line.split() == ["narrow", "8", "3.00", "min", "0", "s", "capacity", "(+1.67", "min)"]


def test_reasons_add_up_in_pod_hours(runs: tuple[Path, Path]) -> None:
    text = diff_runs(*runs)
    capacity = next(line for line in text.splitlines() if line.strip().startswith("capacity"))
    behind = next(line for line in text.splitlines() if line.strip().startswith("behind head"))
    # wide: 90 s x 4 pods; narrow: behind the head for 80 s, then without a free GPU for 100 s
    assert capacity.split()[1:3] == ["0.128", "0.100"]
    assert behind.split()[2:4] == ["0.0222", "0"]


def test_the_other_way_round_mirrors(runs: tuple[Path, Path]) -> None:
    text = diff_runs(runs[1], runs[0])
    assert "3 jobs in both: 1 waited longer in B, 0 in A, 2 as long" in text


def test_runs_in_which_no_pod_waits_say_so(tmp_path: Path) -> None:
    runs = (run(JOBS, nodes=50, control_plane="ideal").save(tmp_path / name) for name in "ab")
    text = diff_runs(*runs)
    assert "Pending pod-hours by reason:\n  no pod was pending in either run\n" in text
    assert "change" not in text


def test_jobs_that_wait_when_the_shorter_run_ends_count_so_far(tmp_path: Path) -> None:
    whole = run(JOBS, nodes=4).save(tmp_path / "whole")
    part = run(JOBS, nodes=4, until_s=60.0, discipline="skip").save(tmp_path / "part")
    text = diff_runs(whole, part)
    assert "not started by the end of the shorter run: 2 in A, 1 in B" in text
    line = next(line for line in text.splitlines() if line.strip().startswith("narrow"))
    assert line.split()[:7] == ["narrow", "8", "≥", "40.0", "s", "0", "s"]
    assert "mean wait ≥ 30.0 s in A, ≥ 16.7 s in B" in text  # (0 + 50 + 40) / 3, (0 + 50 + 0) / 3
    small = next(line for line in text.splitlines() if line.strip().startswith("<=8"))
    assert small.split() == ["<=8", "1", "≥", "40.0", "s", "0", "s"]


def test_jobs_that_can_never_start_are_counted_and_named(tmp_path: Path) -> None:
    small = run(JOBS, nodes=3).save(tmp_path / "small")
    large = run(JOBS, nodes=4).save(tmp_path / "large")
    why = "  1 ('wide'): needs 4 pods of 8 GPUs; empty, the 3 nodes that it may use hold 3"
    lines = diff_runs(small, large).splitlines()
    at = lines.index("left out: 0 jobs only in A, 1 only in B")
    assert lines[at + 1 : at + 3] == ["left out: 1 job can never start in A", why]
    lines = diff_runs(small, small).splitlines()
    assert "left out: 1 job can never start in B" in lines
    assert lines.count(why) == 2


def test_runs_of_other_jobs_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = run(table([("else", 0, 1, 1)]), nodes=4).save(tmp_path / "other")
    with pytest.raises(ValueError, match="share no job"):
        diff_runs(runs[0], other)
    larger = run(table([("first", 0, 100, 2)]), nodes=4).save(tmp_path / "larger")
    with pytest.raises(ValueError, match=r"job 'first' has 3 pods.* and 2 in"):
        diff_runs(runs[0], larger)
    with pytest.raises(ValueError, match="--top is -1"):
        diff_runs(*runs, top=-1)
    with pytest.raises(ValueError, match="not a finished run"):
        diff_runs(runs[0], tmp_path / "nothing")


def test_runs_of_before_a_reason_existed_are_compared_and_reported(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    text = diff_runs(*runs)
    for folder in runs:
        jobs = pd.read_parquet(folder / "jobs.parquet")
        jobs.drop(columns="pending_quota_s").to_parquet(folder / "jobs.parquet", index=False)
    assert diff_runs(*runs) == text
    assert build_report(list(runs), tmp_path / "report").is_file()
