"""What each queue of a run had: its waits, and what it used, borrowed and lent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sim.engines.records import Records
from sim.runs import metrics
from sim.runs.summary import submission_window


def queues_table(jobs: pd.DataFrame, attempts: pd.DataFrame, records: Records) -> pd.DataFrame:
    """Return queues.parquet: a row for each queue, in the order of their file."""
    totals = records.queues
    assert totals is not None
    window = submission_window(jobs, records.end_s)
    evicted = np.array([*records.evicted_for.keys()], np.int64)
    lost_gpu_s = attempts["lost_gpu_s"].to_numpy(np.float64)[evicted]
    whose = totals.of_job[records.attempts["job"].to_numpy(np.int64)[evicted]]
    by_whom = totals.of_job[np.array([*records.evicted_for.values()], np.int64)]
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


def summary_of(table: pd.DataFrame) -> dict[str, Any]:
    """Return the same by queue, as summary.json has it: None where a figure has no meaning."""
    return {
        str(row["queue"]): {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in row.items()
            if name != "queue"
        }
        for row in table.to_dict("records")
    }
