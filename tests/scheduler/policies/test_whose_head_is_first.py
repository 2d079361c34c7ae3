"""The words of a queues file that order the heads of queues: past use, Slurm's tree, and age."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.core.decisions import Preempt
from scheduler.core.events import GangFinished, GangSubmitted, QueuesChanged
from scheduler.core.model import Gang, PodShape, Role
from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Queue,
    Queues,
    Quota,
    Serve,
    Sharing,
    Victims,
)
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from tests.scheduler.core.driving import nodes
from tests.scheduler.policies.test_kept_quota import POLICY, starts
from tests.scheduler.policies.test_preempting import told

HOUR = 3600.0


def of(gpus: int) -> dict[str, dict[str, Quota]]:
    return {"all": {"gpus": Quota(gpus)}}


def submit(
    state: ClusterState, name: str, queue: str, gpus: int, at_s: float, priority: int = 0
) -> None:
    roles = (Role(gpus, PodShape(1)),)
    gang = Gang(name, roles, to_us(at_s), to_us(1e6), priority, queue, ordinal=len(state.gangs))
    apply(state, GangSubmitted(gang))


def cluster(
    sharing: Sharing, gpus: int = 8, discipline: Holding = Holding.STRICT, **cohort_of: str
) -> ClusterState:
    """Return queues with quota for all the GPUs, in cohorts of that name below one root."""
    below = [Cohort(name, "root") for name in dict.fromkeys(cohort_of.values()) if name != "root"]
    queues = tuple(
        Queue(name, above, quota=of(gpus), discipline=discipline)
        for name, above in cohort_of.items()
    )
    file = Queues((Flavor("all"),), (Cohort("root"), *below), queues, sharing=sharing)
    return ClusterState(nodes(gpus, 1), POLICY.order, file)


def runs(state: ClusterState, name: str, queue: str, from_s: float, to_s: float) -> None:
    """Let a gang of all the GPUs run for so long."""
    submit(state, name, queue, 8, from_s)
    assert starts(state, from_s) == [name]
    apply(state, GangFinished(name))
    assert starts(state, to_s) == []


def first_of(state: ClusterState, now_s: float, *queues: str) -> str:
    """Return which queue's gang starts first, of gangs that came in this order."""
    for number, queue in enumerate(queues):
        submit(state, f"{queue}-next", queue, 8, now_s + number)
    (first,) = starts(state, now_s + len(queues))
    return first.removesuffix("-next")


@pytest.mark.parametrize("word", [Serve.USAGE, Serve.FAIR_TREE])
@pytest.mark.parametrize(("waits_h", "first"), [(1.0, "b"), (2000.0, "a")])
def test_the_queue_that_used_less_of_late_comes_first(
    word: Serve, waits_h: float, first: str
) -> None:
    """Use decays to nothing, after which the older gang comes first, as it does by borrowing."""
    sharing = Sharing(word, half_life_s=HOUR)
    state = cluster(sharing, a="root", b="root")
    runs(state, "g", "a", 0.0, HOUR)
    assert first_of(state, HOUR * (1.0 + waits_h), "a", "b") == first


def test_by_borrowing_past_use_does_not_count() -> None:
    state = cluster(Sharing(), a="root", b="root")
    runs(state, "g", "a", 0.0, HOUR)
    assert first_of(state, 2 * HOUR, "a", "b") == "a"
    assert state.past is None


def test_a_start_counts_at_once() -> None:
    """Of gangs that come at one time the queues have their turns."""
    state = cluster(Sharing(Serve.USAGE), gpus=4, a="root", b="root")
    for queue in "ab":
        for number in range(3):
            submit(state, f"{queue}{number}", queue, 1, 0.0)
    assert starts(state, 0.0) == ["a0", "b0", "a1", "b1"]
    state = cluster(Sharing(), gpus=4, a="root", b="root")
    for queue in "ab":
        for number in range(3):
            submit(state, f"{queue}{number}", queue, 1, 0.0)
    assert starts(state, 0.0) == ["a0", "a1", "a2", "b0"]


