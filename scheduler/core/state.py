"""The cluster as the core knows it, and `apply`, the only place where it changes."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Any

from scheduler.core import ordering
from scheduler.core.capacity import Capacity
from scheduler.core.claims import Claim, wanted
from scheduler.core.decisions import Decision, Reserve, Wait
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    CapacityReserved,
    CheckpointSaved,
    ClaimDropped,
    ClusterEvent,
    Considered,
    EvictionsSoFar,
    ForeignPodBound,
    ForeignPodGone,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangMends,
    GangResized,
    GangSetAside,
    GangSubmitted,
    GangTakenUp,
    MemberAppeared,
    MemberLost,
    NodeAdded,
    NodeCordoned,
    NodeLost,
    NodeReturned,
    Overtaken,
    PriorityChanged,
    QueuesChanged,
    ReservationReleased,
    UseSoFar,
)
from scheduler.core.model import (
    FamilyKey,
    Node,
    NodeStatus,
    OrderKey,
    Phase,
    Placement,
    PodShape,
    Reservation,
    Role,
    Slice,
    of_one_shape,
)
from scheduler.core.pastuse import PastUse
from scheduler.core.placement import pack, place
from scheduler.core.queueing import Family, GangState, WaitQueue, family_key, family_size
from scheduler.core.queues import Queues
from scheduler.core.quota import Amounts
from scheduler.core.quotabook import Option, QuotaBook, merged
from scheduler.core.times import FOREVER_US, to_s
from scheduler.core.trial import Trial

#: families are not forgotten as long as there are fewer
MIN_PRUNED = 256


class ClusterState:
    """Nodes, gangs, foreign pods and reservations. Read it freely; change it through `apply`.

    `order` sorts the queue; a policy with another order refuses the state. With `queues` there are
    several, and each has quota of flavors of nodes.

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

    def forget_nodes(self, first: int) -> None:
        """Forget what was noted of nodes from this number on, which are gone."""
        if self._on_node is not None:
            del self._on_node[first:]
        if self._empty is not None and len(self._empty.nodes) > first:
            self._empty = None
        if self.book is not None and self.book.num_nodes > first:
            self.book.count_nodes()

    def trial(self) -> Trial:
        """Return a context that undoes every event applied inside. Trials nest."""
        return Trial(self)

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
                family = Family(key, roles, _largest(self, roles))
            else:
                options = self.book.options(roles, flavors)
                num_queues = self.book.tree.num_queues
                family = Family(key, roles, _size_options(self, options), options, num_queues)
            self.families[key] = family
        return family

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

    def node_names(self, placement: Iterable[Slice]) -> list[str]:
        """Return the node of each pod, in rank order within each role."""
        nodes = self.capacity.nodes
        return [
            nodes[i].name
            for piece in placement
            for i in range(piece.lo, piece.hi)
            for _ in range(piece.pods_per_node)
        ]


def apply(state: ClusterState, event: ClusterEvent | Decision) -> None:
    """Change `state` by one event, or by a decision that needs no act outside.

    Raises:
        ValueError: the event names a gang, node or pod that the state does not have, or has; or
            it is a decision that has to be carried out outside.
    """
    try:
        handler = _HANDLERS[type(event)]
    except KeyError:
        raise ValueError(
            f"the state does not accept a {type(event).__name__}: {event}; a driver carries it "
            "out and reports the result, such as Admitted after Admit"
        ) from None
    if state.under_trial is not None:
        state.under_trial.note(event)
    handler(state, event)
    if state.searched and type(event) is not Considered:
        state.searched = {}
    if state.claims:
        _fill_claims(state)


# -- gangs -----------------------------------------------------------------------------------


def _gang(state: ClusterState, name: str) -> GangState:
    try:
        return state.gangs[name]
    except KeyError:
        raise ValueError(f"gang {name!r} is unknown; submit it first") from None


