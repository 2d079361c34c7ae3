"""Grid Workload Format of the Grid Workloads Archive: 29 fields, -1 where a value is unknown.

Fields: "The Grid Workload Format" of http://gwa.ewi.tudelft.nl; Iosup et al., "The Grid Workloads
Archive", FGCS 2008. A processor becomes a pod of one GPU, or `gpus_per_pod` processors a pod.
"""

from __future__ import annotations

import pandas as pd

from traces.formats.headless import GWF_FIELDS, fields_of
from traces.formats.interface import Options, Reading
from traces.formats.outcomes import GWF, outcomes
from traces.formats.rows import (
    RawTable,
    leave_out,
    numbers,
    pods_of_processors,
    reject,
    sound_and,
    unique,
)
from traces.formats.source import Source
from traces.formats.text import decoded
from traces.schema import BadCell, TraceError, fill

#: the fields that are read, and their places
FIELDS = {
    "JobID": 0, "SubmitTime": 1, "RunTime": 3, "NProc": 4, "ReqNProcs": 7, "ReqTime": 8,
    "Status": 10, "UserID": 11, "QueueID": 14, "OrigSiteID": 16,
}  # fmt: skip
FEWEST_FIELDS = 11
NEVER_RAN = "the job has no run time: it never ran"
NO_PROCESSORS = "the job has no processors: it never ran"


def read(source: Source, options: Options) -> Reading:
    """Return the jobs that ran.

    Where fewer processors were used than asked for, those used count. The queue is the job's queue,
    or the site that it was submitted to where there is none. A requested time that is unknown is
    the run time.

    Raises:
        TraceError: the file is unreadable, or holds bad rows and `on_bad_row` is "fail".
    """
    notes: list[str] = []
    table = _split(source, notes)
    bad: list[BadCell] = []
    names = unique(table, "JobID", bad)
    submit_s = numbers(table, "SubmitTime", 0.0, bad)
    run_s = numbers(table, "RunTime", -1.0, bad)
    used = numbers(table, "NProc", -1.0, bad, whole=True)
    asked = numbers(table, "ReqNProcs", -1.0, bad, whole=True)
    asked_s = numbers(table, "ReqTime", -1.0, bad)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    processors = used.where(used > 0, asked)
    # jobs of less than half a second have a run time of 0, and so have some that never ran
    never = (run_s < 0) | ((run_s == 0) & ~table.rows["Status"].isin(("1", "-1")))
    ordinary = (
        ("RunTime", never.to_numpy(), NEVER_RAN),
        ("NProc", (processors <= 0).to_numpy(), NO_PROCESSORS),
    )
    kept, rejected, left_out = leave_out(table, bad, ordinary)
    rows = table.rows[kept]
    queue = rows["QueueID"].where(rows["QueueID"] != "-1", rows["OrigSiteID"])
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": submit_s[kept],
            "duration_s": run_s[kept],
            "walltime_s": asked_s.where(asked_s > 0, run_s)[kept],
            **pods_of_processors(processors[kept], options.gpus_per_pod or 1),
            "user": rows["UserID"].where(rows["UserID"] != "-1", ""),
            "queue": queue.where(queue != "-1", ""),
            "outcome": outcomes(rows["Status"], GWF, notes, "Status"),
        }
    )
    return Reading(fill(jobs), rejected, left_out, tuple(notes))


def _split(source: Source, notes: list[str]) -> RawTable:
    """Return the fields that are read, as text; a first row of names says where they are."""
    places = dict(FIELDS)
    width = GWF_FIELDS
    lines: list[int] = []
    rows: list[list[str]] = []
    torn: list[BadCell] = []
    for number, line in enumerate(decoded(source).splitlines(), 1):
        if not line.strip() or line.lstrip("\ufeff").startswith("#"):
            continue
        cells = fields_of(line)
        if not rows and any(cell.lower() == "submittime" for cell in cells):
            places, width = _named(cells, source, notes), len(cells)
            continue
        if len(cells) < min(FEWEST_FIELDS, width):
            reason = f"has {len(cells)} fields, fewer than {min(FEWEST_FIELDS, width)}"
            torn.append(BadCell(len(rows), "", line.strip(), reason))
        cells += ["-1"] * (width - len(cells))
        rows.append([cells[place] if place >= 0 else "-1" for place in places.values()])
        lines.append(number)
    if not rows:
        raise TraceError(f"jobs file {str(source)!r} has no job lines")
    table = pd.DataFrame(rows, columns=list(places), dtype="str")
    return RawTable(table, pd.Series(lines), str(source), tuple(torn))


def _named(cells: list[str], source: Source, notes: list[str]) -> dict[str, int]:
    """Return the place of each field that is read, -1 where the file lacks it."""
    found = {cell.lower(): place for place, cell in enumerate(cells)}
    found.setdefault("nproc", found.get("nprocs", -1))
    places = {name: found.get(name.lower(), -1) for name in FIELDS}
    if missing := [name for name in ("JobID", "SubmitTime", "RunTime") if places[name] < 0]:
        raise TraceError(
            f"{source}: column {missing[0]!r} is missing; this format has {', '.join(FIELDS)}"
        )
    if "dependencies" in found:
        notes.append("jobs wait for no other jobs here: the column Dependencies is ignored")
    return places
