"""Attempts, heterogeneous jobs and pods of Slurm jobs."""

from __future__ import annotations

import pandas as pd

#: columns of the jobs table that need no more work
COPIED = ("job", "submit_s", "duration_s", "walltime_s", "user", "queue", "outcome")


def attempts(found: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Name the attempts of requeued jobs 105, 105#2, ... in order of their start."""
    found = found.sort_values(["submit_s", "start_s"], kind="stable")
    number = found.groupby("job").cumcount() + 1
    if again := int(found["job"][number > 1].nunique()):
        notes.append(
            f"requeued jobs: {again:,}; each of their attempts is a job that ran (named 105, "
            "105#2, ...)"
        )
    suffix = ("#" + number.astype("str")).where(number > 1, "")
    return found.assign(gang=found["job"].str.partition("+")[0] + suffix, job=found["job"] + suffix)


def gangs(found: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Put the parts of heterogeneous jobs (103+0, 103+1) together: they start as one gang.

    Adds `per_node`, the GPUs of a node, of the part with most.
    """
    nodes = found["nodes"].fillna(1.0)
    found = found.assign(per_node=(-(-found["gpus"] // nodes)).where(found["nodes"].notna()))
    if count := int((found["gpus"] % nodes != 0).sum()):
        notes.append(
            f"jobs whose nodes cannot share their GPUs evenly: {count:,}; the last pod has fewer"
        )
    is_part = found["job"].str.contains("+", regex=False)
    if not is_part.any():
        return found
    rules = {
        name: {"submit_s": "min", "walltime_s": "max", "duration_s": "max", "per_node": "max",
               "gpus": "sum", "nodes": "sum", "cpu": "sum", "mem_gib": "sum"}.get(name, "first")
        for name in found.columns if name != "gang"
    }  # fmt: skip
    together = found[is_part].sort_values("job").groupby("gang", as_index=False).agg(rules)
    notes.append(
        f"heterogeneous jobs: {len(together):,}; their parts ({int(is_part.sum()):,} in all) start "
        "together, so each job is one gang with the nodes of all its parts"
    )
    together["job"] = together["gang"]
    together["nodes"] = together["nodes"].where(together["nodes"] > 0)
    return pd.concat([found[~is_part], together]).sort_values("submit_s", kind="stable")


def pods(jobs: pd.DataFrame, gpus_per_node: int, notes: list[str]) -> pd.DataFrame:
    """Cut jobs into pods: one per node, or more where a node has more GPUs than the cluster's."""
    most = max(gpus_per_node, 1)
    gpus, nodes = jobs["gpus"], jobs["nodes"]
    asked = jobs["per_node"].fillna(gpus).clip(lower=1.0)
    per_pod = asked.clip(upper=most)
    has_gpus = gpus > 0
    num_pods = (-(-gpus // per_pod)).where(has_gpus, nodes.fillna(1.0))
    if count := int((has_gpus & nodes.notna() & (asked > most)).sum()):
        notes.append(
            f"jobs with more than {most} GPUs on a node: {count:,}; cut into pods of {most}"
        )
    alone = int((~has_gpus).sum())
    if alone == len(jobs):
        notes.append(
            "no job has GPUs: if some used them, gres/gpu is missing in AccountingStorageTRES of "
            "slurm.conf"
        )
    elif alone:
        notes.append(f"jobs without a GPU: {alone:,}; their pods take only CPUs and memory")
    return pd.DataFrame(
        {
            **{name: jobs[name] for name in COPIED},
            "num_pods": num_pods,
            "gpus_per_pod": per_pod.where(has_gpus, 0.0),
            "last_pod_gpus": (gpus - (num_pods - 1) * per_pod).where(has_gpus, 0.0),
            "cpu_per_pod": jobs["cpu"] / num_pods,
            "mem_gib_per_pod": jobs["mem_gib"] / num_pods,
        }
    )