def _largest(state: ClusterState, roles: tuple[Role, ...]) -> int:
    """Return the largest size of a family that the cluster holds, empty and all in service."""
    if len(roles) == 1:
        return state.capacity.total_slots(roles[0].pod, roles[0].selector)
    return int(place(state.empty, roles, pack) is not None)


def _size_options(state: ClusterState, options: tuple[Option, ...]) -> int:
    """Work out the largest size that the cluster holds, by each of these ways; return the most."""
    for option in options:
        option.max_size = _largest(state, option.roles)
    return max([option.max_size for option in options], default=0)


def _join(state: ClusterState, member: GangState, roles: tuple[Role, ...]) -> None:
    """Count a gang to the family of these roles, and no longer to the one before."""
    family = state.family(roles, state.flavors_for(member))
    member.family.num_gangs -= 1
    family.num_gangs += 1
    member.family = family
    member.size = family_size(roles)


def _submitted(state: ClusterState, event: GangSubmitted) -> None:
    gang = event.gang
    if gang.name in state.gangs:
        raise ValueError(f"gang {gang.name!r} exists already; give every gang its own name")
    roles = gang.roles
    if len(roles) == 1:
        size = num_pods = roles[0].count
    else:
        size, num_pods = family_size(roles), gang.num_pods
    present = num_pods if event.present is None else event.present
    queue = 0
    flavors: tuple[int, ...] = ()
    if state.book is not None:
        queue = state.book.queue_of(gang)
        flavors = state.book.flavors_of[queue]
    family = state.family(roles, flavors)
    family.num_gangs += 1
    member = GangState(gang, present, family, size, queue)
    state.gangs[gang.name] = member
    if present < (gang.min_member or num_pods):
        return
    _enqueue(state, member)


def _enqueue(state: ClusterState, member: GangState) -> None:
    """Put a gang with missing ranks and enough pods where it belongs: the queue, or aside."""
    if (
        member.size > member.family.max_size
        or (member.held and _is_too_large(state, member))
        or (state.book is not None and exceeds_quota(state, member))
    ):
        member.phase = Phase.IMPOSSIBLE
        return
    member.phase = Phase.RUNNING if member.held else Phase.WAITING
    member.key = place_in_queue(state, member)
    state.queue.add(member)


def place_in_queue(state: ClusterState, member: GangState) -> OrderKey:
    """Return the key of a gang: by the order, but those that run in part come first."""
    key = state.order(member.gang)
    return (-FOREVER_US, *key) if member.mends and member.held else key


def _is_too_large(state: ClusterState, member: GangState) -> bool:
    """True if what a gang holds and what it misses do not fit together."""
    roles = member.gang.roles
    return family_size(roles) > state.family(roles, state.flavors_for(member)).max_size


def exceeds_quota(state: ClusterState, member: GangState) -> bool:
    """True if a gang has no way to be placed that its queue could ever have the quota for."""
    book = state.book
    assert book is not None
    held: Amounts = ()
    if member.held:
        held = book.amounts_of(member.gang.roles, member.held)
    for option in member.family.options:
        if option.max_size >= member.size:
            amounts = option.amounts(member.size)
            if book.could_fit(member.queue, merged(amounts, held) if held else amounts):
                return False
    return True


def _ask_again(state: ClusterState, member: GangState, missing: tuple[Role, ...]) -> None:
    """Let a gang that is not in the queue ask for these roles, if enough of its pods exist."""
    member.missing = missing
    _join(state, member, missing)
    if member.present < (member.gang.min_member or member.gang.num_pods):
        member.phase = Phase.GATHERING
    else:
        _enqueue(state, member)


