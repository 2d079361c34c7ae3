"""Slurm's accounting, as `sacct -P` prints it (https://slurm.schedmd.com/sacct.html).

Any columns in any order. A row is one attempt of one job; steps (101.batch) are left out. Jobs of
n nodes become n pods, each with its part of the GPUs, CPUs and memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from traces.formats import tres
from traces.formats.catalog import slurm_name
from traces.formats.dates import times
from traces.formats.interface import Options, Reading
from traces.formats.mistaken import JOB_ID, SACCT
from traces.formats.outcomes import SLURM, UNKNOWN, outcomes, slurm_states, still_ran
from traces.formats.rows import Mask, RawTable, leave_out, reject, sound_and
from traces.formats.slurm_commas import with_bars
from traces.formats.slurm_pods import attempts, gangs, pods
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import DAY_S, INT_MAX, LARGEST, BadCell, TraceError, fill, shown

#: what Slurm writes where there is no value
MISSING = ("Unknown", "None", "N/A", "NONE", "(null)", "None assigned", "UNLIMITED", "INVALID",
           "Partition_Limit", "PartitionLimit", "NOT_SET")  # fmt: skip
#: a time limit of so many minutes or more is none: Slurm's INFINITE and NO_VAL
NO_LIMIT = 4_294_967_294
#: the job holds its nodes still, so its run time is known only up to now
STILL_THERE = ("RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "SIGNALING", "STAGE_OUT")
#: not started, or to be started again
WAITING = ("PENDING", "CONFIGURING", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD")
#: .batch, .extern, .0 after the id of a job
STEP_ID = r"^[^\[.]+(?:\[.*\])?\."
#: a log whose first end comes so much later than its first submission began in the middle
LONG_DAYS = 1.0

PENDING = "the job had not started"
NEVER_RAN = "the job never ran"
REPEATED = "the same attempt is in a later row"
STEP = "a step of a job (such as 101.batch)"


@dataclass(frozen=True, slots=True)
class _Log:
    """A table whose columns are found by sacct's names."""

    table: RawTable
    names: dict[str, str]  #: sacct's name in small letters -> that of the file

    def has(self, name: str) -> bool:
        return name in self.names

    def texts(self, *names: str) -> pd.Series[str]:
        """Return the first of these columns that has a value in a row; NaN where none has."""
        found = pd.Series(pd.NA, index=self.table.rows.index, dtype="str")
        for name in names:
            if self.has(name):
                cells = self.table.rows[self.names[name]]
                found = found.fillna(cells.mask(cells.isin(MISSING)))
        return found

    def parsed(
        self, name: str, parse: Callable[[str], float], what: str, bad: list[BadCell]
    ) -> pd.Series[float]:
        """Return a column as numbers, NaN where it has no value; note what is none."""
        if not self.has(name):
            return pd.Series(np.nan, index=self.table.rows.index)
        texts = self.texts(name)
        codes, words = pd.factorize(texts)
        values = np.append([parse(str(word)) for word in words], np.nan)[codes]
        wrong = texts.notna().to_numpy() & ~((values >= 0) & (values <= LARGEST))
        bad += [
            BadCell(int(row), self.names[name], shown(texts.iloc[row]), f"must be {what}")
            for row in np.flatnonzero(wrong)
        ]
        return pd.Series(values, index=texts.index)

    def dates(self, name: str, order: str, bad: list[BadCell]) -> pd.Series[float]:
        """Return a column of dates as Unix seconds, NaN where it has none."""
        if not self.has(name):
            return pd.Series(np.nan, index=self.table.rows.index)
        column = self.names[name]
        cells = RawTable(self.texts(name).to_frame(column), self.table.lines, self.table.source)
        return times(cells, column, bad, order, needed=False)


