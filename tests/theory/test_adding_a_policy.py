"""docs/adding-a-policy.md is enough to add one: what it shows is done in a copy of the source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-policy.md").read_text("utf-8")
JOBS = """job,submit_s,duration_s,walltime_s,num_pods,gpus_per_pod
a,0,10,10,3,8
b,1,3,3,4,8
c,2,2,2,1,8
d,3,2,2,1,8
e,4,2,2,1,8
"""
STUDY = """title = "Patience"
nodes = [4]
seeds = [0]
[[workload]]
name = "few"
jobs = "jobs.csv"
[[arm]]
name = "patient"
discipline = "patient"
numbers = { overtakes = 1 }
[[arm]]
name = "default"
discipline = "patient"
"""


def block(kind: str) -> str:
    """Return the page's one block of this kind."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(found)


def place_of(kind: str) -> str:
    """Return the path that begins the paragraph before the block of this kind."""
    (found,) = re.findall(rf"^`([\w/.]+)`(?:(?!\n\n|```).)*?\n\n```{kind}$", PAGE, re.M | re.S)
    return str(found)


def insert(diff: str, source: str) -> str:
    """Return the source with the added lines, each behind the line that stands before it."""
    before = ""
    for line in diff.splitlines():
        if line.startswith("+"):
            assert source.count(f"{before}\n") == 1, f"{before!r} does not stand there once"
            source = source.replace(f"{before}\n", f"{before}\n{line[1:]}\n")
        before = line[1:]
    return source


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with the page's three pieces added, and nothing else touched."""
    folder = tmp_path_factory.mktemp("source")
    left_out = shutil.ignore_patterns("__pycache__", "_compiled", "*.so")
    for name in ("scheduler", "sim", "traces", "trainer", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / place_of("python")).write_text(block("python"), "utf-8")
    (folder / place_of("toml")).write_text(block("toml"), "utf-8")
    catalog = folder / "scheduler" / "policies" / "catalog.py"
    catalog.write_text(insert(block("diff"), catalog.read_text("utf-8")), "utf-8")
    (folder / "jobs.csv").write_text(JOBS)
    (folder / "study.toml").write_text(STUDY)
    return folder


def python(folder: Path, *arguments: str) -> str:
    """Run Python in the copy, on its source, and return what it prints."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def muster(folder: Path, *arguments: str) -> str:
    return python(folder, "-m", "sim.commands.main", *arguments)


@pytest.mark.slow
def test_the_schedule_holds_in_the_simulator_in_replay_and_in_words(copy: Path) -> None:
    said = python(
        copy, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "tests/theory/test_schedules.py"
    )
    assert "test_the_simulator_draws_it[patient]" in said
    assert "test_a_journal_of_it_replays_and_every_wait_has_a_reason[patient]" in said


@pytest.mark.slow
def test_the_number_travels_by_flag_and_study(copy: Path) -> None:
    run = ["run", "--jobs", "jobs.csv", "--nodes", "4", "--no-report", "--discipline", "patient"]
    muster(copy, *run, "--number", "overtakes=1", "--out", "one")
    muster(copy, *run, "--out", "three")
    muster(copy, "study", "--settings", "study.toml", "--out", "study")
    assert numbers(copy / "one") == {"overtakes": 1.0}
    assert numbers(copy / "three") == {"overtakes": 3.0}, "the default is written, too"
    points = {path.name: numbers(path) for path in (copy / "study" / "points").iterdir()}
    assert sorted(points.values(), key=str) == [{"overtakes": 1.0}, {"overtakes": 3.0}]


def numbers(run: Path) -> object:
    config = msgspec.toml.decode((run / "config.toml").read_bytes())
    return config["run"]["policy"]["numbers"]
