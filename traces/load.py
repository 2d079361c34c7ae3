"""Read a jobs file of any known format, and write jobs tables."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scheduler import whole
from traces.formats import catalog
from traces.formats.dates import CHOICES
from traces.formats.interface import Options
from traces.formats.source import Source, check_readable
from traces.schema import (
    COLUMNS,
    DAY_S,
    GPUS_PER_NODE,
    INT_MAX,
    TraceError,
    by_submission,
    check_gpus,
    finer_unit,
    is_written_date,
    total_gpus,
)

KINDS = catalog.KINDS
YEAR_S = 365.25 * DAY_S
#: two submissions of one log are hardly farther apart
LONGEST_GAP_YEARS = 5
#: so many such times are named
MOST_GAPS = 3


@dataclass(frozen=True, slots=True)
class LoadedJobs:
    """Jobs in canonical form, how they were read, and what was left out."""

    jobs: pd.DataFrame  #: the first submission is at 0
    rejected: pd.DataFrame  #: line, column, value, reason, row
    source: str
    sha256: str  #: of the file as it is
    kind: str  #: the format, as `catalog` calls it
    why: str  #: how the format was recognised
    offset_s: float  #: the first submission on the file's clock; Unix seconds where it has dates
    left_out: Mapping[str, int]  #: reason -> sound rows that are no jobs to simulate
    notes: tuple[str, ...]  #: sentences: what was assumed, ignored or not understood

    @property
    def bad(self) -> pd.DataFrame:
        """The rejected rows with a bad value; the others are valid, but not jobs to run."""
        return self.rejected[~self.rejected["reason"].isin(list(self.left_out))]

    @property
    def num_bad(self) -> int:
        """How many rows are `bad`."""
        return len(self.bad)


def load(
    path: str | Path,
    *,
    kind: str | None = None,
    on_bad_row: str = "fail",
    gpus_per_pod: int | None = None,
    gpus_per_node: int = GPUS_PER_NODE,
    map: Mapping[str, str] | None = None,
    ignore_extra: bool = False,
    columns: tuple[str, ...] = (),
    dates: str = "",
) -> LoadedJobs:
    """Read jobs from `path`; without `kind` its name and content tell the format.

    `on_bad_row="skip"` leaves out rows that are no jobs and returns them as `rejected`. A job's
    GPUs are cut into pods of at most `gpus_per_node`; `gpus_per_pod` is for formats that count
    processors: so many make a pod. `map` renames columns, theirs -> ours; `ignore_extra` ignores
    unknown columns; `columns` is the header of a file that has none; `dates` says
    whether days or months come first in dates such as 01/03/2024.

    Raises:
        TraceError: the file is unreadable or not of that format, or has bad rows.
    """
    if on_bad_row not in ("fail", "skip"):
        raise TraceError(f"--on-bad-row is {on_bad_row!r}; choose fail or skip")
    if dates and dates not in CHOICES:
        raise TraceError(f"--dates is {dates!r}; choose one of {', '.join(CHOICES)}")
    source = Source(Path(path), columns, map)
    check_readable(path)
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    chosen, why = catalog.choose(source, kind)
    if gpus_per_pod is not None and not chosen.counts_processors:
        counting = ", ".join(one.kind for one in catalog.FORMATS if one.counts_processors)
        raise TraceError(
            f"--gpus-per-pod is for files that count processors ({counting}), and {str(path)!r} "
            f"is of format {chosen.kind}; leave it out"
        )
    if gpus_per_pod is not None and gpus_per_pod < 1:
        raise TraceError(f"--gpus-per-pod is {gpus_per_pod}; give at least 1")
    options = Options(
        on_bad_row, gpus_per_node, gpus_per_pod, map or {}, ignore_extra, columns, dates
    )
    found = chosen.reader().read(source, options)
    if (columns or map) and not source.is_table:
        raise TraceError(
            f"--{'columns' if columns else 'map'} is for tables, and {str(path)!r} is none "
            f"({chosen.kind}); leave it out"
        )
    if found.jobs.empty:
        raise TraceError(f"jobs file {str(path)!r}: none of its rows is a job")
    pods = found.jobs["num_pods"]
    if int(pods.max()) * int(found.jobs["gpus_per_pod"].max()) > INT_MAX:  # memory is for few
        check_gpus(found.jobs["job"], total_gpus(found.jobs), pods, f"{path}: ")
    jobs = by_submission(found.jobs)
    offset_s = float(jobs["submit_s"].iloc[0])
    if fine := finer_unit(offset_s):
        raise TraceError(
            f"jobs file {str(path)!r}, job {jobs['job'].iloc[0]!r}: the time of its submission, "
            f"{offset_s:.15g}, {fine}"
        )
    notes = (*found.notes, *_like_dates(jobs["submit_s"]))
    jobs["submit_s"] -= offset_s
    return LoadedJobs(
        jobs, found.rejected, str(path), digest, chosen.kind, why, offset_s,
        found.left_out, (*notes, *_far_apart(jobs)),
    )  # fmt: skip


def _like_dates(submit_s: pd.Series[float]) -> tuple[str, ...]:
    """Say it where all numbers of seconds read as dates, such as 20240301."""
    if not (is_written_date(submit_s.iloc[0]) and is_written_date(submit_s.iloc[-1])):
        return ()
    values = submit_s.unique().tolist()
    if not all(value.is_integer() and is_written_date(value) for value in values):
        return ()
    return (
        f"all submissions look like dates, such as {values[0]:.0f}, and are taken as seconds; if "
        "they are dates, write them as 2024-03-01",
    )


def _far_apart(jobs: pd.DataFrame) -> tuple[str, ...]:
    """Name the jobs before or after every time of years without submissions."""
    years = np.diff(jobs["submit_s"].to_numpy()) / YEAR_S
    found = []
    for place in np.flatnonzero(years > LONGEST_GAP_YEARS).tolist()[:MOST_GAPS]:
        before, after = place + 1, len(jobs) - place - 1
        few, row, where = (before, place, "before") if before <= after else (after, -after, "after")
        found.append(
            f"{few:,} {'job is' if few == 1 else 'jobs are'} submitted {years[place]:,.1f} years "
            f"{where} all others, such as {jobs['job'].iloc[row]!r}; check the time in the file"
        )
    return tuple(found)


def convert(jobs: pd.DataFrame, path: str | Path) -> Path:
    """Write a canonical jobs table as CSV, CSV.gz or Parquet; equal tables give equal bytes.

    The file has its name only once it is whole.

    Raises:
        TraceError: the name ends in none of these.
    """
    target = Path(path)
    table = jobs[[column.name for column in COLUMNS]]
    name = target.name.lower()
    if not name.endswith((".parquet", ".csv.gz", ".csv")):
        raise TraceError(f"cannot write {str(path)!r}: end its name in .csv, .csv.gz or .parquet")
    with whole.replacing(target, durable=True) as part:
        if name.endswith(".parquet"):
            table.to_parquet(part, index=False, compression="zstd")
        elif name.endswith(".csv.gz"):
            with part.open("wb") as out, gzip.GzipFile("", "wb", fileobj=out, mtime=0) as packed:
                table.to_csv(packed, index=False, mode="wb")
        else:
            table.to_csv(part, index=False)
    return target
