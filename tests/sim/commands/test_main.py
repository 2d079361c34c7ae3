"""The command line: what a user can mend is exit 2 and one line, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sim.commands.main import invoke

HEADER = "job,submit_s,duration_s,num_pods,gpus_per_pod\n"
TEN_JOBS = HEADER + "".join(f"j{i},{60 * i},{600 + 10 * i},{1 + i % 4},8\n" for i in range(10))

TWO_POOLS = """
[[pool]]
name = "h100"
nodes = 5000
gpu_model = "H100"
nodes_per_rack = 4
racks_per_block = 16

[[pool]]
name = "a100"
nodes = 2500
gpus_per_node = 4
cpu_per_node = 96.0
mem_gib_per_node = 1024.0
pods_per_node = 110
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a good jobs table and a good cluster."""
    (tmp_path / "jobs.csv").write_text(TEN_JOBS)
    (tmp_path / "two.toml").write_text(TWO_POOLS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with exit 2; return its one line."""
    code = invoke(arguments.split())
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("muster: ")
    return lines[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEADER + "a,0,10,1,8\nb,x,10,1,8\n", ["line 3", "'submit_s'", "'x'"]),
        (HEADER + "a,0,10,1,8\nb,0,-10,1,8\n", ["line 3", "'duration_s'", "'-10'"]),
        (HEADER + "a,0,10,0,8\n", ["line 2", "'num_pods'", "'0'"]),
        (HEADER + "a,0,10,1.5,8\n", ["'1.5'", "whole number"]),
        (HEADER + "a,0,10,1,8\nb,0,10,1\n", ["line 3 has 4 fields"]),
        (HEADER + "a,0,10,1,8\na,0,10,1,8\n", ["line 3", "'job'", "'a'"]),
        ("job,submit_s,num_pods,gpus_per_pod\na,0,1,8\n", ["column 'duration_s' is missing"]),
        (HEADER.strip() + ",colour\na,0,10,1,8,red\n", ["column 'colour' is unknown"]),
        (HEADER, ["no rows"]),
        ("", ["is empty"]),
    ],
    ids=[
        "type",
        "negative",
        "zero",
        "fraction",
        "short",
        "duplicate",
        "missing",
        "unknown",
        "no-rows",
        "empty",
    ],
)
def test_bad_jobs_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str, says: list[str]
) -> None:
    (folder / "bad.csv").write_text(content)
    for command in ("run --nodes 4 --out out --jobs bad.csv", "validate bad.csv"):
        line = refused(command, capsys)
        assert all(text in line for text in ["bad.csv", *says]), line
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("run --jobs jobs.csv --nodes 4 --out o --frob", "No such option"),
        ("run --nodes 4 --out o", "give --jobs FILE"),
        ("run --jobs none.csv --nodes 4 --out o", "'none.csv': No such file"),
        ("run --jobs . --nodes 4 --out o", "jobs file '.' is a folder; give a file in it"),
        ("run --jobs jobs.csv --out o", "give --nodes N"),
        ("run --jobs jobs.csv --nodes x --out o", "valid integer"),
        ("run --jobs jobs.csv --nodes 0 --out o", "nodes is 0; give at least 1"),
        ("run --jobs jobs.csv --nodes -2 --out o", "nodes is -2; give at least 1"),
        ("run --jobs jobs.csv --nodes 4 --gpus-per-node -1 --out o", "gpus_per_node is -1"),
        ("run --jobs jobs.csv --nodes 4 --cluster two.toml --out o", "not both"),
        ("run --jobs jobs.csv --cluster two.toml --gpus-per-node 8 --out o", "is for --nodes"),
        ("run --jobs jobs.csv --cluster none.toml --out o", "'none.toml': No such file"),
        (
            "run --jobs jobs.csv --nodes 4 --order lifo --out o",
            "order 'lifo' is unknown; choose",
        ),
        (
            "run --jobs jobs.csv --nodes 4 --control-plane fast --out o",
            "nor one of ideal, kubernetes",
        ),
        ("run --jobs jobs.csv --nodes 4 --seed -1 --out o", "seed is -1"),
        ("run --jobs jobs.csv --nodes 4 --until-days 0 --out o", "--until-days is 0"),
        (
            "run --jobs jobs.csv --nodes 4 --admission pod --backfill easy --out o",
            "discipline 'easy' needs admission gang",
        ),
        ("run --jobs jobs.csv --nodes 4 --out jobs.csv", "is a file; give a folder"),
        ("run --jobs jobs.csv --nodes 4 --out .", "is not empty and holds no run"),
        ("study --settings none.toml", "'none.toml': No such file"),
        ("study --settings two.toml", "unknown field `pool`"),
        ("plan none.toml", "'none.toml': No such file"),
        ("report none", "is not a finished run"),
        ("diff none none", "is not a finished run"),
        ("validate none", "does not exist"),
        ("trace describe none.csv", "'none.csv': No such file"),
    ],
)
def test_bad_usage_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, says: str
) -> None:
    assert says in refused(arguments, capsys)
    assert sorted(path.name for path in folder.iterdir()) == ["jobs.csv", "two.toml"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds nothing"),
        ("pool = \n", "is not TOML"),
        ('[[pool]]\nname = "a"\nnodes = -1\n', "nodes is -1; give at least 1"),
        ('[[pool]]\nname = "a"\nnodes = 1\npods_per_node = 0\n', "pods_per_node is 0; give at"),
        ('[[pool]]\nname = "a"\nnodes = "x"\n', "Expected `int`, got `str`"),
        ('[[pool]]\nname = "a"\nnods = 1\n', "unknown field `nods`"),
        ('[[pool]]\nname = "a"\nnodes = 1\n[[pool]]\nname = "a"\nnodes = 1\n', "occurs twice"),
    ],
    ids=["empty", "syntax", "negative", "no_pods", "type", "unknown", "twice"],
)
def test_impossible_clusters_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    (folder / "bad.toml").write_text(content)
    line = refused("validate bad.toml", capsys)
    assert "bad.toml" in line
    assert says in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--shard 4/4", "give i/n"),
        ("--processes 0", "--processes is 0"),
        ("--executor ray", "give local"),
    ],
)
def test_bad_study_flags_are_refused(
    folder: Path,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    says: str,
) -> None:
    settings = repository / "study.toml"
    assert says in refused(f"study --settings {settings} --quick {arguments}", capsys)


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["trace"]):
        assert invoke(arguments) == 2
        assert capsys.readouterr().err.startswith("Usage: muster")


