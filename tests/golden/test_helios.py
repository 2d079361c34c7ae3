"""Helios's FIFO and SJF on two months of Philly: 11 virtual clusters, every start and every node.

Its order of ties (Q3) is given; its placer differs from `pack` for jobs of 12 GPUs.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import pytest

from tests.golden import peers
from tests.golden.comparison import differences, peer_result

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("days", "order", "num_jobs"),
    [("d7", "fifo", 10_650), ("d7", "sjf", 10_650), ("d61", "fifo", 68_503)],
)
def test_every_start_and_node_is_helios(golden: Path, days: str, order: str, num_jobs: int) -> None:
    trace = pd.read_csv(golden / "_traces" / "philly_sia_octnov2017.csv.gz").set_index("job_id")
    order_of_ties = pd.read_csv(golden / "helios" / f"philly_{days}_order.csv.gz")["job_id"]
    num_nodes = pd.read_csv(golden / "_traces" / "philly_vc_nodes.csv", index_col="vc")["nodes"]
    peer = peer_result(golden / "helios" / f"philly_{days}_{order}_consolidate.csv.gz")
    starts: dict[str, peers.Start] = {}
    for cluster, rows in trace.loc[order_of_ties].groupby("vc"):
        jobs = [
            peers.Job(
                str(row.Index),
                row.submit_time,
                row.duration,
                peers.consolidated(row.gpus),
                row.duration,
                row.duration,
            )
            for row in rows.itertuples()
        ]
        nodes = peers.whole_nodes(int(num_nodes[cluster]))
        starts |= peers.drive(jobs, nodes, peers.helios(order))
    assert len(starts) == num_jobs
    assert differences(starts, peer).empty
    elsewhere = [
        name
        for name, nodes in peer["nodes"].items()
        if _gpus_on_node(nodes) != starts[str(name)].gpus_on_node
    ]
    assert elsewhere == []


def _gpus_on_node(text: str) -> dict[int, int]:
    """Read Helios's list of {node: GPUs}."""
    return {node: gpus for part in ast.literal_eval(text) for node, gpus in part.items()}
