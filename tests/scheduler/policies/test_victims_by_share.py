"""Runs whose queues file says that queues lose gangs by their shares."""

from __future__ import annotations

import pytest

from scheduler.core.decisions import Admit, Preempt
from scheduler.core.events import GangInterrupted, GangSubmitted
from scheduler.core.model import Gang, PodShape, Role
from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, ShareRule, Sharing, Victims
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import nodes
from tests.scheduler.policies.test_preempting import told

POLICY = catalog.policy(PolicySpec())
BOTH = (ShareRule.FINAL, ShareRule.INITIAL)


def submit(state: ClusterState, name: str, queue: str, gpus: int) -> None:
    at_us = to_us(float(len(state.gangs)))
    roles = (Role(gpus, PodShape(1)),)
    apply(state, GangSubmitted(Gang(name, roles, at_us, to_us(100.0), queue=queue)))


def three(rules: tuple[ShareRule, ...], weight: float, sizes: list[int]) -> ClusterState:
    """Return A with 8 of the 12 GPUs that A, B and C have in equal parts; B asks for 6."""
    quota = {"all": {"gpus": Quota(4)}}
    queues = tuple(
        Queue(name, "all-of-us", weight if name == "B" else 1.0, quota, reclaim=Victims.ANY)
        for name in "ABC"
    )
    sharing = Sharing(victims=rules)
    file = Queues((Flavor("all"),), (Cohort("all-of-us"),), queues, sharing=sharing)
    state = ClusterState(nodes(12, 1), POLICY.order, file)
    for number, size in enumerate(sizes):
        submit(state, f"a{number}", "A", size)
        assert all(isinstance(made, Admit) for made in told(state, float(number)))
    submit(state, "b", "B", 6)
    return state


@pytest.mark.parametrize(
    ("rules", "weight", "sizes", "victims"),
    [
        ((), 1.0, [8], None),  # it would borrow, and nothing says that it may evict then
        (BOTH, 1.0, [8], {"a0"}),  # 166.7 is more than 0, and less than 333.3
        (BOTH[:1], 1.0, [8], None),
        (BOTH, 1.0, [2, 2, 2, 2], {"a3"}),  # 166.7 is no more than 166.7
        (BOTH, 0.0, [8], None),  # a queue of weight 0 borrows with an infinite share
        (BOTH, 0.4, [8], None),  # 416.7
    ],
)
def test_a_gang_that_borrows_evicts_one_of_a_queue_with_a_larger_share(
    rules: tuple[ShareRule, ...], weight: float, sizes: list[int], victims: set[str] | None
) -> None:
    """The example of Kueue's page on fair sharing, with its numbers."""
    made = told(three(rules, weight, sizes), 50.0)
    if victims is None:
        assert made == []
    else:
        assert isinstance(made[0], Preempt) and set(made[0].victims) == victims


def test_equal_shares_do_not_evict_each_other_in_turn() -> None:
    state = three(BOTH, 1.0, [2, 2, 2, 2])
    evicted = []
    for at in range(20):
        for made in told(state, 50.0 + at):
            if isinstance(made, Preempt):
                evicted += made.victims
                for name in made.victims:
                    apply(state, GangInterrupted(name))
    assert evicted == ["a3"]
    assert {name for name, member in state.gangs.items() if not member.held} == {"a3"}
