"""A gang that its queue's own quota holds takes it back though the head waits for more."""

from __future__ import annotations

import pytest

from scheduler.core.decisions import Admit, Preempt
from scheduler.core.events import Admitted, GangInterrupted, GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role
from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Victims
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from tests.scheduler.policies.test_kept_quota import of, starts
from tests.scheduler.policies.test_preempting import told

POLICY = catalog.policy(PolicySpec())


def submit(
    state: ClusterState,
    name: str,
    queue: str,
    pods: int,
    walltime_s: float = 100.0,
    priority: int = 0,
) -> None:
    roles = (Role(pods, PodShape(4)),)
    at_us = to_us(len(state.gangs) / 10)
    gang = Gang(name, roles, at_us, to_us(walltime_s), priority, queue, ordinal=len(state.gangs))
    apply(state, GangSubmitted(gang))


def lent(discipline: Holding, reclaim: Victims = Victims.ANY) -> ClusterState:
    """Return a0 on 4 of the 8 GPUs of a, and b on 12: 4 of them are borrowed of a."""
    a = Queue("a", "c", quota=of(8), reclaim=reclaim, discipline=discipline)
    b = Queue("b", "c", quota=of(8), discipline=discipline)
    file = Queues((Flavor("all"),), (Cohort("c"),), (a, b))
    here = [Node(f"n{number}", PodShape(4)) for number in range(4)]
    state = ClusterState(here, POLICY.order, file)
    submit(state, "a0", "a", 1, 50.0)
    for number in range(3):
        submit(state, f"b{number}", "b", 1)
    assert len(starts(state, 0.0)) == 4
    return state


@pytest.mark.parametrize("discipline", list(Holding))
def test_a_later_gang_reclaims_where_it_may_pass(discipline: Holding) -> None:
    """big would borrow, may evict nobody, and waits for a0; small is within the quota of a."""
    state = lent(discipline)
    submit(state, "big", "a", 2)
    submit(state, "small", "a", 1, 40.0)
    made = told(state, 5.0)
    if discipline is Holding.STRICT:
        assert made == []
        return
    (evicts,) = made
    assert isinstance(evicts, Preempt) and evicts.gang == "small" and len(evicts.victims) == 1


@pytest.mark.parametrize(("walltime_s", "evicts"), [(400.0, False), (40.0, True)])
def test_not_where_it_would_delay_the_promise(walltime_s: float, evicts: bool) -> None:
    """big is promised the nodes of a0 and b0 at 100; only b0 may be evicted, as b1 is of more."""
    a = Queue("a", "c", quota=of(8), reclaim=Victims.LOWER_PRIORITY, discipline=Holding.EASY)
    b = Queue("b", "c", quota=of(4))
    here = [Node(f"n{number}", PodShape(4)) for number in range(3)]
    state = ClusterState(here, POLICY.order, Queues((Flavor("all"),), (Cohort("c"),), (a, b)))
    submit(state, "a0", "a", 1, 50.0)
    submit(state, "b0", "b", 1, 100.0)
    submit(state, "b1", "b", 1, 1000.0, priority=1)
    assert len(starts(state, 0.0)) == 3
    submit(state, "big", "a", 2)
    assert starts(state, 1.0) == []
    assert state.reservations["big"].start_us == to_us(100.0)
    submit(state, "small", "a", 1, walltime_s, priority=1)
    made = told(state, 5.0)
    assert [one.victims for one in made if isinstance(one, Preempt)] == (
        [("b0",)] if evicts else []
    )


@pytest.mark.parametrize("discipline", [Holding.SKIP, Holding.EASY])
def test_a_flood_that_waits_changes_nothing(discipline: Holding) -> None:
    """More gangs of b wait, older than big: they borrow, so no promise to them is in the way."""
    state = lent(discipline)
    for number in range(3, 6):
        submit(state, f"b{number}", "b", 1)
    submit(state, "big", "a", 2)
    submit(state, "small", "a", 1, 10.0)
    (evicts,) = told(state, 5.0)
    assert isinstance(evicts, Preempt) and evicts.gang == "small"


@pytest.mark.parametrize("discipline", [Holding.SKIP, Holding.EASY])
def test_not_where_its_queue_may_not(discipline: Holding) -> None:
    state = lent(discipline, Victims.NEVER)
    submit(state, "big", "a", 2)
    submit(state, "small", "a", 1, 40.0)
    assert told(state, 5.0) == []


@pytest.mark.parametrize("discipline", [Holding.SKIP, Holding.EASY])
def test_it_starts_once_its_victim_left(discipline: Holding) -> None:
    state = lent(discipline)
    submit(state, "big", "a", 2)
    submit(state, "small", "a", 1, 40.0)
    (evicts,) = told(state, 5.0)
    assert isinstance(evicts, Preempt)
    apply(state, GangInterrupted(evicts.victims[0]))
    made = [one for one in decide(state, POLICY, to_us(6.0)) if isinstance(one, Admit)]
    assert [one.gang for one in made] == ["small"]
    apply(state, Admitted("small", made[0].placement, to_us(6.0), to_us(46.0)))
    assert told(state, 6.0) == []
