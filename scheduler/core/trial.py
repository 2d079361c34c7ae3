"""What-ifs on a whole state: apply events, look, and undo everything.

Nothing is copied but what an event is about to touch: a gang is noted before the first event that
can change it, and nodes keep their own log. Begin and end cost the families with a waiting gang,
the promises and the newcomers; the rest costs by what was touched.
"""

from __future__ import annotations

from typing import Protocol

from scheduler.core.capacity import Capacity, Undo
from scheduler.core.claims import Claim, copied
from scheduler.core.decisions import Decision, Wait
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    ClusterEvent,
    Considered,
    ForeignPodBound,
    ForeignPodGone,
    GangSubmitted,
    NodeAdded,
    NodeCordoned,
    NodeLost,
    NodeReturned,
    QueuesChanged,
    UseSoFar,
)
from scheduler.core.model import FamilyKey, Phase, Placement, PodShape, Reservation, Slice
from scheduler.core.pastuse import PastUse
from scheduler.core.queueing import Family, GangState, WaitQueue
from scheduler.core.quota import Undo as QuotaUndo
from scheduler.core.quotabook import Option, QuotaBook


class Tried(Protocol):
    """What a trial touches: `state.ClusterState`, which in turn knows its trials."""

    capacity: Capacity
    book: QuotaBook | None
    gangs: dict[str, GangState]
    queue: WaitQueue
    reservations: dict[str, Reservation]
    foreign: dict[str, tuple[int, PodShape]]
    claims: dict[str, Claim]
    gave_way: dict[str, frozenset[str]]
    unfilled: bool
    families: dict[FamilyKey, Family]
    grew: bool
    shrank: bool
    until_us: int
    searched: dict[str, int]
    past: PastUse | None
    under_trial: Trial | None

    @property
    def on_node(self) -> list[tuple[str, ...]]: ...
    def note_end(self, member: GangState) -> None: ...
    def forget_end(self, member: GangState) -> None: ...
    def note_owner(self, owner: str, placement: Placement) -> None: ...
    def forget_owner(self, owner: str, placement: Placement) -> None: ...
    def forget_nodes(self, first: int) -> None: ...


class Noted:
    """A gang as it was, and whether it was queued."""

    __slots__ = ("copy", "member", "queued")

    def __init__(self, member: GangState, queued: bool) -> None:
        self.member = member
        self.queued = queued
        self.copy = member.copied()

    def is_where_it_was(self, queued: bool) -> bool:
        """True if the gang has the place in the queue that it had, being `queued` now."""
        now, was = self.member, self.copy
        return (
            queued is self.queued
            and now.gang is was.gang
            and now.key == was.key
            and now.family is was.family
            and now.size == was.size
        )


