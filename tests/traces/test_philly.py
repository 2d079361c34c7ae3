"""The Philly list that travels with the code, and its superposition to larger clusters."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from traces import philly, schema
from traces.description import total_gpus

DAY_S = 86_400.0


def offered(jobs: pd.DataFrame, num_gpus: int, days: float) -> float:
    work = total_gpus(jobs) * jobs["duration_s"].to_numpy()
    return float(work.sum() / (num_gpus * days * DAY_S))


def test_the_carried_list() -> None:
    rows = philly.jobs()
    assert len(rows) == 82_247
    assert rows["submit_unix_s"].is_monotonic_increasing
    first, last = (pd.Timestamp(rows["submit_unix_s"].iloc[place], unit="s") for place in (0, -1))
    assert (first.date().isoformat(), last.date().isoformat()) == ("2017-09-04", "2017-12-22")
    assert (rows["gpus"] == 1).mean() == pytest.approx(0.93, abs=0.005)
    assert rows["gpus"].sum() == 107_235
    assert rows["duration_s"].sum() == 1_080_390_950


def test_canonical_jobs_need_no_more() -> None:
    rows = philly.jobs()
    jobs = philly.canonical(rows)
    pd.testing.assert_frame_equal(schema.complete(jobs), jobs)
    assert (total_gpus(jobs) == rows["gpus"]).all()
    assert jobs["submit_s"].iloc[0] == rows["submit_unix_s"].min()


def test_full_weeks_begin_on_a_monday() -> None:
    weeks = philly.full_weeks()
    assert philly.FIRST_MONDAY.day_name() == "Monday"
    assert weeks.offset_s.min() >= 0
    assert weeks.offset_s.max() < 9 * 7 * DAY_S
    assert len(weeks.gpus) == 69_383
    per_week = np.bincount((weeks.offset_s / (7 * DAY_S)).astype(int))
    assert len(per_week) == 9
    assert per_week.min() > 0.3 * per_week.mean(), "each of them is a week of full activity"


@pytest.mark.parametrize(
    ("num_gpus", "days", "load"),
    [(200, 7.0, 0.8), (2_000, 14.0, 0.85), (2_000, 3.5, 1.2), (400, 70.0, 0.3)],
)
def test_offered_load_is_met(num_gpus: int, days: float, load: float) -> None:
    jobs = philly.superpose(num_gpus=num_gpus, days=days, load=load, seed=3)
    assert offered(jobs, num_gpus, days) == pytest.approx(load, rel=1e-3)
    assert offered(jobs, num_gpus, days) <= load
    assert jobs["submit_s"].between(0, days * DAY_S, inclusive="left").all()
    assert jobs["submit_s"].max() > 0.9 * days * DAY_S
    pd.testing.assert_frame_equal(schema.complete(jobs), jobs)


@pytest.mark.slow
def test_jobs_are_real_and_keep_weekday_and_hour() -> None:
    """Every copy is a real job, at most half an hour from where it was in the week."""
    weeks = philly.full_weeks()
    jobs = philly.superpose(num_gpus=1_000, days=28, load=0.9, seed=1)
    week_s = 7 * DAY_S
    places: dict[tuple[float, int, str], list[float]] = {}
    for duration_s, gpus, queue, at in zip(
        weeks.duration_s, weeks.gpus, weeks.queue, weeks.offset_s % week_s, strict=True
    ):
        places.setdefault((duration_s, gpus, queue), []).append(at)
    columns = (jobs["duration_s"], total_gpus(jobs), jobs["queue"], jobs["submit_s"] % week_s)
    for duration_s, gpus, queue, at in zip(*columns, strict=True):
        apart = np.abs(np.array(places[duration_s, gpus, queue]) - at)
        assert np.minimum(apart, week_s - apart).min() <= philly.JITTER_S + 1e-6


def test_the_same_seed_gives_the_same_jobs_and_another_gives_others() -> None:
    first, again, other = (
        philly.superpose(num_gpus=500, days=7, load=0.8, seed=seed) for seed in (5, 5, 6)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not np.array_equal(first["submit_s"][:100], other["submit_s"][:100])


def test_walltimes_are_enough_and_come_from_the_menu() -> None:
    jobs = philly.superpose(num_gpus=500, days=7, load=0.8)
    assert (jobs["walltime_s"] >= jobs["duration_s"]).all()
    assert (jobs["walltime_s"] % 900 == 0).all()


def test_longer_windows_repeat_the_nine_weeks() -> None:
    jobs = philly.superpose(num_gpus=600, days=126, load=0.5)
    halves = np.bincount((jobs["submit_s"] >= 63 * DAY_S).astype(int))
    assert halves[0] == pytest.approx(halves[1], rel=0.05)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_gpus": 0}, "num_gpus 0: must be 1 or more"),
        ({"days": 0.0}, "days 0.0: must be a number above 0"),
        ({"load": float("nan")}, "load nan: must be a number above 0"),
        ({"num_gpus": 1, "days": 0.001, "load": 0.001}, "cannot be made of whole Philly jobs"),
        ({"seed": -1}, "seed -1: must be 0 or more"),
    ],
)
def test_impossible_wishes(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        philly.superpose(**{"num_gpus": 500, "days": 7.0, "load": 0.8, **values})
