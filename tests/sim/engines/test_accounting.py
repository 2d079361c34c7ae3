"""The books of every run balance, in every mode and whatever happens."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import RunResult, run
from sim.runs.steps import pending_steps
from sim.schema.tables import REASONS

MODES = ["gang", "pod", "permit"]
LAGS = {"name": "lags", "schedule_per_s": 5.0, "start_warm_s": 3.0, "bind_lag_s": 4.0}


@st.composite
def crowded(draw: st.DrawFn) -> pd.DataFrame:
    """Draw up to 15 jobs for three nodes of 8 GPUs, some of which can never run."""
    rows = []
    time_s = 0
    for i in range(draw(st.integers(1, 15))):
        time_s += draw(st.sampled_from([0, 0, 3, 50]))
        gpus = draw(st.sampled_from([0, 1, 3, 8, 8]))
        num_pods = draw(st.integers(1, 4 if gpus == 8 else 6))
        duration_s = draw(st.sampled_from([1.0, 20.0, 200.0, 1000.0]))
        min_member = draw(st.integers(1, num_pods))
        rows.append((f"j{i}", float(time_s), duration_s, num_pods, gpus, min_member, i % 3))
    columns = [
        "job",
        "submit_s",
        "duration_s",
        "num_pods",
        "gpus_per_pod",
        "min_member",
        "priority",
    ]
    return pd.DataFrame(rows, columns=columns)


def assert_books(result: RunResult) -> None:
    """Recompute from the tables alone what the run says of itself."""
    jobs, attempts = result.jobs, result.attempts
    end_s = result.manifest["end_s"]
    split_s = jobs[[f"pending_{reason}_s" for reason in REASONS]].sum(axis=1)
    attempts_held = attempts.groupby("job")["held_gpu_s"].sum()
    held = jobs.set_index("job")["held_gpu_s"]
    np.testing.assert_allclose(held[attempts_held.index], attempts_held)
    assert (jobs["lost_gpu_s"] <= jobs["held_gpu_s"] + 1e-6).all()
    curve = pending_steps(result.pending, end_s)
    whole = sum(
        side["jobs"]
        for name, side in result.manifest["accounting"].items()
        if name.startswith("pending_")
    )
    assert (split_s * jobs["num_pods"]).sum() == pytest.approx(whole, abs=1e-6)
    assert curve is not None
    # Where a job never failed on a lost node, it is pending from submission to its last start
    # but for the time that it ran.
    last = attempts.drop_duplicates("job", keep="last").set_index("job")
    for row in jobs.itertuples():
        if row.outcome == "never_fits":
            assert split_s[row.Index] == 0.0
            continue
        if row.outcome == "unfinished":
            continue
        start_s = last.loc[row.job, "start_s"]
        assert split_s[row.Index] == pytest.approx(start_s - row.submit_s, abs=1e-6), row
        assert row.end_s - start_s == pytest.approx(row.duration_s)
        assert row.attempts == (attempts["job"] == row.job).sum()


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["ideal", "kubernetes", LAGS])
@pytest.mark.parametrize("mode", MODES)
@given(jobs=crowded(), discipline=st.sampled_from(["strict", "skip"]))
@settings(max_examples=25, derandomize=True, deadline=None)
def test_pending_time_is_split_without_a_rest(
    mode: str, plane: str | dict[str, object], jobs: pd.DataFrame, discipline: str
) -> None:
    how = {"discipline": discipline} if mode == "gang" else {}
    assert_books(run(jobs, nodes=3, admission=mode, control_plane=plane, **how))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@given(jobs=crowded(), until_s=st.floats(1.0, 500.0))
@settings(max_examples=15, derandomize=True, deadline=None)
def test_books_balance_where_a_run_is_cut(mode: str, jobs: pd.DataFrame, until_s: float) -> None:
    result = run(jobs, nodes=3, admission=mode, control_plane="kubernetes", until_s=until_s)
    assert result.manifest["end_s"] == round(until_s * 1e6) / 1e6  # whole microseconds
    cut = result.jobs[result.jobs["outcome"] == "unfinished"]
    assert cut["end_s"].isna().all()
    assert not (result.jobs["end_s"] > until_s).any()


def test_control_plane_and_start_are_told_apart() -> None:
    jobs = pd.DataFrame(
        [("a", 0.0, 100.0, 400, 1)],
        columns=["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod"],
    )
    plane = {
        "name": "slow",
        "schedule_per_s": 100.0,
        "bind_qps": 10.0,
        "bind_burst": 100,
        "start_warm_s": 5.0,
    }
    result = run(jobs, nodes=50, control_plane=plane)
    job = result.jobs.iloc[0]
    # 100 tokens, then 10 a second: the last of 400 pods is bound after 30 s, and starts for 5 s.
    assert job["start_s"] == 35.0
    assert job["pending_starting_s"] == 5.0
    # Sixteen steps of 25 pods, each at its last pod: the first four take 0.25 to 1 s.
    steps_s = [max(k / 100.0, (k - 100) / 10.0) for k in range(25, 401, 25)]
    assert job["pending_control_plane_s"] == pytest.approx(np.mean(steps_s))
    assert job["pending_own_partial_hold_s"] == pytest.approx(30.0 - np.mean(steps_s))
    assert job["lost_gpu_s"] == 400 * 35.0
