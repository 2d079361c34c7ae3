"""One writer: what is shipped writes a file by `scheduler.whole`, or is named here with its reason.

Found in the source, so that a new writer is found before anybody interrupts it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("scheduler", "sim", "traces", "trainer", "bench", "notebooks", "deploy")

#: methods that write to the path they are called on, or are given
WRITING = {
    "write_text", "write_bytes", "symlink_to", "hardlink_to", "savefig", "tofile",
    "to_parquet", "to_csv", "to_json", "to_excel", "to_feather", "to_pickle", "to_hdf", "to_orc",
    "to_html", "to_latex", "to_markdown", "to_stata", "to_xml", "write_html", "write_image",
    "write_table", "write_csv", "write_feather", "ParquetWriter", "CSVWriter", "extractall",
    "savez", "savez_compressed", "savetxt", "print_png", "print_svg", "print_figure",
    "truncate", "ftruncate", "mknod", "mkfifo", "NamedTemporaryFile", "mkstemp", "FileHandler",
}  # fmt: skip
#: functions that write, by their module
FUNCTIONS = {
    "os": {"replace", "rename", "renames", "link", "symlink"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "make_archive", "unpack_archive"},
    "np": {"save"}, "numpy": {"save"}, "torch": {"save"}, "joblib": {"dump"},
    "json": {"dump"}, "pickle": {"dump"}, "toml": {"dump"}, "yaml": {"dump"},
}  # fmt: skip
#: write if their mode says so
OPENING = {"open", "fdopen", "FileIO", "GzipFile", "BZ2File", "LZMAFile", "ZipFile"}
READING = {"O_RDONLY", "O_PATH", "O_DIRECTORY", "O_CLOEXEC"}  #: flags of os.open

APPENDED = "grows by whole lines; who reads it leaves out a torn last one"
TORN = "cuts off a line that was not written to its end"
OUTPUT = "what a program prints while it runs"
LOCK = "a lock, which holds nothing"
SYSTEM = "a setting of the system, which cannot be replaced"
TEMPORARY = "in a temporary folder of this process"

#: what writes without `scheduler.whole`: file and function, and why
EXCEPTIONS = {
    ("bench/sim.py", "reading_rows"): "a file in a folder that goes with the measurement",
    ("scheduler/journal/file.py", "_open"): APPENDED,
    ("scheduler/journal/file.py", "_set_aside"): "a full journal gets another name, whole",
    ("scheduler/journal/file.py", "_end_torn_line"): TORN,
    ("scheduler/journal/file.py", "writable"): TORN,
    ("scheduler/controlplane/processes.py", "start"): OUTPUT,
    ("scheduler/controlplane/node_init.py", "tend"): OUTPUT,
    ("scheduler/controlplane/node_init.py", "mount_all"): SYSTEM,
    ("scheduler/controlplane/node_init.py", "join_network"): SYSTEM,
    ("scheduler/controlplane/cgroups.py", "make"): SYSTEM,
    ("scheduler/controlplane/cgroups.py", "weigh"): SYSTEM,
    ("scheduler/controlplane/cgroups.py", "_pass_on"): SYSTEM,
    ("scheduler/controlplane/cluster.py", "_alone"): LOCK,
    ("scheduler/controlplane/components.py", "provide"): LOCK,
    ("scheduler/controlplane/access.py", "write_etcd"): "an empty file, the last of a folder",
    ("scheduler/controlplane/nodes.py", "write"): "an empty file",
    ("scheduler/controlplane/private_folder.py", "claim"): "links, made at once",
    ("scheduler/controlplane/cluster.py", "down"): "an ended cluster's folder, on its way out",
    ("sim/study/progress.py", "__call__"): (
        "rewritten all the time, removed with its task, and half of it counts as nothing"
    ),
    ("trainer/index.py", "put"): "the trainer's own writer: its image has no other folder of ours",
    ("trainer/checkpoint.py", "restore"): "a damaged checkpoint gets another name, whole",
    ("trainer/goodput.py", "__init__"): APPENDED,
    ("trainer/goodput.py", "_count_attempts"): TORN,
    ("trainer/goodput.py", "_append"): TORN,
    ("trainer/health.py", "__init__"): "one line of fixed length, rewritten by one write",
    ("trainer/session.py", "_leave"): "the file that the kubelet mounts, which must stay",
    ("trainer/local.py", "start"): OUTPUT,
    ("bench/accasim_peer.py", "main"): TEMPORARY,
    ("bench/peer.py", "accasim_python"): "an empty file, the last of a folder",
}  # fmt: skip


def name_of(node: ast.expr) -> str:
    """Return the last word of a name such as `os.replace`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def names_in(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def opens_for_writing(call: ast.Call) -> bool:
    """True if a call that opens something says that it writes, or does not say."""
    if ast.unparse(call.func) == "os.open":
        flags = ast.walk(call.args[1])
        return not {name_of(one) for one in flags if isinstance(one, ast.expr)} <= {*READING, "os"}
    words = [*call.args, *(one.value for one in call.keywords)]
    texts = [one.value for one in words if isinstance(one, ast.Constant)]
    modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwaxbt+")]
    return any(set(mode) & set("wax+") for mode in modes)


def writes(call: ast.Call) -> bool:
    """True if a call writes to a path, as far as its name and its arguments tell."""
    name = name_of(call.func)
    of = name_of(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name in OPENING:
        return opens_for_writing(call)
    if name in FUNCTIONS.get(of, ()):
        return True
    if name in ("rename", "replace", "move"):  # of a path; text takes two, tables take words
        is_method = isinstance(call.func, ast.Attribute) and of not in ("structs", "dataclasses")
        return is_method and len(call.args) == 1 and not call.keywords
    if name == "touch":
        return not call.args
    if name.startswith("to_") and not call.args and not call.keywords:
        return False  # returns text
    return name in WRITING


class Walk(ast.NodeVisitor):
    """Collects the calls that write to something other than a part or a buffer."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int, str]] = []
        self.function = "<module>"
        self.free: set[str] = set()  #: names of parts, buffers and what is opened on them

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before = self.function, self.free
        self.function, self.free = node.name, set(self.free)
        self.generic_visit(node)
        self.function, self.free = before

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Call | ast.Tuple):
            calls = [one for one in ast.walk(node.value) if isinstance(one, ast.Call)]
            if calls and all(name_of(one.func) in ("BytesIO", "StringIO") for one in calls):
                self.free |= set().union(*map(names_in, node.targets))
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            call = item.context_expr
            is_part = isinstance(call, ast.Call) and ast.unparse(call.func) == "whole.replacing"
            self.visit(call)
            if item.optional_vars is not None and (is_part or names_in(call) & self.free):
                self.free |= names_in(item.optional_vars)
        for line in node.body:
            self.visit(line)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        is_ours = ast.unparse(node.func).startswith("whole.")
        to = [*node.args, *(one.value for one in node.keywords)]
        if isinstance(node.func, ast.Attribute):
            to.append(node.func.value)
        if writes(node) and not is_ours and not set().union(*map(names_in, to)) & self.free:
            self.found.append((self.function, node.lineno, ast.unparse(node)[:90]))


def found_in(source: str) -> list[tuple[str, int, str]]:
    walk = Walk()
    walk.visit(ast.parse(source))
    return walk.found


def every_writer() -> Iterator[tuple[str, str, int, str]]:
    for folder in SHIPPED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            if place == "scheduler/whole.py":
                continue
            for function, line, text in found_in(path.read_text(encoding="utf-8")):
                yield place, function, line, text


def test_everything_is_written_whole() -> None:
    wrong = [
        f"{place}:{line} {function}: {text}"
        for place, function, line, text in every_writer()
        if (place, function) not in EXCEPTIONS
    ]
    assert not wrong, (
        "write it by scheduler.whole (write_text, write_bytes, replacing), or name it in "
        "EXCEPTIONS with the reason:\n" + "\n".join(wrong)
    )


def test_every_exception_is_one() -> None:
    found = {(place, function) for place, function, _, _ in every_writer()}
    assert not EXCEPTIONS.keys() - found, "take these out"


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('x')", "Path(p).write_bytes(b)", "open(path, 'w')", "open(p, mode='ab')",
        "path.open('w', encoding='utf-8')", "gzip.open(path, 'wt')", "os.open(p, os.O_WRONLY)",
        "os.open(p, flags, 0o644)",
        "table.to_csv(path)", "table.to_parquet(folder / 'a')", "figure.savefig(path, dpi=1)",
        "np.save(path, a)", "torch.save(a, path)", "json.dump(a, file)", "pq.write_table(t, path)",
        "shutil.copy(a, b)", "shutil.move(a, b)", "os.replace(a, b)", "part.replace(path)",
        "part.rename(path)", "os.rename(a, b)", "path.touch()", "path.symlink_to(other)",
        "tarfile.open(path, 'w')", "zipfile.ZipFile(path, 'w')", "pa.OSFile(path, 'wb').open('w')",
        "gzip.GzipFile(path, 'wb')", "with whole.replacing(a) as part:\n    table.to_csv(path)",
    ],
)  # fmt: skip
def test_a_writer_is_found(line: str) -> None:
    assert found_in(line)


@pytest.mark.parametrize(
    "line",
    [
        "gzip.GzipFile(fileobj=x)", "work.touch(key)",
        "open(path)", "path.open('rb')", "open(path, encoding='utf-8')", "table.to_csv()",
        "text.replace('a', 'b')", "table.rename(columns=names)", "msgspec.structs.replace(a, b=1)",
        "whole.write_text(path, text)", "os.open(path, os.O_RDONLY)", "socket.open(host, port)",
        "with whole.replacing(a) as part:\n    table.to_csv(part, index=False)",
        "with whole.replacing(a) as part, part.open('wb') as out:\n    out.truncate()",
        "with whole.replacing(a) as p, p.open('wb') as o, GzipFile('', 'wb', fileobj=o) as z:\n"
        "    table.to_csv(z)",
        "out = io.BytesIO()\nfigure.savefig(out)", "out = BytesIO()\ntorch.save(a, out)",
    ],
)  # fmt: skip
def test_what_reads_or_is_written_whole_is_not(line: str) -> None:
    assert not found_in(line)
