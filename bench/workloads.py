"""Workloads of the rows of bench/sim.py, and how long gang mode takes for them."""

from __future__ import annotations

import time
from typing import Any

GPUS_PER_NODE = 8
LOAD, SEED = 1.10, 0


def month(nodes: int, days: float) -> Any:
    """Return the calibrated jobs of the scaling rows."""
    from traces.synthetic import generate

    return generate("openai_like", num_gpus=nodes * GPUS_PER_NODE, days=days, load=LOAD, seed=SEED)


def gang_simulation(
    work: Any,
    num_nodes: int,
    discipline: str,
    plane: str = "kubernetes",
    queues: Any = None,
    order: str = "fifo",
) -> Any:
    """Return a run in gang mode that has not begun."""
    from scheduler.policies.spec import PolicySpec
    from sim.engines.gangs import GangSimulation
    from sim.schema import planes
    from sim.schema.cluster import Cluster
    from sim.schema.config import RunConfig

    config = RunConfig(
        policy=PolicySpec(order=order, discipline=discipline),
        control_plane=planes.load(plane),
        queues=queues,
    )
    return GangSimulation(work, Cluster.uniform(num_nodes, GPUS_PER_NODE).build(), config, [])


def timed(simulation: Any) -> dict[str, float]:
    """Run a simulation; return what it took, in CPU seconds, and how large it was."""
    work = simulation.work
    began_s = time.process_time()
    end_s = simulation.simulate()
    simulated_s = time.process_time()
    simulation.records(end_s)
    return {
        "cpu_s": simulated_s - began_s,
        "records_s": time.process_time() - simulated_s,
        "jobs": work.num_jobs,
        "pods": sum(work.num_pods),
    }
