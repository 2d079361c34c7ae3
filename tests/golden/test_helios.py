"""Helios's FIFO and SJF: every virtual cluster a queue of its own, every start and every node.

Its order of ties (Q3) is given; its placer differs from `pack` for jobs of 12 GPUs. Tables of
starts have one cluster, and no jobs of that kind: the public `run` packs them alike.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from sim import run
from tests.golden import peers
from tests.golden.comparison import differences, same_starts
from tests.golden.files import GPUS_PER_NODE, Result

ORDERS = ("fifo", "sjf")


def takes(result: Result) -> bool:
    return result.peer == "helios" and result.policy in ORDERS


def driven(jobs: pd.DataFrame, num_nodes: int, order: str) -> dict[str, peers.Start]:
    """Return starts as Helios's queue and placer give them."""
    rows = [
        peers.Job(
            row.job,
            row.submit_s,
            row.duration_s,
            peers.consolidated(row.gpus),
            row.duration_s,
            row.duration_s,
        )
        for row in jobs.itertuples()
    ]
    return peers.drive(rows, peers.whole_nodes(num_nodes), peers.helios(order))


def test_every_start_and_node_is_helios(result: Result) -> None:
    jobs = result.jobs().set_index("job").loc[result.order()].reset_index()
    whole = (jobs["gpus"] <= GPUS_PER_NODE) | (jobs["gpus"] % GPUS_PER_NODE == 0)
    table = result.table()
    num_nodes = result.num_gpus() // GPUS_PER_NODE
    if "vc" not in table and "nodes" not in table and whole.all():
        order = result.policy
        jobs = jobs.drop(columns="walltime_s")
        same_starts(run(jobs, nodes=num_nodes, order=order, placement="pack"), result)
        return
    starts: dict[str, peers.Start] = {}
    if "vc" not in table:
        starts = driven(jobs, num_nodes, result.policy)
    else:
        nodes_of = result.nodes_by_cluster()
        cluster_of = table["vc"].reindex(jobs["job"]).to_numpy()
        for cluster, rows in jobs.groupby(cluster_of):
            if cluster not in nodes_of:
                raise ValueError(f"{result.name}: cluster {cluster!r} has no nodes in _traces")
            starts |= driven(rows, nodes_of[cluster], result.policy)
    same_starts(starts, result)
    if "nodes" in table:
        elsewhere = [
            name
            for name, nodes in table["nodes"].items()
            if _gpus_on_node(nodes) != starts[str(name)].gpus_on_node
        ]
        assert elsewhere == [], f"{result.name}: {len(elsewhere)} jobs on other nodes"


def _gpus_on_node(text: str) -> dict[int, int]:
    """Read Helios's list of {node: GPUs}."""
    return {node: gpus for part in ast.literal_eval(text) for node, gpus in part.items()}


def test_the_order_of_ties_matters(golden: Path, known: Callable[[str], Path]) -> None:
    """The goldens can tell: with ties in another order, as many jobs move as are known to."""
    known("bench2500.csv")
    path = golden / "bench" / "bench2500_start_times_all_peers.csv.gz"
    peer = Result(golden, path, "helios", "bench2500", "fifo", "helios_fifo")
    moved = differences(run(peer.jobs().drop(columns="walltime_s"), nodes=64), peer)
    assert len(moved) == 24
    assert (moved["ours_s"] - moved["peer_s"]).abs().max() == 39.0
