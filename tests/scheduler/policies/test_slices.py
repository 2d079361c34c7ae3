"""A pass that searches for victims for long is cut, and decides the same in the end."""

from __future__ import annotations

import random

import pytest

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Decision, Preempt
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    ClusterEvent,
    Considered,
    GangFinished,
    GangInterrupted,
    GangSubmitted,
)
from scheduler.core.model import Gang, PodShape, Role
from scheduler.core.queues import Flavor, Queue, Queues, Quota, Victims
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.policies import catalog, queued
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import nodes
from tests.scheduler.policies.test_preempting import told, with_words
from tests.scheduler.policies.test_queued import random_gang, random_queues, two_models

POLICY = catalog.policy(PolicySpec())
NUM_QUEUES = 5


def submit(
    state: ClusterState, name: str, queue: str, priority: int, gpus: int, pods: int = 0
) -> None:
    roles = (Role(pods or gpus, PodShape(gpus if pods else 1)),)
    apply(state, GangSubmitted(Gang(name, roles, 0, to_us(100.0), priority, queue)))


def in_vain() -> ClusterState:
    """Return a head in each queue that may evict two gangs, which leave no whole node."""
    quota = {"all": {"gpus": Quota(8)}}
    names = [f"q{number}" for number in range(NUM_QUEUES)]
    queues = [Queue(name, quota=quota, within=Victims.LOWER_PRIORITY) for name in names]
    state = ClusterState(
        nodes(2 * NUM_QUEUES, 4), POLICY.order, Queues((Flavor("all"),), (), tuple(queues))
    )
    for name in names:
        for number in range(2):
            submit(state, f"low{number}-{name}", name, 0, 2)
            submit(state, f"equal{number}-{name}", name, 1, 2)
            assert len(told(state)) == 2
    for name in names:
        submit(state, f"head-{name}", name, 1, 4, pods=1)
    return state


def slices_of(state: ClusterState, now_us: int = 0) -> list[tuple[Decision | Considered, ...]]:
    """Run a pass to its end; return what its slices decided."""
    found = []
    while not found or found[-1][-1].until_us <= now_us:  # type: ignore[union-attr]
        found.append(decide(state, POLICY, now_us))
        assert len(found) < 100, "the pass does not end"
        for decision in found[-1]:
            apply(state, decision)  # type: ignore[arg-type]
    return found


def test_a_slice_ends_after_some_steps_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = slices_of(in_vain())
    assert len(whole) == 1
    monkeypatch.setattr(queued, "MOST_STEPS", 0)
    cut = slices_of(in_vain())
    assert len(cut) == NUM_QUEUES + 1
    for at, made in enumerate(cut[:-1]):
        (only,) = made
        assert isinstance(only, Considered)
        assert [name for name, _ in only.searched] == [f"head-q{n}" for n in range(at + 1)]
    assert cut[-1] == whole[0]


def test_anything_that_happens_between_slices_has_all_searched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queued, "MOST_STEPS", 0)
    state = in_vain()
    for _ in range(3):
        (only,) = decide(state, POLICY, 0)
        apply(state, only)  # type: ignore[arg-type]
    apply(state, GangFinished("equal0-q0"))
    assert not state.searched
    (made,) = decide(state, POLICY, 0)
    assert isinstance(made, Preempt) and (made.gang, made.victims) == ("head-q0", ("low0-q0",))


def happened(state: ClusterState, decision: Decision, now_us: int) -> list[ClusterEvent]:
    """Return what a driver reports whose victims leave at once."""
    if isinstance(decision, Admit):
        end_us = now_us + state.gangs[decision.gang].gang.walltime_us
        return [Admitted(decision.gang, decision.placement, now_us, end_us)]
    assert isinstance(decision, Preempt)
    leave = [name for name in decision.victims if not state.gangs[name].leaving]
    claimed = CapacityClaimed(decision.gang, decision.placement, decision.victims)
    return [claimed, *(GangInterrupted(name) for name in leave)]


def history(seed: int) -> list[tuple[int, str]]:
    """Return who started when, in a random world."""
    draw = random.Random(seed)
    file = with_words(draw, random_queues(draw))
    state = ClusterState(two_models(), POLICY.order, file)
    found = []
    for at in range(40):
        running = [name for name, member in state.gangs.items() if member.held]
        if draw.random() < 0.7 or not running:
            apply(state, GangSubmitted(random_gang(draw, at, file, float(at))))
        else:
            apply(state, GangFinished(draw.choice(running)))
        now_us, done = to_us(float(at)), False
        while not done:
            for decision in decide(state, POLICY, now_us):
                if isinstance(decision, Admit | Preempt):
                    for event in happened(state, decision, now_us):
                        apply(state, event)
                        found.append((at, str(event)))
                    continue
                apply(state, decision)  # type: ignore[arg-type]
                validate(state)
                done = isinstance(decision, Considered) and decision.until_us > now_us
    return found


def test_random_worlds_go_on_as_without_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [history(seed) for seed in range(15)]
    assert any("CapacityClaimed" in what for one in whole for _, what in one)
    monkeypatch.setattr(queued, "MOST_STEPS", 0)
    assert [history(seed) for seed in range(15)] == whole
