"""Measurements of several queues: teams that borrow and evict, and what one decision costs."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota, Victims

GPUS_PER_NODE = 8
SEED = 0
ALL = "all"
NUM_ORGS, TEAMS_PER_ORG = 10, 6


def teams(gpus: int, discipline: str) -> Queues:
    """Return 60 queues in three levels that have all the GPUs in equal parts, and reclaim them."""
    orgs = [f"org{number}" for number in range(NUM_ORGS)]
    each = gpus // (NUM_ORGS * TEAMS_PER_ORG)
    queues = [
        Queue(
            f"{org}-team{number}",
            org,
            quota={ALL: {"gpus": Quota(each)}},
            discipline=Holding(discipline),
            within=Victims.LOWER_PRIORITY,
            reclaim=Victims.ANY,
        )
        for org in orgs
        for number in range(TEAMS_PER_ORG)
    ]
    cohorts = (Cohort("root"), *(Cohort(org, "root") for org in orgs))
    return Queues((Flavor(ALL),), cohorts, tuple(queues))


def month_of_teams(nodes: int, days: float, file: Queues) -> Any:
    """Return the calibrated jobs of the scaling rows: each campaign is of one team.

    A fifth has priority 1, and a twentieth 2.
    """
    from bench.sim import month

    jobs = month(nodes, days)
    draw = random.Random(SEED)
    campaigns = jobs["user"].unique()
    queue_of = {user: draw.choice(file.queues).name for user in campaigns}
    priority_of = {user: draw.choices((0, 1, 2), (75, 20, 5))[0] for user in campaigns}
    jobs["queue"] = jobs["user"].map(queue_of)
    jobs["priority"] = jobs["user"].map(priority_of)
    return jobs


def simulation(work: Any, nodes: int, discipline: str, file: Queues | None) -> Any:
    """Return a simulation with the control plane of the scaling rows."""
    from scheduler.policies.spec import PolicySpec
    from sim.engines.gangs import GangSimulation
    from sim.schema import planes
    from sim.schema.cluster import Cluster
    from sim.schema.config import RunConfig

    policy = PolicySpec(discipline=discipline)
    config = RunConfig(policy=policy, control_plane=planes.load("kubernetes"), queues=file)
    return GangSimulation(work, Cluster.uniform(nodes, GPUS_PER_NODE).build(), config, [])


def measure_teams(nodes: str, days: str, discipline: str) -> dict[str, float]:
    """Time a month of 60 queues."""
    from sim.engines.workload import Workload

    file = teams(int(nodes) * GPUS_PER_NODE, discipline)
    work = Workload(month_of_teams(int(nodes), float(days), file))
    run = simulation(work, int(nodes), "strict", file)
    began_s = time.process_time()
    run.simulate()
    cpu_s = time.process_time() - began_s
    return {"cpu_s": cpu_s, "jobs": work.num_jobs, "evictions": len(run.evicted_for)}


def measure_one_queue(nodes: str, days: str, discipline: str, with_queue: str) -> dict[str, float]:
    """Time a month with one queue that has all the quota, or without queues."""
    from sim.engines.workload import Workload

    file = None
    if with_queue == "yes":
        quota = {ALL: {"gpus": Quota(int(nodes) * GPUS_PER_NODE)}}
        one = Queue("one", quota=quota, discipline=Holding(discipline))
        file = Queues((Flavor(ALL),), (), (one,))
    from bench.sim import month

    jobs = month(int(nodes), float(days)).drop(columns="queue")
    work = Workload(jobs)
    run = simulation(work, int(nodes), discipline, file)
    began_s = time.process_time()
    end_s = run.simulate()
    cpu_s = time.process_time() - began_s
    starts = run.records(end_s).attempts["start_s"].sum()
    return {"cpu_s": cpu_s, "starts": float(starts)}


# -- one decision ------------------------------------------------------------------------------


def busy(nodes: int, running: int) -> Any:
    """Return a full cluster where half of the teams borrow what the others do not use.

    The gangs have 1 to 64 nodes, and one of each is as large as fits; two in three have priority 0.
    """
    from scheduler.core.decisions import Admit
    from scheduler.core.events import Admitted, GangSubmitted
    from scheduler.core.model import Gang, Node, PodShape, Role
    from scheduler.core.state import ClusterState, apply
    from scheduler.core.times import to_us
    from scheduler.policies import catalog
    from scheduler.policies.decide import decide
    from scheduler.policies.spec import PolicySpec

    file = teams(nodes * GPUS_PER_NODE, "strict")
    policy = catalog.policy(PolicySpec())
    whole_nodes = [Node(f"n{number:05}", PodShape(GPUS_PER_NODE)) for number in range(nodes)]
    state = ClusterState(whole_nodes, policy.order, file)
    draw = random.Random(SEED)
    left = nodes
    borrowers = file.queues[::2]
    for number in range(running):
        rest = running - number - 1
        size = left if not rest else min(draw.choice((1, 1, 2, 2, 4, 8, 16, 64)), left - rest)
        gang = Gang(
            f"run{number}",
            (Role(size, PodShape(GPUS_PER_NODE)),),
            to_us(number),
            to_us(1e6),
            draw.choice((0, 0, 1)),
            borrowers[number % len(borrowers)].name,
            ordinal=number,
        )
        apply(state, GangSubmitted(gang))
        left -= size
        for decision in decide(state, policy, to_us(number)):
            if isinstance(decision, Admit):
                now_us = to_us(number)
                apply(state, Admitted(gang.name, decision.placement, now_us, to_us(2e6)))
            else:
                apply(state, decision)  # type: ignore[arg-type]
    return state, policy, file


def measure_evictions(nodes: str, running: str) -> dict[str, float]:
    """Time decisions to evict, each on the same state; and a pass of heads that all look for some.

    Heads take turns between queues within their quota, which reclaim, and queues that borrow,
    which may evict lower priorities of their own. They ask for 8 to 4,000 GPUs.
    """
    from scheduler.core.decisions import Preempt
    from scheduler.core.events import Considered, GangSubmitted
    from scheduler.core.model import Gang, PodShape, Role
    from scheduler.core.state import apply
    from scheduler.core.times import to_us
    from scheduler.policies.decide import decide

    state, policy, file = busy(int(nodes), int(running))
    assert sum(bool(member.held) for member in state.gangs.values()) == int(running)
    draw = random.Random(SEED + 1)
    took_ms, evicting = [], 0

    def submit(number: int, size: int, queue: str, priority: int) -> None:
        roles = (Role(size, PodShape(GPUS_PER_NODE)),)
        at_us = to_us(10_000.0 + number)
        gang = Gang(f"asks{number}", roles, at_us, to_us(100.0), priority, queue, ordinal=number)
        apply(state, GangSubmitted(gang))

    now_us = to_us(20_000.0)
    for number in range(300):
        queue = file.queues[number % len(file.queues)].name
        size = draw.choice((1, 1, 4, 16, 64, 125, 500))
        with state.trial():
            submit(number, size, queue, draw.choice((0, 1, 2)))
            began_s = time.perf_counter()
            made = decide(state, policy, now_us)
            took_ms.append(1e3 * (time.perf_counter() - began_s))
        evicting += isinstance(made[0], Preempt)
    took_ms.sort()
    # every head may evict some, and none of them enough
    for number, queue in enumerate(file.queues):
        submit(number, int(nodes), queue.name, 2)
    slices_ms: list[float] = []
    done = False
    while not done:
        began_s = time.perf_counter()
        made = decide(state, policy, now_us)
        slices_ms.append(1e3 * (time.perf_counter() - began_s))
        for decision in made:
            assert not isinstance(decision, Preempt)
            apply(state, decision)
            done = isinstance(decision, Considered) and decision.until_us > now_us
    return {
        "decisions": len(took_ms),
        "evicting": evicting,
        "p50_ms": statistics.median(took_ms),
        "p99_ms": took_ms[int(0.99 * len(took_ms))],
        "slices": len(slices_ms),
        "slice_ms": max(slices_ms),
    }


# -- a flood -----------------------------------------------------------------------------------


def measure_flood(nodes: str, days: str) -> dict[str, float]:
    """Compare the waits of two teams beside a third that floods with those on their own nodes.

    Each has a third of the nodes as its quota. b and c ask for 80 % of theirs, a for three times
    the cluster. Alone, b and c have a cluster as large as their quota.
    """
    import pandas as pd

    from sim import run
    from traces.synthetic import generate

    third = int(nodes) // 3
    gpus = third * GPUS_PER_NODE
    tables = {
        team: generate("openai_like", num_gpus=gpus, days=float(days), load=load, seed=seed)
        for seed, (team, load) in enumerate((("a", 9.0), ("b", 0.8), ("c", 0.8)))
    }
    for team, table in tables.items():
        table["queue"] = team
        table["job"] = team + "-" + table["job"]
    quota = {ALL: {"gpus": Quota(gpus)}}
    queues = tuple(Queue(team, "all-teams", quota=quota, reclaim=Victims.ANY) for team in tables)
    file = Queues((Flavor(ALL),), (Cohort("all-teams"),), queues)
    jobs = pd.concat(tables.values(), ignore_index=True).sort_values("submit_s", kind="stable")
    together = run(jobs, nodes=3 * third, gpus_per_node=GPUS_PER_NODE, queues=file)

    def waited_s(jobs: Any) -> float:
        return float((jobs["start_s"] - jobs["submit_s"]).quantile(0.95))

    found: dict[str, float] = {}
    for team in "bc":
        alone = run(tables[team], nodes=third, gpus_per_node=GPUS_PER_NODE)
        mine = together.jobs[together.jobs["queue"] == team]
        p95_s = waited_s(mine)
        alone_p95_s = waited_s(alone.jobs)
        found[f"{team}_p95_s"], found[f"{team}_alone_p95_s"] = p95_s, alone_p95_s
        found[f"{team}_ratio"] = p95_s / alone_p95_s
    return found
