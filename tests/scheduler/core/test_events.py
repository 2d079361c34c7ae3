"""Single events: what they change, what they refuse."""

from __future__ import annotations

import pytest

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Decision, PendingReason, Preempt
from scheduler.core.events import (
    Admitted,
    CapacityReserved,
    CheckpointSaved,
    ClusterEvent,
    ForeignPodBound,
    ForeignPodGone,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangMends,
    GangResized,
    GangSubmitted,
    MemberAppeared,
    MemberLost,
    NodeAdded,
    NodeCordoned,
    NodeLost,
    NodeReturned,
    Overtaken,
    PriorityChanged,
    ReservationReleased,
)
from scheduler.core.model import Gang, Node, Phase, PodShape, Role, Slice
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.journal.history import events_of
from scheduler.policies import catalog
from scheduler.policies.explain import explain
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import admitted, gang, let_pass, nodes, submit

STRICT = catalog.policy(PolicySpec())
SKIP = catalog.policy(PolicySpec(discipline="skip"))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (GangFinished("x"), "gang 'x' is unknown; submit it first"),
        (GangCancelled("x"), "gang 'x' is unknown"),
        (Admitted("x", (), 0, 1), "gang 'x' is unknown"),
        (PriorityChanged("x", 1), "gang 'x' is unknown"),
        (Overtaken("x", 1), "gang 'x' is unknown"),
        (GangMends("x", first=True), "gang 'x' is unknown"),
        (NodeLost("x"), "node 'x' is unknown; add it first"),
        (NodeCordoned("x"), "node 'x' is unknown"),
        (NodeReturned("x"), "node 'x' is unknown"),
        (NodeAdded(Node("n0", PodShape(8))), "node 'n0' exists already"),
        (GangSubmitted(gang("a", 1, 8)), "gang 'a' exists already"),
        (MemberLost("a", 0, "n1"), "gang 'a' has no pod of role 0 on node 'n1'"),
        (ForeignPodGone("x"), "pod 'x' is not bound here"),
        (ForeignPodBound("p", "x", PodShape(1)), "node 'x' is unknown"),
        (
            GangResized("a", (Role(1, PodShape(8), name="other"),)),
            r"a resize must keep the roles that hold nodes, .*: \['worker'\], got \['other'\]",
        ),
        (GangResized("a", (Role(1, PodShape(4)),)), "a resize must keep the roles that hold nodes"),
        (Admitted("a", (Slice(0, 1, 2, 1),), 1, 2), "gang 'a' has all its nodes"),
        (CheckpointSaved("a", -to_us(1.0)), "gang 'a' saved at -1.0 s, admitted at 0.0 s"),
    ],
)
def test_an_event_about_what_is_not_there_is_refused(event: ClusterEvent, text: str) -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 8))
    let_pass(state, STRICT)
    with pytest.raises(ValueError, match=text):
        apply(state, event)
    validate(state)


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="node 'n0' is listed twice"):
        ClusterState([*nodes(1), *nodes(1)])


def test_a_gang_that_lost_a_rank_asks_for_it_alone_and_keeps_its_place() -> None:
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8), gang("b", 2, 8, 1.0))
    let_pass(state, STRICT)
    apply(state, NodeLost("n1"))
    assert sum(role.count for role in state.gangs["a"].missing) == 1
    assert admitted(let_pass(state, STRICT)) == ["a"]
    assert state.node_names(state.gangs["a"].held) == ["n0", "n2"]
    validate(state)


def test_a_cordoned_node_keeps_its_pods_and_takes_no_others() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 4))
    let_pass(state, STRICT)
    apply(state, NodeCordoned("n0"))
    submit(state, gang("b", 3, 4, 1.0))
    assert admitted(let_pass(state, STRICT)) == []
    assert state.node_names(state.gangs["a"].held) == ["n0"]
    apply(state, NodeReturned("n0"))
    assert admitted(let_pass(state, STRICT)) == ["b"]
    validate(state)


def test_a_reservation_is_kept_for_its_gang_until_it_expires() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 8), gang("b", 1, 8, 1.0), gang("c", 1, 8, 2.0))
    apply(state, CapacityReserved("c", (Slice(0, 0, 1, 1),), to_us(10.0)))
    assert admitted(let_pass(state, STRICT)) == ["a"]
    assert state.node_names(state.gangs["a"].held) == ["n1"]
    apply(state, ReservationReleased("c"))
    assert admitted(let_pass(state, STRICT)) == ["b"]
    validate(state)


