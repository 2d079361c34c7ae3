"""What the cluster could hold if every gang ended: nodes in service, less what other pods take.

A gang that does not fit there waits for somebody to repair nodes or to move pods, not for its turn.
At the head of a queue it would block everybody, so it is set aside, and checked again once a node
or a pod of no gang may have made room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from math import inf

from scheduler.core.capacity import Capacity, in_order
from scheduler.core.model import FamilyKey, Node, Phase, Placement, PodShape, Role, Selector, Slice
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.placement import Placer, place
from scheduler.core.queueing import GangState
from scheduler.core.state import ClusterState

ZERO = PodShape(0)
MOST_LOOKED_AT = 200  #: gangs set aside that one pass looks at again
MOST_SET_ASIDE = 500  #: gangs of one pass: the next goes on
MOST_CHANGED = 500  #: nodes reported one by one: for more of them a rebuild costs less
MOST_TOLD = 5000  #: each leaves its shape in the index, which is rebuilt after so many
MOST_LOOKS = 10_000  #: of one pass, at nodes that pods are about to leave
MOST_NAMED = 3
RESTS = 10.0  #: heads that wait for pods that leave may block others again after so many patiences

#: what pods of no gang take of a node
Lasting = Callable[[str], PodShape]


class Standing:
    """Tells whether the head of the queue waits for its turn."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        lasting: Lasting,
        placer: Placer,
        leaving: Mapping[str, PodShape] | None = None,
    ) -> None:
        self._nodes = nodes
        #: by node: of that, what pods take that were told to go
        self._leaving = {} if leaving is None else leaving
        self._lasting = lasting
        self._placer = placer
        #: a gang that could be placed keeps its turn for so long when that ends, as nodes blink
        self.patience_s = 0.0
        self.look_s = inf  #: time alone may set the head aside then
        self._capacity: Capacity | None = None  #: made once a head does not fit
        self._life = 0  #: rebuilds of the core's state
        self._taken: dict[str, PodShape] = {}
        self._stale: set[str] = set()
        self._num_told = 0  #: changes since it was made
        self._rooms: dict[FamilyKey, int] = {}  #: the largest size that could be placed
        #: what a gang held and missed when it was asked for last, and whether it could be placed
        self._rest: tuple[Placement, tuple[Role, ...], bool] | None = None
        #: gangs that were set aside, and some that are gone; those looked at of late come last
        self.aside: dict[str, None] = {}
        self._causes: dict[str, str] = {}  #: what was said of some of them
        self._num_new = 0  #: in this pass
        self._num_unseen = 0  #: of them, those to be looked at since there is more room
        self._grew = False
        self._turn = ""  #: the last head that could be placed, or was waited for
        self._since_s = inf  #: since when no head could be placed
        self._until_s = 0.0  #: it is waited for no longer than that
        #: by pod and selector: how many more there is room for once those are gone that leave
        self._in_the_end: dict[tuple[PodShape, Selector], int] = {}
        self._num_looks = 0  #: of this pass, for that

    # -- facts -------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Forget all nodes: the core's state is rebuilt. Gangs set aside stay so there."""
        self._capacity = None
        self._life += 1
        self._stale.clear()

    def change(self, node: str) -> None:
        """Note that a node changed, or what pods of no gang take of it."""
        self._stale.add(node)

    @property
    def is_behind(self) -> bool:
        """True if an answer needs a count of all nodes first, which is best done in slices."""
        much = len(self._stale) > MOST_CHANGED or self._num_told > MOST_TOLD
        return self._capacity is None or much

    def _up_to_date(self) -> Capacity:
        """Return the cluster without gangs."""
        for _ in self.brought_up_to_date():
            pass
        assert self._capacity is not None
        return self._capacity

    def brought_up_to_date(self) -> Iterator[None]:
        """Count changed nodes in slices; more changes may arrive between two of them."""
        life = self._life
        if self.is_behind:
            self._life = life = life + 1
            self._stale.clear()
            taken: dict[str, PodShape] = {}
            left = []
            for node in list(self._nodes.values()):
                takes = self._lasting(node.name).least(node.capacity)
                if takes != ZERO:
                    taken[node.name] = takes
                    node = _without(node, takes)
                left.append(node)
                yield
            made = Capacity(())
            for node in in_order(left):
                made.add_node(node)
                yield
            if life != self._life:
                return  # a caller could not wait, or everything is rebuilt
            self._forget_answers()
            self._num_told = 0
            self._grew = True
            self._taken, self._capacity = taken, made
        capacity = self._capacity
        assert capacity is not None
        if self._stale:
            self._forget_answers()
            self._num_told += len(self._stale)
            while self._stale and life == self._life:
                self._bring(capacity, self._stale.pop())
                yield

    def _forget_answers(self) -> None:
        self._rooms.clear()
        self._in_the_end.clear()
        self._rest = None

    def _takes(self, name: str) -> PodShape:
        return self._lasting(name).least(self._nodes[name].capacity)

    def _bring(self, capacity: Capacity, name: str) -> None:
        fact, at = self._nodes.get(name), capacity.index_of.get(name)
        if fact is None:
            return  # the state is rebuilt soon
        if at is None:
            at = capacity.add_node(fact)
            self._grew = True
        elif capacity.set_status(at, fact.status):
            self._grew = True
        here = (Slice(0, at, at + 1, 1),)
        told = self._taken.pop(name, ZERO)
        takes = self._takes(name)
        if takes != told:
            if told != ZERO:
                capacity.give_back((Role(1, told),), here)
            capacity.take((Role(1, takes),), here)
            self._grew = self._grew or not takes.covers(told)
        if takes != ZERO:
            self._taken[name] = takes

    # -- questions ---------------------------------------------------------------------------

    def holds(self, member: GangState) -> bool:
        """True if what a gang lacks could be placed once all others ended."""
        capacity = self._up_to_date()
        if member.held:
            held, missing, found = self._rest or ((), (), False)
            if held is not member.held or missing is not member.missing:
                found = self._holds_the_rest(capacity, member)
                self._rest = (member.held, member.missing, found)
            return found
        family = member.family
        room = self._rooms.get(family.key)
        if room is None:
            room = self._rooms[family.key] = self._room(capacity, family.roles)
        return member.size <= room

    def _room(self, capacity: Capacity, roles: tuple[Role, ...]) -> int:
        if len(roles) == 1:
            return capacity.slots(roles[0].pod, roles[0].selector)
        return int(place(capacity, roles, self._placer) is not None)

    def _holds_the_rest(self, capacity: Capacity, member: GangState) -> bool:
        roles = member.gang.roles
        with capacity.trial():
            for role, lo, hi, pods in member.held:
                for at in range(lo, hi):
                    take = roles[role].pod
                    if not capacity.free_on(at).holds(take) >= pods:
                        return True  # more is there than the node has: nothing is known of it
                    capacity.take(roles, (Slice(role, at, at + 1, pods),))
            return place(capacity, member.missing, self._placer) is not None

    def has_its_turn(self, head: GangState) -> None:
        """Note that the head could be placed, now or when others end."""
        self._turn, self._since_s = head.gang.name, inf

    def bars(self, head: GangState, now_s: float) -> bool:
        """True once a head that waits for more than its turn has waited long enough.

        For pods that are leaving it may wait twice as long, however many leave one after another.
        """
        name = head.gang.name
        if self.holds(head):
            self.has_its_turn(head)
            return False
        since_s = self._since_s
        if not since_s <= now_s < since_s + RESTS * self.patience_s:
            since_s, self._until_s = now_s, now_s + self.patience_s
        if name != self._turn or now_s >= self._until_s:
            until_s = since_s + 2.0 * self.patience_s
            if now_s >= until_s or not self._holds_in_the_end(head):
                return True
            self._turn, self._until_s = name, until_s
        self._since_s, self.look_s = since_s, self._until_s
        return False

    def _holds_in_the_end(self, member: GangState) -> bool:
        """True if each part could be placed once those are gone that were told to go, as it seems.

        A pass looks at so many nodes for that: those it is not asked of let others pass meanwhile.
        """
        capacity, gains = self._up_to_date(), False
        for role in member.missing:
            known = self._in_the_end.get((role.pod, role.selector))
            if known is None:
                if 0 < self._num_looks > MOST_LOOKS - len(self._leaving):
                    return False
                self._num_looks += len(self._leaving)
                known = self._gained(capacity, role)
                self._in_the_end[role.pod, role.selector] = known
            if capacity.slots(role.pod, role.selector) + known < role.count:
                return False
            gains = gains or known > 0
        return gains

    def _gained(self, capacity: Capacity, role: Role) -> int:
        """Return how many more pods of a part there is room for without those that leave."""
        groups, num = capacity.eligible(role.selector), 0
        for name, leaves in self._leaving.items():
            at, fact = capacity.index_of.get(name), self._nodes.get(name)
            if at is None or fact is None or at in capacity.unschedulable:
                continue
            if _among(capacity.group_of[at], groups):
                free = fact.capacity.plus(self._lasting(name), -1).plus(leaves)
                num += max(0, free.holds(role.pod) - capacity.free_on(at).holds(role.pod))
        return num

    def fits(self, state: ClusterState, head: GangState) -> bool:
        """True if it is known that the head fits now."""
        roles = head.family.roles
        return len(roles) == 1 and state.capacity.fits_of(roles[0]).pods() >= head.size

    # -- those set aside ---------------------------------------------------------------------

    def begin(self) -> None:
        """Note that a pass begins."""
        self.look_s = inf
        self._num_new = self._num_looks = 0

    def set_aside(self, name: str) -> bool:
        """Note that a gang was set aside; False if that is enough for one pass."""
        self.aside[name] = None
        self._num_new += 1
        return self._num_new < MOST_SET_ASIDE

    def returning(self, state: ClusterState) -> list[str]:
        """Return gangs that were set aside and could now be placed; only some if there are many."""
        if not self.aside:
            return []
        self._up_to_date()
        if self._grew:
            self._grew = False
            self._num_unseen = len(self.aside)
        found = []
        for name in list(islice(self.aside, min(self._num_unseen, MOST_LOOKED_AT))):
            self._num_unseen -= 1
            del self.aside[name]
            member = state.gangs.get(name)
            if member is not None and member.phase is Phase.ASIDE:
                if not self.holds(member):
                    self.aside[name] = None  # behind all others, who have their turn first
                    continue
                found.append(name)
            self._causes.pop(name, None)
        return found

    @property
    def has_more(self) -> bool:
        """True if the next pass has more gangs to set aside, or to check again."""
        return self._num_unseen > 0 or self._num_new >= MOST_SET_ASIDE

    def num_aside(self, state: ClusterState) -> int:
        """Return how many gangs are set aside."""
        found = (state.gangs.get(name) for name in self.aside)
        return sum(member is not None and member.phase is Phase.ASIDE for member in found)

    def cause(self, member: GangState, closed_by: Callable[[str], str]) -> str:
        """Say what keeps a gang from the nodes that it may use; `closed_by` names why one is.

        While the nodes are counted, the earlier answer stays: readers can wait.
        """
        name = member.gang.name
        if not self.is_behind or name not in self._causes:
            said = self._cause(self._up_to_date(), member, closed_by)
            if name not in self.aside:
                return said
            self._causes[name] = said
        return self._causes[name]

    def _cause(self, capacity: Capacity, member: GangState, closed_by: Callable[[str], str]) -> str:
        role = max(member.missing, key=lambda role: (role.gpus, role.count))
        groups = capacity.eligible(role.selector)
        num_nodes = sum(group.num_nodes for group in groups)
        closed = [
            name
            for at in sorted(capacity.unschedulable)
            if _among(capacity.group_of[at], groups) and capacity.nodes[at].capacity.holds(role.pod)
            for name in (capacity.nodes[at].name,)
        ]
        fit = min(role.count, capacity.slots(role.pod, role.selector))
        said = f"of its {role.count:,} pods"
        beside = "beside the pods that belong to no gang"
        if not closed:
            return f"the {num_nodes:,} nodes that it may use hold {fit:,} {said} {beside}"
        named = ", ".join(f"{name} is {closed_by(name)}" for name in closed[:MOST_NAMED])
        if len(closed) > MOST_NAMED:
            named += f", and {len(closed) - MOST_NAMED:,} more take no pods"
        if len(closed) == num_nodes:
            return f"no node that it may use takes pods: {named}"
        return f"{named}; the other nodes that it may use hold {fit:,} {said} {beside}"


def _among(group: NodeGroup, groups: list[NodeGroup]) -> bool:
    return any(group is one for one in groups)


def _without(node: Node, takes: PodShape) -> Node:
    """Return a node as large as pods of no gang leave it: to take so much costs more."""
    left = node.capacity.plus(takes, -1)
    return Node(node.name, left, node.pool, node.gpu_model, node.topology, node.status)
