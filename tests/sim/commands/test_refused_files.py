"""What cannot be simulated is refused before anything is read or built, by all commands alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import sim
from sim.commands.main import invoke
from sim.schema.cluster import MOST_NODES, Cluster, Pool
from sim.study.plan import Plan

HEADER = "job,submit_s,duration_s,num_pods,gpus_per_pod\n"
COMMANDS = (
    "run --nodes 2 --out out --jobs",
    "study --nodes 1,2 --out out --jobs",
    "plan --nodes 1-2 --out out --jobs",
    "plan --out out --jobs",
    "trace describe",
    "trace convert {} out.csv",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.csv").write_text(f"{HEADER}a,0,600,1,8\n")
    return tmp_path


def said(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command that is refused says, after the program's name."""
    assert invoke(command.split()) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err.removeprefix("muster: ").strip()


def of_file(command: str, file: str) -> str:
    return command.format(file) if "{}" in command else f"{command} {file}"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("none.csv", "jobs file 'none.csv': No such file or directory"),
        (".", "jobs file '.' is a folder; give a file in it"),
        (
            "-",
            "jobs file '-': No such file or directory; write standard input to a file and give "
            "that",
        ),
        ("/dev/null", "jobs file '/dev/null' is not a file but a pipe or a device"),
    ],
)
def test_all_commands_say_alike_why_a_jobs_file_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, file: str, says: str
) -> None:
    assert said(of_file(command, file), capsys).startswith(says)
    assert [one.name for one in folder.iterdir()] == ["jobs.csv"]


@pytest.fixture
def pipe() -> Iterator[tuple[str, int]]:
    """A pipe that holds a jobs table: its path, and where its content can be read."""
    reads, writes = os.pipe()
    os.write(writes, f"{HEADER}a,0,600,1,8\n".encode())
    os.close(writes)
    yield f"/dev/fd/{reads}", reads
    os.close(reads)


@pytest.mark.parametrize("command", [*COMMANDS, "validate"])
def test_a_pipe_is_refused_before_anything_of_it_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, pipe: tuple[str, int]
) -> None:
    path, reads = pipe
    assert "write its content to a file and give that" in said(of_file(command, path), capsys)
    assert os.read(reads, 1000).startswith(HEADER.encode())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("run --nodes 99999999", "99,999,999 nodes; give at most 1,000,000"),
        ("run --cluster large.toml", "large.toml: the cluster has 99,999,999 nodes; give at most"),
        ("run --nodes 1 --gpus-per-node 99999999999", "GPUs; give at most 2,147,483,647"),
        ("run --nodes 1000000 --gpus-per-node 8000", "8,000,000,000 GPUs; give at most"),
        ("study --nodes 2,99999999", "99,999,999 nodes; give at most 1,000,000"),
        ("study --cluster large.toml", "99,999,999 nodes; give at most 1,000,000"),
        ("plan --nodes 99999990-99999999", "99,999,999 nodes; give at most 1,000,000"),
        ("plan --nodes 1-99999999", "are more than 1,000,000 values"),
    ],
)
def test_a_cluster_that_fills_the_memory_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    says: str,
) -> None:
    def build(self: Pool) -> list[object]:
        raise AssertionError("its nodes are made")

    monkeypatch.setattr(Pool, "build", build)
    (folder / "large.toml").write_text('[[pool]]\nname = "a"\nnodes = 99999999\n')
    assert says in said(f"{command} --jobs jobs.csv --out out", capsys)
    assert Cluster.uniform(MOST_NODES).num_nodes == MOST_NODES


def test_a_plan_of_too_many_loads_is_refused(folder: Path) -> None:
    (folder / "plan.toml").write_text(
        'nodes = 8\n[workload]\nname = "w"\nprofile = "seren"\nload = 0.5\ndays = 1.0\n'
        '[arm]\nname = "a"\n[vary]\nwhat = "load"\nlow = 0.1\nhigh = 0.9\nstep = 1e-9\n'
        '[[target]]\nmetric = "pending_pods_p99"\nat_most = 1\n'
    )
    with pytest.raises(ValueError, match="are more than 1,000,000 values"):
        Plan.load("plan.toml")


def test_one_check_for_a_job_of_too_many_gpus(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "huge.csv").write_text(f"{HEADER}a,0,600,1,8\nb,0,600,400000000,8\n")
    says = "job 'b' asks for 3,200,000,000 GPUs in 400,000,000 pods; a table holds up to"
    for command in ("validate", *COMMANDS):
        assert says in said(of_file(command, "huge.csv"), capsys)
    with pytest.raises(ValueError, match="3,200,000,000 GPUs"):
        sim.run(pd.read_csv(folder / "huge.csv"), nodes=1)


def test_one_is_singular(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "one.toml").write_text('[[pool]]\nname = "a"\nnodes = 1\ngpus_per_node = 1\n')
    commands = ("validate jobs.csv one.toml", "trace describe jobs.csv --gpus 1",
                "trace convert jobs.csv out.csv", "run --jobs jobs.csv --nodes 1 --out out "
                "--no-report", "validate out")  # fmt: skip
    for command in commands:
        assert invoke(command.split()) == 0
    printed = capsys.readouterr().out
    for said in ("1 job, 1 pod,", "1 node, 1 GPU (", "1 (1 pod, ", "1 job: out.csv", "1 attempt,"):
        assert said in printed


def test_outcomes_of_a_data_frame_are_read_as_those_of_a_file(folder: Path) -> None:
    words = ["Completed", "CANCELLED by 1000", "Killed", "odd", None]
    jobs = pd.DataFrame({"job": list("abcde"), "submit_s": 0.0, "duration_s": 60.0, "gpus": 8})
    found = sim.run(jobs.assign(outcome=words), nodes=5)
    assert found.jobs["outcome"].tolist()[:4] == ["completed", "cancelled", "cancelled", "unknown"]
    (note,) = found.manifest["notes"]
    assert "unknown outcome in column 'outcome': 1, 'odd' (1)" in note
    jobs.assign(outcome=words).to_csv(folder / "words.csv", index=False)
    of_file = sim.run(folder / "words.csv", nodes=5)
    assert of_file.jobs["outcome"].tolist() == found.jobs["outcome"].tolist()
