"""Which nodes a gang gets, by placer."""

from __future__ import annotations

import pytest

from scheduler.core.capacity import Capacity
from scheduler.core.events import GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role, Selector, Slice
from scheduler.core.placement import place
from scheduler.core.state import ClusterState, apply
from scheduler.policies import catalog
from scheduler.policies.catalog import PLACERS
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import let_pass, nodes, submit


def with_free(*free: int) -> Capacity:
    """Return 8-GPU nodes of which so many GPUs are free."""
    capacity = Capacity(nodes(len(free)))
    for i, left in enumerate(free):
        if left < 8:
            capacity.take((Role(1, PodShape(8 - left)),), (Slice(0, i, i + 1, 1),))
    return capacity


def chosen(capacity: Capacity, placer: str, count: int, gpus: int) -> list[int] | None:
    """Return the node index of each rank."""
    placement = place(capacity, (Role(count, PodShape(gpus)),), PLACERS[placer])
    if placement is None:
        return None
    return [i for s in placement for i in range(s.lo, s.hi) for _ in range(s.pods_per_node)]


@pytest.mark.parametrize(
    ("free", "placer", "count", "gpus", "expected"),
    [
        ((8, 3, 2, 8), "pack", 2, 1, [2, 2]),  # the fullest node that holds it
        ((8, 3, 2, 8), "pack", 3, 1, [1, 1, 1]),
        ((8, 3, 2, 8), "pack", 9, 1, [0, 0, 0, 0, 0, 0, 0, 0, 2]),  # fewest nodes, then tightest
        ((4, 8, 8, 4), "pack", 2, 8, [1, 2]),  # 8-GPU pods take whole nodes
        ((4, 8, 7, 8), "pack", 3, 8, None),
        ((4, 8, 5, 8), "pack", 3, 4, [0, 1, 1]),  # two on one node, the rest where it fits best
        ((5, 5, 5, 5), "pack", 3, 4, [0, 1, 2]),  # ties go to the lowest index
        ((8, 8, 8), "pack", 0, 8, []),
        ((8, 3, 2, 8), "spread", 2, 1, [0, 3]),  # the emptiest first
        ((8, 3, 2, 8), "spread", 4, 1, [0, 1, 2, 3]),
        ((8, 3, 2, 8), "spread", 6, 1, [0, 0, 1, 2, 3, 3]),  # a second pod before a third
        ((1, 1, 8), "spread", 5, 1, [0, 1, 2, 2, 2]),
        ((8, 1), "spread", 3, 4, None),
        ((2, 3, 8), "first-fit", 4, 1, [0, 0, 1, 1]),
        ((2, 3, 8), "first-fit", 3, 2, [0, 1, 2]),
        ((2, 3, 8), "first-fit", 1, 8, [2]),
        ((2, 3, 7), "first-fit", 1, 8, None),
    ],
)
def test_nodes_of_a_gang(
    free: tuple[int, ...], placer: str, count: int, gpus: int, expected: list[int] | None
) -> None:
    assert chosen(with_free(*free), placer, count, gpus) == expected


@pytest.mark.parametrize("placer", list(PLACERS))
def test_ranks_follow_the_topology_whatever_the_names(placer: str) -> None:
    scattered = [
        Node(name, PodShape(8), topology=rack)
        for name, rack in (("c", ("b1", "r1")), ("a", ("b2", "r3")), ("b", ("b1", "r2")))
    ]
    state = ClusterState(scattered)
    submit(state, Gang("g", (Role(3, PodShape(8)),)))
    let_pass(state, catalog.policy(PolicySpec(placement=placer)))
    assert state.node_names(state.gangs["g"].held) == ["c", "b", "a"]


@pytest.mark.parametrize("placer", list(PLACERS))
@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Selector(), {"a0", "a1", "b0", "b1"}),
        (Selector(pool="b"), {"b0", "b1"}),
        (Selector(gpu_model="h100"), {"a1", "b1"}),
        (Selector("b", "h100"), {"b1"}),
        (Selector("c"), None),
    ],
)
def test_selectors_limit_the_nodes(
    placer: str, selector: Selector, expected: set[str] | None
) -> None:
    made = [
        Node(f"{pool}{i}", PodShape(8), pool, model)
        for pool in "ab"
        for i, model in enumerate(("a100", "h100"))
    ]
    capacity = Capacity(made)
    count = len(expected or ["one"])
    found = place(capacity, (Role(count, PodShape(8), selector),), PLACERS[placer])
    if expected is None:
        assert found is None
    else:
        assert found is not None
        names = {capacity.nodes[i].name for s in found for i in range(s.lo, s.hi)}
        assert names == expected
    assert place(capacity, (Role(count + 1, PodShape(8), selector),), PLACERS[placer]) is None


