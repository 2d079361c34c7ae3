"""What a decision costs, counted in function calls so that a busy machine changes nothing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import pytest

from scheduler.core.events import (
    Admitted,
    ForeignPodBound,
    ForeignPodGone,
    GangFinished,
    GangResized,
    GangSubmitted,
)
from scheduler.core.model import Gang, Node, PodShape, Role, Slice
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import gang, let_pass, nodes, submit, waits

DISCIPLINES = {
    "strict": catalog.policy(PolicySpec()),
    "skip": catalog.policy(PolicySpec(discipline="skip")),
    "easy": catalog.policy(PolicySpec(discipline="easy")),
}


def count_calls(act: Callable[[], object]) -> int:
    """Return how many Python and built-in functions `act` calls."""
    calls = 0

    def note(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    gc.disable()  # hypothesis is called at every collection, whenever that is
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


def count_lines(act: Callable[[], object]) -> int:
    """Return how many lines of Python `act` runs."""
    lines = 0

    def note(frame: object, event: str, arg: object) -> object:
        nonlocal lines
        lines += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)  # type: ignore[arg-type]
    try:
        act()
    finally:
        sys.settrace(before)
    return lines


def life_of_a_gang(num_nodes: int, placer: str) -> int:
    """Return the calls of submission, admission test and end of a gang of 16 pods of 8 GPUs."""
    policy = catalog.policy(PolicySpec(placement=placer))
    state = ClusterState(nodes(num_nodes))
    submit(state, gang("before", 3, 2))
    let_pass(state, policy)

    def live() -> None:
        submit(state, gang("g", 16, 8))
        let_pass(state, policy)
        apply(state, GangFinished("g"))

    live()
    return count_calls(live)


@pytest.mark.parametrize("placer", ["pack", "first-fit", "spread"])
def test_a_gang_costs_the_same_on_every_cluster(placer: str) -> None:
    assert life_of_a_gang(100, placer) == life_of_a_gang(5_000, placer)


def test_a_gang_costs_the_same_among_any_number_of_groups_of_nodes() -> None:
    def live_among(num_groups: int) -> int:
        policy = DISCIPLINES["strict"]
        state = ClusterState(Node(f"n{i:04}", PodShape(8), f"p{i:04}") for i in range(num_groups))

        def live(name: str) -> None:
            submit(state, gang(name, 3, 1))
            let_pass(state, policy)

        live("first")
        live("second")
        return count_calls(lambda: live("third"))

    assert live_among(20) == live_among(2_000)


def test_apply_costs_by_ranges_not_by_nodes() -> None:
    def take(num_nodes: int) -> int:
        state = ClusterState(nodes(num_nodes))
        submit(state, gang("g", num_nodes, 8))
        everything = (Slice(0, 0, num_nodes, 1),)

        def act() -> None:
            apply(state, Admitted("g", everything, 0, 1))
            apply(state, GangFinished("g"))

        return count_calls(act)

    assert take(50) == take(5_000)


def test_a_gang_grows_at_a_cost_that_does_not_follow_what_it_holds() -> None:
    def grow(num_pods: int) -> int:
        state = ClusterState(nodes(2 * num_pods))
        pod = PodShape(8)
        submit(state, Gang("g", (Role(num_pods, pod),)))
        apply(
            state,
            Admitted("g", tuple(Slice(0, 2 * i, 2 * i + 1, 1) for i in range(num_pods)), 0, 1),
        )
        return count_calls(lambda: apply(state, GangResized("g", (Role(num_pods + 1, pod),))))

    assert grow(10) == grow(1_000)


def blocked_pass(discipline: str, num_waiting: int) -> int:
    """Return the calls of a pass over a queue in which nothing fits, in five distinct shapes."""
    policy = DISCIPLINES[discipline]
    state = ClusterState(nodes(20))
    submit(state, gang("small", 1, 8, walltime_s=50.0), gang("large", 19, 8, walltime_s=100.0))
    let_pass(state, policy)
    for i in range(num_waiting):
        apply(state, GangSubmitted(gang(f"w{i:05}", 16 + i % 5, 8, 1.0, 200.0)))
    let_pass(state, policy, 1.0)
    apply(state, GangFinished("small"))  # capacity grew: all are looked at again
    return count_calls(lambda: decide(state, policy, to_us(2.0)))


@pytest.mark.parametrize("discipline", list(DISCIPLINES))
def test_a_blocked_queue_costs_by_its_shapes(discipline: str) -> None:
    short, long = blocked_pass(discipline, 20), blocked_pass(discipline, 4_000)
    assert long <= short


def test_a_pass_that_nothing_changed_costs_next_to_nothing() -> None:
    state = ClusterState(nodes(4))
    policy = DISCIPLINES["strict"]
    submit(state, gang("a", 4, 8), *(gang(f"b{i:03}", 1 + i % 4, 8, 1.0) for i in range(400)))
    let_pass(state, policy)
    assert count_calls(lambda: decide(state, policy, to_us(2.0))) < 20


@pytest.mark.parametrize("discipline", list(DISCIPLINES))
def test_naming_what_binds_costs_by_shapes_too(discipline: str) -> None:
    """Pods that ask for CPU, memory and places: nodes and gangs may be many, shapes are not."""

    def blocked(num_nodes: int, num_waiting: int) -> int:
        policy = DISCIPLINES[discipline]
        capacity = PodShape(8, 64_000, 1 << 39, 110)
        state = ClusterState([Node(f"n{i}", capacity) for i in range(num_nodes)])
        held = PodShape(4, 50_000, 1 << 30, 1)  # leaves four GPUs, and CPUs for one pod and a half
        for i in range(num_nodes):
            apply(state, ForeignPodBound(f"f{i}", f"n{i}", held))
        for i in range(num_waiting):
            role = Role(num_nodes * 3 // 2 + i % 5, PodShape(1, 8_000, 1 << 30, 1))
            apply(state, GangSubmitted(Gang(f"w{i:05}", (role,), to_us(1.0 + i), to_us(200.0))))
        let_pass(state, policy, 1.0)
        apply(state, ForeignPodGone("f0"))
        (wait,) = waits(decide(state, policy, to_us(2.0)))
        assert (wait.fit_pods, wait.apart) == (num_nodes + 7, "cpu")
        return count_calls(lambda: decide(state, policy, to_us(2.0)))

    assert blocked(40, 20) == blocked(40, 1_000) == blocked(400, 20)


def test_few_short_gangs_late_in_the_queue_are_found_without_walking_it() -> None:
    def lines_run(num_long: int) -> int:
        state = ClusterState(nodes(1))
        for i in range(num_long + 2):
            submit(state, gang(f"g{i:05}", 1, 8, float(i), 1000.0 if i < num_long else 10.0))
        state.queue.index_demands()
        (family,) = state.queue.families.values()
        demand = family.demands[1]
        assert demand.first_within(to_us(20.0), set()) is not None
        return count_lines(lambda: demand.first_within(to_us(20.0), set()))

    assert lines_run(4_000) <= lines_run(40)