def test_validate_goes_on_after_a_bad_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.csv").write_text(HEADER + "a,0,-1,1,8\n")
    assert invoke(["validate", "none.csv", "jobs.csv", "bad.csv", "two.toml"]) == 2
    said = capsys.readouterr()
    assert [line.partition(":")[0] for line in said.out.splitlines()] == ["jobs.csv", "two.toml"]
    assert "'none.csv' does not exist" in said.err
    assert "'-1' must be a number" in said.err
    assert invoke(["validate", "jobs.csv", "bad.csv", "--on-bad-row", "skip"]) == 2
    (folder / "bad.csv").write_text(TEN_JOBS + "a,0,-1,1,8\n")
    assert invoke(["validate", "bad.csv", "--on-bad-row", "skip"]) == 0
    assert "; left out 1 bad row" in capsys.readouterr().out


def test_validate_refuses_flags_for_jobs_that_settings_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "s.toml").write_text(
        "nodes = [4]\n[[workload]]\nname = 'mine'\njobs = 'jobs.csv'\n[[arm]]\nname = 'a'\n"
    )
    said = refused("validate s.toml --on-bad-row skip", capsys)
    assert "--on-bad-row is for a jobs file; 's.toml' says itself how jobs are read" in said
    assert "set on_bad_row in its workload 'mine'" in said
    assert invoke(["validate", "s.toml"]) == 0
    assert invoke(["validate", "jobs.csv", "two.toml", "--on-bad-row", "skip"]) == 0


@pytest.mark.parametrize("more", ["", "on_bad_row = 'skip'\n"], ids=["fail", "skip"])
def test_a_study_or_plan_is_validated_with_its_jobs_file(
    folder: Path, capsys: pytest.CaptureFixture[str], more: str
) -> None:
    (folder / "bad.csv").write_text(TEN_JOBS + "a,0,-1,1,8\n")
    workload = f"workload]{{}}\nname = 'mine'\njobs = 'bad.csv'\n{more}"
    (folder / "s.toml").write_text(f"nodes = [4]\n[[{workload.format(']')}[[arm]]\nname = 'a'\n")
    (folder / "p.toml").write_text(
        f"[{workload.format('')}[arm]\nname = 'a'\n[vary]\nwhat = 'nodes'\nlow = 1\nhigh = 2\n"
        "[[target]]\nmetric = 'pending_pods_max'\nat_most = 1\n"
    )
    for name in ("s.toml", "p.toml"):
        if more:
            assert invoke(["validate", name]) == 0
            capsys.readouterr()
        else:
            assert "'-1' must be a number" in refused(f"validate {name}", capsys)


READING = ["--kind", "--on-bad-row", "--map", "--ignore-extra", "--columns", "--dates"]


