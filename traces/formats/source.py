"""A jobs file as bytes and text, and how the cells of a text lie."""

from __future__ import annotations

import csv
import io
import re
import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from traces.schema import TraceError
from traces.unpacking import is_packed, names_container, unpacked

#: how much of a file is looked at to recognise its format
HEAD_BYTES = 1 << 16
#: what may part the cells of a row; of those that are equally frequent in the header, the first
DELIMITERS = (",", ";", "\t", "|")
#: where a line ends
LINE_END = re.compile(r"\r\n|\r|\n")
#: a byte order mark and what it says
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
#: the first bytes of a Parquet table
PARQUET = b"PAR1"


class Layout(NamedTuple):
    """How the cells of a text lie."""

    delimiter: str
    first: int  #: the line of the header, from 0
    header: tuple[str, ...]
    comments: int = 0  #: comment lines before it


def check_readable(path: str | Path) -> None:
    """Raise TraceError if a jobs file cannot be read, as often as it has to be."""
    what = f"jobs file {str(path)!r}"
    try:
        if stat.S_ISDIR(mode := Path(path).stat().st_mode):
            raise TraceError(f"{what} is a folder; give a file in it")
        if not stat.S_ISREG(mode):
            raise TraceError(
                f"{what} is not a file but a pipe or a device, and a jobs file is read more than "
                "once; write its content to a file and give that"
            )
        with Path(path).open("rb"):
            return
    except OSError as error:
        way_out = "; write standard input to a file and give that" if str(path) == "-" else ""
        raise TraceError(f"{what}: {error.strerror}{way_out}") from None


class Source:
    """A file, unpacked once and looked at by recognition and reader alike.

    `columns` is the header of a file that has none; `names` renames columns, theirs -> ours.
    """

    def __init__(
        self, path: Path, columns: tuple[str, ...] = (), names: Mapping[str, str] | None = None
    ) -> None:
        self.path = path
        self.columns = columns
        self.names = names or {}
        self._is_bare = False  #: in no container; known once `start` is
        self.is_table = False  #: a reader has used its columns

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def content(self) -> bytes:
        """The bytes of the file, out of every container that it lies in.

        Raises:
            TraceError: it cannot be read, or is no sound container, or unpacks to too much.
        """
        return unpacked(self.path)

    @cached_property
    def start(self) -> bytes:
        """The first bytes of `content`; a file in no container is not read further for them."""
        try:
            with self.path.open("rb") as file:
                found = file.read(HEAD_BYTES)
        except OSError as error:
            raise TraceError(f"jobs file {str(self)!r}: {error.strerror}") from None
        self._is_bare = not is_packed(found) and not names_container(self.path)
        return found if self._is_bare else self.content[:HEAD_BYTES]

    def stream(self) -> BinaryIO:
        """Open the content for reading in parts; the caller closes it."""
        _ = self.start
        return self.path.open("rb") if self._is_bare else io.BytesIO(self.content)

    @property
    def name(self) -> str:
        """The file's name in small letters, without the endings of containers."""
        name = self.path.name.lower()
        for ending in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".tar"):
            name = name.removesuffix(ending)
        return name

    @cached_property
    def is_parquet(self) -> bool:
        """True if the file is a Parquet table, by its first bytes or, if empty, by its name."""
        if self.is_plain_parquet or self.name.endswith((".parquet", ".pq")):
            return True
        return self.start[:4] == PARQUET

    @cached_property
    def is_plain_parquet(self) -> bool:
        """True if the file is a Parquet table that lies in no container."""
        with self.path.open("rb") as file:
            return file.read(4) == PARQUET

    @cached_property
    def head(self) -> str:
        """The beginning of the file as text; what is not text is replaced."""
        if self.is_parquet:
            return ""
        return self.start.decode(encoding_of(self.start), "replace")

    @cached_property
    def layout(self) -> Layout:
        """How the cells of a table lie in it."""
        return layout_of(self.head, str(self))

    @property
    def header(self) -> tuple[str, ...]:
        """The names of a text's columns: those given, or the first line that is no comment."""
        if self.is_parquet:
            return ()
        return tuple(self.renamed(self.columns or self.layout.header))

    def renamed(self, header: Sequence[str]) -> list[str]:
        """Return the names of columns as the user renames them.

        Raises:
            TraceError: a name is mapped that the file lacks, or onto one that it has.
        """
        for theirs, ours in self.names.items():
            if theirs not in header:
                raise TraceError(
                    f"{self}: --map {theirs}={ours}: the file has no column {theirs!r}; "
                    f"it has {', '.join(header)}"
                )
        found = [self.names.get(name, name) for name in header]
        for theirs, ours in self.names.items():
            if found.count(ours) > 1:
                raise TraceError(
                    f"{self}: --map {theirs}={ours}: there is another column {ours!r}; rename that "
                    f"one too, as with --map {ours}=old_{ours} --ignore-extra"
                )
        return found


def encoding_of(content: bytes) -> str:
    """Return the encoding that a byte order mark names; without one it is UTF-8."""
    return next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")


def layout_of(text: str, source: str, num_columns: int = 0) -> Layout:
    """Return how a table lies in a text: where its header is, and what parts its cells.

    Blank lines and lines that begin with # may come before a header; so may Excel's `sep=;`. A text
    of `num_columns` columns has no header: its first row counts, even if its name begins with #.

    Raises:
        TraceError: the header's quotes do not match.
    """
    told = ""
    comments = 0
    for number, line in enumerate(LINE_END.split(text[: 16 * HEAD_BYTES])):
        if match := re.fullmatch(r'"?sep=(.)"?\s*', line):
            told = match[1]
            continue
        delimiter = told or _delimiter(line, num_columns)
        if line.lstrip().startswith("#") and line.count(delimiter) + 1 != num_columns:
            comments += 1
            continue
        try:
            cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error as error:
            raise TraceError(f"jobs file {source!r}, line {number + 1}: {error}") from None
        if any(cell.strip() for cell in cells):
            header = tuple(cell.strip() for cell in cells)
            return Layout(delimiter, number, header, comments)
    return Layout(told or ",", 0, (), comments)


def _delimiter(line: str, num_columns: int) -> str:
    """Return what parts the cells of a line; of a row, what gives as many as there are columns."""
    outside_quotes = re.sub(r'"[^"]*"', "", line)
    for one in DELIMITERS:
        if num_columns > 1 and outside_quotes.count(one) + 1 == num_columns:
            return one
    return max(DELIMITERS, key=outside_quotes.count)
