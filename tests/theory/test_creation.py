"""Pods are created job after job, and binding goes on more slowly while they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import run
from sim.engines.lifecycle import Creation
from sim.schema.config import ControlPlane


@given(
    jobs=st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, 50)), min_size=1, max_size=20).map(
        sorted
    ),
    rate=st.floats(0.5, 100.0),
)
def test_creation_is_a_queue_served_at_a_constant_rate(
    jobs: list[tuple[float, int]], rate: float
) -> None:
    """Lindley's recursion, one job at a time, and the times when the server is busy."""
    submit_s, num_pods = [job[0] for job in jobs], [job[1] for job in jobs]
    creation = Creation(submit_s, num_pods, ControlPlane(create_per_s=rate))
    free_s, expected, busy = 0.0, [], []
    for asked_s, pods in jobs:
        began_s = max(asked_s, free_s)
        free_s = began_s + pods / rate
        expected.append(free_s)
        busy.append((began_s, free_s))
    np.testing.assert_allclose(creation.ready_s, expected, rtol=1e-9, atol=1e-9)
    for (began_s, over_s), (next_s, _) in zip(busy, [*busy[1:], (np.inf, 0.0)], strict=True):
        middle_s = (began_s + over_s) / 2
        assert creation.left_s(middle_s) >= (over_s - middle_s) * (1 - 1e-6)
        if next_s > over_s + 1e-6:
            assert creation.left_s(min(over_s + 1e-7, (over_s + next_s) / 2)) == 0.0


def burst(gangs: int, size: int) -> pd.DataFrame:
    """Return gangs submitted at once that all fit."""
    return pd.DataFrame(
        {
            "job": [f"gang-{g:02d}" for g in range(gangs)],
            "submit_s": 0.0,
            "duration_s": 1000.0,
            "num_pods": size,
            "gpus_per_pod": 8,
        }
    )


@pytest.mark.parametrize("admission", ["gang", "pod"])
@pytest.mark.parametrize(
    ("create", "bind", "ratio"),
    [(100.0, 300.0, 0.2), (100.0, 300.0, 0.9), (400.0, 300.0, 0.5), (50.0, 500.0, 0.3)],
)
def test_a_burst_takes_as_long_as_its_work(
    admission: str, create: float, bind: float, ratio: float
) -> None:
    """Fluid balance: the binder works at `ratio` of its rate until the last pod exists."""
    gangs, size = 12, 100
    plane = ControlPlane(
        name="shared", schedule_per_s=bind, create_per_s=create, creating_ratio=ratio
    )
    result = run(
        burst(gangs, size), nodes=gangs * size, admission=admission, control_plane=plane, audit=True
    )
    bound_s = np.sort(result.attempts["bound_s"].to_numpy())
    created_s, gang_s = gangs * size / create, size / create
    slow = bind * ratio
    if slow > create:  # the binder waits for pods: the last gang is bound after it was made
        assert bound_s[-1] == pytest.approx(created_s + size / bind, rel=0.01)
        assert bound_s[0] == pytest.approx(gang_s + size / slow, rel=0.01)
    else:
        left = gangs * size - slow * (created_s - gang_s)
        assert bound_s[-1] == pytest.approx(created_s + left / bind, rel=0.01)


def test_by_default_pods_exist_when_their_job_is_submitted() -> None:
    jobs = burst(3, 10)
    slow = ControlPlane(name="slow", schedule_per_s=10.0, bind_qps=5.0, bind_burst=10)
    at_once = run(jobs, nodes=30, control_plane=slow)
    assert at_once.attempts["created_s"].tolist() == [0.0, 0.0, 0.0]
    # a share counts only while pods are created
    never = run(
        jobs, nodes=30, control_plane={"schedule_per_s": 10.0, "bind_qps": 5.0, "bind_burst": 10,
                                       "creating_ratio": 0.1, "name": "slow"},
    )  # fmt: skip
    assert never.attempts.equals(at_once.attempts)
    assert never.pending.equals(at_once.pending)


@pytest.mark.parametrize("admission", ["gang", "pod"])
@pytest.mark.parametrize("rate", [200.0, float("inf")])
def test_a_lag_delays_every_bind_by_as_much_and_keeps_nobody_waiting(
    admission: str, rate: float
) -> None:
    plane = {"name": "quick", "schedule_per_s": rate, "create_per_s": 100.0, "creating_ratio": 0.7}
    some = {"nodes": 500, "admission": admission, "audit": True}
    quick = run(burst(5, 100), control_plane=plane, **some)
    late = run(burst(5, 100), control_plane={**plane, "bind_lag_s": 2.5}, **some)
    for column in ("bound_s", "start_s"):
        delay_s = late.attempts[column] - quick.attempts[column]
        np.testing.assert_allclose(delay_s, 2.5, rtol=0, atol=1e-9)
    waits = [one.jobs["pending_control_plane_s"].sum() for one in (quick, late)]
    more = waits[1] - waits[0]
    # a pod that is bound waits for its gang from then on, and all are bound later by as much
    assert more == pytest.approx(5 * 2.5, rel=1e-6)
