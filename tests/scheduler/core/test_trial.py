"""After a trial the whole state is as it was, whatever was applied inside."""

from __future__ import annotations

from dataclasses import replace
from inspect import isdatadescriptor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit
from scheduler.core.events import (
    Admitted,
    CapacityReserved,
    CheckpointSaved,
    ClusterEvent,
    Considered,
    ForeignPodBound,
    ForeignPodGone,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangMends,
    GangResized,
    GangSetAside,
    GangSubmitted,
    GangTakenUp,
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
from scheduler.core.model import Gang, Node, Phase, PodShape, Role, Selector, Slice
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.queueing import Family, GangState
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import ends_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.policy import Policy
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import admitted, gang, let_pass, nodes, submit
from tests.scheduler.core.test_cost import count_calls

POLICIES = [
    catalog.policy(PolicySpec("priority")),
    catalog.policy(PolicySpec("sjf", "skip")),
    catalog.policy(PolicySpec(discipline="easy")),
    catalog.policy(PolicySpec("smallest", "easy", "spread")),
]


def fields(thing: GangState | Family, *without: str) -> dict[str, Any]:
    """Return every field of a slotted or compiled object, so that a new one is compared, too."""
    names = [name for name, each in vars(type(thing)).items() if isdatadescriptor(each)]
    assert {"phase", "max_size"}.intersection(names)
    return {name: getattr(thing, name) for name in names if name not in without and name[0] != "_"}


def filed(group: NodeGroup) -> dict[PodShape, list[tuple[int, int]]]:
    """Return nodes by what is free there; full ones are filed once somebody asks."""
    return {free: list(found) for free, found in group.by_free() if free.gpus}


def dump(state: ClusterState) -> dict[str, Any]:
    """Return all that a state says, in values that compare."""
    queue, capacity = state.queue, state.capacity
    queue.index_demands()  # an index that is made when a pass asks, as `ends` and `on_node` are
    return {
        "gangs": {
            name: fields(m, "family", "release") | {"family": m.family.key}
            for name, m in state.gangs.items()
        },
        "families": {
            key: fields(each, "demands")
            | {"demands": {n: [e[1].gang.name for e in d.entries] for n, d in each.demands.items()}}
            for key, each in state.families.items()
        },
        "queue": [member.gang.name for member in queue.in_order()],
        "members": set(queue.members),
        "waiting families": list(queue.families),
        "fresh": [member.gang.name for member in queue.fresh],
        "head seen": queue.head_seen and queue.head_seen.gang.name,
        "reservations": [replace(each) for each in state.reservations.values()],
        "foreign": dict(state.foreign),
        "grew": state.grew,
        "shrank": state.shrank,
        "until": state.until_us,
        "nodes": list(capacity.nodes),
        "numbers": dict(capacity.index_of),
        "free": capacity.free_on_each(),
        "closed": dict(capacity.unschedulable),
        "groups": [
            (g.pool, g.gpu_model, dict(g.capacities), g.num_nodes, g.free_gpus, filed(g))
            for g in capacity.groups
        ],
        "ends": [entry[:3] for entry in state.ends],
        "owners": [sorted(owners) for owners in state.on_node],
        "slots": [
            capacity.slots(PodShape(gpus), Selector(pool))
            for gpus in (1, 3, 8)
            for pool in ("", "b")
        ],
        "empty": state.empty.slots(PodShape(8), Selector()),
    }


class Play:
    """A state to which hypothesis lets things happen."""

    def __init__(self, policy: Policy, data: st.DataObject) -> None:
        self.policy = policy
        self.data = data
        sizes = data.draw(
            st.lists(
                st.tuples(st.sampled_from([4, 8]), st.sampled_from("ab")), min_size=1, max_size=4
            )
        )
        made = [Node(f"n{i}", PodShape(gpus), pool) for i, (gpus, pool) in enumerate(sizes)]
        self.state = ClusterState(made, policy.order)
        self.now_us = 0
        self.made = 0

    def pick(self, choices: list[Any]) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def step(self) -> None:
        """Let one thing happen that can."""
        self.now_us += self.pick([0, 1, 5])
        if self.pick([True, False, False]):
            self.let_pass()
            return
        event = self.pick([self.come, self.go, self.change, self.node_changes, self.hold])()
        if event is not None:
            apply(self.state, event)

    def let_pass(self) -> None:
        while True:
            for decision in decide(self.state, self.policy, self.now_us):
                if isinstance(decision, Admit):
                    walltime_us = self.state.gangs[decision.gang].gang.walltime_us
                    until_us = ends_us(self.now_us, walltime_us)
                    name, placement = decision.gang, decision.placement
                    apply(self.state, Admitted(name, placement, self.now_us, until_us))
                else:
                    apply(self.state, decision)
                    if isinstance(decision, Considered):
                        return

    def come(self) -> ClusterEvent:
        self.made += 1
        pod, pool = PodShape(self.pick([0, 1, 3, 8])), self.pick(["", "a", "b"])
        roles: tuple[Role, ...] = (Role(self.pick([1, 2, 5]), pod, Selector(pool)),)
        more = self.pick(["", "same", "other"])
        if more:
            roles += (Role(1, pod if more == "same" else PodShape(1), Selector(pool), "master"),)
        name = f"g{self.made}"
        again = sorted(name for name in ("g1", "g2") if name not in self.state.gangs)
        if self.made > 2 and again and self.pick([False, True]):
            name = again[0]
        one = Gang(name, roles, self.now_us, self.pick([3, 9]), self.pick([0, 1]))
        return GangSubmitted(one, self.pick([None, one.num_pods - 1]))

    def go(self) -> ClusterEvent | None:
        gangs = sorted(self.state.gangs)
        kind = self.pick([GangFinished, GangCancelled, GangInterrupted, GangInterrupted])
        return kind(self.pick(gangs)) if gangs else None  # type: ignore[no-any-return]

    def change(self) -> ClusterEvent | None:
        state = self.state
        if not state.gangs:
            return None
        member = state.gangs[self.pick(sorted(state.gangs))]
        name = member.gang.name
        kind = self.pick(
            ["appear", "lose", "resize", "priority", "save", "overtaken", "aside", "mends"]
        )
        if kind == "appear":
            return MemberAppeared(name)
        if kind == "priority":
            return PriorityChanged(name, self.pick([0, 1, 2]))
        if kind == "aside":
            if member.phase is Phase.ASIDE:
                return GangTakenUp(name)
            return GangSetAside(name) if name in state.queue.members else None
        if kind == "overtaken":
            return Overtaken(name, 2)
        if kind == "resize":
            first, *rest = member.gang.roles
            return GangResized(name, (replace(first, count=self.pick([1, 3, 4])), *rest))
        if not member.held:
            return None
        if kind == "save":
            return CheckpointSaved(name, max(self.now_us, member.admitted_us))
        if kind == "mends":
            return GangMends(name, first=self.pick([False, True]))
        piece = self.pick(list(member.held))
        return MemberLost(name, piece.role, state.capacity.nodes[piece.hi - 1].name)

    def node_changes(self) -> ClusterEvent | None:
        state = self.state
        names = [node.name for node in state.capacity.nodes]
        kind = self.pick(["add", "cordon", "return", "lose", "bind", "leave"])
        if kind == "add":
            node = Node(f"n{len(names)}", PodShape(self.pick([4, 8])), self.pick(["a", "c"]))
            return NodeAdded(node)
        if kind == "bind":
            at = self.pick(list(range(len(names))))
            free = state.capacity.free_on(at).gpus
            return (
                ForeignPodBound(f"p{self.now_us}.{at}", names[at], PodShape(free)) if free else None
            )
        if kind == "leave":
            return ForeignPodGone(self.pick(sorted(state.foreign))) if state.foreign else None
        chosen = {"cordon": NodeCordoned, "return": NodeReturned, "lose": NodeLost}[kind]
        return chosen(self.pick(names))  # type: ignore[no-any-return]

    def hold(self) -> ClusterEvent | None:
        state = self.state
        if state.reservations and self.pick([True, False]):
            return ReservationReleased(self.pick(sorted(state.reservations)))
        free = [i for i, gpus in enumerate(state.capacity.free_on_each()) if gpus.gpus >= 8]
        alone = [
            name
            for name, member in sorted(state.gangs.items())
            if len(member.gang.roles) == 1
            and member.gang.num_pods == 1
            and not member.held
            and not member.gang.roles[0].selector.pool
        ]
        if not free or not alone:
            return None
        at = self.pick(free)
        return CapacityReserved(self.pick(alone), (Slice(0, at, at + 1, 1),), self.now_us + 5)

    def what_if(self, depth: int) -> None:
        """Let things happen that are undone, and some within that are undone before."""
        before = dump(self.state)
        decided = decide(self.state, self.policy, self.now_us)
        now_us = self.now_us
        with self.state.trial():
            for _ in range(self.data.draw(st.integers(0, 6))):
                if depth and self.pick([False, False, True]):
                    self.what_if(depth - 1)
                self.step()
            validate(self.state)
        validate(self.state)
        assert dump(self.state) == before
        self.now_us = now_us
        assert decide(self.state, self.policy, now_us) == decided


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@given(data=st.data())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_the_whole_state_is_as_it_was(policy: Policy, data: st.DataObject) -> None:
    play = Play(policy, data)
    for _ in range(data.draw(st.integers(0, 5))):
        apply(play.state, play.come())
    for _ in range(data.draw(st.integers(1, 3))):
        for _ in range(data.draw(st.integers(0, 5))):
            play.step()
        play.what_if(depth=2)


def test_families_wait_in_the_order_in_which_they_did() -> None:
    """A pass says what they wait for one after the other, and its decisions are compared."""
    state = ClusterState(nodes(2))
    submit(state, gang("a", 3, 4), gang("b", 2, 8), gang("c", 5, 2))
    before = dump(state)
    with state.trial():
        apply(state, GangCancelled("a"))
        apply(state, PriorityChanged("b", 1))
        submit(state, gang("a", 3, 4))
        assert list(state.queue.families) != before["waiting families"]
    assert dump(state) == before


def test_a_head_is_as_often_overtaken_as_before() -> None:
    policy = catalog.policy(PolicySpec(discipline="skip"))
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 8), gang("head", 2, 8))
    let_pass(state, policy)
    submit(state, gang("late", 1, 8, submit_s=1.0))
    before = dump(state)
    with state.trial():
        let_pass(state, policy)
        assert state.gangs["head"].overtaken == 1
    assert dump(state) == before


