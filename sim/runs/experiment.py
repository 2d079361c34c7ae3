"""One run: jobs, a cluster and settings in; tables out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

import traces
from scheduler.core.capacity import Capacity
from scheduler.core.quota import NO_PARENT
from scheduler.core.quotabook import QuotaBook
from sim.engines.accounting import check_accounting
from sim.engines.costed import CostedSimulation
from sim.engines.faults import outages
from sim.engines.gangs import GangSimulation, ProgressCallback
from sim.engines.quotas import UnknownQueueError
from sim.engines.quotas import check_queues as check_queues_of
from sim.engines.records import Records, jobs_table, nodes_table
from sim.engines.workload import Workload
from sim.runs.folder import RunResult, versions
from sim.runs.queues import evictions, queues_table, summary_of
from sim.runs.reader import OPTIONS, Reader, Reading, cut_by_node
from sim.runs.summary import summarize
from sim.schema import costs, planes, queues
from sim.schema.cluster import Cluster
from sim.schema.config import SETTINGS, RunConfig, check_admission, check_queues, with_policy
from traces import windows

#: why jobs are left out of a run with a queues file
NO_SUCH_QUEUE = "the queues file has no queue for the job"


def run(
    jobs: pd.DataFrame | str | Path,
    *,
    nodes: int | None = None,
    gpus_per_node: int = 8,
    cluster: Cluster | str | Path | None = None,
    config: RunConfig | None = None,
    progress: bool | ProgressCallback = False,
    from_first: bool = True,
    **settings: Any,
) -> RunResult:
    """Simulate `jobs` on a cluster and return every record.

    Times of all tables count from the first submission; the manifest keeps its time on the clock
    of the jobs (`offset_s`). With `from_first=False` those of a DataFrame count from 0 of it.

    `settings` are fields of `RunConfig`, such as `seed=1`, the words of its policy, such as
    `order="sjf"` or `discipline="easy"`, and, for a file, those of its `Reader`, such as
    `kind="swf"` or `on_bad_row="skip"`; `control_plane` also takes a name such as "kubernetes" or
    the path of a TOML file, and `costs`, `interrupt` and `queues` the path of one.

    Raises:
        ValueError: the jobs, the cluster or a setting are invalid; the text says which.
    """
    reader = Reader(**{name: settings.pop(name) for name in OPTIONS if name in settings})
    resolved = resolve(config, settings)
    where = _cluster(nodes, gpus_per_node, cluster)
    rejected = pd.DataFrame()
    source: dict[str, Any] = {"input": "DataFrame"}
    if isinstance(jobs, pd.DataFrame):
        if given := list(reader.given()):
            raise ValueError(f"{given[0]} is for jobs files; a DataFrame is taken as it is")
        notes: list[str] = []
        table = cut_by_node(partial(traces.complete, jobs, notes=notes), where.node_gpus)
        if notes:
            source["notes"] = list(dict.fromkeys(notes))
    else:
        loaded = reader.read(jobs, where.node_gpus, progress=progress is True)
        source = msgspec.to_builtins(Reading.of(loaded))
        table, rejected = loaded.jobs, loaded.rejected
    if table.empty:
        raise ValueError("the jobs table has no rows; a run needs at least one job")
    if reader.on_bad_row == "skip" and resolved.queues is not None:
        table, without = _with_queue(table, where, resolved)
        if len(without):
            rejected = pd.concat([rejected, without], ignore_index=True)
            source["left_out"] = {**source["left_out"], NO_SUCH_QUEUE: len(without)}
    if from_first:
        table, offset_s = windows.from_first(table)
        source["offset_s"] = offset_s + float(source.get("offset_s", 0.0))
    check_jobs_of_queues(
        table,
        where,
        resolved,
        str(source.get("format", "")),
        may_skip=not isinstance(jobs, pd.DataFrame) and reader.on_bad_row != "skip",
    )
    if resolved.queues is not None:
        file, assumed = queues.on_cluster(resolved.queues, where)
        resolved = msgspec.structs.replace(resolved, queues=file)
        source["notes"] = [*source.get("notes", ()), *assumed]
    work = Workload(table, resolved.seed, limits_pods=where.limits_pods)
    if progress is True:
        from sim.runs.progress import run_progress

        with run_progress(work) as callback:
            records = _simulate(work, where, resolved, callback)
    else:
        records = _simulate(work, where, resolved, progress or None)
    return result_of(records, where, resolved, rejected, source)


def resolve(config: RunConfig | None, settings: dict[str, Any]) -> RunConfig:
    """Return settings, some perhaps as text, over those of `config`.

    Raises:
        ValueError: one is unknown or invalid.
    """
    fields = {name: getattr(config, name) for name in RunConfig.__struct_fields__} if config else {}
    settings = with_policy(settings, config.policy if config else None)
    plane = settings.get("control_plane")
    if isinstance(plane, str | Path):
        settings = {**settings, "control_plane": planes.load(plane)}
    if isinstance(settings.get("queues"), str | Path):
        settings = {**settings, "queues_file": Path(settings["queues"]).name}
    for name, load in (
        ("costs", costs.load),
        ("interrupt", costs.load_interrupts),
        ("queues", queues.load),
    ):
        if isinstance(settings.get(name), str | Path):
            settings = {**settings, name: load(settings[name])}
    for name in settings:
        if name not in RunConfig.__struct_fields__:
            known = ", ".join(SETTINGS)
            raise ValueError(f"setting {name!r} is unknown; choose among {known}")
    try:
        resolved = msgspec.convert(
            msgspec.to_builtins({**fields, **settings}), RunConfig, strict=False
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"settings of the run: {error}") from None
    if resolved.until_s is not None and not resolved.until_s > 0:
        raise ValueError(f"until_s is {resolved.until_s}; give a time after 0, or leave it out")
    if resolved.seed < 0:
        raise ValueError(f"seed is {resolved.seed}; give 0 or more")
    check_admission(resolved.admission, resolved.policy)
    if resolved.queues is not None:
        check_queues(resolved.admission, resolved.policy)
    planes.check(resolved.control_plane)
    _check_costs(resolved)
    return resolved


def _with_queue(
    jobs: pd.DataFrame, cluster: Cluster, config: RunConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the jobs that a queue takes, and the others as rows to reject; all if none does."""
    file, _ = queues.on_cluster(config.queues, cluster)  # type: ignore[arg-type]
    book = QuotaBook(Capacity(cluster.build()), file)
    names = jobs["queue"].fillna("").astype(str)
    lacks = names.map({name: book.queue_named(name) == NO_PARENT for name in names.unique()})
    if lacks.all():
        return jobs, pd.DataFrame()
    others = pd.DataFrame(
        {
            "line": "",
            "column": "queue",
            "value": names[lacks],
            "reason": NO_SUCH_QUEUE,
            "row": "job " + jobs.loc[lacks, "job"].astype(str),
        }
    )
    return jobs[~lacks].reset_index(drop=True), others


