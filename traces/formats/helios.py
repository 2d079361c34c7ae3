"""Job lists in the form of the Helios and Acme releases: one row per Slurm job.

Helios: Hu et al., SC 2021 (HeliosData): job_id, user, gpu_num, cpu_num, node_num, state,
submit_time, start_time, end_time, duration, queue, vc. Acme: Hu et al., NSDI 2024 (AcmeTrace):
job_id, user, node_num, gpu_num, cpu_num, type, state, submit_time, start_time, end_time, duration,
queue, ...
"""

from __future__ import annotations

import pandas as pd

from traces.formats.catalog import HELIOS_COLUMNS as COLUMNS
from traces.formats.dates import times
from traces.formats.interface import Options, Reading
from traces.formats.outcomes import SLURM, outcomes, slurm_states
from traces.formats.rows import leave_out, numbers, reject, settle_columns, sound_and, unique
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import BadCell, fill, pods_of


def read(source: Source, options: Options) -> Reading:
    """Return GPU jobs that ran.

    Jobs without GPUs or run time are set aside as rejected rows, whatever `on_bad_row` says: they
    are ordinary in these lists. CPUs are divided evenly over the pods. The queue is the virtual
    cluster (Helios) or the job type (Acme).

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    table = read_table(source)
    settle_columns(table, COLUMNS)
    bad: list[BadCell] = []
    names = unique(table, "job_id", bad)
    gpus = numbers(table, "gpu_num", 0.0, bad, whole=True)
    duration_s = numbers(table, "duration", 0.0, bad, missing=0.0)
    submit_s = times(table, "submit_time", bad, options.dates)
    cpus = pd.Series(0.0, index=table.rows.index)
    if "cpu_num" in table.rows:
        cpus = numbers(table, "cpu_num", 0.0, bad, missing=0.0)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    kept, rejected, left_out = leave_out(
        table,
        bad,
        (
            ("gpu_num", (gpus == 0).to_numpy(), "the job asks for no GPU"),
            ("duration", (duration_s == 0).to_numpy(), "the job never ran"),
        ),
    )
    rows = table.rows[kept]
    num_pods = pods_of(gpus[kept].astype("int64"), options.gpus_per_node)
    notes: list[str] = []
    label = next((name for name in ("vc", "type", "queue") if name in rows), None)
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": submit_s[kept],
            "duration_s": duration_s[kept],
            "gpus": gpus[kept].astype("int64"),
            "user": rows["user"].fillna(""),
            "queue": rows[label].fillna("").astype("str") if label in ("vc", "type") else "",
            "cpu_per_pod": cpus[kept] / num_pods,
            "outcome": outcomes(slurm_states(rows["state"]), SLURM, notes, "state"),
        }
    )
    return Reading(fill(jobs, options.gpus_per_node), rejected, left_out, tuple(notes))
