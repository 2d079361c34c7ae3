"""What is kept across many groups of nodes is what a look at each of them finds."""

from __future__ import annotations

import random

import pytest

from scheduler.core.capacity import Capacity
from scheduler.core.model import Node, NodeStatus, Placement, PodShape, Role, Selector
from scheduler.core.nodeset import NodeSet
from scheduler.core.placement import _by_room, pack

GROUPS = 12
ALL = 10**9  #: pods: more than there is room for
ROLES = [
    Role(count, PodShape(gpus, cpus, 0), Selector(pool), "w")
    for count in (1, 3, 20)
    for gpus, cpus in ((0, 3), (1, 1), (2, 10), (8, 10))
    for pool in ("", "|".join(f"p{number}" for number in range(0, GROUPS, 2)) + "|p1|p3|p5|p7")
]


def cluster(draw: random.Random) -> Capacity:
    """Return nodes of which some differ, in many groups."""
    return Capacity(
        Node(f"n{at}", PodShape(draw.choice([4, 8]), draw.choice([10, 20]), 0), f"p{at % GROUPS}")
        for at in range(3 * GROUPS)
    )


def change(capacity: Capacity, held: list[tuple[Role, Placement]], draw: random.Random) -> None:
    """Have something happen to the cluster."""
    match draw.randrange(5):
        case 0 if held:
            role, placement = held.pop(draw.randrange(len(held)))
            capacity.give_back((role,), placement)
        case 1:
            at = draw.randrange(len(capacity.nodes))
            capacity.set_status(at, draw.choice(list(NodeStatus)))
        case 2 if draw.random() < 0.1:
            pool = f"p{draw.randrange(GROUPS + 2)}"
            capacity.add_node(Node(f"x{len(capacity.nodes)}", PodShape(8, 10, 0), pool))
        case 3:
            with capacity.trial():
                for role, placement in held[:2]:
                    capacity.give_back((role,), placement)
                agree(capacity, draw.choice(ROLES))
        case _:
            role = draw.choice(ROLES)
            slices = pack(capacity, role, 0)
            if slices is not None:
                capacity.take((role,), slices)
                held.append((role, tuple(slices)))


def agree(capacity: Capacity, role: Role) -> None:
    """Compare what is kept with a look at each group."""
    found = capacity.fits_of(role)
    kept, full = capacity.across(found), _by_room(found)
    assert kept.pods() == found.pods() == sum(fit.pods() for fit in found.fits)
    assert kept.by_room(ALL) == full
    for num_pods in (1, 2, 5, 17):
        assert kept.by_room(num_pods) == cut(full, num_pods)


def cut(full: list[tuple[int, NodeSet]], num_pods: int) -> list[tuple[int, NodeSet]]:
    """Return the sets that hold so many pods, and the first with each lesser room."""
    found: list[tuple[int, NodeSet]] = []
    for room, nodes in full:
        if num_pods > 0 or room < found[-1][0]:
            found.append((room, nodes))
            num_pods -= room * len(nodes)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_it_is_what_a_look_at_each_group_finds(seed: int) -> None:
    draw = random.Random(seed)
    capacity = cluster(draw)
    held: list[tuple[Role, Placement]] = []
    for _ in range(60):
        change(capacity, held, draw)
        agree(capacity, draw.choice(ROLES))
