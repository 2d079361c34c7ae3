"""What muster wrote into a folder: only that is ever removed; and how a folder takes its name."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: lists, one a line, what a report wrote beside itself
MARK = ".muster"
PAGES = ("report.html", "report.md")
#: files of a run folder, and those that a trainer leaves
RUN = re.compile(
    r"(jobs|attempts|pending|allocation|nodes)\.parquet|config\.toml|rejected\.csv|"
    r"(manifest|summary|timeline)\.json"
)
TRAINING = re.compile(
    r"config\.toml|time_split\.png|goodput/rank_\d+\.jsonl|heartbeat/rank_\d+|"
    r"pods/attempt_\d+_pod_\d+\.log|checkpoints/step_\d+(\.damaged)?/"
    r"(\.metadata(\.tmp)?|__\d+_\d+\.distcp|checksums_\d+\.json|index\.json)"
)


def listed(folder: Path) -> set[str]:
    """Return the files that a report wrote into a folder, by its own list."""
    try:
        lines = (folder / MARK).read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return set()
    return {line for line in lines if line and not {"", "..", "."} & set(line.split("/"))}


def mark(folder: Path, files: Iterable[str]) -> None:
    """Note which files a report writes into a folder."""
    (folder / MARK).write_text("".join(f"{name}\n" for name in sorted(files)), "utf-8")


def strangers(folder: Path, form: re.Pattern[str]) -> list[str]:
    """Return what is in a folder beside files of a form, and those that a report lists."""
    own = listed(folder) | {MARK}
    return [name for name in _entries(folder) if name not in own and not form.fullmatch(name)]


def _entries(folder: Path) -> Iterator[str]:
    """Yield what is in a folder: files, links, and folders in which nothing is."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield (here / name).relative_to(folder).as_posix()
        if here != folder and not folders and not files:
            yield here.relative_to(folder).as_posix()


def refuse_strangers(folder: Path, form: re.Pattern[str]) -> None:
    """Raise ValueError if a folder holds what muster did not write."""
    found = strangers(folder, form)
    if found:
        more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
        raise ValueError(
            f"{str(folder)!r} holds {found[0]!r}{more}, which muster did not write; it stays: "
            "move it away, or choose another --out"
        )


def refuse_foreign(folder: Path, files: Iterable[str]) -> None:
    """Raise ValueError if one of these files is there, and no report wrote it."""
    own = listed(folder)
    for name in files:
        if name not in own and os.path.lexists(folder / name):
            raise ValueError(
                f"{str(folder / name)!r} is there, and no report that this muster wrote; it stays: "
                "move it away, or choose another --out"
            )


def remove_listed(folder: Path) -> None:
    """Remove what the last report wrote into a folder, and the folders that are empty then."""
    for name in sorted(listed(folder)):
        path = folder / name
        if any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(folder)):
            continue  # leads elsewhere
        path.unlink(missing_ok=True)
        if path.parent != folder:
            with suppress(OSError):  # something else is in it
                path.parent.rmdir()


# -- whole folders and files -------------------------------------------------------------------


def put(target: Path, check: Callable[[Path], None], fill: Callable[[Path], None]) -> None:
    """Have a folder filled, and give it its name once all of it is on the disk.

    It appears whole or not at all. `check` raises ValueError where what is there must stay.
    """
    target = target.resolve()
    if target.is_dir():
        with _alone(target.parent):
            check(target)
    part = _beside(target, "partial")
    part.mkdir(parents=True)
    try:
        fill(part)
        _sync_all(part)
        publish(part, target, check)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def publish(part: Path, target: Path, check: Callable[[Path], None]) -> None:
    """Rename a folder that is whole, in place of an earlier one that may be replaced."""
    aside = _beside(target, "replaced")
    with _alone(target.parent):
        if target.is_dir():
            check(target)
            os.rename(target, aside)
        os.rename(part, target)
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time rename what is in a folder, where the file system can."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def put_file(path: Path, content: bytes) -> None:
    """Write a file that has its name only once all of it is on the disk."""
    part = _beside(path, "partial")
    try:
        part.write_bytes(content)
        put_part(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def put_part(part: Path, path: Path) -> None:
    """Give a file that is written its name, once all of it is on the disk."""
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _sync_all(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            sync(Path(place, name))
        sync(Path(place))


def _beside(path: Path, what: str) -> Path:
    """Return a name in the same folder that no other process chooses."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.{what}")
