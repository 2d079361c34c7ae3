"""The benchmark's bookkeeping: rows, floors and documents. Nothing here takes a time."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from bench import peer, rows


@pytest.fixture(scope="module")
def bench(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_sim", repository / "bench" / "sim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_sim"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "must", "floor", "met", "broken"),
    [
        (90.0, ">= 80", 25.0, True, False),
        (50.0, ">= 80", 25.0, False, False),
        (20.0, ">= 80", 25.0, False, True),
        (6.0, "<= 7", 30.0, True, False),
        (29.0, "<= 7", 30.0, False, False),
        (31.0, "<= 7", 30.0, False, True),
        (None, "<= 7", 30.0, False, False),
        (99.0, "<= 7", None, False, False),
    ],
)
def test_rows_know_whether_they_meet_their_target_and_their_floor(
    value: float | None,
    must: str,
    floor: float | None,
    met: bool,
    broken: bool,
) -> None:
    row = rows.row("what", value, "x", must, floor)
    assert row.met is met
    assert row.is_broken is broken


def test_a_row_beyond_its_floor_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = rows.row("good", 5.0, "x", "<= 7", 30.0)
    missed = rows.row("missed", 9.0, "x", "<= 7", 30.0)
    broken = rows.row("broken", 31.0, "x", "<= 7", 30.0)
    assert rows.report([good], out=tmp_path) == 0
    assert rows.report([good, missed], out=tmp_path) == 0
    assert "1 of 2 rows miss" in capsys.readouterr().out
    assert rows.report([good, missed, broken], out=tmp_path) == 1
    assert "BROKEN: broken: 31 x, floor 30" in capsys.readouterr().out
    written = json.loads((tmp_path / "sim.json").read_text("utf-8"))
    assert [set(one) for one in written] == [{"what", "value", "unit", "must", "met", "note"}] * 3
    assert [one["met"] for one in written] == [True, False, False]


def test_the_table_goes_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t:begin -->\nold\n<!-- t:end -->\nz\n", "utf-8")
    rows.write_between(page, "t", rows.table([rows.row("what", None, "x", "<= 7")]))
    lines = page.read_text("utf-8").splitlines()
    assert lines[0] == "a"
    assert lines[-1] == "z"
    assert "| what | not measured | <= 7 | **no** |  |" in lines
    assert "old" not in lines
    with pytest.raises(ValueError, match="needs the markers"):
        rows.write_between(page, "other", [])


def test_documents_have_the_markers(repository: Path) -> None:
    text = (repository / "docs" / "benchmarks.md").read_text("utf-8")
    assert text.count("<!-- measured:begin -->") == text.count("<!-- measured:end -->") == 1


def test_peers_get_the_same_jobs(bench: ModuleType, tmp_path: Path, shared: Path) -> None:
    jobs = bench.peer_jobs(20_000)
    given = pd.read_csv(shared / "golden" / "_traces" / "bench20000.csv")
    assert (jobs["submit_s"].to_numpy() == given["submit_time"].to_numpy()).all()
    assert (jobs["duration_s"].to_numpy() == given["duration"].to_numpy()).all()
    assert (jobs["gpus"].to_numpy() == given["gpus"].to_numpy()).all()


def test_no_module_here_hides_a_package_from_a_script_beside_it(repository: Path) -> None:
    # A script's own folder comes first among the places where Python looks.
    scripts = list((repository / "bench").glob("*.py"))
    ours = {path.name for path in repository.iterdir() if path.is_dir()}
    hidden = {script.stem for script in scripts} - ours
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in hidden, (script.name, node.module)
            elif isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
                assert not names & hidden, (script.name, names & hidden)


def test_swf_says_what_the_jobs_say(bench: ModuleType, tmp_path: Path) -> None:
    peer.write_swf(bench.peer_jobs(50), tmp_path / "jobs.swf")
    lines = [
        line.split()
        for line in (tmp_path / "jobs.swf").read_text("ascii").splitlines()
        if not line.startswith(";")
    ]
    jobs = bench.peer_jobs(50)
    assert [int(row[1]) for row in lines] == jobs["submit_s"].tolist()
    assert [int(row[3]) for row in lines] == [int(row[8]) for row in lines]
    assert [int(row[4]) for row in lines] == [int(row[7]) for row in lines] == jobs["gpus"].tolist()