def _admitted(state: ClusterState, event: Admitted) -> None:
    name, placement, expected_end_us = event.gang, event.placement, event.expected_end_us
    member = _gang(state, name)
    if not member.missing:
        raise ValueError(f"gang {name!r} has all its nodes; nothing is left to admit")
    head = state.queue.head_before(member)
    if member.phase is Phase.PREEMPTING:
        _release_claim(state, member)
    elif head is not None and head is not member and not member.held:
        head.overtaken += 1
    member.overtaken = member.lost_claims = 0
    state.queue.discard(member)
    roles = member.gang.roles
    if state.reservations:
        _keep_promises(state, member, expected_end_us)
    if member.missing is not roles:  # slices count roles as in `missing`
        names = [role.name for role in roles]
        index = [names.index(role.name) for role in member.missing]
        placement = tuple([Slice(index[at], lo, hi, pods) for at, lo, hi, pods in placement])
    _take(state, member, placement)
    if state.past is not None:
        gpus = sum([(hi - lo) * each * roles[at].pod.gpus for at, lo, hi, each in placement])
        state.past.note_start(member.queue, gpus)
    if member.held:
        state.forget_end(member)
        placement = member.held + placement
    else:
        member.admitted_us = event.now_us
    member.held = placement
    member.missing = ()
    member.mends = False
    member.phase = Phase.RUNNING
    member.expected_end_us = expected_end_us
    state.queue.note_running(member)
    if state._ends is not None:
        state.note_end(member)


def _keep_promises(state: ClusterState, member: GangState, expected_end_us: int) -> None:
    """Redeem the admitted gang's own reservation and doubt those that it may delay."""
    own = state.reservations.pop(member.gang.name, None)
    if own is not None and own.placement:
        _give_back(state, member, own.placement)
    for promise in state.reservations.values():
        if expected_end_us > promise.start_us:
            promise.valid = False


def _end_entry(member: GangState) -> tuple[int, int, str, GangState]:
    return (member.expected_end_us, member.gang.ordinal, member.gang.name, member)


def _take(state: ClusterState, member: GangState, placement: Placement) -> None:
    state.capacity.take(member.gang.roles, placement)
    if state.book is not None:
        amounts = state.book.amounts_of(member.gang.roles, placement)
        state.book.tree.take(member.queue, amounts)
    state.shrank = True
    if state._on_node is not None:
        state.note_owner(member.gang.name, placement)


def _give_back(state: ClusterState, member: GangState, held: Placement) -> None:
    _free(state, member, held)
    if state._on_node is not None:
        state.forget_owner(member.gang.name, held)
    state.grew = True


def _free(state: ClusterState, member: GangState, held: Placement) -> None:
    """Free nodes and quota; their owners stay noted."""
    state.capacity.give_back(member.gang.roles, held)
    if state.book is not None:
        amounts = state.book.amounts_of(member.gang.roles, held)
        state.book.give_back(member.queue, amounts)


def _without(owners: tuple[str, ...], owner: str) -> tuple[str, ...]:
    """Return the owners with one mention less of `owner`."""
    at = owners.index(owner)
    return owners[:at] + owners[at + 1 :]


def _release_all(state: ClusterState, member: GangState) -> None:
    """Take everything from a gang that holds nodes."""
    if not member.held:
        return
    if state._ends is not None:
        state.forget_end(member)
    _give_back(state, member, member.held)
    for promise in state.reservations.values():
        if member.expected_end_us >= promise.start_us:  # due before, it was counted on already
            promise.valid = False
    member.held = ()
    _forget_times(member)
    state.queue.note_running(member)


def _forget_times(member: GangState) -> None:
    """A gang that holds nothing was not admitted, and a checkpoint of before is of no help."""
    member.admitted_us = member.expected_end_us = FOREVER_US
    member.saved_us = -FOREVER_US
    member.mends = member.leaving = False


def _finished(state: ClusterState, event: GangFinished | GangCancelled) -> None:
    name = event.gang
    member = _gang(state, name)
    if member.missing:
        state.queue.discard(member)
    _release_all(state, member)
    if state.reservations:
        _drop_reservation(state, name)
    if state.claims:
        _release_claim(state, member)
    if name in state.gave_way and type(event) is GangFinished:
        state.gave_way = {other: to for other, to in state.gave_way.items() if other != name}
    member.family.num_gangs -= 1
    del state.gangs[name]


