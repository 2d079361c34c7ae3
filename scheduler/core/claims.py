"""Claims: nodes that gangs are leaving, kept for the gang that they were evicted for.

Victims leave later than they are told. What they free is taken for the claim at once, node by node,
so that nobody else starts there: no third gang, and no victim that comes back. What the claim wants
of a node and is not free yet, gangs that leave hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from scheduler.core.capacity import Capacity
from scheduler.core.model import Placement, PodShape, Role, Slice
from scheduler.core.quota import Amounts

_NOTHING = PodShape(0)


class Claim:
    """What is kept for one gang."""

    __slots__ = ("amounts", "gang", "placement", "rest", "taken", "victims")

    def __init__(
        self,
        gang: str,
        placement: Placement,
        amounts: Amounts,
        victims: Iterable[str],
        rest: dict[int, PodShape],
        taken: dict[int, PodShape],
    ) -> None:
        self.gang = gang
        self.placement = placement  #: where it will start
        self.amounts = amounts  #: that it takes of its queue's quota, from now on
        self.victims = tuple(victims)  #: who has to leave before it starts, and has not yet
        self.rest = rest  #: by node, what is still to come
        self.taken = taken  #: by node, what is kept already

    def copied(self) -> Claim:
        """Return an equal claim, on which changes of this one do not tell."""
        return Claim(
            self.gang,
            self.placement,
            self.amounts,
            self.victims,
            dict(self.rest),
            dict(self.taken),
        )

    @property
    def is_met(self) -> bool:
        """True if its gang can start."""
        return not self.rest and not self.victims

    def fill(self, capacity: Capacity) -> bool:
        """Take what came free of what it wants; return True if that is anything."""
        found: dict[int, PodShape] = {}
        #: by the ids of what is free and what is wanted: many nodes share the same two
        least: dict[tuple[int, int], PodShape] = {}
        for node, wants in self.rest.items():
            free = capacity.free_on(node)
            more = least.get((id(free), id(wants)))
            if more is None:
                more = free.least(wants)
                more = least[id(free), id(wants)] = wants if more == wants else more
            if more != _NOTHING:
                found[node] = more
        take(capacity, found)
        for node, more in found.items():
            had, wants = self.taken.get(node), self.rest[node]
            self.taken[node] = more if had is None else had.plus(more)
            if more is wants:
                del self.rest[node]
            else:
                self.rest[node] = wants.plus(more, -1)
        return bool(found)

    def release(self, capacity: Capacity) -> None:
        """Give back all that is kept."""
        for roles, placement in _by_shape(self.taken):
            capacity.give_back(roles, placement)
        self.taken = {}


def wanted(roles: tuple[Role, ...], placement: Placement) -> dict[int, PodShape]:
    """Return what pods on these nodes take, by node."""
    found: dict[int, PodShape] = {}
    for role, lo, hi, pods_per_node in placement:
        pods = _NOTHING.plus(roles[role].pod, pods_per_node)
        if pods != _NOTHING:
            for node in range(lo, hi):
                had = found.get(node)
                found[node] = pods if had is None else had.plus(pods)
    return found


def take(capacity: Capacity, amounts: Mapping[int, PodShape]) -> None:
    """Occupy so much of each node."""
    for roles, placement in _by_shape(amounts):
        capacity.take(roles, placement)


def _by_shape(amounts: Mapping[int, PodShape]) -> Iterator[tuple[tuple[Role, ...], Placement]]:
    """Yield amounts by node as pods, all of one shape at a time."""
    found: dict[int, tuple[PodShape, list[Slice]]] = {}  # by id: to hash shapes takes long
    for node, shape in amounts.items():
        known = found.get(id(shape))
        if known is None:
            known = found[id(shape)] = (shape, [])
        slices = known[1]
        if slices and slices[-1].hi == node:
            slices[-1] = Slice(0, slices[-1].lo, node + 1, 1)
        else:
            slices.append(Slice(0, node, node + 1, 1))
    for shape, slices in found.values():
        yield (Role(1, shape),), tuple(slices)


def copied(claims: Mapping[str, Claim]) -> dict[str, Claim]:
    """Return equal claims."""
    return {name: claim.copied() for name, claim in claims.items()}
