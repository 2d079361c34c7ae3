"""What a discipline works with: one pass around a head that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush

from scheduler.core.capacity import Trial
from scheduler.core.decisions import Admit, Decision, Wait
from scheduler.core.model import OrderKey, Placement
from scheduler.core.placement import Placer, place
from scheduler.core.queueing import Demand, Entry, Family, GangState
from scheduler.core.shortage import outlook
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US
from scheduler.policies.shadow import Shadow, shadow

#: a gang that may start now, and the demand it leads, if the pass looks at whole demands
Candidate = tuple[OrderKey, GangState, Family | None, Demand | None]
#: which gang of a demand may try next, if any
First = Callable[[Family, Demand], Entry | None]
#: whether a newcomer may try at all
MayStart = Callable[[GangState], bool]
#: what happens past a head that does not fit: it may `admit` gangs that are `fitting`
Discipline = Callable[["Pass", GangState], None]


def place_missing(state: ClusterState, member: GangState, placer: Placer) -> Placement | None:
    """Return nodes for what a gang misses, at once if it holds them as a reservation."""
    if state.reservations:
        reservation = state.reservations.get(member.gang.name)
        if reservation is not None and reservation.placement:
            return reservation.placement
    return place(state.capacity, member.missing, placer)


class Pass:
    """The working memory of a pass whose head does not fit.

    Gangs that it admits are planned together: the first of them opens a trial on the capacity,
    and `end` undoes it.
    """

    __slots__ = (
        "_trial",
        "blocked",
        "made",
        "now_us",
        "numbers",
        "placer",
        "state",
        "taken",
        "until_us",
    )

    def __init__(
        self,
        state: ClusterState,
        placer: Placer,
        numbers: Mapping[str, float],
        now_us: int,
        blocked: bool,
    ) -> None:
        self.state = state
        self.placer = placer
        self.numbers = numbers  #: of the discipline, by name
        self.now_us = now_us
        self.blocked = blocked  #: nothing but newcomers can have become possible
        self.made: list[Decision] = []
        self.taken: set[GangState] = set()  #: the gangs admitted so far
        self.until_us = FOREVER_US  #: when time alone may change what is decided here
        self._trial: Trial | None = None

    def fitting(
        self, first: First | None = None, may_start: MayStart | None = None
    ) -> Iterator[tuple[GangState, Demand | None, Placement]]:
        """Yield later gangs that fit, in order, each with its demand and the nodes it would get.

        Admit it, or leave the loop; a gang that is neither admitted nor refused by `first` from
        then on comes again. Without `first` and `may_start` every gang may pass. Where nothing
        grew since the last pass and the same head blocks, only gangs that came since then are
        looked at: nothing else can have become possible. These have no demand.
        """
        if first is None:
            first = self._next_of
        candidates = self._newcomers(may_start) if self.blocked else self._leaders(first)
        heapify(candidates)
        while candidates:
            _, member, family, demand = heappop(candidates)
            placement = self.find(member)
            if placement is None:  # nor does any other gang of its demand fit, but shorter ones may
                shorter = None if demand is None else self.shorter(member, demand)
                if shorter is not None:
                    heappush(candidates, (*shorter, family, demand))
                continue
            yield member, demand, placement
            if family is not None and demand is not None:
                entry = first(family, demand)
                if entry is not None:
                    heappush(candidates, (*entry, family, demand))

    def shorter(self, member: GangState, demand: Demand) -> Entry | None:
        """Return a shorter gang of the same demand that may fit though this one does not."""
        return None

    def find(self, member: GangState) -> Placement | None:
        """Return nodes for what a gang misses, if it may have any now."""
        return place_missing(self.state, member, self.placer)

    def shadow(self, head: GangState) -> Shadow:
        """Return when a head can start at the latest."""
        return shadow(self.state, head, head.family.roles, self.placer, self.now_us)

    def renews(self, head: GangState) -> bool:
        """True if a promise to this head has to be worked out in each pass."""
        return False

    def _next_of(self, family: Family, demand: Demand) -> Entry | None:
        return demand.first(self.taken)

    def _newcomers(self, may_start: MayStart | None) -> list[Candidate]:
        queue = self.state.queue
        head = queue.head()
        return [
            (member.key, member, None, None)
            for member in queue.fresh
            if member is not head and (may_start is None or may_start(member))
        ]

    def _leaders(self, first: First) -> list[Candidate]:
        """Return the first gang of each demand that fits by its size."""
        queue = self.state.queue
        queue.index_demands()
        candidates: list[Candidate] = []
        for family in queue.families.values():
            fit_pods = self._fit_pods(family)
            if not fit_pods:
                continue
            for number in family.up_to(fit_pods):
                demand = family.demands[number]
                entry = first(family, demand)
                if entry is not None:
                    candidates.append((*entry, family, demand))
        return candidates

    def _fit_pods(self, family: Family) -> int:
        """Return the largest size of a family that fits now."""
        capacity, roles = self.state.capacity, family.roles
        if len(roles) == 1:
            return capacity.fits_of(roles[0]).pods()
        return int(place(capacity, roles, self.placer) is not None)

    def admit(self, member: GangState, placement: Placement) -> None:
        """Plan that a gang starts on these nodes."""
        name = member.gang.name
        self.made.append(Admit(name, placement))
        self.taken.add(member)
        reservation = self.state.reservations.get(name)
        if reservation is not None and reservation.placement:
            return  # taken already
        capacity = self.state.capacity
        if self._trial is None:
            self._trial = capacity.trial()
            self._trial.__enter__()
        capacity.take(member.missing, placement)

    def come_back(self, at_us: int) -> None:
        """Request another pass at `at_us`, even if nothing happens until then.

        Raises:
            ValueError: that is not in the future, so that the pass would never end.
        """
        if at_us <= self.now_us:
            raise ValueError(
                f"a pass at {self.now_us} us cannot come back at {at_us} us, which has passed"
            )
        self.until_us = min(self.until_us, at_us)

    def state_waits(self) -> None:
        """Say what each family waits for, where that changed.

        Where no capacity changed since the last pass, only families without an outlook need one.
        """
        only_new = self.blocked and not self.taken and not self.state.shrank
        for family in self.state.queue.families.values():
            if only_new and family.fit_pods >= 0:
                continue
            fit, free, short, apart = self.outlook(family)
            if (
                fit != family.fit_pods
                or free != family.free_pods
                or short != family.short
                or apart != family.apart
            ):
                self.made.append(Wait(family.key, fit, free, short, apart))

    def outlook(self, family: Family) -> tuple[int, int, str, str]:
        """Return what a `Wait` says of the gangs of a family."""
        return outlook(self.state.capacity, family.roles, self.placer)

    def end(self) -> None:
        """Undo what was planned."""
        if self._trial is not None:
            self._trial.__exit__()
