"""Why a gang waits, and the numbers that go with it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.decisions import (
    Explanation,
    Lack,
    PendingReason,
    Reserve,
    Shortage,
    Unmet,
    Wait,
)
from scheduler.core.events import (
    Admitted,
    CapacityReserved,
    ClusterEvent,
    ForeignPodBound,
    GangSubmitted,
    MemberAppeared,
    NodeAdded,
    NodeCordoned,
    NodeLost,
    NodeReturned,
)
from scheduler.core.model import Gang, Node, Phase, PodShape, Role, Selector, Slice
from scheduler.core.state import ClusterState, apply
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.explain import explain
from scheduler.policies.policy import Policy
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import (
    admitted,
    check_reasons,
    gang,
    let_pass,
    nodes,
    submit,
    waits,
)
from tests.scheduler.core.test_trial import POLICIES, Play

STRICT = catalog.policy(PolicySpec())
EASY = catalog.policy(PolicySpec(discipline="easy"))


def test_capacity() -> None:
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8), gang("b", 2, 8, submit_s=1.0))
    let_pass(state, STRICT)
    assert explain(state, "b") == Explanation(
        "b",
        PendingReason.CAPACITY,
        2,
        16,
        free_gpus=8,
        fit_pods=1,
        ahead=None,
        start_us=None,
        short=Shortage("gpus", asked=8, need=16, free=8, most=8),
    )


def test_fragmentation() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 2, 5), gang("b", 3, 2, submit_s=1.0))
    let_pass(state, STRICT)  # three GPUs are free on each node: six, but one pod of two on each
    assert explain(state, "b") == Explanation(
        "b",
        PendingReason.FRAGMENTATION,
        3,
        6,
        free_gpus=6,
        fit_pods=2,
        ahead=None,
        start_us=None,
        short=Shortage("gpus", asked=2, need=6, free=6, most=3),
    )


def test_behind_head() -> None:
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8), gang("b", 2, 8, 1.0), gang("c", 1, 8, 2.0))
    let_pass(state, STRICT)
    assert explain(state, "c") == Explanation(
        "c", PendingReason.BEHIND_HEAD, 1, 8, free_gpus=8, fit_pods=1, ahead="b", start_us=None
    )


@pytest.mark.parametrize(
    "event",
    [
        NodeCordoned("n2"),
        NodeLost("n2"),
        ForeignPodBound("pod", "n2", PodShape(1)),
        CapacityReserved("d", (Slice(0, 2, 3, 1),), 100),
        Admitted("d", (Slice(0, 2, 3, 1),), 0, 100),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_takes_nodes_away_is_a_reason_at_the_next_pass(event: ClusterEvent) -> None:
    """Nothing can start that could not before, but `c` no longer waits for its turn alone."""
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8), gang("b", 2, 8, 1.0), gang("c", 1, 8, 2.0), gang("d", 1, 8, 3.0))
    let_pass(state, STRICT)
    assert explain(state, "c").reason is PendingReason.BEHIND_HEAD
    apply(state, event)
    assert len(waits(let_pass(state, STRICT))) == 1
    assert explain(state, "c").reason is PendingReason.CAPACITY
    assert waits(let_pass(state, STRICT)) == []


@pytest.mark.parametrize("policy", [STRICT, *POLICIES], ids=lambda policy: policy.name)
@given(data=st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_what_was_said_last_is_what_a_fresh_look_says(policy: Policy, data: st.DataObject) -> None:
    """A head that needs every node waits; others come, and nodes are taken and given back."""
    play = Play(policy, data)
    gpus = sum(node.capacity.gpus for node in play.state.capacity.nodes)
    submit(play.state, gang("first", 1, 4, walltime_s=1.0))
    play.let_pass()
    submit(play.state, gang("head", gpus // 4, 4, walltime_s=1.0, priority=1))
    for _ in range(data.draw(st.integers(5, 20))):
        happens = play.pick([play.come, play.node_changes, play.node_changes, play.hold])
        event = happens()
        if event is not None:
            apply(play.state, event)
        play.now_us += 1
        play.let_pass()
        check_reasons(play.state, policy)


def test_one_wait_speaks_for_all_sizes_of_a_family() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 2, 5))
    let_pass(state, STRICT)
    submit(state, *(gang(f"b{n}", n, 2, 5.0 - n) for n in (4, 3, 2, 1)))
    (wait,) = waits(let_pass(state, STRICT))
    assert wait == Wait((PodShape(2), Selector()), fit_pods=2, free_pods=3)
    assert {n: explain(state, f"b{n}").reason.value for n in (1, 2, 3, 4)} == {
        1: "behind_head",
        2: "behind_head",
        3: "fragmentation",
        4: "capacity",
    }


def test_free_gpus_of_another_pool_do_not_count() -> None:
    state = ClusterState([*nodes(2, pool="a"), Node("other", PodShape(8), "b")])
    role = Role(1, PodShape(8), Selector("b"))
    submit(state, Gang("x", (role,)), Gang("y", (role,), 1))
    let_pass(state, STRICT)
    found = explain(state, "y")
    assert (found.reason, found.free_gpus, found.fit_pods) == (PendingReason.CAPACITY, 0, 0)


def test_members() -> None:
    state = ClusterState(nodes(4))
    apply(state, GangSubmitted(gang("a", 4, 8), present=0))
    for _ in range(3):
        apply(state, MemberAppeared("a"))
        assert admitted(let_pass(state, STRICT)) == []
        assert explain(state, "a").reason is PendingReason.MEMBERS
    apply(state, MemberAppeared("a"))
    assert admitted(let_pass(state, STRICT)) == ["a"]


def test_min_member_lets_a_gang_start_sooner() -> None:
    state = ClusterState(nodes(4))
    apply(state, GangSubmitted(gang("a", 4, 8, min_member=2), present=1))
    assert admitted(let_pass(state, STRICT)) == []
    apply(state, MemberAppeared("a"))
    assert admitted(let_pass(state, STRICT)) == ["a"]


def test_a_gathering_gang_does_not_block_the_queue() -> None:
    state = ClusterState(nodes(2))
    apply(state, GangSubmitted(gang("a", 2, 8), present=1))
    submit(state, gang("b", 2, 8, 1.0))
    assert admitted(let_pass(state, STRICT)) == ["b"]


def test_never_fits_is_said_at_once_and_taken_back_when_a_node_joins() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 3, 8))
    assert state.gangs["a"].phase is Phase.IMPOSSIBLE
    assert explain(state, "a") == Explanation(
        "a",
        PendingReason.NEVER_FITS,
        3,
        24,
        free_gpus=16,
        fit_pods=2,
        ahead=None,
        start_us=None,
        unmet=Unmet(
            Lack.COUNT, Selector(), 3, PodShape(8), num_nodes=2, hold_pods=2, resource="gpus"
        ),
    )
    submit(state, gang("b", 1, 8, 1.0))
    assert admitted(let_pass(state, STRICT)) == ["b"]  # it blocks nobody
    apply(state, NodeAdded(Node("n2", PodShape(8))))
    assert state.gangs["a"].phase is Phase.WAITING
    let_pass(state, STRICT)
    assert explain(state, "a").reason is PendingReason.CAPACITY


@pytest.mark.parametrize(
    "role",
    [
        Role(1, PodShape(9)),
        Role(1, PodShape(1), Selector("elsewhere")),
        Role(1, PodShape(1, 100_001)),
        Role(3, PodShape(1, 60_000)),
    ],
)
def test_never_fits_looks_at_every_resource(role: Role) -> None:
    state = ClusterState([Node(f"n{i}", PodShape(8, 100_000)) for i in range(2)])
    submit(state, Gang("a", (role,)))
    assert explain(state, "a").reason is PendingReason.NEVER_FITS


def test_a_lost_node_does_not_make_a_gang_impossible() -> None:
    state = ClusterState(nodes(2))
    apply(state, NodeLost("n1"))
    submit(state, gang("a", 2, 8))
    let_pass(state, STRICT)
    assert explain(state, "a").reason is PendingReason.CAPACITY
    apply(state, NodeReturned("n1"))
    assert admitted(let_pass(state, STRICT)) == ["a"]


def test_easy_promises_the_head_a_start() -> None:
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8, walltime_s=50.0), gang("b", 2, 8, 1.0))
    made = let_pass(state, EASY, 1.0)
    assert [each for each in made if isinstance(each, Reserve)] == [Reserve("b", 51_000_000, 1)]
    assert explain(state, "b").start_us == 51_000_000


def test_what_does_not_wait_has_no_reason() -> None:
    state = ClusterState(nodes(1))
    submit(state, gang("a", 1, 8))
    let_pass(state, STRICT)
    with pytest.raises(ValueError, match="gang 'a' is not waiting; it is running"):
        explain(state, "a")
    with pytest.raises(ValueError, match="gang 'x' is not waiting; it is unknown"):
        explain(state, "x")


def test_a_policy_refuses_a_queue_in_another_order() -> None:
    with pytest.raises(ValueError, match="orders the queue by 'sjf', the state by 'fifo'"):
        decide(ClusterState(nodes(1)), catalog.policy(PolicySpec(order="sjf")), 0)
