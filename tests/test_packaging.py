"""What is installed: the wheel, the lock files, the data that travels with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

PINNED = re.compile(r"^([a-z0-9-]+)==([^ ]+)", re.MULTILINE)


def lock(repository: Path, name: str) -> str:
    return (repository / "requirements" / f"{name}.lock").read_text(encoding="utf-8")


def pins(text: str) -> dict[str, str]:
    return dict(PINNED.findall(text))


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, object]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize(
    ("name", "extras"), [("core", []), ("dev", ["dask", "notebook", "dev"]), ("train", ["train"])]
)
def test_locks_pin_what_is_declared(
    repository: Path, project: dict[str, object], name: str, extras: list[str]
) -> None:
    declared = list(project["dependencies"])
    for extra in extras:
        declared += project["optional-dependencies"][extra]
    names = {re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in declared}
    missing = sorted(names - {project["name"]} - set(pins(lock(repository, name))))
    assert not missing, f"requirements/{name}.lock is older than pyproject.toml; run `make lock`"


@pytest.mark.parametrize("name", ["core", "dev", "train", "go", "compile", "uv"])
def test_locks_carry_hashes_and_no_addresses(repository: Path, name: str) -> None:
    text = lock(repository, name)
    blocks = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(text))
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"://|--index|--find-links|--extra-index|--trusted-host", text)


def test_nothing_is_installed_that_has_no_hash(repository: Path) -> None:
    """But for torch without CUDA, which has an index of its own, and nothing else from there."""
    files = [repository / "Makefile", *(repository / "deploy").rglob("Dockerfile")]
    for file in files:
        text = file.read_text().replace("\\\n", " ")
        for command in re.findall(r"(?:bin/pip|-m pip|\$\(PIP\))[^\n]* install [^\n]*", text):
            own = "--no-deps" in command and (
                "--no-build-isolation" in command or "torch.txt" in command
            )
            assert "--require-hashes" in command or own, f"{file}: {command}"
            assert "--extra-index-url" not in command


def test_the_study_installs_only_what_it_needs(repository: Path) -> None:
    core, dev, train = (pins(lock(repository, name)) for name in ("core", "dev", "train"))
    assert {"torch", "pytest", "mypy", "scipy", "distributed", "ipykernel"}.isdisjoint(core)
    assert "torch" not in dev
    assert core.items() <= dev.items(), "tests and study run with the same versions"
    all_three = {**core, **dev, **train}
    for other in (train, pins(lock(repository, "compile"))):
        both = all_three.keys() & other.keys()
        assert {name: all_three[name] for name in both} == {name: other[name] for name in both}
    assert "mypy" not in core


def test_data_of_the_repository_is_small(repository: Path) -> None:
    files = [path for path in (repository / "traces" / "data").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 3e6


def test_wheel_holds_the_packages_and_their_data(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling, which make installs")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=repository,
        env={**os.environ, "MUSTER_INTERPRETED": "1"},
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("muster_scheduler-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("entry_points.txt"))
        entry_points = archive.read(metadata).decode()
    assert "muster = sim.commands.main:main" in entry_points
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"scheduler", "sim", "traces", "trainer"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    data = [
        path.relative_to(repository).as_posix()
        for package in ("scheduler", "sim", "traces", "trainer")
        for path in (repository / package).rglob("*")
        if path.is_file() and not {"__pycache__", "_compiled"} & set(path.parts)
    ]
    assert not sorted(set(data) - names), "files of the packages that the wheel lacks"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_lists_its_targets(repository: Path) -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout
    targets = re.findall(r"^make ([\w-]+)  *\S", shown, re.MULTILINE)
    assert {"setup", "study", "bench", "clean"} <= set(targets)
    assert {"test", "test-live", "test-train", "test-e2e", "test-all"} <= set(targets)
    assert max(map(len, shown.splitlines())) <= 100
