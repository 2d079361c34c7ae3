"""Job lists in the form of the Helios and Acme releases: one row per Slurm job.

Helios: Hu et al., SC 2021 (HeliosData): job_id, user, gpu_num, cpu_num, node_num, state,
submit_time, start_time, end_time, duration, queue, vc. Acme: Hu et al., NSDI 2024 (AcmeTrace):
job_id, user, node_num, gpu_num, cpu_num, type, state, submit_time, start_time, end_time, duration,
queue, ...
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from traces.schema import GPUS_PER_NODE, BadCell, fill, shown
from traces.tabular import numbers, read_csv, reject, settle_columns, sound_and, times, unique

COLUMNS = ("job_id", "user", "gpu_num", "state", "submit_time", "duration")
_OUTCOMES = {
    "COMPLETED": "completed",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "TIMEOUT": "failed",
    "NODE_FAIL": "failed",
    "OUT_OF_MEMORY": "failed",
}


def read(path: Path, on_bad_row: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return GPU jobs, submission counted from the first, and rejected rows.

    Jobs without GPUs or run time are set aside as rejected rows, whatever `on_bad_row` says: they
    are ordinary in these lists. CPUs are divided evenly over the pods. The queue is the virtual
    cluster (Helios) or the job type (Acme).

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    table = read_csv(path)
    settle_columns(table, COLUMNS)
    bad: list[BadCell] = []
    names = unique(table, "job_id", bad)
    gpus = numbers(table, "gpu_num", 0.0, bad, whole=True)
    duration_s = numbers(table, "duration", 0.0, bad, missing=0.0)
    submit_s = times(table, "submit_time", bad)
    bad = sound_and(table, bad)
    reject(table, bad, on_bad_row)
    for column, values in (("gpu_num", gpus), ("duration", duration_s)):
        bad += [
            BadCell(int(row), column, shown(table.rows[column].iloc[row]), "is no GPU job that ran")
            for row in np.flatnonzero((values == 0).to_numpy())
        ]
    rejected = reject(table, sorted(bad), "skip")
    kept = table.rows_but(bad)
    rows = table.rows[kept]
    num_pods = np.ceil(gpus[kept] / GPUS_PER_NODE)
    label = next((name for name in ("vc", "type", "queue") if name in rows), None)
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": submit_s[kept] - submit_s[kept].min(),
            "duration_s": duration_s[kept],
            "gpus": gpus[kept].astype("int64"),
            "user": rows["user"].fillna(""),
            "queue": rows[label].fillna("").astype("str") if label in ("vc", "type") else "",
            "outcome": rows["state"].str.upper().map(_OUTCOMES).fillna("failed"),
        }
    )
    if "cpu_num" in rows:
        jobs["cpu_per_pod"] = pd.to_numeric(rows["cpu_num"], errors="coerce").fillna(0) / num_pods
    return fill(jobs), rejected
