"""Who is evicted on random trees and by hand: proven before, claimed after, and never in turn."""

from __future__ import annotations

import random

import pandas as pd
import pytest

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Decision, PendingReason, Preempt
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    ClaimDropped,
    Considered,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangSubmitted,
    NodeCordoned,
    NodeLost,
    QueuesChanged,
    ReservationReleased,
)
from scheduler.core.model import Gang, Phase, PodShape, Role
from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota, Victims, checked
from scheduler.core.sentences import why
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import ends_us, to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.explain import explain
from scheduler.policies.preempting import MOST_LOST_CLAIMS
from scheduler.policies.spec import PolicySpec
from sim import run
from sim.schema.config import Faults
from sim.schema.costs import Costs, Quantity
from tests.scheduler.core.driving import nodes
from tests.scheduler.policies.test_queued import random_event, random_queues, two_models

POLICY = catalog.policy(PolicySpec())
SEEDS = range(20)
WITHIN = [Victims.NEVER, Victims.LOWER_PRIORITY] + 2 * [Victims.LOWER_OR_NEWER_EQUAL_PRIORITY]
RECLAIM = [Victims.NEVER, Victims.LOWER_PRIORITY] + 3 * [Victims.ANY]


def with_words(draw: random.Random, file: Queues) -> Queues:
    """Let the queues evict as it comes."""
    for queue in file.queues:
        queue.within, queue.reclaim = draw.choice(WITHIN), draw.choice(RECLAIM)
        if queue.reclaim is not Victims.NEVER:
            queue.borrow_within = draw.choice([Victims.NEVER, Victims.LOWER_PRIORITY])
        queue.min_runtime_s = draw.choice([0.0, 0.0, 3.0])
    return checked(file, "queues.toml")


def check(state: ClusterState, made: Preempt) -> None:
    """Check that the gang starts once its victims left, and who they are."""
    assert state.book is not None
    book, tree = state.book, state.book.tree
    gang = state.gangs[made.gang]
    left: dict[int, dict[int, int]] = {}  # by queue and cell, the most that one of them holds
    stayed = [name for name in made.victims if not state.gangs[name].leaving]
    with state.trial():
        apply(state, CapacityClaimed(made.gang, made.placement, made.victims))
        for name in made.victims:
            member = state.gangs[name]
            assert name not in state.gave_way.get(made.gang, ())
            if member.queue != gang.queue and name in stayed:
                for cell, amount in book.amounts_of(member.gang.roles, member.held):
                    most = left.setdefault(member.queue, {})
                    most[cell] = max(amount, most.get(cell, 0))
            apply(state, GangInterrupted(name))
            validate(state)
        claim = state.claims[made.gang]
        assert claim.is_met, f"{made.gang} waits for {claim.rest} and {claim.victims}"
        placement = claim.placement
        while made.gang in state.claims:  # others may have waited for the same victims
            (starts,) = decide(state, POLICY, 0)
            assert isinstance(starts, Admit) and starts.gang in state.claims
            placement = starts.placement
            apply(state, Admitted(starts.gang, placement, 0, to_us(1e6)))
            validate(state)
        assert placement == made.placement
        for queue, most in left.items():
            over = [tree.usage[queue][c] + n - tree.subtree[queue][c] for c, n in most.items()]
            assert max(over) > 0, f"{tree.names[queue]} lost what is its own"
    validate(state)


def drive(state: ClusterState, now_s: float) -> list[Preempt]:
    """Run a pass to its end; whoever is to leave still holds its nodes then."""
    now_us = to_us(now_s)
    evictions = []
    for _ in range(500):
        for decision in decide(state, POLICY, now_us):
            if isinstance(decision, Admit):
                end_us = ends_us(now_us, state.gangs[decision.gang].gang.walltime_us)
                apply(state, Admitted(decision.gang, decision.placement, now_us, end_us))
            elif isinstance(decision, Preempt):
                check(state, decision)
                evictions.append(decision)
                apply(state, CapacityClaimed(decision.gang, decision.placement, decision.victims))
            else:
                apply(state, decision)  # type: ignore[arg-type]
                if isinstance(decision, Considered):
                    return evictions
    raise AssertionError("the pass does not end")


def play(seed: int) -> list[Preempt]:
    """Run a random world in which whoever is to leave does so sooner or later."""
    draw = random.Random(seed)
    file = with_words(draw, random_queues(draw))
    state = ClusterState(two_models(), POLICY.order, file)
    evictions = []
    for at in range(150):
        random_event(draw, state, file, at)
        for name in list(state.reservations):
            apply(state, ReservationReleased(name))
        validate(state)
        evictions += drive(state, float(at))
        validate(state)
        for member in [m for m in state.gangs.values() if m.leaving and draw.random() < 0.3]:
            apply(state, GangInterrupted(member.gang.name))
            validate(state)
    return evictions


