"""The index of free nodes beside a list of nodes that is looked through each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.capacity import Capacity
from scheduler.core.model import Node, NodeStatus, PodShape, Role, Selector, Slice
from scheduler.core.placement import pack

PODS = [PodShape(8), PodShape(1), PodShape(2, 300, 5), PodShape(1, 700), PodShape(0, 130, 1)]
POOLS = ["", "a", "b", "a|b"]
SMALL, LARGE = PodShape(4, 4_000, 40), PodShape(8, 8_000, 80)


class NaiveCapacity:
    """What is free on each node, and nothing else."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.free = [node.capacity for node in nodes]
        self.closed: set[int] = set()

    def room(self, pod: PodShape, pool: str) -> list[int]:
        """Return how many pods fit on each node."""
        return [
            free.holds(pod) if at not in self.closed and node.pool in (pool or node.pool) else 0
            for at, (node, free) in enumerate(zip(self.nodes, self.free, strict=True))
        ]

    def change(self, pod: PodShape, placement: list[Slice], sign: int) -> None:
        """Add `sign` x what the slices hold."""
        for _, lo, hi, pods_per_node in placement:
            for at in range(lo, hi):
                self.free[at] = self.free[at].plus(pod, sign * pods_per_node)


def cluster() -> list[Node]:
    """Two pools of two sizes, in the order in which `Capacity` numbers them."""
    return [
        Node(f"{pool}{capacity.gpus}{at}", capacity, pool=pool)
        for pool in ("a", "b")
        for capacity in (SMALL, LARGE)
        for at in range(4)
    ]


def counts_agree(capacity: Capacity, naive: NaiveCapacity) -> None:
    """Compare what fits and what is free in all."""
    for pod in PODS:
        for pool in POOLS:
            assert capacity.slots(pod, Selector(pool)) == sum(naive.room(pod, pool))
    for pool in POOLS:
        gpus = sum(
            free.gpus
            for at, (node, free) in enumerate(zip(naive.nodes, naive.free, strict=True))
            if at not in naive.closed and node.pool in (pool or node.pool)
        )
        assert capacity.free_gpus(Selector(pool)) == gpus


def agree(capacity: Capacity, naive: NaiveCapacity) -> None:
    """Compare all that can be asked."""
    assert capacity.free_on_each() == naive.free
    assert [capacity.free_on(at) for at in range(len(naive.nodes))] == naive.free
    counts_agree(capacity, naive)
    for pod in PODS:
        for pool in POOLS:
            room = naive.room(pod, pool)
            found = [
                (each, at)
                for fit in capacity.fits(pod, Selector(pool))
                for each, nodes in fit.by_room()
                for lo, hi in nodes
                for at in range(lo, hi)
            ]
            assert sorted(found) == sorted((each, at) for at, each in enumerate(room) if each)


Step = tuple[str, int, int, int, bool]
steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "give", "close", "open", "try", "undo"]),
        st.integers(0, len(PODS) - 1),
        st.integers(1, 12),
        st.integers(0, 15),
        st.booleans(),
    ),
    min_size=1,
    max_size=40,
)


@given(steps=steps, prune_at=st.sampled_from([2, 5, 64]))
def test_the_index_agrees_with_a_plain_list(steps: list[Step], prune_at: int) -> None:
    naive = NaiveCapacity(cluster())
    capacity = Capacity(naive.nodes)
    assert capacity.nodes == naive.nodes
    held: list[tuple[PodShape, list[Slice]]] = []
    tried: list[tuple[list[PodShape], list[tuple[PodShape, list[Slice]]]]] = []
    outer = []
    for act, pod_at, count, at, is_asked in steps:
        for group in capacity.groups:
            group.prune_at = min(group.prune_at, prune_at)
        pod = PODS[pod_at]
        role = Role(count, pod, Selector(POOLS[at % 4]))
        if act == "take":
            slices = pack(capacity, role, 0)
            assert (slices is not None) == (count <= sum(naive.room(pod, POOLS[at % 4])))
            if slices is not None:
                capacity.take((role,), slices)
                naive.change(pod, slices, -1)
                held.append((pod, slices))
        elif act == "give" and held:
            pod, slices = held.pop(at % len(held))
            capacity.give_back((Role(1, pod),), slices)
            naive.change(pod, slices, 1)
        elif act == "try":
            tried.append((list(naive.free), list(held)))
            outer.append(capacity.begin_trial())
        elif act == "undo" and tried:
            naive.free, held = tried.pop()
            capacity.undo_trial(outer.pop())
        elif act in ("close", "open") and not tried:
            closes = act == "close"
            capacity.set_status(at, NodeStatus.CORDONED if closes else NodeStatus.SCHEDULABLE)
            (naive.closed.add if closes else naive.closed.discard)(at)
        if is_asked:
            agree(capacity, naive)
    agree(capacity, naive)


def test_shapes_that_no_node_has_are_forgotten() -> None:
    capacity = Capacity([Node("n", PodShape(8, 1_000_000))])
    (group,) = capacity.groups
    for milli in range(1, 1_000):
        role = Role(1, PodShape(1, milli))
        capacity.take((role,), [Slice(0, 0, 1, 1)])
        capacity.give_back((role,), [Slice(0, 0, 1, 1)])
    assert len(group.shapes) <= group.prune_at == 64


def test_a_question_after_many_moves_is_counted_anew() -> None:
    capacity = Capacity([Node(f"n{at:02}", PodShape(8)) for at in range(10)])
    whole, single = Role(1, PodShape(8)), Role(1, PodShape(1))
    assert capacity.slots(whole.pod, whole.selector) == 10
    for _ in range(100):
        capacity.take((single,), [Slice(0, 3, 4, 1)])
        capacity.give_back((single,), [Slice(0, 3, 4, 1)])
    assert not capacity.groups[0].counted(), "nobody asked for long"
    capacity.take((single,), [Slice(0, 3, 4, 1)])
    assert capacity.slots(whole.pod, whole.selector) == 9
