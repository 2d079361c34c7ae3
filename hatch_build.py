"""Compile the core and the engines with mypyc, as a command or as hatchling's build hook.

    python hatch_build.py            lay them beside the source, if that has changed
    python hatch_build.py --install  the same, and install the tools that this takes

What is compiled, where it is laid and when it runs stands in scheduler/compiled.py. Where something
that this needs is missing, everything runs interpreted, and `muster --version` says why.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
SOURCE = "source"  #: in the folder where something is compiled
LOCK = ROOT / "requirements" / "compile.lock"

# Only the rooms that are compiled, or read by those, are looked at, and numpy's types, so that the
# result is the same whatever else is installed. `make test` checks all types.
MYPY = """\
[mypy]
python_version = 3.11
follow_imports = skip
ignore_missing_imports = True
[mypy-numpy.*]
follow_imports = silent
[mypy-sim.schema.*,traces.*]
ignore_errors = True
"""


def _rules() -> Any:
    """Return scheduler/compiled.py without its package, which would take old modules into use."""
    spec = importlib.util.spec_from_file_location("compiled", ROOT / "scheduler" / "compiled.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rules = _rules()


def no_compiler() -> str:
    """Return what this machine lacks to compile C for its Python, or nothing."""
    if rules.switched_off():
        return f"{rules.SWITCH} is set"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"no C compiler ({compiler})"
    headers = sysconfig.get_path("include")
    return "" if Path(headers, "Python.h").is_file() else f"no Python.h in {headers}"


def lack() -> str:
    """Return why nothing can be compiled here, or nothing."""
    if reason := no_compiler():
        return reason
    for tool in ("mypyc", "setuptools", "numpy"):
        if importlib.util.find_spec(tool) is None:
            return f"no {tool}, which {LOCK.relative_to(ROOT)} has"
    return ""


def install_tools() -> None:
    """Install what compiling takes, if a C compiler is here and another version or none is."""
    if no_compiler() or all(_installed(*pin.split("==")) for pin in _pins()):
        return
    print(f"Installing what compiles, of {LOCK.relative_to(ROOT)}", flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=False)


def _pins() -> list[str]:
    return re.findall(r"^[a-z0-9-]+==[^ ;\\]+", LOCK.read_text("utf-8"), re.MULTILINE)


def _installed(name: str, version: str) -> bool:
    try:
        return importlib.metadata.version(name) == version
    except importlib.metadata.PackageNotFoundError:
        return False


def compiled_folder() -> Path:
    """Return the folder of the modules compiled from the present source, which are made if new.

    Raises:
        RuntimeError: they cannot be made; the text says why, in a few words.
    """
    home = Path(rules.FOLDER)
    folder = home / rules.key(str(ROOT))
    by = _made_by()
    made_by = folder / "made-by"
    if made_by.is_file() and made_by.read_text("utf-8") == by:
        return folder
    reason = lack()
    home.mkdir(exist_ok=True)
    if not reason:
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD, prefix="compile-") as work:
            source = _copied_source(Path(work))
            folder = home / rules.key(str(source))
            reason = _compile(Path(work))
            if not reason:
                done = Path(work, "done")
                (done / rules.ANNOTATIONS).write_text(json.dumps(_annotations(source)), "utf-8")
                (done / "made-by").write_text(by, "utf-8")
                found = set(home.glob(f"{folder.name.rpartition('-')[0]}-*"))
                earlier = sorted(found - {folder}, key=lambda one: one.stat().st_mtime)
                # a process that runs may still import from the one before
                for old in (*earlier[:-1], folder):
                    shutil.rmtree(old, ignore_errors=True)
                done.rename(folder)
    if reason:
        if not rules.switched_off():
            (home / "why-not").write_text(reason + "\n", "utf-8")
        raise RuntimeError(reason)
    (home / "why-not").unlink(missing_ok=True)
    return folder


def _copied_source(work: Path) -> Path:
    """Return a copy of what is compiled: somebody may write into a file while that takes place."""
    for room in rules.READ:
        (work / SOURCE / room).mkdir(parents=True, exist_ok=True)
        if "/" in room:
            (work / SOURCE / room).parent.joinpath("__init__.py").touch()
    for path in rules.sources(str(ROOT), rules.READ):
        shutil.copyfile(ROOT / path, work / SOURCE / path)
    return work / SOURCE


def _annotations(source: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Return the annotations of each class of each module, as Python keeps them: as text."""
    found = {}
    for name in rules.modules(str(source)):
        tree = ast.parse((source / (name.replace(".", "/") + ".py")).read_text("utf-8"))
        found[name] = {
            node.name: {
                line.target.id: ast.unparse(line.annotation)
                for line in node.body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            }
            for node in tree.body
            if isinstance(node, ast.ClassDef)
        }
    return found


def _made_by() -> str:
    return "\n".join([*_pins(), rules.source_hash(Path(__file__).read_bytes()).hex(), ""])


def _compile(work: Path) -> str:
    """Compile into `work`/done; return why that failed, or nothing."""
    command = [sys.executable, __file__, "--into", str(work)]
    ended = subprocess.run(command, cwd=work / SOURCE, capture_output=True, text=True)
    if not ended.returncode:
        return ""
    log = BUILD / "compile.log"
    log.write_text(ended.stdout + ended.stderr, "utf-8")
    errors = re.findall(r"^.*\berror\b.*$", ended.stdout + ended.stderr, re.MULTILINE)
    return f"compiling failed: {errors[0].strip() if errors else 'no error told'}; see {log}"


def _compile_here(work: Path) -> None:
    """Compile, with mypyc's and the C compiler's output on stdout."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    settings = work / "mypy.ini"
    settings.write_text(MYPY, "utf-8")
    here = os.getcwd()
    names = rules.modules(here)
    extensions = mypycify(
        [f"--config-file={settings}", *rules.sources(here, rules.READ)],
        only_compile_paths=[name.replace(".", "/") + ".py" for name in names],
        target_dir=str(work / "c"),
        group_name=rules.LIBRARY.removesuffix("__mypyc"),
        debug_level="0",
    )
    build = Distribution({"name": "muster", "ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib, build.build_temp = str(work / "lib"), str(work / "objects")
    build.ensure_finalized()
    build.run()
    done = work / "done"
    done.mkdir()
    for name in (rules.LIBRARY, *names):
        made = work / "lib" / (name.replace(".", "/") + rules.SUFFIX)
        made.rename(done / (name + rules.SUFFIX))


class CompiledModules(BuildHookInterface[Any]):
    """Puts the compiled modules into a wheel; one that has none runs everywhere."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return the tools that compiling takes, where it can be done."""
        if no_compiler():
            return []
        return _pins()

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add what is compiled to the files of the wheel."""
        if version == "editable" or rules.switched_off():
            return  # an editable install finds what `make compile` lays beside the source
        try:
            folder = compiled_folder()
        except RuntimeError as reason:
            self.app.display_info(f"muster runs interpreted from this wheel: {reason}")
            return
        for file in folder.iterdir():
            target = f"scheduler/{folder.parent.name}/{folder.name}/{file.name}"
            build_data["force_include"][str(file)] = target
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def main() -> None:
    """Compile what has changed, and say in one line whether muster runs compiled from now on."""
    if sys.argv[1:2] == ["--into"]:
        _compile_here(Path(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--install"]:
        install_tools()
    try:
        folder = compiled_folder()
    except RuntimeError as reason:
        print(f"muster runs interpreted: {reason}")
        return
    print(f"muster runs compiled: {folder.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