def read(source: Source, options: Options) -> Reading:
    """Return every attempt of every job that ran; docs/tables.md has the rules.

    Raises:
        TraceError: the log lacks ids, times or resources (the text has the command that gives
            them), or has bad rows that may not be skipped.
    """
    table = read_table(source, unquoted="|")
    if table.delimiter == "," and table.torn:
        table = read_table(with_bars(source), unquoted="|")
    if 2 * len(table.torn) > len(table.rows):
        raise TraceError(
            f"{source}: most of its rows have another number of cells than its header; get the "
            f"log with: {SACCT}"
        )
    names = {slurm_name(name): name for name in reversed(table.rows.columns)}
    _check_columns(source, names)
    id_column = names.get("jobid") or names["jobidraw"]
    notes: list[str] = []
    bad: list[BadCell] = []
    again = table.rows[id_column].str.lower().eq(slurm_name(id_column)).to_numpy(bool)
    if again.any():
        notes.append(f"ignored further header lines: {int(again.sum()):,}")
    is_step = table.rows[id_column].str.contains(STEP_ID, na=False).to_numpy(bool)
    log = _Log(table.where(~is_step & ~again), names)
    table = log.table
    ids = log.texts("jobid", "jobidraw").fillna("")
    nameless = ~ids.str.fullmatch(JOB_ID).to_numpy(bool)
    bad += [
        BadCell(int(row), id_column, ids.iloc[row], "must be a job's id, such as 101 or 102_7")
        for row in np.flatnonzero(nameless)
    ]
    clusters = log.texts("cluster").fillna("")
    if clusters.nunique() > 1:  # each counts its jobs from 1
        ids = clusters + ":" + ids
    states = slurm_states(log.texts("state"))
    submit_s = log.dates("submit", options.dates, bad)
    start_s = log.dates("start", options.dates, bad)
    end_s = log.dates("end", options.dates, bad)
    duration_s = _durations(log, states, submit_s, start_s, end_s, bad)
    ordinary = _ordinary(log, ids, states, submit_s, start_s, duration_s)
    away = np.logical_or.reduce([mask for _, mask, _ in ordinary])
    for values, name in ((submit_s, "submit"), (duration_s, _duration_column(log))):
        known = {cell.row for cell in bad}
        bad += [
            BadCell(int(row), names[name], *_missing(table.rows[names[name]].iloc[row], name))
            for row in np.flatnonzero(values.isna().to_numpy())
            if row not in known
        ]
    found = pd.DataFrame(
        {
            "job": ids,
            "submit_s": submit_s.where(~(start_s < submit_s), start_s),
            "start_s": start_s,
            "duration_s": duration_s,
            "walltime_s": _walltimes(log, bad),
            "user": log.texts("user", "uid").fillna(""),
            "queue": log.texts("queue", "partition").fillna(""),
            **_resources(log, bad, notes, ~away),
        }
    )
    bad = sound_and(table, [cell for cell in bad if not away[cell.row]])
    reject(table, bad, options.on_bad_row)
    kept, rejected, left_out = leave_out(table, bad, ordinary)
    if is_step.any():
        left_out = {STEP: int(is_step.sum()), **left_out}
    if not kept.any():
        raise TraceError(
            f"{source}: none of its {len(kept):,} jobs ran"
            + "".join(f"; {count:,} left out: {reason}" for reason, count in left_out.items())
        )
    found["outcome"] = UNKNOWN if not log.has("state") else ""
    if log.has("state"):
        found["outcome"] = outcomes(states[kept], SLURM, notes, names["state"]).reindex(found.index)
    notes += _remarks(log, ids, states, submit_s, start_s, found, kept, options.dates)
    jobs = gangs(attempts(found[kept], notes), notes)
    jobs = pods(jobs, options.gpus_per_node, notes)
    return Reading(fill(jobs), rejected, left_out, tuple(notes))


def _missing(cell: object, name: str) -> tuple[str, str]:
    """Return a cell that says nothing of a time, and why its row is bad."""
    if not (text := shown(cell)):
        return "", "is missing"
    return text, "is no time" if name == "submit" else "is no time, and Start and End give none"


def _check_columns(source: Source, names: dict[str, str]) -> None:
    """Raise TraceError, with the command that gives them, if columns are missing."""
    lacks = [
        what
        for what, found in (
            ("the jobs' ids (JobID)", names.keys() & {"jobid", "jobidraw"}),
            ("when jobs were submitted (Submit)", "submit" in names),
            (
                "how long they ran (ElapsedRaw)",
                names.keys() & {"elapsed", "elapsedraw"} or {"start", "end"} <= names.keys(),
            ),
            (
                "their GPUs (AllocTRES)",
                names.keys() & {"alloctres", "reqtres", "allocgres", "reqgres"},
            ),
        )
        if not found
    ]
    if lacks:
        raise TraceError(
            f"{source}: sacct's output lacks {' and '.join(lacks)}; get a log that has all: {SACCT}"
        )


def _durations(
    log: _Log,
    states: pd.Series[str],
    submit_s: pd.Series[float],
    start_s: pd.Series[float],
    end_s: pd.Series[float],
    bad: list[BadCell],
) -> pd.Series[float]:
    """Return how long each attempt ran, or has run so far."""
    found = log.parsed("elapsedraw", _number, "a number of seconds, at least 0", bad)
    found = found.fillna(
        log.parsed("elapsed", clock_s, "a time such as 1-02:03:04, at least 0", bad)
    )
    ran_s = end_s - start_s
    found = found.fillna(ran_s.where(ran_s >= 0))
    latest_s = pd.concat([submit_s, start_s, end_s]).max()
    return found.fillna((latest_s - start_s).where(states.isin(STILL_THERE)))


