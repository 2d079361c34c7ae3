"""What a reader gets and gives.

A module of this package reads one format. It has one function, `read(source, options)`, which
returns a `Reading`, and it imports nothing of other formats. `catalog` lists the formats and how
a file of each is recognised; `rows`, `text`, `dates` and `outcomes` hold what readers share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from traces.schema import GPUS_PER_NODE
from traces.unpacking import unpacked

#: how much of a file is looked at to recognise its format
HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Options:
    """What the user says of a file."""

    on_bad_row: str = "fail"  #: or "skip"
    gpus_per_node: int = GPUS_PER_NODE  #: a job's GPUs are cut into pods of at most so many
    gpus_per_pod: int | None = None  #: SWF: so many processors make a pod
    names: Mapping[str, str] = field(default_factory=dict)  #: columns: theirs -> ours
    ignore_extra: bool = False  #: pass over columns that nobody knows
    columns: tuple[str, ...] = ()  #: the header of a file that has none
    dates: str = ""  #: "day-first" or "month-first", where a column of dates may be either


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader found."""

    jobs: pd.DataFrame  #: canonical columns; `submit_s` on the file's own clock
    rejected: pd.DataFrame  #: line, column, value, reason, row: bad rows and rows left out
    left_out: Mapping[str, int] = field(default_factory=dict)  #: reason -> sound rows left out
    notes: tuple[str, ...] = ()  #: sentences: what was assumed, or not understood


class Source:
    """A file, unpacked once and looked at by recognition and reader alike."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def content(self) -> bytes:
        """The bytes of the file, out of every container that it lies in.

        Raises:
            TraceError: it cannot be read, or is no sound container, or unpacks to too much.
        """
        return unpacked(self.path)

    @property
    def name(self) -> str:
        """The file's name in small letters, without the endings of containers."""
        name = self.path.name.lower()
        for ending in (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar"):
            name = name.removesuffix(ending)
        return name

    @property
    def is_parquet(self) -> bool:
        """True if the file is a Parquet table, by its first bytes or, if empty, by its name."""
        return self.content[:4] == b"PAR1" or self.name.endswith((".parquet", ".pq"))

    @cached_property
    def head(self) -> str:
        """The beginning of the file as text; what is not text is replaced."""
        from traces.formats.text import encoding_of

        encoding = encoding_of(self.content)
        return self.content[:HEAD_BYTES].decode(encoding, "replace").lstrip("\ufeff")

    @cached_property
    def header(self) -> tuple[str, ...]:
        """The cells of the first line that is neither blank nor a comment."""
        from traces.formats.text import header_of

        return header_of(self)
