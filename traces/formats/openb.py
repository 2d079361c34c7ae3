"""Alibaba's `openb` pods (cluster-trace-gpu-v2023): single pods, not gangs.

Weng et al., "Beware of fragmentation: scheduling GPU-sharing workloads with fragmentation gradient
descent", USENIX ATC 2023.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traces.formats.interface import Options, Reading
from traces.formats.outcomes import POD_PHASES, outcomes
from traces.formats.rows import numbers, reject, settle_columns, sound_and, unique
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import BadCell, fill

COLUMNS = (
    "name",
    "cpu_milli",
    "memory_mib",
    "num_gpu",
    "gpu_milli",
    "creation_time",
    "deletion_time",
)


def read(source: Source, options: Options) -> Reading:
    """Return one-pod jobs.

    A share of a GPU counts as a whole one, as shares are not modelled. A pod lives from creation to
    deletion. `gpu_spec` lists allowed models; with exactly one it becomes `gpu_model`, with several
    any node will do.

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    table = read_table(source)
    settle_columns(table, COLUMNS)
    bad: list[BadCell] = []
    created_s = numbers(table, "creation_time", 0.0, bad)
    deleted_s = numbers(table, "deletion_time", 0.0, bad)
    names = unique(table, "name", bad)
    gpus = numbers(table, "num_gpu", 0.0, bad)
    cpu_milli = numbers(table, "cpu_milli", 0.0, bad)
    mem_mib = numbers(table, "memory_mib", 0.0, bad)
    early = np.flatnonzero((deleted_s < created_s).to_numpy())
    bad += [
        BadCell(int(row), "deletion_time", str(deleted_s.iloc[row]), "must not precede creation")
        for row in early
    ]
    bad = sound_and(table, bad)
    rejected = reject(table, bad, options.on_bad_row)
    kept = table.rows_but(bad)
    rows = table.rows[kept]
    spec = rows["gpu_spec"].fillna("") if "gpu_spec" in rows else pd.Series("", index=rows.index)
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": created_s[kept],
            "duration_s": (deleted_s - created_s)[kept],
            "num_pods": 1,
            "gpus_per_pod": np.ceil(gpus[kept]),
            "gpu_model": spec.where(~spec.str.contains("|", regex=False), ""),
            "cpu_per_pod": cpu_milli[kept] / 1000.0,
            "mem_gib_per_pod": mem_mib[kept] / 1024.0,
            "queue": rows["qos"].fillna("") if "qos" in rows else "",
        }
    )
    notes: list[str] = []
    if "pod_phase" in rows:
        jobs["outcome"] = outcomes(rows["pod_phase"], POD_PHASES, notes, "pod_phase")
    return Reading(fill(jobs), rejected, notes=tuple(notes))
