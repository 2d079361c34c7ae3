"""`decide`: the steps of one pass over the queue.

1. Admit the head if it fits; the driver carries that out and asks again.
2. A head that does not fit blocks, unless the discipline skips or backfills: then admit every
   later gang that fits and may. They are planned together, inside a trial.
3. Say what the rest waits for, family by family, and end the pass.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heappush

from scheduler.core.capacity import Capacity
from scheduler.core.decisions import Admit, Decision, Explanation, PendingReason, Reserve, Wait
from scheduler.core.events import Considered
from scheduler.core.model import OrderKey, Phase, Placement, Selector
from scheduler.core.ordering import Order
from scheduler.core.placement import Placer, place
from scheduler.core.queueing import Demand, Entry, Family, GangState
from scheduler.core.state import ClusterState
from scheduler.policies import shadow

#: a gang that may start now, and the demand it leads, if the pass looks at whole demands
Candidate = tuple[OrderKey, GangState, Family | None, Demand | None]


class Discipline(StrEnum):
    """What a head that does not fit does to those behind it."""

    STRICT = "strict"  #: blocks them
    SKIP = "skip"  #: lets them pass; nothing is kept for it
    EASY = "easy"  #: lets them pass if that does not delay it


@dataclass(frozen=True, slots=True)
class Policy:
    """Functions that together decide; `catalog` has the named ones."""

    name: str
    order: Order
    placer: Placer
    discipline: Discipline = Discipline.STRICT


def decide(state: ClusterState, policy: Policy, now_s: float) -> tuple[Decision, ...]:
    """Return what should happen now; reads only.

    Carry the decisions out in order, tell the state with `apply`, and ask again, until the last
    decision is `Considered`: then the pass is complete. A head that fits is admitted alone, so
    that nothing has to be planned on top of it before it is known to have happened.

    A `Wait` is given for each family whose outlook differs from the last one applied.

    Raises:
        ValueError: the state keeps its queue in another order than the policy's.
    """
    if state.order is not policy.order:
        raise ValueError(
            f"policy {policy.name!r} orders the queue by {policy.order.__name__!r}, the state by "
            f"{state.order.__name__!r}; build the state with order={policy.order.__name__}"
        )
    queue = state.queue
    head = queue.head()
    if head is None:
        return _COMPLETE
    blocked = not state.grew and head is queue.head_seen
    if not blocked:
        placement = _place_head(state, head, policy.placer)
        if placement is not None:
            return (Admit(head.gang.name, placement),)
    if policy.discipline is Discipline.STRICT:
        made: list[Decision] = []
        _state_waits(state, policy.placer, blocked, made)
        if not made:
            return _COMPLETE
        made.append(_CONSIDERED)
        return tuple(made)
    queue.index_demands()
    around = _Pass(state, policy, now_s, blocked)
    with state.capacity.trial():
        if policy.discipline is Discipline.SKIP:
            around.admit_others()
        else:
            around.backfill(head)
        _state_waits(state, policy.placer, blocked and not around.taken, around.made)
    around.made.append(_CONSIDERED)
    return tuple(around.made)


_CONSIDERED = Considered()
_COMPLETE: tuple[Decision, ...] = (_CONSIDERED,)


def _place_head(state: ClusterState, head: GangState, placer: Placer) -> Placement | None:
    """Return nodes for the head, at once if it holds them as a reservation."""
    if state.reservations:
        reservation = state.reservations.get(head.gang.name)
        if reservation is not None and reservation.placement:
            return reservation.placement
    return place(state.capacity, head.missing, placer)


def _state_waits(state: ClusterState, placer: Placer, only_new: bool, made: list[Decision]) -> None:
    """Say what each family waits for, where that changed.

    `only_new` says that no capacity changed since the last pass, so that only families without
    an outlook need one.
    """
    for family in state.queue.families.values():
        if only_new and family.fit_pods >= 0:
            continue
        fit_pods, free_pods = _outlook(state.capacity, family, placer)
        if fit_pods != family.fit_pods or free_pods != family.free_pods:
            made.append(Wait(family.key, fit_pods, free_pods))


def _outlook(capacity: Capacity, family: Family, placer: Placer) -> tuple[int, int]:
    """Return the largest sizes of the family that fit now, and for which enough GPUs are free."""
    if len(family.roles) == 1:
        role = family.roles[0]
        fit_pods, free_gpus = capacity.outlook(role.pod, role.selector)
        return fit_pods, free_gpus // role.pod.gpus if role.pod.gpus else fit_pods
    need: dict[Selector, int] = {}
    for role in family.roles:
        need[role.selector] = need.get(role.selector, 0) + role.gpus
    if any(capacity.free_gpus(where) < gpus for where, gpus in need.items()):
        return 0, 0
    return int(place(capacity, family.roles, placer) is not None), 1


class _Pass:
    """The working memory of a pass that lets gangs overtake the head."""

    __slots__ = ("blocked", "made", "now_s", "placer", "state", "taken")

    def __init__(self, state: ClusterState, policy: Policy, now_s: float, blocked: bool) -> None:
        self.state = state
        self.placer = policy.placer
        self.now_s = now_s
        self.blocked = blocked  #: nothing but newcomers can have become possible
        self.made: list[Decision] = []
        self.taken: set[GangState] = set()

    def _place(self, member: GangState) -> Placement | None:
        return _place_head(self.state, member, self.placer)

    def _admit(self, member: GangState, placement: Placement) -> None:
        name = member.gang.name
        self.made.append(Admit(name, placement))
        self.taken.add(member)
        reservation = self.state.reservations.get(name)
        if reservation is None or not reservation.placement:
            self.state.capacity.take(member.missing, placement)

    def admit_others(self) -> None:
        """Admit every later gang that fits, in order."""

        def first(family: Family, demand: Demand) -> Entry | None:
            return demand.first(self.taken)

        candidates = self._candidates(first, lambda member: True)
        while candidates:
            _, member, family, demand = heappop(candidates)
            placement = self._place(member)
            if placement is None:
                continue
            self._admit(member, placement)
            _push(candidates, family, demand, first)

    def backfill(self, head: GangState) -> None:
        """Admit later gangs that end before the head's shadow time or leave it enough room."""
        promise = self.state.reservations.get(head.gang.name)
        if promise is None or not promise.valid or promise.start_s < self.now_s:
            start_s, spare = shadow.shadow(self.state, head, self.placer, self.now_s)
            self.made.append(Reserve(head.gang.name, start_s, spare))
            if promise is None or start_s > promise.start_s or spare > promise.spare_pods:
                self.blocked = False  # a later start or more room may let earlier gangs pass
        else:
            start_s, spare = promise.start_s, promise.spare_pods
        room = shadow.Room(self.state, head, start_s, spare)
        within_s = start_s - self.now_s
        too_large: set[Demand] = set()

        def first(family: Family, demand: Demand) -> Entry | None:
            if demand not in too_large and room.may_outlast(family.roles, demand.num_pods):
                return demand.first(self.taken)
            return demand.first_within(within_s, self.taken)

        candidates = self._candidates(
            first,
            lambda member: (
                member.gang.walltime_s <= within_s or room.may_outlast(member.missing, member.size)
            ),
        )
        while candidates:
            _, member, family, demand = heappop(candidates)
            placement = self._place(member)
            if placement is None:
                continue
            if member.gang.walltime_s <= within_s:
                self._admit(member, placement)
                room.lend(member.missing, placement)
            elif room.give(member.missing, placement):
                self._admit(member, placement)
            elif demand is not None:
                too_large.add(demand)  # others of the same shape would take as much
            _push(candidates, family, demand, first)

    def _candidates(
        self,
        first: Callable[[Family, Demand], Entry | None],
        may_start: Callable[[GangState], bool],
    ) -> list[Candidate]:
        """Return, as a heap, the first gang of each demand that fits by its size.

        Where nothing grew since the last pass and the same head blocks, only gangs that came
        since then are looked at: nothing else can have become possible.
        """
        queue = self.state.queue
        if self.blocked:
            head = queue.head()
            candidates: list[Candidate] = [
                (member.key, member, None, None)
                for member in queue.fresh
                if member is not head and may_start(member)
            ]
        else:
            candidates = []
            for family in queue.families.values():
                fit_pods, _ = _outlook(self.state.capacity, family, self.placer)
                if not fit_pods:
                    continue
                for size in family.sizes[: bisect_right(family.sizes, fit_pods)]:
                    demand = family.demands[size]
                    entry = first(family, demand)
                    if entry is not None:
                        candidates.append((*entry, family, demand))
        heapify(candidates)
        return candidates


