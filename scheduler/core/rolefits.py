"""How many pods of a role fit across all groups of nodes that it may use, and on which first.

An admin's label may make every node a group. Checking thousands of groups for every gang that
starts would take longer than all else; so for pods of a shape that was placed, `Across` keeps the
nodes in the order in which they are used, and checks only groups that changed.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from scheduler.core.model import Role
from scheduler.core.nodegroup import Asked, Fit, NodeGroup
from scheduler.core.nodeset import NodeSet

#: groups among which one is found by a look at each sooner than by its pods' shape
FEW = 8

#: nodes of one group with as much free: its GPUs, the group's place, the set's place in the group
Row = tuple[int, int, int, NodeSet]


class Changes:
    """Groups that changed since somebody looked, and who has to look."""

    __slots__ = ("groups", "readers")

    def __init__(self) -> None:
        self.groups: dict[NodeGroup, None] = {}
        self.readers: list[Across] = []

    def hand_out(self) -> None:
        """Notify every reader of changes."""
        if self.groups:
            for reader in self.readers:
                reader.stale.update(self.groups)
            self.groups.clear()

    def forget(self) -> None:
        """Drop the readers: they are no longer used."""
        self.readers.clear()
        self.groups.clear()


class Across:
    """Nodes of many groups, in the order in which pods of one shape use them."""

    __slots__ = ("_changes", "_fits", "_num_pods", "_place", "_rows", "_rows_of", "stale")

    def __init__(self, fits: list[Fit], changes: Changes) -> None:
        changes.hand_out()
        changes.readers.append(self)
        self._changes = changes
        self._fits = fits
        self._place = {fit.group: place for place, fit in enumerate(fits)}
        self._num_pods = 0
        #: by the pods that fit on one node, each in order
        self._rows: dict[int, list[Row]] = {}
        #: by the place of a group: the pods that fit on all its nodes, and where its rows are
        self._rows_of: list[tuple[int, list[tuple[int, Row]]]] = []
        self.stale: dict[NodeGroup, None] = {}
        for place, fit in enumerate(fits):
            fit.group.changes = changes.groups
            num_pods, rows = _rows_of(fit, place)
            self._num_pods += num_pods
            self._rows_of.append((num_pods, rows))
            for room, row in rows:
                self._rows.setdefault(room, []).append(row)
        for each in self._rows.values():
            each.sort()

    def pods(self) -> int:
        """Return how many pods fit now."""
        self._catch_up()
        return self._num_pods

    def by_room(self, num_pods: int) -> list[tuple[int, NodeSet]]:
        """Return (pods that fit on one node, such nodes) from the roomiest to the tightest.

        Of those with equal room the ones with fewer free GPUs come first, then the earlier group.
        After the sets that hold `num_pods` together, only the first with each room follows.
        """
        self._catch_up()
        found = []
        for room in sorted(self._rows, reverse=True):
            for row in self._rows[room]:
                nodes = row[3]
                found.append((room, nodes))
                num_pods -= room * nodes.size
                if num_pods <= 0:
                    break
        return found

    def _catch_up(self) -> None:
        self._changes.hand_out()
        if self.stale:
            for group in self.stale:
                place = self._place.get(group)
                if place is not None:
                    self._look_at(place)
            self.stale.clear()

    def _look_at(self, place: int) -> None:
        """Take notice of what is free in a group."""
        num_pods, rows = self._rows_of[place]
        for room, row in rows:
            among = self._rows[room]
            del among[bisect_left(among, row)]
            if not among:
                del self._rows[room]
        self._num_pods -= num_pods
        self._rows_of[place] = num_pods, rows = _rows_of(self._fits[place], place)
        self._num_pods += num_pods
        for room, row in rows:
            insort(self._rows.setdefault(room, []), row)


def _rows_of(fit: Fit, place: int) -> tuple[int, list[tuple[int, Row]]]:
    num_pods = 0
    rows = []
    for at, (room, free, nodes) in enumerate(fit.sets()):
        num_pods += room * nodes.size
        rows.append((room, (free.gpus, place, at, nodes)))
    return num_pods, rows


class RoleFits:
    """How many pods of a role fit, however many it has, and what they ask for."""

    __slots__ = ("_only", "across", "asked", "fits", "role")

    def __init__(
        self, role: Role, fits: list[Fit], asked: tuple[Asked, ...], across: Across | None
    ) -> None:
        self.role = role
        self.fits = fits  #: for each group they may use
        self.asked = asked  #: see `Capacity.asked`
        self.across = across  #: kept once such pods were placed, if the groups are many
        self._only = fits[0] if len(fits) == 1 else None

    def pods(self) -> int:
        """Return how many pods fit now."""
        only = self._only
        if only is not None and only.is_counted:
            only.was_asked = True
            return only.num_pods
        if self.across is not None:
            return self.across.pods()
        return sum([fit.pods() for fit in self.fits])

    def free_gpus(self) -> int:
        """Return the free GPUs on nodes that they may use."""
        if self._only is not None:
            return self._only.group.free_gpus
        return sum([fit.group.free_gpus for fit in self.fits])

    def on(self, group: NodeGroup) -> Fit:
        """Return how many fit on the nodes of a group, which may be one they may not use."""
        if len(self.fits) <= FEW:
            for fit in self.fits:
                if fit.group is group:
                    return fit
        return group.fit(self.role.pod)
