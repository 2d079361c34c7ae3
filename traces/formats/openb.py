"""Alibaba's `openb` pods (cluster-trace-gpu-v2023): single pods, not gangs.

Columns: https://github.com/alibaba/clusterdata, cluster-trace-gpu-v2023/README.md. Weng et al.,
"Beware of fragmentation: scheduling GPU-sharing workloads with fragmentation gradient descent",
USENIX ATC 2023.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traces.formats.interface import Options, Reading
from traces.formats.outcomes import POD_PHASES, outcomes
from traces.formats.rows import leave_out, numbers, reject, settle_columns, sound_and, unique
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import BadCell, TraceError, fill, shown

COLUMNS = (
    "name",
    "cpu_milli",
    "memory_mib",
    "num_gpu",
    "gpu_milli",
    "creation_time",
    "deletion_time",
)
NEVER_SCHEDULED = "the pod was never scheduled: it never ran"


def read(source: Source, options: Options) -> Reading:
    """Return one-pod jobs.

    A pod is submitted when it is created and runs from when it is scheduled until it is deleted;
    a file without scheduling times has it run from creation on. A pod that was never scheduled is
    left out. A share of a GPU counts as a whole one, as shares are not modelled. `gpu_spec` lists
    allowed models; with exactly one it becomes `gpu_model`, with several any node will do.

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    table = read_table(source)
    if "gpu_milli" in table.rows and "creation_time" not in table.rows:
        raise TraceError(
            f"{source}: it lists what pods ask for and no times, so there is nothing to simulate; "
            "openb_pod_list_default.csv and the gpuspec, gpushare and cpu lists have them"
        )
    settle_columns(table, COLUMNS)
    text = table.rows
    bad: list[BadCell] = []
    created_s = numbers(table, "creation_time", 0.0, bad)
    names = unique(table, "name", bad)
    gpus = numbers(table, "num_gpu", 0.0, bad)
    share_milli = numbers(table, "gpu_milli", 0.0, bad, missing=1000.0)
    cpu_milli = numbers(table, "cpu_milli", 0.0, bad)
    mem_mib = numbers(table, "memory_mib", 0.0, bad)
    started_s, never = created_s, pd.Series(False, index=text.index)
    if "scheduled_time" in text:
        never = text["scheduled_time"].isna()
        started_s = numbers(table, "scheduled_time", 0.0, bad, missing=0.0).where(~never, created_s)
        _ordered(table.rows, "scheduled_time", created_s, started_s, "creation", bad)
    if "pod_phase" in text:
        never |= text["pod_phase"] == "Pending"
    deleted_s = numbers(table, "deletion_time", 0.0, bad)
    before = "creation" if started_s is created_s else "scheduling"
    _ordered(table.rows, "deletion_time", started_s, deleted_s, before, bad)
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    ordinary = [("name", never.to_numpy(), NEVER_SCHEDULED)]
    kept, rejected, left_out = leave_out(table, bad, ordinary)
    rows = text[kept]
    spec = rows["gpu_spec"].fillna("") if "gpu_spec" in rows else pd.Series("", index=rows.index)
    several = spec.str.contains("|", regex=False)
    jobs = pd.DataFrame(
        {
            "job": names[kept],
            "submit_s": created_s[kept],
            "duration_s": (deleted_s - started_s)[kept],
            "num_pods": 1,
            "gpus_per_pod": np.ceil(gpus[kept]),
            "gpu_model": spec.where(~several, ""),
            "cpu_per_pod": cpu_milli[kept] / 1000.0,
            "mem_gib_per_pod": mem_mib[kept] / 1024.0,
            "queue": rows["qos"].fillna("") if "qos" in rows else "",
        }
    )
    notes: list[str] = []
    if shares := int(((share_milli < 1000) & (gpus > 0))[kept].sum()):
        notes.append(f"pods that ask for a share of a GPU: {shares:,}; each counts as a whole GPU")
    if num_several := int(several.sum()):
        notes.append(
            f"pods with several GPU models in gpu_spec: {num_several:,}; any node will do for them"
        )
    if "pod_phase" in rows:
        jobs["outcome"] = outcomes(rows["pod_phase"], POD_PHASES, notes, "pod_phase")
        if running := int((rows["pod_phase"] == "Running").sum()):
            notes.append(
                "pods that were still in phase Running when they were deleted or the log ended: "
                f"{running:,}; their run time ends there"
            )
    return Reading(fill(jobs), rejected, left_out, tuple(notes))


def _ordered(
    rows: pd.DataFrame,
    column: str,
    earlier_s: pd.Series[float],
    later_s: pd.Series[float],
    what: str,
    bad: list[BadCell],
) -> None:
    """Note in `bad` the rows whose time in `column` precedes what it must follow."""
    cells = rows[column]
    bad += [
        BadCell(int(row), column, shown(cells.iloc[row]), f"must not precede {what}")
        for row in np.flatnonzero((later_s < earlier_s).to_numpy())
    ]
