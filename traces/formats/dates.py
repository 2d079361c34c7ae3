"""Dates and times as logs write them: one form a column, and none guessed."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from traces.formats.rows import RawTable
from traces.schema import BadCell, TraceError, shown

DAY_FIRST, MONTH_FIRST = "day-first", "month-first"
CHOICES = (DAY_FIRST, MONTH_FIRST)

_CLOCK = (
    r"(?:[T ]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?)?"
    r" *(?P<zone>Z|UTC|GMT|[+-]\d{2}(?::?[0-5]\d)?)?"
)
#: 2024-03-01, 2024/03/01, with or without a time of day and a zone
_YEAR_FIRST = re.compile(
    rf"(?P<year>\d{{4}})(?P<mark>[-/.])(?P<month>\d{{1,2}})(?P=mark)(?P<day>\d{{1,2}}){_CLOCK}"
)
#: 01/03/2024: the day first, or the month
_YEAR_LAST = re.compile(
    rf"(?P<day>\d{{1,2}})(?P<mark>[-/.])(?P<month>\d{{1,2}})(?P=mark)(?P<year>\d{{4}}){_CLOCK}"
)
#: Unix seconds of 1973 and later, perhaps with a fraction
_UNIX = re.compile(r"\d{9,11}(?:\.\d+)?")
#: what pyarrow reads, all cells at once
_PLAIN = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?$"

#: of a zone from UTC
FARTHEST_ZONE_S = 14 * 3600.0
#: so many cells tell whether a column holds dates
FIRST_CELLS = 100

WHAT = "must be a date and time such as 2024-03-01 08:00:00"


def times(
    table: RawTable, column: str, bad: list[BadCell], order: str = "", *, needed: bool = True
) -> pd.Series[float]:
    """Return a column of dates or Unix seconds as Unix seconds; note in `bad` what is neither.

    A date without a zone is taken as UTC. A date that begins with neither a year nor a day above
    12 may be read in two ways: all such dates of a column are read in the order that its clear
    ones have. With `needed=False` empty cells are NaN and not bad.

    Raises:
        TraceError: no date of the column shows whether the day or the month comes first, and
            `order` does not say it.
    """
    cells = table.rows[column]
    if not isinstance(cells.dtype, pd.StringDtype) and cells.dtype != object:
        return _typed(cells, column, bad, needed)
    if (at_once := _at_once(cells)) is not None:
        values = at_once
    else:
        codes, words = pd.factorize(cells.astype("str").where(cells.notna()))
        texts = [str(word).strip() for word in words]
        order = order or _order(texts, column, table.source)
        seconds = np.array([_seconds(text, order) for text in texts], np.float64)
        values = np.append(seconds, np.nan)[codes]
    wrong = np.isnan(values) & (cells.notna().to_numpy() | needed)
    bad += [
        BadCell(int(row), column, shown(cells.iloc[row]), WHAT) for row in np.flatnonzero(wrong)
    ]
    return pd.Series(values, index=cells.index)


def are_dates(cells: pd.Series) -> bool:
    """True if a column is text and begins with dates, not with numbers of seconds."""
    if not isinstance(cells.dtype, pd.StringDtype) and cells.dtype != object:
        return False
    return any(
        _YEAR_FIRST.fullmatch(cell.strip()) or _YEAR_LAST.fullmatch(cell.strip())
        for cell in cells.dropna().head(FIRST_CELLS)
        if isinstance(cell, str)
    )


def _typed(cells: pd.Series, column: str, bad: list[BadCell], needed: bool) -> pd.Series[float]:
    """Return times that a Parquet table holds as such, or as numbers of seconds."""
    values = seconds_of(cells)
    if needed:
        bad += [
            BadCell(int(row), column, "", WHAT) for row in np.flatnonzero(values.isna().to_numpy())
        ]
    return values


def seconds_of(cells: pd.Series) -> pd.Series[float]:
    """Return times as Unix seconds and time differences as seconds, whatever unit they are in."""
    if isinstance(cells.dtype, pd.DatetimeTZDtype):
        cells = cells.dt.tz_convert("UTC").dt.tz_localize(None)
    if cells.dtype.kind in "mM":
        unit: npt.NDArray[np.float64] = (
            cells.to_numpy().astype(f"{cells.dtype.kind}8[ns]").astype(np.float64)
        )
        return pd.Series(np.where(cells.isna(), np.nan, unit / 1e9), index=cells.index)
    return pd.to_numeric(cells, errors="coerce").astype("float64")


def _at_once(cells: pd.Series[str]) -> npt.NDArray[np.float64] | None:
    """Return dates that are all written in one plain form as Unix seconds; None if some are not."""
    column = pa.array(cells, pa.large_string(), from_pandas=True)
    if not pc.all(pc.match_substring_regex(column, _PLAIN)).as_py():
        return None
    try:
        when = pc.cast(column, pa.timestamp("us"))
    except pa.ArrowInvalid:
        return None
    micros = pc.cast(when, pa.int64()).to_numpy(zero_copy_only=False)
    return np.asarray(micros, np.float64) / 1e6


def _order(texts: list[str], column: str, source: str) -> str:
    """Return which comes first in the dates of a column: the day or the month."""
    found = [match for text in texts if (match := _YEAR_LAST.fullmatch(text)) is not None]
    day_first = any(int(match["day"]) > 12 for match in found)
    month_first = any(int(match["month"]) > 12 for match in found)
    found = [match for match in found if match["day"] != match["month"]]  # 03/03 is the same day
    if not found or (day_first and not month_first):
        return DAY_FIRST
    if month_first and not day_first:
        return MONTH_FIRST
    why = (
        "some dates begin with the day and some with the month"
        if day_first
        else "no date shows whether the day or the month comes first"
    )
    raise TraceError(
        f"{source}, column {column!r}: {why}, as in {found[0][0]!r}; "
        f"say which: --dates {DAY_FIRST} or --dates {MONTH_FIRST}"
    )


def _seconds(text: str, order: str) -> float:
    """Return one date as Unix seconds; NaN if it is none."""
    if _UNIX.fullmatch(text):
        return float(text)
    match = _YEAR_FIRST.fullmatch(text)
    day, month = "day", "month"
    if match is None:
        match = _YEAR_LAST.fullmatch(text)
        if order == MONTH_FIRST:
            day, month = month, day
    if match is None:
        return np.nan
    zone = (match["zone"] or "Z").replace(":", "")
    ahead_s = 0.0
    if zone[0] in "+-":
        ahead_s = float(f"{zone[0]}1") * (int(zone[1:3]) * 3600 + int(zone[3:5] or 0) * 60)
    if abs(ahead_s) > FARTHEST_ZONE_S:
        return np.nan
    try:
        when = datetime(
            int(match["year"]), int(match[month]), int(match[day]),
            int(match["hour"] or 0), int(match["minute"] or 0), tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return np.nan
    second = float((match["second"] or "0").replace(",", "."))
    return np.nan if second >= 61 else when.timestamp() + second - ahead_s
