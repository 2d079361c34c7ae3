"""Pod and permit mode: order, timeouts, backoff and reasons, on cases small enough to follow."""

from __future__ import annotations

import pandas as pd
import pytest

from sim import Cluster, RunConfig, RunResult, run
from sim.engines.pods import PodSimulation
from sim.engines.workload import Workload
from traces import complete


def jobs(*rows: tuple[str, float, float, int]) -> pd.DataFrame:
    columns = ["job", "submit_s", "duration_s", "num_pods"]
    return pd.DataFrame(rows, columns=columns).assign(gpus_per_pod=8)


def of(result: RunResult, job: str) -> pd.DataFrame:
    return result.attempts[result.attempts["job"] == job]


@pytest.mark.parametrize("mode", ["pod", "permit"])
def test_a_gang_that_fits_runs_at_once(mode: str) -> None:
    table = jobs(("a", 5.0, 100.0, 4))
    found = run(table, nodes=4, admission=mode, from_first=False).jobs.iloc[0]
    assert (found["start_s"], found["end_s"], found["attempts"]) == (5.0, 105.0, 1)
    assert found["lost_gpu_s"] == 0.0


@pytest.mark.parametrize("mode", ["pod", "permit"])
def test_a_gang_larger_than_the_cluster_leaves(mode: str) -> None:
    result = run(jobs(("a", 0.0, 100.0, 5), ("b", 0.0, 10.0, 4)), nodes=4, admission=mode)
    assert result.jobs["outcome"].tolist() == ["never_fits", "completed"]
    assert result.jobs["start_s"].tolist()[1] == 0.0


def test_a_waiting_pod_does_not_block_a_smaller_one() -> None:
    table = jobs(("a", 0.0, 100.0, 1), ("b", 1.0, 100.0, 2), ("c", 2.0, 10.0, 1))
    found = run(table, nodes=3, admission="pod").jobs.set_index("job")
    assert found.loc["b", "start_s"] == 1.0
    assert found.loc["c", "pending_capacity_s"] == found.loc["c", "start_s"] - 2.0 == 98.0


def test_a_rank_holds_its_node_while_it_waits_at_the_rendezvous() -> None:
    table = jobs(("a", 0.0, 100.0, 1), ("b", 1.0, 50.0, 2))
    result = run(table, nodes=2, admission="pod")
    job = result.jobs.set_index("job").loc["b"]
    assert job["start_s"] == 100.0
    assert job["lost_gpu_s"] == 99.0 * 8  # one node, held for 99 s
    assert job["pending_own_partial_hold_s"] == 99.0 / 2
    assert job["pending_capacity_s"] == 99.0 / 2


def test_the_rendezvous_times_out_and_backs_off_longer_each_time() -> None:
    table = jobs(("a", 0.0, 5000.0, 1), ("b", 1.0, 50.0, 2))
    result = run(table, nodes=2, admission="pod")
    tries = of(result, "b")
    assert set(tries["outcome"][:-1]) == {"rendezvous_timeout"}
    assert len(tries) > 4
    lasted_s = (tries["end_s"] - tries["created_s"]).round(6)  # floats of whole microseconds
    assert lasted_s.tolist()[:-1] == [600.0] * (len(tries) - 1)
    gaps_s = tries["created_s"].to_numpy()[1:] - tries["end_s"].to_numpy()[:-1]
    for i, gap_s in enumerate(gaps_s):
        assert 0.5 * min(10.0 * 2**i, 360.0) <= gap_s <= 1.5 * min(10.0 * 2**i, 360.0)
    job = result.jobs.set_index("job").loc["b"]
    assert job["pending_permit_backoff_s"] == pytest.approx(gaps_s.sum())
    assert job["outcome"] == "completed"


def test_permit_gives_back_after_its_own_timeout_and_backs_off_like_a_pod() -> None:
    table = jobs(("a", 0.0, 500.0, 1), ("b", 1.0, 50.0, 2))
    result = run(table, nodes=2, admission="permit")
    tries = of(result, "b")
    assert set(tries["outcome"][:-1]) == {"permit_timeout"}
    assert (tries["end_s"] - tries["created_s"]).tolist()[:-1] == [60.0] * (len(tries) - 1)
    gaps_s = (tries["created_s"].to_numpy()[1:] - tries["end_s"].to_numpy()[:-1]).tolist()
    expected = [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]
    assert gaps_s == expected[: len(gaps_s)]


def test_permit_binds_at_quorum_and_the_gang_runs_when_all_are_there() -> None:
    table = jobs(("a", 0.0, 500.0, 1), ("b", 1.0, 50.0, 2)).assign(min_member=1)
    result = run(table, nodes=2, admission="permit")
    assert of(result, "b")["outcome"].tolist() == ["completed"]
    assert result.jobs.set_index("job").loc["b", "start_s"] == 500.0


def test_a_partial_hold_is_named_by_those_it_blocks() -> None:
    table = jobs(("a", 0.0, 300.0, 1), ("b", 1.0, 50.0, 3), ("c", 2.0, 50.0, 1))
    result = run(table, nodes=3, admission="pod")
    job = result.jobs.set_index("job").loc["c"]
    assert job["pending_held_by_others_s"] > 290.0  # b holds two nodes and waits for the third
    assert job["pending_capacity_s"] < 60.0


@pytest.mark.parametrize("mode", ["pod", "permit"])
def test_larger_priority_goes_first(mode: str) -> None:
    table = jobs(("a", 0.0, 10.0, 2), ("b", 1.0, 10.0, 2), ("c", 2.0, 10.0, 2))
    result = run(table.assign(priority=[0, 0, 5]), nodes=2, admission=mode)
    starts = result.jobs.set_index("job")["start_s"]
    assert starts["c"] < starts["b"]


@pytest.mark.parametrize("mode", ["pod", "permit"])
def test_a_smaller_last_pod_is_placed_like_the_others(mode: str) -> None:
    table = pd.DataFrame(
        [("a", 0.0, 10.0, 20), ("b", 0.0, 10.0, 4)],
        columns=["job", "submit_s", "duration_s", "gpus"],
    )
    found = run(table, nodes=3, admission=mode).jobs
    assert found["start_s"].tolist() == [0.0, 0.0]
    assert found["gpus"].tolist() == [20, 4]


@pytest.mark.parametrize("node", range(6))
def test_an_attempt_that_is_over_ties_with_the_next_of_its_job(node: int) -> None:
    rows = (("k1", 0.0, 0.5, 1), ("k2", 0.0, 1.5, 1), ("k3", 0.0, 2.5, 1), ("l", 0.0, 50.0, 2))
    work = Workload(complete(jobs(*rows, ("j", 0.0, 10.0, 5))))
    config = RunConfig(admission="pod")
    lost = [(2.0, 500.0, node)]
    records = PodSimulation(work, Cluster.uniform(6, 8).build(), config, lost).run()
    assert records.end_s > 2.0
