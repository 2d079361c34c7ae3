"""Files of strangers: whatever nests in them, a command names in a line what it cannot read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import sim
from sim.commands.main import USAGE_ERROR, invoke

JOBS = pd.DataFrame({"job": ["a", "b"], "submit_s": [0.0, 1.0], "duration_s": 60.0, "gpus": 8})
DEPTHS = (900, 100_000)


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command, which fails with one line; return that."""
    capsys.readouterr()
    assert invoke(list(map(str, arguments))) == USAGE_ERROR
    text = capsys.readouterr().err
    assert text.startswith("muster: "), text
    assert text.count("\n") == 1, text
    return text


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sim.run(JOBS, nodes=2).save(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", ["manifest.json", "summary.json", "config.toml"])
def test_a_run_folder(
    name: str, depth: int, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in run_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    text = f"a = {deep(depth)}" if name.endswith("toml") else f'{{"a":{deep(depth)}}}'
    (folder / name).write_text(text)
    if name == "summary.json" and depth < 1_000:
        return  # it is read, and nobody looks at what is in it
    assert "run" in refused(capsys, "report", folder, "--out", tmp_path / "out")
    refused(capsys, "validate", folder)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("key", ["pool", "arm", "vary", "name", "interrupt", "startup_s", "x"])
def test_settings(key: str, depth: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "any.toml"
    path.write_text(f"{key} = {deep(depth)}")
    assert "any.toml" in refused(capsys, "validate", path)
    jobs = tmp_path / "jobs.csv"
    JOBS.to_csv(jobs, index=False)
    out = ("--out", tmp_path / "out")
    assert "any.toml" in refused(capsys, "run", "--jobs", jobs, "--cluster", path, *out)
    for option in ("--control-plane", "--costs"):
        assert "any.toml" in refused(
            capsys, "run", "--jobs", jobs, "--nodes", "2", option, path, *out
        )
    assert "any.toml" in refused(capsys, "study", "--settings", path, *out)
    assert "any.toml" in refused(capsys, "plan", path, *out)
    assert "any.toml" in refused(capsys, "live", "--config", path)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_journal_and_a_snapshot(
    depth: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in (
        deep(depth),
        f'{{"t":0,"is":"Snapshot","format":3,"nodes":{deep(depth)},"policy":{{}}}}',
        f'{{"t":0,"is":"Gap","v":{deep(depth)}}}',
        f'{{"t":{deep(depth)},"is":"Gap","v":{{}}}}',
        f'{{"t":0,"is":{deep(depth)},"v":{{}}}}',
    ):
        (tmp_path / "journal.jsonl").write_text(f"{text}\n")
        (tmp_path / "state.json").write_text(f'{{"zero_unix_s":0,"now_s":0,"lines":[{text}]}}')
        journal, out = tmp_path / "journal.jsonl", ("--out", tmp_path / "out")
        refused(capsys, "report", journal, *out)
        refused(capsys, "replay", journal)
        refused(capsys, "run", "--journal", journal, *out)
        assert "state.json" in refused(capsys, "run", "--snapshot", tmp_path / "state.json", *out)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_goodput_log(depth: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rank.jsonl"
    path.write_text(f'{{"v":1,"event":"step","dur_s":{deep(depth)}}}\n')
    assert "rank.jsonl:1" in refused(capsys, "calibrate", path, "--out", tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [("point", [1]), ("gaps", 3), ("num_nodes", 10**400), ("window_s", "ab"), ("num_set_aside", 3)],
)
def test_a_manifest_of_another_form(
    name: str, value: object, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, name: value}))
    assert "is not a finished run" in refused(capsys, "report", folder, "--out", tmp_path / "out")


@pytest.mark.parametrize("table", ["jobs", "attempts", "pending", "allocation", "nodes"])
def test_tables_of_another_form(
    table: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    path = folder / f"{table}.parquet"
    whole = pd.read_parquet(path)
    numbers = whole.select_dtypes("number").columns[0]
    for changed in (whole.drop(columns=[numbers]), whole.assign(**{numbers: "x"})):
        changed.to_parquet(path)
        said = refused(capsys, "report", folder, "--out", tmp_path / "out")
        assert f"{table}.parquet" in said and numbers in said
