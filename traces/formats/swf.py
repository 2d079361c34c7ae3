"""Standard Workload Format: Feitelson's archive of parallel workloads.

Format: https://www.cs.huji.ac.il/labs/parallel/workload/swf.html. A processor becomes a pod of one
GPU, or `gpus_per_pod` processors a pod. Field 9 is the requested time; -1 means the run time.
Times count from the header's UnixStartTime, where there is one.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from traces.formats.interface import Options, Reading
from traces.formats.outcomes import SWF, outcomes
from traces.formats.rows import RawTable, leave_out, numbers, reject, sound_and
from traces.formats.source import Source, encoding_of
from traces.schema import BadCell, TraceError, bad_names, fill

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
_NUMBER = re.compile(r"[-+]?\d.*")
_NUM_FIELDS = 18
#: when the clock of a log stood at 0, in Unix seconds
_UNIX_START = re.compile(r";\s*UnixStartTime:\s*(\d+)", re.IGNORECASE)
#: so many lines with another number of fields are named
_MOST_NAMED = 5
_FEWEST_FIELDS = 9


#: field 11 of a line that is a part of a job: to be continued, the last of one that succeeded, or
#: the last of one that failed
PARTIAL = (2.0, 3.0, 4.0)

IN_SUMMARY = "a partial execution of a job that has a summary line"
ADDED = "a partial execution, added to the first of its job"


def read(source: Source, options: Options) -> Reading:
    """Return the jobs that ran.

    Jobs without run time or processors never ran: they are set aside as rejected rows, whatever
    `on_bad_row` says, as they are ordinary in these logs. Where fewer processors were used than
    asked for, those used count. A job that was interrupted has a line for each partial execution
    (status 2 to 4) beside its summary; without a summary they are put together.

    Raises:
        TraceError: the file is unreadable, or holds bad rows and `on_bad_row` is "fail".
    """
    notes: list[str] = []
    table, start_unix_s = _split(source, notes)
    bad: list[BadCell] = []
    job = numbers(table, "job", 0.0, bad, whole=True)
    submit_s = numbers(table, "submit", 0.0, bad)
    run_s = numbers(table, "run", -1.0, bad)
    used = numbers(table, "processors", -1.0, bad, whole=True)
    asked = numbers(table, "asked_processors", -1.0, bad, whole=True)
    asked_s = numbers(table, "walltime", -1.0, bad)
    status = pd.to_numeric(table.rows["status"], errors="coerce")
    parts = status.isin(PARTIAL)
    summed = parts & job.isin(job[~parts])
    alone = parts & ~summed
    added = alone & job.where(alone).duplicated()
    bad += bad_names(job.where(~parts).map(_whole), "job", table.lines, needed=False)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    if alone.any():
        lines = pd.DataFrame({"run": run_s.clip(lower=0), "submit": submit_s, "status": status})
        whole = lines[alone].groupby(job[alone])
        run_s = run_s.mask(alone, whole["run"].transform("sum"))
        submit_s = submit_s.mask(alone, whole["submit"].transform("min"))
        status = status.mask(alone, whole["status"].transform("last"))
        used = used.mask(alone, used[alone].groupby(job[alone]).transform("max"))
        notes.append(
            f"jobs of which there are only partial executions: {whole.ngroups:,}; their run times "
            "are added up"
        )
    processors = used.where(used > 0, asked)
    kept, rejected, left_out = leave_out(
        table,
        bad,
        (
            ("status", summed.to_numpy(), IN_SUMMARY),
            ("status", added.to_numpy(), ADDED),
            ("run", (run_s <= 0).to_numpy(), "the job has no run time: it never ran"),
            ("processors", (processors <= 0).to_numpy(), "the job has no processors: it never ran"),
        ),
    )
    if not kept.any():
        raise TraceError(f"SWF file {str(source)!r}: none of its {len(kept):,} jobs ran")
    size = options.gpus_per_pod or 1
    gpus = processors[kept].to_numpy(np.int64)
    num_pods = -(-gpus // size)
    per_pod = np.minimum(gpus, size)
    user = table.rows["user"][kept]
    user = user.where(~user.str.fullmatch(r"\d+\.0+"), user.str.partition(".")[0])
    words = status[kept].map(_whole).where(status[kept].notna(), table.rows["status"][kept])
    jobs = pd.DataFrame(
        {
            "job": job[kept].map(_whole),
            "submit_s": submit_s[kept] + start_unix_s,
            "duration_s": run_s[kept],
            "walltime_s": asked_s.where(asked_s > 0, run_s)[kept],
            "num_pods": num_pods,
            "gpus_per_pod": per_pod,
            "last_pod_gpus": gpus - (num_pods - 1) * per_pod,
            "user": ("user-" + user).where(~user.str.startswith("-"), ""),
            "outcome": outcomes(words, SWF, notes, "status"),
        }
    )
    return Reading(fill(jobs), rejected, left_out, tuple(notes))


def _whole(number: float) -> str:
    """Return a whole number as text; "" if there is none."""
    return f"{number:.0f}" if np.isfinite(number) else ""


def _split(source: Source, notes: list[str]) -> tuple[RawTable, float]:
    """Return the fields of the job lines as text, and the Unix time of the log's zero, or 0.

    Header lines begin with a semicolon, or a #. Some logs have neither: lines of words before the
    first job are a header, too.
    """
    lines: list[int] = []
    rows: list[list[str]] = []
    torn: list[BadCell] = []
    uneven: list[str] = []
    start_unix_s = 0.0
    text = source.content.decode(encoding_of(source.content), "replace")
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if found := _UNIX_START.match(line.strip()):
            start_unix_s = float(found[1])
        if not fields or fields[0].startswith((";", "#")):
            continue
        if not rows and not any(map(_NUMBER.fullmatch, fields)):
            notes.append(f"ignored the header in line {number}: {' '.join(fields):.60}")
            continue
        if len(fields) < _FEWEST_FIELDS:
            reason = f"has fewer than {_FEWEST_FIELDS} fields ({len(fields)})"
            torn.append(BadCell(len(rows), "", " ".join(fields), reason))
        elif len(fields) != _NUM_FIELDS:
            uneven.append(f"line {number} has {len(fields)}")
        fields += ["-1"] * (_NUM_FIELDS - len(fields))
        rows.append([fields[place] for place in _FIELDS.values()])
        lines.append(number)
    if not rows:
        raise TraceError(f"SWF file {str(source)!r} has no job lines")
    if uneven:
        more = ", ..." if len(uneven) > _MOST_NAMED else ""
        notes.append(
            f"lines without the {_NUM_FIELDS} fields of SWF: {len(uneven):,} "
            f"({', '.join(uneven[:_MOST_NAMED])}{more}); missing fields count as unknown, further "
            "ones are ignored"
        )
    table = pd.DataFrame(rows, columns=list(_FIELDS), dtype="str")
    return RawTable(table, pd.Series(lines), str(source), tuple(torn)), start_unix_s
