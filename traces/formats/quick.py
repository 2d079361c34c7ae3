"""Read a large jobs table at once: every column straight to its type, nothing kept as text.

Only tables without anything odd are read so. For all others `quick` returns None, and `text` looks
at each cell, as every message about a bad one needs it. Both give the same jobs; tests compare
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv as arrow_csv

from traces.formats.interface import Options
from traces.formats.rows import RawTable
from traces.formats.source import Layout, Source, encoding_of
from traces.schema import BY_NAME, DERIVED, EMPTY, GPUS, Column, TraceError, check_columns

PART_BYTES = 1 << 22
_TYPES = {
    "str": pa.large_string(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
}


def quick(source: Source, options: Options) -> RawTable | None:
    """Return the typed rows of a table in which nothing needs a second look."""
    if encoding_of(source.start) == "utf-16" or options.columns:
        return None
    try:
        layout, names = source.layout, list(source.header)
    except TraceError:
        return None
    known = {**BY_NAME, GPUS.name: GPUS}
    wanted = [name for name in names if name in known]
    if len(set(names)) < len(names):
        return None
    try:
        check_columns(wanted, str(source))
    except TraceError:  # said where the table is read with a second look
        return None
    if len(wanted) < len(names) and not options.ignore_extra:
        return None
    if not _is_plain(source, layout.first):
        return None
    columns = {name: known[name] for name in wanted}
    with source.stream() as file:
        table = _typed(file, layout, names, columns)
    if table is None or not all(_is_whole(table.column(name), columns[name]) for name in wanted):
        return None
    rows = {}
    for name in wanted:  # one after the other, so that no column is held twice for long
        column = table.column(name)
        table = table.drop_columns(name)
        rows[name] = _series(column)
        del column
    return RawTable(
        pd.DataFrame(rows, copy=False),
        pd.Series(dtype="int64"),  # nothing is wrong with any line
        str(source),
        delimiter=layout.delimiter,
        comments=layout.comments,
    )


def _typed(
    file: BinaryIO, layout: Layout, names: list[str], columns: dict[str, Column]
) -> pa.Table | None:
    """Return the columns in their types; None if a cell is of another."""
    try:
        return arrow_csv.read_csv(
            file,
            arrow_csv.ReadOptions(
                use_threads=False, column_names=names, skip_rows=layout.first + 1
            ),
            arrow_csv.ParseOptions(
                delimiter=layout.delimiter, quote_char=False, ignore_empty_lines=False
            ),
            arrow_csv.ConvertOptions(
                column_types={name: _TYPES[column.dtype] for name, column in columns.items()},
                null_values=["", *EMPTY],
                strings_can_be_null=True,
                include_columns=list(columns),
            ),
        )
    except pa.ArrowInvalid:
        return None


def _series(column: pa.ChunkedArray) -> pd.Series:
    if pa.types.is_large_string(column.type):
        return pd.Series(pd.array(column.combine_chunks(), dtype="str"), copy=False)
    return pd.Series(column.to_numpy(), copy=False)


def _is_plain(source: Source, first: int) -> bool:
    """True if a text below its header has neither quotes, comments nor odd ends of lines.

    It has letters of ASCII alone, too, whose blanks are found fast.
    """
    before = b""
    parts = _body(source, first)
    for part in parts:
        if b'"' in part or not part.isascii():
            return False
        if b"\r" in part and part.count(b"\r") != part.count(b"\r\n"):
            return False
        if b"\n#" in part or b"\n#" in before[-1:] + part[:1] or (not before and part[:1] == b"#"):
            return False
        before = part
    return True


def _body(source: Source, first: int) -> Iterator[bytes]:
    """Yield what follows the header, in parts that do not end between \\r and \\n."""
    with source.stream() as file:
        rest = b""
        lines = first + 1
        while part := file.read(PART_BYTES):
            part = rest + part
            while lines and (end := part.find(b"\n")) >= 0:
                part, lines = part[end + 1 :], lines - 1
            rest = b"\r" if part.endswith(b"\r") else b""
            if not lines:
                yield part[: len(part) - len(rest)]
        yield rest


def _is_whole(column: pa.ChunkedArray, wanted: Column) -> bool:
    """True if a column has values where it must, and no blanks around its texts."""
    is_derived = wanted.name in DERIVED
    if column.null_count and wanted.default is None and not is_derived:
        return False
    if not pa.types.is_large_string(column.type):
        return True
    return not any(_has_blanks(chunk) for chunk in column.chunks)


def _has_blanks(cells: pa.Array) -> bool:
    """True if a text of ASCII begins or ends with a blank."""
    ends: Any = np.frombuffer(cells.buffers()[1], np.int64)[
        cells.offset : cells.offset + len(cells) + 1
    ]
    full = ends[1:] > ends[:-1]
    if not np.any(full):
        return False
    text = np.frombuffer(cells.buffers()[2], np.uint8)
    outer = (text[ends[:-1][full]], text[ends[1:][full] - 1])
    return any(bool(np.any(letters <= ord(" "))) for letters in outer)
