"""Imports point inward: drivers import the core, and the core imports the standard library."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"scheduler", "sim", "traces", "trainer"}

#: which of our packages a package may import, besides itself
ARROWS = {
    "scheduler": set(),
    "traces": set(),
    "trainer": set(),
    "sim": {"scheduler", "traces"},
    "notebooks": {"sim"},
}

#: the command line starts the trainer's processes, and knows no more of it
EXCEPTIONS = {("train.py", "trainer")}

#: the core takes facts and returns decisions: no clock, file, socket, log or random number
CORE_BANS = {
    "asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "shutil", "socket", "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip

#: packages beside the core that drive it
DRIVERS = (
    "live", "controlplane", "kube", "workloads", "journal", "controller", "extender", "status",
)  # fmt: skip

#: what a notebook may take from the simulator: tables, curves and pictures, never a run
NOTEBOOK_BANS = re.compile(
    r"sim\.(engines|schema\.(cluster|planes)|study\.sweep)\b|sim\.run\b|sim\.runs\.experiment\.run\b"
)


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Yield (dotted name, line, whether at the top of the module) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno, id(node) in top


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names_of(requirements: list[str]) -> set[str]:
    """The import names of requirement lines such as `msgspec[toml]>=0.20`."""
    found = {re.match(r"[A-Za-z0-9_-]+", line)[0].lower() for line in requirements}
    return {name.replace("-", "_") for name in found}


@pytest.mark.parametrize("package", ARROWS)
def test_imports_follow_the_arrows(package: str) -> None:
    allowed = ARROWS[package] | {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules(package)
        for name, line, _ in imported(path)
        if name.split(".")[0] in OURS - allowed
        and (path.name, name.split(".")[0]) not in EXCEPTIONS
    ]
    assert not wrong, f"{package}/ may import {sorted(allowed & OURS)} of ours"


def test_the_core_needs_only_the_standard_library() -> None:
    wrong = []
    for path in modules("scheduler"):
        if path.parent.name in DRIVERS:
            continue
        for name, line, _ in imported(path):
            top = name.split(".")[0]
            if top != "scheduler" and (top not in sys.stdlib_module_names or top in CORE_BANS):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
            if name.startswith(tuple(f"scheduler.{driver}" for driver in DRIVERS)):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "the core reads no clock, file, socket, log or random number"


@pytest.mark.parametrize(
    ("package", "extra"), [("sim", None), ("traces", None), ("trainer", "train")]
)
def test_every_library_is_declared(package: str, extra: str | None) -> None:
    """What is imported at the top is a dependency; inside a function it may be an extra."""
    options = project()["optional-dependencies"]
    needed = names_of(options[extra] if extra else project()["dependencies"])
    extras = set().union(*map(names_of, options.values()))
    wrong = []
    for path in modules(package):
        for name, line, at_top in imported(path):
            library = name.split(".")[0]
            if library in OURS or library in sys.stdlib_module_names:
                continue
            if library not in (needed if at_top else needed | extras):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "declare it in pyproject.toml, or import an extra where it is used"


def test_every_declared_library_is_used() -> None:
    used = {
        name.split(".")[0]
        for package in ("sim", "traces")
        for path in modules(package)
        for name, _, _ in imported(path)
    }
    unused = sorted(names_of(project()["dependencies"]) - used)
    assert not unused


def test_notebooks_only_read_runs() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules("notebooks")
        for name, line, _ in imported(path)
        if NOTEBOOK_BANS.match(name) or name.split(".")[0] in {"simpy", "joblib", "random"}
    ]
    assert not wrong, "a notebook reads finished runs and plans"


def test_modules_have_names_of_the_field() -> None:
    vague = re.compile(r"(^|_)(util|utils|helper|helpers|manager|common|base|misc)(_|$)")
    wrong = [
        str(path.relative_to(ROOT))
        for package in OURS
        for path in modules(package)
        if vague.search(path.stem)
    ]
    assert not wrong
