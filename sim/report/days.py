"""The peak of each day of a run, or of each hour of a short one: how high, when, and for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE
from scheduler.core.times import DAY_S, HOUR_S
from sim.report.sizes import size_words
from sim.report.waiting import Waits, largest_gangs, pods_by_size
from sim.report.wording import clock, counted, duration, percent, plural
from sim.runs.metrics import SIZE_CLASSES, Window
from sim.runs.steps import Steps
from sim.schema.tables import REASONS

DAYS_FROM_S = 2 * DAY_S  #: shorter windows are told by the hour
CODES = {name: code for code, (name, _) in enumerate(SIZE_CLASSES)}
MOST_PARTS = 62  #: a page shows so many days; the table has all
LEAST_SHARE = 0.01  #: reasons of fewer pods are not named


def part_length(window: Window) -> float:
    """Return how long the parts are whose peaks are told: a day, or an hour in short windows."""
    return DAY_S if window.end_s - window.start_s >= DAYS_FROM_S else HOUR_S


def peaks_by_part(pending: Steps, window: Window, jobs: pd.DataFrame, waits: Waits) -> pd.DataFrame:
    """Return the highest state of pending pods in each day or hour, the last one perhaps in part.

    Columns: start_s, peak_s (the first such moment), peak_pods, `<reason>_pods` at it; of the
    largest gang that waits then largest_job, largest_gpus and largest_waited_s; and most_size, the
    gang size class of most of these pods, with most_size_ratio. Parts begin at whole days or hours
    of the run's zero.
    """
    part_s = part_length(window)
    total = pending.total()
    rows = []
    first, after = int(window.start_s // part_s), int(np.ceil(window.end_s / part_s))
    for part in range(first, max(after, first + 1)):
        start_s = max(part * part_s, window.start_s)
        end_s = min((part + 1) * part_s, window.end_s)
        begin = max(int(np.searchsorted(pending.time_s, start_s, side="right")) - 1, 0)
        end = max(int(np.searchsorted(pending.time_s, end_s, side="left")), begin + 1)
        at = begin + int(np.argmax(total[begin:end]))
        rows.append(
            {
                "start_s": start_s,
                "peak_s": max(float(pending.time_s[at]), start_s),
                "peak_pods": int(total[at]),
                **{
                    f"{name}_pods": int(pending.values[at, k])
                    for k, name in enumerate(pending.columns)
                },
            }
        )
    table = pd.DataFrame(rows)
    found = largest_gangs(jobs, waits, table["peak_s"].to_numpy(np.float64))
    gangs = found.gangs.reindex(found.at[:, 0]).reset_index(drop=True)  # NONE is no row of it
    by_size = pods_by_size(jobs, waits, table["peak_s"].to_numpy(np.float64))
    most = by_size.argmax(axis=1)
    pods = by_size.sum(axis=1)
    return table.assign(
        largest_job=gangs["job"],
        largest_gpus=gangs["gpus"],
        largest_waited_s=table["peak_s"] - gangs["since_s"],
        most_size=pd.Series([SIZE_CLASSES[code][0] for code in most], dtype="str").where(pods > 0),
        most_size_ratio=by_size.max(axis=1) / np.where(pods > 0, pods, np.nan),
    )


def part_word(window: Window) -> str:
    """Return what the parts of a window are called: day or hour."""
    return "day" if part_length(window) >= DAY_S else "hour"


def part_name(start_s: float, part_s: float) -> str:
    """Return how a part is called: day 12, or day 0 06:00 for an hour."""
    return f"day {int(start_s // DAY_S)}" if part_s >= DAY_S else clock(start_s)


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest state of pending pods in a part of a run."""

    start_s: float
    peak_s: float
    pods: int
    shares: tuple[tuple[PendingReason, float], ...]  #: of the pods, largest first
    gang: str  #: the largest that waits
    gang_gpus: float
    gang_waited_s: float
    most: str  #: the gang size class of most of the pods, in words
    most_ratio: float

    def lines(self) -> tuple[str, ...]:
        """Say it in short lines: how high and when, for what, and which gang is the largest."""
        if not self.pods:
            return ("none",)
        told = [
            f"{TABLE[reason].label} {percent(share)}"
            for reason, share in self.shares
            if share >= LEAST_SHARE
        ]
        time = clock(self.peak_s).split(" ", 2)[-1]
        lines = (f"{plural(self.pods, 'pod')} at {time}", ", ".join(told))
        if not self.gang:
            return lines
        return (
            *lines,
            f"{percent(self.most_ratio)} in {self.most}",
            f"largest: {self.gang}, {counted(self.gang_gpus, 'GPU')}, "
            f"waited {duration(self.gang_waited_s)}",
        )


def by_start(table: pd.DataFrame) -> dict[float, Peak]:
    """Return the peaks of `peaks_by_part` by the start of their part."""
    found = {}
    for row in table.to_dict("records"):
        pods = int(row["peak_pods"])
        counts = sorted(((int(row[f"{name}_pods"]), name) for name in REASONS), reverse=True)
        shares = tuple((name, n / pods) for n, name in counts if n)
        found[float(row["start_s"])] = Peak(
            float(row["start_s"]),
            float(row["peak_s"]),
            pods,
            shares,
            gang="" if pd.isna(row["largest_job"]) else str(row["largest_job"]),
            gang_gpus=float(row["largest_gpus"]),
            gang_waited_s=float(row["largest_waited_s"]),
            most="" if pd.isna(row["most_size"]) else size_words(CODES[str(row["most_size"])]),
            most_ratio=float(row["most_size_ratio"]),
        )
    return found
