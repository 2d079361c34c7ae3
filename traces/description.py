"""What is in a jobs table: counts, sizes, durations, load and burstiness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from traces import bursts
from traces.load import LoadedJobs
from traces.schema import DAY_S, counted, total_gpus

QUANTILES = (0.1, 0.5, 0.75, 0.9, 0.95, 0.99)
#: upper ends of the size classes, in GPUs
SIZES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, np.inf)


def figures(jobs: pd.DataFrame, num_gpus: int | None = None) -> dict[str, Any]:
    """Return the figures of a canonical jobs table; offered load if `num_gpus` is given.

    Offered load is the GPU-seconds asked for over GPUs times the submission window.

    Raises:
        ValueError: `num_gpus` is less than 1.
    """
    if num_gpus is not None and num_gpus < 1:
        raise ValueError(f"a cluster of {num_gpus} GPUs: give at least 1 to see the load on it")
    gpus = total_gpus(jobs)
    duration_s = jobs["duration_s"].to_numpy(np.float64)
    submit_s = jobs["submit_s"].to_numpy(np.float64)
    span_s = float(submit_s.max() - submit_s.min())
    work = gpus * duration_s
    found: dict[str, Any] = {
        "jobs": len(jobs),
        "pods": int(jobs["num_pods"].sum()),
        "users": int(jobs.loc[jobs["user"] != "", "user"].nunique()),
        "days": span_s / DAY_S,
        "gpu_hours": float(work.sum()) / 3600.0,
        "gpus_quantiles": dict(zip(QUANTILES, np.quantile(gpus, QUANTILES), strict=True)),
        "largest_gpus": int(gpus.max()),
        "duration_s_quantiles": dict(
            zip(QUANTILES, np.quantile(duration_s, QUANTILES), strict=True)
        ),
        "duration_s_mean": float(duration_s.mean()),
        "mean_busy_gpus": float(work.sum()) / span_s if span_s else np.nan,
        "outcomes": jobs["outcome"].value_counts().to_dict(),
    }
    if span_s:
        pods = bursts.per_bin(
            submit_s - submit_s.min(), bursts.MINUTE_S, jobs["num_pods"].to_numpy(np.int64)
        )
        found["pods_per_minute_p99"] = float(np.quantile(pods, 0.99))
        found["pods_per_minute_max"] = float(pods.max())
    if num_gpus is not None and span_s:
        found["offered_load"] = found["mean_busy_gpus"] / num_gpus
    return found


def sizes(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return share of jobs and of GPU-time, and median duration, by size class."""
    gpus = total_gpus(jobs)
    work = gpus * jobs["duration_s"].to_numpy(np.float64)
    rows = []
    low = -1.0
    for high in SIZES:
        inside = (gpus > low) & (gpus <= high)
        if inside.any():
            label = f"{int(low) + 1}" if high == low + 1 else f"{int(low) + 1}-{high:.0f}"
            rows.append(
                {
                    "gpus": label if np.isfinite(high) else f">{int(low)}",
                    "jobs": int(inside.sum()),
                    "jobs_ratio": float(inside.mean()),
                    "gpu_time_ratio": float(work[inside].sum() / work.sum()) if work.sum() else 0.0,
                    "duration_p50_s": float(np.median(jobs["duration_s"].to_numpy()[inside])),
                }
            )
        low = high
    return pd.DataFrame(rows)


def describe(jobs: pd.DataFrame, num_gpus: int | None = None) -> str:
    """Return the figures as text for people."""
    found = figures(jobs, num_gpus)
    decimals = 0 if found["gpu_hours"] >= 100 else 2
    lines = [
        f"jobs            {found['jobs']:,} ({counted(found['pods'], 'pod')}, "
        + (f"{counted(found['users'], 'user')})" if found["users"] else "no users named)"),
        f"window          {found['days']:.2f} days",
        f"GPU-hours       {found['gpu_hours']:,.{decimals}f}"
        + (
            f" ({found['mean_busy_gpus']:,.1f} busy GPUs on average over the span of submissions)"
            if found["days"]
            else ""
        ),
        f"largest gang    {counted(found['largest_gpus'], 'GPU')}",
    ]
    if "pods_per_minute_max" in found:
        lines.append(
            f"pods per minute p99 {found['pods_per_minute_p99']:,.0f}, "
            f"max {found['pods_per_minute_max']:,.0f}"
        )
    if "offered_load" in found:
        lines.append(
            f"offered load    {found['offered_load']:.3f} of {counted(num_gpus or 0, 'GPU')}"
        )
    outcomes = ", ".join(f"{name} {count:,}" for name, count in found["outcomes"].items())
    lines += [f"outcomes        {outcomes}", "", "quantile        " + _row(QUANTILES, "{:>10.0%}")]
    lines.append("GPUs            " + _row(found["gpus_quantiles"].values(), "{:>10,.0f}"))
    lines.append("duration (s)    " + _row(found["duration_s_quantiles"].values(), "{:>10,.0f}"))
    lines += ["", f"{'GPUs':>12} {'jobs':>10} {'jobs %':>8} {'GPU time %':>11} {'median s':>10}"]
    for row in sizes(jobs).to_dict("records"):
        lines.append(
            f"{row['gpus']:>12} {row['jobs']:>10,} {100 * row['jobs_ratio']:>8.2f} "
            f"{100 * row['gpu_time_ratio']:>11.2f} {row['duration_p50_s']:>10,.0f}"
        )
    return "\n".join(lines)


def how_read(loaded: LoadedJobs) -> str:
    """Return as text which format was taken and why, what was left out, and what to know of it."""
    lines = [f"format          {loaded.kind}: {loaded.why}"]
    lines += [f"left out        {count:,}: {why}" for why, count in loaded.left_out.items()]
    if loaded.num_bad:
        columns = loaded.bad["column"].replace("", "number of cells").value_counts()
        named = ", ".join(f"{column} {count:,}" for column, count in columns.items())
        lines.append(f"bad rows        {loaded.num_bad:,} left out: {named}")
    lines += [f"note            {note}" for note in loaded.notes]
    return "\n".join(lines)


def left_out_text(loaded: LoadedJobs) -> str:
    """Return how many rows were left out, bad ones apart from sound ones; "" if none was."""
    parts = []
    if loaded.num_bad:
        parts.append(f"{counted(loaded.num_bad, 'bad row')}")
    if sound := sum(loaded.left_out.values()):
        are = "is no job" if sound == 1 else "are no jobs"
        parts.append(f"{counted(sound, 'row')} that {are} to run")
    return f"left out {' and '.join(parts)}" if parts else ""


def _row(values: Any, form: str) -> str:
    return "".join(form.format(value) for value in values)
