"""What each queue of a run had: its waits, and what it used, borrowed and lent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sim.engines.records import Records
from sim.runs import metrics
from sim.runs.summary import submission_window


def queues_table(jobs: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Return queues.parquet: a row for each queue, in the order of their file."""
    totals = records.queues
    assert totals is not None
    window = submission_window(jobs, records.end_s)
    evicted = records.attempts[records.attempts["evicted_for"] >= 0]
    lost_gpu_s = evicted["lost_gpu_s"].to_numpy()
    whose, by_whom = (totals.of_job[evicted[side]] for side in ("job", "evicted_for"))
    all_gpu_s = float(totals.used_gpu_s.sum())
    rows = []
    for at, queue in enumerate(totals.file.queues):
        mine = jobs[totals.of_job == at]
        p50, p95 = metrics.queueing_delay(mine, window, (0.5, 0.95))
        rows.append(
            {
                "queue": queue.name,
                "cohort": queue.cohort,
                "nominal_gpus": totals.nominal_gpus[at],
                "num_jobs": len(mine),
                "num_started": int(mine["start_s"].notna().sum()),
                "wait_p50_s": p50.value,
                "wait_p50_is_lower_bound": p50.is_lower_bound,
                "wait_p95_s": p95.value,
                "wait_p95_is_lower_bound": p95.is_lower_bound,
                "pending_quota_s": float(mine["pending_quota_s"].sum()),
                "used_gpu_s": totals.used_gpu_s[at],
                "borrowed_gpu_s": totals.borrowed_gpu_s[at],
                "lent_gpu_s": totals.lent_gpu_s[at],
                "share_ratio": totals.used_gpu_s[at] / all_gpu_s if all_gpu_s else np.nan,
                "preemptions": int((whose == at).sum()),
                "preemptions_caused": int((by_whom == at).sum()),
                "preempted_lost_gpu_s": float(lost_gpu_s[whose == at].sum()),
                "preempting_lost_gpu_s": float(lost_gpu_s[by_whom == at].sum()),
            }
        )
    return pd.DataFrame(rows)


def evictions(records: Records) -> pd.DataFrame:
    """Return who was evicted for whom: queue, for_queue, preemptions, lost_gpu_s."""
    totals = records.queues
    assert totals is not None
    evicted = records.attempts[records.attempts["evicted_for"] >= 0]
    names = np.array([queue.name for queue in totals.file.queues], object)
    table = pd.DataFrame(
        {
            "queue": names[totals.of_job[evicted["job"]]],
            "for_queue": names[totals.of_job[evicted["evicted_for"]]],
            "lost_gpu_s": evicted["lost_gpu_s"],
        }
    )
    found = table.groupby(["queue", "for_queue"], as_index=False).agg(
        preemptions=("lost_gpu_s", "size"), lost_gpu_s=("lost_gpu_s", "sum")
    )
    by = ["lost_gpu_s", "preemptions", "queue", "for_queue"]
    return found.sort_values(by, ascending=[False, False, True, True], ignore_index=True)


def summary_of(table: pd.DataFrame, evicted: pd.DataFrame) -> dict[str, Any]:
    """Return the same by queue, as summary.json has it: None where a figure has no meaning.

    `evicted` is the table of `evictions`: what each queue lost, and for whom.
    """
    found: dict[str, dict[str, Any]] = {
        str(row["queue"]): {
            str(name): None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in row.items()
            if name != "queue"
        }
        for row in table.to_dict("records")
    }
    for one in found.values():
        one["evicted_for"] = {}
    for row in evicted.to_dict("records"):
        found[row["queue"]]["evicted_for"][row["for_queue"]] = {
            name: row[name] for name in ("preemptions", "lost_gpu_s")
        }
    return found