def _duration_column(log: _Log) -> str:
    return next(name for name in ("elapsedraw", "elapsed", "end") if log.has(name))


def _walltimes(log: _Log, bad: list[BadCell]) -> pd.Series[float]:
    """Return the time limits in seconds; NaN where there is none."""
    minutes = log.parsed("timelimitraw", _number, "a number of minutes", bad)
    limit_s = 60.0 * minutes.where(minutes < NO_LIMIT)
    limit_s = limit_s.fillna(log.parsed("timelimit", clock_s, "a time such as 1-00:00:00", bad))
    return limit_s.where(limit_s > 0)


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else np.nan


def clock_s(text: str) -> float:
    """Return a time as Slurm writes it, d-hh:mm:ss or mm:ss.mmm, in seconds; NaN if it is none."""
    if not re.fullmatch(r"\d+-\d+(:\d+){0,2}(\.\d+)?|\d+(:\d+){1,2}(\.\d+)?", text):
        return np.nan
    days, _, rest = text.rpartition("-")
    parts = [float(part) for part in rest.split(":")]
    zeros = [0.0] * (3 - len(parts))
    hours, minutes, seconds = [*parts, *zeros] if days else [*zeros, *parts]
    return 86_400.0 * float(days or 0) + 3600.0 * hours + 60.0 * minutes + seconds


def _ordinary(
    log: _Log,
    ids: pd.Series[str],
    states: pd.Series[str],
    submit_s: pd.Series[float],
    start_s: pd.Series[float],
    duration_s: pd.Series[float],
) -> list[tuple[str, Mask, str]]:
    """Return which rows are sound and no attempts that ran: column, mask and reason."""
    waits = states.isin(WAITING).to_numpy(bool)
    idle = (duration_s.fillna(0.0) == 0).to_numpy(bool)
    no_start = np.full(len(ids), not log.has("state"))
    if log.has("start"):
        no_start = log.texts("start").isna().to_numpy(bool)
    # older versions of Slurm give such jobs the moment of their end as start
    cancelled = states.isin(("CANCELLED", "DEADLINE", "REVOKED")).to_numpy(bool)
    got_none = log.texts("alloctres").isna().to_numpy(bool)
    never = ~waits & idle & (no_start | (cancelled & got_none))
    keys = pd.DataFrame({"job": ids, "submit": submit_s, "start": start_s})
    again = keys[~waits & ~never].duplicated(keep="last").reindex(ids.index, fill_value=False)
    state = log.names.get("state") or log.names[_duration_column(log)]
    return [
        (state, waits, PENDING),
        (state, never, NEVER_RAN),
        (log.names.get("jobid") or log.names["jobidraw"], again.to_numpy(bool), REPEATED),
    ]


def _resources(
    log: _Log, bad: list[BadCell], notes: list[str], counted: Mask
) -> dict[str, pd.Series[float]]:
    """Return GPUs, nodes, CPUs and memory of each row, for all its nodes together."""
    found = [
        (name, (tres.gres if name.endswith("gres") else tres.tres)(log.texts(name)))
        for name in ("alloctres", "reqtres", "allocgres", "reqgres")
        if log.has(name)
    ]
    for name, held in found:
        bad += [
            BadCell(int(row), log.names[name], shown(log.texts(name).iloc[row]), tres.WHAT)
            for row in np.flatnonzero(held["wrong"].to_numpy(bool))
        ]

    def first(*series: pd.Series[float]) -> pd.Series[float]:
        result = series[0]
        for other in series[1:]:
            result = result.fillna(other)
        return result

    def count(name: str) -> pd.Series[float]:
        values = log.parsed(name, tres.quantity, "a count", bad)
        return values.where(values > 0)

    nodes = first(
        count("nnodes"), count("allocnodes"), *(held["nodes"] for _, held in found),
        count("reqnodes"),
    )  # fmt: skip
    cpu = first(
        *(held["cpu"] for name, held in found if name == "alloctres"),
        count("ncpus"), count("alloccpus"), *(held["cpu"] for _, held in found), count("reqcpus"),
    )  # fmt: skip
    mem_gib = first(*(held["mem_gib"] for _, held in found))
    asked = log.texts("reqmem")[mem_gib.isna()].dropna()
    asked_gib = list(map(tres.requested_gib, asked, cpu[asked.index], nodes[asked.index]))
    mem_gib = mem_gib.fillna(pd.Series(asked_gib, index=asked.index))
    gpus = first(*(held["gpus"] for _, held in found))
    too_many = np.flatnonzero((gpus > INT_MAX).to_numpy())
    bad += [BadCell(int(row), log.names[found[0][0]], f"{gpus.iloc[row]:.0f} GPUs",
                    f"must be {INT_MAX:,} GPUs at most") for row in too_many]  # fmt: skip
    gpus = gpus.where(~(gpus > INT_MAX))
    shares = first(*(held["shares"] for _, held in found)).fillna(0.0)
    shared = (gpus.fillna(0.0) == 0) & (shares > 0)
    gpus = gpus.mask(shared, nodes.fillna(1.0))
    notes += _notes_on_gpus([held for _, held in found], shared, counted)
    return {
        "gpus": gpus.fillna(0.0),
        "nodes": nodes,
        "cpu": cpu.fillna(0.0),
        "mem_gib": mem_gib.fillna(0.0),
    }


