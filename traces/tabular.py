"""Read tables of text with line numbers, and reject rows without losing them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from traces.schema import INT_MAX, LARGEST, BadCell, TraceError, bad_names, fill, parse, shown
from traces.unpacking import gunzip

#: how many bad values an error message spells out
MOST_SHOWN = 5
#: how much of a bad value an error message spells out
LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class RawTable:
    """Rows of text and the line of the file each stands on."""

    rows: pd.DataFrame
    lines: pd.Series[int]
    source: str
    torn: tuple[BadCell, ...] = ()  #: rows with more or fewer fields than the header
    unit: str = "line"  #: what `lines` counts

    def rows_but(self, bad: list[BadCell]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which rows have none of these bad values."""
        kept = np.ones(len(self.rows), bool)
        kept[[cell.row for cell in bad]] = False
        return kept


def read_bytes(path: Path) -> bytes:
    """Return a file's content, unpacked if its name ends in .gz.

    Raises:
        TraceError: it cannot be read, or unpacks to too much.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(f"jobs file {str(path)!r}: {error.strerror}") from None
    return gunzip(path, content) if path.suffix.lower() == ".gz" else content


def read_text(path: Path) -> str:
    """Return the content of a text file, unpacked if need be.

    Raises:
        TraceError: it cannot be read or is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(
            f"jobs file {str(path)!r} is not UTF-8 text (byte {error.start}); save it as UTF-8 CSV"
        ) from None


def csv_columns(path: Path) -> list[str]:
    """Return the cells of a CSV file's first line that is not blank."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
        except csv.Error as error:
            raise TraceError(f"jobs file {str(path)!r}, line {number}: {error}") from None
        if any(cells):
            return cells
    return []


def read_csv(path: Path) -> RawTable:
    """Read a CSV or CSV.gz file with a header line; blank lines are passed over.

    Cells lose the blanks around them; empty ones are missing. A row with more or fewer fields than
    the header is torn: it is filled up or cut, and noted.

    Raises:
        TraceError: the file is unreadable, empty, not UTF-8, or its quotes do not match.
    """
    text = read_text(path)
    torn: list[BadCell] = []
    plain = _plain(text)
    columns: Sequence[Sequence[str] | pa.ChunkedArray]
    if plain is not None:
        header = [column[0].as_py().strip() for column in plain.columns]
        columns = [column.slice(1) for column in plain.columns]
        lines: Sequence[int] = range(2, len(plain) + 1)
    else:
        header, columns, lines, torn = _uneven(path, text)
    if not header:
        raise TraceError(
            f"jobs file {str(path)!r} is empty; a jobs table needs a header line and a row"
        )
    for name in header:
        if header.count(name) > 1:
            raise TraceError(f"{str(path)!r}: column {name!r} stands twice; keep one")
    table = {name: _without_blanks(column) for name, column in zip(header, columns, strict=True)}
    return RawTable(pd.DataFrame(table), pd.Series(lines, dtype="int64"), str(path), tuple(torn))


def _plain(text: str) -> pa.Table | None:
    """Return the cells of a text that has a row on every line, the header first.

    None if some line may be blank, torn or quoted, so that lines must be looked at one by one.
    """
    if '"' in text or "\r" in text or text.startswith("\ufeff"):
        return None
    names = [str(number) for number in range(text.partition("\n")[0].count(",") + 1)]
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(text.encode()),
            arrow_csv.ReadOptions(use_threads=False, column_names=names),
            arrow_csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
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
    path: Path, text: str
) -> tuple[list[str], list[tuple[str, ...]], list[int], list[BadCell]]:
    """Return header, columns, the line of each row, and the torn rows."""
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    torn: list[BadCell] = []
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    line = 1
    try:
        for cells in reader:
            if not "".join(cells).strip():
                pass
            elif not header:
                header = [cell.strip() for cell in cells]
            else:
                if len(cells) != len(header):
                    reason = f"has {_fields(len(cells))}, the header has {len(header)}"
                    torn.append(BadCell(len(rows), "", ",".join(cells), reason))
                    cells = [*cells, *[""] * len(header)][: len(header)]
                rows.append(cells)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise TraceError(
            f"jobs file {str(path)!r}, line {line}: {error}; check the quotes from there on"
        ) from None
    columns: list[tuple[str, ...]] = [()] * len(header)
    if rows:
        columns = list(zip(*rows, strict=True))
    return header, columns, lines, torn


def _without_blanks(cells: Sequence[str] | pa.ChunkedArray) -> pd.Series[str]:
    column = pd.Series(pd.array(cells, dtype="str")).str.strip()
    return column.mask(column == "")


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"


def settle(table: RawTable, on_bad_row: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the typed jobs and the rejected rows with line, column, value and reason.

    Raises:
        TraceError: there are bad rows and `on_bad_row` is "fail", or no row is left.
    """
    if table.rows.empty:
        raise TraceError(f"jobs file {table.source!r} has a header and no rows; add a job")
    typed, bad = parse(table.rows, table.lines if table.unit == "line" else None)
    bad = sound_and(table, bad)
    rejected = reject(table, bad, on_bad_row)
    kept = typed[table.rows_but(bad)]
    if kept.empty:
        raise TraceError(f"jobs file {table.source!r}: none of its {len(typed)} rows is a job")
    return fill(kept), rejected


