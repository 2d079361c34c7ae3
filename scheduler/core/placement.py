"""Which nodes a gang gets. A placer reads the free index and returns slices, or None.

Placers look at one role at a time; `place` gives a gang of different pods its nodes role by role,
within a trial, so that a role sees what those before it took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from operator import itemgetter

from scheduler.core.capacity import Capacity
from scheduler.core.model import Placement, Role, Slice, of_one_shape
from scheduler.core.nodeset import NodeSet
from scheduler.core.rolefits import FEW, RoleFits

#: places one role: (capacity, role, index of the role) -> slices in topology order, or None
Placer = Callable[[Capacity, Role, int], "list[Slice] | None"]

#: makes a named tuple of a tuple three times as fast as its own constructor
_slice = tuple.__new__
_by_role = itemgetter(0)
_by_node = itemgetter(1)
_first_three = itemgetter(0, 1, 2)


def place(capacity: Capacity, roles: tuple[Role, ...], placer: Placer) -> Placement | None:
    """Return nodes for every pod of every role, or None; changes nothing.

    Equal pods are placed together, whatever their roles, and then dealt out role by role. Roles of
    different pods are placed one after the other, in their order and, if that fails, the largest
    pods first. Other arrangements are not tried.
    """
    one = roles[0] if len(roles) == 1 else of_one_shape(roles)
    if one is not None:
        slices = placer(capacity, one, 0)
        if slices is None:
            return None
        return tuple(slices) if one is roles[0] else _deal(roles, slices)
    given = list(range(len(roles)))
    largest_first = sorted(given, key=lambda index: roles[index].pod, reverse=True)
    placement = _place_in_turn(capacity, roles, placer, given)
    if placement is None and largest_first != given:
        placement = _place_in_turn(capacity, roles, placer, largest_first)
    return placement


def _deal(roles: tuple[Role, ...], slices: list[Slice]) -> Placement:
    """Give each of some roles of equal pods its share of the slices, in their order."""
    dealt: list[Slice] = []
    index, left = 0, roles[0].count
    for _, lo, hi, each in slices:
        at, here = lo, each  # `here` pods of the node `at` are not dealt yet
        while at < hi:
            while not left:
                index += 1
                left = roles[index].count
            if here == each and left >= each:
                whole = min(left // each, hi - at)
                dealt.append(Slice(index, at, at + whole, each))
                at += whole
                left -= whole * each
                continue
            pods = min(left, here)
            dealt.append(Slice(index, at, at + 1, pods))
            left -= pods
            here -= pods
            if not here:
                at, here = at + 1, each
    return tuple(dealt)


def _place_in_turn(
    capacity: Capacity, roles: tuple[Role, ...], placer: Placer, order: list[int]
) -> Placement | None:
    chosen: list[Slice] = []
    with capacity.trial():
        for index in order:
            slices = placer(capacity, roles[index], index)
            if slices is None:
                return None
            capacity.take(roles, slices)
            chosen += slices
    return tuple(sorted(chosen, key=_by_role))


def pack(capacity: Capacity, role: Role, index: int) -> list[Slice] | None:
    """Use the fewest nodes, and of these the tightest; ties go to the lowest index.

    Emptier nodes are filled while one node cannot hold the rest of the gang; the rest goes to
    the node that it fills best. Pods that need a whole node take whole nodes.
    """
    left = role.count
    found = capacity.fits_of(role)
    if left > found.pods():
        return None
    chosen: list[Slice] = []
    if not left:
        return chosen
    few = len(found.fits) <= FEW
    by_room = _by_room(found) if few else capacity.across(found).by_room(left)
    for at, (room, nodes) in enumerate(by_room):
        if left <= room:
            return _finish(chosen, _tightest(by_room, at, left).first(), left, index)
        used = min(left // room, nodes.size)
        for lo, hi in nodes.lowest(used):
            chosen.append(_slice(Slice, (index, lo, hi, room)))
        left -= used * room
        if not left:
            return chosen if at == 0 else sorted(chosen, key=_by_node)
        if used < nodes.size:
            # fewer than `room` pods are left, and this set still has a node behind those just used
            tightest = _tightest(by_room, at, left)
            node = tightest.at(used) if tightest is nodes else tightest.first()
            return _finish(chosen, node, left, index)
    return None


def _by_room(found: RoleFits) -> list[tuple[int, NodeSet]]:
    """Return (pods that fit on one node, such nodes) from the roomiest to the tightest.

    Of those with equal room the ones with fewer free GPUs come first, then the earlier group.
    """
    fits = found.fits
    if len(fits) == 1:
        return fits[0].by_room()
    rooms = [
        (-room, free.gpus, order, room, nodes)
        for order, fit in enumerate(fits)
        for room, free, nodes in fit.sets()
    ]
    rooms.sort(key=_first_three)
    return [(room, nodes) for *_, room, nodes in rooms]


def _tightest(by_room: list[tuple[int, NodeSet]], at: int, left: int) -> NodeSet:
    """Return the fullest nodes, from `at` on, that still hold `left` pods; the first there do.

    Where several sets have the same room, the first has the fewest free GPUs.
    """
    best_room, nodes = by_room[at]
    for room, tighter in by_room[at:]:
        if room < left:
            break
        if room < best_room:
            best_room, nodes = room, tighter
    return nodes


def _finish(chosen: list[Slice], node: int, left: int, index: int) -> list[Slice]:
    """Add the `left` pods on one node more."""
    chosen.append(_slice(Slice, (index, node, node + 1, left)))
    return chosen if len(chosen) == 1 else sorted(chosen, key=_by_node)


def first_fit(capacity: Capacity, role: Role, index: int) -> list[Slice] | None:
    """Walk the nodes by index and fill each as far as it goes."""
    found = capacity.fits_of(role)
    if role.count and found.pods() < role.count:
        return None
    left = role.count
    chosen: list[Slice] = []
    for lo, hi, room in _in_index_order(found):
        whole = min(left // room, hi - lo)
        if whole:
            chosen.append(Slice(index, lo, lo + whole, room))
            left -= whole * room
        if left and whole < hi - lo:
            chosen.append(Slice(index, lo + whole, lo + whole + 1, left))
            left = 0
        if not left:
            break
    return chosen


def _in_index_order(found: RoleFits) -> Iterator[tuple[int, int, int]]:
    """Yield (lo, hi, pods that fit on each node) by node index."""

    def ranges(room: int, nodes: NodeSet) -> Iterator[tuple[int, int, int]]:
        return ((lo, hi, room) for lo, hi in nodes)

    return merge(*(ranges(room, nodes) for fit in found.fits for room, nodes in fit.by_room()))


def spread(capacity: Capacity, role: Role, index: int) -> list[Slice] | None:
    """Use as many nodes as there are pods, the emptiest first; ties go to the lowest index.

    Where there are fewer nodes than pods, every node gets a second pod before any gets a third.
    """
    found = capacity.fits_of(role)
    if role.count and found.pods() < role.count:
        return None
    by_room = _by_room(found)
    left = role.count
    level = 0  # pods that every node with room for them already has
    while left > (with_more := sum(n.size for room, n in by_room if room > level)):
        left -= with_more
        level += 1
    chosen: list[Slice] = []
    for room, nodes in by_room:
        extra = min(left, nodes.size) if room > level else 0
        left -= extra
        ranges = nodes.lowest(extra) if extra else []
        chosen += [Slice(index, lo, hi, level + 1) for lo, hi in ranges]
        rest = min(room, level)
        if rest:
            chosen += [Slice(index, lo, hi, rest) for lo, hi in _after(nodes, extra)]
    return sorted(chosen, key=_by_node)


def _after(nodes: NodeSet, skip: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of `nodes` without its `skip` lowest indices."""
    for lo, hi in nodes:
        start = min(hi, lo + skip)
        skip -= start - lo
        if start < hi:
            yield start, hi
