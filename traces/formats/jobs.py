"""muster's own jobs table, as CSV or Parquet. docs/tables.md says what each column means."""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd

from traces.formats.dates import are_dates, times
from traces.formats.interface import Options, Reading
from traces.formats.outcomes import UNKNOWN, in_any_words
from traces.formats.quick import quick
from traces.formats.rows import RawTable, reject, sound_and
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.frames import plain, with_index
from traces.schema import (
    BY_NAME,
    EMPTY,
    GPUS,
    BadCell,
    TraceError,
    check_columns,
    fill,
    parse,
    shown,
)
from traces.unpacking import read_parquet

#: a column that is only the number of the row, as pandas writes its index
INDEX = re.compile(r"|index|Unnamed: \d+|(__index_)?level_\d+(__)?")


#: a table with these columns holds the results of a run beside its jobs
RESULTS = ("start_s", "end_s", "attempts", "held_gpu_s")
#: how jobs end in a run; these say nothing of how they would end by themselves
OF_A_RUN = ("never_fits", "unfinished")


def read(source: Source, options: Options) -> Reading:
    """Return the jobs of a jobs table.

    Raises:
        TraceError: a column is missing or unknown, or there are bad rows that may not be skipped.
    """
    source.is_table = True
    if not source.is_parquet and (table := quick(source, options)) is not None:
        typed, bad = parse(table.rows, None, options.gpus_per_node)
        names = pd.DataFrame(columns=list(source.header))
        if not bad and len(typed) and names.columns.isin(RESULTS).sum() < len(RESULTS):
            notes: list[str] = []
            _known_columns(names, options, notes)
            typed = _with_outcomes(typed, notes)
            jobs = fill(typed, options.gpus_per_node)
            rejected = reject(table, [], options.on_bad_row)
            return Reading(jobs, rejected, notes=(*notes, *_passed(table)))
    return _read_by_cell(source, options)


def _passed(table: RawTable) -> tuple[str, ...]:
    return (f"ignored {table.comments:,} comment lines",) if table.comments else ()


def _like_comments(table: RawTable, bad: list[BadCell]) -> tuple[str, ...]:
    """Say how many rows of a text begin as a comment does and have the cells of a job."""
    if table.unit != "line":
        return ()
    first = table.rows.iloc[:, 0].astype("str")
    alike = first.str.startswith("#", na=False).to_numpy() & table.rows_but(bad)
    if not alike.any():
        return ()
    place = int(alike.argmax())
    return (
        f"rows that begin with # and have as many cells as the header: {int(alike.sum()):,}; they "
        f"count as jobs, the first on line {table.lines.iloc[place]}: "
        f"{shown(first.iloc[place])!r}; delete them if they are comments",
    )


def _or_date(cell: BadCell) -> BadCell:
    """Return what is wrong with a cell; one of `submit_s` that is no number may be a date."""
    if cell.column != "submit_s" or not cell.value or "commas" in cell.reason:
        return cell
    try:
        float(cell.value)
    except ValueError:
        return cell._replace(reason=f"{cell.reason}, or a date such as 2024-03-01 08:00:00")
    return cell


