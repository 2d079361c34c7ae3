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


def read_table(source: Source, columns: tuple[str, ...] = (), *, unquoted: str = "") -> RawTable:
    """Read delimited text; it skips blank lines.

    `columns` is the header of a text that has none. Cells lose the blanks around them; empty ones
    are missing. A row with more or fewer cells than the header is torn: it is filled up or cut,
    and noted. Last columns without a name and without a value are no columns: some programs end
    every line with delimiters. Between the delimiters in `unquoted` a quote is an ordinary letter.

    Raises:
        TraceError: the file is unreadable, empty, not text, or its quotes do not match.
    """
    source.is_table = True
    columns = columns or source.columns
    text = decoded(source)
    layout = layout_of(text, str(source), len(columns))
    header = _header(source, layout, columns)
    begin = int(not columns or _same(layout.header, columns))
    quoted = layout.delimiter not in unquoted
    torn: list[BadCell] = []
    comments: list[int] = []
    plain = _plain(text, layout) if not (quoted and '"' in text) else None
    cells: Sequence[Sequence[str] | pa.ChunkedArray]
    if plain is not None:
        cells = [column.slice(begin) for column in plain.columns]
        lines: Sequence[int] = range(1 + begin, len(plain) + 1)
    else:
        cells, lines, torn, comments = _uneven(source, text, layout, header, begin, quoted)
    found = [_without_blanks(column) for column in cells]
    while header[-1] == "" and found[-1].isna().all():
        header.pop()
        found.pop()
    _check_names(source, header)
    rows = pd.DataFrame(dict(zip(header, found, strict=True)))
    rows.columns = pd.Index(source.renamed(header))
    return RawTable(
        rows,
        pd.Series(lines, dtype="int64"),
        str(source),
        tuple(torn),
        delimiter=layout.delimiter,
        comments=layout.comments + len(comments),
    )


def _header(source: Source, layout: Layout, columns: tuple[str, ...]) -> list[str]:
    """Return the names of all columns, the last without a name where lines end in a delimiter."""
    header = list(columns or layout.header)
    if not layout.header:
        raise TraceError(
            f"jobs file {str(source)!r} is empty; a jobs table needs a header line and a row"
        )
    if len(layout.header) == len(columns) + 1 and layout.header[-1] == "":
        header = [*columns, ""]
    elif len(layout.header) != len(header):
        raise TraceError(
            f"{source}: --columns names {len(columns)} columns, the first row has "
            f"{len(layout.header)}"
        )
    _check_names(source, [name for name in header if name])
    return header


def _check_names(source: Source, header: Sequence[str]) -> None:
    """Raise TraceError if two columns have the same name."""
    for name in header:
        if header.count(name) > 1:
            raise TraceError(f"{source}: column {name!r} occurs twice; keep one")


def _same(header: Sequence[str], columns: Sequence[str]) -> bool:
    """True if the first row is a header equal to the user's columns."""
    return [one.lower() for one in header if one] == [one.lower() for one in columns]


def _plain(text: str, layout: Layout) -> pa.Table | None:
    """Return the cells of a text that has a row on every line, the header first.

    None if some line may be blank, torn, quoted or a comment, so that each must be looked at.
    """
    if (
        not layout.header
        or layout.first
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
    source: Source, text: str, layout: Layout, header: list[str], begin: int, quoted: bool
) -> tuple[list[tuple[str, ...]], list[int], list[BadCell], list[int]]:
    """Return columns, the line of each row, the torn rows, and the lines of comments."""
    rows: list[list[str]] = []
    lines: list[int] = []
    torn: list[BadCell] = []
    comments: list[int] = []
    stream = io.StringIO(text, newline="")
    for _ in range(layout.first):
        stream.readline()
    reader = csv.reader(
        stream,
        delimiter=layout.delimiter,
        skipinitialspace=True,
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    line = layout.first + 1
    width = len(header)
    try:
        for cells in reader:
            if not "".join(cells).strip():
                pass
            elif begin:
                begin = 0
            elif len(cells) != width and cells[0].startswith("#"):
                comments.append(line)
            else:
                if len(cells) == width + 1 and not cells[-1].strip():
                    del cells[-1]  # the line ends in a delimiter
                elif len(cells) != width:
                    reason = f"has {_fields(len(cells))}, the header has {width}"
                    whole = layout.delimiter.join(cells)
                    torn.append(BadCell(len(rows), "", whole, reason))
                    cells = [*cells, *[""] * width][:width]
                rows.append(cells)
                lines.append(line)
            line = layout.first + reader.line_num + 1
    except csv.Error as error:
        raise TraceError(
            f"jobs file {str(source)!r}, line {line}: {error}; check the quotes from there on"
        ) from None
    found: list[tuple[str, ...]] = [()] * width
    if rows:
        found = list(zip(*rows, strict=True))
    return found, lines, torn, comments


def _without_blanks(cells: Sequence[str] | pa.ChunkedArray) -> pd.Series[str]:
    column = pd.Series(pd.array(cells, dtype="str")).str.strip()
    return column.mask(column == "")


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
