"""Files and folders that have their name only once they are whole: the one writer of the project.

What is written lies beside its target under a hidden name, and is renamed when it is done. Whatever
ends the writing early, Ctrl-C included, removes it and leaves what had the name before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_START = r"\.partial-\d+-[0-9a-f]{8}-"
#: names of what is not whole; a killed process may leave one
PART = re.compile(f"{_START}.*", re.DOTALL)
#: bytes that the system allows a name
_MAX_NAME = 255
#: what the process has open already: a file there is written to, never replaced
_OPEN = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")


def write_text(
    path: str | Path, text: str, *, mode: int | None = None, durable: bool = False
) -> None:
    """Write a file in UTF-8; see `replacing`."""
    write_bytes(path, text.encode("utf-8"), mode=mode, durable=durable)


def write_bytes(
    path: str | Path, content: bytes, *, mode: int | None = None, durable: bool = False
) -> None:
    """Write a file; see `replacing`."""
    with replacing(path, mode=mode, durable=durable) as part:
        part.write_bytes(content)


@contextmanager
def replacing(
    path: str | Path, *, mode: int | None = None, durable: bool = False
) -> Iterator[Path]:
    """Yield the path of an empty file to write to; it becomes `path` at the end of the block.

    The file keeps the ending of the name, the place that a link leads to, and the mode bits of an
    earlier file; `mode` gives others. With `durable` it is on the disk before it has its name. A
    device or a FIFO is written to directly, and so is what the process has open, as /dev/stdout.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    if _is_written_to(path):
        yield Path(path)
        return
    target = Path(os.path.realpath(path))
    part = part_of(target)
    try:
        try:
            _create(part, target, mode)
            yield part
            if durable:
                sync(part)
            os.replace(part, target)
        except OSError as error:
            raise _named(error, part, path) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync(target.parent)


def _named(error: OSError, part: Path, path: str | Path) -> OSError:
    """Return an error of the name that people gave; a full disk names none."""
    name = str(part) if error.filename is None else str(error.filename)
    if error.errno is None or not name.startswith(str(part)):
        return error
    return OSError(error.errno, error.strerror, f"{path}{name[len(str(part)) :]}")


def _is_written_to(path: str | Path) -> bool:
    if os.path.abspath(path).startswith(_OPEN):
        return True
    try:
        kind = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def _create(part: Path, target: Path, mode: int | None) -> None:
    """Make an empty file; one with secrets is nobody else's to read at any moment."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(part))
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode))
    if mode is None:
        with suppress(FileNotFoundError):
            os.chmod(part, stat.S_IMODE(target.stat().st_mode))


def part_of(target: Path) -> Path:
    """Return a hidden name beside `target`, of the same ending, that no other process chooses."""
    start = f".partial-{os.getpid()}-{secrets.token_hex(4)}-"
    name = os.fsencode(target.name)[len(start) - _MAX_NAME :]
    return target.with_name(start + os.fsdecode(name))


def parts_of(target: Path) -> list[Path]:
    """Return what writers of `target` that live, or were killed, have beside it."""
    name = re.compile(_START + re.escape(target.name))
    try:
        return [one for one in target.parent.iterdir() if name.fullmatch(one.name)]
    except FileNotFoundError:
        return []


# -- folders -----------------------------------------------------------------------------------


def put_folder(
    target: Path,
    check: Callable[[Path], None],
    fill: Callable[[Path], None],
    *,
    within: Path | None = None,
) -> None:
    """Have a folder filled, and give it its name once all of it is on the disk.

    It appears whole or not at all, in place of an earlier one. `check` raises ValueError where what
    is there must stay. Until then it lies in `within`, by default beside its target.
    """
    target = target.resolve()
    if target.is_dir():
        with _alone(target.parent):
            check(target)
    near = target if within is None else within.resolve() / target.name
    part, aside = part_of(near), part_of(near)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(parents=True)
        fill(part)
        _sync_all(part)
        with _alone(target.parent):
            try:
                if target.is_dir():
                    check(target)
                    os.rename(target, aside)
                os.rename(part, target)
            finally:  # nobody else is between the two names, for they hold the lock there
                if aside.is_dir() and not os.path.lexists(target):
                    os.rename(aside, target)
        sync(target.parent)
    except OSError as error:
        raise _named(error, part, target) from None
    finally:
        for left in (part, aside):
            _remove(left)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # Ctrl-C comes while an earlier folder is removed, too
        shutil.rmtree(folder, ignore_errors=True)
        raise


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