def _interrupted(state: ClusterState, event: GangInterrupted) -> None:
    member = _gang(state, event.gang)
    state.queue.discard(member)
    _release_claim(state, member)
    _release_all(state, member)
    _ask_again(state, member, member.gang.roles)


def _appeared(state: ClusterState, event: MemberAppeared) -> None:
    member = _gang(state, event.gang)
    member.present += event.num_pods
    if member.phase is Phase.GATHERING:
        _ask_again(state, member, member.missing)


def _member_lost(state: ClusterState, event: MemberLost) -> None:
    member = _gang(state, event.gang)
    node = _node(state, event.node)
    at = next(
        (
            i
            for i, held in enumerate(member.held)
            if held.role == event.role and held.lo <= node < held.hi
        ),
        None,
    )
    if at is None:
        raise ValueError(
            f"gang {event.gang!r} has no pod of role {event.role} on node {event.node!r}"
        )
    state.queue.discard(member)
    piece = member.held[at]
    lost = Slice(piece.role, node, node + 1, 1)
    _free(state, member, (lost,))
    rest = [
        Slice(piece.role, piece.lo, node, piece.pods_per_node),
        Slice(piece.role, node, node + 1, piece.pods_per_node - 1),
        Slice(piece.role, node + 1, piece.hi, piece.pods_per_node),
    ]
    if piece.pods_per_node == 1 and state._on_node is not None:
        state._on_node[node] = _without(state._on_node[node], event.gang)
    kept = tuple(part for part in rest if part.num_pods)
    member.held = member.held[:at] + kept + member.held[at + 1 :]
    state.grew = True
    _invalidate(state)
    placed = [0] * len(member.gang.roles)
    for piece in member.held:
        placed[piece.role] += piece.num_pods
    _ask_for_missing(state, member, placed)


def _ask_for_missing(state: ClusterState, member: GangState, placed: list[int]) -> None:
    """Queue a gang for the ranks it should have beyond these, by role."""
    missing = tuple(
        [
            Role(role.count - have, role.pod, role.selector, role.name)
            for role, have in zip(member.gang.roles, placed, strict=True)
            if role.count > have
        ]
    )
    if not member.held:
        state.forget_end(member)
        _forget_times(member)
        state.queue.note_running(member)
    if missing:
        _ask_again(state, member, missing)
    else:
        member.missing = ()
        member.phase = Phase.RUNNING


def _resized(state: ClusterState, event: GangResized) -> None:
    member = _gang(state, event.gang)
    held = _held_in(member, event.roles)
    state.queue.discard(member)
    _release_claim(state, member)
    _drop_reservation(state, event.gang)
    grown = sum(r.count for r in event.roles) - member.gang.num_pods
    # not from what it holds: a gang that grows pod by pod would cost their square
    had = {role.name: role.count for role in member.gang.roles}
    for role in member.missing:
        had[role.name] -= role.count
    placed = [had.get(role.name, 0) for role in event.roles]
    member.gang = member.gang._replace(roles=event.roles)
    member.held = held
    surplus = [max(0, have - r.count) for have, r in zip(placed, event.roles, strict=True)]
    if any(surplus):
        _give_back_pods(state, member, surplus)
        _invalidate(state)
    member.present = max(0, member.present + grown) if event.present is None else event.present
    if member.held:
        _ask_for_missing(state, member, placed)
    else:
        _ask_again(state, member, event.roles)