def test_a_start_counts_at_once_after_a_time_without_passes() -> None:
    """The average is due for a new value, which knows of what ran before the pass alone."""
    state = cluster(Sharing(Serve.USAGE), gpus=4, a="root", b="root")
    assert starts(state, 0.0) == []
    for queue in "ab":
        for number in range(3):
            submit(state, f"{queue}{number}", queue, 1, HOUR)
    assert starts(state, HOUR) == ["a0", "b0", "a1", "b1"]


def test_a_start_counts_in_the_next_pass() -> None:
    state = cluster(Sharing(Serve.USAGE), gpus=4, a="root", b="root")
    assert starts(state, 0.0) == []
    submit(state, "a0", "a", 1, HOUR)
    assert starts(state, HOUR) == ["a0"]
    for queue in "ab":
        submit(state, f"{queue}1", queue, 3, HOUR + 1.0)
    assert starts(state, HOUR + 1.0) == ["b1"]


def test_by_the_fair_tree_a_long_run_counts_though_nothing_else_happened() -> None:
    """a ran for ten half-lives and ended a minute ago, and b ran for that minute."""
    state = cluster(Sharing(Serve.FAIR_TREE, half_life_s=HOUR), a="root", b="root")
    runs(state, "g", "a", 0.0, 10 * HOUR)
    runs(state, "h", "b", 10 * HOUR, 10 * HOUR + 60.0)
    assert first_of(state, 10 * HOUR + 60.0, "a", "b") == "b"


@pytest.mark.parametrize(("word", "first"), [(Serve.USAGE, "y"), (Serve.FAIR_TREE, "z")])
def test_by_the_fair_tree_what_siblings_used_counts(word: Serve, first: str) -> None:
    """x and y are of one account, and x used all; neither y nor z used anything."""
    state = cluster(Sharing(word, half_life_s=HOUR), x="one", y="one", z="two")
    runs(state, "g", "x", 0.0, HOUR)
    assert first_of(state, HOUR, "x", "y", "z") == first


@pytest.mark.parametrize(
    ("word", "reclaim", "first"),
    [
        (Serve.USAGE, Victims.NEVER, "a"),
        (Serve.FAIR_TREE, Victims.NEVER, "b"),
        (Serve.FAIR_TREE, Victims.ANY, "a"),
    ],
)
def test_by_the_fair_tree_nobody_is_first_for_quota_that_it_cannot_take_back(
    word: Serve, reclaim: Victims, first: str
) -> None:
    """a used all of late, and its gang is within its quota; b has none, as accounts of Slurm."""
    queues = (Queue("a", "root", quota=of(8), reclaim=reclaim), Queue("b", "root", quota=of(0)))
    sharing = Sharing(word, half_life_s=HOUR)
    file = Queues((Flavor("all"),), (Cohort("root"),), queues, sharing=sharing)
    state = ClusterState(nodes(8, 1), POLICY.order, file)
    runs(state, "g", "a", 0.0, HOUR)
    assert first_of(state, HOUR, "a", "b") == first


@pytest.mark.parametrize(("k", "first"), [(0.0, "a"), (1.0, "b")])
def test_past_use_changes_the_weights_of_shares(k: float, first: str) -> None:
    """a and b borrow as much of c, and a used more of late."""
    queues = [Queue("a", "root", quota=of(2)), Queue("b", "root", quota=of(2))]
    queues.append(Queue("c", "root", quota=of(8)))
    file = Queues((Flavor("all"),), (Cohort("root"),), tuple(queues))
    sharing = Sharing(Serve.SHARE, half_life_s=HOUR, k=k)
    state = ClusterState(nodes(8, 1), POLICY.order, replace(file, sharing=sharing))
    runs(state, "g", "a", 0.0, HOUR)
    assert first_of(state, HOUR + 1.0, "a", "b") == first


