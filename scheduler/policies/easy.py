"""EASY backfill: let later gangs run now if the head gang's start is not delayed.

Lifka, "The ANL/IBM SP scheduling system" (1995); Mu'alem and Feitelson, IEEE TPDS 12(6), 2001.
The papers count processors of one pool. Here the head needs pods of a shape on nodes, so what is
free, spare or lost is counted in pods of the head's shape; for 1-GPU pods that is the pool.
"""

from __future__ import annotations

from scheduler.core.decisions import Reserve
from scheduler.core.model import Placement, PodShape, Role
from scheduler.core.queueing import Demand, Entry, Family, GangState
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US
from scheduler.policies.passes import Pass


def easy(around: Pass, head: GangState) -> None:
    """Admit later gangs that end before the head's shadow time or leave it enough room."""
    start_us, spare_pods = promise(around, head)
    pass_by(around, Room(around.state, head, head.family.roles, start_us, spare_pods))


def pass_by(around: Pass, room: Room) -> None:
    """Do so with the head's promise at hand."""
    start_us = room.start_us
    within_us = start_us - around.now_us if start_us < FOREVER_US else FOREVER_US
    too_large: set[Demand] = set()

    def first(family: Family, demand: Demand) -> Entry | None:
        if demand not in too_large and room.may_outlast(family.roles, demand.num_pods):
            return demand.first(around.taken)
        return demand.first_within(within_us, around.taken)

    def may_start(newcomer: GangState) -> bool:
        return newcomer.gang.walltime_us <= within_us or room.may_outlast(
            newcomer.family.roles, newcomer.size
        )

    for member, demand, placement in around.fitting(first, may_start):
        if member.gang.walltime_us <= within_us:
            around.admit(member, placement)
            room.lend(member.missing, placement)
        elif room.give(member.missing, placement):
            around.admit(member, placement)
        elif demand is not None:
            too_large.add(demand)  # others of the same shape would take as much


def promise(around: Pass, head: GangState) -> tuple[int, int]:
    """Return the start promised to the head and the pods to spare then; renew it if need be."""
    had = around.state.reservations.get(head.gang.name)
    if had is not None and had.valid and had.start_us >= around.now_us and not around.renews(head):
        return had.start_us, had.spare_pods
    start_us, spare_pods = around.shadow(head)
    around.made.append(Reserve(head.gang.name, start_us, spare_pods))
    if had is None or start_us > had.start_us or spare_pods > had.spare_pods:
        around.blocked = False  # a later start or more room may let earlier gangs pass
    return start_us, spare_pods


class Room:
    """What gangs that start now must leave free for the head at its shadow time.

    One object serves one pass; it remembers what earlier admissions of the pass took.
    """

    __slots__ = ("_head", "_lent", "_returning", "_state", "_wanted", "spare_pods", "start_us")

    def __init__(
        self,
        state: ClusterState,
        head: GangState,
        wanted: tuple[Role, ...],
        start_us: int,
        spare_pods: int,
    ) -> None:
        self._state = state
        self._head = head
        self._wanted = wanted
        self.start_us = start_us
        #: pods of the head's shape that may still be taken beyond `start_us`
        self.spare_pods = spare_pods
        #: gangs admitted in this pass that end before `start_us`, and
        self._lent: list[tuple[tuple[Role, ...], Placement]] = []
        #: node -> what they give back on it by then, as far as that was asked for
        self._returning: dict[int, PodShape] = {}

    def may_outlast(self, roles: tuple[Role, ...], size: int) -> bool:
        """True if a gang of this family may outlast the shadow time, as far as its size tells."""
        if len(self._wanted) > 1:
            return False
        wanted = self._wanted[0]
        if len(roles) > 1 or not wanted.pod.gpus or wanted.selector != roles[0].selector:
            return True
        return size * (roles[0].pod.gpus // wanted.pod.gpus) <= self.spare_pods

    def lend(self, roles: tuple[Role, ...], placement: Placement) -> None:
        """Note a gang, just placed, that ends before the shadow time."""
        self._lent.append((roles, placement))

    def _note_returning(self) -> None:
        """Note what gangs that are lent nodes give back."""
        capacity = self._state.capacity
        for roles, placement in self._lent:
            for role, lo, hi, pods_per_node in placement:
                files_full = capacity.group_of[lo].files_full
                for node in range(lo, hi):
                    # without a free GPU it takes no further pod in this pass, but such as need none
                    if files_full or capacity.free_on(node).gpus:
                        before = self._returning.get(node, PodShape(0))
                        self._returning[node] = before.plus(roles[role].pod, pods_per_node)
        self._lent.clear()

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
        if self._lent:
            self._note_returning()
        wanted = self._wanted[0]
        rooms = capacity.rooms(wanted.pod)
        rests: dict[int, PodShape] = {}  # where roles share a node, what those before leave of it
        lost = 0
        for role, lo, hi, pods_per_node in placement:
            if not capacity.group_of[lo].allows(wanted.selector):
                continue
            pod = roles[role].pod
            if len(roles) > 1:
                for node in range(lo, hi):
                    free = rests.get(node) or self._free_at_start(node)
                    rest = rests[node] = free.plus(pod, -pods_per_node)
                    lost += rooms[free] - (0 if rest.is_overdrawn else rooms[rest])
                continue
            if not self._returning and not any(state.on_node[lo:hi]):
                ranges = [(capacity.free_on(lo), hi - lo)]  # idle nodes with the same amount free
            else:
                ranges = [(self._free_at_start(node), 1) for node in range(lo, hi)]
            for free, num_nodes in ranges:
                rest = free.plus(pod, -pods_per_node)
                left = 0 if rest.is_overdrawn else rooms[rest]  # others are still to leave it
                lost += num_nodes * (rooms[free] - left)
        return lost

    def _free_at_start(self, node: int) -> PodShape:
        """Return what will be free on a node once every gang due by the shadow time has ended."""
        state = self._state
        free = state.capacity.free_on(node)
        if node in self._returning:
            free = free.plus(self._returning[node])
        for owner in dict.fromkeys(state.on_node[node]):
            member = state.gangs.get(owner)
            if member is None or member is self._head:
                continue  # the head waits for ranks it lost: its own end makes it no room
            if member.expected_end_us > self.start_us:
                continue
            for role, lo, hi, pods_per_node in member.held:
                if lo <= node < hi:
                    free = free.plus(member.gang.roles[role].pod, pods_per_node)
        return free
