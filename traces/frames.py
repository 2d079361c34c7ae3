"""Columns of data frames, from Parquet or from Python: their types become text and numbers."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from traces import schema
from traces.formats.dates import are_dates, seconds_of
from traces.formats.outcomes import in_any_words
from traces.schema import BY_NAME, GPUS, TraceError

#: columns of time, which may be of a type of times
TIMES = ("submit_s", "duration_s", "walltime_s")
#: types of one length of time
LENGTHS = (timedelta, pd.Timedelta, np.timedelta64)


def complete(
    jobs: pd.DataFrame,
    gpus_per_node: int = schema.GPUS_PER_NODE,
    notes: list[str] | None = None,
) -> pd.DataFrame:
    """Return a table with every canonical column, typed, in order of submission.

    Takes a DataFrame with the required columns, some perhaps as its index; ties in `submit_s`
    keep their order. Dates become Unix seconds, lengths of time seconds. `gpus` is cut into pods
    of at most `gpus_per_node`. Outcomes may be in the words of any format; `notes` gets a sentence
    about words that none has, which count as unknown.

    Raises:
        TraceError: a column is missing or unknown, or a value cannot be.
    """
    if list(jobs.columns) != list(BY_NAME):
        jobs = with_index(jobs)
    typed = jobs.copy(deep=False)
    for place, name in enumerate(map(str, jobs.columns)):
        column = jobs.iloc[:, place]
        if column.dtype != "str":
            typed.isetitem(place, plain("jobs table", name, column).array)
        if name == "submit_s" and are_dates(column):
            raise TraceError(
                f"jobs table, column {name!r}: it holds dates as text; turn them into times with "
                "pandas.to_datetime"
            )
    found = schema.complete(typed, gpus_per_node)
    if "outcome" in jobs:
        found["outcome"] = in_any_words(found["outcome"], [] if notes is None else notes)
    return found


def with_index(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows numbered from 0; a named index becomes a column, unless there is one."""
    known = [name for name in rows.index.names if name is not None and name in rows.columns]
    if known:
        rows = rows.reset_index(level=known, drop=True)
    if any(name is not None for name in rows.index.names):
        rows = rows.reset_index()
    return rows.reset_index(drop=True)


def plain(source: str, name: str, column: pd.Series) -> pd.Series:
    """Return a column as text or numbers.

    Raises:
        TraceError: it is of a type that this column cannot be.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if name not in BY_NAME and name != GPUS.name:
        return column
    if isinstance(column.dtype, pd.ArrowDtype) and pa.types.is_temporal(column.dtype.pyarrow_dtype):
        column = pd.Series(pa.array(column).to_pandas(), name=name)
    if column.dtype == object:
        column = _of_one_type(column)
    place = column.first_valid_index()
    first = None if place is None else column.loc[place]
    dtype = BY_NAME.get(name, GPUS).dtype
    is_text, is_flag = dtype == "str", dtype == "bool"
    kind = getattr(column.dtype, "kind", "O")
    what = ""
    if isinstance(column.dtype, pd.PeriodDtype | pd.IntervalDtype):
        what = f"periods ({column.dtype})"
    elif kind == "M" and name != "submit_s":
        what = f"dates and times ({column.dtype})"
    elif kind == "m" and name not in TIMES:
        what = f"lengths of time ({column.dtype})"
    elif column.dtype == object and column.map(type).isin(LENGTHS).any():
        what = "lengths of time beside other values"
    elif kind == "c":
        what = "complex numbers"
    elif not is_flag and (kind == "b" or isinstance(first, bool | np.bool_)):
        what = "true and false"
    elif isinstance(first, bytes):
        what = "bytes"
    elif isinstance(first, list | dict | np.ndarray) and is_text:
        what = "lists or records"
    if what:
        wanted = "text" if is_text else "seconds" if name in TIMES else "numbers"
        wanted = "true or false" if is_flag else wanted
        raise TraceError(
            f"{source}, column {name!r}: it holds {what}; write {wanted}"
            + (" or dates" if name == "submit_s" else "")
        )
    if kind in "mM":
        return seconds_of(column)
    if is_text and kind == "f":  # whole numbers beside missing ones
        texts = column.map(lambda value: f"{value:.0f}" if value % 1 == 0 else str(value))
        return texts.where(column.notna(), None)
    return column


def _of_one_type(column: pd.Series) -> pd.Series:
    """Return objects of Python that are all dates, or all lengths of time, as a column of times."""
    values = column.dropna()
    if not len(values):
        return column
    if values.map(lambda value: isinstance(value, date | np.datetime64)).all():
        return pd.to_datetime(column, utc=True)
    if values.map(type).isin(LENGTHS).all():
        return pd.to_timedelta(column)
    return column
