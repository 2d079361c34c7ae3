"""The simulator agrees job by job with a naive one that keeps an object per pod."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import run
from sim.engines.workload import Workload
from sim.schema import planes
from tests.oracle.naive import NaiveBinder, NaiveGangs, NaiveJob, exact
from traces.synthetic import generate

PLANE = planes.load("kubernetes")
ARMS = {
    "strict": {"discipline": "strict"},
    "skip": {"discipline": "skip"},
    "easy": {"backfill": "easy"},
}


def naive(jobs: pd.DataFrame, node_gpus: list[int], discipline: str, plane: str) -> pd.DataFrame:
    """Return start and end of each job, by the naive simulator."""
    # Of the simulator under test only the random numbers are used: one per job.
    jitter = Workload(jobs, seed=0).jitter
    is_ideal = plane == "ideal"
    todo = []
    for i, row in enumerate(jobs.itertuples(index=False)):
        pods = [row.gpus_per_pod] * row.num_pods
        last = getattr(row, "last_pod_gpus", row.gpus_per_pod)
        pods[-1] = last
        walltime_s = getattr(row, "walltime_s", row.duration_s)
        slower = 1.0 + PLANE.start_jitter_ratio * jitter(i, 0)
        starting_s = 0.0 if is_ideal else PLANE.start_warm_s * slower
        times = (exact(row.submit_s), exact(row.duration_s), exact(walltime_s))
        todo.append(NaiveJob(row.job, *times, pods, starting_s))
    binder = NaiveBinder() if is_ideal else NaiveBinder(300.0, 50.0, 100.0)
    NaiveGangs(todo, node_gpus, discipline, binder).run()
    return pd.DataFrame(
        [(job.name, job.start_s, job.end_s) for job in todo], columns=["job", "start_s", "end_s"]
    )


def assert_agrees(jobs: pd.DataFrame, num_nodes: int, discipline: str, plane: str) -> None:
    expected = naive(jobs, [8] * num_nodes, discipline, plane)
    result = run(jobs, nodes=num_nodes, control_plane=plane, from_first=False, **ARMS[discipline])
    found = result.jobs
    assert found["job"].tolist() == expected["job"].tolist()
    exact = 0.0 if plane == "ideal" else 1e-6
    for column in ("start_s", "end_s"):
        np.testing.assert_allclose(
            found[column], expected[column], rtol=0, atol=exact, err_msg=f"{discipline} {column}"
        )


@st.composite
def workloads(draw: st.DrawFn) -> tuple[pd.DataFrame, int]:
    """Draw up to 25 jobs of equal pods, crowded enough to wait, and a number of nodes."""
    num_nodes = draw(st.integers(1, 5))
    rows = []
    time_s = 0
    for i in range(draw(st.integers(1, 25))):
        time_s += draw(st.integers(0, 3))
        gpus = draw(st.sampled_from([1, 1, 2, 3, 4, 8]))
        num_pods = draw(st.integers(1, num_nodes * (8 // gpus)))
        duration_s = draw(st.integers(1, 12))
        walltime_s = max(1, duration_s + draw(st.sampled_from([0, 0, 1, 5, -2])))
        rows.append((f"j{i}", float(time_s), float(duration_s), float(walltime_s), num_pods, gpus))
    columns = ["job", "submit_s", "duration_s", "walltime_s", "num_pods", "gpus_per_pod"]
    return pd.DataFrame(rows, columns=columns), num_nodes


@pytest.mark.slow
@pytest.mark.parametrize("discipline", list(ARMS))
@given(drawn=workloads())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_small_random_workloads_agree(discipline: str, drawn: tuple[pd.DataFrame, int]) -> None:
    jobs, num_nodes = drawn
    assert_agrees(jobs, num_nodes, discipline, "ideal")


@pytest.mark.slow
@pytest.mark.parametrize("discipline", ["strict", "skip"])
@given(drawn=workloads())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_small_random_workloads_agree_on_kubernetes(
    discipline: str, drawn: tuple[pd.DataFrame, int]
) -> None:
    jobs, num_nodes = drawn
    assert_agrees(jobs, num_nodes, discipline, "kubernetes")


@pytest.fixture(scope="module")
def month() -> pd.DataFrame:
    """Eight days of 7,500 nodes at a fiftieth of their size."""
    return generate("openai_like", num_gpus=1200, days=8, load=1.1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["ideal", "kubernetes"])
def test_a_scaled_month_agrees_first_come_first_served(month: pd.DataFrame, plane: str) -> None:
    assert_agrees(month, 150, "strict", plane)


@pytest.mark.slow
@pytest.mark.parametrize("discipline", ["easy", "skip"])
def test_its_first_days_agree_with_backfill(month: pd.DataFrame, discipline: str) -> None:
    """The naive simulator looks at every waiting job at every event: days are what it can do."""
    assert_agrees(month[month["submit_s"] < 3 * 86_400.0], 150, discipline, "ideal")