def _held_in(member: GangState, roles: tuple[Role, ...]) -> Placement:
    """Return what a gang holds, with its roles counted as in `roles`.

    Raises:
        ValueError: a role of which it holds pods is not among them, or has pods of another shape.
    """
    mine = member.gang.roles
    if len(mine) == len(roles) and all(
        old.name == new.name and old.pod == new.pod for old, new in zip(mine, roles, strict=True)
    ):
        return member.held
    at = {role.name: index for index, role in enumerate(roles)}
    keeps = [mine[index] for index in dict.fromkeys(p.role for p in member.held)]
    if any(role.name not in at or roles[at[role.name]].pod != role.pod for role in keeps):
        raise ValueError(
            f"gang {member.gang.name!r}: a resize must keep the roles that hold nodes, with "
            f"their pod shapes: {[r.name for r in keeps]}, got {[r.name for r in roles]}"
        )
    return tuple(p._replace(role=at[mine[p.role].name]) for p in member.held)


def _saved(state: ClusterState, event: CheckpointSaved) -> None:
    member = _gang(state, event.gang)
    if event.saved_us < member.admitted_us:
        raise ValueError(
            f"gang {event.gang!r} saved at {to_s(event.saved_us)} s, admitted at "
            f"{to_s(member.admitted_us)} s: a checkpoint counts from the admission on"
        )
    member.saved_us = max(member.saved_us, event.saved_us)


def _give_back_pods(state: ClusterState, member: GangState, surplus: list[int]) -> None:
    """Give back the last pods of each role."""
    kept: list[Slice] = []
    for piece in reversed(member.held):
        role, lo, hi, per_node = piece
        for node in range(hi - 1, lo - 1, -1):
            drop = min(surplus[role], per_node)
            if drop:
                surplus[role] -= drop
                part = Slice(role, node, node + 1, drop)
                _free(state, member, (part,))
                if drop == per_node:
                    if state._on_node is not None:
                        state._on_node[node] = _without(state._on_node[node], member.gang.name)
                else:
                    kept.append(Slice(role, node, node + 1, per_node - drop))
            else:
                kept.append(Slice(role, lo, node + 1, per_node))
                break
    member.held = tuple(kept[::-1])
    state.grew = True


def _priority_changed(state: ClusterState, event: PriorityChanged) -> None:
    member = _gang(state, event.gang)
    queued = event.gang in state.queue.members
    state.queue.discard(member)
    state.queue.forget_running(member)
    member.gang = member.gang._replace(priority=event.priority)
    state.queue.note_running(member)
    if queued:
        _enqueue(state, member)


def _mends(state: ClusterState, event: GangMends) -> None:
    member = _gang(state, event.gang)
    if event.first and not member.held:
        raise ValueError(
            f"gang {event.gang!r} holds nothing and is already at its place in the queue"
        )
    queued = event.gang in state.queue.members
    state.queue.discard(member)
    member.mends = event.first
    if queued:
        _enqueue(state, member)


def _set_aside(state: ClusterState, event: GangSetAside) -> None:
    member = _gang(state, event.gang)
    if event.gang not in state.queue.members:
        raise ValueError(f"gang {event.gang!r} is not in the queue, so it blocks nobody")
    state.queue.discard(member)
    _drop_reservation(state, event.gang)
    member.phase = Phase.ASIDE


def _taken_up(state: ClusterState, event: GangTakenUp) -> None:
    member = _gang(state, event.gang)
    if member.phase is not Phase.ASIDE:
        raise ValueError(f"gang {event.gang!r} was not set aside; it is {member.phase}")
    _enqueue(state, member)


# -- nodes and foreign pods ------------------------------------------------------------------


def _node(state: ClusterState, name: str) -> int:
    try:
        return state.capacity.index_of[name]
    except KeyError:
        raise ValueError(f"node {name!r} is unknown; add it first") from None


def _invalidate(state: ClusterState) -> None:
    for promise in state.reservations.values():
        promise.valid = False


