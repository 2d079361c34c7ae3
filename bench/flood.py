"""Three teams of which one floods the cluster: what the other two notice.

Each of the two is compared with itself alone, on a cluster of the size of its quota.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import workloads
from bench.processes import Size, measured
from bench.rows import Row, row

if TYPE_CHECKING:
    from scheduler.core.queues import Queues

FILE = Path(__file__).with_name("flood.toml")
#: of their quota, what the teams ask for; the last asks for more than the cluster
LOADS = {"alpha": 0.5, "beta": 0.7, "flood": 4.0}
DAY_S = 86_400.0


def jobs_of(team: str, nodes: int, days: float) -> Any:
    """Return the jobs of one team whose quota is a third of the nodes."""
    from traces.synthetic import generate

    at = list(LOADS).index(team)
    gpus = nodes // 3 * workloads.GPUS_PER_NODE
    seed = workloads.SEED + 1 + at
    jobs = generate("openai_like", num_gpus=gpus, days=days, load=LOADS[team], seed=seed)
    return jobs.assign(queue=team, job=f"{team}-" + jobs["job"])


def thirds(nodes: int, discipline: str = "") -> Queues:
    """Return the queues file with a third of the nodes for each team."""
    from scheduler.core.queues import Holding
    from sim.schema import queues

    file = queues.load(FILE)
    for queue in file.queues:
        for quota in queue.quota.values():
            quota["gpus"].nominal = nodes // 3 * workloads.GPUS_PER_NODE
        if discipline:
            queue.discipline = Holding(discipline)
    return file


def measure_flood(nodes: str, days: str, discipline: str = "") -> dict[str, float]:
    """Return the p95 of the waits of each quiet team, alone and beside the flood, in seconds."""
    import pandas as pd

    import sim

    num_nodes, until_s = int(nodes) // 3 * 3, float(days) * DAY_S
    file = thirds(num_nodes, discipline)
    jobs = {team: jobs_of(team, num_nodes, float(days)) for team in LOADS}
    every = pd.concat(jobs.values(), ignore_index=True)
    every = every.sort_values("submit_s", kind="stable", ignore_index=True)
    common: dict[str, Any] = {"until_s": until_s, "from_first": False}
    beside = sim.run(every, nodes=num_nodes, queues=file, **common).queues.set_index("queue")
    found = {f"{team}_preemptions": float(beside.loc[team, "preemptions"]) for team in LOADS}
    for team in LOADS:
        found[f"{team}_s"] = float(beside.loc[team, "wait_p95_s"])
    for at, team in enumerate(list(LOADS)[:-1]):
        own = file.queues[at].discipline.value
        alone = sim.run(jobs[team], nodes=num_nodes // 3, discipline=own, **common)
        found[f"{team}_alone_s"] = float(alone.summary["queueing_delay_p95_s"])
    return found


def flood_rows(size: Size) -> Iterator[Row]:
    """Measure how much longer teams within their quota wait beside one that floods."""
    nodes = size.flood_nodes
    found = measured("flood", nodes, size.days)
    ratios = {team: (found[f"{team}_s"], found[f"{team}_alone_s"]) for team in list(LOADS)[:-1]}
    yield row(
        f"{size.days:g} days, {nodes:,} nodes, three teams of which one floods: wait p95 of the "
        "others / alone on their quota, the worse of the two",
        max(beside / alone for beside, alone in ratios.values()),
        "x",
        "<= 1.2",
        2.0,
        "; ".join(
            f"{team} {beside / 3600:.1f} h beside {alone / 3600:.1f} h"
            for team, (beside, alone) in ratios.items()
        ),
    )
