"""What it takes to decide whom to evict, on a full cluster of thousands of gangs.

Times are CPU time of one process, with Python's garbage collector off.
"""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from bench import workloads
from bench.company import NUM_DEPARTMENTS, NUM_TEAMS, PRIORITIES, PRIORITY_SHARES, company, team
from bench.processes import Size, measured
from bench.rows import Row, row
from scheduler.core.decisions import Admit, Decision, Preempt
from scheduler.core.events import Admitted, CapacityClaimed, GangCancelled, GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role
from scheduler.core.placement import pack, place, spread
from scheduler.core.queues import Victims
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec

HOUR_US = to_us(3600.0)
NOW_US = 100 * HOUR_US
#: what heads ask for: GPUs in all, and of each pod
ASKS = ((8, 8), (8, 1), (64, 8), (64, 4), (256, 8), (1000, 8), (1000, 2), (4000, 8))
#: above all that run
URGENT = 2 * max(PRIORITIES)


class World(NamedTuple):
    """A full cluster: how much quota there is, whether heads that borrow evict, and how it fills.

    Where quotas add up to more than the nodes, heads have quota and lack nodes. Scattered gangs
    have small pods on many nodes, so that many must leave for one whole node.
    """

    quota_ratio: float
    borrow_within: bool
    scattered: bool


WORLDS = (
    World(1.0, False, False),
    World(1.0, True, False),
    World(1.5, False, False),
    World(1.0, True, True),
    World(1.5, True, True),
)
#: the teams of these departments run nothing, and take back what they lend
IDLE = 2
QUIET = tuple(at for at in range(NUM_TEAMS) if at % NUM_DEPARTMENTS < IDLE)
BUSY = tuple(at for at in range(NUM_TEAMS) if at % NUM_DEPARTMENTS >= IDLE)


