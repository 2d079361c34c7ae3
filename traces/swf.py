"""Standard Workload Format: Feitelson's archive of parallel workloads.

Format: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. A processor becomes a pod of one
GPU, or `gpus_per_pod` processors a pod. Field 9 is the requested time; -1 means the run time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from traces.schema import BadCell, TraceError, fill, shown
from traces.tabular import RawTable, numbers, read_bytes, reject, sound_and, unique

_FIELDS = {
    "job": 0,
    "submit": 1,
    "run": 3,
    "processors": 4,
    "asked_processors": 7,
    "walltime": 8,
    "status": 10,
    "user": 11,
}
_NUM_FIELDS = 18
_FEWEST_FIELDS = 9
_OUTCOMES = {0: "failed", 1: "completed", 5: "cancelled"}


def read(
    path: Path, on_bad_row: str, gpus_per_pod: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return jobs, with submission counted from the first, and rejected rows.

    Jobs without run time or processors never ran: they are set aside as rejected rows, whatever
    `on_bad_row` says, as they are ordinary in these logs. Where fewer processors were used than
    asked for, those used count.

    Raises:
        TraceError: the file is unreadable, or holds bad rows and `on_bad_row` is "fail".
    """
    table = _split(path)
    bad: list[BadCell] = []
    unique(table, "job", bad)
    job = numbers(table, "job", 0.0, bad, whole=True)
    submit_s = numbers(table, "submit", 0.0, bad)
    run_s = numbers(table, "run", -1.0, bad)
    used = numbers(table, "processors", -1.0, bad, whole=True)
    asked = numbers(table, "asked_processors", -1.0, bad, whole=True)
    asked_s = numbers(table, "walltime", -1.0, bad)
    bad = sound_and(table, bad)
    reject(table, bad, on_bad_row)
    processors = used.where(used > 0, asked)
    for column, values, reason in (
        ("run", run_s, "is no run time: the job never ran"),
        ("processors", processors, "is no number of processors: the job never ran"),
    ):
        bad += [
            BadCell(int(row), column, shown(table.rows[column].iloc[row]), reason)
            for row in np.flatnonzero((values <= 0).to_numpy())
        ]
    rejected = reject(table, sorted(bad), "skip")
    kept = table.rows_but(bad)
    if not kept.any():
        raise TraceError(f"SWF file {str(path)!r}: none of its {len(kept):,} jobs ran")
    size = gpus_per_pod or 1
    gpus = processors[kept].to_numpy(np.int64)
    num_pods = -(-gpus // size)
    per_pod = np.minimum(gpus, size)
    status = pd.to_numeric(table.rows["status"], errors="coerce")
    jobs = pd.DataFrame(
        {
            "job": job[kept].astype("int64").astype("str"),
            "submit_s": submit_s[kept] - submit_s[kept].min(),
            "duration_s": run_s[kept],
            "walltime_s": asked_s.where(asked_s > 0, run_s)[kept],
            "num_pods": num_pods,
            "gpus_per_pod": per_pod,
            "last_pod_gpus": gpus - (num_pods - 1) * per_pod,
            "user": "user-" + table.rows["user"][kept],
            "outcome": status[kept].map(_OUTCOMES).fillna("completed"),
        }
    )
    return fill(jobs), rejected


def _split(path: Path) -> RawTable:
    """Return the fields of the job lines as text; header lines begin with a semicolon."""
    lines: list[int] = []
    rows: list[list[str]] = []
    torn: list[BadCell] = []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith(";"):
            continue
        if len(fields) < _FEWEST_FIELDS:
            reason = f"has fewer than {_FEWEST_FIELDS} fields ({len(fields)})"
            torn.append(BadCell(len(rows), "", " ".join(fields), reason))
        fields += ["-1"] * (_NUM_FIELDS - len(fields))
        rows.append([fields[place] for place in _FIELDS.values()])
        lines.append(number)
    if not rows:
        raise TraceError(f"SWF file {str(path)!r} has no job lines")
    table = pd.DataFrame(rows, columns=list(_FIELDS), dtype="str")
    return RawTable(table, pd.Series(lines), str(path), tuple(torn))
