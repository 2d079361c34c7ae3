"""EASY keeps what it promises the head, and strict order lets nobody overtake."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Reserve
from scheduler.core.events import GangFinished, GangResized
from scheduler.core.model import Gang, PodShape, Role
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_s
from scheduler.policies import catalog
from scheduler.policies.policy import Policy
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import gang, let_pass, nodes, submit

NUM_NODES = 3


class Promise(NamedTuple):
    """What one pass said of the head, and the earliest start that the walltimes allow."""

    gang: str
    start_s: float
    possible_s: float


class Schedule(NamedTuple):
    """What became of some gangs."""

    start_s: dict[str, float]
    promises: list[Promise]
    kept: list[Promise]  #: after each pass: what was promised, beside those that it started


@st.composite
def workloads(draw: st.DrawFn) -> list[tuple[Gang, float]]:
    """Draw gangs that crowd the cluster, each with a run time of at most its walltime."""
    made = []
    time_s = 0
    for i in range(draw(st.integers(4, 20))):
        time_s += draw(st.integers(0, 2))
        gpus = draw(st.sampled_from([1, 2, 4, 8, 8]))
        count = draw(st.integers(1, NUM_NODES * (8 // gpus)))
        walltime_s = draw(st.integers(1, 15))
        lasts_s = draw(st.integers(1, walltime_s))
        made.append((gang(f"g{i:02}", count, gpus, float(time_s), float(walltime_s)), lasts_s))
    return made


def crowds() -> Iterator[list[tuple[Gang, float]]]:
    """Yield every three gangs, of few sizes, that come behind a head for which one node is in use.

    Rare chances, such as one that fills one of two nodes of another, are among them.
    """
    kinds = list(product([1, 2, 4], [2, 3], [15.0, 500.0]))
    for late in product(kinds, repeat=3):
        yield [
            (gang("busy", 1, 8, 0.0, 20.0), 20.0),
            (gang("head", NUM_NODES, 8, 1.0, 10.0), 10.0),
            *(
                (gang(f"late{i}", count, gpus, 1.0, walltime_s), walltime_s)
                for i, (count, gpus, walltime_s) in enumerate(late)
            ),
        ]


def earliest_s(state: ClusterState, running: dict[str, float], name: str, now_s: float) -> float:
    """Return when `name` fits if all run to their walltimes, counted node by node."""
    wanted = state.gangs[name].gang.roles[0]
    free = [8] * NUM_NODES
    held = {other: state.gangs[other] for other in running}
    for time_s in sorted({now_s, *(due_s for due_s in running.values())}):
        free = [8] * NUM_NODES
        for other, member in held.items():
            if running[other] > time_s:
                for role, lo, hi, pods in member.held:
                    for node in range(lo, hi):
                        free[node] -= pods * member.gang.roles[role].pod.gpus
        if sum(amount // wanted.pod.gpus for amount in free) >= wanted.count:
            return time_s
    return inf


def schedule(work: list[tuple[Gang, float]], policy: Policy) -> Schedule:
    """Let the gangs come, run and end, with a pass at each instant."""
    state = ClusterState(nodes(NUM_NODES), policy.order)
    lasts_s = {each.name: seconds for each, seconds in work}
    to_come = [each for each, _ in work]
    start_s: dict[str, float] = {}
    due_s: dict[str, float] = {}
    running: dict[str, float] = {}
    promises: list[Promise] = []
    kept: list[Promise] = []
    while to_come or running:
        now_s = min(
            [due_s[name] for name in running] + [to_s(each.submit_us) for each in to_come[:1]]
        )
        for name in [name for name in running if due_s[name] <= now_s]:
            apply(state, GangFinished(name))
            del running[name]
        while to_come and to_s(to_come[0].submit_us) <= now_s:
            submit(state, to_come.pop(0))
        made = let_pass(state, policy, now_s)
        # The head's promise was made before those admitted behind it in the same decision.
        at = next((i for i, each in enumerate(made) if isinstance(each, Reserve)), len(made))
        for i, each in enumerate(made):
            if i == at and isinstance(each, Reserve):
                possible_s = earliest_s(state, dict(running), each.gang, now_s)
                promises.append(Promise(each.gang, to_s(each.start_us), possible_s))
            if isinstance(each, Admit):
                start_s[each.gang] = now_s
                due_s[each.gang] = now_s + lasts_s[each.gang]
                running[each.gang] = now_s + state.gangs[each.gang].gang.walltime_us / 1e6
        for name, promise in state.reservations.items():
            if promise.valid:
                possible_s = earliest_s(state, running, name, now_s)
                kept.append(Promise(name, to_s(promise.start_us), possible_s))
        validate(state)
    return Schedule(start_s, promises, kept)


def check_promises(work: list[tuple[Gang, float]]) -> None:
    found = schedule(work, catalog.policy(PolicySpec(discipline="easy")))
    assert found.start_s.keys() == {each.name for each, _ in work}
    for promise in found.promises:
        assert promise.start_s == promise.possible_s, "not the earliest start"
        assert found.start_s[promise.gang] <= promise.start_s, "the head was delayed"
    for promise in found.kept:
        assert promise.possible_s <= promise.start_s, "what started keeps the head from its nodes"


@pytest.mark.slow
@given(work=workloads())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_easy_promises_the_earliest_start_and_keeps_it(work: list[tuple[Gang, float]]) -> None:
    check_promises(work)


@pytest.mark.slow
def test_three_that_may_start_at_once_break_no_promise() -> None:
    for work in crowds():
        check_promises(work)


@given(work=workloads(), order=st.sampled_from(["fifo", "sjf", "smallest"]))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_strict_order_lets_no_gang_overtake(work: list[tuple[Gang, float]], order: str) -> None:
    policy = catalog.policy(PolicySpec(order=order))
    start_s = schedule(work, policy).start_s
    for one, _ in work:
        for other, _ in work:
            if to_s(one.submit_us) <= start_s[other.name] and policy.order(one) < policy.order(
                other
            ):
                assert start_s[one.name] <= start_s[other.name], f"{other.name} overtook {one.name}"


@given(work=workloads())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_a_one_gpu_pod_never_waits_beside_a_free_gpu_when_skipping(
    work: list[tuple[Gang, float]],
) -> None:
    start_s = schedule(work, catalog.policy(PolicySpec(discipline="skip"))).start_s
    for now_s in sorted(set(start_s.values())):
        held = sum(
            each.gpus
            for each, lasts_s in work
            if start_s[each.name] <= now_s < start_s[each.name] + lasts_s
        )
        for each, _ in work:
            waits = to_s(each.submit_us) <= now_s < start_s[each.name]
            if waits and each.roles[0].pod == PodShape(1):
                assert each.gpus > 8 * NUM_NODES - held, f"{each.name} fits at {now_s} and waits"


@pytest.mark.parametrize("master", [False, True])
def test_the_end_of_the_ranks_that_run_is_no_help_to_those_that_are_missing(master: bool) -> None:
    """A running gang grows: what it misses starts once another ends, not once it ends itself."""
    policy = catalog.policy(PolicySpec("fifo", "easy"))
    state = ClusterState(nodes(NUM_NODES), policy.order)
    submit(state, gang("grows", 1, 8, 0.0, 10.0), gang("other", 2, 8, 1.0, 100.0))
    let_pass(state, policy)
    roles = (Role(2, PodShape(8)), *([Role(1, PodShape(4), name="master")] if master else []))
    apply(state, GangResized("grows", roles))
    promised = [d for d in let_pass(state, policy) if isinstance(d, Reserve)]
    assert [(one.gang, to_s(one.start_us)) for one in promised] == [("grows", 100.0)]
    validate(state)