def _node_added(state: ClusterState, event: NodeAdded) -> None:
    if event.node.name in state.capacity.index_of:
        raise ValueError(f"node {event.node.name!r} exists already; give it its own name")
    if state.book is not None:
        state.book.check(event.node)
    state.capacity.add_node(event.node)
    if state.book is not None:
        state.book.count_nodes()
    if state._empty is not None:
        state._empty.add_node(event.node)
    if state._on_node is not None:
        state._on_node.append(())
    for family in state.families.values():
        if state.book is None:
            family.max_size = _largest(state, family.roles)
        else:
            family.max_size = _size_options(state, family.options)
    state.grew = True
    _invalidate(state)
    for member in list(state.gangs.values()):
        if member.phase is Phase.IMPOSSIBLE:
            _enqueue(state, member)


def _cordoned(state: ClusterState, event: NodeCordoned) -> None:
    node = _node(state, event.node)
    _drop_claims_on(state, node)
    state.capacity.set_status(node, NodeStatus.CORDONED)
    state.shrank = True
    _invalidate(state)


def _returned(state: ClusterState, event: NodeReturned) -> None:
    if state.capacity.set_status(_node(state, event.node), NodeStatus.SCHEDULABLE):
        state.grew = True
        _invalidate(state)


def _node_lost(state: ClusterState, event: NodeLost) -> None:
    node = _node(state, event.node)
    _drop_claims_on(state, node)
    state.capacity.set_status(node, NodeStatus.DOWN)
    state.shrank = True
    _invalidate(state)
    for owner in dict.fromkeys(state.on_node[node]):
        if owner in state.foreign:
            _foreign_gone(state, ForeignPodGone(owner))
            continue
        reservation = state.reservations.get(owner)
        if reservation is not None and any(p.lo <= node < p.hi for p in reservation.placement):
            _drop_reservation(state, owner)
        member = state.gangs[owner]
        for role, lo, hi, pods in list(member.held):
            if lo <= node < hi:
                for _ in range(pods):
                    _member_lost(state, MemberLost(owner, role, event.node))


def _foreign_bound(state: ClusterState, event: ForeignPodBound) -> None:
    if event.pod in state.foreign:
        raise ValueError(f"pod {event.pod!r} is bound already; report that it left first")
    node = _node(state, event.node)
    state.capacity.take(_as_role(event.shape), (Slice(0, node, node + 1, 1),))
    state.shrank = True
    state.foreign[event.pod] = (node, event.shape)
    if state._on_node is not None:
        state._on_node[node] = (*state._on_node[node], event.pod)
    _invalidate(state)


def _foreign_gone(state: ClusterState, event: ForeignPodGone) -> None:
    if event.pod not in state.foreign:
        raise ValueError(f"pod {event.pod!r} is not bound here, so it cannot leave")
    node, shape = state.foreign.pop(event.pod)
    placement = (Slice(0, node, node + 1, 1),)
    state.capacity.give_back(_as_role(shape), placement)
    if state._on_node is not None:
        state.forget_owner(event.pod, placement)
    state.grew = True
    _invalidate(state)


def _as_role(shape: PodShape) -> tuple[Role, ...]:
    return (Role(1, shape),)


# -- reservations and passes -----------------------------------------------------------------


def _reserved(state: ClusterState, event: CapacityReserved) -> None:
    member = _gang(state, event.gang)
    _drop_reservation(state, event.gang)
    if member.phase is Phase.PREEMPTING:
        _drop_claim(state, member)
    _take(state, member, event.placement)
    state.reservations[event.gang] = Reservation(
        event.gang, event.expires_us, placement=event.placement, expires_us=event.expires_us
    )


def _reservation_released(state: ClusterState, event: ReservationReleased) -> None:
    _drop_reservation(state, event.gang)


def _drop_reservation(state: ClusterState, gang: str) -> None:
    reservation = state.reservations.pop(gang, None) if state.reservations else None
    if reservation is not None and reservation.placement:
        _give_back(state, state.gangs[gang], reservation.placement)


