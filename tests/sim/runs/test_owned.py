"""What muster did not write stays; what it writes is on the disk before it has its name."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pandas as pd
import pytest

import sim
from scheduler import whole
from sim.commands.main import USAGE_ERROR, invoke
from sim.runs import owned

JOBS = pd.DataFrame({"job": ["a", "b"], "submit_s": [0.0, 1.0], "duration_s": 60.0, "gpus": 8})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    JOBS.to_csv("jobs.csv", index=False)
    sim.run(JOBS, nodes=2).save("run")
    return tmp_path


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text("utf-8", "replace")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stays(folder: Path, command: str, capsys: pytest.CaptureFixture[str], what: str) -> None:
    """Demand that a command is refused for `what`, and touches nothing."""
    before = tree(folder)
    capsys.readouterr()
    assert invoke(command.split()) == USAGE_ERROR
    assert what in capsys.readouterr().err
    assert tree(folder) == before


FORCE = "run --jobs jobs.csv --nodes 2 --force --no-report --out"


@pytest.mark.parametrize("text", ["{}", '{"name": "my page"}', "[]", "no JSON", '{"versions": {}}'])
def test_another_kind_of_manifest_makes_no_run(
    text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "manifest.json").write_text(text)
    (place / "mine" / "thesis.tex").write_text("years of work")
    stays(place, f"{FORCE} mine", capsys, "is not empty and holds no run")
    with pytest.raises(ValueError, match="exists and holds no run"):
        sim.run(JOBS, nodes=2).save("mine")


@pytest.mark.parametrize("name", ["notes.txt", "pictures/cat.png", "empty/", "jobs.parquet.old"])
def test_what_lies_in_a_run_folder_stays(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "run" / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_text("mine")
    stays(place, f"{FORCE} run", capsys, f"holds {name.rstrip('/')!r}, which muster did not write")
    with pytest.raises(ValueError, match="which muster did not write and does not"):
        sim.run(JOBS, nodes=2).save("run")
    assert path.exists()


def test_a_link_in_a_run_folder_stays(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "mine").write_text("mine")
    (place / "run" / "pictures").symlink_to(place / "elsewhere")
    stays(place, f"{FORCE} run", capsys, "holds 'pictures', which muster did not write")


def test_a_run_with_its_report_is_replaced(place: Path) -> None:
    command = "run --jobs jobs.csv --nodes 2 --out both"
    assert invoke(command.split()) == 0
    first = tree(place / "both")
    assert "pictures/" in " ".join(first)
    assert invoke(f"{command} --force --no-report".split()) == 0
    assert {name for name in tree(place / "both") if "/" in name} == set()


def test_a_report_leaves_the_files_of_others(place: Path) -> None:
    mine = place / "out"
    for name in ("pictures/cat.png", "tables/mine.csv", "notes.txt"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("mine")
    for _ in range(2):
        assert invoke(["report", "run", "--out", "out"]) == 0
    kept = tree(mine)
    assert all(kept[name] == "mine" for name in ("pictures/cat.png", "tables/mine.csv"))
    assert len(list(mine.glob("tables/*.parquet"))) == 10


@pytest.mark.parametrize("name", ["report.html", "report.md", "tables/headline.csv"])
def test_a_report_writes_over_nothing_of_others(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "out" / name).parent.mkdir(parents=True)
    (place / "out" / name).write_text("mine")
    stays(place, "report run --out out", capsys, "not a report that this muster wrote")


@pytest.mark.parametrize("line", ["../jobs.csv", "/etc/passwd", "run/../../jobs.csv", "."])
def test_a_list_of_files_leads_nowhere_else(line: str, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / ".muster").write_text(f"{line}\n")
    assert invoke(["report", "run", "--out", "out"]) == 0
    assert (place / "jobs.csv").exists()


def test_an_old_report_folder_that_became_a_link(place: Path) -> None:
    assert invoke(["report", "run", "--out", "out"]) == 0
    (place / "out" / "tables").rename(place / "kept")
    (place / "out" / "tables").symlink_to(place / "kept")
    assert invoke(["report", "run", "--out", "out"]) == USAGE_ERROR
    assert len(list((place / "kept").iterdir())) == 20


def test_everything_is_on_the_disk_before_a_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    at_rename: list[set[str]] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(opened: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{opened}")).name)
        real_fsync(opened)

    def rename(source: Path, target: Path) -> None:
        at_rename.append(set(synced))
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    folder = sim.run(JOBS, nodes=2).save(tmp_path / "run")
    (before,) = at_rename
    assert {path.name for path in folder.iterdir()} <= before
    assert any(name.startswith(".partial-") for name in before), "the folder itself"
    assert tmp_path.name in synced - before, "the folder that has the new name"


def test_a_failure_leaves_nothing_and_takes_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(place)

    def fails(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(whole, "sync", fails)
    with pytest.raises(OSError, match="No space left"):
        sim.run(JOBS, nodes=2).save("run")
    assert tree(place) == before


def test_two_runs_of_one_name_are_both_whole(tmp_path: Path) -> None:
    result = sim.run(JOBS, nodes=2)
    threads = [
        threading.Thread(target=lambda: [result.save(tmp_path / "run") for _ in range(10)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for path in tmp_path.glob("run/manifest.json"):
            try:
                json.loads(path.read_text())
            except FileNotFoundError:
                continue
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_training_run_is_replaced_and_nothing_beside_it(tmp_path: Path) -> None:
    for name in ("goodput/rank_00000.jsonl", "checkpoints/step_00000002/__0_0.distcp",
                 "checkpoints/step_00000002/.metadata", "config.toml"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    owned.refuse_strangers(tmp_path, owned.TRAINING)
    (tmp_path / "goodput" / "paper.pdf").touch()
    with pytest.raises(ValueError, match=r"holds 'goodput/paper\.pdf', which muster did not"):
        owned.refuse_strangers(tmp_path, owned.TRAINING)