def _push(
    candidates: list[Candidate],
    family: Family | None,
    demand: Demand | None,
    first: Callable[[Family, Demand], Entry | None],
) -> None:
    """Put the next gang of a demand on the heap; lone newcomers have no demand here."""
    if family is not None and demand is not None:
        entry = first(family, demand)
        if entry is not None:
            heappush(candidates, (*entry, family, demand))


def explain(state: ClusterState, gang: str) -> Explanation:
    """Return why `gang` waits, from the outlook of the last pass that was applied.

    Raises:
        ValueError: the gang is unknown or does not wait.
    """
    member = state.gangs.get(gang)
    if member is None or not member.missing:
        raise ValueError(f"gang {gang!r} does not wait; it is {'running' if member else 'unknown'}")
    roles = member.missing
    selectors = {role.selector for role in roles}
    free_gpus = max(state.capacity.free_gpus(selector) for selector in selectors)
    fit_pods = state.capacity.slots(roles[0].pod, roles[0].selector) if len(roles) == 1 else 0
    ahead: str | None = None
    if member.phase is Phase.IMPOSSIBLE:
        reason = PendingReason.NEVER_FITS
    elif member.phase is Phase.GATHERING:
        reason = PendingReason.MEMBERS
    else:
        family = member.family
        outlook = Wait(family.key, family.fit_pods, family.free_pods)
        reason = outlook.reason(member.size)
        head = state.queue.head()
        if reason is PendingReason.BEHIND_HEAD and head is not None and head is not member:
            ahead = head.gang.name
    promise = state.reservations.get(gang)
    return Explanation(
        gang=gang,
        reason=reason,
        need_pods=sum(role.count for role in roles),
        need_gpus=sum(role.gpus for role in roles),
        free_gpus=free_gpus,
        fit_pods=fit_pods,
        ahead=ahead,
        start_s=promise.start_s if promise is not None else None,
    )
