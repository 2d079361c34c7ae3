"""Alibaba PAI's tasks: `pai_task_table.csv` of cluster-trace-gpu-v2020, with or without its header.

Columns: https://github.com/alibaba/clusterdata, cluster-trace-gpu-v2020/README.md and
data/*.header. Weng et al., "MLaaS in the wild: workload analysis and scheduling in large-scale
heterogeneous GPU clusters", NSDI 2022.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from traces.formats.headless import PAI_TASKS, pai_table
from traces.formats.interface import Options, Reading
from traces.formats.outcomes import COMPLETED, FAILED, PAI, UNFINISHED, UNKNOWN, outcomes
from traces.formats.rows import leave_out, numbers, reject, settle_columns, sound_and
from traces.formats.source import Source
from traces.formats.text import read_table
from traces.schema import BadCell, fill, shown

CPU_ONLY, NEVER, NO_END = (
    "the task asks for no GPU, such as a parameter server",
    "the task never started",
    "the task has no end: its run time is unknown",
)


def read(source: Source, options: Options) -> Reading:
    """Return a job for every `job_name`: one gang of the instances of all its GPU tasks.

    `plan_gpu` is in percent: a share of a GPU counts as a whole one, as shares are not modelled.
    Tasks without GPUs, that never started, or that have no end are left out. A job runs from the
    first start of its tasks to their last end, and has failed if any of them has. Where its tasks
    differ in GPUs per instance, all its GPUs are cut into pods of the largest.

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    _, has_header = pai_table(source)
    table = read_table(source, () if has_header else options.columns or PAI_TASKS)
    settle_columns(table, PAI_TASKS[:-1])
    text = table.rows
    bad: list[BadCell] = []
    pods = numbers(table, "inst_num", 1.0, bad, missing=1.0, whole=True)
    percent = numbers(table, "plan_gpu", 0.0, bad, missing=0.0)
    cpu_percent = numbers(table, "plan_cpu", 0.0, bad, missing=0.0)
    mem_gib = numbers(table, "plan_mem", 0.0, bad, missing=0.0)
    start_s = numbers(table, "start_time", 0.0, bad, missing=0.0)
    end_s = numbers(table, "end_time", 0.0, bad, missing=0.0)
    never, endless = text["start_time"].isna(), text["end_time"].isna()
    bad += [
        BadCell(row, "job_name", "", "must be a name")
        for row in np.flatnonzero(text["job_name"].isna()).tolist()
    ]
    early = (end_s < start_s) & ~never & ~endless
    bad += [
        BadCell(row, "end_time", shown(text["end_time"].iloc[row]), "must not precede start_time")
        for row in np.flatnonzero(early).tolist()
    ]
    bad = sound_and(table, bad)
    reject(table, bad, options.on_bad_row)
    gpus = np.ceil(percent / 100.0)
    ordinary = (
        ("plan_gpu", (gpus == 0).to_numpy(), CPU_ONLY),
        ("start_time", never.to_numpy(), NEVER),
        ("end_time", endless.to_numpy(), NO_END),
    )
    kept, rejected, left_out = leave_out(table, bad, ordinary)
    notes = [
        "this table has no submissions: a job counts as submitted when its first task started, so "
        "what it waited in the log is not seen",
        "gpu_type says which GPUs a task got, not what it asked for, so muster ignores it",
    ]
    tasks = pd.DataFrame(
        {
            "job": text["job_name"][kept].astype("str"),
            "pods": pods[kept].astype("int64"),
            "gpus": gpus[kept].astype("int64"),
            "start_s": start_s[kept],
            "end_s": end_s[kept],
            "cpu": (pods * cpu_percent / 100.0)[kept],
            "mem_gib": (pods * mem_gib)[kept],
            "outcome": outcomes(text["status"][kept].fillna(""), PAI, notes, "status"),
        }
    )
    is_share = (percent % 100.0 != 0)[kept]
    if shares := int(tasks["pods"][is_share].sum()):
        notes.append(
            f"instances that ask for a share of a GPU: {shares:,}; each counts as a whole GPU"
        )
    return Reading(fill(_gangs(tasks, notes)), rejected, left_out, tuple(notes))


def _gangs(tasks: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return one row per job of its tasks."""
    order = [COMPLETED, UNKNOWN, UNFINISHED, FAILED]  # the last of them that any task has
    worst = tasks["outcome"].map({word: place for place, word in enumerate(order)})
    grouped = tasks.assign(total=tasks["pods"] * tasks["gpus"], worst=worst).groupby(
        "job", sort=False
    )
    sums = grouped[["total", "cpu", "mem_gib"]].sum()
    largest = grouped["gpus"].max()
    num_pods = -(-sums["total"] // largest)
    if several := int((grouped.size() > 1).sum()):
        notes.append(f"jobs with several GPU tasks: {several:,}; they are one gang of all of them")
    if uneven := int((grouped["gpus"].min() < largest).sum()):
        notes.append(
            f"jobs with tasks of different GPUs per instance: {uneven:,}; their GPUs are cut into "
            "pods of the largest"
        )
    start_s = grouped["start_s"].min()
    return pd.DataFrame(
        {
            "job": sums.index.to_numpy(),
            "submit_s": start_s.to_numpy(),
            "duration_s": (grouped["end_s"].max() - start_s).to_numpy(),
            "num_pods": num_pods.to_numpy(),
            "gpus_per_pod": largest.to_numpy(),
            "last_pod_gpus": (sums["total"] - (num_pods - 1) * largest).to_numpy(),
            "cpu_per_pod": (sums["cpu"] / num_pods).to_numpy(),
            "mem_gib_per_pod": (sums["mem_gib"] / num_pods).to_numpy(),
            "outcome": [order[place] for place in grouped["worst"].max()],
        }
    )
