"""The queue of waiting gangs, indexed so that a blocked queue costs by its distinct shapes.

Gangs of one pod request form a *family*; within it, those of one size form a *demand*. If a family
has room for n pods, then all its gangs of up to n pods fit and no other does, so a pass asks the
cluster once per family. Where there are queues with quota, a demand is of one queue.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from scheduler.core.model import (
    FamilyKey,
    Gang,
    OrderKey,
    Phase,
    Placement,
    Role,
    ShapeKey,
    of_one_shape,
)
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.quota import Amounts
from scheduler.core.quotabook import Lack, Option, QuotaBook
from scheduler.core.times import FOREVER_US

Entry = tuple[OrderKey, "GangState"]
#: what a head keeps from others: nodes of these flavors, and so much quota
Restraint = tuple[tuple[tuple[int, ...], ...], Amounts]
_walltime = itemgetter(0)


class Release(NamedTuple):
    """What a gang gives back when it ends, split by how much work that is to foresee."""

    held: Placement  #: what it was worked out for
    whole: tuple[tuple[NodeGroup, int], ...]  #: nodes whose GPUs are all its own, by group
    partial: tuple[tuple[int, int], ...]  #: (node, GPUs) of the others


class GangState:
    """One gang and what it holds. Only `state.apply` writes it."""

    __slots__ = (
        "admitted_us",
        "expected_end_us",
        "family",
        "gang",
        "held",
        "key",
        "leaving",
        "lost_claims",
        "mends",
        "missing",
        "overtaken",
        "phase",
        "present",
        "queue",
        "release",
        "saved_us",
        "size",
        "takes",
        "takes_of",
    )

    def __init__(self, gang: Gang, present: int, family: Family, size: int, queue: int = 0) -> None:
        self.gang = gang
        self.queue = queue  #: its number in the quota tree; 0 where there is none
        self.phase = Phase.GATHERING
        self.missing = gang.roles  #: roles and counts still without a node
        self.family = family  #: of the missing roles
        self.size = size  #: of the missing roles, within the family
        self.held: Placement = ()  #: `role` indexes `gang.roles`
        self.release: Release | None = None  #: what `held` gives back; kept for backfill
        self.takes: Amounts = ()  #: of its queue's quota; kept for evictions
        self.takes_of: Placement | None = None  #: what that was worked out for
        self.present = present  #: pods that exist
        self.key: OrderKey = ()  #: place in the queue
        self.admitted_us = FOREVER_US  #: since when it holds nodes without a break
        self.saved_us = -FOREVER_US  #: what it did in that time until then would outlive a stop
        self.expected_end_us = FOREVER_US  #: start plus walltime
        self.overtaken = 0  #: gangs started past it while it headed the queue, this time
        self.mends = False  #: it runs in part, and comes before gangs that hold nothing
        self.leaving = False  #: it was told to leave its nodes, and still holds them
        self.lost_claims = 0  #: how often nodes were kept for it in vain since it last ran

    def quota_taken(self, book: QuotaBook) -> Amounts:
        """Return what it takes of its queue's quota, worked out once for the nodes it holds."""
        if self.takes_of is not self.held:
            self.takes = book.amounts_of(self.gang.roles, self.held)
            self.takes_of = self.held
        return self.takes

    def copied(self) -> GangState:
        """Return another gang that is as this one is now."""
        copy = GangState(self.gang, self.present, self.family, self.size, self.queue)
        copy.become(self)
        return copy

    def become(self, other: GangState) -> None:
        """Be as the other is."""
        self.gang = other.gang
        self.phase = other.phase
        self.missing = other.missing
        self.family = other.family
        self.size = other.size
        self.held = other.held
        self.release = other.release
        self.takes = other.takes
        self.takes_of = other.takes_of
        self.present = other.present
        self.key = other.key
        self.admitted_us = other.admitted_us
        self.saved_us = other.saved_us
        self.expected_end_us = other.expected_end_us
        self.overtaken = other.overtaken
        self.mends = other.mends
        self.leaving = other.leaving
        self.lost_claims = other.lost_claims


