"""Lost nodes: attempts, restarts from checkpoints, and what is thrown away."""

from __future__ import annotations

import pandas as pd
import pytest

from sim import RunConfig
from sim.engines.gangs import GangSimulation
from sim.engines.pods import PodSimulation
from sim.engines.records import jobs_table
from sim.engines.workload import Workload
from sim.runs.experiment import run
from sim.schema.cluster import Cluster
from sim.schema.config import Faults

Outage = tuple[float, float, int]


def simulate(
    rows: list[tuple[str, float, float, int]],
    outages: list[Outage],
    num_nodes: int,
    mode: str = "gang",
    checkpoint_s: float = 100.0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run jobs of 8-GPU pods through given outages; return jobs and attempts."""
    table = pd.DataFrame(rows, columns=["job", "submit_s", "duration_s", "num_pods"])
    config = RunConfig(
        admission=mode,
        faults=Faults(checkpoint_interval_s=checkpoint_s, restart_overhead_s=10.0),
        audit=True,
    )
    engine = GangSimulation if mode == "gang" else PodSimulation
    nodes = Cluster.uniform(num_nodes, 8).build()
    records = engine(Workload(table.assign(gpus_per_pod=8)), nodes, config, outages).run()
    return jobs_table(records).set_index("job"), records.attempts


@pytest.mark.parametrize("mode", ["gang", "pod", "permit"])
def test_a_job_goes_on_from_its_last_checkpoint(mode: str) -> None:
    jobs, attempts = simulate([("a", 0.0, 1000.0, 2)], [(250.0, 400.0, 1)], 3, mode)
    assert attempts["outcome"].tolist() == ["node_lost", "completed"]
    # 250 s were run and 200 s kept; 800 s are left, after 10 s of restart.
    assert attempts["end_s"].tolist() == [250.0, 250.0 + 10.0 + 800.0]
    assert jobs.loc["a", "attempts"] == 2
    assert jobs.loc["a", "outcome"] == "completed"
    assert jobs.loc["a", "start_s"] == 0.0
    # 50 s of two nodes are thrown away, and 10 s of the restart are held for nothing.
    assert attempts["lost_gpu_s"].tolist() == [50.0 * 16, 10.0 * 16]


@pytest.mark.parametrize("mode", ["gang", "pod"])
def test_a_job_waits_for_the_node_to_come_back(mode: str) -> None:
    jobs, attempts = simulate([("a", 0.0, 1000.0, 2)], [(250.0, 400.0, 1)], 2, mode)
    assert attempts["admitted_s"].tolist() == [0.0, 400.0]
    assert jobs.loc["a", "end_s"] == 400.0 + 10.0 + 800.0
    if mode == "gang":
        assert jobs.loc["a", "pending_capacity_s"] == 150.0


def test_in_permit_mode_it_holds_and_gives_back_what_is_left_meanwhile() -> None:
    jobs, attempts = simulate([("a", 0.0, 1000.0, 2)], [(250.0, 400.0, 1)], 2, "permit")
    outcomes = ["node_lost", "permit_timeout", "permit_timeout", "completed"]
    assert attempts["outcome"].tolist() == outcomes
    assert (attempts["end_s"] - attempts["created_s"]).tolist()[1:3] == [60.0, 60.0]
    assert jobs.loc["a", "end_s"] == 400.0 + 10.0 + 800.0


@pytest.mark.parametrize("mode", ["gang", "pod", "permit"])
def test_only_the_jobs_on_the_node_are_hit(mode: str) -> None:
    rows = [("a", 0.0, 500.0, 1), ("b", 0.0, 500.0, 1)]
    jobs, _ = simulate(rows, [(100.0, 200.0, 0)], 2, mode)
    assert sorted(jobs["attempts"]) == [1, 2]
    assert min(jobs["end_s"]) == 500.0


def test_a_job_without_checkpoints_loses_nothing_it_has_run() -> None:
    _, attempts = simulate([("a", 0.0, 1000.0, 1)], [(250.0, 400.0, 0)], 1, checkpoint_s=0.0)
    assert attempts["end_s"].tolist() == [250.0, 400.0 + 10.0 + 750.0]


def test_an_interrupted_gang_goes_back_to_its_old_place() -> None:
    rows = [("a", 0.0, 300.0, 2), ("b", 10.0, 300.0, 2), ("c", 20.0, 300.0, 2)]
    jobs, _ = simulate(rows, [(150.0, 160.0, 0)], 2)
    assert jobs["end_s"].tolist() == [370.0, 670.0, 970.0]


def test_an_idle_node_may_fail_unnoticed() -> None:
    jobs, attempts = simulate([("a", 0.0, 50.0, 1)], [(10.0, 20.0, 1)], 2)
    assert attempts["outcome"].tolist() == ["completed"]
    assert jobs.loc["a", "end_s"] == 50.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["gang", "pod", "permit"])
@pytest.mark.parametrize("source", ["calibrated", "stepfun"])
def test_drawn_faults_end_in_balanced_books(mode: str, source: str) -> None:
    table = pd.DataFrame(
        [(f"j{i}", 600.0 * i, 86_400.0, 1 + i % 7, 8) for i in range(40)],
        columns=["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod"],
    )
    faults = {"source": source, "per_1000_node_days": 500.0}
    result = run(table, nodes=20, admission=mode, faults=faults, audit=True)
    assert (result.jobs["outcome"] == "completed").all()
    assert (result.attempts["outcome"] == "node_lost").sum() > 0
    assert result.nodes["unavailable_gpu_s"].sum() > 0


@pytest.mark.parametrize("mode", ["gang", "pod", "permit"])
def test_a_job_starts_at_once_at_the_moment_when_another_would_have_ended(mode: str) -> None:
    """The end of an attempt that was cut means nothing, and hides nothing of that instant."""
    rows = [("a", 0.0, 500.0, 1), ("b", 500.0, 60.0, 1), ("c", 900.0, 60.0, 1)]
    jobs, _ = simulate(rows, [(100.0, 2000.0, 0)], 3, mode)
    assert jobs.loc["a", "end_s"] > 500.0
    assert jobs.loc["b", "start_s"] == 500.0
