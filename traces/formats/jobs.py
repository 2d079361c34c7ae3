"""muster's own jobs table, as CSV or Parquet. docs/tables.md says what each column means."""

from __future__ import annotations

import pandas as pd

from traces.formats.dates import seconds_of
from traces.formats.interface import Options, Reading
from traces.formats.rows import RawTable, reject, sound_and
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import BY_NAME, GPUS, TraceError, check_columns, fill, parse, shown
from traces.unpacking import read_parquet

#: what other programs write into an empty cell
EMPTY = ("NA", "N/A", "n/a", "NaN", "nan", "None", "NULL", "null", "<NA>")
#: columns of time, which Parquet may hold as such
TIMES = ("submit_s", "duration_s", "walltime_s")
#: a column that is only the number of the row, as pandas writes its index
INDEX = ("", "index", "Unnamed: 0", "__index_level_0__")


def read(source: Source, options: Options) -> Reading:
    """Return the jobs of a jobs table.

    Raises:
        TraceError: a column is missing or unknown, or there are bad rows that may not be skipped.
    """
    notes: list[str] = []
    table = _parquet(source) if source.is_parquet else read_table(source, options.columns)
    rows = table.rows
    names = [str(name) for name in rows.columns]
    known = [*BY_NAME, GPUS.name]
    extra = [name for name in names if name not in known]
    if index := [name for name in extra if name in INDEX]:
        extra = [name for name in extra if name not in index]
        notes.append(f"passed over the column of row numbers ({', '.join(map(repr, index))})")
        rows = rows.drop(columns=index)
    if extra and options.ignore_extra:
        notes.append(f"passed over the columns {', '.join(map(repr, extra))}")
        rows = rows.drop(columns=extra)
    check_columns([str(name) for name in rows.columns], str(source))
    if rows.empty:
        raise TraceError(f"jobs file {str(source)!r} has a header and no rows; add a job")
    cells = rows.copy(deep=False)
    if not source.is_parquet:  # which has missing values of its own
        for name in cells.columns.drop("job"):
            empty = cells[name].isin(EMPTY)
            cells[name] = cells[name].mask(empty) if empty.any() else cells[name]
    typed, bad = parse(cells, table.lines if table.unit == "line" else None, options.gpus_per_node)
    as_written = [one._replace(value=shown(rows[one.column].iloc[one.row])) for one in bad]
    bad = sound_and(table, as_written)
    rejected = reject(table, bad, options.on_bad_row)
    kept = typed[table.rows_but(bad)]
    if kept.empty:
        raise TraceError(f"jobs file {str(source)!r}: none of its {len(typed)} rows is a job")
    if table.comments:
        notes.append(f"passed over {table.comments:,} comment lines")
    return Reading(fill(kept, options.gpus_per_node), rejected, notes=tuple(notes))


def _parquet(source: Source) -> RawTable:
    """Return the rows of a Parquet table; times become seconds, and a named index a column."""
    rows = read_parquet(source.path)
    if any(name is not None for name in rows.index.names):
        rows = rows.reset_index()
    rows = rows.reset_index(drop=True)
    for name in rows.columns:
        column = rows[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            rows[name] = column.astype(column.cat.categories.dtype)
        kind = getattr(rows[name].dtype, "kind", "O")
        if kind in "mM":
            if name not in TIMES or (kind == "M") != (name == "submit_s"):
                what = "a date and time" if kind == "M" else "a length of time"
                raise TraceError(
                    f"{source}, column {name!r}: it holds {what} ({rows[name].dtype}), which this "
                    "column cannot be; write it as "
                    + ("seconds" if name in TIMES else "docs/tables.md says")
                )
            rows[name] = seconds_of(rows[name])
    rows.columns = pd.Index(source.renamed([str(name) for name in rows.columns]))
    lines = pd.Series(range(1, len(rows) + 1))
    return RawTable(rows, lines, str(source), unit="row")