@pytest.mark.parametrize("placer", list(PLACERS))
@pytest.mark.parametrize(
    ("pod", "per_node"),
    [
        (PodShape(1, 1000, 1), 4),  # CPU binds
        (PodShape(1, 1, 3000), 2),  # memory binds
        (PodShape(4, 1, 1), 2),  # GPUs bind
        (PodShape(0, 1000, 0), 4),  # no GPU at all
        (PodShape(1, 1, 1, 1), 5),  # the node's limit of pods binds
        (PodShape(0, 0, 0, 1), 5),
        (PodShape(1, 1, 1, 1, (("example.com/nic", 2),)), 3),  # a further resource binds
        (PodShape(0, 0, 0, 0, (("example.com/nic", 1), ("hugepages-2Mi", 4))), 1),
    ],
)
def test_every_resource_limits_a_node(placer: str, pod: PodShape, per_node: int) -> None:
    others = (("example.com/nic", 6), ("hugepages-2Mi", 7))
    capacity = Capacity([Node(f"n{i}", PodShape(8, 4000, 8000, 5, others)) for i in range(3)])
    full = place(capacity, (Role(3 * per_node, pod),), PLACERS[placer])
    assert full is not None
    assert sum(piece.num_pods for piece in full) == 3 * per_node
    assert all(piece.pods_per_node == per_node for piece in full)
    assert place(capacity, (Role(3 * per_node + 1, pod),), PLACERS[placer]) is None


def test_a_node_without_a_further_resource_holds_no_pod_that_asks_for_it() -> None:
    plain, wired = PodShape(8), PodShape(8, others=(("example.com/nic", 1),))
    capacity = Capacity([Node("a", plain), Node("b", wired)])
    roles = (Role(1, PodShape(1, others=(("example.com/nic", 1),))),)
    found = place(capacity, roles, PLACERS["pack"])
    assert found is not None
    assert [capacity.nodes[piece.lo].name for piece in found] == ["b"]
    capacity.take(roles, found)
    assert capacity.free_on(found[0].lo) == PodShape(7), "what there is none of is not kept"
    assert place(capacity, roles, PLACERS["pack"]) is None
    capacity.give_back(roles, found)
    assert sorted(capacity.free_on_each()) == sorted([plain, wired])


def test_shapes_name_what_is_short() -> None:
    free = PodShape(8, 1000, 0, 0, (("a", 2),))
    wanted = PodShape(1, 2000, 1, 1, (("a", 3), ("b", 1)))
    assert free.short_of(wanted) == ["cpu", "memory", "pods", "a", "b"]
    assert not free.covers(wanted)
    assert free.plus(wanted, -1).overdrawn() == ["cpu", "memory", "pods", "a", "b"]
    assert free.least(wanted) == PodShape(1, 1000, 0, 0, (("a", 2),))
    assert free.most(wanted) == PodShape(8, 2000, 1, 1, (("a", 3), ("b", 1)))
    assert free.most(wanted).covers(free)
    assert free.short_of(PodShape(8)) == []


def test_roles_do_not_take_the_same_gpus() -> None:
    roles = (Role(2, PodShape(4)), Role(1, PodShape(1), name="master"))
    state = ClusterState(nodes(2))
    apply(state, GangSubmitted(Gang("g", roles)))
    let_pass(state, catalog.policy(PolicySpec()))
    assert sorted(free.gpus for free in state.capacity.free_on_each()) == [0, 7]
    assert state.gangs["g"].held == (Slice(0, 0, 1, 2), Slice(1, 1, 2, 1))


def test_a_placement_that_fails_for_a_later_role_takes_nothing() -> None:
    capacity = with_free(8, 8)
    roles = (Role(2, PodShape(8)), Role(1, PodShape(1), name="master"))
    assert place(capacity, roles, PLACERS["pack"]) is None
    assert [free.gpus for free in capacity.free_on_each()] == [8, 8]


def test_machines_that_differ_in_some_memory_are_one_group_in_the_order_of_their_racks() -> None:
    nodes = [
        Node(f"n{i}", PodShape(8, 0, 1000 + 7 * (i % 5), 0), topology=(f"rack{i % 2}",))
        for i in range(10)
    ]
    capacity = Capacity(nodes)
    assert len(capacity.groups) == 1
    assert [node.topology for node in capacity.nodes] == [("rack0",)] * 5 + [("rack1",)] * 5
    pod = PodShape(1, 0, 505)  # two in those with 1014 and more
    assert capacity.total_slots(pod, Selector()) == 2 * 6 + 4
    found = place(capacity, (Role(16, pod),), PLACERS["pack"])
    assert found is not None
    capacity.take((Role(16, pod),), found)
    assert place(capacity, (Role(1, pod),), PLACERS["pack"]) is None
    assert all(capacity.free_on(i).mem_bytes < 505 for i in range(10))
