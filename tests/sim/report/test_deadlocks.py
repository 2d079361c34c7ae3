"""A deadlock is found and dated by the timeouts that end it."""

from __future__ import annotations

import pandas as pd
import pytest

from sim import RunResult, run
from sim.report.deadlocks import deadlocks, explain


def two_that_want_everything(**settings: object) -> RunResult:
    """Two gangs of four whole nodes, created in the same instant, on four nodes."""
    jobs = pd.DataFrame({"job": ["a", "b"], "submit_s": [60.0, 60.0], "duration_s": [600.0] * 2})
    jobs = jobs.assign(num_pods=4, gpus_per_pod=8)
    return run(jobs, nodes=4, from_first=False, **settings)


def test_two_half_placed_gangs_are_a_deadlock_from_their_first_pods_on() -> None:
    result = two_that_want_everything(admission="pod")
    found = deadlocks(result.jobs, result.attempts, result.config, 0.0, result.manifest["end_s"])
    assert found is not None
    assert found.first_s == pytest.approx(60.0, abs=1.0)
    assert sorted(found.jobs) == ["a", "b"]
    assert found.gpus == 64
    begin_s, end_s = found.longest_s
    assert end_s - begin_s == pytest.approx(result.config.timeouts.rendezvous_s, rel=0.05)
    assert found.gpu_h == pytest.approx(result.jobs["lost_gpu_s"].sum() / 3600, rel=0.05)
    text = explain(found, 32)
    assert text.startswith("Deadlock: first at day 0 00:01, when 2 gangs (")
    assert "64 of 32 GPUs" in text


def test_gang_admission_has_none() -> None:
    result = two_that_want_everything()
    window = (0.0, result.manifest["end_s"])
    assert deadlocks(result.jobs, result.attempts, result.config, *window) is None


def test_one_gang_alone_that_times_out_is_none() -> None:
    jobs = pd.DataFrame(
        {"job": ["long", "b"], "submit_s": [0.0, 1.0], "duration_s": [5000.0, 50.0]}
    )
    jobs = jobs.assign(num_pods=[1, 2], gpus_per_pod=8)
    result = run(jobs, nodes=2, admission="pod")
    assert "rendezvous_timeout" in set(result.attempts["outcome"])
    window = (0.0, result.manifest["end_s"])
    assert deadlocks(result.jobs, result.attempts, result.config, *window) is None