def test_a_gang_starts_once_its_victims_have_left() -> None:
    assert sum(len(play(seed)) for seed in SEEDS) > 30


@pytest.mark.parametrize("seed", SEEDS)
def test_no_two_gangs_evict_each_other_in_turn(seed: int) -> None:
    """With equal priorities and quotas, and every word that evicts, each run comes to an end."""
    draw = random.Random(seed)
    queues = tuple(
        Queue(
            name,
            draw.choice(["left", "right"]),
            quota={"all": {"gpus": Quota(4)}},
            within=Victims.LOWER_OR_NEWER_EQUAL_PRIORITY,
            reclaim=Victims.ANY,
            borrow_within=Victims.LOWER_PRIORITY,
        )
        for name in "abcd"
    )
    file = Queues(
        (Flavor("all"),), (Cohort("root"), Cohort("left", "root"), Cohort("right", "root")), queues
    )
    num = 40
    jobs = pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(num)],
            "queue": [draw.choice("abcd") for _ in range(num)],
            "submit_s": sorted(draw.uniform(0.0, 200.0) for _ in range(num)),
            "duration_s": [draw.uniform(5.0, 60.0) for _ in range(num)],
            "num_pods": [draw.choice([1, 2, 4, 6]) for _ in range(num)],
            "gpus_per_pod": 1,
        }
    )
    costs = Costs(stop_s=Quantity(p50=draw.choice([0.0, 10.0])), recreate_s=Quantity(p50=2.0))
    result = run(
        jobs,
        nodes=4,
        gpus_per_node=4,
        queues=file,
        costs=draw.choice([None, costs]),
        faults=Faults(restart_overhead_s=0.0),
        audit=True,
    )
    assert (result.jobs["outcome"] == "completed").all()
    assert (result.attempts["outcome"] == "preempted").sum() <= num * num


# -- claims by hand ---------------------------------------------------------------------------


def two(**of_a: object) -> Queues:
    """Return queue a, which may reclaim, with all 8 GPUs, and b, which borrows them."""
    a = Queue("a", "c", quota={"all": {"gpus": Quota(8)}}, reclaim=Victims.ANY, **of_a)  # type: ignore[arg-type]
    b = Queue("b", "c", quota={"all": {"gpus": Quota(0)}})
    return Queues((Flavor("all"),), (Cohort("c"),), (a, b))


def submit(
    state: ClusterState, name: str, queue: str, count: int, gpus: int = 1, **facts: bool
) -> None:
    roles, ordinal = (Role(count, PodShape(gpus)),), len(state.gangs)
    gang = Gang(name, roles, to_us(ordinal), queue=queue, ordinal=ordinal, **facts)
    apply(state, GangSubmitted(gang))


def told(state: ClusterState, now_s: float = 0.0) -> list[Decision]:
    """Run a pass to its end and return its decisions that change something."""
    found: list[Decision] = []
    while True:
        for decision in decide(state, POLICY, to_us(now_s)):
            if isinstance(decision, Admit):
                apply(state, Admitted(decision.gang, decision.placement, to_us(now_s), to_us(1e6)))
                found.append(decision)
            elif isinstance(decision, Preempt):
                apply(state, CapacityClaimed(decision.gang, decision.placement, decision.victims))
                found.append(decision)
            else:
                apply(state, decision)  # type: ignore[arg-type]
            validate(state)
            if isinstance(decision, Considered):
                return found


def test_a_gang_whose_class_never_preempts_evicts_nobody() -> None:
    """Its queue may reclaim, and the next gang of the queue does."""
    state = ClusterState(nodes(2, 4), POLICY.order, two(discipline=Holding.SKIP))
    submit(state, "x", "b", 2, 4)
    told(state)
    submit(state, "p", "a", 2, 4, evicts=False)
    assert told(state, 5.0) == []
    assert explain(state, "p").reason is PendingReason.QUOTA
    apply(state, GangFinished("p"))
    submit(state, "q", "a", 2, 4)
    (made,) = told(state, 6.0)
    assert isinstance(made, Preempt) and made.victims == ("x",)


def test_a_gang_that_cannot_come_back_is_not_evicted() -> None:
    """Others leave in its place, or nobody where they do not suffice."""
    state = ClusterState(nodes(2, 4), POLICY.order, two())
    for name in "xy":  # of which the younger would leave first
        submit(state, name, "b", 1, 4, evictable=name == "x")
    told(state)
    submit(state, "p", "a", 1, 4)
    (made,) = told(state, 5.0)
    assert isinstance(made, Preempt) and made.victims == ("x",)
    apply(state, GangInterrupted("x"))
    told(state, 6.0)
    submit(state, "q", "a", 1, 4)
    assert told(state, 7.0) == []


