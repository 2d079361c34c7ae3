"""Ctrl-C at any moment: what has a final name is whole, nothing else is left, and the same works.

Each command that writes is interrupted before and after steps of the one writer: files and folders
made, synced and renamed. Those that take milliseconds are interrupted at every step.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scheduler import whole
from sim.commands.main import INTERRUPTED, invoke
from tests.sim.goodput.goodput_logs import Job
from tests.sim.journals.test_report import Live, nodes
from traces import validation

JOBS = "job,submit_s,duration_s,num_pods,gpus_per_pod\n" + "".join(
    f"j{i},{60 * i},{600 + 10 * i},{1 + i % 4},8\n" for i in range(10)
)
STUDY = """
nodes = [8]
[[workload]]
name = "mine"
jobs = "jobs.csv"
[[arm]]
name = "strict"
[[arm]]
name = "easy"
discipline = "easy"
"""
PLAN = """
nodes = 8
[workload]
name = "mine"
jobs = "jobs.csv"
[arm]
name = "strict"
[vary]
what = "nodes"
low = 4
high = 12
step = 4
[[target]]
metric = "queueing_delay_p90_s"
at_most = 3600
"""


ALL = 1000
MOST_AGAIN = 4  #: steps after which the same command is given again


@dataclass(frozen=True, slots=True)
class Case:
    """A command, and how many of its steps are tried: one in the middle, or from first to last."""

    command: str
    steps: int = ALL
    before: str = ""  #: a command whose result it replaces


#: every step of what takes milliseconds; a few of the others, which have the same writer
CASES = {
    "convert": Case("trace convert jobs.csv out.parquet"),
    "convert-csv": Case("trace convert jobs.csv out.csv", before="trace convert two.csv out.csv"),
    "convert-gz": Case("trace convert jobs.csv out.csv.gz"),
    "convert-bad-rows": Case("trace convert bad.csv out.csv --on-bad-row skip"),
    "generate": Case("trace generate out.csv --profile openai_like --gpus 64 --days 0.2"),
    "superpose": Case("trace generate out.parquet --superpose philly --gpus 64 --days 0.2", 2),
    "validate-model": Case("trace validate-model --out out", 1),
    "run": Case("run --jobs jobs.csv --nodes 4 --out out --no-report", 3),
    "run-report": Case("run --jobs jobs.csv --nodes 4 --out out", 1),
    "run-force": Case(
        "run --jobs jobs.csv --nodes 4 --out out --no-report --force",
        before="run --jobs two.csv --nodes 4 --out out --no-report",
    ),
    "report": Case("report run --out out", 1),
    "report-again": Case("report run --out out", 1, before="report two --out out"),
    "report-journal": Case("report journal.jsonl --out out", 1),
    "study": Case("study --settings study.toml --out out --no-report --processes 1", 4),
    "study-report": Case("study --settings study.toml --out out --processes 1", 1),
    "plan": Case("plan plan.toml --out out --processes 1", 1),
    "calibrate": Case("calibrate logs --out out.toml --picture out.svg"),
    "plan-checkpoint": Case("plan-checkpoint --mtbf 1h --save 30s --days 1 --out out", 1),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands read."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "jobs.csv").write_text(JOBS)
    (folder / "two.csv").write_text("".join(JOBS.splitlines(keepends=True)[:3]))
    (folder / "bad.csv").write_text(f"{JOBS}bad,0,-1,1,8\n")
    (folder / "study.toml").write_text(STUDY)
    (folder / "plan.toml").write_text(PLAN)
    (folder / "logs").mkdir()
    job = Job(folder / "logs", ranks=2)
    job.start()
    job.train(until=60)
    job.finish()
    columns = ["job", "submit_s", "duration_s", "walltime_s", "num_pods", "gpus_per_pod"]
    rows = [(f"j{i}", 10.0 * i, 60.0, 90.0, 1 + i % 3, 8) for i in range(6)]
    Live(folder / "journal.jsonl", nodes(3)).play(pd.DataFrame(rows, columns=columns))
    with working_in(folder):
        for name, jobs in (("run", "jobs.csv"), ("two", "two.csv")):
            command = f"run --jobs {jobs} --nodes 4 --out {name} --no-report"
            assert invoke(command.split()) == 0
    return folder


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def copy_of(inputs: Path, to: Path) -> Path:
    return shutil.copytree(inputs, to, symlinks=True)


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Steps:
    """Counts the writer's calls of the system; raises KeyboardInterrupt at one of them."""

    CALLS = ("mkdir", "open", "fsync", "replace", "rename")

    def __init__(self, patch: pytest.MonkeyPatch, at: int = -1, *, is_after: bool = False) -> None:
        self.count, self.at, self.is_after = 0, at, is_after
        for name in self.CALLS:
            patch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **kw: Any) -> Any:
            name = "" if isinstance(first, int) else Path(os.fsdecode(first)).name
            if real.__name__ != "fsync" and not whole.PART.fullmatch(name):
                return real(first, *args, **kw)
            self.count += 1
            if self.count == self.at and not self.is_after:
                raise KeyboardInterrupt
            result = real(first, *args, **kw)
            if self.count == self.at:
                raise KeyboardInterrupt
            return result

        return call