def filled(world: World, nodes: int, gangs: int) -> ClusterState:
    """Return a state in which so many gangs run, of all sizes, ages and priorities."""
    num_gpus = nodes * workloads.GPUS_PER_NODE
    file = company(round(num_gpus * world.quota_ratio), "strict")
    for queue in file.queues:
        queue.borrow_within = Victims.LOWER_PRIORITY if world.borrow_within else Victims.NEVER
    whole = PodShape(workloads.GPUS_PER_NODE)
    order = catalog.ORDERS["priority"]
    state = ClusterState([Node(f"n{at:05d}", whole) for at in range(nodes)], order, file)
    draw = np.random.default_rng(workloads.SEED)
    weight = 1.0 / np.arange(8, 8 + len(BUSY))
    teams = draw.choice(BUSY, gangs, p=weight / weight.sum()).tolist()
    sizes = np.sort(draw.lognormal(0.0, 1.2, gangs))[::-1]
    shares = (sizes / sizes.sum()).tolist()
    num_last = gangs // 20  # they take what is left, wherever it is
    left = num_gpus
    for at, share in enumerate(shares):
        per_pod = 4 if at % 5 == 0 else 8
        if world.scattered:
            per_pod = 2
        last = gangs - at  # this one, and those after it
        count = min(max(1, int(share * num_gpus) // per_pod), (left - num_last) // per_pod)
        if last <= num_last:
            per_pod, count = 1, -(-left // last)
        if not count:
            continue
        role = Role(count, PodShape(per_pod))
        placement = place(state.capacity, (role,), spread if world.scattered else pack)
        if placement is None:
            continue
        began_us = int(draw.uniform(1, 99) * HOUR_US)
        priority = int(draw.choice(PRIORITIES, p=PRIORITY_SHARES))
        gang = Gang(f"r{at:05d}", (role,), began_us, FOREVER_US, priority, team(teams[at]))
        apply(state, GangSubmitted(gang))
        ends_us = NOW_US + int(draw.uniform(0.1, 48) * HOUR_US)
        apply(state, Admitted(gang.name, placement, began_us, ends_us))
        left -= gang.gpus
    assert not left, f"{left} GPUs are free"
    return state


def calls(state: ClusterState) -> Iterator[tuple[float, Decision | None]]:
    """Yield the calls of `decide` of one pass: CPU seconds, and what starts or evicts."""
    policy = catalog.policy(PolicySpec(order="priority"))
    while True:
        began_s = time.process_time()
        made = decide(state, policy, NOW_US)
        took_s = time.process_time() - began_s
        chosen: Decision | None = None
        for decision in made:
            if isinstance(decision, Admit | Preempt):
                chosen = decision
            else:
                apply(state, decision)
        yield took_s, chosen
        if chosen is None and state.until_us > NOW_US:
            return


def submit(state: ClusterState, at: int, whose: int, ask: tuple[int, int], priority: int) -> str:
    """Submit a head of a team; return its name."""
    gpus, per_pod = ask
    roles = (Role(gpus // per_pod, PodShape(per_pod)),)
    gang = Gang(f"h{at:05d}", roles, NOW_US, FOREVER_US, priority, team(whose), ordinal=at)
    apply(state, GangSubmitted(gang))
    return gang.name


def heads(nodes: int) -> Iterator[tuple[int, tuple[int, int], int]]:
    """Yield heads of all sizes and rights: team, what it asks for, priority."""
    draw = random.Random(workloads.SEED)
    for ask in asks(nodes):
        for priority in (*PRIORITIES, URGENT):
            yield draw.choice(QUIET), ask, priority
            for whose in (*BUSY[:2], *draw.sample(BUSY, 3)):
                yield whose, ask, priority


def asks(nodes: int) -> list[tuple[int, int]]:
    """Return what heads ask for on a cluster of so many nodes."""
    return [ask for ask in ASKS if ask[0] <= nodes * workloads.GPUS_PER_NODE // 15]


def measure_decisions(nodes: str, gangs: str) -> dict[str, float]:
    """Time what single heads get: each comes, is decided upon, and is cancelled."""
    gc.disable()
    took_ms: list[float] = []
    made: Counter[str] = Counter()
    for world in WORLDS:
        state = filled(world, int(nodes), int(gangs))
        for at, (whose, ask, priority) in enumerate(heads(int(nodes))):
            name = submit(state, at, whose, ask, priority)
            took_s = 0.0
            for call_s, decision in calls(state):
                took_s += call_s
                if decision is not None:
                    break
            apply(state, GangCancelled(name))
            took_ms.append(1e3 * took_s)
            made["evicted" if isinstance(decision, Preempt) else "waits"] += 1
    p50_ms, p99_ms = np.quantile(took_ms, (0.5, 0.99)).tolist()
    return {"p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": max(took_ms), **made}


def measure_preemptors(nodes: str, gangs: str) -> dict[str, float]:
    """Time the calls of passes in which the heads of all teams want others to leave.

    Whoever is to leave takes its time, as live. Half of the passes are of heads that each ask for
    the whole cluster, and so look at everybody in vain.
    """
    gc.disable()
    took_ms: list[float] = []
    evicted = 0
    everything = (int(nodes) * workloads.GPUS_PER_NODE, workloads.GPUS_PER_NODE)
    for world, in_vain in product(WORLDS, (False, True)):
        state = filled(world, int(nodes), int(gangs))
        draw = random.Random(workloads.SEED)
        for at in range(NUM_TEAMS):
            ask = everything if in_vain else draw.choice(asks(int(nodes)))
            submit(state, at, at, ask, URGENT)
        for call_s, decision in calls(state):
            took_ms.append(1e3 * call_s)
            if isinstance(decision, Preempt):
                evicted += 1
                apply(state, CapacityClaimed(decision.gang, decision.placement, decision.victims))
            elif isinstance(decision, Admit):
                apply(state, Admitted(decision.gang, decision.placement, NOW_US, FOREVER_US))
    return {"longest_ms": max(took_ms), "calls": len(took_ms), "evicted": evicted}


def preemption_rows(size: Size) -> Iterator[Row]:
    """Measure single decisions, and the longest call while all heads want others to leave."""
    nodes, gangs = size.nodes, size.gangs
    where = f"{nodes:,} full nodes, {gangs:,} gangs"
    one = measured("preemption", nodes, gangs)
    what = f"{where}, one preemption decision"
    note = f"{one['evicted']:,.0f} heads evict others, {one['waits']:,.0f} may not; at most "
    note += f"{one['max_ms']:.0f} ms"
    yield row(f"{what}, p50", one["p50_ms"], "ms", "<= 20", 100.0, note)
    yield row(f"{what}, p99", one["p99_ms"], "ms", "<= 50", 250.0)
    all_heads = measured("preemptors", nodes, gangs)
    yield row(
        f"{where}, {NUM_TEAMS} heads that all want others to leave: longest call of decide",
        all_heads["longest_ms"],
        "ms",
        "<= 50",
        250.0,
        f"{all_heads['calls']:,.0f} calls, {all_heads['evicted']:,.0f} heads evict others",
    )
