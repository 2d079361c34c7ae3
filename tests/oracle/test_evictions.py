"""Evictions on random worlds: they end, each has its use, and nobody loses what is its own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.drawn_worlds import random_world
from tests.oracle.played import Played, check_all_ended


@given(st.integers(0, 1 << 32))
@settings(max_examples=60)
def test_evictions_end_and_none_is_in_vain(seed: int) -> None:
    """`Played` checks each step: usage recounted, whole gangs, one flavor, nobody within nominal.

    Every job ends. No two gangs evict each other in turn, and all of n evict fewer than n * n.
    Each claim comes to a start, or was dropped because a node was lost or a victim stuck.
    """
    world = random_world(seed)
    played = Played(world).run()
    check_all_ended(played)
    for_whom = {(v, each.gang) for each in played.evictions for v in each.victims}
    both = {(v, gang) for v, gang in for_whom if (gang, v) in for_whom}
    assert not both, f"evicted each other in turn: {sorted(both)}"
    assert sum(len(each.victims) for each in played.evictions) < len(world.jobs) ** 2


def test_what_a_head_keeps_is_not_what_its_queue_borrows() -> None:
    """Else a queue whose head keeps quota of one flavor loses gangs by its share in another."""
    check_all_ended(Played(random_world(10152, easy=False)).run())
