"""Traps that other schedulers fell into with preemption and quota, each as a world."""

from __future__ import annotations

import random

import pytest

from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Queue,
    Queues,
    Quota,
    ShareRule,
    Sharing,
    Victims,
    checked,
)
from tests.oracle.drawn_worlds import whole_nodes
from tests.oracle.played import Asks, Played, World, check_all_ended

NEWER = Victims.LOWER_OR_NEWER_EQUAL_PRIORITY
RULES = [(), (ShareRule.FINAL,), (ShareRule.INITIAL,), (ShareRule.FINAL, ShareRule.INITIAL)]


def queue(name: str, gpus: int, discipline: Holding = Holding.STRICT, **words: object) -> Queue:
    quota = {"all": {"gpus": Quota(gpus)}}
    return Queue(name, "root", quota=quota, discipline=discipline, **words)  # type: ignore[arg-type]


def play(nodes: int, gpus: int, queues: list[Queue], jobs: list[Asks], **words: object) -> Played:
    sharing = Sharing(**words)  # type: ignore[arg-type]
    file = Queues((Flavor("all"),), (Cohort("root"),), tuple(queues), {}, sharing)
    played = Played(World(whole_nodes(nodes, gpus), checked(file, "queues.toml"), jobs)).run()
    check_all_ended(played)
    return played


def evicted(played: Played) -> list[tuple[str, str]]:
    """Return who was evicted, and for whom."""
    return [(victim, each.gang) for each in played.evictions for victim in each.victims]


def test_nobody_leaves_nodes_that_together_are_of_no_use() -> None:
    """Borrowers have 2 GPUs on each of 4 nodes; `whole` needs 8 of one, and blocks nobody."""
    jobs = [
        *[Asks(f"own{at}", "mine", 0, 50, 1, 5) for at in range(4)],
        *[Asks(f"lent{at}", "other", 1, 49, 1, 2) for at in range(4)],
        Asks("whole", "mine", 2, 9, 1, 8),
        Asks("small", "mine", 3, 9, 1),
    ]
    queues = [queue("mine", 32, Holding.SKIP, reclaim=Victims.ANY), queue("other", 0)]
    played = play(4, 8, queues, jobs)
    assert not evicted(played)
    assert (played.starts["whole"], played.starts["small"]) == ([50], [3])


@pytest.mark.parametrize("rules", RULES)
def test_whom_the_shares_name_must_also_free_one_node(rules: tuple[ShareRule, ...]) -> None:
    """The young ones free as much, but on two nodes; only the old one has a node for itself."""
    jobs = [
        Asks("old", "other", 0, 50, 1, 8),
        Asks("own0", "mine", 1, 50, 1, 5),
        Asks("own1", "mine", 1, 50, 1, 5),
        Asks("young0", "other", 2, 50, 1, 3),
        Asks("young1", "other", 3, 50, 1, 3),
        Asks("asks", "mine", 4, 5, 1, 8),
    ]
    queues = [queue("mine", 20, reclaim=Victims.ANY), queue("other", 4)]
    played = play(3, 8, queues, jobs, victims=rules)
    assert evicted(played) == [("old", "asks")]


def test_what_the_first_victim_leaves_is_kept_until_the_last_has_left() -> None:
    """`quick` leaves at once and wants its place back; `slow` takes a while."""
    jobs = [
        Asks("quick", "other", 0, 50, 1, 4),
        Asks("slow", "other", 0, 50, 1, 4, grace_s=10),
        Asks("asks", "mine", 5, 20, 1, 8),
    ]
    played = play(1, 8, [queue("mine", 8, reclaim=Victims.ANY), queue("other", 0)], jobs)
    assert played.starts["asks"] == [15]
    assert sorted(evicted(played)) == [("quick", "asks"), ("slow", "asks")]
    assert played.starts["quick"][1:] == [35]


