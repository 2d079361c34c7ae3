"""Microsoft Philly's own log of jobs and their attempts: `cluster_job_log`, JSON.

Fields: https://github.com/msr-fiddle/philly-traces, README.md. Jeon et al., "Analysis of
large-scale multi-tenant GPU clusters for DNN training workloads", USENIX ATC 2019. The notebook
published with it takes the GPUs of the first attempt, as this reader does, and as run time all that
passes between the start of the first attempt and the end of the last. Here the run time is the sum
of the attempts: what passes between two attempts is waiting, which a simulation adds by itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from traces.formats.dates import times
from traces.formats.interface import Options, Reading
from traces.formats.items import Items, items_of
from traces.formats.outcomes import PHILLY, outcomes
from traces.formats.rows import Mask, RawTable, leave_out, reject, sound_and, unique
from traces.formats.source import Source
from traces.schema import BadCell, TraceError, fill, shown


class Server(msgspec.Struct):
    """GPUs of one server in an attempt."""

    gpus: list[str] | None = None


class Attempt(msgspec.Struct):
    """One time that a job ran."""

    start_time: str | None = None
    end_time: str | None = None
    detail: list[Server] | None = None


class Job(msgspec.Struct):
    """One item of the log."""

    jobid: str | None = None
    status: str | None = None
    vc: str | None = None
    user: str | None = None
    submitted_time: str | None = None
    attempts: list[Attempt] | None = None


class _Attempts(NamedTuple):
    """What the attempts of every job say [num_jobs]."""

    duration_s: pd.Series[float]  #: sum of those with both times
    gpus: pd.Series[int]  #: of the first attempt that names any
    num: pd.Series[int]
    timed: pd.Series[int]  #: attempts with both times
    running: pd.Series[bool]  #: the last one has no end
    between_s: pd.Series[float]  #: from attempts' ends to the starts of the next
    resized: pd.Series[bool]  #: attempts had different GPUs


NO_TIME = ("None", "")
NEVER, RUNNING, UNTIMED, NO_GPUS = (
    "the job has no attempt: it never ran",
    "the job was still running when the log ended: its run time is unknown",
    "no attempt of the job has both a start and an end: its run time is unknown",
    "no attempt of the job names its GPUs",
)


def read(source: Source, options: Options) -> Reading:
    """Return the jobs that ran and ended.

    Jobs without attempts never ran, and the run time of those whose last attempt has no end is
    unknown: both are left out and counted. The queue is the virtual cluster.

    Raises:
        TraceError: the file is not of that form, or holds bad items and `on_bad_row` is "fail".
    """
    items = items_of(source)
    found, torn = _decoded(items)
    if not found:
        raise TraceError(f"jobs file {str(source)!r} has no jobs: it is an empty list")
    text = {
        name: pd.Series([getattr(job, name) for job in found], dtype="str")
        for name in ("jobid", "status", "vc", "user", "submitted_time")
    }
    rows = pd.DataFrame(text)
    rows["submitted_time"] = rows["submitted_time"].mask(rows["submitted_time"].isin(NO_TIME))
    rows["attempts"] = pd.Series([len(job.attempts or ()) for job in found]).astype("str")
    table = RawTable(rows, pd.Series(items.places), str(source), tuple(torn), items.unit)
    bad: list[BadCell] = []
    names = unique(table, "jobid", bad)
    submit_s = times(table, "submitted_time", bad, options.dates)
    attempts = _attempts(table, found, options, bad)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    ordinary = [
        ("attempts", which.to_numpy(bool), reason)
        for which, reason in (
            (attempts.num == 0, NEVER),
            (attempts.running, RUNNING),
            (attempts.timed == 0, UNTIMED),
            (attempts.gpus == 0, NO_GPUS),
        )
    ]
    kept, rejected, left_out = leave_out(table, bad, ordinary)
    notes = _notes(attempts, kept)
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": submit_s[kept],
            "duration_s": attempts.duration_s[kept],
            "gpus": attempts.gpus[kept],
            "user": rows["user"][kept].fillna(""),
            "queue": rows["vc"][kept].fillna(""),
            "outcome": outcomes(rows["status"][kept].fillna(""), PHILLY, notes, "status"),
        }
    )
    return Reading(fill(jobs, options.gpus_per_node), rejected, left_out, tuple(notes))


def _decoded(items: Items) -> tuple[list[Job], list[BadCell]]:
    """Return every item as a job, and those that are none; they are empty jobs."""
    decode = msgspec.json.Decoder(Job).decode
    found: list[Job] = []
    torn: list[BadCell] = []
    for row, raw in enumerate(items.raw):
        try:
            found.append(decode(raw))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            start = bytes(raw)[:200].decode("utf-8", "replace")
            torn.append(BadCell(row, "", start, f"is not a job of this log ({error})"))
            found.append(Job())
    return found, torn


def _attempts(table: RawTable, found: list[Job], options: Options, bad: list[BadCell]) -> _Attempts:
    """Return what the attempts say; note in `bad` times that are none or are out of order."""
    listed: list[tuple[int, Any, Any, int]] = [
        (row, one.start_time, one.end_time, sum(len(each.gpus or ()) for each in one.detail or ()))
        for row, job in enumerate(found)
        for one in job.attempts or ()
    ]
    flat = pd.DataFrame(listed, columns=["row", "start_time", "end_time", "gpus"])
    row = flat["row"].astype("int64")
    seconds = {}
    for name in ("start_time", "end_time"):
        cells = flat[name].astype("str").where(flat[name].notna())
        flat[name] = cells.mask(cells.isin(NO_TIME))
        inner = RawTable(flat[[name]], row, str(table.source))
        wrong: list[BadCell] = []
        seconds[name] = times(inner, name, wrong, options.dates, needed=False)
        bad += [cell._replace(row=int(row.iloc[cell.row])) for cell in wrong]
    start_s, end_s = seconds["start_time"], seconds["end_time"]
    for place in np.flatnonzero((end_s < start_s).to_numpy()).tolist():
        value = shown(flat["end_time"].iloc[place])
        bad.append(BadCell(int(row.iloc[place]), "end_time", value, "must not precede start_time"))
    gap_s = (start_s - end_s.shift()).where(row == row.shift()).clip(lower=0.0)
    of_job = flat.assign(
        s=(end_s - start_s).fillna(0.0),
        timed=start_s.notna() & end_s.notna(),
        gap_s=gap_s.fillna(0.0),
    ).groupby("row")
    last = of_job.tail(1)
    running = pd.Series(end_s[last.index].isna().to_numpy(), index=last["row"].to_numpy())
    gpus = flat[flat["gpus"] > 0].groupby("row")["gpus"]
    every = range(len(found))
    return _Attempts(
        of_job["s"].sum().reindex(every, fill_value=0.0),
        gpus.first().reindex(every, fill_value=0),
        of_job.size().reindex(every, fill_value=0),
        of_job["timed"].sum().reindex(every, fill_value=0),
        running.reindex(every, fill_value=False),
        of_job["gap_s"].sum().reindex(every, fill_value=0.0),
        (gpus.nunique() > 1).reindex(every, fill_value=False),
    )


def _notes(attempts: _Attempts, kept: Mask) -> list[str]:
    notes = [
        "times have no zone in this log (it is from US Pacific time) and are read as they are: "
        "what runs or waits across the end of daylight saving time is off by an hour"
    ]
    if several := int((attempts.num[kept] > 1).sum()):
        notes.append(
            f"jobs with several attempts: {several:,}; their run time is the sum of the attempts; "
            f"what passes between two attempts, {attempts.between_s[kept].sum() / 3600:,.1f} h in "
            "all, is waiting"
        )
    if resized := int(attempts.resized[kept].sum()):
        notes.append(
            f"jobs with other GPUs in a later attempt: {resized:,}; those of the first count"
        )
    if untimed := int((attempts.num - attempts.timed)[kept].sum()):
        notes.append(f"attempts without a start or an end: {untimed:,}; they count as no run time")
    return notes
