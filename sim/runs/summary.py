"""Headline figures of one run, as in `summary.json`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sim.runs import metrics
from sim.runs.left_out import left_out, unmet_requests
from sim.runs.steps import allocation_steps, pending_steps


def submission_window(jobs: pd.DataFrame, end_s: float) -> metrics.Window:
    """Return the window from time 0 to the last submission; jobs are followed to `end_s`.

    Jobs submitted at the very end count if they ended there: they take no time.
    """
    last_s = float(jobs["submit_s"].max())
    took_no_time = bool((jobs["end_s"] <= jobs["submit_s"])[jobs["submit_s"] == last_s].any())
    after_s = float(np.nextafter(last_s, np.inf))
    return metrics.Window(0.0, after_s if took_no_time else min(after_s, end_s), end_s)


def summarize(
    jobs: pd.DataFrame,
    attempts: pd.DataFrame,
    pending: pd.DataFrame,
    allocation: pd.DataFrame,
    num_gpus: int,
    end_s: float,
    window: metrics.Window | None = None,
) -> dict[str, Any]:
    """Return headline figures; None where a figure has no meaning for this run.

    Figures are taken over `window`; without it, over the submission window, and curves over the
    whole run if that does not last.
    """
    window = window or submission_window(jobs, end_s)
    curve_end_s = window.end_s if window.end_s > 1e-6 else end_s
    figures: dict[str, Any] = {
        "num_jobs": len(jobs),
        "num_pods": int(jobs["num_pods"].sum()),
        "outcomes": {str(k): int(v) for k, v in jobs["outcome"].value_counts().items()},
        "left_out": _left_out(jobs),
        "window_s": curve_end_s,
        "end_s": end_s,
        "tau_s": metrics.TAU_S,
    }
    if curve_end_s > 0:
        curves = pending_steps(pending, end_s).clip(0.0, curve_end_s)
        quantiles = metrics.pending_quantiles(curves).set_index("reason")
        for name in ("p50", "p99", "max", "mean"):
            figures[f"pending_pods_{name}"] = float(quantiles[f"{name}_pods"]["all"])
        figures["pending_share_ratio"] = {
            str(reason): float(share)
            for reason, share in quantiles["share_ratio"].items()
            if str(reason) not in ("all", "all_but_own_hold") and share > 0
        }
        use = metrics.use(allocation_steps(allocation, end_s).clip(0.0, curve_end_s), num_gpus)
        figures["allocation_ratio"] = use.allocation_ratio
        figures["useful_ratio"] = use.useful_ratio
        figures["idle_hold_gpu_h"] = use.idle_hold_gpu_h
        figures["unavailable_ratio"] = use.unavailable_ratio
    if "productive_s" in jobs:
        shares = metrics.held_shares(jobs, attempts)
        figures["goodput_ratio"] = shares["productive"]
        figures["held_share_ratio"] = shares
    figures["timeout_gpu_h"] = metrics.timeout_gpu_hours(
        attempts, metrics.Window(0.0, np.inf, np.inf)
    )
    p50, p95 = metrics.queueing_delay(jobs, window, (0.5, 0.95))
    quantiles_of = {"queueing_delay_p50_s": p50, "queueing_delay_p95_s": p95}
    quantiles_of |= metrics.completion(jobs, window)
    for name, quantile in quantiles_of.items():
        figures[name] = quantile.value
        figures[metrics.lower_bound_name(name)] = quantile.is_lower_bound
    figures["queueing_delay_by_gpus"] = {
        row["size_class"]: {name: value for name, value in row.items() if name != "size_class"}
        for row in metrics.delay_by_size(jobs, window).to_dict("records")
        if row["num_jobs"]
    }
    ended_s = jobs["end_s"].max()
    figures["makespan_s"] = float(ended_s - jobs["submit_s"].min())
    is_open = jobs["outcome"] == "unfinished"
    figures[metrics.lower_bound_name("makespan_s")] = bool(is_open.any())
    return {name: _without_nan(value) for name, value in figures.items()}


def _left_out(jobs: pd.DataFrame) -> dict[str, Any]:
    """Return the jobs that no figure below counts, and which of their requests no node offers."""
    found = left_out(jobs)
    return {
        "num_jobs": found.num_jobs,
        "num_pods": found.num_pods,
        "gpu_h": found.gpu_h,
        "gpu_h_ratio": found.share_ratio,
        "requests": [
            {"request": text, "num_jobs": number, "first_job": first}
            for text, number, first in unmet_requests(jobs)
        ],
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