def test_a_reservation_is_redeemed_by_its_gang() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 8))
    apply(state, CapacityReserved("a", (Slice(0, 1, 2, 1),), to_us(10.0)))
    assert admitted(let_pass(state, STRICT)) == ["a"]
    assert state.node_names(state.gangs["a"].held) == ["n1"]
    assert not state.reservations
    validate(state)


def test_priority_moves_a_waiting_gang() -> None:
    policy = catalog.policy(PolicySpec(order="priority"))
    state = ClusterState(nodes(1), policy.order)
    submit(state, gang("a", 1, 8), gang("b", 1, 8, 1.0), gang("c", 1, 8, 2.0))
    let_pass(state, policy)
    apply(state, PriorityChanged("c", 1))
    apply(state, GangFinished("a"))
    assert admitted(let_pass(state, policy)) == ["c"]


def test_a_running_gang_shrinks_from_its_last_rank() -> None:
    state = ClusterState(nodes(4))
    submit(state, gang("a", 4, 8), gang("b", 1, 8, 1.0))
    let_pass(state, STRICT)
    apply(state, GangResized("a", (Role(2, PodShape(8)),)))
    validate(state)
    assert state.node_names(state.gangs["a"].held) == ["n0", "n1"]
    assert admitted(let_pass(state, STRICT)) == ["b"]


def test_a_running_gang_grows() -> None:
    state = ClusterState(nodes(4))
    submit(state, gang("a", 2, 8))
    let_pass(state, STRICT)
    apply(state, GangResized("a", (Role(4, PodShape(8)),)))
    assert admitted(let_pass(state, STRICT)) == ["a"]
    assert state.node_names(state.gangs["a"].held) == ["n0", "n1", "n2", "n3"]
    validate(state)


def test_a_blocked_head_that_shrinks_is_looked_at_again() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 8), gang("b", 2, 8, 1.0))
    let_pass(state, STRICT)
    apply(state, GangResized("b", (Role(1, PodShape(8)),)))
    assert admitted(let_pass(state, STRICT)) == ["b"]


def test_a_running_gang_that_outgrew_the_cluster_can_come_back() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 2, 8))
    let_pass(state, STRICT)
    apply(state, GangResized("a", (Role(9, PodShape(8)),)))
    assert explain(state, "a").reason is PendingReason.NEVER_FITS
    apply(state, GangResized("a", (Role(2, PodShape(8)),)))
    assert state.gangs["a"].phase is Phase.RUNNING
    validate(state)


def test_a_running_gang_that_grows_beyond_the_cluster_never_fits() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 2, 8))
    let_pass(state, STRICT)
    apply(state, GangResized("a", (Role(3, PodShape(8)),)))
    assert explain(state, "a").reason is PendingReason.NEVER_FITS


def test_a_lost_node_takes_the_ranks_of_a_gang_with_a_reservation() -> None:
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8))
    let_pass(state, STRICT)
    apply(state, MemberLost("a", 0, "n0"))
    apply(state, CapacityReserved("a", (Slice(0, 2, 3, 1),), to_us(100.0)))
    apply(state, NodeLost("n1"))
    validate(state)


def test_roles_that_fit_in_some_arrangement_are_not_impossible() -> None:
    state = ClusterState([Node(f"n{gpus}{i}", PodShape(gpus)) for i, gpus in enumerate((8, 5, 5))])
    roles = (Role(2, PodShape(3)), Role(1, PodShape(8), name="master"))
    submit(state, Gang("a", roles))
    assert state.gangs["a"].phase is not Phase.IMPOSSIBLE


@pytest.mark.parametrize("decision", [Admit("a", ()), Preempt("a", ("b",))])
def test_a_decision_that_has_to_be_carried_out_is_no_event(decision: Decision) -> None:
    with pytest.raises(
        ValueError, match=rf"the state does not accept a {type(decision).__name__}: .*'a'"
    ):
        apply(ClusterState(nodes(1)), decision)  # type: ignore[arg-type]