@pytest.mark.parametrize(
    "command", ["run", "study", "plan", "validate", "trace describe", "trace convert"]
)
def test_every_command_that_reads_jobs_has_the_same_options_for_it(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert invoke([*command.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert [option for option in READING if option not in said] == []


@pytest.mark.parametrize("command", ["run", "study", "report", "diff", "plan", "validate"])
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert invoke([command, "--help"]) == 0
    assert f"Example: muster {command} " in capsys.readouterr().out


def test_run_prints_figures_and_writes_a_run_that_is_sound(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        invoke(["run", "--jobs", "jobs.csv", "--nodes", "4", "--out", "runs/a", "--no-report"]) == 0
    )
    out = capsys.readouterr().out
    assert "4 nodes, 32 GPUs" in out
    assert "10 (10 completed)" in out
    assert invoke(["validate", "runs/a", "jobs.csv", "two.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("runs/a: run 'a': 10 jobs on 4 nodes")
    assert lines[1].startswith("jobs.csv: jobs table: 10 jobs, 23 pods, largest 32 GPUs")
    assert lines[2].startswith("two.toml: cluster: 7,500 nodes, 50,000 GPUs (h100 5,000 x 8")


def test_an_earlier_run_is_replaced_only_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "run --jobs jobs.csv --nodes 4 --out a --no-report"
    assert invoke(command.split()) == 0
    capsys.readouterr()
    assert "--force" in refused(f"{command} --seed 1", capsys)
    assert invoke(f"{command} --seed 1 --force".split()) == 0


def test_the_same_run_is_not_simulated_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--jobs", "jobs.csv", "--nodes", "4", "--out", "a", "--no-report"]
    assert invoke(command) == 0
    first = capsys.readouterr().out
    before = (folder / "a" / "manifest.json").stat().st_mtime_ns
    assert invoke(command) == 0
    assert capsys.readouterr().out.endswith(first)
    assert (folder / "a" / "manifest.json").stat().st_mtime_ns == before
    assert invoke(command[:-1]) == 0
    assert (folder / "a" / "report.html").is_file(), "the report that it lacked"
    assert invoke([*command, "--force"]) == 0
    assert (folder / "a" / "manifest.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("what", ["jobs.csv", "plane.toml", "--seed 1", "--on-bad-row skip"])
def test_a_run_of_other_files_or_options_is_another(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "plane.toml").write_text("create_per_s = 10.0\n")
    command = "run --jobs jobs.csv --nodes 4 --control-plane plane.toml --out a --no-report"
    assert invoke(command.split()) == 0
    capsys.readouterr()
    if what == "jobs.csv":
        (folder / what).write_text(TEN_JOBS + "more,0,60,1,8\n")
    elif what == "plane.toml":
        (folder / what).write_text("create_per_s = 20.0\n")
    else:
        command += f" {what}"
    assert "give --force to replace it" in refused(command, capsys)


def test_a_gang_larger_than_the_cluster_never_fits_and_the_summary_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "jobs.csv").write_text(TEN_JOBS + "huge,0,10,9,8\n")
    for admission in ("gang", "pod", "permit"):
        arguments = f"run --jobs jobs.csv --nodes 8 --admission {admission} --no-report"
        assert invoke([*arguments.split(), "--out", admission]) == 0
        out = capsys.readouterr().out
        assert "10 completed, 1 never_fits" in out
        assert "1 ('huge'): needs 9 pods of 8 GPUs; empty, the 8 nodes" in out


def test_bad_rows_can_be_left_out_and_are_kept_beside_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "jobs.csv").write_text(TEN_JOBS + "bad,0,-1,1,8\n")
    command = "run --jobs jobs.csv --nodes 4 --out a --no-report --on-bad-row skip"
    assert invoke(command.split()) == 0
    assert "1 bad row (duration_s 1), kept in a/rejected.csv" in capsys.readouterr().out
    rejected = pd.read_csv(folder / "a" / "rejected.csv")
    assert rejected["row"].tolist() == ["bad,0,-1,1,8"]
    assert rejected["column"].tolist() == ["duration_s"]


def test_two_pools_of_7500_nodes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "jobs.csv").write_text(
        HEADER.replace("\n", ",pool,gpu_model\n")
        + "a,0,600,5000,8,h100,\nb,0,600,2500,4,a100,\nc,0,600,5000,8,,H100\nd,0,60,1,8,a100,\n"
    )
    command = "run --jobs jobs.csv --cluster two.toml --out a --no-report"
    assert invoke(command.split()) == 0
    assert "7,500 nodes, 50,000 GPUs" in capsys.readouterr().out
    jobs = pd.read_parquet(folder / "a" / "jobs.parquet").set_index("job")
    assert jobs["outcome"].to_dict() == {
        "a": "completed",
        "b": "completed",
        "c": "completed",
        "d": "never_fits",
    }
    assert jobs["start_s"].iloc[:3].tolist() == [0.0, 0.0, 600.0]


@pytest.mark.slow
def test_the_installed_command_ends_with_the_code_and_no_traceback(folder: Path) -> None:
    def muster(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sim.commands.main", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
            check=False,
        )

    assert muster("--version").stdout.startswith("muster ")
    bad = muster("run", "--jobs", "none.csv", "--nodes", "4", "--out", "o")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1
    assert "Traceback" not in bad.stderr


def test_jobs_is_a_file_in_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "study", "plan", "cluster demo"):
        assert invoke([*command.split(), "--help"]) == 0
        said = capsys.readouterr().out
        assert ("--jobs <path>" in said) == (command != "cluster demo")