def check_jobs_of_queues(
    jobs: pd.DataFrame,
    cluster: Cluster,
    config: RunConfig,
    kind: str = "",
    *,
    may_skip: bool = False,
) -> None:
    """Check, before a run, that its queues take all these jobs and have nodes.

    `kind` is the format of the jobs' file, and `may_skip` says that bad rows of it may be skipped.

    Raises:
        ValueError: see `QuotaBook` and `check_queues`.
    """
    if config.queues is None:
        return
    file, _ = queues.on_cluster(config.queues, cluster)
    book = QuotaBook(Capacity(cluster.build()), file)
    try:
        check_queues_of(jobs["queue"].fillna("").tolist(), book)
    except UnknownQueueError as error:
        if kind != "sacct" and not may_skip:
            raise
        text = str(error)
        if may_skip:
            text += ", or leave those jobs out with --on-bad-row skip"
        if kind == "sacct":
            text += (
                ". The queue of a job is its partition here; with --map Account=queue it is its "
                "account"
            )
        raise ValueError(text) from None


def _check_costs(config: RunConfig) -> None:
    """Raise ValueError if the costs are invalid, or are given where they are not modelled."""
    for one in config.interrupt or ():
        one.check("settings of the run")
    if config.costs is not None:
        config.costs.check("settings of the run")
        if config.admission != "gang":
            raise ValueError(
                f"costs need admission gang, not {config.admission}: restart costs of pods that "
                "are placed one by one are not modelled; leave out the costs"
            )
    elif config.interrupt:
        raise ValueError("interrupts need costs; give costs as well")


