"""The queue of waiting gangs, indexed so that a blocked queue costs by its distinct shapes.

Gangs of one pod request form a *family*; within it, those of one size form a *demand*. If a family
has room for n pods, then all its gangs of up to n pods fit and no other does, so a pass asks the
cluster once per family.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf
from operator import itemgetter

from scheduler.model import FamilyKey, Gang, OrderKey, Phase, Role, Slice

Entry = tuple[OrderKey, "GangState"]


class GangState:
    """One gang and what it holds. Only `state.apply` writes it."""

    __slots__ = (
        "expected_end_s",
        "family",
        "gang",
        "held",
        "key",
        "missing",
        "phase",
        "present",
        "size",
    )

    def __init__(self, gang: Gang, present: int, family: Family, size: int) -> None:
        self.gang = gang
        self.phase = Phase.GATHERING
        self.missing = gang.roles  #: roles and counts still without a node
        self.family = family  #: of the missing roles
        self.size = size  #: of the missing roles, within the family
        self.held: list[Slice] = []  #: `role` indexes `gang.roles`
        self.present = present  #: pods that exist
        self.key: OrderKey = ()  #: place in the queue
        self.expected_end_s = inf  #: start plus walltime


class Demand:
    """Waiting gangs of one family and size."""

    __slots__ = ("_by_walltime", "entries", "num_pods")

    def __init__(self, num_pods: int) -> None:
        self.num_pods = num_pods
        self.entries: list[Entry] = []  #: in queue order
        #: in order of walltime; kept once somebody asks for it
        self._by_walltime: list[tuple[float, Entry]] | None = None

    def add(self, entry: Entry) -> None:
        """Insert a gang."""
        insort(self.entries, entry)
        if self._by_walltime is not None:
            insort(self._by_walltime, (entry[1].gang.walltime_s, entry))

    def discard(self, entry: Entry) -> None:
        """Remove a gang that is in it."""
        del self.entries[bisect_left(self.entries, entry)]
        if self._by_walltime is not None:
            timed = (entry[1].gang.walltime_s, entry)
            del self._by_walltime[bisect_left(self._by_walltime, timed)]

    def first(self, taken: set[GangState]) -> Entry | None:
        """Return the first gang in queue order that is not in `taken`."""
        for entry in self.entries:
            if entry[1] not in taken:
                return entry
        return None

    def first_within(self, walltime_s: float, taken: set[GangState]) -> Entry | None:
        """Return the first gang in queue order that asks for at most `walltime_s`."""
        by_walltime = self._by_walltime
        if by_walltime is None:
            by_walltime = self._by_walltime = sorted(
                (entry[1].gang.walltime_s, entry) for entry in self.entries
            )
        if not by_walltime or by_walltime[0][0] > walltime_s:
            return None
        end = bisect_right(by_walltime, walltime_s, key=itemgetter(0))
        found = [entry for _, entry in by_walltime[:end] if entry[1] not in taken]
        return min(found, default=None)


class Family:
    """Gangs of one pod request, by size; several roles count as one unit."""

    __slots__ = ("demands", "fit_pods", "free_pods", "key", "max_size", "roles", "sizes")

    def __init__(self, key: FamilyKey, roles: tuple[Role, ...], max_size: int) -> None:
        self.key = key
        self.roles = roles
        self.max_size = max_size  #: the largest size that the empty cluster holds
        self.sizes: list[int] = []  #: ascending sizes that have a waiting gang
        self.demands: dict[int, Demand] = {}
        #: what the last pass said of it, see `decisions.Wait`; -1 if none did since it was empty
        self.fit_pods = -1
        self.free_pods = -1

    def add(self, size: int, entry: Entry) -> None:
        """Insert a waiting gang."""
        demand = self.demands.get(size)
        if demand is None:
            demand = self.demands[size] = Demand(size)
            insort(self.sizes, size)
        demand.add(entry)

    def discard(self, size: int, entry: Entry) -> None:
        """Remove a gang that is in it."""
        demand = self.demands[size]
        demand.discard(entry)
        if not demand.entries:
            del self.demands[size]
            del self.sizes[bisect_left(self.sizes, size)]
            if not self.sizes:
                self.fit_pods = self.free_pods = -1


def family_key(roles: tuple[Role, ...]) -> FamilyKey:
    """Return what gangs must share to fit or not fit by their size alone."""
    if len(roles) == 1:
        return (roles[0].pod, roles[0].selector)
    return roles


def family_size(roles: tuple[Role, ...]) -> int:
    """Return the size by which a family orders its gangs."""
    return roles[0].count if len(roles) == 1 else 1


class WaitQueue:
    """Waiting gangs in one order."""

    __slots__ = ("_heap", "families", "fresh", "head_seen", "members")

    def __init__(self) -> None:
        self.members: dict[str, GangState] = {}
        #: families with a waiting gang
        self.families: dict[FamilyKey, Family] = {}
        #: gangs that no pass has considered yet
        self.fresh: dict[GangState, None] = {}
        #: the head at the last pass
        self.head_seen: GangState | None = None
        #: entries of gangs that left stay until they come to the top
        self._heap: list[Entry] = []

    def __len__(self) -> int:
        return len(self.members)

    def add(self, state: GangState) -> None:
        """Enqueue by `state.key`."""
        entry = (state.key, state)
        self.members[state.gang.name] = state
        family = state.family
        if not family.sizes:
            self.families[family.key] = family
        family.add(state.size, entry)
        heappush(self._heap, entry)
        self.fresh[state] = None

    def remove(self, state: GangState) -> None:
        """Take a gang out, wherever it stands."""
        del self.members[state.gang.name]
        family = state.family
        family.discard(state.size, (state.key, state))
        if not family.sizes:
            del self.families[family.key]
        self.fresh.pop(state, None)
        heap = self._heap
        while heap and not self._holds(heap[0]):
            heappop(heap)
        if len(heap) > 64 and len(heap) > 2 * len(self.members):
            self._heap = [entry for entry in heap if self._holds(entry)]
            heapify(self._heap)

    def _holds(self, entry: Entry) -> bool:
        state = entry[1]
        return self.members.get(state.gang.name) is state and state.key == entry[0]

    def head(self) -> GangState | None:
        """Return the first gang in the order."""
        return self._heap[0][1] if self._heap else None

    def in_order(self) -> Iterator[GangState]:
        """Yield waiting gangs in order; costs by those looked at."""
        heap = self._heap
        if not heap:
            return
        last: OrderKey | None = None
        frontier: list[tuple[OrderKey, int]] = [(heap[0][0], 0)]
        while frontier:
            key, at = heappop(frontier)
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(heap):
                    heappush(frontier, (heap[child][0], child))
            if key != last and self._holds(heap[at]):
                last = key
                yield heap[at][1]
