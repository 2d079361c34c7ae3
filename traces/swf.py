"""Standard Workload Format: Feitelson's archive of parallel workloads.

Format: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. A processor becomes a pod of one
GPU, or `gpus_per_pod` processors a pod. Field 9 is the requested time; -1 means the run time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from traces.schema import BadCell, TraceError, fill
from traces.tabular import RawTable, read_bytes, reject

_FIELDS = 18
_JOB, _SUBMIT, _RUN, _PROCESSORS, _ASKED_PROCESSORS, _WALLTIME, _STATUS, _USER = (
    0,
    1,
    3,
    4,
    7,
    8,
    10,
    11,
)
_OUTCOMES = {0: "failed", 1: "completed", 5: "cancelled"}


def read(
    path: Path, on_bad_row: str, gpus_per_pod: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return jobs, with submission counted from the first, and rejected rows.

    Rows without run time or processors never ran and are rejected. Where fewer processors were
    used than asked for, those used count.

    Raises:
        TraceError: the file is unreadable, or holds bad rows and `on_bad_row` is "fail".
    """
    lines, rows = _split(path)
    if not rows:
        raise TraceError(f"SWF file {str(path)!r} has no job lines")
    text = pd.DataFrame([row + ["-1"] * (_FIELDS - len(row)) for row in rows])
    table = RawTable(text, pd.Series(lines), str(path))
    numbers = text.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    processors = np.where(
        numbers[:, _PROCESSORS] > 0, numbers[:, _PROCESSORS], numbers[:, _ASKED_PROCESSORS]
    )
    bad: list[BadCell] = []
    for name, column, wrong, reason in (
        ("job", _JOB, ~np.isfinite(numbers[:, _JOB]), "must be a number"),
        ("submit", _SUBMIT, ~(numbers[:, _SUBMIT] >= 0), "must be a number, at least 0"),
        ("run", _RUN, ~(numbers[:, _RUN] > 0), "must be above 0: the job did not run"),
        ("processors", _PROCESSORS, ~(processors > 0), "must be above 0: nothing was used"),
    ):
        bad += [
            BadCell(int(row), name, str(text.iat[row, column]), reason)
            for row in np.flatnonzero(wrong)
        ]
    # rows that never ran are ordinary in these logs: they are set aside, not errors
    never_ran = {cell.row for cell in bad if cell.column in ("run", "processors")}
    broken = [cell for cell in bad if cell.row not in never_ran]
    reject(table, broken, on_bad_row)
    rejected = reject(table, sorted(bad), "skip")
    keep = np.ones(len(text), bool)
    keep[[cell.row for cell in bad]] = False
    if not keep.any():
        raise TraceError(f"SWF file {str(path)!r}: none of its {len(text)} jobs ran")
    kept = numbers[keep]
    size = gpus_per_pod or 1
    used = processors[keep].astype(np.int64)
    num_pods = -(-used // size)
    walltime_s = np.where(kept[:, _WALLTIME] > 0, kept[:, _WALLTIME], kept[:, _RUN])
    names = [f"{number:.0f}" for number in kept[:, _JOB]]
    jobs = pd.DataFrame(
        {
            "job": names,
            "submit_s": kept[:, _SUBMIT] - kept[:, _SUBMIT].min(),
            "duration_s": kept[:, _RUN],
            "walltime_s": walltime_s,
            "num_pods": num_pods,
            "gpus_per_pod": np.minimum(used, size),
            "last_pod_gpus": used - (num_pods - 1) * np.minimum(used, size),
            "user": [f"user-{number:.0f}" for number in kept[:, _USER]],
            "outcome": [_OUTCOMES.get(int(code), "completed") for code in kept[:, _STATUS]],
        }
    )
    twice = jobs["job"].duplicated()
    if twice.any():
        raise TraceError(f"SWF file {str(path)!r}: job {jobs['job'][twice].iloc[0]} stands twice")
    return fill(jobs), rejected


def _split(path: Path) -> tuple[list[int], list[list[str]]]:
    """Return line numbers and fields of the job lines; header lines begin with a semicolon."""
    lines, rows = [], []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), 1):
        fields = line.split()
        if fields and not fields[0].startswith(";"):
            if len(fields) < _WALLTIME + 1:
                raise TraceError(
                    f"SWF file {str(path)!r}, line {number}: {len(fields)} fields, "
                    f"at least {_WALLTIME + 1} are needed"
                )
            lines.append(number)
            rows.append(fields[:_FIELDS])
    return lines, rows