def _notes_on_gpus(found: list[pd.DataFrame], shared: pd.Series[bool], counted: Mask) -> list[str]:
    """Say what of the resources is read in another way, or not."""
    notes = []
    models = found[0]["model"]
    for held in found[1:]:
        models = models.where(models != "", held["model"])
    kinds = models[counted & (models != "").to_numpy()].value_counts()
    if len(kinds):
        listed = ", ".join(f"{name} ({count:,})" for name, count in kinds.head(5).items())
        notes.append(
            f"GPU types are not kept, as Slurm says what a job got, not what it needs: {listed}"
        )
    slices = int((models.str.contains(r"\d+g\.\d+gb") & counted).sum())
    if slices:
        notes.append(f"jobs with slices of GPUs (MIG): {slices:,}; a slice counts as a whole GPU")
    if count := int((shared & counted).sum()):
        notes.append(
            f"jobs with shares of GPUs (gres/shard, gres/mps): {count:,}; they count as one whole "
            "GPU on each node"
        )
    strange = pd.concat([held["strange"][counted] for held in found])
    words = strange[strange != ""].str.split(",").explode().value_counts()
    if len(words):
        listed = ", ".join(f"{word} ({count:,})" for word, count in words.head(5).items())
        notes.append(f"ignored other resources: {listed}")
    return notes


def _remarks(
    log: _Log,
    ids: pd.Series[str],
    states: pd.Series[str],
    submit_s: pd.Series[float],
    start_s: pd.Series[float],
    found: pd.DataFrame,
    kept: Mask,
    order: str,
) -> list[str]:
    """Say what was assumed about the jobs that are kept, and about arrays that wait."""
    notes = []
    arrays = ids[~kept & ids.str.contains("[", regex=False).to_numpy(bool)]
    if len(arrays):
        tasks = sum(map(num_tasks, arrays))
        notes.append(
            f"array tasks that had not started: {tasks:,}, in {len(arrays):,} of the rows left out"
        )
    notes += still_ran(int((states.isin(STILL_THERE) & kept).sum()))
    notes += _carried_in(found[kept])
    if count := int(((start_s < submit_s) & kept).sum()):
        notes.append(
            f"jobs with Start before Submit (requeued): {count:,}; they count as submitted at Start"
        )
    if log.has("eligible"):
        eligible_s = log.dates("eligible", order, [])
        if count := int(((eligible_s > submit_s) & kept).sum()):
            notes.append(
                f"jobs that could not start when submitted: {count:,} (Eligible is later: a "
                "dependency, a begin time or a hold); muster counts their wait from Submit"
            )
    if count := int(found["walltime_s"][kept].isna().sum()):
        notes.append(f"jobs without a time limit: {count:,}; their run time is used instead")
    return notes


def _carried_in(ran: pd.DataFrame) -> tuple[str, ...]:
    """Say it where a log begins in the middle: sacct -S gives jobs that still ran then."""
    began_s = ran["start_s"].fillna(ran["submit_s"])
    first_end_s = float((began_s + ran["duration_s"]).min())
    days = (first_end_s - float(ran["submit_s"].min())) / DAY_S
    if days < LONG_DAYS:
        return ()
    count = int((ran["submit_s"] < first_end_s).sum())
    return (
        f"jobs submitted before the first one of the log ended: {count:,}, over {days:.1f} days; "
        "jobs that ended in that time are not in the log (sacct -S), so it begins with too little "
        "load",
    )


def num_tasks(job: str) -> int:
    """Return how many tasks an array's id stands for: 102_[1-10%2] is 10, 102_[0-8:4,9] is 4."""
    inside = job.partition("[")[2].partition("]")[0].partition("%")[0]
    total = 0
    for part in inside.split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part.strip()):
            low, high, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            total += max(high - low, 0) // max(step, 1) + 1
    return max(total, 1)
