"""Schemas of a run's tables; docs/tables.md says what each column means."""

from __future__ import annotations

import pyarrow as pa

from scheduler.core.decisions import PendingReason

REASONS: tuple[PendingReason, ...] = tuple(PendingReason)
#: what a gang may find too little of; resources of other names count as `other`
RESOURCES = ("gpus", "cpu", "memory", "pods", "other")

JOBS = pa.schema(
    [
        ("job", pa.string()),
        ("user", pa.string()),
        ("queue", pa.string()),
        ("priority", pa.int32()),
        ("submit_s", pa.float64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("walltime_s", pa.float64()),
        ("num_pods", pa.int32()),
        ("gpus_per_pod", pa.int32()),
        ("gpus", pa.int32()),
        ("cpu_per_pod", pa.float64()),
        ("mem_gib_per_pod", pa.float64()),
        ("attempts", pa.int32()),
        ("outcome", pa.string()),
        ("held_gpu_s", pa.float64()),
        ("lost_gpu_s", pa.float64()),
        *((f"pending_{reason}_s", pa.float64()) for reason in REASONS),
        *((f"short_{resource}_s", pa.float64()) for resource in RESOURCES),
        ("unmet", pa.string()),
    ]
)

ATTEMPTS = pa.schema(
    [
        ("job", pa.string()),
        ("attempt", pa.int32()),
        ("created_s", pa.float64()),
        ("admitted_s", pa.float64()),
        ("bound_s", pa.float64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("outcome", pa.string()),
        ("evicted_for", pa.string()),
        ("num_nodes", pa.int32()),
        ("held_gpu_s", pa.float64()),
        ("lost_gpu_s", pa.float64()),
    ]
)

#: what the time of an attempt went into, in runs with costs; docs/costs.md tells which is which
GOODPUT_PARTS = (
    "productive_s",
    "startup_s",
    "restore_s",
    "save_stall_s",
    "lost_work_s",
    "recovery_s",
    "other_s",
)
_PARTS = pa.schema([(part, pa.float64()) for part in GOODPUT_PARTS])


def with_goodput(schema: pa.Schema) -> pa.Schema:
    """Return the schema of jobs or attempts in a run with costs."""
    return pa.schema([*schema, *_PARTS])


PENDING = pa.schema(
    [
        ("time_s", pa.float64()),
        ("reason", pa.string()),
        ("pods", pa.int64()),
        ("gpus", pa.int64()),
    ]
)

#: only of runs with several queues
PENDING_BY_QUEUE = pa.schema([PENDING.field("time_s"), ("queue", pa.string()), *list(PENDING)[1:]])

ALLOCATION = pa.schema(
    [
        ("time_s", pa.float64()),
        ("allocated_gpus", pa.int64()),
        ("useful_gpus", pa.int64()),
        ("unavailable_gpus", pa.int64()),
    ]
)

NODES = pa.schema(
    [
        ("node", pa.string()),
        ("pool", pa.string()),
        ("gpu_model", pa.string()),
        ("gpus", pa.int32()),
        ("allocated_gpu_s", pa.float64()),
        ("unavailable_gpu_s", pa.float64()),
    ]
)


#: only of runs whose queues have quota
QUEUES = pa.schema(
    [
        ("queue", pa.string()),
        ("cohort", pa.string()),
        ("nominal_gpus", pa.int64()),
        ("num_jobs", pa.int32()),
        ("num_started", pa.int32()),
        ("wait_p50_s", pa.float64()),
        ("wait_p50_is_lower_bound", pa.bool_()),
        ("wait_p95_s", pa.float64()),
        ("wait_p95_is_lower_bound", pa.bool_()),
        ("pending_quota_s", pa.float64()),
        ("used_gpu_s", pa.float64()),
        ("borrowed_gpu_s", pa.float64()),
        ("lent_gpu_s", pa.float64()),
        ("share_ratio", pa.float64()),
        ("preemptions", pa.int64()),
        ("preemptions_caused", pa.int64()),
        ("preempted_lost_gpu_s", pa.float64()),
        ("preempting_lost_gpu_s", pa.float64()),
    ]
)


def schemas(*, has_goodput: bool, num_queues: int = 0) -> dict[str, pa.Schema]:
    """Return the schema of each table of a run; those with costs say where time went.

    `num_queues` is how many queues its queues file has, if it has one.
    """
    jobs, attempts = JOBS, ATTEMPTS
    if has_goodput:
        jobs, attempts = with_goodput(JOBS), with_goodput(ATTEMPTS)
    found = {
        "jobs": jobs,
        "attempts": attempts,
        "pending": PENDING,
        "allocation": ALLOCATION,
        "nodes": NODES,
    }
    if num_queues:
        found["queues"] = QUEUES
    if num_queues > 1:
        found["pending_by_queue"] = PENDING_BY_QUEUE
    return found
