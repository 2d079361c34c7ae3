"""How a jobs file is read: the options that every command and settings file has for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec

import traces


class Reader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the user says of a jobs file; docs/tables.md explains every word."""

    kind: str = ""  #: format of the file; empty: recognised by its content
    on_bad_row: Literal["fail", "skip"] = "fail"
    gpus_per_pod: int | None = None  #: where processors are counted: so many make a pod
    map: dict[str, str] = {}  #: columns: theirs -> ours
    ignore_extra: bool = False  #: pass over columns that nobody knows
    columns: tuple[str, ...] = ()  #: the header of a file that has none
    dates: Literal["", "day-first", "month-first"] = ""

    def read(self, path: str | Path) -> traces.LoadedJobs:
        """Read a jobs file.

        Raises:
            TraceError: it cannot be read, or an option does not go with it.
        """
        return traces.load(path, **self.given())

    def given(self) -> dict[str, Any]:
        """Return the options that say something."""
        silent = Reader()
        return {
            name: getattr(self, name)
            for name in OPTIONS
            if getattr(self, name) != getattr(silent, name)
        }


OPTIONS = Reader.__struct_fields__

#: a clock that stands beyond this is taken to count from 1970, as Unix does: 1973
UNIX_S = 1e8


def origin(offset_s: float) -> str:
    """Say where times count from; `offset_s` is the first submission on the file's own clock."""
    if UNIX_S <= offset_s < 1e11:
        when = datetime.fromtimestamp(0, UTC) + timedelta(seconds=int(offset_s))
        return f"count from {when:%Y-%m-%d %H:%M:%S} UTC, the first submission"
    return f"count from the first submission, {offset_s:,.10g} s on the clock of the jobs"
