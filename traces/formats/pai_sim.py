"""Job lists of Alibaba PAI's simulator: instances, and GPUs of each.

Columns: job_id, num_inst, num_gpu, submit_time, duration, num_cpu, user, gpu_type and more
(https://github.com/alibaba/clusterdata, cluster-trace-gpu-v2020/simulator/traces/pai). There,
`num_gpu` and `num_cpu` are of one instance, and in units, not in percent as in the task table.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traces.formats.interface import Options, Reading
from traces.formats.rows import leave_out, numbers, reject, settle_columns, sound_and, unique
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import BadCell, fill

COLUMNS = ("job_id", "num_inst", "num_gpu", "submit_time", "duration")


def read(source: Source, options: Options) -> Reading:
    """Return the jobs that ask for a GPU, each a gang of its instances.

    A share of a GPU counts as a whole one, as shares are not modelled.

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    table = read_table(source, options.columns)
    settle_columns(table, COLUMNS)
    bad: list[BadCell] = []
    names = unique(table, "job_id", bad)
    num_pods = numbers(table, "num_inst", 1.0, bad, missing=1.0, whole=True)
    asked = numbers(table, "num_gpu", 0.0, bad, missing=0.0)
    submit_s = numbers(table, "submit_time", 0.0, bad)
    duration_s = numbers(table, "duration", 0.0, bad)
    cpu = pd.Series(0.0, index=table.rows.index)
    if "num_cpu" in table.rows:
        cpu = numbers(table, "num_cpu", 0.0, bad, missing=0.0)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    ordinary = [("num_gpu", (asked == 0).to_numpy(), "the job asks for no GPU")]
    kept, rejected, left_out = leave_out(table, bad, ordinary)
    notes = []
    if shares := int(num_pods[kept & (asked != np.floor(asked))].sum()):
        notes.append(
            f"instances that ask for a share of a GPU: {shares:,}; each counts as a whole GPU"
        )
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": submit_s[kept],
            "duration_s": duration_s[kept],
            "num_pods": num_pods[kept],
            "gpus_per_pod": np.ceil(asked)[kept],
            "cpu_per_pod": cpu[kept],
            "user": table.rows["user"][kept].fillna("") if "user" in table.rows else "",
        }
    )
    return Reading(fill(jobs), rejected, left_out, tuple(notes))
