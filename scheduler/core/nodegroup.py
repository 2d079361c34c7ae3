"""One group of equal nodes: what is free on them, and how many pods fit there.

What is free on a node is one of few *shapes*. Each group of nodes numbers those that it has met, so
that the rest is lists of small numbers: the nodes of each shape, the shape that follows once pods
come or go, and how many pods fit.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import NamedTuple

from scheduler.core.model import PodShape, Selector
from scheduler.core.nodeset import NodeSet

#: a number of a shape that has not been worked out yet
UNKNOWN = -1
#: counts of what fits that nobody asked for during so many moves are dropped
_FORGOTTEN_AFTER = 32


class Asked(NamedTuple):
    """One resource that pods ask for."""

    name: str  #: as `PodShape.amounts` has it
    amount: int
    unit: PodShape  #: 1 of it
    beside: PodShape  #: what a pod asks of it and of the first resource


class Fit:
    """How many pods of one shape fit into the nodes of a group, kept up to date by every move."""

    __slots__ = (
        "_then",
        "each",
        "group",
        "is_counted",
        "num_pods",
        "pod",
        "roomiest",
        "was_asked",
    )

    def __init__(self, pod: PodShape, group: NodeGroup) -> None:
        self.pod = pod
        self.group = group
        #: on one node, by the number of what is free there
        self.each: list[int] = []
        #: shapes that hold any, from the roomiest to the tightest: (-pods, what is free, number)
        self.roomiest: list[tuple[int, PodShape, int]] = []
        self.num_pods = 0  #: that fit now; believed while `is_counted`
        self.is_counted = False
        self.was_asked = False
        #: what is free once so many pods left or, below zero, came: by number
        self._then: dict[int, list[int]] = {}

    def then(self, times: int) -> list[int]:
        """Return, by number, the shape after `times` such pods left; see `work_out`."""
        numbers = self._then.get(times)
        if numbers is None:
            numbers = self._then[times] = []
        more = len(self.group.shapes) - len(numbers)
        if more:
            numbers += [UNKNOWN] * more
        return numbers

    def work_out(self, number: int, times: int) -> int:
        """Return the number of a shape after `times` such pods left, and let `then` know it."""
        free = self.group.shapes[number]
        result = free.plus(self.pod, times)
        assert not result.is_overdrawn, f"taking {-times} x {self.pod} from {free} leaves {result}"
        self._then[times][number] = new = self.group.number(result)
        return new

    def note_shapes(self) -> None:
        """Take notice of shapes that the group has met since."""
        shapes = self.group.shapes
        for number in range(len(self.each), len(shapes)):
            free = shapes[number]
            room = free.holds(self.pod)
            self.each.append(room)
            if room:
                insort(self.roomiest, (-room, free, number))

    def pods(self) -> int:
        """Return how many pods fit now."""
        self.was_asked = True
        if not self.is_counted:
            self.group.count(self)
        return self.num_pods

    def sets(self) -> list[tuple[int, PodShape, NodeSet]]:
        """Return (pods that fit on one node, what is free there, such nodes).

        The roomiest come first, and of those that hold the same number the fullest.
        """
        self.note_shapes()
        nodes = self.group.nodes
        return [
            (-less, free, nodes[number])
            for less, free, number in self.roomiest
            if nodes[number].size
        ]

    def by_room(self) -> list[tuple[int, NodeSet]]:
        """Return (pods that fit on one node, such nodes) in the same order."""
        if len(self.each) < len(self.group.shapes):
            self.note_shapes()
        nodes = self.group.nodes
        return [(-less, nodes[number]) for less, _, number in self.roomiest if nodes[number].size]


class NodeGroup:
    """Nodes of one pool, GPU model and number of GPUs, kept by what is free on them.

    Machines of one kind differ by some KiB of memory; each would be a group of its own by that.
    """

    __slots__ = (
        "_counted",
        "_fits",
        "_moves",
        "_numbers",
        "capacities",
        "changes",
        "files_full",
        "free_gpus",
        "gpu_model",
        "gpus",
        "gpus_each",
        "nodes",
        "num_nodes",
        "pool",
        "prune_at",
        "shapes",
    )

    def __init__(self, pool: str, gpu_model: str, gpus_each: int) -> None:
        self.pool = pool
        self.gpu_model = gpu_model
        self.gpus_each = gpus_each  #: of an empty node
        self.capacities: dict[PodShape, int] = {}  #: of how many nodes, schedulable or not
        self.num_nodes = 0  #: schedulable or not
        self.shapes: list[PodShape] = []  #: what may be free on a node, by number
        self.gpus: list[int] = []  #: theirs
        self.nodes: list[NodeSet] = []  #: the schedulable nodes with so much free, by number
        self.free_gpus = 0  #: on schedulable nodes
        #: False while nodes without a free GPU are left out of `nodes`; only pods that need none
        #: could use them, and most clusters see no such pod
        self.files_full = not gpus_each
        self.prune_at = 64  #: with so many shapes, unused ones are dropped
        self._numbers: dict[PodShape, int] = {}
        self._fits: dict[PodShape, Fit] = {}
        self._counted: list[Fit] = []
        self._moves = 0
        #: groups whose nodes have other things free than they had; kept once somebody asks
        self.changes: dict[NodeGroup, None] | None = None

    def allows(self, selector: Selector) -> bool:
        """True if pods with this selector may use these nodes."""
        pools = selector.pool
        named = pools in ("", self.pool) or f"|{self.pool}|" in f"|{pools}|"
        return named and selector.gpu_model in ("", self.gpu_model)

    def slots(self, pod: PodShape) -> int:
        """Return how many pods of a shape the empty nodes hold, those out of service too."""
        return sum([count * has.holds(pod) for has, count in self.capacities.items()])

    def by_free(self) -> Iterator[tuple[PodShape, NodeSet]]:
        """Yield what is free on schedulable nodes, and which; full ones only if `files_full`."""
        for free, nodes in zip(self.shapes, self.nodes, strict=True):
            if nodes.size:
                yield free, nodes

    def number(self, free: PodShape) -> int:
        """Return the number of a shape, given now if it is new."""
        number = self._numbers.get(free)
        if number is None:
            number = self._numbers[free] = len(self.shapes)
            self.shapes.append(free)
            self.nodes.append(NodeSet())
            self.gpus.append(free.gpus)
            for fit in self._counted:
                fit.note_shapes()
        return number

    def fit(self, pod: PodShape) -> Fit:
        """Return what tells how many pods of this shape fit here."""
        fit = self._fits.get(pod)
        if fit is None:
            fit = self._fits[pod] = Fit(pod, self)
        return fit

    def count(self, fit: Fit) -> None:
        """Count what fits, and keep it up to date from now on."""
        fit.note_shapes()
        fit.num_pods = sum(
            [room * nodes.size for room, nodes in zip(fit.each, self.nodes, strict=True)]
        )
        fit.is_counted = True
        self._counted.append(fit)

    def counted(self) -> list[Fit]:
        """Return what is kept up to date at present."""
        return self._counted

    def _count_less(self) -> None:
        """Keep up to date only what was asked for lately."""
        self._moves = 0
        for fit in self._counted:
            fit.is_counted = fit.was_asked
            fit.was_asked = False
        self._counted = [fit for fit in self._counted if fit.is_counted]

    def files(self, number: int) -> NodeSet | None:
        """Return the set in which nodes of a shape are filed, if they are."""
        return self.nodes[number] if self.gpus[number] or self.files_full else None

    def refile(self, lo: int, hi: int, old: int, new: int) -> None:
        """File the nodes [lo, hi), filed as `old`, under the shape `new`."""
        before, after = self.files(old), self.files(new)
        if before is not None:
            before.remove(lo, hi)
        if after is not None:
            after.add(lo, hi)

    def recount(self, num_nodes: int, old: int, new: int) -> None:
        """Count so many nodes no longer as `old`, but as the shape `new`."""
        self.free_gpus += (self.gpus[new] - self.gpus[old]) * num_nodes
        if self.changes is not None:
            self.changes[self] = None
        for fit in self._counted:
            fit.num_pods += (fit.each[new] - fit.each[old]) * num_nodes
        self._moves += 1
        if self._moves > _FORGOTTEN_AFTER:
            self._count_less()

    def add(self, number: int, lo: int, hi: int) -> None:
        """File the nodes [lo, hi), which are not filed yet."""
        free_gpus = self.gpus[number]
        if free_gpus or self.files_full:
            self.nodes[number].add(lo, hi)
        self.free_gpus += free_gpus * (hi - lo)
        if self.changes is not None:
            self.changes[self] = None
        for fit in self._counted:
            fit.num_pods += fit.each[number] * (hi - lo)

    def remove(self, number: int, lo: int, hi: int) -> None:
        """Take the nodes [lo, hi) out of the files."""
        free_gpus = self.gpus[number]
        if free_gpus or self.files_full:
            self.nodes[number].remove(lo, hi)
        self.free_gpus -= free_gpus * (hi - lo)
        if self.changes is not None:
            self.changes[self] = None
        for fit in self._counted:
            fit.num_pods -= fit.each[number] * (hi - lo)

    def file_full(self, number: int, i: int) -> None:
        """File a node that was left out as it has no free GPU."""
        self.nodes[number].add(i, i + 1)
        if self.changes is not None:
            self.changes[self] = None

    def forget_pods(self) -> None:
        """Forget what was worked out for shapes of pods."""
        for fit in self._fits.values():
            fit.is_counted = False
        self._fits.clear()
        self._counted.clear()

    def number_anew(self, in_use: set[int]) -> list[int]:
        """Drop the shapes that no node has; return the new number of each old one."""
        old_shapes, old_nodes = self.shapes, self.nodes
        kept = sorted(in_use)
        self.shapes = [old_shapes[number] for number in kept]
        self.gpus = [free.gpus for free in self.shapes]
        self.nodes = [old_nodes[number] for number in kept]
        self._numbers = {free: number for number, free in enumerate(self.shapes)}
        self.forget_pods()
        self.prune_at = max(64, 2 * len(kept))
        new = [UNKNOWN] * len(old_shapes)
        for number, old in enumerate(kept):
            new[old] = number
        return new
