"""Job lists of Tiresias' simulator and of those made from it: Muri, Chronus.

Columns: job_id, num_gpu, submit_time, iterations, model_name, duration, interval, all times in
seconds (https://github.com/SymbioticLab/Tiresias, simulator/60_job.csv; Gu et al., NSDI 2019).
Chronus adds user and more. Muri adds batch_size, iteration_time, resource_time_0 to _2 and
priority, and has all times in milliseconds (https://github.com/Rivendile/Muri,
simulator/trace-data; Zhao et al., SIGCOMM 2022).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traces.formats.interface import Options, Reading
from traces.formats.rows import (
    RawTable,
    leave_out,
    numbers,
    reject,
    settle_columns,
    sound_and,
    unique,
)
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import BadCell, fill

COLUMNS = ("job_id", "num_gpu", "submit_time", "duration")
#: a duration is this many times its iterations' own times, unless both have other units
MOST_APART = 30.0


def read(source: Source, options: Options) -> Reading:
    """Return the jobs of the list; those without GPUs are left out.

    Times are in milliseconds if there is an `iteration_time`, which Muri alone has, and durations
    are about `iterations` times it; in seconds if not.

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    table = read_table(source, options.columns)
    settle_columns(table, COLUMNS)
    bad: list[BadCell] = []
    names = unique(table, "job_id", bad)
    gpus = numbers(table, "num_gpu", 0.0, bad, whole=True)
    submitted = numbers(table, "submit_time", 0.0, bad)
    duration = numbers(table, "duration", 0.0, bad)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    ordinary = [("num_gpu", (gpus == 0).to_numpy(), "the job asks for no GPU")]
    kept, rejected, left_out = leave_out(table, bad, ordinary)
    notes = []
    per_s = 1.0
    if _in_milliseconds(table, duration):
        per_s = 1000.0
        notes.append("submit_time and duration are in milliseconds, as iteration_time is")
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": submitted[kept] / per_s,
            "duration_s": duration[kept] / per_s,
            "gpus": gpus[kept].astype("int64"),
            "user": table.rows["user"][kept].fillna("") if "user" in table.rows else "",
        }
    )
    return Reading(fill(jobs, options.gpus_per_node), rejected, left_out, tuple(notes))


def _in_milliseconds(table: RawTable, duration: pd.Series[float]) -> bool:
    """True if durations are what `iterations` of so many milliseconds take, in milliseconds."""
    if not {"iterations", "iteration_time"} <= set(table.rows.columns):
        return False
    expected_ms = numbers(table, "iterations", 0.0, []) * numbers(table, "iteration_time", 0.0, [])
    ratio = (duration / expected_ms.where(expected_ms > 0)).median()
    return bool(np.isnan(ratio) or ratio > 1.0 / MOST_APART)
