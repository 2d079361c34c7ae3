"""What an engine hands over at the end of a run, and the tables made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scheduler.core.capacity import Capacity
from scheduler.core.decisions import PendingReason
from scheduler.core.model import Node
from scheduler.core.sentences import never
from scheduler.core.shortage import unmet
from sim.engines.attempts import OUTCOMES, UNFINISHED, Attempts, Batches
from sim.engines.lifecycle import Creation, bind_progress
from sim.engines.quotas import QueueTotals
from sim.engines.waits import CODE, StepLog, accumulate_steps, by_reason, by_resource
from sim.engines.workload import Workload, whole_us
from sim.schema.cluster import GIB
from sim.schema.config import ControlPlane
from sim.schema.tables import GOODPUT_PARTS, REASONS, RESOURCES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass
class CapacitySteps:
    """Changes of allocated, useful and unavailable GPUs over time, in any order."""

    time_s: list[Floats] = field(default_factory=list)
    allocated: list[Ints] = field(default_factory=list)
    useful: list[Ints] = field(default_factory=list)
    unavailable: list[Ints] = field(default_factory=list)

    def add(
        self,
        time_s: Floats,
        allocated: Ints | int = 0,
        useful: Ints | int = 0,
        unavailable: Ints | int = 0,
    ) -> None:
        """Note changes at these times; a plain number holds for all of them."""
        self.time_s.append(time_s)
        for changes, change in (
            (self.allocated, allocated),
            (self.useful, useful),
            (self.unavailable, unavailable),
        ):
            changes.append(np.broadcast_to(np.asarray(change, np.int64), len(time_s)))

    def table(self) -> pd.DataFrame:
        """Return the allocation table; it begins at time 0."""
        start = [np.zeros(1)]
        none = [np.zeros(1, np.int64)]
        time_s, levels = accumulate_steps(
            np.concatenate(start + self.time_s),
            *(
                np.concatenate(none + changes)
                for changes in (self.allocated, self.useful, self.unavailable)
            ),
        )
        if not len(time_s) or time_s[0] > 0.0:
            time_s = np.concatenate([np.zeros(1), time_s])
            levels = [np.concatenate([np.zeros(1, np.int64), level]) for level in levels]
        return pd.DataFrame(
            {
                "time_s": time_s,
                "allocated_gpus": levels[0],
                "useful_gpus": levels[1],
                "unavailable_gpus": levels[2],
            }
        )


@dataclass
class Records:
    """Everything a run left behind."""

    work: Workload
    nodes: list[Node]  #: in index order
    end_s: float
    num_events: int
    log: StepLog
    capacity: CapacitySteps
    #: per docs/tables.md, with `job` and `evicted_for` as indices of jobs, -1 for none
    attempts: pd.DataFrame
    pending_pod_s: Floats  #: [num_jobs, num_reasons]
    short_pod_s: Floats  #: [num_jobs, num_resources], of the time pending for want of any
    node_allocated_gpu_s: Floats  #: [num_nodes]
    node_unavailable_gpu_s: Floats  #: [num_nodes]
    never_fits: list[int]
    unmet: Mapping[int, str] = field(default_factory=dict)  #: why, where the engine knows
    queues: QueueTotals | None = None  #: where queues have quota
    interrupts_not_met: int = 0


def assemble(
    *,
    work: Workload,
    nodes: list[Node],
    plane: ControlPlane,
    creation: Creation,
    end_s: float,
    num_events: int,
    log: StepLog,
    attempts: Attempts,
    batches: Batches,
    pending_pod_s: Mapping[int, Floats],
    node_gpu_s: Floats,
    down: list[tuple[float, float, int]],
    never_fits: list[int],
    unmet: Mapping[int, str] | None = None,
    queues: QueueTotals | None = None,
    evicted_for: Mapping[int, int] | None = None,
) -> Records:
    """Work out binding, starting and running of every pod from the few numbers of its batch.

    `log` and `pending_pod_s`, by `coded` reason, hold what the engine knows: pods without a node.
    `evicted_for` has, by row of `attempts`, for which job it was evicted.
    """
    (
        job,
        created_s,
        admitted_s,
        bound_s,
        starting_s,
        start_s,
        ended_s,
        outcome,
        num_nodes,
        kept_s,
    ) = attempts
    run_s = np.minimum(start_s, ended_s)
    pending = by_reason(pending_pod_s, work.num_jobs)

    steps = bind_progress(batches, plane, creation)
    of = batches.attempt[steps.batch]
    gone_s = ended_s[of]
    placed_s = batches.placed_s[steps.batch]
    asked_s = np.minimum(batches.asked_s[steps.batch], gone_s)
    bind_s = np.minimum(steps.bound_s, gone_s)
    up_s = np.minimum(whole_us(steps.bound_s + starting_s[of]), gone_s)
    for reason, from_s, to_s in (
        (PendingReason.OWN_PARTIAL_HOLD, placed_s, asked_s),
        (PendingReason.CONTROL_PLANE, asked_s, bind_s),
        (PendingReason.STARTING, bind_s, up_s),
        (PendingReason.OWN_PARTIAL_HOLD, up_s, run_s[of]),
    ):
        lasts = to_s > from_s
        pods, gpus, mine = steps.pods[lasts], steps.gpus[lasts], job[of[lasts]]
        queue = 0 if queues is None else queues.of_job[mine]
        log.extend(from_s[lasts], reason, pods, gpus, queue)
        log.extend(to_s[lasts], reason, -pods, -gpus, queue)
        pending[:, CODE[reason]] += np.bincount(
            mine, weights=(to_s - from_s)[lasts] * pods, minlength=work.num_jobs
        )

    of = batches.attempt
    held = (ended_s[of] - batches.placed_s) * batches.gpus
    idle = np.maximum(run_s[of] - batches.placed_s, 0.0) * batches.gpus
    gpus = np.bincount(of, weights=batches.gpus, minlength=len(job))
    by_whom = np.full(len(job), -1)
    if evicted_for:
        by_whom[list(evicted_for)] = list(evicted_for.values())
    undone_s = np.where(outcome == UNFINISHED, 0.0, ended_s - run_s - kept_s)
    capacity = CapacitySteps()
    capacity.add(batches.placed_s, allocated=batches.gpus)
    capacity.add(ended_s[of], allocated=-batches.gpus)
    ran = ended_s > run_s
    capacity.add(run_s[ran], useful=gpus[ran].astype(np.int64))
    capacity.add(ended_s[ran], useful=-gpus[ran].astype(np.int64))
    unavailable = np.zeros(len(nodes))
    for down_s, up_again_s, node in down:
        until_s = min(up_again_s, end_s)
        node_gpus = nodes[node].capacity.gpus
        capacity.add(np.array([down_s]), unavailable=node_gpus)
        capacity.add(np.array([until_s]), unavailable=-node_gpus)
        unavailable[node] += (until_s - down_s) * node_gpus
    table = pd.DataFrame(
        {
            "job": job,
            "attempt": _attempt_numbers(job),
            "created_s": created_s,
            "admitted_s": np.where(admitted_s <= ended_s, admitted_s, np.nan),
            "bound_s": np.where(bound_s <= ended_s, bound_s, np.nan),
            "start_s": np.where(start_s <= ended_s, start_s, np.nan),
            "end_s": np.where(outcome == UNFINISHED, np.nan, ended_s),
            "outcome": np.array(OUTCOMES, object)[outcome],
            "evicted_for": by_whom,
            "num_nodes": num_nodes,
            "held_gpu_s": np.bincount(of, weights=held, minlength=len(job)),
            "lost_gpu_s": np.bincount(of, weights=idle, minlength=len(job))
            + np.maximum(undone_s, 0.0) * gpus,
        }
    )
    return Records(
        work=work,
        nodes=nodes,
        end_s=end_s,
        num_events=num_events,
        log=log,
        capacity=capacity,
        attempts=table,
        pending_pod_s=pending,
        short_pod_s=by_resource(pending_pod_s, work.num_jobs),
        node_allocated_gpu_s=node_gpu_s,
        node_unavailable_gpu_s=unavailable,
        never_fits=never_fits,
        unmet=unmet or {},
        queues=queues,
    )


def _attempt_numbers(job: Ints) -> Ints:
    """Return 1, 2, ... for the rows of each job, in row order."""
    earlier = pd.Series(job).groupby(job).cumcount()
    return np.asarray(earlier, np.int64) + 1


def jobs_table(records: Records) -> pd.DataFrame:
    """Return jobs.parquet."""
    work = records.work
    attempts = records.attempts
    by_job = attempts.groupby("job")
    num_jobs = work.num_jobs
    table = work.table

    def per_job(values: pd.Series, missing: float) -> Floats:
        column = np.full(num_jobs, missing)
        column[values.index.to_numpy()] = values.to_numpy()
        return column

    done = attempts[attempts["outcome"] == "completed"].set_index("job")["end_s"]
    outcome = table["outcome"].to_numpy(object).copy()
    end_s = per_job(done, np.nan)
    # in a log they say how far it was known, here what became of a job in the run
    outcome[np.isin(outcome, ("unfinished", "never_fits"))] = "unknown"
    outcome[np.isnan(end_s)] = "unfinished"
    outcome[records.never_fits] = "never_fits"
    columns: dict[str, object] = {
        "job": table["job"],
        "user": table["user"],
        "queue": table["queue"],
        "priority": table["priority"],
        "submit_s": table["submit_s"],
        "start_s": per_job(by_job["start_s"].min(), np.nan),
        "end_s": end_s,
        "duration_s": table["duration_s"],
        "walltime_s": table["walltime_s"],
        "num_pods": table["num_pods"],
        "gpus_per_pod": table["gpus_per_pod"],
        "gpus": np.array(work.gpus, np.int32),
        **{name: asked[work.roles_index] for name, asked in _largest_pods(work).items()},
        "attempts": per_job(by_job.size(), 0).astype(np.int32),
        "outcome": outcome,
        "held_gpu_s": per_job(by_job["held_gpu_s"].sum(), 0.0),
        "lost_gpu_s": per_job(by_job["lost_gpu_s"].sum(), 0.0),
    }
    mean_s = records.pending_pod_s / np.array(work.num_pods, np.float64)[:, None]
    for code, reason in enumerate(REASONS):
        columns[f"pending_{reason}_s"] = mean_s[:, code]
    mean_s = records.short_pod_s / np.array(work.num_pods, np.float64)[:, None]
    for code, resource in enumerate(RESOURCES):
        columns[f"short_{resource}_s"] = mean_s[:, code]
    columns["unmet"] = _unmet(records)
    if "productive_s" in attempts:
        parts = {part: per_job(by_job[part].sum(), 0.0) for part in GOODPUT_PARTS}
        parts["recovery_s"] += per_job(_between_s(attempts), 0.0)
        columns |= parts
    return pd.DataFrame(columns)


def _largest_pods(work: Workload) -> dict[str, Floats]:
    """Return CPUs and GiB of memory of the largest pod of each of `work.distinct_roles`."""
    pods = [[role.pod for role in roles] for roles in work.distinct_roles]
    return {
        "cpu_per_pod": np.array([max(pod.cpu_milli for pod in each) / 1000 for each in pods]),
        "mem_gib_per_pod": np.array([max(pod.mem_bytes for pod in each) / GIB for each in pods]),
    }


def _unmet(records: Records) -> list[str]:
    """Return for each job which request keeps it from ever starting; empty if none does."""
    texts = [""] * records.work.num_jobs
    capacity = Capacity(records.nodes, all_in_service=True)
    said: dict[int, str] = {}
    for job in records.never_fits:
        if job in records.unmet:
            texts[job] = records.unmet[job]
            continue
        at = int(records.work.roles_index[job])
        if at not in said:
            found = unmet(capacity, records.work.distinct_roles[at])
            said[at] = never(found) if found is not None else ""
        texts[job] = said[at]
    return texts


def _between_s(attempts: pd.DataFrame) -> pd.Series[float]:
    """Return, by job, the seconds from the end of each attempt to the running of the next.

    An attempt that was cut before it ran counts whole.
    """
    ran = attempts.dropna(subset=["start_s"])
    by_job = ran.groupby("job")
    next_s = by_job["start_s"].shift(-1)
    gap_s = (next_s - ran["end_s"]).where(next_s.notna(), 0.0)
    return gap_s.groupby(ran["job"]).sum()


def nodes_table(records: Records) -> pd.DataFrame:
    """Return nodes.parquet."""
    return pd.DataFrame(
        {
            "node": [node.name for node in records.nodes],
            "pool": [node.pool for node in records.nodes],
            "gpu_model": [node.gpu_model for node in records.nodes],
            "gpus": np.array([node.capacity.gpus for node in records.nodes], np.int32),
            "allocated_gpu_s": records.node_allocated_gpu_s,
            "unavailable_gpu_s": records.node_unavailable_gpu_s,
        }
    )
