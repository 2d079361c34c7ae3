"""What is short is named with numbers that are true: worked out again from the nodes, naively."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.decisions import Explanation, Lack, PendingReason, Unmet
from scheduler.core.events import ForeignPodBound, GangSubmitted, NodeCordoned
from scheduler.core.model import UNLIMITED, Gang, Node, PodShape, Role, Selector
from scheduler.core.sentences import quantity, why
from scheduler.core.state import ClusterState, apply
from scheduler.policies import catalog
from scheduler.policies.explain import explain
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import let_pass, submit

STRICT = catalog.policy(PolicySpec())
GIB = 1 << 30


def told(state: ClusterState, name: str) -> str:
    said = explain(state, name)
    return why(said, said.need_pods)


def one_gang(nodes: list[Node], role: Role, *more: Role) -> str:
    """Return what is said of a gang on an empty cluster on which it can never run."""
    state = ClusterState(nodes)
    submit(state, Gang("a", (role, *more)))
    let_pass(state, STRICT)
    assert explain(state, "a").reason is PendingReason.NEVER_FITS
    return told(state, "a")


# -- what binds ------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [1, 0])
def test_cpus_that_bind_are_named(gpus: int) -> None:
    state = ClusterState([Node("n", PodShape(8, 8_000))])
    role = Role(1, PodShape(gpus, 8_000))
    submit(state, Gang("a", (role,)), Gang("b", (role,), 1))
    let_pass(state, STRICT)
    said = explain(state, "b")
    assert (said.reason, said.short and said.short.resource) == (PendingReason.CAPACITY, "cpu")
    assert told(state, "b") == "needs 8 CPUs for 1 pod; 0 are free on nodes it may use"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (PodShape(1, 0, 64 * GIB), "needs 64 GiB of memory for 1 pod; 4 GiB are free"),
        (PodShape(1, 0, 0, 1), "needs 1 pod slot for 1 pod; 0 are free"),
        (PodShape(1, 0, 0, 0, (("hca", 2),)), "needs 2 hca for 1 pod; 1 are free"),
        (
            PodShape(1, others=(("ephemeral-storage", 20 * GIB),)),
            "needs 20 GiB of ephemeral-storage for 1 pod; 0 bytes are free",
        ),
        (PodShape(8), "needs 8 GPUs for 1 pod; 7 are free"),
    ],
)
def test_each_resource_is_named(asked: PodShape, text: str) -> None:
    more = (("ephemeral-storage", 32 * GIB), ("hca", 2))
    small = Node("n", PodShape(8, 8_000, 8 * GIB, 1, (("hca", 2),)))
    full = Node("m", PodShape(8, 8_000, 64 * GIB, 1, more))
    state = ClusterState([small, full])
    apply(state, ForeignPodBound("f", "n", PodShape(1, 0, 4 * GIB, 1, (("hca", 1),))))
    apply(state, ForeignPodBound("g", "m", full.capacity))
    submit(state, Gang("b", (Role(1, asked),)))
    let_pass(state, STRICT)
    assert told(state, "b").startswith(text)


def test_cpus_that_are_free_apart_from_each_other_are_named() -> None:
    state = ClusterState([Node(f"n{i}", PodShape(8, 8_000)) for i in range(2)])
    for i in range(2):
        apply(state, ForeignPodBound(f"f{i}", f"n{i}", PodShape(1, 4_000)))
    submit(state, Gang("b", (Role(1, PodShape(1, 8_000)),)))
    let_pass(state, STRICT)
    assert explain(state, "b").reason is PendingReason.FRAGMENTATION
    assert told(state, "b") == (
        "needs 8 CPUs for 1 pod; 8 are free, but at most 4 on a node that has the GPUs for a pod, "
        "which needs 8"
    )


def test_cpus_that_are_free_where_no_gpu_is_are_named() -> None:
    state = ClusterState([Node(f"n{i}", PodShape(8, 64_000)) for i in range(2)])
    apply(state, ForeignPodBound("f0", "n0", PodShape(8, 1_000)))
    apply(state, ForeignPodBound("f1", "n1", PodShape(0, 60_000)))
    submit(state, Gang("b", (Role(1, PodShape(1, 8_000)),)))
    let_pass(state, STRICT)
    assert told(state, "b") == (
        "needs 8 CPUs for 1 pod; 67 are free, but at most 4 on a node that has the GPUs for a pod, "
        "which needs 8"
    )


def test_gpus_that_bind_are_named_where_cpus_are_asked_for_too() -> None:
    state = ClusterState([Node(f"n{i}", PodShape(8, 64_000, 64 * GIB, 110)) for i in range(2)])
    for i in range(2):
        apply(state, ForeignPodBound(f"f{i}", f"n{i}", PodShape(5, 1_000, GIB, 1)))
    roles = (Role(3, PodShape(2, 4_000, GIB, 1)),)
    submit(state, Gang("b", roles))
    let_pass(state, STRICT)
    assert told(state, "b") == (
        "needs 6 GPUs for 3 pods; 6 are free, but not in a shape that its pods can use: 2 of 3 "
        "pods fit"
    )


def test_a_gang_of_unequal_pods_names_what_binds() -> None:
    state = ClusterState([Node(f"n{i}", PodShape(8, 8_000)) for i in range(2)])
    apply(state, ForeignPodBound("f", "n0", PodShape(0, 6_000)))
    roles = (
        Role(1, PodShape(0, 4_000), Selector(), "master"),
        Role(2, PodShape(4, 2_000), Selector(), "worker"),
    )
    submit(state, Gang("a", roles), Gang("b", roles, 1))
    let_pass(state, STRICT)
    assert "a" not in state.queue.members, "the first fits"
    said = explain(state, "b")
    assert said.reason is PendingReason.CAPACITY
    assert told(state, "b") == "needs 8 CPUs for 3 pods; 2 are free on nodes it may use"


def test_another_resource_that_binds_is_said_though_no_number_of_pods_changes() -> None:
    state = ClusterState([Node("n", PodShape(8, 8_000, 8 * GIB))])
    role = Role(1, PodShape(1, 1_000, GIB))
    apply(state, ForeignPodBound("f", "n", PodShape(0, 8_000)))
    submit(state, Gang("a", (role,)))
    let_pass(state, STRICT)
    assert explain(state, "a").short.resource == "cpu"  # type: ignore[union-attr]
    apply(state, ForeignPodBound("g", "n", PodShape(8)))
    state.grew = True
    let_pass(state, STRICT)
    assert explain(state, "a").short.resource == "gpus"  # type: ignore[union-attr]


# -- what can never be -----------------------------------------------------------------------

H100 = [Node(f"h{i}", PodShape(8, 96_000, 512 * GIB), "h100", "H100") for i in range(40)]
V100 = [Node(f"v{i}", PodShape(4, 256_000, 1024 * GIB), "v100", "V100") for i in range(2)]


@pytest.mark.parametrize(
    ("role", "text"),
    [
        (
            Role(1, PodShape(16)),
            "needs 16 GPUs per pod, the largest node has 8 (pool 'h100')",
        ),
        (
            Role(1, PodShape(8), Selector("v100")),
            "needs 8 GPUs per pod, the largest node that it may use has 4 (pool 'v100')",
        ),
        (
            Role(1, PodShape(1, 0, 1200 * GIB)),
            "needs 1,200 GiB of memory per pod, the largest node has 1,024 GiB (pool 'v100')",
        ),
        (
            Role(1, PodShape(16, 300_000)),
            "needs 16 GPUs per pod, the largest node has 8 (pool 'h100'); and 300 CPUs per pod, "
            "the largest node has 256 (pool 'v100')",
        ),
        (
            Role(1, PodShape(1, others=(("rdma/hca", 1),))),
            "needs 1 rdma/hca per pod, the largest node has 0 (pool 'h100')",
        ),
        (
            Role(1, PodShape(8, 0, 600 * GIB)),
            "needs 8 GPUs and 600 GiB of memory per pod, no node has both: those with 8 GPUs have "
            "at most 512 GiB (pool 'h100')",
        ),
        (
            Role(1, PodShape(1), Selector("x")),
            "asks for pool 'x'; pools here: h100, v100",
        ),
        (
            Role(1, PodShape(1), Selector("", "h100")),
            "asks for GPU model 'h100'; models here: H100, V100",
        ),
        (
            Role(1, PodShape(1), Selector("h100", "V100")),
            "asks for GPU model 'V100' in pool 'h100'; models in pool 'h100': H100; "
            "pools with 'V100': v100",
        ),
        (
            Role(80, PodShape(8)),
            "needs 80 pods of 8 GPUs; empty, the 42 nodes that it may use hold 40",
        ),
        (
            Role(80, PodShape(1, 64_000), Selector("h100")),
            "needs 80 pods of 1 GPU and 64 CPUs; empty, the 40 nodes that it may use hold 40, for "
            "lack of CPUs",
        ),
        (
            Role(400, PodShape(1, 1_000), Selector("h100")),
            "needs 400 pods of 1 GPU and 1 CPU; empty, the 40 nodes that it may use hold 320",
        ),
    ],
)
def test_what_no_node_offers_is_said(role: Role, text: str) -> None:
    assert one_gang([*H100, *V100], role) == text


def test_models_and_pools_that_nobody_named_are_said() -> None:
    plain = [Node(f"n{i}", PodShape(8)) for i in range(4)]
    model = Role(1, PodShape(8), Selector("", "A100"))
    assert one_gang(plain, model) == ("asks for GPU model 'A100'; no node states its model")
    assert one_gang(plain, Role(1, PodShape(8), Selector("x"))) == (
        "asks for pool 'x'; no node is in a pool"
    )
    assert one_gang([], Role(2, PodShape(8))) == "needs 2 pods, but the cluster has no nodes"


def test_roles_that_fit_one_by_one_say_what_they_need_together() -> None:
    nodes = [Node(f"n{i}", PodShape(8)) for i in range(8)]
    worker, master = Role(8, PodShape(8)), Role(1, PodShape(4), Selector(), "master")
    assert one_gang(nodes, master, worker) == (
        "needs 9 pods of several kinds; each fits alone, together 68 GPUs, of which the nodes "
        "have 64"
    )


def test_a_master_that_is_one_more_worker_counts_as_one() -> None:
    nodes = [Node(f"n{i}", PodShape(8)) for i in range(8)]
    worker, master = Role(8, PodShape(8)), Role(1, PodShape(8), Selector(), "master")
    assert one_gang(nodes, master, worker) == (
        "needs 9 pods of 8 GPUs; empty, the 8 nodes that it may use hold 8"
    )


# -- in random worlds ------------------------------------------------------------------------

POOLS, MODELS = ("a", "b"), ("X", "Y")
shapes = st.builds(
    PodShape,
    st.integers(0, 4),
    st.sampled_from([0, 1_000, 2_000, 3_000]),
    st.sampled_from([0, GIB, 2 * GIB, 3 * GIB]),
    st.just(1),
    st.sampled_from([(), (), (("hca", 1),)]),
)
limits = st.builds(
    PodShape,
    st.sampled_from([8, 8, 8, 4, 0]),
    st.sampled_from([UNLIMITED, UNLIMITED, 2_000, 6_000]),
    st.sampled_from([UNLIMITED, UNLIMITED, 2 * GIB, 6 * GIB]),
    st.sampled_from([UNLIMITED, UNLIMITED, 2, 5]),
    st.sampled_from([(), (("hca", 2),)]),
)
selectors = st.builds(
    Selector,
    st.sampled_from([*[""] * 8, *POOLS, "c"]),
    st.sampled_from([*[""] * 8, *MODELS, "Z"]),
)
roles = st.builds(Role, st.integers(1, 6), shapes, selectors, st.just("worker"))
machines = st.lists(
    st.tuples(limits, st.sampled_from(POOLS), st.sampled_from(MODELS), st.booleans()),
    min_size=1,
    max_size=6,
)


def allowed(node: Node, selector: Selector) -> bool:
    return selector.pool in ("", node.pool) and selector.gpu_model in ("", node.gpu_model)


def rooms(free: list[PodShape], pod: PodShape, *names: str) -> int:
    """Return how many pods fit by these resources alone, counted one by one."""
    total = 0
    for each in free:
        have = each.amounts()
        asked = {name: amount for name, amount in pod.amounts().items() if amount > 0}
        counts = [have.get(name, 0) // asked[name] for name in names or asked if name in asked]
        total += max(0, min(counts, default=UNLIMITED))
    return total


@settings(max_examples=300, derandomize=True, deadline=None)
@given(machines, st.lists(shapes, max_size=12), st.lists(roles, min_size=1, max_size=5))
def test_reasons_and_numbers_are_true(
    nodes: list[tuple[PodShape, str, str, bool]], held: list[PodShape], wanted: list[Role]
) -> None:
    all_nodes = [
        Node(f"n{i}", shape, pool, model) for i, (shape, pool, model, _) in enumerate(nodes)
    ]
    state = ClusterState(all_nodes)
    for i, (shape, (*_, cordoned)) in enumerate(zip(held * 3, nodes * 6, strict=False)):
        name = f"n{i % len(nodes)}"
        if state.capacity.free_on(state.capacity.index_of[name]).holds(shape):
            apply(state, ForeignPodBound(f"f{i}", name, shape))
        if cordoned:
            apply(state, NodeCordoned(name))
    for i, role in enumerate(wanted):
        apply(state, GangSubmitted(Gang(f"g{i}", (role,), i)))
    let_pass(state, STRICT)
    for i, role in enumerate(wanted):
        if state.gangs[f"g{i}"].missing:
            check(state, role, explain(state, f"g{i}"))


def check(state: ClusterState, role: Role, said: Explanation) -> None:
    """Hold what is said of a gang of one role against the nodes."""
    pod, capacity = role.pod, state.capacity
    usable = [node for node in capacity.nodes if allowed(node, role.selector)]
    free = [
        capacity.free_on(i)
        for i, node in enumerate(capacity.nodes)
        if node in usable and i not in capacity.unschedulable
    ]
    asked = {  # what no node has a limit of can never be short
        name: amount
        for name, amount in pod.amounts().items()
        if amount > 0 and any(n.capacity.amounts().get(name, 0) < UNLIMITED for n in usable)
    }
    text = why(said, role.count)
    if said.reason is PendingReason.NEVER_FITS:
        assert said.unmet is not None
        assert rooms([node.capacity for node in usable], pod) < role.count
        check_unmet(capacity.nodes, usable, role, said.unmet, text)
        return
    assert said.unmet is None
    assert rooms([node.capacity for node in usable], pod) >= role.count
    if said.reason is PendingReason.BEHIND_HEAD:
        assert rooms(free, pod) >= role.count and said.short is None
        return
    short = said.short
    assert rooms(free, pod) < role.count
    if not asked:
        assert short is None and text.endswith("no node that it may use takes pods")
        return
    assert short is not None
    sums = {name: sum(each.amounts().get(name, 0) for each in free) for name in asked}
    assert short.asked == asked[short.resource]
    assert short.need == role.count * short.asked
    assert short.free == sums[short.resource]
    assert quantity(short.resource, short.need) in text
    first = next(iter(asked))
    if said.reason is PendingReason.CAPACITY:
        assert not short.beside
        assert short.free < short.need, "there is enough of it"
        worth = {name: sums[name] // asked[name] for name in asked}
        assert worth[short.resource] == min(worth.values()), "another resource is shorter"
    else:
        assert said.reason is PendingReason.FRAGMENTATION
        assert all(sums[name] >= role.count * asked[name] for name in asked)
        if short.beside:
            assert short.beside == first != short.resource
            fits = {name: rooms(free, pod, first, name) for name in asked if name != first}
            assert fits[short.resource] == min(fits.values()) < rooms(free, pod, first)
        else:
            assert short.resource == first and rooms(free, pod, first) == rooms(free, pod)
    beside = asked[short.beside] if short.beside else 0
    assert short.most == max(
        (
            each.amounts().get(short.resource, 0)
            for each in free
            if not short.beside or each.amounts()[short.beside] >= beside
        ),
        default=0,
    )


def check_unmet(nodes: list[Node], usable: list[Node], role: Role, unmet: Unmet, text: str) -> None:
    """Hold what is said to be impossible against all nodes."""
    selector, asked = role.selector, role.pod.amounts()
    pools = {node.pool for node in nodes}
    models = {node.gpu_model for node in nodes}
    match unmet.lack:
        case Lack.POOL:
            assert selector.pool not in pools and not usable
            assert set(unmet.pools) == pools and repr(selector.pool) in text
        case Lack.MODEL:
            assert selector.gpu_model not in models and not usable
            assert set(unmet.models) == models and repr(selector.gpu_model) in text
        case Lack.MODEL_IN_POOL:
            assert selector.pool in pools and selector.gpu_model in models and not usable
            assert set(unmet.models) == {n.gpu_model for n in nodes if n.pool == selector.pool}
            assert set(unmet.pools) == {n.pool for n in nodes if n.gpu_model == selector.gpu_model}
        case Lack.NODE:
            small = {
                name: max(node.capacity.amounts().get(name, 0) for node in usable)
                for name, amount in asked.items()
                if amount > max(node.capacity.amounts().get(name, 0) for node in usable)
            }
            assert {offer.resource: offer.most for offer in unmet.offers} == small
            for offer in unmet.offers:
                assert offer.asked == asked[offer.resource] > offer.most
                assert quantity(offer.resource, offer.asked) in text
        case Lack.MIX:
            assert usable and not any(node.capacity.holds(role.pod) for node in usable)
            if unmet.offers:
                one, two = unmet.offers
                having = [
                    n for n in usable if n.capacity.amounts().get(one.resource, 0) >= one.asked
                ]
                assert having
                most = max(node.capacity.amounts().get(two.resource, 0) for node in having)
                assert two.most == most < two.asked
        case Lack.COUNT:
            assert unmet.num_nodes == len(usable)
            assert unmet.hold_pods == rooms([n.capacity for n in usable], role.pod) < role.count
            assert unmet.hold_pods > 0
            empty = [node.capacity for node in usable]
            first, *others = (name for name, amount in asked.items() if amount > 0)
            if rooms(empty, role.pod, first) == unmet.hold_pods:
                assert unmet.resource == first
            else:
                fits = {name: rooms(empty, role.pod, first, name) for name in others}
                assert fits[unmet.resource] == min(fits.values())
        case _:
            raise AssertionError(unmet.lack)


pairs = st.tuples(
    st.builds(Role, st.integers(1, 3), shapes, selectors, st.just("master")),
    st.builds(Role, st.integers(1, 5), shapes, selectors, st.just("worker")),
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(machines, st.lists(shapes, max_size=12), st.lists(pairs, min_size=1, max_size=4))
def test_numbers_of_gangs_of_two_kinds_of_pods_are_true(
    nodes: list[tuple[PodShape, str, str, bool]], held: list[PodShape], wanted: list[Any]
) -> None:
    state = ClusterState(
        [Node(f"n{i}", shape, pool, model) for i, (shape, pool, model, _) in enumerate(nodes)]
    )
    for i, shape in enumerate(held):
        name = f"n{i % len(nodes)}"
        if state.capacity.free_on(state.capacity.index_of[name]).holds(shape):
            apply(state, ForeignPodBound(f"f{i}", name, shape))
    for i, both in enumerate(wanted):
        apply(state, GangSubmitted(Gang(f"g{i}", both, i)))
    let_pass(state, STRICT)
    free_on = list(zip(state.capacity.nodes, state.capacity.free_on_each(), strict=True))
    for i, both in enumerate(wanted):
        if not state.gangs[f"g{i}"].missing:
            continue
        said = explain(state, f"g{i}")
        assert why(said, said.need_pods)
        if said.reason is PendingReason.NEVER_FITS:
            assert said.unmet is not None
            for offer in said.unmet.offers if said.unmet.lack is Lack.ROLES else ():
                assert offer.asked == sum(r.count * r.pod.amount(offer.resource) for r in both)
                assert offer.asked > offer.most
        if said.short is None:
            continue
        short = said.short
        asking = [role for role in both if role.pod.amount(short.resource)]
        usable = [
            free for node, free in free_on if any(allowed(node, role.selector) for role in asking)
        ]
        assert short.asked == max(role.pod.amount(short.resource) for role in asking)
        assert short.need == sum(r.count * r.pod.amount(short.resource) for r in asking)
        assert short.free == sum(free.amount(short.resource) for free in usable)
        if said.reason is PendingReason.CAPACITY:
            by_selector: dict[Selector, int] = {}
            for role in asking:
                need = role.count * role.pod.amount(short.resource)
                by_selector[role.selector] = by_selector.get(role.selector, 0) + need
            assert any(
                sum(f.amount(short.resource) for n, f in free_on if allowed(n, selector)) < need
                for selector, need in by_selector.items()
            ), "there is enough of it"
