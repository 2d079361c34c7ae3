"""Jobs tables that a study or plan makes once and keeps in its folder for all its runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scheduler import whole
from sim.runs.reader import Reading, kept_rows_text, said_of_input
from sim.schema.cluster import Cluster
from sim.study.settings import WorkloadSettings
from traces.unpacking import read_parquet

#: metadata of a kept table: how the jobs file that it comes from was read
_READING = b"muster.reading"


def place(workload: WorkloadSettings, cluster: Cluster, seed: int, out: Path) -> Path:
    """Return where the jobs of a workload are kept; arms share them."""
    sha = workload.sha256(cluster, seed)[:12]
    size = "" if workload.jobs else f"-{cluster.num_gpus}-s{seed}"
    return out / "workloads" / f"{workload.name}{size}-{sha}.parquet"


def rejected_beside(path: Path) -> Path:
    """Return where the rows are kept that were left out of a table."""
    return path.with_suffix(".rejected.csv")


def jobs_of(
    workload: WorkloadSettings, cluster: Cluster, seed: int, out: Path, *, progress: bool = False
) -> pd.DataFrame:
    """Return the jobs of a workload from their file, which is written if it is missing.

    Raises:
        ValueError: the workload makes no sense; nothing is written then.
    """
    path = place(workload, cluster, seed, out)
    if not path.is_file():
        made = workload.make(cluster, seed, progress=progress)
        if made.jobs.empty:
            raise ValueError(f"workload {workload.name!r} has no jobs in its days; give more days")
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(made.rejected):
            with whole.replacing(rejected_beside(path)) as part:
                made.rejected.to_csv(part, index=False)
        table = pa.Table.from_pandas(made.jobs, preserve_index=False)
        if made.reading is not None:
            more = {_READING: msgspec.json.encode(made.reading)}
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **more})
        # another process may be first and take ours away
        with suppress(FileNotFoundError), whole.replacing(path, durable=True) as part:
            pq.write_table(table, part, compression="zstd")
    return read_parquet(path)


@contextmanager
def nothing_left_of_failure(out: Path) -> Iterator[None]:
    """Remove a folder that was not there before, where ValueError leaves no run in it."""
    was_there = out.exists()
    try:
        yield
    except ValueError:
        runs = (*out.glob("points/*/manifest.json"), *out.glob("evaluations/*"))
        if not was_there and not runs:
            shutil.rmtree(out, ignore_errors=True)
        raise


def said_of(paths: Iterable[Path]) -> list[str]:
    """Say of kept tables how their jobs files were read and what was left out, each thing once."""
    lines = []
    for path in dict.fromkeys(paths):
        reading = reading_of(path) if path.is_file() else None
        rows = said_of_input(msgspec.to_builtins(reading)) if reading is not None else []
        if reading is not None and (beside := rejected_beside(path)).is_file():
            what = kept_rows_text(pd.read_csv(beside), reading.left_out)
            rows.append(("left out", f"{what}, kept in {beside}"))
        lines += [f"{what:<9} {text}" for what, text in rows]
    return list(dict.fromkeys(lines))


def reading_of(path: Path) -> Reading | None:
    """Return how the jobs of a kept table were read, if they come from a file."""
    found = (pq.read_schema(path).metadata or {}).get(_READING)
    return None if found is None else msgspec.json.decode(found, type=Reading)
