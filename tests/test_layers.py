"""Imports point inward: drivers import the core, and the core imports the standard library."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler import compiled

ROOT = Path(__file__).resolve().parents[1]
OURS = {"scheduler", "sim", "traces", "trainer"}

#: what each room may import of ours, besides itself; from the ground up, so that no circle can be
ROOMS: dict[str, set[str]] = {
    "scheduler/compiled": set(),  # one module: whether core, policies and engines run compiled
    "scheduler/whole": set(),  # one module: how files and folders are written
    "scheduler": {"scheduler/compiled"},
    "scheduler/core": set(),
    "scheduler/policies": {"scheduler/core"},
    "scheduler/kube": set(),
    "scheduler/workloads": {"scheduler/core", "scheduler/kube"},
    "scheduler/journal": {"scheduler/compiled", "scheduler/core", "scheduler/policies"},
    "scheduler/controller": {
        "scheduler/core", "scheduler/policies", "scheduler/kube", "scheduler/workloads",
    },
    "scheduler/extender": {
        "scheduler/core", "scheduler/kube", "scheduler/workloads", "scheduler/controller",
    },
    "scheduler/status": {
        "scheduler/core", "scheduler/policies", "scheduler/kube", "scheduler/workloads",
        "scheduler/journal", "scheduler/controller",
    },
    "scheduler/live": {
        "scheduler/compiled", "scheduler/core", "scheduler/policies", "scheduler/kube",
        "scheduler/workloads", "scheduler/journal", "scheduler/controller", "scheduler/extender",
        "scheduler/status",
    },
    "scheduler/controlplane": {"scheduler/whole", "scheduler/core", "scheduler/kube"},
    # logs of a cluster are read as the live scheduler reads them
    "traces": {
        "scheduler/whole", "scheduler/core", "scheduler/kube", "scheduler/workloads",
        "scheduler/journal",
    },
    "trainer": set(),
    "sim/schema": {"scheduler/whole", "scheduler/core", "scheduler/policies"},
    "sim/queues": {"scheduler/core", "scheduler/policies"},
    "sim/engines": {"scheduler/core", "scheduler/policies", "sim/schema", "traces"},
    "sim/runs": {
        "scheduler/compiled", "scheduler/whole", "scheduler/core", "sim/schema", "sim/engines",
        "traces",
    },
    "sim/report": {
        "scheduler/whole", "scheduler/core", "scheduler/policies", "sim/schema", "sim/runs",
    },
    "sim/journals": {
        "scheduler/core", "scheduler/policies", "scheduler/journal", "sim/schema", "sim/engines",
        "sim/runs",
    },
    "sim/goodput": {"scheduler/whole", "sim/schema", "sim/engines", "sim/report"},
    "sim/study": {
        "scheduler/whole", "scheduler/core", "scheduler/policies", "sim/schema", "sim/runs",
        "sim/report", "traces",
    },
    "sim": {"scheduler", "scheduler/policies", "sim/schema", "sim/runs"},
    # the command starts the trainer's processes, and knows no more of it
    "sim/commands": {
        "scheduler/compiled", "scheduler/whole", "scheduler/policies", "scheduler/live",
        "scheduler/controlplane", "traces", "trainer", "sim/schema", "sim/queues", "sim/runs",
        "sim/report", "sim/journals", "sim/goodput", "sim/study",
    },
}  # fmt: skip

#: the core takes facts and returns decisions: no clock, file, socket, log or random number
CORE = ("scheduler/core", "scheduler/policies")
CORE_BANS = {
    "asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "shutil", "socket", "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip

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
    return {"yaml" if name == "pyyaml" else name.replace("-", "_") for name in found}


def room_of(path: str) -> str:
    """Return the room of a module, given as a path without its ending."""
    package, _, rest = path.partition("/")
    if package in ("traces", "trainer") or rest == "__init__":
        return package
    return f"{package}/{rest.partition('/')[0]}"


def module_of(name: str) -> str | None:
    """Return the module, as a path without its ending, that a dotted name is of or in."""
    path = name.replace(".", "/")
    while path:
        if (ROOT / f"{path}.py").is_file():
            return path
        if (ROOT / path / "__init__.py").is_file():
            return f"{path}/__init__"
        path = path.rpartition("/")[0]
    return None


def our_imports() -> Iterator[tuple[str, int, str, str]]:
    """Yield (module, line, name, module of the name) of all imports among our packages."""
    for package in sorted(OURS):
        for path in modules(package):
            own = path.relative_to(ROOT).with_suffix("").as_posix()
            for name, line, _ in imported(path):
                if name.split(".")[0] in OURS:
                    found = module_of(name)
                    assert found is not None, f"{own}.py:{line}: there is no {name}"
                    if found != own:
                        yield own, line, name, found


def test_every_module_stands_in_a_room() -> None:
    outside = {
        str(path.relative_to(ROOT))
        for package in sorted(OURS)
        for path in modules(package)
        if room_of(path.relative_to(ROOT).with_suffix("").as_posix()) not in ROOMS
    }
    assert not outside


def test_imports_follow_the_arrows_between_rooms() -> None:
    wrong = []
    for own, line, name, found in our_imports():
        here, there = room_of(own), room_of(found)
        if here in ROOMS and here != there and there not in ROOMS[here]:
            wrong.append(f"{own}.py:{line}: {name}: {here} may not know {there}")
    assert not wrong, "\n".join(wrong)


def test_every_arrow_is_used_and_leads_down() -> None:
    used = {(room_of(own), room_of(found)) for own, _, _, found in our_imports()}
    floors = list(ROOMS)
    for here, below in ROOMS.items():
        for there in below:
            assert (here, there) in used, f"{here} does not use {there}: take the arrow out"
            assert floors.index(there) < floors.index(here)


def test_compiled_modules_are_made_anew_when_what_they_import_changes() -> None:
    """mypyc takes constants and types over from other modules: all of these are in its key."""
    assert set(compiled.COMPILED) <= set(compiled.READ)
    for own, line, name, found in our_imports():
        # readers of formats, a folder below, are imported by their name when a file needs one
        if own.rpartition("/")[0] in compiled.READ:
            assert room_of(found) in {*compiled.READ, "scheduler/whole"}, f"{own}:{line}: {name}"


def test_no_two_modules_need_each_other() -> None:
    needs: dict[str, set[str]] = {}
    for own, _, _, found in our_imports():
        needs.setdefault(own, set()).add(found)
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in sorted(needs.get(module, ())):
                walk(other, (*above, module))
            done.add(module)

    for module in sorted(needs):
        walk(module, ())


#: packages whose `__init__` is their public interface
INTERFACES = {"sim/__init__", "traces/__init__"}


def test_no_module_hands_on_what_another_defines() -> None:
    defined: dict[str, set[str]] = {}

    def names_in(module: str) -> set[str]:
        if module not in defined:
            tree = ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))
            found = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    found.add(node.id)
            defined[module] = found
        return defined[module]

    wrong = []
    for own, line, name, found in our_imports():
        if found in INTERFACES or name.replace(".", "/") in (
            found,
            found.removesuffix("/__init__"),
        ):
            continue
        last = name.rpartition(".")[2]
        if last not in names_in(found):
            wrong.append(f"{own}.py:{line}: {name} is not defined in {found}.py")
    assert not wrong, "import it from where it is defined:\n" + "\n".join(wrong)


def test_the_core_needs_only_the_standard_library() -> None:
    wrong = []
    for room in CORE:
        for path in modules(room):
            for name, line, _ in imported(path):
                top = name.split(".")[0]
                if top not in OURS and (top not in sys.stdlib_module_names or top in CORE_BANS):
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not wrong, "the core reads no clock, file, socket, log or random number"


def test_notebooks_import_the_simulator_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in modules("notebooks")
        for name, line, _ in imported(path)
        if name.split(".")[0] in OURS - {"sim"}
    ]
    assert not wrong


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


def test_the_page_and_its_picture_show_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = (ROOT / "docs" / "images" / "rooms.svg").read_text(encoding="utf-8")
    for room in ROOMS.keys() - {"scheduler", "scheduler/compiled", "scheduler/whole", "sim"}:
        assert f"| `{room}` |" in page, f"docs/architecture.md does not say what {room} is"
        assert f">{room}<" in picture, f"docs/images/rooms.svg does not show {room}"
