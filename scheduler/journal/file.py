"""The journal as files: written in batches, rotated when full, resumed after a failure."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from scheduler.journal.lines import Gap, encode

log = logging.getLogger("muster.journal")
HELD_BYTES = 1 << 16  #: written together
MOST_HELD_BYTES = 1 << 23  #: of one pass
PROBE_BYTES = 1 << 16


class Journal:
    """A file of lines that is rotated when it is full; the previous file is kept.

    Lines are buffered and written together, so that a reader finds no partial line. While the file
    cannot be written, lines are counted instead; afterwards it continues with a `Gap` and a
    snapshot. Lines are numbered from each snapshot on, so that a missing one is noticed.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = self._full_at = max_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._file: int | None = None
        self._size = 0
        self._number = 0  #: also of lines for people that come before this process's first snapshot
        self._begun = False
        self._why = ""  #: what the last write failed with
        self._unsaid = 0  #: lost lines that no gap in the file tells of
        self.num_lost = 0  #: since the start
        self.full = False  #: the next state snapshot begins a new file

    @property
    def failing(self) -> bool:
        """True from a failed write until the snapshot with which the file continues."""
        return bool(self._why)

    def write(self, line: bytes, *, rests: bool = False) -> None:
        """Append a line; where the state `rests`, between passes, lines may be written."""
        self._number += self._begun
        line = b'{"n":%d,%b\n' % (self._number, line[1:])
        self._held.append(line)
        self._held_bytes += len(line)
        self.full = not self.failing and self._size + self._held_bytes >= self._full_at
        if self._held_bytes > (HELD_BYTES if rests else MOST_HELD_BYTES):
            self.flush()

    def begin(self, now_s: float, snapshot: bytes) -> None:
        """Append the state that the lines after it change: in a new file if this one is full."""
        if self.full:
            self.flush()
            self._set_aside()
        if self.failing:
            self._lose()
            gap = Gap(self._unsaid, self._why)
            self._why = ""
            self._held.append(encode(now_s, gap) + b"\n")
        self._number, self._begun = -1, True
        self.write(snapshot)
        self.flush()

    def files(self) -> list[Path]:
        """Return the files that there are, the oldest first."""
        aside = self._path.parent.glob(f"{self._path.name}.*")
        numbered = {int(p.suffix[1:]): p for p in aside if p.suffix[1:].isdigit()}
        found = [numbered[number] for number in sorted(numbered, reverse=True)]
        return [*found, self._path] if self._path.is_file() else found

    def flush(self) -> None:
        """Write the buffered lines; does not raise."""
        if self._held and not self.failing:
            self._try(self._write)
        if self.failing:
            self._lose()

    def writable(self) -> bool:
        """True if the file can be written again, so that a snapshot makes sense."""
        try:
            self._open()
            assert self._file is not None
            probe = b" " * PROBE_BYTES  # a full disk opens files, and takes short ones, too
            size = os.fstat(self._file).st_size
            try:
                return os.write(self._file, probe) == len(probe)
            finally:
                os.ftruncate(self._file, size)
        except OSError:
            return False

    def close(self) -> None:
        """Write the buffered lines, and close the file."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lose(self) -> None:
        self.num_lost += len(self._held)
        self._unsaid += len(self._held)
        self._held.clear()
        self._held_bytes = 0

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            if not self.failing:
                log.error(
                    "journal %s cannot be written: %s; scheduling continues, and the journal "
                    "misses what happens now",
                    self._path, error.strerror or error,
                )  # fmt: skip
            self._why = error.strerror or str(error)
            if self._file is not None:
                with suppress(OSError):
                    os.close(self._file)
                self._file = None

    def _open(self) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o644)
            self._end_torn_line()

    def _write(self) -> None:
        self._open()
        assert self._file is not None
        left = memoryview(b"".join(self._held))
        while left:
            done = os.write(self._file, left)
            left = left[done:]
        self._size += self._held_bytes
        self._held.clear()
        self._held_bytes = self._unsaid = 0

    def _end_torn_line(self) -> None:
        """Cut off a last line that was not written to its end."""
        assert self._file is not None
        size = os.fstat(self._file).st_size
        end = size
        while end:
            start = max(0, end - 65536)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)
        self._size = end

    def _set_aside(self) -> None:
        """Begin a new file; where the old one cannot be moved, go on with it for as long again."""
        try:
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        except OSError as error:
            log.error("journal %s cannot be rotated: %s", self._path, error.strerror or error)
            self._full_at = self._size + self._max_bytes
            return
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._size, self._full_at = 0, self._max_bytes
