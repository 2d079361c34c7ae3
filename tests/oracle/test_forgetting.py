"""What a pass remembers of those before never hides a gang that could start, or evict others."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler import compiled
from scheduler.core.model import Node
from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Queue,
    Queues,
    Quota,
    Quotas,
    Victims,
    checked,
)
from scheduler.core.state import ClusterState
from scheduler.policies import queued
from scheduler.policies.preempting import Preempting
from tests.oracle.drawn_worlds import random_world, whole_nodes
from tests.oracle.played import Asks, Played, World, made_by


def forget_all(state: ClusterState) -> None:
    """Let the next decision look at everything: nothing is known from passes before."""
    assert state.book is not None
    state.grew = state.shrank = True
    state.searched = {}
    state.book.forget_lacks()
    for line in state.queue.lines:
        line.seen = line.known = None


@pytest.mark.parametrize("easy", [False, True])
@given(seed=st.integers(0, 1 << 32))
@example(seed=453)  # in these, what was noted of a head in vain outlived a time when it was not
@example(seed=834)
@example(seed=23780)
@example(seed=23100)  # who was let pass could then be evicted
@example(seed=23916)  # a place was looked for with one victim too few
@example(seed=27438)
@settings(max_examples=100, derandomize=True)  # of a demand a full pass searches for the first only
def test_a_state_that_forgets_all_decides_the_same(seed: int, *, easy: bool) -> None:
    """Whether a gang delays a promise depends on where it would be placed; not with whole nodes."""
    world = random_world(seed, easy=easy, whole_nodes_only=easy)
    for queue in world.queues.queues:
        queue.max_lost_s = 0.0  # whose work is worth least would change with time alone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queued, "MOST_PAST_HEADS", 1000)  # a pass may search for all that wait
        remembers = made_by(Played(world).run())
        assert remembers == made_by(Played(world, forget=forget_all).run())


@pytest.mark.skipif(compiled.which() == "compiled", reason="compiled functions cannot be replaced")
@given(seed=st.integers(0, 1 << 32))
@example(seed=52202)  # who could evict in its queue's second flavor only
@settings(max_examples=100, derandomize=True)
def test_a_quick_look_at_sums_hides_nobody_who_could_evict(seed: int) -> None:
    world = random_world(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queued, "MOST_PAST_HEADS", 1000)
        quick = made_by(Played(world).run())
        patch.setattr(Preempting, "has_hope", lambda self, head: self.may(head.member))
        assert quick == made_by(Played(world).run())


# -- what worlds like these showed once ------------------------------------------------------


def of(flavor: str = "all", **quota: int) -> Quotas:
    return {flavor: {"gpus": Quota(**quota)}}


def world_of(nodes: list[Node], jobs: list[Asks], *queues: Queue) -> World:
    models = dict.fromkeys(node.gpu_model for node in nodes)
    flavors = tuple(Flavor(model or "all", gpu_model=model) for model in models)
    return World(nodes, checked(Queues(flavors, (Cohort("root"),), queues), "queues.toml"), jobs)


def starts(world: World, name: str) -> int:
    """Return when a job starts first, and check that this owes nothing to what is remembered."""
    played, forgetful = Played(world).run(), Played(world, forget=forget_all).run()
    assert made_by(played) == made_by(forgetful)
    return played.starts[name][0]


def test_a_pass_without_news_does_not_put_off_the_end_of_a_minimum_runtime() -> None:
    """`long` may be evicted from 38 on; at 36 comes a gang that may not start."""
    newer = Victims.LOWER_OR_NEWER_EQUAL_PRIORITY
    team = Queue("team", "root", quota=of(nominal=8), within=newer, min_runtime_s=7.0)
    other = Queue("other", "root", quota=of(nominal=0, borrow=0))
    jobs = [
        Asks("first", "team", 1, 30, 1),
        Asks("long", "team", 11, 100, 8),
        Asks("urgent", "team", 22, 10, 1, priority=1),
        Asks("never", "other", 36, 10, 1),
    ]
    assert starts(world_of(whole_nodes(1), jobs, team, other), "urgent") == 38


def test_gangs_pass_a_head_that_holds_its_nodes_no_longer() -> None:
    """`large` holds all nodes for 16 GPUs until, at 14, quota for them is claimed by `mine`."""
    queues = [Queue(name, "root", quota=of(nominal=8)) for name in "uvwx"]
    queues[0].reclaim, queues[1].discipline = Victims.ANY, Holding.SKIP
    jobs = [
        Asks("one", "v", 3, 100, 1),
        Asks("lent", "w", 4, 100, 3, 4, grace_s=10),
        Asks("large", "w", 5, 100, 4, 4),
        Asks("node", "v", 5, 100, 1, 4),
        Asks("small", "v", 6, 100, 1),
        Asks("mine", "u", 14, 100, 1, 4),
    ]
    assert starts(world_of(whole_nodes(4, 4), jobs, *queues), "small") == 14


def test_gangs_pass_a_head_whose_promise_came_to_nothing() -> None:
    """`large` lacks quota from 15 on, so that it has the promise no longer; `small` may start."""
    quota = {"a": {"gpus": Quota(8)}, "h": {"gpus": Quota(4, 4)}}
    u = Queue("u", "root", quota=quota, discipline=Holding.EASY)
    v = Queue("v", "root", quota=of("a", nominal=16, borrow=4))
    nodes = [*whole_nodes(2, 8, "a"), *whole_nodes(1, 8, "h")]
    jobs = [
        Asks("before", "v", 4, 100, 4),
        Asks("large", "u", 5, 100, 2, 8),
        Asks("short", "v", 12, 10, 1),
        Asks("small", "u", 12, 100, 1),
        Asks("takes", "v", 15, 100, 2, 2),
    ]
    assert starts(world_of(nodes, jobs, u, v), "small") == 15


def test_a_gang_that_outlasts_a_promise_does_not_hide_a_shorter_one_of_its_size() -> None:
    """`large` is promised the nodes a at 107; `long` may not use them, `short` may."""
    u = Queue("u", "root", quota=of("h", nominal=8))
    quota = {"a": {"gpus": Quota(8)}, "h": {"gpus": Quota(8)}}
    v = Queue("v", "root", quota=quota, discipline=Holding.EASY)
    nodes = [*whole_nodes(2, 4, "a"), *whole_nodes(1, 4, "h")]
    jobs = [
        Asks("one", "v", 7, 100, 1),
        Asks("large", "v", 7, 100, 4, 2),
        Asks("other", "u", 13, 100, 1),
        Asks("long", "v", 17, 100, 2, 2),
        Asks("short", "v", 18, 20, 2, 2),
    ]
    assert starts(world_of(nodes, jobs, u, v), "short") == 18


def test_a_head_does_not_wait_for_nodes_that_one_served_later_holds() -> None:
    """`next` has the promise, `small` fits beside it; only then is it the turn of `back`."""
    queues = [
        Queue("u", "root", quota=of(nominal=8), discipline=Holding.EASY),
        Queue("v", "root", quota=of(nominal=4, lend=0)),
        Queue("w", "root", quota=of(nominal=8, lend=0), reclaim=Victims.ANY),
        Queue("y", "root", quota=of(nominal=4, borrow=4)),
        Queue("z", "root", quota=of(nominal=4, borrow=4)),
    ]
    jobs = [
        Asks("back", "z", 1, 30, 4, 2, grace_s=10),
        Asks("mine", "w", 5, 30, 3, 2),
        Asks("y", "y", 5, 100, 1, 4),
        Asks("next", "u", 8, 100, 3, 2),
        Asks("small", "v", 13, 100, 1),
    ]
    assert starts(world_of(whole_nodes(3, 4), jobs, *queues), "small") == 15


def test_a_gang_past_the_head_reclaims_from_one_that_was_let_pass_in_the_same_pass() -> None:
    """`lent` starts at 44, before `mine` by age, on quota that `mine` asks for; `four` is ahead."""
    u = Queue("u", "root", quota=of(nominal=0), discipline=Holding.SKIP)
    v = Queue("v", "root", quota=of(nominal=8), discipline=Holding.SKIP, reclaim=Victims.ANY)
    jobs = [
        Asks("first", "v", 4, 40, 8),
        Asks("lent", "u", 5, 100, 1, 2),
        Asks("six", "v", 9, 100, 3, 2),
        Asks("four", "v", 12, 100, 2, 2),
        Asks("mine", "v", 26, 100, 1, 2),
    ]
    assert starts(world_of(whole_nodes(2, 4), jobs, u, v), "mine") == 44


def test_a_gang_past_the_head_reclaims_from_one_that_starts_while_nothing_ends() -> None:
    """`late`, of a strict queue, borrows from 56 on, so that its queue may lose `old`."""
    u = Queue("u", "root", quota=of(nominal=16), discipline=Holding.SKIP, reclaim=Victims.ANY)
    v = Queue("v", "root", quota=of(nominal=4), min_runtime_s=7.0)
    jobs = [
        Asks("old", "v", 26, 100, 2, 2),
        Asks("before", "u", 35, 100, 3),
        Asks("eight", "u", 46, 100, 1, 8),
        Asks("mine", "u", 54, 100, 1, 2),
        Asks("late", "v", 56, 100, 1),
    ]
    assert starts(world_of(whole_nodes(1, 8), jobs, u, v), "mine") == 56


def test_how_far_a_head_borrows_is_that_of_the_flavor_it_would_take() -> None:
    """`own` never fits the 2 GPUs of the first flavor, and has all it asks for in the second."""
    quota = {"a": {"gpus": Quota(2)}, "h": {"gpus": Quota(8)}}
    u, v = Queue("u", "root", quota=quota), Queue("v", "root", quota=of("h", nominal=2))
    nodes = [*whole_nodes(1, 4, "a"), *whole_nodes(1, 4, "h")]
    jobs = [Asks("borrows", "v", 0, 100, 1, 4), Asks("own", "u", 0, 100, 1, 4)]
    assert starts(world_of(nodes, jobs, u, v), "own") == 0


def test_a_head_that_leaves_nodes_to_the_promise_holds_none_later() -> None:
    """`one` fits, but would delay `large`; it is not taken for a head without nodes at 19."""
    queues = [
        Queue("w", "root", quota=of(nominal=8), discipline=Holding.EASY),
        Queue("x", "root", quota=of(nominal=8), discipline=Holding.SKIP),
        Queue("y", "root", quota=of(nominal=8)),
    ]
    jobs = [
        Asks("before", "x", 1, 100, 1),
        Asks("large", "w", 10, 100, 3, 4),
        Asks("two", "y", 10, 100, 2, 4),
        Asks("one", "y", 10, 100, 1),
        Asks("other", "x", 18, 100, 2, 4),
        Asks("short", "x", 19, 10, 1),
    ]
    assert starts(world_of(whole_nodes(5, 4), jobs, *queues), "short") == 19


def test_a_gang_reclaims_in_a_later_flavor_where_nobody_borrows_of_the_first() -> None:
    """`mine` is within nominal in both flavors; only of the second anybody borrows."""
    quota = {"a": {"gpus": Quota(8)}, "h": {"gpus": Quota(8)}}
    u = Queue("u", "root", quota=quota, reclaim=Victims.ANY)
    v = Queue("v", "root", quota={"a": {"gpus": Quota(8)}, "h": {"gpus": Quota(0)}})
    nodes = [*whole_nodes(1, 8, "a"), *whole_nodes(1, 8, "h")]
    jobs = [
        Asks("theirs", "v", 0, 100, 1, 8, model="a"),
        Asks("lent", "v", 1, 100, 1, 8, model="h"),
        Asks("mine", "u", 2, 100, 1, 8),
    ]
    assert starts(world_of(nodes, jobs, u, v), "mine") == 2


def test_whose_second_flavor_is_its_own_is_served_before_who_borrows() -> None:
    """`mine` borrows in the first flavor and has all it asks for in the second, lent to `lent`."""
    borrows = {"a": {"gpus": Quota(0)}, "h": {"gpus": Quota(0)}}
    u = Queue("u", "root", quota={"a": {"gpus": Quota(0)}, "h": {"gpus": Quota(8)}})
    u.reclaim, u.discipline = Victims.ANY, Holding.SKIP
    v = Queue("v", "root", quota={"a": {"gpus": Quota(8)}, "h": {"gpus": Quota(0)}})
    w = Queue("w", "root", quota=borrows, reclaim=Victims.ANY)
    w.borrow_within = Victims.LOWER_PRIORITY
    nodes = [*whole_nodes(1, 8, "a"), *whole_nodes(1, 8, "h")]
    jobs = [
        Asks("theirs", "v", 0, 100, 1, 8, model="a"),
        Asks("lent", "v", 1, 100, 1, 8, model="h"),
        Asks("other", "w", 2, 100, 1, 8, priority=1, model="h"),
        Asks("mine", "u", 2, 100, 1, 8),
    ]
    world = world_of(nodes, jobs, u, v, w)
    assert starts(world, "mine") == 2
    assert len(Played(world).run().evictions) == 1