class Demand:
    """Waiting gangs of one family and size, and of one queue."""

    __slots__ = ("_by_walltime", "entries", "lack", "num_pods", "queue")

    def __init__(self, num_pods: int, queue: int = 0) -> None:
        self.num_pods = num_pods
        self.queue = queue
        self.lack: Lack | None = None  #: of quota, as a pass found it
        self.entries: list[Entry] = []  #: in queue order
        #: in order of walltime; kept once somebody asks for it
        self._by_walltime: list[tuple[int, Entry]] | None = None

    def add(self, entry: Entry) -> None:
        """Insert a gang."""
        insort(self.entries, entry)
        if self._by_walltime is not None:
            insort(self._by_walltime, (entry[1].gang.walltime_us, entry))

    def discard(self, entry: Entry) -> None:
        """Remove a gang that is in it."""
        del self.entries[bisect_left(self.entries, entry)]
        if self._by_walltime is not None:
            timed = (entry[1].gang.walltime_us, entry)
            del self._by_walltime[bisect_left(self._by_walltime, timed)]

    def first(self, taken: set[GangState]) -> Entry | None:
        """Return the first gang in queue order that is not in `taken`."""
        for entry in self.entries:
            if entry[1] not in taken:
                return entry
        return None

    def first_within(self, walltime_us: int, taken: set[GangState]) -> Entry | None:
        """Return the first gang in queue order that asks for at most `walltime_us`."""
        by_walltime = self._by_walltime
        if by_walltime is None:
            by_walltime = self._by_walltime = sorted(
                (entry[1].gang.walltime_us, entry) for entry in self.entries
            )
        if not by_walltime or by_walltime[0][0] > walltime_us:
            return None
        end = bisect_right(by_walltime, walltime_us, key=_walltime)
        if end == len(by_walltime):
            return self.first(taken)
        expected_at = len(by_walltime) // end  # where the first stands if they stand evenly
        if expected_at < end:
            for entry in self.entries[:expected_at]:
                if entry[1].gang.walltime_us <= walltime_us and entry[1] not in taken:
                    return entry
        found = [entry for _, entry in by_walltime[:end] if entry[1] not in taken]
        return min(found, default=None)


class Family:
    """Gangs of one pod request, by size; roles of different pods count as one unit."""

    __slots__ = (
        "apart",
        "demands",
        "fit_pods",
        "free_pods",
        "key",
        "max_size",
        "num_gangs",
        "num_queues",
        "num_waiting",
        "options",
        "roles",
        "short",
        "sizes",
    )

    def __init__(
        self,
        key: FamilyKey,
        roles: tuple[Role, ...],
        max_size: int,
        options: tuple[Option, ...] = (),
        num_queues: int = 1,
    ) -> None:
        self.key = key
        self.roles = roles  #: one, of any count, where all pods are equal
        self.options = options  #: where queues have quota: the ways to place its gangs
        self.num_queues = num_queues
        self.max_size = max_size  #: the largest size that the empty cluster holds
        self.num_gangs = 0  #: that are of it, waiting or not
        self.num_waiting = 0
        #: what the last pass said of it, see `decisions.Wait`; -1 if none did since it was empty
        self.fit_pods = -1
        self.free_pods = -1
        self.short = ""
        self.apart = ""
        # Kept once a pass looks past the head, see `WaitQueue.index_demands`. Where there are
        # queues, a demand is numbered size * num_queues + queue.
        self.sizes: list[int] = []  #: ascending numbers that have a waiting gang
        self.demands: dict[int, Demand] = {}

    def add(self, entry: Entry) -> Demand:
        """Insert a waiting gang into its demand, and return that."""
        size, queue = entry[1].size, entry[1].queue
        number = size * self.num_queues + queue
        demand = self.demands.get(number)
        if demand is None:
            demand = self.demands[number] = Demand(size, queue)
            insort(self.sizes, number)
        demand.add(entry)
        return demand

    def discard(self, entry: Entry) -> Demand:
        """Remove a gang from its demand, and return that."""
        number = entry[1].size * self.num_queues + entry[1].queue
        demand = self.demands[number]
        demand.discard(entry)
        if not demand.entries:
            del self.demands[number]
            del self.sizes[bisect_left(self.sizes, number)]
        return demand

    def demand_of(self, member: GangState) -> Demand | None:
        """Return the demand of a waiting gang, if demands are kept."""
        return self.demands.get(member.size * self.num_queues + member.queue)

    def up_to(self, size: int) -> list[int]:
        """Return the numbers of the demands of up to this size."""
        return self.sizes[: bisect_left(self.sizes, (size + 1) * self.num_queues)]


