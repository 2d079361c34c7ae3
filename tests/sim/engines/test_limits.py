"""How many pods a node takes, where the cluster file says so: in every engine."""

from __future__ import annotations

import pandas as pd
import pytest

from sim import run
from sim.schema.cluster import Cluster, Pool

#: each would fit beside seven others by its GPUs
ONE_GPU_JOBS = pd.DataFrame(
    [(f"j{i}", 0.0, 10.0, 1, 1) for i in range(8)],
    columns=["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod"],
)


def ends(
    pods_per_node: int | None, admission: str, jobs: pd.DataFrame = ONE_GPU_JOBS
) -> list[float]:
    cluster = Cluster((Pool("node", 1, pods_per_node=pods_per_node),))
    found = run(jobs, cluster=cluster, admission=admission, control_plane="ideal", audit=True)
    return sorted(found.jobs["start_s"].tolist())


@pytest.mark.parametrize("admission", ["gang", "pod", "permit"])
def test_a_node_takes_as_many_pods_as_its_pool_says(admission: str) -> None:
    assert ends(None, admission) == [0.0] * 8
    assert ends(8, admission) == [0.0] * 8
    three_at_a_time = ends(3, admission)
    assert three_at_a_time[:3] == [0.0] * 3
    assert [start_s >= 10.0 for start_s in three_at_a_time] == [False] * 3 + [True] * 5
    assert [start_s >= 20.0 for start_s in three_at_a_time] == [False] * 6 + [True] * 2


def test_a_gang_of_more_pods_than_the_nodes_take_never_fits() -> None:
    wide = ONE_GPU_JOBS.head(1).assign(num_pods=4)
    cluster = Cluster((Pool("node", 1, pods_per_node=3),))
    assert run(wide, cluster=cluster).jobs["outcome"].tolist() == ["never_fits"]


def test_a_pool_without_a_limit_takes_any_number_beside_one_that_has_one() -> None:
    cluster = Cluster((Pool("small", 1, pods_per_node=1), Pool("large", 1)))
    jobs = pd.concat([ONE_GPU_JOBS, ONE_GPU_JOBS.assign(job=[f"k{i}" for i in range(8)])])
    started = run(jobs, cluster=cluster, audit=True).jobs["start_s"]
    assert (started == 0.0).sum() == 9


@pytest.mark.parametrize("admission", ["gang", "pod", "permit"])
@pytest.mark.parametrize(("pods", "gpus"), [(70_000, 40_000), (2**31 - 1, 2), (2, 2**31 - 1)])
def test_more_gpus_than_a_table_can_hold_are_refused_before_the_run(
    admission: str, pods: int, gpus: int
) -> None:
    jobs = pd.concat(
        [ONE_GPU_JOBS, ONE_GPU_JOBS.head(1).assign(job="big", num_pods=pods, gpus_per_pod=gpus)]
    )
    with pytest.raises(ValueError, match=f"job 'big' asks for {pods * gpus:,} GPUs in {pods:,} po"):
        run(jobs, nodes=1, admission=admission)


def test_as_many_gpus_as_a_table_can_hold_never_fit_and_are_counted() -> None:
    jobs = ONE_GPU_JOBS.head(1).assign(num_pods=2**31 - 1)
    table = run(jobs, nodes=1).jobs
    assert table["outcome"].tolist() == ["never_fits"]
    assert table["gpus"].tolist() == [2**31 - 1]