class Trial:
    """A context that undoes every event applied inside. Trials nest."""

    __slots__ = (
        "_claims",
        "_families",
        "_foreign",
        "_fresh",
        "_gangs",
        "_gave_way",
        "_grew",
        "_head_left",
        "_head_seen",
        "_largest",
        "_log",
        "_made",
        "_num_nodes",
        "_options",
        "_outer",
        "_past",
        "_quota_log",
        "_reservations",
        "_restraints",
        "_said",
        "_searched",
        "_seen",
        "_shrank",
        "_state",
        "_until_us",
    )

    def __init__(self, state: Tried) -> None:
        self._state = state
        self._outer: Trial | None = None
        self._log: list[Undo] | None = None
        self._gangs: dict[str, Noted | None] = {}  #: as they were when first touched
        self._foreign: dict[str, tuple[int, PodShape] | None] = {}
        self._said: list[
            tuple[Family, int, int, str, str]
        ] = []  #: outlooks, the first of a family counts
        self._largest: list[tuple[Family, int]] = []
        self._options: list[tuple[Option, int]] = []
        self._quota_log: list[QuotaUndo] | None = None
        self._made: list[FamilyKey] = []  #: families that are new

    def __enter__(self) -> None:
        state = self._state
        self._outer = state.under_trial
        self._log = state.capacity.begin_trial()
        self._num_nodes = len(state.capacity.nodes)
        self._grew, self._shrank, self._until_us = state.grew, state.shrank, state.until_us
        self._searched = state.searched
        self._past = state.past
        queue = state.queue
        self._head_seen, self._head_left = queue.head_seen, queue.head_left
        self._seen = [line.seen for line in queue.lines]
        self._restraints = queue.restraints
        if state.book is not None:
            self._quota_log = state.book.tree.begin_trial()
        self._fresh = dict(state.queue.fresh)
        self._families = list(state.queue.families)
        self._reservations = [_copied(promise) for promise in state.reservations.values()]
        self._claims, self._gave_way = copied(state.claims), state.gave_way
        state.under_trial = self

    def __exit__(self, *_: object) -> None:
        state = self._state
        state.under_trial = None  # undoing is not noted
        self._take_out()
        self._put_back()
        self._undo_foreign()
        state.capacity.undo_trial(self._log)
        if state.book is not None:
            state.book.tree.undo_trial(self._quota_log)
            state.book.forget_lacks()
        state.forget_nodes(self._num_nodes)
        state.claims, state.gave_way = self._claims, self._gave_way
        state.unfilled = True
        self._undo_families()
        state.grew, state.shrank, state.until_us = self._grew, self._shrank, self._until_us
        state.searched, state.past = self._searched, self._past
        state.queue.fresh = self._fresh
        state.queue.head_seen, state.queue.head_left = self._head_seen, self._head_left
        state.queue.restraints = self._restraints
        for line, seen in zip(state.queue.lines, self._seen, strict=True):
            line.seen = seen
        state.under_trial = self._outer

    # -- before an event ---------------------------------------------------------------------

    def note(self, event: ClusterEvent | Decision) -> None:
        """Note what the event may change."""
        state = self._state
        if state.past is not None and isinstance(event, (Admitted, Considered, UseSoFar)):
            state.past = state.past.copied()
        if isinstance(event, GangSubmitted):
            self.note_gang(event.gang.name)
        elif isinstance(event, (ForeignPodBound, ForeignPodGone)):
            self._note_foreign(event.pod)
        elif isinstance(event, NodeAdded):
            for each in state.families.values():
                self._largest.append((each, each.max_size))
                self._options += [(option, option.max_size) for option in each.options]
            for name, member in state.gangs.items():
                if member.phase is Phase.IMPOSSIBLE:
                    self.note_gang(name)
        elif isinstance(event, NodeLost):
            at = state.capacity.index_of.get(event.node)
            for owner in () if at is None else state.on_node[at]:
                if owner in state.foreign:
                    self._note_foreign(owner)
                else:
                    self.note_gang(owner)
        elif isinstance(event, Wait):
            family = state.queue.families.get(event.family)
            if family is not None:
                self._note_outlook(family)
        elif not isinstance(
            event, (NodeCordoned, NodeReturned, QueuesChanged, UseSoFar, Considered)
        ):
            self.note_gang(event.gang)
            if isinstance(event, CapacityClaimed):
                for victim in event.victims:
                    self.note_gang(victim)
            admitted = state.gangs.get(event.gang)
            if isinstance(event, Admitted) and admitted is not None:
                head = state.queue.head_before(admitted)
                if head is not None:
                    self.note_gang(head.gang.name)

    def note_family(self, key: FamilyKey) -> None:
        """Note that a family is new."""
        self._made.append(key)

    def note_gang(self, name: str) -> None:
        """Note a gang that is about to change."""
        if name not in self._gangs:
            member = self._state.gangs.get(name)
            if member is None:
                self._gangs[name] = None
            else:
                self._gangs[name] = Noted(member, name in self._state.queue.members)
                self._note_outlook(member.family)

    def _note_outlook(self, family: Family) -> None:
        said = (family, family.fit_pods, family.free_pods, family.short, family.apart)
        self._said.append(said)

    def _note_foreign(self, pod: str) -> None:
        if pod not in self._foreign:
            self._foreign[pod] = self._state.foreign.get(pod)

    # -- undo --------------------------------------------------------------------------------

    def _take_out(self) -> None:
        """Take touched gangs out of every index in which they stand otherwise than before."""
        state = self._state
        queue = state.queue
        for name, promise in state.reservations.items():
            state.forget_owner(name, promise.placement)
        state.reservations.clear()
        for name, noted in self._gangs.items():
            member = state.gangs.get(name)
            if member is None:
                continue
            is_same = noted is not None and noted.member is member
            queued = name in queue.members
            if queued and not (is_same and noted is not None and noted.is_where_it_was(queued)):
                queue.discard(member)
            state.forget_end(member)
            state.forget_owner(name, member.held)
            queue.forget_running(member)
            member.family.num_gangs -= 1
            if not is_same:
                del state.gangs[name]

    def _put_back(self) -> None:
        state = self._state
        queue = state.queue
        for name, noted in self._gangs.items():
            if noted is None:
                continue
            member = noted.member
            member.become(noted.copy)
            member.family.num_gangs += 1
            state.gangs[name] = member
            if noted.queued and name not in queue.members:
                queue.add(member)
            state.note_end(member)
            state.note_owner(name, member.held)
            queue.note_running(member)
        for promise in self._reservations:
            state.reservations[promise.gang] = promise
            state.note_owner(promise.gang, promise.placement)

    def _undo_foreign(self) -> None:
        state = self._state
        for pod, was in self._foreign.items():
            now = state.foreign.get(pod)
            if now == was:
                continue
            if now is not None:
                state.forget_owner(pod, _on_one(now[0]))
                del state.foreign[pod]
            if was is not None:
                state.foreign[pod] = was
                state.note_owner(pod, _on_one(was[0]))

    def _undo_families(self) -> None:
        state = self._state
        for key in self._made:
            del state.families[key]
        for family, max_size in reversed(self._largest):
            family.max_size = max_size
        for option, max_size in reversed(self._options):
            option.max_size = max_size
        for family, fit_pods, free_pods, short, apart in reversed(self._said):
            family.fit_pods, family.free_pods = fit_pods, free_pods
            family.short, family.apart = short, apart
        queue = state.queue
        if list(queue.families) != self._families:  # passes go through them in their order
            queue.families = {key: queue.families[key] for key in self._families}


def _on_one(node: int) -> tuple[Slice, ...]:
    return (Slice(0, node, node + 1, 1),)


def _copied(promise: Reservation) -> Reservation:
    """Return an equal reservation."""
    return Reservation(
        promise.gang,
        promise.start_us,
        promise.spare_pods,
        promise.placement,
        promise.expires_us,
        promise.valid,
    )