def _promised(state: ClusterState, event: Reserve) -> None:
    old = state.reservations.get(event.gang)
    if old is None:
        for name, other in list(state.reservations.items()):
            if not other.placement:  # one promise at a time: the head's
                del state.reservations[name]
        state.reservations[event.gang] = Reservation(event.gang, event.start_us, event.spare_pods)
    else:
        old.start_us, old.spare_pods, old.valid = event.start_us, event.spare_pods, True


def _waited(state: ClusterState, event: Wait) -> None:
    family = state.queue.families.get(event.family)
    if family is not None:
        family.fit_pods, family.free_pods = event.fit_pods, event.free_pods
        family.short, family.apart = event.short, event.apart


def _overtaken(state: ClusterState, event: Overtaken) -> None:
    _gang(state, event.gang).overtaken = event.times


def _evictions_so_far(state: ClusterState, event: EvictionsSoFar) -> None:
    if event.leaving or event.lost_claims:
        member = _gang(state, event.gang)
        if event.leaving and not member.held:
            raise ValueError(f"gang {event.gang!r} holds nothing, so it cannot leave")
        member.leaving, member.lost_claims = event.leaving, event.lost_claims
    if event.gave_way:
        state.gave_way = {**state.gave_way, event.gang: frozenset(event.gave_way)}


def _use_so_far(state: ClusterState, event: UseSoFar) -> None:
    if state.past is None or state.book is None:
        raise ValueError("the heads of these queues do not depend on what was used")
    state.past.recall(event, [queue.name for queue in state.book.file.queues])


def _considered(state: ClusterState, event: Considered) -> None:
    state.grew = state.shrank = False
    state.until_us = event.until_us
    if event.searched or state.searched:
        state.searched = dict(event.searched)
    if event.restraints or state.queue.restraints:
        state.queue.restraints = {name: (nodes, quota) for name, nodes, quota in event.restraints}
    if state.past is not None and state.book is not None:
        state.past.note(event.now_us, state.book.tree, state.book.gpus)
    state.queue.note_seen()


# -- claims ----------------------------------------------------------------------------------


def _claimed(state: ClusterState, event: CapacityClaimed) -> None:
    name = event.gang
    member = _gang(state, name)
    if state.book is None or name not in state.queue.members or member.held:
        raise ValueError(
            f"gang {name!r} is {member.phase}: nodes are claimed for a gang that waits in a queue "
            "with quota and holds none"
        )
    _drop_reservation(state, name)
    state.queue.discard(member)
    member.phase = Phase.PREEMPTING
    for victim in event.victims:
        evicted = _gang(state, victim)
        evicted.leaving = True
        state.queue.note_running(evicted)
    to = state.gave_way.get(name, frozenset()) | {name}
    gave_way = {victim: state.gave_way.get(victim, frozenset()) | to for victim in event.victims}
    known = {**state.gave_way, **gave_way}
    state.gave_way = {
        victim: frozenset([other for other in others if other in state.gangs or other in known])
        for victim, others in known.items()
    }
    roles = member.gang.roles
    amounts = state.book.amounts_of(roles, event.placement)
    state.book.tree.take(member.queue, amounts)
    state.claims[name] = Claim(
        name, event.placement, amounts, event.victims, wanted(roles, event.placement), {}
    )
    state.shrank = True
    _invalidate(state)


def _fill_claims(state: ClusterState) -> None:
    """Keep what came free for those who claim it, and note who left."""
    gangs = state.gangs
    for claim in state.claims.values():
        if claim.victims:
            claim.victims = tuple(
                [name for name in claim.victims if name in gangs and gangs[name].leaving]
            )
        if claim.rest and claim.fill(state.capacity):
            state.shrank = True


def _release_claim(state: ClusterState, member: GangState) -> None:
    """Free what is kept for a gang, if anything is."""
    claim = state.claims.pop(member.gang.name, None)
    if claim is not None:
        assert state.book is not None
        claim.release(state.capacity)
        state.book.give_back(member.queue, claim.amounts)
        state.grew = True
        _invalidate(state)


