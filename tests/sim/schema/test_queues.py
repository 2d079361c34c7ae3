"""Flavors of a queues file on simulated nodes, which have no labels."""

from __future__ import annotations

import pandas as pd
import pytest

from scheduler.core.queues import Flavor, Queue, Queues, Quota
from sim import run
from sim.schema.cluster import Cluster, Pool
from sim.schema.queues import on_cluster

ONE = Cluster.uniform(2)
TWO = Cluster(pool=(Pool("h100", 2, gpu_model="H100"), Pool("a100", 2, gpu_model="A100")))
BARE = Cluster(pool=(Pool("h100", 2), Pool("a100", 2)))
ZONE = {"zone": "a"}


def file(*flavors: Flavor, used: int | None = None) -> Queues:
    """Return a queue with quota for the first `used` flavors."""
    quota = {flavor.name: {"gpus": Quota(8)} for flavor in flavors[:used]}
    return Queues(flavors, (), (Queue("u", quota=quota), Queue("v", quota=quota)))


@pytest.mark.parametrize(
    ("cluster", "flavor", "found"),
    [
        (ONE, Flavor("any"), Flavor("any")),
        (ONE, Flavor("h100", labels=ZONE), Flavor("h100")),
        (ONE, Flavor("h100", gpu_model="H100"), Flavor("h100")),
        (TWO, Flavor("x", gpu_model="H100"), Flavor("x", gpu_model="H100")),
        (TWO, Flavor("h100", labels=ZONE), Flavor("h100", pool="h100")),
        (TWO, Flavor("h100", gpu_model="H100", labels=ZONE),
         Flavor("h100", pool="h100", gpu_model="H100")),
        (BARE, Flavor("h100", gpu_model="H100"), Flavor("h100", pool="h100")),
    ],
)  # fmt: skip
def test_a_flavor_is_its_pool_or_all_nodes(cluster: Cluster, flavor: Flavor, found: Flavor) -> None:
    changed, notes = on_cluster(file(flavor), cluster)
    assert changed.flavors == (found,)
    assert len(notes) == (found != flavor)


def test_what_cannot_be_told_apart_is_refused_with_the_way_out() -> None:
    two = (Flavor("fast", labels={"kind": "fast"}), Flavor("slow", labels={"kind": "slow"}))
    with pytest.raises(ValueError, match="'fast' is the nodes with kind = fast") as refused:
        on_cluster(file(*two), ONE)
    assert "name a pool 'fast' in the cluster file" in str(refused.value)
    # one that nobody has quota for is no obstacle
    changed, _ = on_cluster(file(*two, used=1), ONE)
    assert changed.flavors == (Flavor("fast"),)


def test_a_run_says_what_it_took_a_flavor_for() -> None:
    jobs = pd.DataFrame(
        {"job": ["a"], "queue": ["u"], "submit_s": [0.0], "duration_s": [9.0], "num_pods": [1],
         "gpus_per_pod": [8]}
    )  # fmt: skip
    result = run(jobs, nodes=2, queues=file(Flavor("h100", labels=ZONE)))
    assert result.manifest["notes"] == [
        "flavor 'h100' (zone = a) is all nodes: no other flavor has quota"
    ]
    assert result.queues["num_started"].tolist() == [1, 0]
