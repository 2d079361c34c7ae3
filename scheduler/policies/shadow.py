"""EASY backfill: let later gangs run now if the head gang's start is not delayed.

Lifka, "The ANL/IBM SP scheduling system" (1995); Mu'alem and Feitelson, IEEE TPDS 12(6), 2001.
The papers count processors of one pool. Here the head needs pods of a shape on nodes, so what is
free, spare or lost is counted in pods of the head's shape; for 1-GPU pods that is the pool.
"""

from __future__ import annotations

from itertools import groupby
from math import inf
from operator import itemgetter
from typing import NamedTuple

from scheduler.core.capacity import Capacity, NodeGroup
from scheduler.core.model import NodeStatus, Placement, PodShape, Role
from scheduler.core.placement import Placer, place
from scheduler.core.queueing import GangState, Release
from scheduler.core.state import ClusterState


class Shadow(NamedTuple):
    """When the head gang can start at the latest, and what will still be free then."""

    start_s: float
    spare_pods: int  #: pods of the head's shape; 0 if its roles differ in shape


def shadow(state: ClusterState, head: GangState, placer: Placer, now_s: float) -> Shadow:
    """Return the earliest time at which `head` fits if running gangs end at their walltimes.

    Gangs that run past their walltime are expected to end now. `start_s` is inf if the head does
    not fit even then, because nodes are out of service or foreign pods hold them.
    """
    if len(head.missing) == 1:
        return _shadow_of_one_role(state, head.missing[0], now_s)
    return _shadow_of_roles(state, head, placer, now_s)


def _shadow_of_one_role(state: ClusterState, role: Role, now_s: float) -> Shadow:
    capacity = state.capacity
    pod = role.pod
    only_gpus = (
        pod.gpus > 0
        and not (pod.cpu_milli or pod.mem_mib)
        and NodeStatus.CORDONED not in capacity.unschedulable.values()
    )
    gain = (_GpuGain if only_gpus else Gain)(capacity, role)
    short = role.count - capacity.slots(pod, role.selector)
    start_s = inf
    for end_s, _, _, member in state.ends:
        if end_s > start_s:
            break
        short -= gain.of(member)
        if short <= 0 and start_s == inf:
            start_s = max(end_s, now_s)
    return Shadow(start_s, max(0, -short)) if start_s < inf else Shadow(inf, 0)


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
                    free = self._released.get(node) or capacity.free[node]
                    more = self._released[node] = free.plus(given, pods_per_node)
                    gain += rooms[more] - rooms[free]
        return gain