def claiming(num_nodes: int = 2) -> ClusterState:
    """Return x and y of b on nodes of 4, of which p of a, with 8 GPUs, has both leave."""
    state = ClusterState(nodes(num_nodes, 4), POLICY.order, two())
    for name in "xy":
        submit(state, name, "b", 1, 4)
    told(state)
    submit(state, "p", "a", 2, 4)
    (made,) = told(state, 5.0)
    assert isinstance(made, Preempt) and set(made.victims) == {"x", "y"}
    return state


def test_what_a_victim_left_first_is_kept_until_the_last_has_left() -> None:
    """Neither x, which queues again, nor t of the gang's own queue starts on it."""
    state = claiming()
    apply(state, GangInterrupted("x"))
    submit(state, "t", "a", 1)
    assert told(state, 6.0) == []
    assert state.gangs["p"].phase is Phase.PREEMPTING
    apply(state, GangInterrupted("y"))
    starts = told(state, 7.0)
    assert isinstance(starts[0], Admit) and starts[0].gang == "p"
    assert not state.claims


def test_people_read_who_is_leaving() -> None:
    state = claiming()
    said = explain(state, "p")
    assert said.reason is PendingReason.PREEMPTING
    assert why(said, 2) == "needs 8 GPUs for 2 pods, which are kept for it; x, y are leaving"
    apply(state, GangFinished("x"))
    assert why(explain(state, "p"), 2).endswith("; y is leaving")


@pytest.mark.parametrize("event", [NodeLost, NodeCordoned])
def test_a_claim_on_a_node_that_closes_is_dropped(event: type[NodeLost | NodeCordoned]) -> None:
    """The third node is free by then, so that only one of the two has to leave, and it does."""
    state = claiming()
    apply(state, event(state.capacity.nodes[0].name))
    validate(state)
    assert not state.claims and state.gangs["p"].phase is Phase.WAITING
    assert state.gangs["p"].lost_claims == 1
    assert told(state, 6.0) == []  # one node is too few for it


def test_a_gang_whose_victims_never_leave_gives_up() -> None:
    state = claiming()
    for times in range(1, MOST_LOST_CLAIMS + 1):
        assert "p" in state.claims
        apply(state, ClaimDropped("p"))
        assert state.gangs["p"].lost_claims == times
        told(state, 5.0 + times)
    assert not state.claims and state.gangs["p"].phase is Phase.WAITING
    with pytest.raises(ValueError, match="gang 'p' has no claim to drop; it is waiting"):
        apply(state, ClaimDropped("p"))


def test_a_gang_that_is_cancelled_leaves_no_claim() -> None:
    state = claiming()
    apply(state, GangInterrupted("x"))
    apply(state, GangCancelled("p"))
    validate(state)
    assert [each.gang for each in told(state, 6.0) if isinstance(each, Admit)] == ["x"]


def test_new_words_drop_claims() -> None:
    state = claiming()
    apply(state, QueuesChanged(two()))
    validate(state)
    assert not state.claims and state.gangs["p"].phase is Phase.WAITING
    assert not state.gangs["p"].lost_claims, "an edit says nothing about the gang"


def test_new_words_that_are_refused_change_nothing() -> None:
    state = claiming()
    before = state.claims["p"].copied()
    words = two()
    words.queues = tuple(queue for queue in words.queues if queue.name != "a")
    with pytest.raises(ValueError, match="queue 'a' is unknown"):
        apply(state, QueuesChanged(words))
    validate(state)
    after = state.claims["p"]
    assert (after.rest, after.taken, after.victims) == (before.rest, before.taken, before.victims)


def test_a_trial_undoes_claims() -> None:
    state = claiming()
    before = state.claims["p"].copied()
    with state.trial():
        apply(state, GangInterrupted("x"))
        apply(state, NodeLost(state.capacity.nodes[1].name))
        assert not state.claims
        validate(state)
    validate(state)
    after = state.claims["p"]
    assert (after.rest, after.taken, after.victims) == (before.rest, before.taken, before.victims)
    assert state.gangs["x"].leaving and not state.gangs["p"].lost_claims


def test_nodes_are_claimed_only_for_a_gang_that_waits() -> None:
    state = claiming()
    with pytest.raises(ValueError, match="gang 'x' is running: nodes are claimed for a gang that"):
        apply(state, CapacityClaimed("x", (), ()))
