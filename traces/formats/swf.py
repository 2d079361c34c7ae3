"""Standard Workload Format: Feitelson's archive of parallel workloads.

Format: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. A processor becomes a pod of one
GPU, or `gpus_per_pod` processors a pod. Field 9 is the requested time; -1 means the run time.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traces.formats.interface import Options, Reading
from traces.formats.outcomes import SWF, outcomes
from traces.formats.rows import RawTable, numbers, reject, sound_and, unique
from traces.formats.source import Source
from traces.schema import BadCell, TraceError, fill, shown

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


def read(source: Source, options: Options) -> Reading:
    """Return the jobs that ran.

    Jobs without run time or processors never ran: they are set aside as rejected rows, whatever
    `on_bad_row` says, as they are ordinary in these logs. Where fewer processors were used than
    asked for, those used count.

    Raises:
        TraceError: the file is unreadable, or holds bad rows and `on_bad_row` is "fail".
    """
    table = _split(source)
    bad: list[BadCell] = []
    unique(table, "job", bad)
    job = numbers(table, "job", 0.0, bad, whole=True)
    submit_s = numbers(table, "submit", 0.0, bad)
    run_s = numbers(table, "run", -1.0, bad)
    used = numbers(table, "processors", -1.0, bad, whole=True)
    asked = numbers(table, "asked_processors", -1.0, bad, whole=True)
    asked_s = numbers(table, "walltime", -1.0, bad)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    processors = used.where(used > 0, asked)
    left_out: dict[str, int] = {}
    for column, values, reason in (
        ("run", run_s, "the job has no run time: it never ran"),
        ("processors", processors, "the job has no processors: it never ran"),
    ):
        ordinary = np.flatnonzero((values <= 0).to_numpy())
        known = {cell.row for cell in bad}
        left_out[reason] = len(set(ordinary.tolist()) - known)
        bad += [
            BadCell(int(row), column, shown(table.rows[column].iloc[row]), reason)
            for row in ordinary
        ]
    rejected = reject(table, sorted(bad), "skip")
    kept = table.rows_but(bad)
    if not kept.any():
        raise TraceError(f"SWF file {str(source)!r}: none of its {len(kept):,} jobs ran")
    size = options.gpus_per_pod or 1
    gpus = processors[kept].to_numpy(np.int64)
    num_pods = -(-gpus // size)
    per_pod = np.minimum(gpus, size)
    notes: list[str] = []
    user = table.rows["user"][kept]
    jobs = pd.DataFrame(
        {
            "job": job[kept].astype("int64").astype("str"),
            "submit_s": submit_s[kept],
            "duration_s": run_s[kept],
            "walltime_s": asked_s.where(asked_s > 0, run_s)[kept],
            "num_pods": num_pods,
            "gpus_per_pod": per_pod,
            "last_pod_gpus": gpus - (num_pods - 1) * per_pod,
            "user": ("user-" + user).where(user != "-1", ""),
            "outcome": outcomes(table.rows["status"][kept], SWF, notes, "status"),
        }
    )
    counts = {reason: count for reason, count in left_out.items() if count}
    return Reading(fill(jobs), rejected, counts, tuple(notes))


def _split(source: Source) -> RawTable:
    """Return the fields of the job lines as text; header lines begin with a semicolon."""
    lines: list[int] = []
    rows: list[list[str]] = []
    torn: list[BadCell] = []
    for number, line in enumerate(source.content.decode("utf-8", "replace").splitlines(), 1):
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
        raise TraceError(f"SWF file {str(source)!r} has no job lines")
    table = pd.DataFrame(rows, columns=list(_FIELDS), dtype="str")
    return RawTable(table, pd.Series(lines), str(source), tuple(torn))