def _cluster(
    nodes: int | None, gpus_per_node: int, cluster: Cluster | str | Path | None
) -> Cluster:
    if (nodes is None) == (cluster is None):
        raise ValueError("give either a number of nodes or a cluster file, not both or neither")
    if isinstance(cluster, Cluster):
        return cluster
    if cluster is not None:
        return Cluster.load(cluster)
    assert nodes is not None
    return Cluster.uniform(nodes, gpus_per_node)


def _simulate(
    work: Workload, cluster: Cluster, config: RunConfig, progress: ProgressCallback | None
) -> Records:
    nodes = cluster.build()
    faults = outages(config, work, cluster)
    if config.admission != "gang":
        from sim.engines.pods import PodSimulation  # brings simpy, which whole gangs do without

        return PodSimulation(work, nodes, config, faults, progress).run()
    simulation = GangSimulation if config.costs is None else CostedSimulation
    return simulation(work, nodes, config, faults, progress).run()


def result_of(
    records: Records,
    cluster: Cluster,
    config: RunConfig,
    rejected: pd.DataFrame,
    source: dict[str, object],
) -> RunResult:
    """Return the tables of a run that has ended."""
    jobs = jobs_table(records)
    pending = records.log.table()
    allocation = records.capacity.table()
    nodes = nodes_table(records)
    job_names = np.append(jobs["job"].to_numpy(object), "")  # -1 is the last
    attempts = records.attempts.assign(
        **{column: job_names[records.attempts[column]] for column in ("job", "evicted_for")}
    )
    accounting = check_accounting(
        records.end_s,
        records.pending_pod_s,
        attempts,
        pending,
        allocation,
        nodes,
        cluster.num_gpus,
    )
    summary = summarize(jobs, attempts, pending, allocation, cluster.num_gpus, records.end_s)
    queues, by_queue = pd.DataFrame(), pd.DataFrame()
    if records.queues is not None:
        queues = queues_table(jobs, records)
        summary["queues"] = summary_of(queues, evictions(records))
        names = [queue.name for queue in records.queues.file.queues]
        if len(names) > 1:
            by_queue = records.log.table_by_queue(names)
    manifest: dict[str, Any] = {
        **source,
        "label": config.label,
        "policy": msgspec.to_builtins(config.policy),
        "seed": config.seed,
        "num_jobs": len(jobs),
        "num_nodes": cluster.num_nodes,
        "num_gpus": cluster.num_gpus,
        "end_s": records.end_s,
        "last_submit_s": float(jobs["submit_s"].max()),
        "num_events": records.num_events,
        "num_rejected_rows": len(rejected),
        "accounting": accounting,
        "versions": versions(),
    }
    if config.costs is not None:
        manifest["interrupts_not_met"] = records.interrupts_not_met
    return RunResult(
        config=config,
        cluster=cluster,
        jobs=jobs,
        attempts=attempts,
        pending=pending,
        allocation=allocation,
        nodes=nodes,
        queues=queues,
        pending_by_queue=by_queue,
        summary=summary,
        manifest=manifest,
        rejected=rejected,
    )
