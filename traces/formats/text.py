"""Read delimited text: its encoding, its delimiter, its comments, and the line of every row."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from traces.formats.rows import RawTable
from traces.formats.source import Layout, Source, encoding_of, layout_of
from traces.schema import BadCell, TraceError


def decoded(source: Source) -> str:
    """Return the text of a file.

    Raises:
        TraceError: it is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    try:
        return source.content.decode(encoding_of(source.content))
    except UnicodeDecodeError as error:
        raise TraceError(
            f"jobs file {str(source)!r} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from None


def read_table(source: Source, columns: tuple[str, ...] = ()) -> RawTable:
    """Read delimited text; blank lines are passed over.

    `columns` is the header of a text that has none. Cells lose the blanks around them; empty ones
    are missing. A row with more or fewer cells than the header is torn: it is filled up or cut,
    and noted.

    Raises:
        TraceError: the file is unreadable, empty, not text, or its quotes do not match.
    """
    text = decoded(source)
    layout = layout_of(text, str(source))
    torn: list[BadCell] = []
    comments: list[int] = []
    plain = _plain(text, layout)
    cells: Sequence[Sequence[str] | pa.ChunkedArray]
    if plain is not None:
        header = [column[0].as_py().strip() for column in plain.columns]
        cells = plain.columns if columns else [column.slice(1) for column in plain.columns]
        lines: Sequence[int] = range(1 if columns else 2, len(plain) + 1)
    else:
        header, cells, lines, torn, comments = _uneven(str(source), text, layout, columns)
    header = list(columns) or header
    if not header:
        raise TraceError(
            f"jobs file {str(source)!r} is empty; a jobs table needs a header line and a row"
        )
    if len(header) != len(cells):
        raise TraceError(
            f"{source}: --columns names {len(header)} columns, the first row has {len(cells)}"
        )
    for name in header:
        if header.count(name) > 1:
            raise TraceError(f"{source}: column {name!r} occurs twice; keep one")
    table = {name: _without_blanks(column) for name, column in zip(header, cells, strict=True)}
    return RawTable(
        pd.DataFrame(table),
        pd.Series(lines, dtype="int64"),
        str(source),
        tuple(torn),
        delimiter=layout.delimiter,
        comments=layout.comments + len(comments),
    )


def _plain(text: str, layout: Layout) -> pa.Table | None:
    """Return the cells of a text that has a row on every line, the header first.

    None if some line may be blank, torn, quoted or a comment, so that each must be looked at.
    """
    if (
        not layout.header
        or layout.first
        or '"' in text
        or "\r" in text
        or "\n#" in text
        or text.startswith("\ufeff")
    ):
        return None
    names = [str(number) for number in range(len(layout.header))]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(text.encode()),
            arrow_csv.ReadOptions(use_threads=False, column_names=names),
            arrow_csv.ParseOptions(
                delimiter=layout.delimiter, quote_char=False, ignore_empty_lines=False
            ),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except pa.ArrowInvalid:
        return None
    longest = max(pc.max(pc.binary_length(column)).as_py() for column in table.columns)
    first = pc.utf8_trim_whitespace(table.column(0))
    if longest > csv.field_size_limit() or pc.any(pc.equal(first, "")).as_py():
        return None
    return table


def _uneven(
    source: str, text: str, layout: Layout, columns: tuple[str, ...]
) -> tuple[list[str], list[tuple[str, ...]], list[int], list[BadCell], list[int]]:
    """Return header, columns, the line of each row, the torn rows, and the lines of comments."""
    header: list[str] = list(columns)
    rows: list[list[str]] = []
    lines: list[int] = []
    torn: list[BadCell] = []
    comments: list[int] = []
    stream = io.StringIO(text, newline="")
    for _ in range(layout.first):
        stream.readline()
    reader = csv.reader(stream, delimiter=layout.delimiter, skipinitialspace=True, strict=True)
    line = layout.first + 1
    try:
        for cells in reader:
            if not "".join(cells).strip():
                pass
            elif not header:
                header = [cell.strip() for cell in cells]
            elif len(cells) != len(header) and cells[0].startswith("#"):
                comments.append(line)
            else:
                if len(cells) != len(header):
                    reason = f"has {_fields(len(cells))}, the header has {len(header)}"
                    whole = layout.delimiter.join(cells)
                    torn.append(BadCell(len(rows), "", whole, reason))
                    cells = [*cells, *[""] * len(header)][: len(header)]
                rows.append(cells)
                lines.append(line)
            line = layout.first + reader.line_num + 1
    except csv.Error as error:
        raise TraceError(
            f"jobs file {source!r}, line {line}: {error}; check the quotes from there on"
        ) from None
    found: list[tuple[str, ...]] = [()] * len(header)
    if rows:
        found = list(zip(*rows, strict=True))
    return header, found, lines, torn, comments


def _without_blanks(cells: Sequence[str] | pa.ChunkedArray) -> pd.Series[str]:
    column = pd.Series(pd.array(cells, dtype="str")).str.strip()
    return column.mask(column == "")


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
