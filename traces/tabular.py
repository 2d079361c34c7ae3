"""Read tables of text with line numbers, and reject rows without losing them."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from traces.schema import BadCell, TraceError, fill, parse

#: how many bad values an error message spells out
MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class RawTable:
    """Rows of text and the line of the file each stands on."""

    rows: pd.DataFrame
    lines: pd.Series[int]
    source: str


def read_bytes(path: Path) -> bytes:
    """Return a file's content, unpacked if its name ends in .gz.

    Raises:
        TraceError: it cannot be read or unpacked.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(f"jobs file {str(path)!r}: {error.strerror}") from None
    if path.suffix == ".gz":
        try:
            return gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(
                f"jobs file {str(path)!r} is not a sound gzip file: {error}; fetch it again"
            ) from None
    return content


def read_csv(path: Path) -> RawTable:
    """Read a CSV or CSV.gz file with a header line; blank lines are passed over.

    Raises:
        TraceError: the file is unreadable, empty, not UTF-8, or a line has too many fields.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(
            f"jobs file {str(path)!r} is not UTF-8 text (byte {error.start}); save it as UTF-8 CSV"
        ) from None
    if not text.strip():
        raise TraceError(
            f"jobs file {str(path)!r} is empty; a jobs table needs a header line and a row"
        )
    try:
        rows = pd.read_csv(
            io.StringIO(text),
            dtype=str,
            skip_blank_lines=False,
            na_values=[""],
            keep_default_na=False,
            skipinitialspace=True,
        )
    except pd.errors.ParserError as error:
        raise TraceError(f"jobs file {str(path)!r}: {error}") from None
    rows.columns = [str(name).strip() for name in rows.columns]
    if not isinstance(rows.index, pd.RangeIndex):
        raise TraceError(
            f"jobs file {str(path)!r}: rows have more fields than the header; check for a stray comma"
        )
    lines = pd.Series(range(2, len(rows) + 2))
    filled = rows.notna().any(axis=1)
    return RawTable(
        rows[filled].reset_index(drop=True), lines[filled].reset_index(drop=True), str(path)
    )


def settle(table: RawTable, on_bad_row: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the typed jobs and the rejected rows with line, column, value and reason.

    Raises:
        TraceError: there are bad rows and `on_bad_row` is "fail", or no row is left.
    """
    if table.rows.empty:
        raise TraceError(f"jobs file {table.source!r} has a header and no rows; add a job")
    typed, bad = parse(table.rows)
    rejected = reject(table, bad, on_bad_row)
    kept = typed.drop(index=sorted({cell.row for cell in bad}))
    if kept.empty:
        raise TraceError(f"jobs file {table.source!r}: none of its {len(typed)} rows is a job")
    return fill(kept), rejected


def reject(table: RawTable, bad: list[BadCell], on_bad_row: str) -> pd.DataFrame:
    """Return one row per bad value: line, column, value, reason and the row as it stands.

    Raises:
        TraceError: `on_bad_row` is "fail" and there are any.
    """
    if on_bad_row not in ("fail", "skip"):
        raise TraceError(f"on_bad_row is {on_bad_row!r}; choose fail or skip")
    if bad and on_bad_row == "fail":
        shown = "; ".join(
            f"line {table.lines.iloc[cell.row]}, column {cell.column!r}: "
            f"{cell.value!r} {cell.reason}"
            for cell in bad[:MOST_SHOWN]
        )
        rows = len({cell.row for cell in bad})
        more = f" and {len(bad) - MOST_SHOWN} more" if len(bad) > MOST_SHOWN else ""
        raise TraceError(
            f"{table.source}: {len(bad)} bad values in {rows} of {len(table.rows)} rows: {shown}"
            f"{more}; mend them, or leave those rows out with --on-bad-row skip"
        )
    concerned = table.rows.iloc[sorted({cell.row for cell in bad})].fillna("").astype("str")
    content = {
        row: ",".join(cells)
        for row, cells in zip(concerned.index, concerned.to_numpy().tolist(), strict=True)
    }
    return pd.DataFrame(
        [
            {
                "line": int(table.lines.iloc[cell.row]),
                "column": cell.column,
                "value": cell.value,
                "reason": cell.reason,
                "row": content[cell.row],
            }
            for cell in bad
        ],
        columns=["line", "column", "value", "reason", "row"],
    )


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
) -> pd.Series[float]:
    """Return a column as numbers; note in `bad` what is none or too small.

    An empty cell becomes `missing`, if that is given.
    """
    text = table.rows[column]
    values = pd.to_numeric(text, errors="coerce").astype("float64")
    if missing is not None:
        values = values.where(text.notna(), missing)
    wrong = ~(values >= at_least)
    bad += [
        BadCell(int(row), column, str(text.iloc[row]), f"must be a number, at least {at_least:g}")
        for row in wrong.to_numpy().nonzero()[0]
    ]
    return values


def times(table: RawTable, column: str, bad: list[BadCell]) -> pd.Series[float]:
    """Return a column of times as Unix seconds; note in `bad` what is none."""
    when = pd.to_datetime(table.rows[column], errors="coerce", format="mixed", utc=True)
    bad += [
        BadCell(int(row), column, str(table.rows[column].iloc[row]), "must be a date and time")
        for row in when.isna().to_numpy().nonzero()[0]
    ]
    return (when - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