def test_the_state_counts_how_often_a_head_is_overtaken() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 8), gang("head", 2, 8, 1.0), gang("c", 1, 8, 2.0))
    let_pass(state, SKIP)
    assert state.gangs["head"].overtaken == 1
    apply(state, GangFinished("c"))
    submit(state, gang("d", 1, 8, 3.0))
    let_pass(state, SKIP)
    assert (state.gangs["head"].overtaken, state.gangs["a"].overtaken) == (2, 0)
    again = ClusterState(nodes(2))
    submit(again, gang("head", 2, 8, 1.0))
    apply(again, Overtaken("head", 2))
    assert again.gangs["head"].overtaken == 2
    for name in ("a", "d"):
        apply(state, GangFinished(name))
    let_pass(state, SKIP)
    apply(state, GangInterrupted("head"))
    assert state.gangs["head"].overtaken == 0, "it waits anew"


# -- one gang through its life ---------------------------------------------------------------------


def test_a_rank_whose_pod_does_not_exist_yet_is_gathered_for_and_not_queued() -> None:
    """As a live driver tells it: the pod is gone with its node, and its successor comes later."""
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8), gang("b", 2, 8, 1.0))
    let_pass(state, STRICT)
    both = state.gangs["a"].gang.roles
    apply(state, MemberLost("a", 0, "n1"))
    apply(state, GangResized("a", both, present=1))
    assert state.gangs["a"].phase is Phase.GATHERING
    assert explain(state, "a").reason is PendingReason.MEMBERS
    assert admitted(let_pass(state, STRICT)) == ["b"], "the missing rank blocks nobody"
    apply(state, MemberAppeared("a"))
    assert admitted(let_pass(state, STRICT)) == []
    apply(state, GangFinished("b"))
    assert admitted(let_pass(state, STRICT)) == ["a"]
    validate(state)


def test_roles_come_and_go_while_those_that_hold_nodes_stay() -> None:
    state = ClusterState(nodes(4))
    submit(state, gang("a", 2, 8))
    let_pass(state, STRICT)
    master = Role(1, PodShape(4), name="master")
    apply(state, GangResized("a", (master, Role(2, PodShape(8)))))
    validate(state)
    assert state.gangs["a"].missing == (master,)
    assert admitted(let_pass(state, STRICT)) == ["a"]
    held = {(p.role, state.capacity.nodes[p.lo].name) for p in state.gangs["a"].held}
    assert (0, "n2") in held and {role for role, _ in held} == {0, 1}
    validate(state)


def test_since_when_a_gang_is_admitted_and_what_it_saved_is_kept_while_it_holds_nodes() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 2, 8))
    member = state.gangs["a"]
    let_pass(state, STRICT, 5.0)
    assert member.admitted_us == to_us(5.0)
    apply(state, CheckpointSaved("a", to_us(8.0)))
    apply(state, CheckpointSaved("a", to_us(7.0)))
    assert member.saved_us == to_us(8.0), "the latest counts"
    apply(state, MemberLost("a", 0, "n1"))
    let_pass(state, STRICT, 9.0)
    assert member.admitted_us == to_us(5.0), "it was there all the time"
    assert member.saved_us == to_us(8.0)
    apply(state, GangInterrupted("a"))
    validate(state)
    let_pass(state, STRICT, 20.0)
    assert member.admitted_us == to_us(20.0)
    validate(state)


def test_a_gang_that_runs_in_part_comes_first_until_it_is_whole() -> None:
    state = ClusterState(nodes(4))
    for each in (gang("first", 3, 8), gang("runs", 2, 8, submit_s=5.0)):
        submit(state, each)
    with pytest.raises(ValueError, match="gang 'runs' holds nothing"):
        apply(state, GangMends("runs", first=True))
    apply(state, Admitted("runs", (Slice(0, 0, 2, 1),), 0, 99))
    apply(state, MemberLost("runs", 0, "n1"))
    assert [m.gang.name for m in state.queue.in_order()] == ["first", "runs"]
    apply(state, GangMends("runs", first=True))
    assert [m.gang.name for m in state.queue.in_order()] == ["runs", "first"]
    again = ClusterState(state.capacity.nodes)
    for event in events_of(state):
        apply(again, event)
    assert [m.gang.name for m in again.queue.in_order()] == ["runs", "first"]
    apply(state, Admitted("runs", (Slice(0, 1, 2, 1),), 0, 99))
    apply(state, MemberLost("runs", 0, "n1"))
    assert [m.gang.name for m in state.queue.in_order()] == ["first", "runs"], "not for good"
    apply(state, GangMends("runs", first=True))
    apply(state, GangInterrupted("runs"))
    assert [m.gang.name for m in state.queue.in_order()] == ["first", "runs"], "it runs no more"
