"""What queues with quota cost: months with many queues and with one, evictions, and a flood."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING, Any

from bench import flood, preemption, workloads
from bench.company import company, with_teams
from bench.processes import Size, measured
from bench.rows import Row, in_turns, median, row

if TYPE_CHECKING:
    from scheduler.core.queues import Queues

DISCIPLINES = ("strict", "skip", "easy")
#: two sides that differ by no more than noise take more turns, and the fastest of each counts
ONE_QUEUE_TURNS = 7


def measure_company(nodes: str, days: str, discipline: str) -> dict[str, float]:
    """Time a month of 60 queues."""
    from sim.engines.workload import Workload

    num_nodes = int(nodes)
    work = Workload(with_teams(workloads.month(num_nodes, float(days))))
    file = company(num_nodes * workloads.GPUS_PER_NODE, discipline)
    simulation = workloads.gang_simulation(work, num_nodes, "strict", queues=file, order="priority")
    return {**workloads.timed(simulation), "evictions": len(simulation.evicted_for)}


def one_queue(num_gpus: int, discipline: str) -> Queues:
    """Return a queue that has all."""
    from scheduler.core.queues import Flavor, Holding, Queue, Queues, Quota

    quota = {"all": {"gpus": Quota(num_gpus)}}
    only = Queue("default", quota=quota, discipline=Holding(discipline))
    return Queues((Flavor("all"),), (), (only,))


def measure_one_queue(nodes: str, days: str, discipline: str, file: str) -> dict[str, float]:
    """Time a month with a queues file of one queue, or without one; `digest` is of its starts."""
    from sim.engines.workload import Workload

    num_nodes = int(nodes)
    words: Any = None
    if file == "one":
        words = one_queue(num_nodes * workloads.GPUS_PER_NODE, discipline)
    jobs = workloads.month(num_nodes, float(days)).assign(queue="default")
    named = discipline if words is None else "strict"
    simulation = workloads.gang_simulation(Workload(jobs), num_nodes, named, queues=words)
    found = workloads.timed(simulation)
    attempts = simulation.attempts.columns()
    seen = hashlib.sha256(attempts.job.tobytes() + attempts.admitted_s.tobytes())
    return {**found, "digest": int.from_bytes(seen.digest()[:6], "big")}


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {
    "company": measure_company,
    "one-queue": measure_one_queue,
    "preemption": preemption.measure_decisions,
    "preemptors": preemption.measure_preemptors,
    "flood": flood.measure_flood,
}


def queue_rows(size: Size, quick: bool) -> Iterator[Row]:
    """Measure what queues, evictions and shares cost, and what they are good for."""
    yield from company_rows(size)
    yield from one_queue_rows(size)
    yield from preemption.preemption_rows(size)
    yield from flood.flood_rows(size)


def company_rows(size: Size) -> Iterator[Row]:
    """Measure a month of 60 queues against simpy alone."""
    nodes, days = size.nodes, size.days
    bare, *found = in_turns(
        size.repeats,
        lambda: measured("simpy", nodes, days, "job"),
        *(lambda d=name: measured("company", nodes, days, d) for name in DISCIPLINES),  # type: ignore[misc]
    )
    for name, results in zip(DISCIPLINES, found, strict=True):
        yield row(
            f"openai_like {days:g} days, {nodes:,} nodes, 60 queues in 3 levels, {name}, with "
            "borrowing and preemption: time / bare simpy, two events per job",
            median(results) / median(bare),
            "x",
            "<= 15",
            note=f"{results[0]['jobs'] / median(results):,.0f} jobs/s; "
            f"{results[0]['evictions']:,.0f} evictions of {results[0]['jobs']:,.0f} jobs; "
            f"simpy alone {median(bare):.2f} s; tables afterwards "
            f"{median(results, 'records_s'):.1f} s",
        )


def one_queue_rows(size: Size) -> Iterator[Row]:
    """Measure one queue with all the quota beside no queues file; both start the same."""
    nodes, days = size.nodes, size.days
    for discipline in ("strict", "easy"):
        without, one = in_turns(
            ONE_QUEUE_TURNS,
            lambda d=discipline: measured("one-queue", nodes, days, d, "none"),  # type: ignore[misc]
            lambda d=discipline: measured("one-queue", nodes, days, d, "one"),  # type: ignore[misc]
        )
        same = len({result["digest"] for result in (*without, *one)}) == 1
        fastest = [min(result["cpu_s"] for result in side) for side in (one, without)]
        yield row(
            f"openai_like {days:g} days, {nodes:,} nodes, one queue with all the quota, "
            f"{discipline}: time / without queues",
            fastest[0] / fastest[1] if same else inf,
            "x",
            "<= 1.05",
            1.5,
            "all starts equal" if same else "starts differ",
        )
