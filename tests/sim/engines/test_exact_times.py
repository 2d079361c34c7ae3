"""Ties are exact: a start depends on what the decimals of a trace say, not on floats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sim import run

ARMS = {
    "strict": {"discipline": "strict"},
    "skip": {"discipline": "skip"},
    "easy": {"backfill": "easy"},
}


def crowd(num_jobs: int) -> pd.DataFrame:
    """Jobs whose ends, limits and submissions tie all the time."""
    random = np.random.default_rng(7)
    duration_s = random.choice([100, 200, 300, 700, 1000, 1900], num_jobs)
    return pd.DataFrame(
        {
            "job": [f"j{i}" for i in range(num_jobs)],
            "submit_s": np.cumsum(random.integers(0, 6, num_jobs) * 10).astype(float),
            "duration_s": duration_s.astype(float),
            "walltime_s": (duration_s + random.choice([0, 0, 100], num_jobs)).astype(float),
            "num_pods": random.choice([1, 1, 2, 3, 6], num_jobs),
            "gpus_per_pod": random.choice([1, 2, 8], num_jobs, p=[0.4, 0.3, 0.3]),
        }
    )


@pytest.mark.parametrize("arm", list(ARMS))
def test_times_a_thousandth_as_long_move_no_start(arm: str) -> None:
    jobs = crowd(3000)
    times = ["submit_s", "duration_s", "walltime_s"]
    thousandth = jobs.assign(**{name: jobs[name] / 1000 for name in times})
    whole = run(jobs, nodes=12, **ARMS[arm]).jobs
    small = run(thousandth, nodes=12, **ARMS[arm]).jobs
    assert (whole["start_s"] > whole["submit_s"]).mean() > 0.5, "hardly anybody waits"
    assert (small["start_s"] * 1000).round(3).tolist() == whole["start_s"].tolist()
    assert (small["end_s"] * 1000).round(3).tolist() == whole["end_s"].tolist()


def test_a_tie_of_decimals_is_one() -> None:
    """0.1 + 0.2 is not after 0.3: `cand` ends when the head is to start."""
    jobs = pd.DataFrame(
        [
            ("run", 0.0, 0.3, 1, 1, 0.3),
            ("head", 0.05, 1.0, 2, 1, 1.0),
            ("cand", 0.1, 0.2, 1, 1, 0.2),
        ],
        columns=["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod", "walltime_s"],
    )
    started = run(jobs, nodes=2, gpus_per_node=1, backfill="easy").jobs.set_index("job")["start_s"]
    assert started.to_dict() == {"run": 0.0, "head": 0.3, "cand": 0.1}


@pytest.mark.parametrize("admission", ["gang", "pod"])
def test_an_end_and_a_submission_that_tie_share_one_pass(admission: str) -> None:
    """The GPU that `a` gives back at 0.3 s is there for `c`, which is ahead of `b`."""
    jobs = pd.DataFrame(
        [("a", 0.1, 0.2, 0), ("b", 0.2, 1.0, 0), ("c", 0.3, 1.0, 1)],
        columns=["job", "submit_s", "duration_s", "priority"],
    ).assign(num_pods=1, gpus_per_pod=1)
    more = {"order": "priority"} if admission == "gang" else {"admission": "pod"}
    found = run(jobs, nodes=1, gpus_per_node=1, from_first=False, **more).jobs
    started = found.set_index("job")["start_s"]
    assert (started["a"], started["c"]) == (0.1, 0.3)
    assert started["b"] >= 1.3


def test_tables_say_what_was_simulated_of_times_finer_than_a_microsecond() -> None:
    jobs = pd.DataFrame(
        {
            "job": ["a", "b"],
            "submit_s": [0.1234567, 0.5],
            "duration_s": [1.0000004, 2e-7],
            "walltime_s": [1.0000006, 1e-9],
            "gpus": 1,
        }
    )
    found = run(jobs, nodes=1, from_first=False).jobs
    assert found["submit_s"].tolist() == [0.123457, 0.5]
    assert found["duration_s"].tolist() == [1.0, 0.0]
    assert found["walltime_s"].tolist() == [1.000001, 0.000001]
    assert found["end_s"].tolist() == [1.123457, 0.5]
