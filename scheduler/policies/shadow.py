"""The shadow time: when the head can start at the latest if running gangs keep to their walltimes.

Mu'alem and Feitelson, IEEE TPDS 12(6), 2001. The paper counts processors of one pool. Here the head
needs pods of a shape on nodes, so what is spare is counted in pods of the head's shape; for 1-GPU
pods that is the pool.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from scheduler.core.capacity import Capacity
from scheduler.core.model import NodeStatus, PodShape, Role
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.placement import Placer, place
from scheduler.core.queueing import GangState, Release
from scheduler.core.quota import Amounts
from scheduler.core.quotabook import QuotaBook
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US


class Shadow(NamedTuple):
    """When the head gang can start at the latest, and what will still be free then."""

    start_us: int
    spare_pods: int  #: pods of the head's shape; 0 if its pods differ


def shadow(
    state: ClusterState,
    head: GangState,
    wanted: tuple[Role, ...],
    placer: Placer,
    now_us: int,
    from_us: int = 0,
) -> Shadow:
    """Return the earliest time at which `head` fits if running gangs end at their walltimes.

    `wanted` are the roles of its family, with the selectors of the nodes that it is to get. It
    starts at `from_us` at the earliest: a gang ends then that gives back the quota it lacks. Gangs
    that run past their walltime are expected to end now. `start_us` is `FOREVER_US` if the head
    does not fit even then, because nodes are out of service or foreign pods hold them.
    """
    if len(wanted) == 1:
        return _shadow_of_equal_pods(state, head, wanted[0], now_us, from_us)
    return _shadow_of_roles(state, head, wanted, placer, now_us, from_us)


def _shadow_of_equal_pods(
    state: ClusterState, head: GangState, role: Role, now_us: int, from_us: int
) -> Shadow:
    capacity, count = state.capacity, head.size
    pod = role.pod
    only_gpus = (
        pod.gpus > 0
        and pod == PodShape(pod.gpus)
        and NodeStatus.CORDONED not in capacity.unschedulable.values()
    )
    short = count - capacity.fits_of(role).pods()
    if only_gpus:
        return _shadow_of_gpus(state, head, role, short, now_us, from_us)
    gain = Gain(capacity, role)
    start_us = FOREVER_US
    for end_us, _, _, member in state.ends:
        if end_us > start_us:
            break
        if member is head:  # it misses ranks; the end of the others is of no use to it
            continue
        short -= gain.of(member)
        if short <= 0 and start_us == FOREVER_US and end_us >= from_us:
            start_us = max(end_us, now_us)
    return Shadow(start_us, max(0, -short)) if start_us < FOREVER_US else Shadow(FOREVER_US, 0)


def _shadow_of_gpus(
    state: ClusterState, head: GangState, role: Role, short: int, now_us: int, from_us: int
) -> Shadow:
    """Do the same where only GPUs count and no node is cordoned.

    A node that one gang fills then gives room for as many pods as it has, and on the others it is
    enough to count GPUs.
    """
    capacity = state.capacity
    each = role.pod.gpus
    #: pods on a node that is all free, for groups that the head may use
    whole_pods = {group: group.gpus_each // each for group in capacity.eligible(role.selector)}
    #: GPUs free by then on nodes that gangs share
    released: dict[int, int] = {}
    start_us = FOREVER_US
    for end_us, _, _, member in state.ends:
        if end_us > start_us:
            break
        if member is head:  # it misses ranks; the end of the others is of no use to it
            continue
        release = member.release
        if release is None or release.held is not member.held:
            release = member.release = _release(capacity, member)
        for group, num_nodes in release.whole:
            short -= num_nodes * whole_pods.get(group, 0)
        for node, gpus in release.partial:
            if capacity.group_of[node] in whole_pods:
                free = released.get(node)
                if free is None:
                    free = capacity.free_on(node).gpus
                more = released[node] = free + gpus
                short -= more // each - free // each
        if short <= 0 and start_us == FOREVER_US and end_us >= from_us:
            start_us = max(end_us, now_us)
    return Shadow(start_us, max(0, -short)) if start_us < FOREVER_US else Shadow(FOREVER_US, 0)


class Gain:
    """How many more pods of one role fit each time another gang ends."""

    def __init__(self, capacity: Capacity, wanted: Role) -> None:
        self._capacity = capacity
        self._wanted = wanted
        #: what is free by then on nodes that gangs asked about so far give back
        self._released: dict[int, PodShape] = {}

    def of(self, member: GangState) -> int:
        """Return the gain of one more gang's end."""
        capacity, wanted = self._capacity, self._wanted
        rooms = capacity.rooms(wanted.pod)
        gain = 0
        for role, lo, hi, pods_per_node in member.held:
            if not capacity.group_of[lo].allows(wanted.selector):
                continue
            given = member.gang.roles[role].pod
            for node in range(lo, hi):
                if node not in capacity.unschedulable:
                    free = self._released.get(node) or capacity.free_on(node)
                    more = self._released[node] = free.plus(given, pods_per_node)
                    gain += rooms[more] - rooms[free]
        return gain


def _release(capacity: Capacity, member: GangState) -> Release:
    roles = member.gang.roles
    whole: dict[NodeGroup, int] = {}
    partial: list[tuple[int, int]] = []
    for role, lo, hi, pods_per_node in member.held:
        group = capacity.group_of[lo]
        gpus = roles[role].pod.gpus * pods_per_node
        if gpus == group.gpus_each:
            whole[group] = whole.get(group, 0) + hi - lo
        else:
            partial += [(node, gpus) for node in range(lo, hi)]
    return Release(member.held, tuple(whole.items()), tuple(partial))


def _shadow_of_roles(
    state: ClusterState,
    head: GangState,
    wanted: tuple[Role, ...],
    placer: Placer,
    now_us: int,
    from_us: int,
) -> Shadow:
    capacity = state.capacity
    with capacity.trial():
        for end_us, together in groupby(state.ends, key=itemgetter(0)):
            for *_, member in together:
                if member is not head:
                    capacity.give_back(member.gang.roles, member.held)
            if end_us >= from_us and place(capacity, wanted, placer) is not None:
                return Shadow(max(end_us, now_us), 0)
    return Shadow(FOREVER_US, 0)


def quota_comes_us(state: ClusterState, book: QuotaBook, queue: int, amounts: Amounts) -> int:
    """Return when gangs that run have given back the quota that a queue lacks for this much.

    `FOREVER_US` if they never do, or have no walltimes.
    """
    tree = book.tree
    then = tree.copied_usage()
    ended: dict[tuple[int, int], int] = {}  #: given back by queue and cell, and not in `then` yet
    wanted = [one for one in amounts if not book.spans(queue, one[0])]
    lacks = {cell: amount - tree.available(queue, cell) for cell, amount in wanted}
    for end_us, _, _, member in state.ends:
        for cell, amount in member.quota_taken(book):
            key = (member.queue, cell)
            ended[key] = ended.get(key, 0) + amount
            if cell in lacks:
                lacks[cell] -= amount
        if max(lacks.values()) > 0:  # what a queue may use grows by no more than is given back
            continue
        for (other, cell), amount in ended.items():
            tree.give_back_in(then, other, ((cell, amount),))
        ended.clear()
        if book.fits_in(then, queue, amounts):
            return end_us
        lacks = {cell: amount - tree.available_in(then, queue, cell) for cell, amount in wanted}
    return FOREVER_US
