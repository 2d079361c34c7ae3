"""Past use in random worlds: counted again by hand, undone by trials, and blind to victims."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import log

import pytest

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Preempt
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    Considered,
    GangCancelled,
    GangInterrupted,
    ReservationReleased,
    UseSoFar,
)
from scheduler.core.pastuse import PastUse
from scheduler.core.queues import Serve, Sharing
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import ends_us, to_us
from scheduler.journal.lines import decode_item, encode
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from tests.scheduler.policies.test_preempting import with_words
from tests.scheduler.policies.test_queued import random_event, random_queues, two_models

POLICY = catalog.policy(PolicySpec())
SEEDS = range(8)
STEP_S = 100.0  #: from one event to the next
HALF_LIFE_S = 2000.0
PAST = {
    "k": Sharing(Serve.SHARE, HALF_LIFE_S, 2.0),
    "usage": Sharing(Serve.USAGE, HALF_LIFE_S),
    "fair-tree": Sharing(Serve.FAIR_TREE, HALF_LIFE_S),
}
ORDERS = {
    "share": Sharing(Serve.SHARE),
    "age": Sharing(age_s=500.0, age_priority=9),
    "usage and age": Sharing(Serve.USAGE, HALF_LIFE_S, age_s=500.0, age_priority=9),
    **PAST,
}


def world(seed: int, sharing: Sharing) -> tuple[random.Random, ClusterState]:
    draw = random.Random(seed)
    file = replace(with_words(draw, random_queues(draw)), sharing=sharing)
    return draw, ClusterState(two_models(), POLICY.order, file)


def happen(draw: random.Random, state: ClusterState, at: int) -> None:
    """Let something happen, and some of those leave who were told to."""
    assert state.book is not None
    random_event(draw, state, state.book.file, at)
    for name in list(state.reservations):
        apply(state, ReservationReleased(name))
    for member in [m for m in state.gangs.values() if m.leaving and draw.random() < 0.3]:
        apply(state, GangInterrupted(member.gang.name))


def drive(state: ClusterState, now_s: float) -> list[Admit | Preempt]:
    """Run a pass to its end and return who starts, and who is evicted."""
    now_us = to_us(now_s)
    made: list[Admit | Preempt] = []
    while True:
        found = decide(state, POLICY, now_us)
        assert decide(state, POLICY, now_us) == found
        for one in found:
            if isinstance(one, Admit):
                end_us = ends_us(now_us, state.gangs[one.gang].gang.walltime_us)
                apply(state, Admitted(one.gang, one.placement, now_us, end_us))
                made.append(one)
            elif isinstance(one, Preempt):
                apply(state, CapacityClaimed(one.gang, one.placement, one.victims))
                made.append(one)
            else:
                apply(state, one)  # type: ignore[arg-type]
                if isinstance(one, Considered) and state.until_us > now_us:
                    assert decode_item("Considered", json.loads(encode(0.0, one))["v"]) == one
                    return made


def counted(past: PastUse | None) -> object:
    """Return all that the counters hold, but what is worked out once for a pass."""
    assert past is not None
    return (
        [(dict(one.consumed), dict(one.penalty)) for one in past._smoothed],
        [one.amount_s for one in past._billed],
        [one.amount_us for one in past._decayed],
        past._cluster.amount_us,
        list(past._running),
        (past._gpus, past._now_us, past._sampled_us, list(past._started)),
    )


def test_to_decide_changes_nothing() -> None:
    """`drive` asks twice. In this world a head that held others back leaves in the pass."""
    draw, state = world(327, Sharing())
    for at in range(200):
        happen(draw, state, at)
        drive(state, float(at))


def one_head_at_a_time(seed: int, sharing: Sharing) -> list[Admit | Preempt]:
    """Return what is decided while no more than one gang waits, so that no order counts."""
    draw, state = world(seed, sharing)
    made = []
    for at in range(150):
        happen(draw, state, at)
        waiting = sorted(state.queue.in_order(), key=lambda member: member.gang.ordinal)
        for member in waiting[:-1]:
            apply(state, GangCancelled(member.gang.name))
        made += drive(state, at * STEP_S)
        validate(state)
    return made


@pytest.mark.parametrize("word", list(ORDERS))
def test_whom_a_gang_evicts_depends_on_no_order(word: str) -> None:
    evictions = 0
    for seed in SEEDS:
        expected = one_head_at_a_time(seed, Sharing())
        assert one_head_at_a_time(seed, ORDERS[word]) == expected
        evictions += sum(isinstance(one, Preempt) for one in expected)
    assert evictions > 10


@pytest.mark.parametrize("word", list(PAST))
def test_trials_leave_no_trace_in_past_use(word: str) -> None:
    for seed in SEEDS:
        draw, state = world(seed, PAST[word])
        for at in range(60):
            happen(draw, state, at)
            if at % 3 == 0:
                past, before = state.past, counted(state.past)
                with state.trial():
                    if at % 2:
                        apply(state, UseSoFar(to_us(at * STEP_S), 0, 8, 1.0, (), ()))
                        assert counted(past) == before
                    happen(draw, state, at + 1000)
                    drive(state, at * STEP_S)
                    with state.trial():
                        happen(draw, state, at + 2000)
                        drive(state, (at + 9) * STEP_S)
                assert state.past is past and counted(past) == before
            drive(state, at * STEP_S)


def test_use_decays_by_its_own_age() -> None:
    """What each queue ran between passes is added up at the end, moment by moment."""
    half_life_us = to_us(HALF_LIFE_S)

    def left(of_us: int, end_us: int) -> float:
        return float(0.5 ** ((end_us - of_us) / half_life_us))

    for seed in SEEDS:
        draw, state = world(seed, PAST["k"])
        assert state.book is not None and state.past is not None
        tree = state.book.tree
        cells = [cell for (_, name), cell in tree.cells.items() if name == "gpus"]
        ran = []
        for at in range(100):
            happen(draw, state, at)
            drive(state, at * STEP_S)
            gpus = [sum(tree.usage[queue][c] for c in cells) for queue in range(tree.num_queues)]
            ran.append((to_us(at * STEP_S), gpus))
        end_us = to_us(100 * STEP_S)
        expected = [0.0] * tree.num_queues
        for (from_us, gpus), (to, _) in zip(ran, [*ran[1:], (end_us, [])], strict=True):
            for queue, running in enumerate(gpus):
                each_us = (left(to, end_us) - left(from_us, end_us)) * half_life_us / log(2.0)
                expected[queue] += running * each_us
        found = [one.amount_us for one in state.past.as_of(end_us)._decayed]
        assert found == pytest.approx(expected)
