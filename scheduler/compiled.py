"""Decides whether the core and the engines run compiled, and says so.

`make compile` puts their compiled modules into `_compiled/`, in a folder named by the kind of
Python and by a hash of their source. They run if the present source has that hash; all of them or
none, because compiled modules rely on one another's internals.
"""

import importlib
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import source_hash, spec_from_file_location
from types import ModuleType

#: rooms whose modules are compiled
COMPILED = ("scheduler/core", "scheduler/policies", "sim/engines")
#: rooms that these import: a compiled module holds constants and types of theirs
READ = (*COMPILED, "sim/schema", "traces")
#: the compiled code of all modules; a module's own file only points into it
LIBRARY = "muster__mypyc"
#: beside it: of each module's classes
ANNOTATIONS = "annotations.json"
#: for debuggers, coverage, and the tests that compare the two
SWITCH = "MUSTER_INTERPRETED"

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "scheduler", "_compiled")
SUFFIX = EXTENSION_SUFFIXES[0]

_ran = "interpreted"


def which() -> str:
    """Return "compiled", or "interpreted: " and why."""
    return _ran


def switched_off() -> bool:
    """True if this process was asked to run the source."""
    return os.environ.get(SWITCH, "0") not in ("", "0")


def sources(root: str, rooms: tuple[str, ...]) -> list[str]:
    """Return the modules of these rooms as paths below `root`, sorted."""
    return sorted(
        f"{room}/{name}"
        for room in rooms
        for name in os.listdir(os.path.join(root, room))
        if name.endswith(".py")
    )


def modules(root: str) -> list[str]:
    """Return the names of the modules that are compiled."""
    return [
        path[:-3].replace("/", ".")
        for path in sources(root, COMPILED)
        if not path.endswith("/__init__.py")
    ]


def key(root: str) -> str:
    """Return the name of the folder for modules compiled from the present source.

    Costs about 2 ms: 50 small files, with SipHash, which Python uses for its own compiled files.
    """
    text = bytearray()
    for path in sources(root, READ):
        with open(os.path.join(root, path), "rb") as file:
            source = file.read()
        text += f"{path} {len(source)}\n".encode() + source
    return f"{SUFFIX.split('.')[1]}-{source_hash(bytes(text)).hex()}"


class _Finder:
    """Finds the compiled modules before Python finds their source."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        file = self.files.get(name)
        if file is None:
            return None
        return spec_from_file_location(name, file, loader=_Loader(name, file))


class _Loader(ExtensionFileLoader):
    """Gives classes the annotations of the source; mypyc keeps no more of them than a type's name.

    Who reads or writes values of the core, as msgspec does for journals, goes by them.
    """

    #: by module and class, of modules that are not imported yet
    texts: dict[str, dict[str, dict[str, str]]] | None = None

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        texts = _Loader.texts
        if texts is None:
            import json

            path = os.path.join(os.path.dirname(self.path), ANNOTATIONS)
            with open(path, encoding="utf-8") as file:
                texts = _Loader.texts = json.load(file)
        # Compiled modules import one another past this loader. One that imports a module of the
        # source, which imports a compiled one, is not whole yet; its own import comes back here.
        for name in [name for name in texts if name in sys.modules]:
            known = vars(sys.modules[name])
            if known.keys() >= texts[name].keys():
                for class_name, annotations in texts.pop(name).items():
                    known[class_name].__annotations__ = annotations


def install() -> None:
    """Let this process import the compiled modules if they match the present source."""
    global _ran
    reason = _lack()
    _ran = f"interpreted: {reason}" if reason else "compiled"


def _lack() -> str:
    """Take the compiled modules into use, or return why not."""
    if switched_off():
        return f"{SWITCH} is set"
    if not os.path.isdir(FOLDER):
        return "not compiled"
    name = key(ROOT)
    folder = os.path.join(FOLDER, name)
    if not os.path.isdir(folder):
        return _other(name)
    files = {module: os.path.join(folder, module + SUFFIX) for module in (LIBRARY, *modules(ROOT))}
    needed = [*files.values(), os.path.join(folder, ANNOTATIONS)]
    if missing := [file for file in needed if not os.path.isfile(file)]:
        return f"{missing[0]} is missing; make compile"
    finder = _Finder(files)
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module(LIBRARY)
    except ImportError as error:
        sys.meta_path.remove(finder)
        return f"{error}; make compile"
    return ""


def _other(name: str) -> str:
    """Return why there is no folder of this name."""
    try:
        with open(os.path.join(FOLDER, "why-not"), encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        pass
    python = name.rpartition("-")[0]
    if any(other.startswith(python + "-") for other in os.listdir(FOLDER)):
        return "the source has changed since it was compiled; make compile"
    return f"not compiled for {python}; make compile"