def test_what_was_too_large_is_so_again() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("large", 3, 8))
    before = dump(state)
    with state.trial():
        apply(state, NodeAdded(Node("more", PodShape(8))))
        assert state.gangs["large"].phase is Phase.WAITING
        assert admitted(let_pass(state, catalog.policy(PolicySpec()))) == ["large"]
    assert dump(state) == before


def test_all_that_was_on_a_lost_node_is_on_it_again() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("g", 3, 2))
    let_pass(state, catalog.policy(PolicySpec()))
    apply(state, ForeignPodBound("pod", "n0", PodShape(1)))
    apply(state, ForeignPodBound("other", "n1", PodShape(1)))
    before = dump(state)
    with state.trial():
        apply(state, NodeLost("n0"))
        assert list(state.foreign) == ["other"]
        apply(state, ForeignPodGone("other"))
        apply(state, ForeignPodBound("pod", "n1", PodShape(3)))
    assert dump(state) == before


def test_an_error_within_undoes_what_was_before_it() -> None:
    state = ClusterState(nodes(2))
    submit(state, gang("a", 1, 8))
    before = dump(state)

    def what_if() -> None:
        with state.trial():
            let_pass(state, catalog.policy(PolicySpec()))
            apply(state, NodeCordoned("n9"))

    with pytest.raises(ValueError, match="node 'n9' is unknown"):
        what_if()
    assert dump(state) == before
    assert state.under_trial is None


def test_a_trial_costs_by_what_it_touches() -> None:
    """Not by the nodes, nor by the gangs that run or wait."""

    def calls(size: int) -> int:
        state = ClusterState(nodes(size))
        submit(state, *(gang(f"r{i}", 1, 8) for i in range(size - 4)))
        let_pass(state, catalog.policy(PolicySpec()))
        submit(state, *(gang(f"w{i}", 8, 8) for i in range(size)))
        let_pass(state, catalog.policy(PolicySpec()))

        def what_if() -> None:
            with state.trial():
                apply(state, GangInterrupted("r0"))
                apply(state, GangSubmitted(gang("new", 1, 8)))
                let_pass(state, catalog.policy(PolicySpec()))

        what_if()
        return count_calls(what_if)

    assert calls(20) == calls(500)
