"""Compiled modules run if they were made from the present source, all of them or none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scheduler import compiled
from scheduler.core.model import UNLIMITED

PACKAGES = ("scheduler", "sim", "traces")

#: prints what runs, where the core's modules came from, and a constant
PROBE = """
from scheduler import compiled
from scheduler.core import audit, capacity, model, state
from scheduler.policies import catalog
import sim.engines.gangs as gangs
print(compiled.which())
print({m.__file__.rpartition(".")[2] for m in (audit, capacity, model, state, catalog, gangs)})
print(model.UNLIMITED)
"""
VALUE, EDITED = str(UNLIMITED), "12345"

needs_compiled = pytest.mark.skipif(
    compiled.which() != "compiled", reason=f"runs {compiled.which()}"
)


def copy_of(repository: Path, to: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(
            repository / package, to / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return to


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    return copy_of(repository, tmp_path / "copy")


def python(folder: Path, *arguments: str, **variables: str) -> list[str]:
    """Run Python with the packages of `folder`; return the lines that it prints."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.splitlines()


def probe(folder: Path, **variables: str) -> list[str]:
    return python(folder, "-c", PROBE, **variables)


@needs_compiled
def test_an_edited_line_runs_at_once(copy: Path) -> None:
    assert probe(copy) == ["compiled", "{'so'}", VALUE]

    model = copy / "scheduler" / "core" / "model.py"
    text = model.read_text(encoding="utf-8")
    edited = re.sub(r"^UNLIMITED = .*$", f"UNLIMITED = {EDITED}", text, flags=re.MULTILINE)
    model.write_text(edited, encoding="utf-8")
    assert probe(copy) == [
        "interpreted: the source has changed since it was compiled; make compile",
        "{'py'}",
        EDITED,
    ]

    model.write_text(text, encoding="utf-8")
    assert probe(copy)[0] == "compiled", "the hash is of the text, whenever it was written"


@needs_compiled
def test_all_modules_run_compiled_or_none(copy: Path) -> None:
    (folder,) = (copy / "scheduler" / "_compiled").glob(f"{compiled.key(str(copy))}*")
    (folder / f"scheduler.core.audit{compiled.SUFFIX}").unlink()
    said, files, _ = probe(copy)
    assert said.startswith("interpreted: ")
    assert "scheduler.core.audit" in said
    assert files == "{'py'}"


@needs_compiled
def test_a_library_that_cannot_be_loaded_is_left(copy: Path) -> None:
    (folder,) = (copy / "scheduler" / "_compiled").glob(f"{compiled.key(str(copy))}*")
    (folder / (compiled.LIBRARY + compiled.SUFFIX)).write_bytes(b"")
    said, files, _ = probe(copy)
    assert said.startswith("interpreted: ")
    assert "make compile" in said
    assert files == "{'py'}"


ANNOTATED = """
from typing import get_type_hints
from scheduler.core import decisions, events, model
from scheduler.policies import spec
for module in (decisions, events, model, spec):
    for name, value in sorted(vars(module).items()):
        if isinstance(value, type) and value.__module__ == module.__name__:
            print(name, get_type_hints(value))
"""


@needs_compiled
def test_classes_keep_the_annotations_of_the_source(repository: Path) -> None:
    """Journals are written and read by them."""
    found = python(repository, "-c", ANNOTATED)
    assert len(found) > 20
    assert found == python(repository, "-c", ANNOTATED, MUSTER_INTERPRETED="1")


@needs_compiled
@pytest.mark.parametrize(
    "first", ["sim.engines.workload", "sim.schema.cluster", "sim.engines.gangs"]
)
def test_any_module_may_be_the_first(repository: Path, first: str) -> None:
    """One that is compiled may import one of the source that imports a compiled one."""
    assert python(repository, "-c", f"import {first}\nprint({first}.__name__)") == [first]


def test_a_variable_asks_for_the_source(copy: Path) -> None:
    said, files, _ = probe(copy, MUSTER_INTERPRETED="1")
    assert said == "interpreted: MUSTER_INTERPRETED is set"
    assert files == "{'py'}"


@pytest.mark.parametrize("room", compiled.READ)
def test_the_key_follows_each_file_that_compiled_modules_know(
    room: str, repository: Path, copy: Path
) -> None:
    before = compiled.key(str(copy))
    assert before == compiled.key(str(repository))
    file = sorted((copy / room).glob("*.py"))[-1]
    file.write_text(file.read_text(encoding="utf-8") + "#", encoding="utf-8")
    edited = compiled.key(str(copy))
    assert edited != before
    file.rename(file.with_name("another.py"))
    assert compiled.key(str(copy)) not in (before, edited)


def test_without_a_compiler_everything_runs_and_says_why(repository: Path, copy: Path) -> None:
    shutil.rmtree(copy / "scheduler" / "_compiled", ignore_errors=True)
    assert probe(copy)[0] == "interpreted: not compiled"
    shutil.copy(repository / "hatch_build.py", copy)
    shutil.copytree(repository / "requirements", copy / "requirements")
    said = python(copy, "hatch_build.py", CC="/absent/cc")
    assert said == ["muster runs interpreted: no C compiler (/absent/cc)"]
    assert probe(copy)[:2] == ["interpreted: no C compiler (/absent/cc)", "{'py'}"]


@needs_compiled
def test_a_wheel_carries_the_compiled_modules(repository: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=repository,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert not wheel.name.endswith("-none-any.whl"), "it runs on this kind of machine only"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert probe(tmp_path / "site") == ["compiled", "{'so'}", VALUE]
