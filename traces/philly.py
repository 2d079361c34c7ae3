"""Microsoft Philly: real jobs of 2017, as they were and superposed to a larger cluster.

Jeon et al., "Analysis of large-scale multi-tenant GPU clusters for DNN training workloads", USENIX
ATC 2019. The repository carries a filtered list of 82,247 jobs (NOTICE has origin and licence).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from traces.estimates import walltimes
from traces.profiles import calibration
from traces.schema import BadCell, fill
from traces.tabular import read_csv, reject, settle_columns

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
#: whole weeks with full activity: from Monday 2017-10-02, nine weeks
FIRST_MONDAY = pd.Timestamp("2017-10-02")
NUM_WEEKS = 9
#: copies of one job keep the hour of day, give or take so much
JITTER_S = 1800.0


def jobs() -> pd.DataFrame:
    """Return the carried jobs in order of submission: submit_unix_s, duration_s, gpus, vc."""
    with files("traces").joinpath("data/philly_jobs.parquet").open("rb") as file:
        return pd.read_parquet(file)


def canonical(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the canonical jobs table of `jobs()` rows, submission counted from the first."""
    submit_s = (rows["submit_unix_s"] - rows["submit_unix_s"].min()).astype("float64")
    return fill(
        pd.DataFrame(
            {
                "job": [f"philly-{i:06}" for i in range(len(rows))],
                "submit_s": submit_s.to_numpy(),
                "duration_s": rows["duration_s"].to_numpy(np.float64),
                "gpus": rows["gpus"].to_numpy(),
                "queue": rows["vc"].to_numpy(),
            }
        )
    )


def read(path: Path, on_bad_row: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the published CSV form: timestamp, duration, num_gpus, gpu_time, cluster.

    Raises:
        TraceError: the file is not of that form, or holds bad rows and `on_bad_row` is "fail".
    """
    table = read_csv(path)
    settle_columns(table, ("timestamp", "duration", "num_gpus", "cluster"))
    rows = table.rows
    when = pd.to_datetime(rows["timestamp"], errors="coerce", format="%Y-%m-%d %H:%M:%S")
    duration_s = pd.to_numeric(rows["duration"], errors="coerce")
    gpus = pd.to_numeric(rows["num_gpus"], errors="coerce")
    bad = [
        BadCell(int(row), column, str(rows[column].iloc[row]), reason)
        for column, wrong, reason in (
            ("timestamp", when.isna(), "must be a time like 2017-10-09 07:01:55"),
            ("duration", ~(duration_s >= 0), "must be a number of seconds, at least 0"),
            ("num_gpus", ~(gpus >= 1), "must be a whole number, at least 1"),
        )
        for row in np.flatnonzero(wrong.to_numpy())
    ]
    rejected = reject(table, sorted(bad), on_bad_row)
    kept = ~rows.index.isin([cell.row for cell in bad])
    parsed = pd.DataFrame(
        {
            "submit_unix_s": when[kept].astype("datetime64[s]").astype("int64"),
            "duration_s": duration_s[kept],
            "gpus": gpus[kept].astype("int32"),
            "vc": rows["cluster"][kept].fillna("").astype("str"),
        }
    ).sort_values("submit_unix_s", kind="stable", ignore_index=True)
    return canonical(parsed), rejected


def superpose(*, num_gpus: int, days: float, load: float, seed: int = 0) -> pd.DataFrame:
    """Return real jobs at a larger scale: copies of the nine full weeks, shifted and overlaid.

    Each copy is shifted by a random number of whole weeks, so weekday and hour of day stay, and
    every job of it by up to half an hour either way. Copies are added until their GPU-seconds
    reach `load` x `num_gpus` x `days`; of the last one, jobs are taken in random order until the
    sum is met. Walltimes are not in the trace: they are drawn from the generator's model of user
    estimates.
    """
    window_s = days * DAY_S
    rows = jobs()
    week_zero = FIRST_MONDAY.timestamp()
    offset_s = rows["submit_unix_s"].to_numpy(np.float64) - week_zero
    span_s = NUM_WEEKS * WEEK_S
    inside = (offset_s >= 0) & (offset_s < span_s)
    offset_s = offset_s[inside]
    duration_s = rows["duration_s"].to_numpy(np.float64)[inside]
    gpus = rows["gpus"].to_numpy(np.int64)[inside]
    queue = rows["vc"].to_numpy()[inside]
    goal = load * num_gpus * window_s
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(11,)))
    burst = _bursts(offset_s, queue, gpus)
    chosen: list[tuple[np.ndarray, np.ndarray]] = []
    reached = 0.0
    while reached < goal:
        shift_s = float(rng.integers(NUM_WEEKS)) * WEEK_S
        jitter_s = rng.uniform(-JITTER_S, JITTER_S, len(offset_s))
        submit_s = (offset_s + shift_s + jitter_s) % span_s
        took = np.flatnonzero(submit_s < window_s)
        work = duration_s[took] * gpus[took]
        if reached + work.sum() > goal:
            order = rng.permutation(len(took))
            sums = reached + np.cumsum(work[order])
            count = int(np.searchsorted(sums, goal))
            took = took[np.sort(order[: count + 1])]
            work = duration_s[took] * gpus[took]
            if not len(took):
                break
        chosen.append((took, submit_s[took]))
        reached += float(work.sum())
    if not chosen:
        raise ValueError(
            f"load {load:g} on {num_gpus} GPUs for {days:g} days is less than one Philly job; "
            "give more of one of them"
        )
    index = np.concatenate([took for took, _ in chosen])
    submit = np.concatenate([at for _, at in chosen])
    copy = np.repeat(np.arange(len(chosen)), [len(took) for took, _ in chosen])
    order = np.lexsort((copy, index, submit))
    index, submit, copy = index[order], submit[order], copy[order]
    habit = copy * (int(burst.max()) + 1) + burst[index]
    return fill(
        pd.DataFrame(
            {
                "job": [f"philly-{i:07}" for i in range(len(index))],
                "submit_s": submit,
                "duration_s": duration_s[index],
                "walltime_s": walltimes(calibration().estimates, duration_s[index], habit, seed),
                "gpus": gpus[index],
                "queue": queue[index],
            }
        )
    )


def _bursts(submit_s: np.ndarray, queue: np.ndarray, gpus: np.ndarray) -> np.ndarray:
    """Number the bursts: jobs of one virtual cluster and size at most a minute apart."""
    order = np.lexsort((submit_s, gpus, queue))
    begins = np.ones(len(order), bool)
    begins[1:] = (
        (queue[order][1:] != queue[order][:-1])
        | (gpus[order][1:] != gpus[order][:-1])
        | (np.diff(submit_s[order]) > 60.0)
    )
    burst = np.empty(len(order), np.int64)
    burst[order] = np.cumsum(begins) - 1
    return burst
