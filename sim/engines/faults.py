"""Node failures for a run, drawn once per seed so that every policy gets the same ones."""

from __future__ import annotations

import traces.faults as faults
from sim.engines.workload import Workload
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig


def outages(config: RunConfig, work: Workload, cluster: Cluster) -> list[tuple[float, float, int]]:
    """Return (down, up again, node index) by time of failure.

    Outages are drawn for the time of the last submission plus its longest job, or `until_s`.
    """
    if config.faults.source == "none":
        return []
    horizon_s = config.until_s
    if horizon_s is None:
        horizon_s = work.submit_s[-1] + 2.0 * max(work.duration_s)
    if config.faults.source == "stepfun":
        table = faults.stepfun(cluster.num_nodes, horizon_s, config.seed)
    else:
        table = faults.calibrated(
            cluster.num_nodes, horizon_s, config.seed, config.faults.per_1000_node_days
        )
    rows = zip(
        table["start_s"].tolist(), table["end_s"].tolist(), table["node"].tolist(), strict=True
    )
    return sorted(rows)