@pytest.mark.parametrize(("age_priority", "first"), [(0, "b"), (4, "b"), (6, "a")])
def test_a_head_gains_priority_while_it_waits_up_to_a_bound(age_priority: int, first: str) -> None:
    """a has waited for ten times `age_s`, and b has 5 more priority."""
    sharing = Sharing(age_s=HOUR, age_priority=age_priority)
    state = cluster(sharing, a="root", b="root")
    submit(state, "g", "a", 8, 0.0)
    assert starts(state, 0.0) == ["g"]
    submit(state, "a-next", "a", 8, 0.0)
    submit(state, "b-next", "b", 8, 10 * HOUR, priority=5)
    apply(state, GangFinished("g"))
    assert starts(state, 10 * HOUR) == [f"{first}-next"]


@pytest.mark.parametrize("discipline", [Holding.STRICT, Holding.EASY])
def test_heads_are_looked_at_again_though_nothing_happens(discipline: Holding) -> None:
    """What a waits adds no more after 100 s, and from 120 s on b has more: its gang may start."""
    sharing = Sharing(age_s=100.0, age_priority=10)
    state = cluster(sharing, a="root", b="root", c="root", discipline=discipline)
    submit(state, "g", "c", 4, 0.0)
    assert starts(state, 0.0) == ["g"]
    submit(state, "a-next", "a", 8, 0.0)
    submit(state, "b-next", "b", 4, 50.0, priority=3)
    assert starts(state, 50.0) == []
    assert state.until_us == to_us(350.0)
    assert starts(state, 350.0) == ["b-next"]
    state = cluster(Sharing(), a="root", b="root", c="root", discipline=discipline)
    submit(state, "g", "c", 8, 0.0)
    submit(state, "a-next", "a", 8, 0.0)
    submit(state, "b-next", "b", 4, 50.0)
    assert starts(state, 50.0) == ["g"]
    assert state.until_us >= to_us(1e6)


@pytest.mark.parametrize("word", list(Serve))
def test_past_use_and_age_neither_make_nor_protect_victims(word: Serve) -> None:
    """b takes back what a borrows: the younger of two equals goes, whatever a or b used."""
    quota = of(4)
    a = Queue("a", "root", quota=quota)
    b = Queue("b", "root", quota=quota, reclaim=Victims.ANY)
    file = Queues((Flavor("all"),), (Cohort("root"),), (a, b))
    sharing = Sharing(word, half_life_s=HOUR, age_s=1.0, age_priority=99)
    for used in "ab":
        state = ClusterState(nodes(8, 1), POLICY.order, replace(file, sharing=sharing))
        runs(state, "g", used, 0.0, HOUR)
        for at, name in enumerate(("old", "young")):
            submit(state, name, "a", 4, HOUR + at)
            told(state, HOUR + at)
        submit(state, "back", "b", 4, 2 * HOUR)
        (made,) = told(state, 2 * HOUR)
        assert isinstance(made, Preempt) and made.victims == ("young",)


def test_new_words_keep_what_was_counted() -> None:
    """A quota is changed; then the words ask for something else, and that begins at nothing."""
    sharing = Sharing(Serve.USAGE, half_life_s=HOUR)
    state = cluster(sharing, a="root", b="root")
    runs(state, "g", "a", 0.0, HOUR)
    assert state.book is not None
    file = state.book.file
    b, a = replace(file.queues[1], quota=of(9)), file.queues[0]
    apply(state, QueuesChanged(replace(file, queues=(b, a))))
    with state.trial():
        assert first_of(state, HOUR, "a", "b") == "b"
    apply(state, QueuesChanged(replace(file, sharing=Sharing(Serve.FAIR_TREE))))
    assert first_of(state, HOUR, "a", "b") == "a"


@pytest.mark.parametrize("word", [Serve.USAGE, Serve.FAIR_TREE])
def test_a_trial_leaves_no_trace_in_past_use(word: Serve) -> None:
    state = cluster(Sharing(word, half_life_s=HOUR), a="root", b="root")
    assert state.past is not None and state.book is not None
    tree, before = state.book.tree, state.past
    was = [before.standing(tree, at) for at in (0, 1)]
    with state.trial():
        runs(state, "g", "a", 0.0, HOUR)
        assert [state.past.standing(tree, at) for at in (0, 1)] != was
    assert state.past is before
    assert [before.standing(tree, at) for at in (0, 1)] == was