def sound_and(table: RawTable, bad: list[BadCell]) -> list[BadCell]:
    """Return all that is bad, by row: torn rows, and these values of the others."""
    torn = {cell.row for cell in table.torn}
    return sorted([*table.torn, *(cell for cell in bad if cell.row not in torn)])


def reject(table: RawTable, bad: list[BadCell], on_bad_row: str) -> pd.DataFrame:
    """Return one row per rejected row: line, column, value, reason, and the row as it stands.

    Column and value are those of the first bad one; the reason names the others.

    Raises:
        TraceError: `on_bad_row` is "fail" and there are any.
    """
    if on_bad_row not in ("fail", "skip"):
        raise TraceError(f"on_bad_row is {on_bad_row!r}; choose fail or skip")
    of_row: dict[int, list[BadCell]] = {}
    for cell in bad:
        of_row.setdefault(cell.row, []).append(cell)
    if bad and on_bad_row == "fail":
        spelt = "; ".join(
            f"{table.unit} {table.lines.iloc[cell.row]}{_problem(cell)}"
            for cell in bad[:MOST_SHOWN]
        )
        more = f" and {len(bad) - MOST_SHOWN:,} more" if len(bad) > MOST_SHOWN else ""
        values = "1 bad value" if len(bad) == 1 else f"{len(bad):,} bad values"
        raise TraceError(
            f"{table.source}: {values} in {len(of_row):,} of {len(table.rows):,} rows: "
            f"{spelt}{more}; mend them, or leave those rows out with --on-bad-row skip"
        )
    concerned = table.rows.iloc[list(of_row)].astype("object")
    content = concerned.where(concerned.notna(), "").to_numpy().tolist()
    whole = {cell.row: cell.value for cell in table.torn}
    return pd.DataFrame(
        [
            {
                "line": int(table.lines.iloc[row]),
                "column": cells[0].column,
                "value": "" if row in whole else cells[0].value,
                "reason": cells[0].reason + "".join(f"{_problem(cell)}" for cell in cells[1:]),
                "row": whole.get(row) or ",".join(map(str, values)),
            }
            for (row, cells), values in zip(of_row.items(), content, strict=True)
        ],
        columns=["line", "column", "value", "reason", "row"],
    )


def _problem(cell: BadCell) -> str:
    if not cell.column:
        return f" {cell.reason}"
    value = cell.value
    if len(value) > LONGEST_SHOWN:
        value = f"{value[:LONGEST_SHOWN]}..."
    return f", column {cell.column!r}: {value!r} {cell.reason}"


def settle_columns(table: RawTable, needed: tuple[str, ...]) -> None:
    """Raise TraceError if a column that a published format has is missing."""
    missing = [name for name in needed if name not in table.rows]
    if missing:
        raise TraceError(
            f"{table.source}: column {missing[0]!r} is missing; this format has "
            f"{', '.join(needed)}, the file has {', '.join(map(str, table.rows.columns))}"
        )
    if table.rows.empty:
        raise TraceError(f"{table.source}: it has a header and no rows")


def numbers(
    table: RawTable,
    column: str,
    at_least: float,
    bad: list[BadCell],
    *,
    missing: float | None = None,
    whole: bool = False,
) -> pd.Series[float]:
    """Return a column as numbers; note in `bad` what is none, too small, or not whole.

    An empty cell becomes `missing`, if that is given.
    """
    text = table.rows[column]
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    if missing is not None:
        values = values.where(text.notna(), missing)
    right = (values >= at_least) & (values <= (INT_MAX if whole else LARGEST))
    if whole:
        right &= values == np.floor(values)
    kind = "a whole number" if whole else "a number"
    bad += [
        BadCell(int(row), column, shown(text.iloc[row]), f"must be {kind}, at least {at_least:g}")
        for row in (~right).to_numpy().nonzero()[0]
    ]
    return values


def times(table: RawTable, column: str, bad: list[BadCell]) -> pd.Series[float]:
    """Return a column of times as Unix seconds; note in `bad` what is none."""
    when = pd.to_datetime(table.rows[column], errors="coerce", format="mixed", utc=True)
    bad += [
        BadCell(int(row), column, shown(table.rows[column].iloc[row]), "must be a date and time")
        for row in when.isna().to_numpy().nonzero()[0]
    ]
    return (when - pd.Timestamp(0, tz="UTC")).dt.total_seconds()


def unique(table: RawTable, column: str, bad: list[BadCell]) -> pd.Series[str]:
    """Return a column of names; note in `bad` what is empty or stood in an earlier row."""
    names = table.rows[column].fillna("").astype("str")
    bad += bad_names(names, column, table.lines)
    return names