def family_key(roles: tuple[Role, ...]) -> ShapeKey:
    """Return what gangs must share to fit or not fit by their size alone."""
    one = of_one_shape(roles)
    return roles if one is None else (one.pod, one.selector)


def family_size(roles: tuple[Role, ...]) -> int:
    """Return the size by which a family orders its gangs."""
    one = of_one_shape(roles)
    return 1 if one is None else one.count


class Line:
    """Waiting gangs in one order: all of them, or those of one queue."""

    __slots__ = ("_entries", "_first", "_gpus", "demands", "known", "queue", "running", "seen")

    def __init__(self, queue: int = 0) -> None:
        self.queue = queue  #: its number
        #: the head at the last pass
        self.seen: GangState | None = None
        #: what a pass has worked out about the head, for the next one
        self.known: Any = None
        #: gangs of the queue that hold nodes, with their GPUs; without those told to leave
        self.running: dict[GangState, int] = {}
        self._gpus: dict[int, int] = {}  #: of those, by priority
        self.demands: dict[Demand, None] = {}  #: that wait in it, once they are kept
        #: in order, from `_first` on; before it stand gangs that left from the head
        self._entries: list[Entry] = []
        self._first = 0

    def note_running(self, state: GangState, runs: bool) -> None:
        """Note whether a gang runs, and stays."""
        before = self.running.get(state, 0)
        gpus = state.gang.gpus if runs else 0
        if runs:
            self.running[state] = gpus
        else:
            self.running.pop(state, None)
        if gpus != before:
            priority = state.gang.priority
            self._gpus[priority] = self._gpus.get(priority, 0) + gpus - before

    def gpus_below(self, priority: int) -> int:
        """Return the GPUs of running gangs of smaller priorities, whatever ranks they miss."""
        found = 0
        for other, gpus in self._gpus.items():
            if other < priority:
                found += gpus
        return found

    def add(self, entry: Entry) -> None:
        """Insert a gang by its key."""
        entries = self._entries
        if not entries or entry[0] > entries[-1][0]:
            entries.append(entry)
        else:
            insort(entries, entry, self._first)

    def discard(self, entry: Entry) -> None:
        """Remove a gang that is in it."""
        entries, first = self._entries, self._first
        if entries[first][1] is entry[1]:
            self._first = first = first + 1
            if first == len(entries):
                entries.clear()
                self._first = 0
            elif first > 1000 and 2 * first > len(entries):
                del entries[:first]
                self._first = 0
        else:
            del entries[bisect_left(entries, entry, first)]

    def head(self) -> GangState | None:
        """Return the first gang in the order."""
        return self._entries[self._first][1] if self._entries else None

    def entries(self) -> Iterator[Entry]:
        """Yield gangs with their keys, in order."""
        return islice(self._entries, self._first, None)


