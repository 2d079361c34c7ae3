"""What the tables of queues say, counted again from jobs and attempts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota, Victims
from sim import run
from sim.runs.folder import RunResult
from sim.runs.steps import pending_steps
from sim.schema.costs import Costs, Quantity
from sim.schema.tables import REASONS

NODES = 5  # quotas add up to more than they have
COSTS = Costs(save_interval_s=20.0, stop_s=Quantity(p50=5.0), measured="a test")


def file(nominal: tuple[int, ...] = (32, 8, 8)) -> Queues:
    """Return teams u, v and w; the first may take back what the others borrow."""
    quota = [{"all": {"gpus": Quota(gpus)}} for gpus in nominal]
    queues = (
        Queue("u", "c", quota=quota[0], reclaim=Victims.ANY, within=Victims.LOWER_PRIORITY),
        Queue("v", "c", quota=quota[1], discipline=Holding.SKIP),
        Queue("w", "c", quota=quota[2], discipline=Holding.EASY),
    )
    return Queues((Flavor("all"),), (Cohort("c"),), queues, {"team-v": "v"})


def workload(seed: int, num_jobs: int = 90) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(num_jobs)],
            "queue": draw.choice(["u", "team-v", "v", "w"], num_jobs),
            "priority": draw.integers(0, 3, num_jobs),
            "submit_s": np.sort(draw.integers(0, 300, num_jobs)).astype(float),
            "duration_s": draw.integers(5, 90, num_jobs).astype(float),
            "num_pods": draw.integers(1, 5, num_jobs),
            "gpus_per_pod": draw.choice([1, 2, 4], num_jobs),
        }
    )


@pytest.fixture(scope="module", params=[None, COSTS], ids=["at once", "with costs"])
def result(request: pytest.FixtureRequest) -> RunResult:
    return run(
        workload(1), nodes=NODES, queues=file(), costs=request.param, control_plane="kubernetes"
    )


def queue_of(jobs: pd.DataFrame) -> pd.Series:
    return jobs.set_index("job")["queue"].replace({"team-v": "v"})


def test_the_curves_of_all_queues_add_up_to_that_of_the_run(result: RunResult) -> None:
    end_s = result.manifest["end_s"]
    whole = pending_steps(result.pending, end_s)
    parts = [pending_steps(mine, end_s) for _, mine in result.pending_by_queue.groupby("queue")]
    assert len(parts) == 3
    for time_s, row in zip(whole.time_s, whole.values, strict=True):
        assert (sum(part.at(time_s) for part in parts) == row).all()


def test_a_queues_curve_holds_what_its_jobs_waited(result: RunResult) -> None:
    end_s = result.manifest["end_s"]
    jobs = result.jobs.assign(queue=queue_of(result.jobs).to_numpy())
    seen = set()
    for queue, mine in result.pending_by_queue.groupby("queue"):
        waited = jobs[jobs["queue"] == queue]
        pod_s = pending_steps(mine, end_s).integral()
        for reason, found in zip(REASONS, pod_s, strict=True):
            expected = (waited[f"pending_{reason}_s"] * waited["num_pods"]).sum()
            assert found == pytest.approx(expected, abs=1e-5), (queue, reason)
            if found:
                seen.add(str(reason))
    assert {"quota", "capacity"} <= seen
    if result.config.costs is not None:
        assert "preempting" in seen


def test_preemptions_are_counted_for_both_sides(result: RunResult) -> None:
    attempts, queues = result.attempts, result.queues.set_index("queue")
    evicted = attempts[attempts["outcome"] == "preempted"]
    assert len(evicted) > 5
    by_queue = evicted.groupby(evicted["job"].map(queue_of(result.jobs)))
    suffered = by_queue.size().reindex(queues.index, fill_value=0)
    lost = by_queue["lost_gpu_s"].sum().reindex(queues.index, fill_value=0.0)
    assert queues["preemptions"].tolist() == suffered.tolist()
    assert queues["preempted_lost_gpu_s"].tolist() == pytest.approx(lost.tolist())
    assert queues["preemptions_caused"].sum() == len(evicted)
    assert queues["preempting_lost_gpu_s"].sum() == pytest.approx(lost.sum())
    assert queues.loc[["v", "w"], "preemptions_caused"].tolist() == [0, 0]  # they never evict
    assert (evicted["evicted_for"] != "").all()
    assert (attempts["evicted_for"] != "").sum() == len(evicted)
    whom = evicted.groupby(evicted["evicted_for"].map(queue_of(result.jobs))).size()
    assert (
        queues["preemptions_caused"].tolist() == whom.reindex(queues.index, fill_value=0).tolist()
    )
    # the other started, or still waits, where this one left
    starts_s = attempts.groupby("job")["admitted_s"].max()
    assert (starts_s.reindex(evicted["evicted_for"]).to_numpy() >= evicted["admitted_s"]).all()
    pairs = {
        (queue, other): found
        for queue, one in result.summary["queues"].items()
        for other, found in one["evicted_for"].items()
    }
    whose = queue_of(result.jobs)
    counted = evicted.assign(
        queue=evicted["job"].map(whose), other=evicted["evicted_for"].map(whose)
    ).groupby(["queue", "other"])["lost_gpu_s"]
    assert {pair: one["preemptions"] for pair, one in pairs.items()} == counted.size().to_dict()
    lost_gpu_s = {pair: one["lost_gpu_s"] for pair, one in pairs.items()}
    assert lost_gpu_s == pytest.approx(counted.sum().to_dict())
    for queue in queues.index:
        for at, column, cost in (
            (0, "preemptions", "preempted_lost_gpu_s"),
            (1, "preemptions_caused", "preempting_lost_gpu_s"),
        ):
            mine = [found for pair, found in pairs.items() if pair[at] == queue]
            assert sum(one["preemptions"] for one in mine) == queues.loc[queue, column]
            lost = sum(one["lost_gpu_s"] for one in mine)
            assert lost == pytest.approx(queues.loc[queue, cost])


def test_use_and_waits_are_those_of_the_jobs(result: RunResult) -> None:
    jobs, attempts = result.jobs.set_index("job"), result.attempts
    end_s = attempts["end_s"].fillna(result.manifest["end_s"])
    gpu_s = (end_s - attempts["admitted_s"]) * attempts["job"].map(jobs["gpus"])
    used = gpu_s.groupby(attempts["job"].map(queue_of(result.jobs))).sum()
    queues = result.queues.set_index("queue")
    assert queues["used_gpu_s"].tolist() == pytest.approx(used[queues.index].tolist())
    wait_s = (jobs["start_s"] - jobs["submit_s"]).groupby(queue_of(result.jobs))
    for name, at in (("wait_p50_s", 0.5), ("wait_p95_s", 0.95)):
        expected = wait_s.quantile(at, interpolation="higher")
        found = queues[name]
        assert all(expected[queue] >= found[queue] for queue in queues.index)
        assert found.tolist() == [
            float(np.quantile(wait_s.get_group(queue), at, method="inverted_cdf"))
            for queue in queues.index
        ]


def test_a_run_of_one_queue_has_no_curves_by_queue() -> None:
    jobs = workload(2, 20).assign(queue="u")
    one = replace(file(), queues=file().queues[:1], aliases={})
    assert run(jobs, nodes=NODES, queues=one).pending_by_queue.empty
    assert run(jobs, nodes=NODES).pending_by_queue.empty
