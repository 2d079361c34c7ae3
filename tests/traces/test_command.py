"""`muster trace`: its answers, its files, its exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import traces
from sim.commands.main import invoke
from traces.description import figures, total_gpus
from traces.formats.catalog import FORMATS

Write = Callable[..., Path]
LINES = ("job,submit_s,duration_s,gpus,user", "a,0,7200,8,x", "b,3600,3600,16,y", "c,86400,0,4,")


def test_describe_prints_counts_and_load(
    written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["trace", "describe", str(written(*LINES)), "--gpus", "16"]) == 0
    shown = capsys.readouterr().out
    assert "3 (4 pods, 2 users)" in shown
    assert "1.00 days" in shown
    assert "GPU-hours       32.00" in shown
    assert "largest gang    16 GPUs" in shown
    assert "offered load    0.083 of 16 GPUs" in shown
    assert "completed 3" in shown


def test_describe_has_a_row_for_jobs_without_gpus(
    written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written("job,submit_s,duration_s,gpus", "a,0,3600,0", "b,1800,3600,1", "c,3600,60,0")
    assert invoke(["trace", "describe", str(path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[-2:] == [
        ["0", "2", "66.67", "0.00", "1,830"], ["1", "1", "33.33", "100.00", "3,600"],
    ]  # fmt: skip


def test_describe_says_over_which_time_it_averages(
    written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["trace", "describe", str(written(*LINES))]) == 0
    says = "GPU-hours       32.00 (1.3 busy GPUs on average over the span of submissions)"
    assert says in capsys.readouterr().out.splitlines()


def test_describe_says_how_the_file_was_read(
    written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,pod_phase,creation_time,deletion_time,"
        "scheduled_time",
        "ran,1000,1024,1,500,Evicted,0,100,10",
        "waits,1000,1024,1,1000,Pending,5,100,",
        "odd,1000,1024,many,1000,Failed,5,100,6",
    )
    assert invoke(["trace", "describe", str(source), "--on-bad-row", "skip"]) == 0
    shown = capsys.readouterr().out
    assert "format          openb: it has the columns name, cpu_milli" in shown
    assert "left out        1: the pod was never scheduled: it never ran" in shown
    assert "bad rows        1 left out" in shown
    assert "note            pods that ask for a share of a GPU: 1;" in shown
    assert "unknown outcome in column 'pod_phase': 1, 'Evicted' (1)" in shown
    assert "nan" not in shown


def test_describe_says_how_a_log_of_slurm_was_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["trace", "describe", str(Path(__file__).parent / "samples/sacct.txt")]) == 0
    shown = capsys.readouterr().out
    for line in (
        "format          sacct: it has sacct's columns JobID, JobIDRaw, User, Account",
        "left out        3: a step of a job (such as 101.batch)",
        "left out        1: the job never ran",
        "note            array tasks that had not started: 9, in 1 of the rows left out",
        "times           count from 2026-10-01 08:00:00 UTC, the first submission",
    ):
        assert line in shown.splitlines()
    assert "bad rows" not in shown


def test_describe_counts_bad_rows_by_column(
    written: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(*LINES, "d,-1,2,8,z", "e,1,2", "f,x,2,8,z")
    assert invoke(["trace", "describe", str(path), "--on-bad-row", "skip"]) == 0
    assert "bad rows        3 left out: submit_s 2, number of cells 1" in capsys.readouterr().out


def test_rows_that_never_ran_are_not_bad(
    written: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ("1 0 0 50 4 -1 -1 4 200", "2 0 0 -1 4 -1 -1 4 200")
    path = written(*lines, name="log.swf")
    assert invoke(["trace", "convert", str(path), str(tmp_path / "jobs.csv")]) == 0
    shown = capsys.readouterr().err
    assert "left out        1: the job has no run time" in shown
    assert "bad rows" not in shown
    assert invoke(["validate", str(path)]) == 0
    assert "; left out 1 row that is no job to run" in capsys.readouterr().out


def test_figures_of_a_known_table(written: Write) -> None:
    jobs = traces.load(written(*LINES)).jobs
    found = figures(jobs, 16)
    assert total_gpus(jobs).tolist() == [8, 16, 4]
    assert found["gpu_hours"] == 32
    assert found["offered_load"] == pytest.approx(32 / (16 * 24))
    assert found["pods_per_minute_max"] == 2
    assert found["duration_s_mean"] == 3600
    with pytest.raises(ValueError, match="a cluster of 0 GPUs: give at least 1"):
        figures(jobs, 0)


def test_convert_writes_jobs_and_what_it_left_out(
    written: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = written(*LINES, "d,-1,2,8,z", "a,1,2,8,z"), tmp_path / "out.parquet"
    assert invoke(["trace", "convert", str(source), str(out)]) == 2
    assert not out.exists()
    assert "2 bad values in 2 of 5 rows" in capsys.readouterr().err
    assert invoke(["trace", "convert", str(source), str(out), "--on-bad-row", "skip"]) == 0
    assert "bad rows        2 left out" in capsys.readouterr().err
    assert traces.load(out).jobs["job"].tolist() == ["a", "b", "c"]
    rejected = pd.read_csv(tmp_path / "out.parquet.rejected.csv")
    assert rejected["line"].tolist() == [5, 6]
    assert rejected["row"].tolist() == ["d,-1,2,8,z", "a,1,2,8,z"]


@pytest.mark.parametrize("is_link", [False, True])
def test_convert_does_not_replace_what_it_reads(
    written: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_link: bool
) -> None:
    path = written("job,submit_s,duration_s,gpus", "a,0,60,8")
    before, out = path.read_bytes(), path
    if is_link:
        out = tmp_path / "link.csv"
        out.symlink_to(path)
    assert invoke(["trace", "convert", str(path), str(out)]) == 2
    assert "is the file to convert; give OUT another name" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_convert_reads_swf(written: Write, tmp_path: Path) -> None:
    source = written("1 0 0 50 12 -1 -1 12 200", name="log.swf")
    out = tmp_path / "jobs.csv"
    assert invoke(["trace", "convert", str(source), str(out), "--gpus-per-pod", "8"]) == 0
    assert out.read_text().splitlines()[1].startswith("1,,,0,0.0,50.0,200.0,2,8,4,2,")


def test_generate_a_profile_and_a_superposition(tmp_path: Path) -> None:
    out = tmp_path / "jobs.parquet"
    common = ["--gpus", "2000", "--days", "3", "--load", "0.7", "--seed", "4"]
    for source in (["--profile", "openai_like"], ["--superpose", "philly"]):
        assert invoke(["trace", "generate", str(out), *source, *common]) == 0
        jobs = traces.load(out).jobs
        work = (total_gpus(jobs) * jobs["duration_s"]).sum()
        assert work / (2_000 * 3 * 86_400) == pytest.approx(0.7, rel=1e-3)
        assert jobs["submit_s"].max() < 3 * 86_400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "none.csv"], "jobs file 'none.csv': No such file or directory"),
        (["describe", "JOBS", "--gpus", "0"], "a cluster of 0 GPUs: give at least 1"),
        (["describe", "JOBS", "--gpus-per-pod", "8"], "--gpus-per-pod is for files that"),
        (["describe", "JOBS", "--kind", "sheet"], "is unknown; choose one of"),
        (["describe", "JOBS", "--kind", "helios"], "column 'job_id' is missing"),
        (["describe", "JOBS", "--gpu", "8"], "No such option"),
        (["convert", "JOBS", "out.xlsx"], "end its name in .csv, .csv.gz or .parquet"),
        (["convert", "JOBS", "none/out.csv"], "folder 'none' does not exist"),
        (["generate", "o.csv"], "Missing option '--gpus'"),
        (["generate", "o.csv", "--gpus", "80"], "give --profile NAME or --superpose philly"),
        (["generate", "o.csv", "--gpus", "0", "--profile", "seren"], "--gpus is 0; give at least"),
        (["generate", "o.csv", "--gpus", "9", "--profile", "x"], "profile 'x': not known; choose"),
        (["generate", "o.csv", "--gpus", "80", "--profile", "seren", "--load", "0"], "load is 0.0"),
        (["generate", "o.csv", "--gpus", "80", "--profile", "seren", "--seed", "-1"], "--seed"),
        (["generate", "o.csv", "--gpus", "80", "--superpose", "helios"], "'--superpose'"),
        (
            ["generate", "o.csv", "--gpus", "80", "--superpose", "philly", "--tail-scale", "0"],
            "--tail-scale goes with --profile",
        ),
        (["validate-model", "--out", "JOBS"], "is a file; give a folder"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(
    written: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = str(written(*LINES))
    assert invoke(["trace", *(jobs if word == "JOBS" else word for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "o.csv").exists()


def test_formats_are_imported_when_a_file_needs_them() -> None:
    import subprocess
    import sys

    program = (
        "import sys, traces; "
        "print(*(name for name in sys.modules if name.startswith('traces.formats.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    readers = {f"traces.formats.{one.module}" for one in FORMATS}
    assert not readers & set(done.stdout.split())
