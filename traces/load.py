"""Read a jobs file of any known form."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from scheduler import whole
from traces import openb, philly, slurm, swf
from traces.schema import COLUMNS, TraceError, check_columns, complete
from traces.tabular import RawTable, csv_columns, read_csv, settle
from traces.unpacking import read_parquet

Kind = Literal["jobs", "swf", "philly", "openb", "helios", "acme"]
KINDS: tuple[Kind, ...] = ("jobs", "swf", "philly", "openb", "helios", "acme")


@dataclass(frozen=True, slots=True)
class LoadedJobs:
    """Jobs in canonical form and what was left out."""

    jobs: pd.DataFrame
    rejected: pd.DataFrame  #: line, column, value, reason, row
    source: str
    sha256: str  #: of the file as it is


def load(
    path: str | Path,
    *,
    kind: str | None = None,
    on_bad_row: str = "fail",
    gpus_per_pod: int | None = None,
) -> LoadedJobs:
    """Read jobs from `path`; without `kind` its name and header tell the form.

    `on_bad_row="skip"` leaves out rows that are no jobs and returns them as `rejected`.
    `gpus_per_pod` is for SWF alone: so many processors make a pod.

    Raises:
        TraceError: the file is unreadable or not of that form, or has bad rows.
    """
    file = Path(path)
    if kind is not None and kind not in KINDS:
        raise TraceError(f"kind {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise TraceError(f"jobs file {str(path)!r}: {error.strerror}") from None
    form = kind or _guess(file)
    if gpus_per_pod is not None and (form != "swf" or gpus_per_pod < 1):
        raise TraceError("gpus_per_pod is for SWF files and at least 1; leave it out")
    if form == "swf":
        jobs, rejected = swf.read(file, on_bad_row, gpus_per_pod)
    elif form == "philly":
        jobs, rejected = philly.read(file, on_bad_row)
    elif form == "openb":
        jobs, rejected = openb.read(file, on_bad_row)
    elif form in ("helios", "acme"):
        jobs, rejected = slurm.read(file, on_bad_row)
    else:
        jobs, rejected = _read_jobs(file, on_bad_row)
    return LoadedJobs(complete(jobs), rejected, str(path), digest)


def _guess(path: Path) -> Kind:
    """Tell the form by the name's ending, and for CSV by the header."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".swf"):
        return "swf"
    if name.endswith(".parquet"):
        return "jobs"
    if not name.endswith(".csv"):
        raise TraceError(
            f"jobs file {str(path)!r}: its name ends in none of .csv, .csv.gz, .parquet, .swf, "
            f".swf.gz; rename it or say which kind it is ({', '.join(KINDS)})"
        )
    columns = set(csv_columns(path))
    for kind, needed in (
        ("philly", ("timestamp", "num_gpus", "cluster")),
        ("openb", openb.COLUMNS),
        ("helios", (*slurm.COLUMNS, "vc")),
        ("acme", slurm.COLUMNS),
    ):
        if columns.issuperset(needed):
            return kind  # type: ignore[return-value]
    return "jobs"


def _read_jobs(path: Path, on_bad_row: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    if path.name.lower().endswith(".parquet"):
        rows = read_parquet(path)
        lines = pd.Series(range(1, len(rows) + 1))
        table = RawTable(rows.reset_index(drop=True), lines, str(path), unit="row")
    else:
        table = read_csv(path)
    check_columns([str(name) for name in table.rows.columns], str(path))
    return settle(table, on_bad_row)


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
