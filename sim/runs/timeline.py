"""`timeline.json`: the run as Trace Event Format, to look at in Perfetto.

Format: "Trace Event Format" (Google, catapult project): complete events (ph X) for attempts,
counter events (ph C) for pending pods; times in microseconds.
"""

from __future__ import annotations

import json
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
import pandas as pd

from scheduler import whole

#: attempts shown, those with the most GPU-seconds first
MOST_ATTEMPTS = 2000
#: points of each counter curve
MOST_POINTS = 2000
_LANES = 1
_COUNTERS = 2


def write(attempts: pd.DataFrame, jobs: pd.DataFrame, pending: pd.DataFrame, path: Path) -> None:
    """Write the largest attempts, one lane for gangs that do not overlap, and pending curves."""
    events: list[dict[str, object]] = [
        _name(_LANES, f"attempts (the {MOST_ATTEMPTS} with the most GPU-seconds)"),
        _name(_COUNTERS, "pending pods"),
    ]
    events += _attempt_events(attempts, jobs)
    events += _counter_events(pending)
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, separators=(",", ":"))
    whole.write_text(path, text + "\n")


def _name(process: int, name: str) -> dict[str, object]:
    return {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}


def _attempt_events(attempts: pd.DataFrame, jobs: pd.DataFrame) -> list[dict[str, object]]:
    largest = attempts.nlargest(MOST_ATTEMPTS, "held_gpu_s").dropna(subset=["admitted_s", "end_s"])
    mine = jobs[jobs["job"].isin(largest["job"])]
    gpus = dict(zip(mine["job"].tolist(), mine["gpus"].tolist(), strict=True))
    busy: list[tuple[float, int]] = []  # heap of lanes by the end of the last attempt in each
    idle: list[int] = []  # heap of the others
    events: list[dict[str, object]] = []
    shown = largest.sort_values(["admitted_s", "job"])
    columns = ("job", "attempt", "admitted_s", "end_s", "outcome")
    for job, attempt, begin_s, end_s, outcome in zip(
        *(shown[column].tolist() for column in columns), strict=True
    ):
        while busy and busy[0][0] <= begin_s:
            heappush(idle, heappop(busy)[1])
        lane = heappop(idle) if idle else len(busy)
        heappush(busy, (end_s, lane))
        events.append(
            {
                "ph": "X",
                "pid": _LANES,
                "tid": lane,
                "ts": round(begin_s * 1e6),
                "dur": round((end_s - begin_s) * 1e6),
                "name": f"{job} ({gpus[job]} GPUs)",
                "args": {"attempt": attempt, "outcome": outcome},
            }
        )
    return events


def _counter_events(pending: pd.DataFrame) -> list[dict[str, object]]:
    events: list[dict[str, object]] = []
    for reason, part in pending.groupby("reason", sort=True):
        peak = _thin(part["time_s"].to_numpy(), part["pods"].to_numpy())
        events += [
            {
                "ph": "C",
                "pid": _COUNTERS,
                "ts": round(time_s * 1e6),
                "name": str(reason),
                "args": {"pods": pods},
            }
            for time_s, pods in peak
        ]
    return events


def _thin(time_s: np.ndarray, pods: np.ndarray) -> list[tuple[float, int]]:
    """Return at most `MOST_POINTS` points: of each equal piece of time, the highest."""
    if len(time_s) <= MOST_POINTS:
        return list(zip(time_s.tolist(), pods.tolist(), strict=True))
    edges = np.linspace(time_s[0], time_s[-1], MOST_POINTS)
    piece = np.searchsorted(edges, time_s, side="right")
    order = np.lexsort((-pods, piece))
    first = order[np.append(True, np.diff(piece[order]) > 0)]
    return list(zip(time_s[first].tolist(), pods[first].tolist(), strict=True))