class WaitQueue:
    """All waiting gangs in one order, and those of each queue where there are several."""

    __slots__ = (
        "_all",
        "_has_demands",
        "families",
        "fresh",
        "head_left",
        "head_seen",
        "leaving",
        "lines",
        "members",
        "open_lines",
        "restraints",
    )

    def __init__(self, num_lines: int = 0) -> None:
        self.members: dict[str, GangState] = {}
        #: families with a waiting gang
        self.families: dict[FamilyKey, Family] = {}
        #: gangs that no pass has considered yet
        self.fresh: dict[GangState, None] = {}
        #: the head at the last pass
        self.head_seen: GangState | None = None
        #: one for each queue; empty where no queue has quota
        self.lines: list[Line] = [Line(queue) for queue in range(num_lines)]
        #: those with a waiting gang, by queue
        self.open_lines: dict[int, Line] = {}
        #: True if the head that the last pass saw in a line has left it
        self.head_left = False
        #: by head: what it kept from others in the last pass that looked at them
        self.restraints: dict[str, Restraint] = {}
        #: gangs that were told to leave their nodes, and still hold them
        self.leaving: dict[GangState, None] = {}
        self._all = Line()
        self._has_demands = False

    def __len__(self) -> int:
        return len(self.members)

    def add(self, state: GangState) -> None:
        """Enqueue by `state.key`."""
        entry = (state.key, state)
        self._all.add(entry)
        if self.lines:
            line = self.lines[state.queue]
            line.add(entry)
            self.open_lines[state.queue] = line
        self.members[state.gang.name] = state
        self.fresh[state] = None
        family = state.family
        if not family.num_waiting:
            self.families[family.key] = family
        family.num_waiting += 1
        if self._has_demands:
            self._add_to_demand(entry)

    def _add_to_demand(self, entry: Entry) -> None:
        demand = entry[1].family.add(entry)
        if self.lines:
            self.lines[demand.queue].demands[demand] = None

    def discard(self, state: GangState) -> None:
        """Take a gang out, wherever it stands, if it is in the queue."""
        if self.members.pop(state.gang.name, None) is None:
            return
        self.fresh.pop(state, None)
        if state is self.head_seen:
            self.head_seen = None
        entry = (state.key, state)
        self._all.discard(entry)
        if self.lines:
            line = self.lines[state.queue]
            line.discard(entry)
            if state is line.seen:
                line.seen = None
                self.head_left = True
            if line.head() is None:
                del self.open_lines[state.queue]
        family = state.family
        family.num_waiting -= 1
        if not family.num_waiting:
            del self.families[family.key]
            family.fit_pods = family.free_pods = -1
        if self._has_demands:
            demand = family.discard(entry)
            if self.lines and not demand.entries:
                del self.lines[demand.queue].demands[demand]

    def note_running(self, state: GangState) -> None:
        """Note that a gang holds nodes now, is leaving them, or holds none."""
        if self.lines:
            runs = bool(state.held) and not state.leaving
            self.lines[state.queue].note_running(state, runs)
            if state.held and state.leaving:
                self.leaving[state] = None
            else:
                self.leaving.pop(state, None)

    def forget_running(self, state: GangState) -> None:
        """Note that a gang holds nothing, whatever it says itself."""
        if self.lines:
            self.lines[state.queue].note_running(state, False)
            self.leaving.pop(state, None)

    def index_demands(self) -> None:
        """Keep the gangs of each family by size from now on, for passes that look past the head."""
        if not self._has_demands:
            self._has_demands = True
            for entry in self._all.entries():
                self._add_to_demand(entry)

    def note_seen(self) -> None:
        """Note that a pass has considered every gang."""
        self.fresh.clear()
        self.head_seen = self._all.head()
        if self.lines:
            self.head_left = False
            for line in self.open_lines.values():  # what was seen in the others has left
                line.seen = line.head()

    def head(self) -> GangState | None:
        """Return the first gang in the order."""
        return self._all.head()

    def head_before(self, state: GangState) -> GangState | None:
        """Return the first gang of the queue that a gang is for."""
        return self.lines[state.queue].head() if self.lines else self._all.head()

    def in_order(self) -> Iterator[GangState]:
        """Yield waiting gangs in order."""
        return (entry[1] for entry in self._all.entries())
