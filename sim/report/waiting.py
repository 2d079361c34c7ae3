"""Pending curves for pictures, and who waits: the largest gangs at every step of a curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.runs.metrics import SIZE_CLASSES, size_code
from sim.runs.steps import Steps

TOP_GANGS = 3
NONE = -1  #: fewer gangs wait at that moment

Floats = NDArray[np.float64]
Indexes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Waits:
    """Every time in which a gang was pending [num_waits]; a gang that is cut waits again."""

    row: Indexes  #: of the jobs table
    since_s: Floats
    until_s: Floats  #: inf if it still waits when the run ends


@dataclass(frozen=True, slots=True)
class LargestGangs:
    """The gangs of the most GPUs that wait at some moments."""

    at: Indexes  #: [num_times, TOP_GANGS] rows of `gangs`, the largest first; NONE where fewer wait
    gangs: pd.DataFrame  #: job, num_pods, gpus, since_s: one row for each wait that is shown


@dataclass(frozen=True, slots=True)
class PendingCurve:
    """The pending pods of one run, and its largest waiting gangs at every step kept."""

    name: str  #: as the picture calls it: the arm, and the seed where there are several
    steps: Steps  #: pods by reason; see `bin_s`
    gangs: LargestGangs  #: at the times of `steps`
    bin_s: float  #: 0: every change; else each piece of so many seconds keeps its extremes


def pending_curve(
    name: str,
    pending: Steps,
    jobs: pd.DataFrame,
    attempts: pd.DataFrame,
    num_bins: int = 4000,
    waits: Waits | None = None,
) -> PendingCurve:
    """Return the curve of a run for pictures.

    `pending` are its exact curves, cut to what is to be shown; `jobs` and `attempts` its tables.
    Of more than three changes in one of `num_bins` equal pieces, the lowest, the highest and the
    last stay. `waits` are those of the tables, where they are known already.
    """
    steps = pending.thin(num_bins)
    is_exact = len(steps.time_s) == len(pending.time_s)
    span_s = pending.end_s - float(pending.time_s[0])
    gangs = largest_gangs(jobs, waits or find_waits(jobs, attempts), steps.time_s)
    return PendingCurve(name, steps, gangs, 0.0 if is_exact else span_s / num_bins)


def find_waits(jobs: pd.DataFrame, attempts: pd.DataFrame) -> Waits:
    """Return when each gang was pending.

    That is from its submission to the start of all its ranks, and again from the end of an attempt
    that ran to the next start.
    """
    ran = attempts.loc[attempts["start_s"].notna(), ["job", "start_s", "end_s"]]
    row = pd.Index(jobs["job"]).get_indexer(pd.Index(ran["job"])).astype(np.int64)
    every = np.arange(len(jobs))
    # of each job: submission and ends of attempts open a wait, starts and the job's end close one
    opens = np.concatenate((jobs["submit_s"].to_numpy(np.float64), _or_never(ran["end_s"])))
    closes = np.concatenate((ran["start_s"].to_numpy(np.float64), _or_never(jobs["end_s"])))
    opener, closer = np.concatenate((every, row)), np.concatenate((row, every))
    by_open, by_close = np.lexsort((opens, opener)), np.lexsort((closes, closer))
    since_s, until_s = opens[by_open], closes[by_close]
    kept = since_s < until_s
    return Waits(opener[by_open][kept], since_s[kept], until_s[kept])


def _or_never(time_s: pd.Series) -> Floats:
    known: Floats = time_s.fillna(np.inf).to_numpy(np.float64)
    return known


def largest_gangs(jobs: pd.DataFrame, waits: Waits, time_s: Floats) -> LargestGangs:
    """Return the gangs of the most GPUs that wait at each time; ties go to pods, then to the wait.

    `time_s` [num_times] ascends. A wait counts from its first moment until before its last one, as
    the steps of the curves do.
    """
    first = np.searchsorted(time_s, waits.since_s, side="left")
    after = np.searchsorted(time_s, waits.until_s, side="left")
    seen = np.flatnonzero(after > first)
    row = waits.row[seen]
    pods, gpus = jobs["num_pods"].to_numpy()[row], jobs["gpus"].to_numpy()[row]
    seen = seen[np.lexsort((row, waits.since_s[seen], -pods, -gpus))]  # rank -> wait
    ranks = _lowest(first[seen], after[seen], len(time_s), TOP_GANGS)
    used, at = np.unique(ranks, return_inverse=True)
    at = at.reshape(ranks.shape).astype(np.int64)
    if len(used) and used[-1] == len(seen):  # the mark of a place that no gang takes
        at[at == len(used) - 1] = NONE
        used = used[:-1]
    shown = seen[used]
    gangs = jobs[["job", "num_pods", "gpus"]].iloc[waits.row[shown]].reset_index(drop=True)
    return LargestGangs(at, gangs.assign(since_s=waits.since_s[shown]))


def pods_by_size(jobs: pd.DataFrame, waits: Waits, time_s: Floats) -> Floats:
    """Return the pods of the gangs that wait at each time [num_times, num_size_classes]."""
    code = size_code(jobs["gpus"])[waits.row]
    pods = jobs["num_pods"].to_numpy(np.float64)[waits.row]
    waiting = ((waits.since_s <= at_s) & (at_s < waits.until_s) for at_s in time_s)
    rows = [np.bincount(code[one], pods[one], len(SIZE_CLASSES)) for one in waiting]
    return np.array(rows, dtype=np.float64).reshape(len(time_s), len(SIZE_CLASSES))


def _lowest(first: Indexes, after: Indexes, num_places: int, top: int) -> Indexes:
    """Return, for each place, the `top` lowest numbers of the intervals over it [num_places, top].

    Interval k covers the places from `first[k]` to before `after[k]`; len(first) marks nothing. As
    in a sparse table for range minima, but the other way round: each interval is laid on two blocks
    of a power of two, and each level hands its blocks down to their halves.
    """
    nothing = len(first)
    found = np.full((num_places, top), nothing, dtype=np.int64)
    if nothing == 0 or num_places == 0:
        return found
    level = np.frexp((after - first).astype(np.float64))[1] - 1  # floor(log2(length)), exact
    for power in range(int(level.max()), -1, -1):
        half = 1 << power
        mine = np.flatnonzero(level == power)
        place = np.concatenate((first[mine], after[mine] - half))
        number = np.concatenate((mine, mine))
        found = _merge(found, _few_lowest(place, number, num_places, top, nothing), nothing)
        if power:  # a block over [i, i + half) is two blocks of half the length
            step = half // 2
            right = np.full_like(found, nothing)
            right[step:] = found[: num_places - step]
            found = _merge(found, right, nothing)
    return found


def _few_lowest(
    place: Indexes, number: Indexes, num_places: int, top: int, nothing: int
) -> Indexes:
    """Return the `top` lowest different numbers at each place."""
    found = np.full((num_places, top), nothing, dtype=np.int64)
    pairs = np.unique(place * (nothing + 1) + number)
    place, number = pairs // (nothing + 1), pairs % (nothing + 1)
    begins = np.flatnonzero(np.diff(place, prepend=-1))
    turn = np.arange(len(place)) - np.repeat(begins, np.diff(np.append(begins, len(place))))
    kept = turn < top
    found[place[kept], turn[kept]] = number[kept]
    return found


def _merge(one: Indexes, other: Indexes, nothing: int) -> Indexes:
    """Return the lowest different numbers of two such tables, in as many columns."""
    both = np.sort(np.concatenate((one, other), axis=1), axis=1)
    both[:, 1:][both[:, 1:] == both[:, :-1]] = nothing
    return np.sort(both, axis=1)[:, : one.shape[1]]
