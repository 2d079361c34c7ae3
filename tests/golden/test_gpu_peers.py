"""Peers' policies that the catalog has as they are, on real GPU jobs, through the public `run`.

Pools of 512 GPUs are one node; others are 64 nodes of 8, with real placement.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from sim import RunResult, run
from tests.golden.comparison import differences, peer_result

SIZES = [2500, pytest.param(10000, marks=pytest.mark.slow)]


def bench_trace(golden: Path, size: int) -> pd.DataFrame:
    table = pd.read_csv(golden / "_traces" / f"bench{size}.csv")
    return pd.DataFrame(
        {
            "job": table["job_id"].astype("str"),
            "submit_s": table["submit_time"],
            "duration_s": table["duration"],
            "gpus": table["gpus"],
        }
    )


@cache
def pool_run(golden: Path, size: int, order: str, discipline: str) -> RunResult:
    """A pool is one node; a job is as many 1-GPU pods as it has GPUs."""
    jobs = bench_trace(golden, size).rename(columns={"gpus": "num_pods"}).assign(gpus_per_pod=1)
    return run(jobs, nodes=1, gpus_per_node=512, order=order, discipline=discipline)


def bench_starts(golden: Path, size: int) -> pd.DataFrame:
    table = pd.read_csv(golden / "bench" / f"bench{size}_start_times_all_peers.csv.gz", index_col=0)
    table.index = table.index.astype("str")
    return table


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("peers", "order", "discipline"),
    [
        (["cqsim_fcfs", "tiresias_fifo", "accasim_FIFO"], "fifo", "strict"),
        # Q8: AccaSim's "EASY" hands its allocator no reservation, so it is skipping
        (["tiresias_fjf", "ali_big_FIFO", "accasim_EBF"], "fifo", "skip"),
        (["ali_big_SJF"], "sjf", "skip"),
        (["accasim_SJF"], "sjf", "strict"),
    ],
)
def test_a_pool_is_shared_as_the_peers_do(
    golden: Path, size: int, peers: list[str], order: str, discipline: str
) -> None:
    ours = pool_run(golden, size, order, discipline)
    starts = bench_starts(golden, size)
    for peer in peers:
        assert differences(ours, starts, peer).empty, peer


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("policy", "discipline"), [("fifo", "strict"), ("fjf", "skip")])
def test_tiresias_ends_every_job_when_we_do(
    golden: Path, size: int, policy: str, discipline: str
) -> None:
    ours = pool_run(golden, size, "fifo", discipline)
    peer = peer_result(golden / "tiresias" / f"bench{size}_{policy}_count.csv.gz")
    assert differences(ours, peer).empty
    ends = ours.jobs.set_index("job")["end_s"].reindex(peer.index)
    assert (ends == peer["end_time"]).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("policy", "order"), [("FIFO", "fifo"), ("SJF", "sjf")])
def test_first_fit_on_nodes_is_alibabas(golden: Path, size: int, policy: str, order: str) -> None:
    peer = peer_result(golden / "alibaba2020" / f"bench{size}_nodes_{policy}.csv.gz")
    by_number = peer.sort_values("job_id")
    jobs = pd.DataFrame(
        {
            "job": by_number.index,
            "submit_s": by_number["submit_time"].to_numpy(),
            "duration_s": by_number["duration"].to_numpy(),
            "num_pods": by_number["num_inst"].to_numpy(),
            "gpus_per_pod": by_number["gpus_per_inst"].to_numpy(),
        }
    )
    ours = run(jobs, nodes=64, placement="first-fit", discipline="skip", order=order)
    assert differences(ours, peer).empty


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("order", ["fifo", "sjf"])
def test_packing_on_nodes_is_helios_consolidation(golden: Path, size: int, order: str) -> None:
    """Q3: Helios sorts by submission with an unstable sort; its order of ties is given."""
    order_of_ties = pd.read_csv(golden / "helios" / f"bench{size}_order.csv.gz")["job_id"]
    jobs = bench_trace(golden, size).set_index("job").loc[order_of_ties.astype("str")]
    ours = run(jobs.reset_index(), nodes=64, order=order, placement="pack")
    assert differences(ours, bench_starts(golden, size), f"helios_{order}").empty


def test_the_order_of_ties_matters(golden: Path) -> None:
    """The goldens can tell: with ties in another order, as many jobs move as are known to."""
    ours = run(bench_trace(golden, 2500), nodes=64)
    moved = differences(ours, bench_starts(golden, 2500), "helios_fifo")
    assert len(moved) == 24
    assert (moved["ours_s"] - moved["peer_s"]).abs().max() == 39.0
