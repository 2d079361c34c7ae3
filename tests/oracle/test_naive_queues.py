"""Who starts when and where in strict and skip queues, by the rules of docs/queues.md alone."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.drawn_worlds import random_world
from tests.oracle.naive_queues import NaiveJob, NaiveNode, NaiveQueues
from tests.oracle.played import Played, World

#: by job: when it starts, and its pods by node
Starts = dict[str, tuple[int, dict[str, int]]]


def naive(world: World) -> Starts:
    nodes = [NaiveNode(n.name, n.gpu_model or "all", n.capacity.gpus) for n in world.nodes]
    jobs = [
        NaiveJob(
            job.name,
            job.queue,
            job.submit_s,
            job.duration_s,
            job.num_pods,
            job.gpus,
            job.priority,
            job.model,
        )
        for job in world.jobs
    ]
    NaiveQueues(jobs, nodes, world.queues).run()
    started = [job for job in jobs if job.start_s >= 0]
    return {job.name: (job.start_s, Counter(node.name for node in job.nodes)) for job in started}


def ours(world: World) -> Starts:
    played = Played(world).run()
    nodes = played.state.capacity.nodes
    found: Starts = {}
    for at_s, made in played.made:
        pods: Counter[str] = Counter()
        for _, lo, hi, each in made.placement:
            pods.update({nodes[i].name: each for i in range(lo, hi)})
        found[made.gang] = (at_s, pods)
    return found


@given(st.integers(0, 1 << 32))
@settings(max_examples=60)
def test_queues_that_evict_nobody_are_what_the_rules_say(seed: int) -> None:
    world = random_world(seed, evicts=False, easy=False, outages=False)
    assert ours(world) == naive(world)