def _with_outcomes(typed: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return jobs whose outcomes are muster's words; say in `notes` which words are unknown."""
    if "outcome" not in typed:
        return typed
    return typed.assign(outcome=in_any_words(typed["outcome"], notes))


def _check_header(table: RawTable, source: Source) -> None:
    """Raise TraceError if the first row of a text is a job and no header."""
    names = [str(name) for name in source.header]
    if any(name.strip().lower() in (*BY_NAME, GPUS.name) for name in names):
        return
    if any(re.fullmatch(r"-?\d+(\.\d*)?", name.strip()) for name in names):
        raise TraceError(
            f"{table.source}: its first row ({', '.join(names):.100}) is data, not a header; name "
            "its columns in their order: --columns job,submit_s,duration_s,..."
        )


def _read_by_cell(source: Source, options: Options) -> Reading:
    """Return the jobs of a jobs table.

    Raises:
        TraceError: a column is missing or unknown, or there are bad rows that may not be skipped.
    """
    notes: list[str] = []
    table = _parquet(source) if source.is_parquet else read_table(source, options.columns)
    if not source.is_parquet and not options.columns:
        _check_header(table, source)
    rows = _known_columns(table.rows, options, notes)
    check_columns([str(name) for name in rows.columns], str(source))
    if rows.empty:
        raise TraceError(f"jobs file {str(source)!r} has a header and no rows; add a job")
    cells = rows.copy(deep=False)
    if not source.is_parquet:  # which has missing values of its own
        for name in cells.columns.drop("job"):
            empty = cells[name].isin(EMPTY)
            cells[name] = cells[name].mask(empty) if empty.any() else cells[name]
    no_dates: list[BadCell] = []
    if are_dates(cells["submit_s"]):
        cells["submit_s"] = times(replace(table, rows=cells), "submit_s", no_dates, options.dates)
    typed, bad = parse(cells, table.lines if table.unit == "line" else None, options.gpus_per_node)
    known = {cell.row for cell in no_dates}
    bad = [one for one in bad if one.column != "submit_s" or one.row not in known]
    as_written = [
        _or_date(one._replace(value=shown(rows[one.column].iloc[one.row]))) for one in bad
    ]
    bad = sound_and(table, [*as_written, *no_dates])
    rejected = reject(table, bad, options.on_bad_row)
    kept = typed[table.rows_but(bad)]
    if kept.empty:
        raise TraceError(f"jobs file {str(source)!r}: none of its {len(typed)} rows is a job")
    notes += [*_passed(table), *_like_comments(table, bad)]
    kept = _with_outcomes(kept, notes)
    return Reading(fill(kept, options.gpus_per_node), rejected, notes=tuple(notes))


def _known_columns(rows: pd.DataFrame, options: Options, notes: list[str]) -> pd.DataFrame:
    """Return the columns that are not ignored; say in `notes` which ones are."""
    if rows.columns.isin(RESULTS).sum() == len(RESULTS):
        return _without_results(rows, notes)
    extra = [name for name in rows.columns if name not in BY_NAME and name != GPUS.name]
    if index := [name for name in extra if INDEX.fullmatch(name)]:
        notes.append(f"ignored the column of row numbers ({', '.join(map(repr, index))})")
        rows = rows.drop(columns=index)
        extra = [name for name in extra if name not in index]
    if extra and options.ignore_extra:
        notes.append(f"ignored the columns {', '.join(map(repr, extra))}")
        rows = rows.drop(columns=extra)
    return rows


def _without_results(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return the jobs that a run was given, out of the table that it wrote."""
    jobs = rows[[name for name in rows.columns if name in BY_NAME]].copy()
    if "gpus" in rows and "last_pod_gpus" not in jobs:
        jobs["last_pod_gpus"] = rows["gpus"] - (rows["num_pods"] - 1) * rows["gpus_per_pod"]
    if "outcome" in jobs:
        jobs["outcome"] = jobs["outcome"].where(~jobs["outcome"].isin(OF_A_RUN), UNKNOWN)
    notes.append(
        f"this is the table of a run: its {len(rows.columns.difference(jobs.columns))} columns of "
        "results are ignored; it does not have the jobs' CPUs, memory, GPU models and pools, nor "
        "which evict and may be evicted, so take the run's own jobs file where jobs ask for these"
    )
    return jobs


def _parquet(source: Source) -> RawTable:
    """Return the rows of a Parquet table; times become seconds, and a named index a column."""
    rows = read_parquet(source.path, content=None if source.is_plain_parquet else source.content)
    rows = with_index(rows)
    rows.columns = pd.Index(source.renamed([str(name) for name in rows.columns]))
    for name in rows.columns:
        rows[name] = plain(str(source), name, rows[name])
    lines = pd.Series(range(1, len(rows) + 1))
    return RawTable(rows, lines, str(source), unit="row")
