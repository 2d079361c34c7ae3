"""Who holds and waits for what: nodes, gangs, queues, claims and promises, with their indexes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from scheduler.core import (
    ordering,
)
from scheduler.core.capacity import Capacity
from scheduler.core.claims import Claim
from scheduler.core.model import (
    FamilyKey,
    Node,
    Placement,
    PodShape,
    Reservation,
    Role,
    Slice,
    of_one_shape,
)
from scheduler.core.pastuse import PastUse
from scheduler.core.placement import pack, place
from scheduler.core.queueing import Family, GangState, WaitQueue, family_key
from scheduler.core.queues import Queues
from scheduler.core.quotabook import Option, QuotaBook
from scheduler.core.times import FOREVER_US
from scheduler.core.trial import Trial

#: families are not forgotten as long as there are fewer
MIN_PRUNED = 256


class Books:
    """What `state.ClusterState` keeps, and the indexes that handlers of events keep up to date.

    `order` sorts the queue. With `queues` there are several, each with quota of flavors of nodes.

    Raises:
        ValueError: a node is listed twice, or see `quotabook.QuotaBook`.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        order: ordering.Order = ordering.fifo,
        queues: Queues | None = None,
    ) -> None:
        self.capacity = Capacity(nodes)
        self.order = order
        self.gangs: dict[str, GangState] = {}
        #: quota and who uses it; None where there is one queue, without quota
        self.book: QuotaBook | None = None
        if queues is not None:
            self.book = QuotaBook(self.capacity, queues)
        #: what queues used of late, if the order of their heads depends on it
        self.past: PastUse | None = None
        if queues is not None and queues.sharing.uses_past:
            self.past = PastUse(queues.sharing, len(queues.queues))
        self.queue = WaitQueue(0 if queues is None else len(queues.queues))
        self.reservations: dict[str, Reservation] = {}
        self.foreign: dict[str, tuple[int, PodShape]] = {}
        #: nodes kept for gangs that others were evicted for
        self.claims: dict[str, Claim] = {}
        self.unfilled = False  #: there may be something that they want and have not taken
        #: by gang: for whom it was evicted so far, and for whom those were by then
        self.gave_way: dict[str, frozenset[str]] = {}
        #: heads that found nobody to evict in slices of the pass under way, and until when
        self.searched: dict[str, int] = {}
        #: True if a waiting gang may fit that did not at the last pass
        self.grew = True
        #: True if a waiting gang may be further from fitting than the last pass said
        self.shrank = False
        #: from then on time may have changed what the last pass decided
        self.until_us = FOREVER_US
        #: every family of which there is a gang, and some more
        self.families: dict[FamilyKey, Family] = {}
        self._prune_at = MIN_PRUNED  #: with so many it is time to forget some
        # Indexes that not every policy or cluster needs; each is kept from the first question on.
        self._ends: list[tuple[int, int, str, GangState]] | None = None
        self._on_node: list[tuple[str, ...]] | None = None
        self._empty: Capacity | None = None
        self.under_trial: Trial | None = None  #: the innermost what-if

    @property
    def ends(self) -> list[tuple[int, int, str, GangState]]:
        """Running gangs by the end that their walltimes promise."""
        if self._ends is None:
            self._ends = sorted(_end_entry(m) for m in self.gangs.values() if m.held)
        return self._ends

    @property
    def on_node(self) -> list[tuple[str, ...]]:
        """Gangs and foreign pods on each node, for the questions that start from a node."""
        if self._on_node is None:
            self._on_node = [()] * len(self.capacity.nodes)
            for name, member in self.gangs.items():
                self.note_owner(name, member.held)
            for name, reservation in self.reservations.items():
                self.note_owner(name, reservation.placement)
            for name, (node, _) in self.foreign.items():
                self.note_owner(name, (Slice(0, node, node + 1, 1),))
        return self._on_node

    def note_end(self, member: GangState) -> None:
        """Note when a gang that holds nodes is expected to end."""
        if self._ends is not None and member.held:
            insort(self._ends, _end_entry(member))

    def forget_end(self, member: GangState) -> None:
        """Forget when a gang is expected to end, if it is noted."""
        ends = self._ends
        if ends is not None:
            at = bisect_left(ends, _end_entry(member))
            if at < len(ends) and ends[at][3] is member:
                del ends[at]

    def note_owner(self, owner: str, placement: Placement) -> None:
        """Note who holds these nodes."""
        on_node = self._on_node
        if on_node is not None:
            alone = (owner,)
            for _, lo, hi, _ in placement:
                if hi - lo == 1:
                    on_node[lo] = (*on_node[lo], owner) if on_node[lo] else alone
                elif on_node[lo:hi].count(()) == hi - lo:
                    on_node[lo:hi] = [alone] * (hi - lo)
                else:
                    on_node[lo:hi] = [(*owners, owner) for owners in on_node[lo:hi]]

    def forget_owner(self, owner: str, placement: Placement) -> None:
        """Undo `note_owner`."""
        on_node = self._on_node
        if on_node is not None:
            alone = (owner,)
            for _, lo, hi, _ in placement:
                if hi - lo == 1:
                    on_node[lo] = () if on_node[lo] == alone else _without(on_node[lo], owner)
                elif on_node[lo:hi].count(alone) == hi - lo:
                    on_node[lo:hi] = [()] * (hi - lo)
                else:
                    for i in range(lo, hi):
                        on_node[i] = _without(on_node[i], owner)

    def note_node(self, node: Node) -> None:
        """Note a node that has joined."""
        if self._empty is not None:
            self._empty.add_node(node)
        if self._on_node is not None:
            self._on_node.append(())

    def forget_nodes(self, first: int) -> None:
        """Forget what was noted of nodes from this number on, which are gone."""
        if self._on_node is not None:
            del self._on_node[first:]
        if self._empty is not None and len(self._empty.nodes) > first:
            self._empty = None
        if self.book is not None and self.book.num_nodes > first:
            self.book.count_nodes()

    def family(self, roles: tuple[Role, ...], flavors: tuple[int, ...] = ()) -> Family:
        """Return the family of gangs with these roles, which may try these flavors."""
        one = roles[0] if len(roles) == 1 else of_one_shape(roles)
        if one is None:
            key: FamilyKey = roles
        else:
            key = (one.pod, one.selector)
        if self.book is not None:
            key = (family_key(roles), flavors)
        family = self.families.get(key)
        if family is None:
            if self.under_trial is not None:
                self.under_trial.note_family(key)
            elif len(self.families) >= self._prune_at:
                self._prune_families()
            if one is not None:
                roles = (one,)
            if self.book is None:
                family = Family(key, roles, self.largest(roles))
            else:
                options = self.book.options(roles, flavors)
                num_queues = self.book.tree.num_queues
                family = Family(key, roles, self.size_options(options), options, num_queues)
            self.families[key] = family
        return family

    def largest(self, roles: tuple[Role, ...]) -> int:
        """Return the largest size of a family that the cluster holds, empty and all in service."""
        if len(roles) == 1:
            return self.capacity.total_slots(roles[0].pod, roles[0].selector)
        return int(place(self.empty, roles, pack) is not None)

    def size_options(self, options: tuple[Option, ...]) -> int:
        """Work out the largest size that it holds, by each of these ways; return the most."""
        for option in options:
            option.max_size = self.largest(option.roles)
        return max([option.max_size for option in options], default=0)

    def flavors_for(self, member: GangState) -> tuple[int, ...]:
        """Return the flavors that a gang may try: those of which it holds nodes, or its queue's."""
        if self.book is None:
            return ()
        if member.held:
            held = self.book.flavors_held(member.held)
            if held:
                return held
        return self.book.flavors_of[member.queue]

    def _prune_families(self) -> None:
        """Forget the families of which there is no gang, and what was worked out for their pods."""
        self.families = {key: each for key, each in self.families.items() if each.num_gangs}
        self._prune_at = max(MIN_PRUNED, 2 * len(self.families))
        self.capacity.forget_pods()

    @property
    def empty(self) -> Capacity:
        """The same nodes without anything on them and all in service."""
        if self._empty is None:
            self._empty = Capacity(self.capacity.nodes, all_in_service=True)
        return self._empty


def _end_entry(member: GangState) -> tuple[int, int, str, GangState]:
    return (member.expected_end_us, member.gang.ordinal, member.gang.name, member)


def _without(owners: tuple[str, ...], owner: str) -> tuple[str, ...]:
    """Return the owners with one mention less of `owner`."""
    at = owners.index(owner)
    return owners[:at] + owners[at + 1 :]
