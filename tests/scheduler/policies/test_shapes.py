"""Families: what counts as one shape, whatever roles are called, and how long it is remembered."""

from __future__ import annotations

import pytest

from scheduler.core.audit import validate
from scheduler.core.books import MIN_PRUNED
from scheduler.core.decisions import Admit, PendingReason, Reserve, Wait
from scheduler.core.events import GangCancelled, GangFinished, MemberLost
from scheduler.core.model import UNLIMITED, Gang, Node, PodShape, Role, Selector, Slice
from scheduler.core.placement import place
from scheduler.core.queueing import family_key
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import to_us
from scheduler.policies import catalog
from scheduler.policies.explain import explain
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import admitted, gang, let_pass, nodes, submit, waits
from tests.scheduler.core.test_cost import count_calls

EASY = catalog.policy(PolicySpec(discipline="easy"))
STRICT = catalog.policy(PolicySpec())


def in_roles(name: str, *counts: int, gpus: int = 8, walltime_s: float = 100.0) -> Gang:
    """Return a gang whose roles have so many equal pods each."""
    roles = tuple(Role(n, PodShape(gpus), name=f"role{i}") for i, n in enumerate(counts))
    return Gang(name, roles, 0, to_us(walltime_s))


def test_a_master_and_its_workers_leave_as_much_spare_as_a_plain_gang() -> None:
    """Ten nodes, two taken for 50 s: behind a head of 1 + 8 pods one node is spare."""
    for head in (in_roles("head", 9), in_roles("head", 1, 8)):
        state = ClusterState(nodes(10))
        submit(state, gang("first", 2, 8, walltime_s=50.0), head)
        submit(state, gang("long", 1, 8, walltime_s=1e6), gang("more", 1, 8, walltime_s=1e6))
        made = let_pass(state, EASY)
        assert [each for each in made if isinstance(each, Reserve)] == [
            Reserve("head", 50_000_000, 1)
        ]
        assert admitted(made) == ["first", "long"]
        validate(state)


def test_one_shape_waits_for_one_reason_whatever_its_roles_are() -> None:
    state = ClusterState(nodes(4))
    submit(
        state, gang("first", 2, 8), in_roles("head", 1, 3), in_roles("other", 4), gang("z", 1, 8)
    )
    made = waits(let_pass(state, STRICT))
    assert made == [Wait((PodShape(8), Selector()), 2, 2)]
    assert explain(state, "head").reason is PendingReason.CAPACITY
    assert explain(state, "head").fit_pods == 2
    assert explain(state, "z").reason is PendingReason.BEHIND_HEAD


def test_placements_say_which_role_goes_where() -> None:
    state = ClusterState(nodes(3))
    roles = in_roles("g", 1, 2, 3, gpus=4).roles
    assert place(state.capacity, roles, STRICT.placer) == (
        Slice(0, 0, 1, 1),
        Slice(1, 0, 1, 1),
        Slice(1, 1, 2, 1),
        Slice(2, 1, 2, 1),
        Slice(2, 2, 3, 2),
    )
    submit(state, in_roles("g", 1, 2, 3, gpus=4))
    (admit,) = (each for each in let_pass(state, STRICT) if isinstance(each, Admit))
    assert state.node_names(admit.placement) == ["n0", "n0", "n1", "n1", "n2", "n2"]
    apply(state, MemberLost("g", 1, "n1"))
    validate(state)
    assert admitted(let_pass(state, STRICT)) == ["g"]
    assert sum(p.num_pods for p in state.gangs["g"].held if p.role == 1) == 2


def test_different_pods_stay_families_of_their_own() -> None:
    pods = PodShape(1), PodShape(8)
    a, b = (tuple(Role(n, pod) for n, pod in zip(of, pods, strict=True)) for of in ((1, 2), (1, 3)))
    assert family_key(a) == a != family_key(b)
    elsewhere = (Role(1, PodShape(8)), Role(1, PodShape(8), Selector("h100")))
    assert family_key(elsewhere) == elsewhere


def test_roles_that_share_a_node_are_charged_once_beside_the_head() -> None:
    """1 + 7 pods of 1 GPU fill one node: they cost a head of 4-GPU pods two of its pods."""
    state = ClusterState(nodes(4))
    submit(state, gang("first", 2, 8, walltime_s=50.0), gang("head", 6, 4))
    submit(state, in_roles("long", 1, 7, gpus=1, walltime_s=1e6))
    assert admitted(let_pass(state, EASY)) == ["first", "long"]


@pytest.mark.parametrize("held", [False, True])
def test_families_are_forgotten_with_their_last_gang(held: bool) -> None:
    """A state that has met thousands of shapes remembers a few hundred."""
    state = ClusterState([Node(f"n{i}", PodShape(8, UNLIMITED)) for i in range(2)])
    submit(state, gang("stays", 1, 4))
    let_pass(state, STRICT)
    family = state.gangs["stays"].family
    for i in range(4 * MIN_PRUNED):
        pod = PodShape(1, cpu_milli=i + 1)
        roles = (Role(1, pod),) if i % 2 else (Role(1, pod), Role(1, PodShape(2)))
        submit(state, Gang("g", roles))
        if held:
            assert admitted(let_pass(state, STRICT)) == ["g"]
        apply(state, GangFinished("g") if held else GangCancelled("g"))
    assert len(state.families) <= MIN_PRUNED
    capacity = state.capacity
    assert len(capacity._fits) <= 2 * MIN_PRUNED
    assert len(capacity._by_role) <= 2 * MIN_PRUNED
    assert sum(len(group._fits) for group in capacity.groups) <= 4 * MIN_PRUNED
    assert state.families[family.key] is family is state.gangs["stays"].family
    validate(state)


def test_a_new_family_costs_the_same_on_every_cluster() -> None:
    def calls(num_nodes: int) -> int:
        state = ClusterState(nodes(num_nodes))
        master = Role(1, PodShape(0), name="master")
        submit(state, Gang("before", (master, Role(2, PodShape(8)))))
        new = Gang("g", (master, Role(3, PodShape(8))))
        return count_calls(lambda: submit(state, new))

    assert calls(100) == calls(5_000)