@pytest.mark.parametrize("discipline", list(Holding))
def test_a_head_that_needs_more_than_its_own_loses_no_eviction_to_its_follower(
    discipline: Holding,
) -> None:
    """`four` of a queue with 3 GPUs has no right to the fourth; each who is evicted makes room."""
    jobs = [
        *[Asks(f"lent{at}", "other", 0, 50, 1) for at in range(4)],
        Asks("four", "mine", 1, 10, 4),
        Asks("three", "mine", 2, 10, 3),
    ]
    queues = [queue("mine", 3, discipline, reclaim=Victims.ANY), queue("other", 1)]
    played = play(1, 4, queues, jobs)
    for victim, gang in evicted(played):
        assert gang == "three" and victim in {"lent0", "lent1", "lent2", "lent3"}
    assert len(played.evictions) <= 1


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("seed", range(8))
def test_equals_do_not_evict_each_other_for_ever(rules: tuple[ShareRule, ...], seed: int) -> None:
    """Queues and gangs are equal in all; two rounds of evictions at most for each of them."""
    draw = random.Random(seed)
    queues = [queue(name, 4, within=NEWER, reclaim=Victims.ANY) for name in "abc"]
    jobs = [
        Asks(f"j{at}", draw.choice("abc"), draw.randint(0, 20), 30, draw.choice([2, 3, 4, 6]))
        for at in range(12)
    ]
    jobs.sort(key=lambda job: job.submit_s)
    played = play(3, 4, queues, jobs, victims=rules)
    found = evicted(played)
    assert not {(gang, victim) for victim, gang in found} & set(found)
    assert all(len(starts) <= 4 for starts in played.starts.values())


def test_eviction_goes_on_until_the_devices_suffice() -> None:
    """Victims on nodes a are younger and enough in number, but only nodes h have the right GPUs."""
    nodes = [*whole_nodes(2, 4, "a"), *whole_nodes(1, 4, "h")]
    jobs = [
        Asks("right", "other", 0, 50, 4, model="h"),
        Asks("wrong0", "other", 1, 50, 4, model="a"),
        Asks("wrong1", "other", 2, 50, 4, model="a"),
        Asks("asks", "mine", 3, 5, 2, 2, model="h"),
    ]
    queues = (queue("mine", 12, reclaim=Victims.ANY), queue("other", 0))
    file = Queues((Flavor("all"),), (Cohort("root"),), queues)
    played = Played(World(nodes, file, jobs)).run()
    assert evicted(played) == [("right", "asks")]
    assert played.starts["asks"] == [3]


@pytest.mark.parametrize("num_queues", [1, 10])
def test_a_hundred_who_evict_at_once_wait_for_one_grace_in_all(num_queues: int) -> None:
    """Each has its own victim, which takes 30 s to leave."""
    lent = [Asks(f"lent{at}", "other", 0, 500, 1, 2, grace_s=30) for at in range(100)]
    asks = [Asks(f"asks{at}", f"q{at % num_queues}", 100, 50, 1, 2) for at in range(100)]
    queues = [queue(f"q{at}", 200 // num_queues, reclaim=Victims.ANY) for at in range(num_queues)]
    played = play(50, 4, [*queues, queue("other", 0)], [*lent, *asks])
    assert {played.starts[job.name][0] for job in asks} == {130}
    assert len(evicted(played)) == 100


@pytest.mark.parametrize("seed", range(10))
def test_many_who_evict_at_once_are_not_served_one_grace_after_the_other(seed: int) -> None:
    """Gangs of all sizes within their queues' own, for which gangs of all sizes have to leave."""
    draw = random.Random(seed)
    grace_s, own = 40, [draw.choice([8, 16, 24]) for _ in range(4)]
    total = sum(own)
    lent: list[Asks] = []
    while sum(job.num_pods * job.gpus for job in lent) < total:
        left = total - sum(job.num_pods * job.gpus for job in lent)
        num_pods = draw.randint(1, min(4, left))
        leaves_s = draw.randint(1, grace_s)
        lent.append(Asks(f"lent{len(lent)}", "other", 0, 900, num_pods, grace_s=leaves_s))
    asks: list[Asks] = []
    for at, gpus in enumerate(own):
        left = gpus
        while left:
            num_pods = draw.randint(1, left)
            left -= num_pods
            asks.append(Asks(f"asks{len(asks)}", f"q{at}", 100, 50, num_pods))
    queues = [queue(f"q{at}", gpus, reclaim=Victims.ANY) for at, gpus in enumerate(own)]
    played = play(total // 8, 8, [*queues, queue("other", 0)], [*lent, *asks])
    assert max(played.starts[job.name][0] for job in asks) <= 100 + grace_s