class _GpuGain:
    """The same where only GPUs count and no node is cordoned.

    A node that one gang fills then gives room for as many pods as it has, and on the others it is
    enough to count GPUs.
    """

    def __init__(self, capacity: Capacity, wanted: Role) -> None:
        self._capacity = capacity
        self._selector = wanted.selector
        self._gpus = wanted.pod.gpus
        self._released: dict[int, int] = {}

    def of(self, member: GangState) -> int:
        """Return the gain of one more gang's end."""
        capacity, each, released = self._capacity, self._gpus, self._released
        release = member.release
        if release is None or release.held is not member.held:
            release = member.release = _release(capacity, member)
        gain = 0
        for group, num_nodes in release.whole:
            if group.allows(self._selector):
                gain += num_nodes * (group.capacity.gpus // each)
        for node, gpus in release.partial:
            if capacity.group_of[node].allows(self._selector):
                free = released.get(node)
                if free is None:
                    free = capacity.free[node].gpus
                more = released[node] = free + gpus
                gain += more // each - free // each
        return gain


def _release(capacity: Capacity, member: GangState) -> Release:
    roles = member.gang.roles
    whole: dict[NodeGroup, int] = {}
    partial: list[tuple[int, int]] = []
    for role, lo, hi, pods_per_node in member.held:
        group = capacity.group_of[lo]
        gpus = roles[role].pod.gpus * pods_per_node
        if gpus == group.capacity.gpus:
            whole[group] = whole.get(group, 0) + hi - lo
        else:
            partial += [(node, gpus) for node in range(lo, hi)]
    return Release(member.held, tuple(whole.items()), tuple(partial))


def _shadow_of_roles(state: ClusterState, head: GangState, placer: Placer, now_s: float) -> Shadow:
    capacity = state.capacity
    with capacity.trial():
        for end_s, together in groupby(state.ends, key=itemgetter(0)):
            for *_, member in together:
                capacity.give_back(member.gang.roles, member.held)
            if place(capacity, head.missing, placer) is not None:
                return Shadow(max(end_s, now_s), 0)
    return Shadow(inf, 0)


class Room:
    """What gangs that start now must leave free for the head at its shadow time.

    One object serves one pass; it remembers what earlier admissions of the pass took.
    """

    __slots__ = ("_head", "_returning", "_state", "spare_pods", "start_s")

    def __init__(
        self, state: ClusterState, head: GangState, start_s: float, spare_pods: int
    ) -> None:
        self._state = state
        self._head = head
        self.start_s = start_s
        #: pods of the head's shape that may still be taken beyond `start_s`
        self.spare_pods = spare_pods
        #: node -> what gangs admitted in this pass give back on it before `start_s`
        self._returning: dict[int, PodShape] = {}

    def may_outlast(self, roles: tuple[Role, ...], size: int) -> bool:
        """True if such a gang may run past the shadow time, as far as its size alone tells."""
        if len(self._head.missing) > 1:
            return False
        wanted = self._head.missing[0]
        if len(roles) > 1 or not wanted.pod.gpus or wanted.selector != roles[0].selector:
            return True
        return size * (roles[0].pod.gpus // wanted.pod.gpus) <= self.spare_pods

    def lend(self, roles: tuple[Role, ...], placement: Placement) -> None:
        """Note a gang, just placed, that ends before the shadow time."""
        free = self._state.capacity.free
        for role, lo, hi, pods_per_node in placement:
            if free[lo].gpus:  # a full node takes no further pod in this pass
                for node in range(lo, hi):
                    before = self._returning.get(node, PodShape(0))
                    self._returning[node] = before.plus(roles[role].pod, pods_per_node)

    def give(self, roles: tuple[Role, ...], placement: Placement) -> bool:
        """Take what `placement`, not yet taken, costs beyond the shadow time; False if too much."""
        lost = self._pods_lost(roles, placement)
        if lost > self.spare_pods:
            return False
        self.spare_pods -= lost
        return True

    def _pods_lost(self, roles: tuple[Role, ...], placement: Placement) -> int:
        """Return how many pods of the head's shape `placement` takes away at the shadow time."""
        state = self._state
        capacity = state.capacity
        wanted = self._head.missing[0]
        rooms = capacity.rooms(wanted.pod)
        lost = 0
        for role, lo, hi, pods_per_node in placement:
            if not capacity.group_of[lo].allows(wanted.selector):
                continue
            pod = roles[role].pod
            if not self._returning and not any(state.on_node[lo:hi]):
                ranges = [(capacity.free[lo], hi - lo)]  # idle nodes with the same amount free
            else:
                ranges = [(self._free_at_start(node), 1) for node in range(lo, hi)]
            for free, num_nodes in ranges:
                rest = free.plus(pod, -pods_per_node)
                lost += num_nodes * (rooms[free] - rooms[rest])
        return lost

    def _free_at_start(self, node: int) -> PodShape:
        """Return what will be free on a node once every gang due by the shadow time has ended."""
        state = self._state
        free = state.capacity.free[node]
        if node in self._returning:
            free = free.plus(self._returning[node])
        for owner in dict.fromkeys(state.on_node[node]):
            member = state.gangs.get(owner)
            if member is None or member.expected_end_s > self.start_s:
                continue
            for role, lo, hi, pods_per_node in member.held:
                if lo <= node < hi:
                    free = free.plus(member.gang.roles[role].pod, pods_per_node)
        return free
