"""A jobs file as bytes and text, and how the cells of a text lie."""

from __future__ import annotations

import csv
import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from traces.schema import TraceError
from traces.unpacking import unpacked

#: how much of a file is looked at to recognise its format
HEAD_BYTES = 1 << 16
#: what may part the cells of a row; of those that are equally frequent in the header, the first
DELIMITERS = (",", ";", "\t", "|")
#: a byte order mark and what it says
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Layout(NamedTuple):
    """How the cells of a text lie."""

    delimiter: str
    first: int  #: the line of the header, from 0
    header: tuple[str, ...]
    comments: int = 0  #: comment lines before it


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
        encoding = encoding_of(self.content)
        return self.content[:HEAD_BYTES].decode(encoding, "replace").lstrip("\ufeff")

    @cached_property
    def header(self) -> tuple[str, ...]:
        """The cells of the first line that is neither blank nor a comment."""
        return layout_of(self.head, str(self)).header


def encoding_of(content: bytes) -> str:
    """Return the encoding that a byte order mark names; without one it is UTF-8."""
    return next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")


def layout_of(text: str, source: str) -> Layout:
    """Return how a table lies in a text: where its header is, and what parts its cells.

    Blank lines and lines that begin with # stand before a header; so does Excel's `sep=;`.

    Raises:
        TraceError: the header's quotes do not match.
    """
    told = ""
    comments = 0
    for number, line in enumerate(text[: 16 * HEAD_BYTES].splitlines()):
        line = line.lstrip("\ufeff") if not number else line
        if match := re.fullmatch(r'"?sep=(.)"?\s*', line):
            told = match[1]
            continue
        if line.lstrip().startswith("#"):
            comments += 1
            continue
        delimiter = told or _delimiter(line)
        try:
            cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error as error:
            raise TraceError(f"jobs file {source!r}, line {number + 1}: {error}") from None
        if any(cell.strip() for cell in cells):
            header = tuple(cell.strip() for cell in cells)
            return Layout(delimiter, number, header, comments)
    return Layout(told or ",", 0, (), comments)


def _delimiter(line: str) -> str:
    outside_quotes = re.sub(r'"[^"]*"', "", line)
    return max(DELIMITERS, key=outside_quotes.count)
