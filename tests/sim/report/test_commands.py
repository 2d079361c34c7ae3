"""Every command that a report prints runs as it is printed, in the folder where it was made."""

from __future__ import annotations

import re
import shlex
from html import unescape
from pathlib import Path

import pytest

from sim.commands.main import invoke

pytestmark = pytest.mark.slow

JOBS = """job,submit_s,duration_s,num_pods,gpus_per_pod
first,0,4000,3,8
wide,60,600,4,8
small,120,3000,1,8
last,9000,60,1,8
"""
STUDY = """
title = "Two sizes"
nodes = [4, 6]
gpus_per_node = 8
[[workload]]
name = "gen"
profile = "openai_like"
load = 0.9
days = 2
window_days = 0.5
[[arm]]
name = "pod"
admission = "pod"
[[arm]]
name = "easy"
discipline = "easy"
"""


def printed(page: Path) -> dict[str, str]:
    """Return the commands of a page by the questions above them."""
    found = re.findall(
        r'<div class="next"><p>(.*?)</p>\s*<pre><code>(.*?)</code>', page.read_text("utf-8"), re.S
    )
    return {unescape(question): unescape(line) for question, line in found}


def type_in(line: str, *, has_page: bool = False) -> None:
    """Run a line as a shell would: commands after `&&` run if those before did.

    Unless `has_page`, their own reports, which no test here reads, are asked for and not written.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not has_page:
            patch.setattr("sim.report.report.build_report", lambda _, out, **__: Path(out))
        for command in line.split(" && "):
            words = shlex.split(command)
            assert words[0] == "muster"
            assert invoke(words[1:]) == 0, command


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run points in this process: to start others takes longer than these points."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder, with a blank in its name, that holds a jobs file."""
    folder = tmp_path / "my jobs"
    folder.mkdir()
    (folder / "own jobs.csv").write_text(JOBS, "utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ["--nodes", "4"],
        ["--nodes=4", "--discipline=easy", "--control-plane", "kubernetes", "--no-report"],
        ["--nodes", "4", "--admission", "permit", "--until-days", "0.1", "--seed", "3"],
    ],
)
def test_those_below_one_run(here: Path, options: list[str]) -> None:
    given = ["run", "--jobs", "own jobs.csv", "--out", "runs/one", *options]
    assert invoke(given) == 0
    assert invoke(["report", "runs/one", "--out", "runs/report"]) == 0
    commands = printed(here / "runs" / "report" / "report.html")
    easy = "What does EASY backfill save?" if "--discipline=easy" in options else "Would EASY"
    assert any(question.startswith(easy) for question in commands)
    assert any(question.startswith("Would 5 nodes") for question in commands)
    assert any(question.startswith("How many nodes keep 95 %") for question in commands)
    assert any("muster study --jobs 'own jobs.csv'" in line for line in commands.values())
    for line in commands.values():
        assert str(here) not in line  # paths are as a person in this folder writes them
        type_in(line)


def test_a_cluster_file_has_no_number_of_nodes_to_change(here: Path) -> None:
    (here / "cluster.toml").write_text('[[pool]]\nname = "a"\nnodes = 4\n', "utf-8")
    given = ["--jobs", "own jobs.csv", "--cluster", "cluster.toml", "--out", "runs/one"]
    assert invoke(["run", *given]) == 0
    commands = printed(here / "runs" / "one" / "report.html")
    assert not any("nodes" in question for question in commands)
    for line in commands.values():
        type_in(line)


def test_those_below_a_study(here: Path) -> None:
    (here / "study.toml").write_text(STUDY, "utf-8")
    assert invoke(["study", "--out", "runs/mine", "--processes", "1"]) == 0
    commands = printed(here / "runs" / "mine" / "report.html")
    assert len(commands) == 4
    assert commands["Which jobs wait longer under pod, and which under easy?"].startswith(
        "muster diff runs/mine/points/gen-6-pod-s0 runs/mine/points/gen-6-easy-s0"
    )
    assert "muster study --processes 1 --full" in commands.values()
    for line in commands.values():
        type_in(line, has_page="--full" in line)
    again = printed(here / "runs" / "study-full" / "report.html")
    assert not any("--full" in line for line in again.values())