def spread(steps: int, most: int) -> list[int]:
    """Return up to `most` steps, from the first to the last; if it is one, that in the middle."""
    if most == 1:
        return [(steps + 1) // 2]
    return sorted({round(at) for at in np.linspace(1, steps, min(steps, most))})


@pytest.fixture(scope="module")
def _figures_of_the_model() -> Iterator[None]:
    """Have the figures that `validate-model` writes computed once, from fewer months."""
    fewer = {"NUM_GPUS": 1000, "DAYS": 2.0, "VENUS_DAYS": 28.0, "MONTHS": ((200, 0.85),)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fewer.items():
            patch.setattr(validation, name, value)
        table, months = validation.checks(seeds=(0,)), validation.months()
        patch.setattr(validation, "checks", lambda **_: table)
        patch.setattr(validation, "months", lambda: months)
        yield


@pytest.mark.parametrize("name", CASES)
def test_an_interrupt_leaves_nothing_that_is_not_whole(
    name: str,
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if name == "validate-model":
        request.getfixturevalue("_figures_of_the_model")
    case = CASES[name]
    command = case.command.split()
    earlier = copy_of(inputs, tmp_path / "earlier")
    if case.before:
        with working_in(earlier):
            assert invoke(case.before.split()) == 0
    before = tree(earlier)
    reference = copy_of(earlier, tmp_path / "reference")
    with working_in(reference), pytest.MonkeyPatch.context() as patch:
        steps = Steps(patch)
        assert invoke(command) == 0
    after = tree(reference)
    new = {name for name in after if after[name] != before.get(name)}
    assert new
    assert steps.count >= len(new)
    tried = spread(steps.count, case.steps)
    again = {tried[at - 1] for at in spread(len(tried), MOST_AGAIN)}
    for at, is_after in [*((at, False) for at in tried), (steps.count, True)]:
        folder = copy_of(earlier, tmp_path / f"{at}-{is_after}")
        with working_in(folder):
            with pytest.MonkeyPatch.context() as patch:
                Steps(patch, at, is_after=is_after)
                capsys.readouterr()
                assert invoke(command) == INTERRUPTED, f"step {at}"
            assert "interrupted; give the same command again" in capsys.readouterr().err
            half = tree(folder)
            for name, content in half.items():
                assert content in (after.get(name), before.get(name)), f"step {at}: {name}"
            assert not list(folder.rglob(".partial-*")), f"step {at}"
            if at in again:
                assert invoke(command) == 0, f"step {at}: {capsys.readouterr().err}"
                assert tree(folder) == after, f"step {at}"
        shutil.rmtree(folder)


def interrupted_while_it_writes(command: list[str], folder: Path) -> tuple[int, str]:
    """Start a command, press Ctrl-C once it has begun to write; return exit code and stderr."""
    with subprocess.Popen(
        [sys.executable, "-m", "sim.commands.main", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not list(folder.rglob(".partial-*")):
                assert process.poll() is None, "it was over before it could be interrupted"
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


#: runs the command line, with Ctrl-C at the import of a module
WHILE_IT_BEGINS = """
import sys
module, *words = sys.argv[1:]
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            raise KeyboardInterrupt
sys.modules.pop(module, None)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = words
from sim.commands.main import main
main()
"""


@pytest.mark.parametrize(
    "module", ["pathlib", "typing", "typer", "sim.commands.run", "pandas", "sim.runs.experiment"]
)
def test_ctrl_c_while_a_command_begins(module: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(JOBS)
    words = ["run", "--jobs", "jobs.csv", "--nodes", "4", "--out", "out"]
    ended = subprocess.run(
        [sys.executable, "-c", WHILE_IT_BEGINS, module, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == "\nmuster: interrupted; give the same command again\n"
    assert ended.returncode == INTERRUPTED


@pytest.mark.slow
def test_ctrl_c_while_a_table_is_written(tmp_path: Path) -> None:
    out = "out.csv.gz"
    number = np.arange(100_000)
    table = pd.DataFrame({"job": number, "submit_s": number, "duration_s": 60.0, "gpus": 8})
    table.to_parquet(tmp_path / "jobs.parquet")
    command = ["trace", "convert", "jobs.parquet", out]
    code, errors = interrupted_while_it_writes(command, tmp_path)
    assert code == INTERRUPTED
    assert "muster: interrupted; give the same command again" in errors
    assert "Traceback" not in errors
    assert {path.name for path in tmp_path.iterdir()} == {"jobs.parquet"}
    with working_in(tmp_path):
        assert invoke(command) == 0
    assert len(pd.read_csv(tmp_path / out)) == len(table)
