"""A policy whose decisions change with time alone: `Considered` says when to decide again."""

from __future__ import annotations

from math import inf

import pytest

from scheduler.core import ordering, placement
from scheduler.core.decisions import Decision
from scheduler.core.events import Considered
from scheduler.core.queueing import GangState
from scheduler.core.state import ClusterState
from scheduler.core.times import to_s, to_us
from scheduler.policies.decide import decide
from scheduler.policies.passes import Pass
from scheduler.policies.policy import Policy
from scheduler.policies.skip import skip
from tests.scheduler.core.driving import admitted, gang, let_pass, nodes, submit

HEAD_START_US = to_us(60.0)


def courteous(around: Pass, head: GangState) -> None:
    """Let others pass once the head has had a minute to itself."""
    free_us = head.gang.submit_us + HEAD_START_US
    if around.now_us < free_us:
        around.come_back(free_us)
    else:
        skip(around, head)


POLICY = Policy("courteous", ordering.fifo, placement.pack, courteous)


def crowded() -> ClusterState:
    """`head` does not fit beside `a`; `small`, behind it, does."""
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8, 0.0), gang("head", 2, 8, 1.0), gang("small", 1, 8, 2.0))
    return state


def until_s(decisions: list[Decision]) -> float:
    (considered,) = [one for one in decisions if isinstance(one, Considered)]
    return to_s(considered.until_us)


def test_a_pass_says_when_to_come_back_and_then_decides_anew() -> None:
    state = crowded()
    made = let_pass(state, POLICY, 2.0)
    assert admitted(made) == ["a"]
    assert until_s(made) == 61.0
    made = let_pass(state, POLICY, 30.0)  # somebody looked too early
    assert (admitted(made), until_s(made)) == ([], 61.0)
    made = let_pass(state, POLICY, 61.0)
    assert (admitted(made), until_s(made)) == (["small"], inf)


def test_the_earliest_of_several_times_counts() -> None:
    def two(around: Pass, head: GangState) -> None:
        for at_s in (50.0, 20.0, 30.0):
            around.come_back(to_us(at_s))

    made = let_pass(crowded(), Policy("two", ordering.fifo, placement.pack, two), 2.0)
    assert until_s(made) == 20.0


def test_coming_back_at_once_would_never_end() -> None:
    def restless(around: Pass, head: GangState) -> None:
        around.come_back(around.now_us)

    state = crowded()
    policy = Policy("restless", ordering.fifo, placement.pack, restless)
    with pytest.raises(ValueError, match=r"a pass at 2000000 us cannot come back at 2000000 us"):
        let_pass(state, policy, 2.0)
    with pytest.raises(ValueError, match="cannot come back"):
        decide(state, policy, to_us(2.0))
