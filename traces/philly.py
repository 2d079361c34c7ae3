"""Microsoft Philly: real jobs of 2017, as they were and superposed to a larger cluster.

Jeon et al., "Analysis of large-scale multi-tenant GPU clusters for DNN training workloads", USENIX
ATC 2019. The repository carries a filtered list of 82,247 jobs (NOTICE has origin and licence).
"""

from __future__ import annotations

import math
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from traces import bursts
from traces.estimates import walltimes
from traces.profiles import calibration
from traces.schema import DAY_S, GPUS_PER_NODE, fill
from traces.streams import Stream, generator

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WEEK_S = 7 * DAY_S
#: whole weeks with full activity: from Monday 2017-10-02, nine weeks
FIRST_MONDAY = pd.Timestamp("2017-10-02")
NUM_WEEKS = 9
SPAN_S = NUM_WEEKS * WEEK_S
#: copies of one job keep the hour of day, give or take so much
JITTER_S = 1800.0
#: 4,000,000 GPUs at full load for nine weeks
MOST_COPIES = 20_000


def jobs() -> pd.DataFrame:
    """Return the carried jobs in order of submission: submit_unix_s, duration_s, gpus, vc."""
    with files("traces").joinpath("data/philly_jobs.parquet").open("rb") as file:
        return pd.read_parquet(file)


def canonical(rows: pd.DataFrame, gpus_per_node: int = GPUS_PER_NODE) -> pd.DataFrame:
    """Return the canonical jobs table of `jobs()` rows, submission in Unix seconds."""
    submit_s = rows["submit_unix_s"].astype("float64")
    return fill(
        pd.DataFrame(
            {
                "job": [f"philly-{i:06}" for i in range(len(rows))],
                "submit_s": submit_s.to_numpy(),
                "duration_s": rows["duration_s"].to_numpy(np.float64),
                "gpus": rows["gpus"].to_numpy(),
                "queue": rows["vc"].to_numpy(),
            }
        ),
        gpus_per_node,
    )


def superpose(*, num_gpus: int, days: float, load: float, seed: int = 0) -> pd.DataFrame:
    """Return real jobs at a larger scale: copies of the nine full weeks, shifted and overlaid.

    Each copy is shifted by a random number of whole weeks, so weekday and hour of day stay, and
    every job of it by up to half an hour either way. Copies are added until their GPU-seconds
    reach `load` x `num_gpus` x `days`; of the last one, jobs are taken in random order, passing
    over those that are too large for what is left. A window of more than nine weeks repeats them.
    Jobs keep their size and run time; walltimes are not in the trace: they are drawn from the
    generator's model of user estimates.

    Raises:
        ValueError: an argument makes no sense, or the load is less than any job.
    """
    if num_gpus < 1:
        raise ValueError(f"num_gpus {num_gpus}: must be 1 or more")
    for name, value in (("days", days), ("load", load)):
        if not (math.isfinite(value) and value > 0.0):
            raise ValueError(f"{name} {value}: must be a number above 0")
    weeks = full_weeks()
    goal = load * num_gpus * days * DAY_S
    rng = generator(seed, Stream.SUPERPOSITION)
    chosen: list[_Copy] = []
    reached, is_full = 0.0, False
    while not is_full and len(chosen) < MOST_COPIES:
        copy = _shifted(weeks, days * DAY_S, rng)
        work = weeks.work_gpu_s[copy.row]
        is_full = reached + float(work.sum()) >= goal
        if is_full:
            order = rng.permutation(len(work))
            taken = np.sort(order[_fitting(work[order], goal - reached)])
            copy, work = _Copy(copy.row[taken], copy.submit_s[taken]), work[taken]
        chosen.append(copy)
        reached += float(work.sum())
    row = np.concatenate([copy.row for copy in chosen])
    if not len(row) or not is_full:
        raise ValueError(
            f"load {load:g} on {num_gpus:,} GPUs for {days:g} days cannot be made of whole Philly "
            "jobs; give more days"
        )
    submit_s = np.concatenate([copy.submit_s for copy in chosen])
    number = np.repeat(np.arange(len(chosen)), [len(copy.row) for copy in chosen])
    order = np.lexsort((number, row, submit_s))
    row, number = row[order], number[order]
    habit = number * (int(weeks.burst.max()) + 1) + weeks.burst[row]
    return fill(
        pd.DataFrame(
            {
                "job": [f"philly-{i:07}" for i in range(len(row))],
                "submit_s": submit_s[order],
                "duration_s": weeks.duration_s[row],
                "walltime_s": walltimes(
                    calibration().estimates, weeks.duration_s[row], habit, seed
                ),
                "gpus": weeks.gpus[row],
                "queue": weeks.queue[row],
            }
        )
    )


class Weeks(NamedTuple):
    """Jobs of the full weeks, by row."""

    offset_s: Floats  #: submission, from the first Monday
    duration_s: Floats
    gpus: Ints
    queue: np.ndarray[tuple[int], np.dtype[np.object_]]
    burst: Ints
    work_gpu_s: Floats


class _Copy(NamedTuple):
    """Jobs of one copy: rows of `Weeks` and when they are submitted."""

    row: Ints
    submit_s: Floats


def full_weeks() -> Weeks:
    """Return the carried jobs of the nine full weeks."""
    rows = jobs()
    offset_s = rows["submit_unix_s"].to_numpy(np.float64) - FIRST_MONDAY.timestamp()
    inside = (offset_s >= 0) & (offset_s < SPAN_S)
    offset_s = offset_s[inside]
    duration_s = rows["duration_s"].to_numpy(np.float64)[inside]
    gpus = rows["gpus"].to_numpy(np.int64)[inside]
    queue = rows["vc"].to_numpy(object)[inside]
    burst = bursts.numbered(offset_s, queue, gpus)
    return Weeks(offset_s, duration_s, gpus, queue, burst, gpus * duration_s)


def _shifted(weeks: Weeks, window_s: float, rng: np.random.Generator) -> _Copy:
    shift_s = float(rng.integers(NUM_WEEKS)) * WEEK_S
    jitter_s = rng.uniform(-JITTER_S, JITTER_S, len(weeks.offset_s))
    once_s = (weeks.offset_s + shift_s + jitter_s) % SPAN_S
    again = range(math.ceil(window_s / SPAN_S))
    submit_s = np.concatenate([once_s + turn * SPAN_S for turn in again])
    row = np.tile(np.arange(len(once_s)), len(again))
    inside = submit_s < window_s
    return _Copy(row[inside], submit_s[inside])


def _fitting(work: Floats, room: float) -> Ints:
    """Return the places of the items taken in turn as long as they fit into `room`."""
    taken = []
    for place, one in enumerate(work.tolist()):
        if one <= room:
            taken.append(place)
            room -= one
    return np.array(taken, np.int64)