def _drop_claim(state: ClusterState, member: GangState) -> None:
    """Free what is kept for a gang, which queues again."""
    if state.under_trial is not None:
        state.under_trial.note_gang(member.gang.name)
    _release_claim(state, member)
    member.lost_claims += 1
    _enqueue(state, member)


def _drop_claims_on(state: ClusterState, node: int) -> None:
    """Drop the claims of a node that takes no new pods."""
    for name, claim in list(state.claims.items()):
        if node in claim.rest or node in claim.taken:
            _drop_claim(state, state.gangs[name])


def _claim_dropped(state: ClusterState, event: ClaimDropped) -> None:
    member = _gang(state, event.gang)
    if member.phase is not Phase.PREEMPTING:
        raise ValueError(f"gang {event.gang!r} has no claim to drop; it is {member.phase}")
    _drop_claim(state, member)


# -- queues ----------------------------------------------------------------------------------


def _queues_changed(state: ClusterState, event: QueuesChanged) -> None:
    """Count usage and queue gangs by the new words; what runs goes on."""
    if state.under_trial is not None:
        raise ValueError("queues cannot change inside a trial; change them before it begins")
    if state.book is None:
        raise ValueError("the state has no queues to change; build it with queues=")
    for name in list(state.claims):
        _drop_claim(state, state.gangs[name])
    old = state.book.file
    book = QuotaBook(state.capacity, event.queues)
    queue_of = {name: book.queue_of(member.gang) for name, member in state.gangs.items()}
    waiting = list(state.queue.in_order())
    for member in waiting:
        state.queue.discard(member)
    state.book = book
    past = PastUse(old.sharing, len(old.queues)) if state.past is None else state.past
    needed = event.queues.sharing.uses_past
    state.past = past.kept_for(old, event.queues) if needed else None
    state.families = {}
    state.queue = WaitQueue(book.tree.num_queues)
    for name, reservation in state.reservations.items():
        roles = state.gangs[name].gang.roles
        book.tree.take(queue_of[name], book.amounts_of(roles, reservation.placement))
    for name, member in state.gangs.items():
        member.queue = queue_of[name]
        member.takes_of = None
        state.queue.note_running(member)
        book.tree.take(member.queue, book.amounts_of(member.gang.roles, member.held))
    for member in state.gangs.values():
        member.family = state.family(member.missing or member.gang.roles, state.flavors_for(member))
        member.family.num_gangs += 1
    impossible = [m for m in state.gangs.values() if m.phase is Phase.IMPOSSIBLE]
    for member in (*waiting, *impossible):
        _enqueue(state, member)
    state.grew = state.shrank = True
    _invalidate(state)


_HANDLERS: dict[type, Callable[[ClusterState, Any], None]] = {
    NodeAdded: _node_added,
    NodeCordoned: _cordoned,
    NodeReturned: _returned,
    NodeLost: _node_lost,
    GangSubmitted: _submitted,
    MemberAppeared: _appeared,
    MemberLost: _member_lost,
    GangFinished: _finished,
    GangInterrupted: _interrupted,
    GangCancelled: _finished,
    GangResized: _resized,
    CheckpointSaved: _saved,
    PriorityChanged: _priority_changed,
    ForeignPodBound: _foreign_bound,
    ForeignPodGone: _foreign_gone,
    CapacityReserved: _reserved,
    ReservationReleased: _reservation_released,
    CapacityClaimed: _claimed,
    ClaimDropped: _claim_dropped,
    Reserve: _promised,
    Admitted: _admitted,
    Wait: _waited,
    Overtaken: _overtaken,
    EvictionsSoFar: _evictions_so_far,
    UseSoFar: _use_so_far,
    GangMends: _mends,
    GangSetAside: _set_aside,
    GangTakenUp: _taken_up,
    Considered: _considered,
    QueuesChanged: _queues_changed,
}
