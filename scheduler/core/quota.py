"""The quota tree: what queues and cohorts have, use, lend and borrow.

The arithmetic is that of Kueue (`pkg/cache/scheduler/resource_node.go`). A *cell* is one resource
of one flavor; every node of the tree has an integer per cell. Of its quota a node keeps a *local*
part, which no other may take, and lends the rest to its parent; what it uses beyond the local part
counts as use of the parent. Nothing is clamped on the way, so that `available` below 0 says by how
much a quota is overdrawn, after it was lowered.
"""

from __future__ import annotations

from math import inf

from scheduler.core.queues import Cohort, Queue, Queues

#: (cell, amount) of what a gang takes: ascending by cell, and none of 0
Amounts = tuple[tuple[int, int], ...]
#: what a trial undoes: node, cell, how much was used, and the versions of its branch and of all
Undo = tuple[int, int, int, int, int]
NO_LIMIT = -1
_UNLIMITED = 1 << 62
NO_PARENT = -1


class Share:
    """How much of what its siblings lend a node has borrowed, in thousandths, by its weight."""

    __slots__ = ("borrows", "resource", "unweighted", "weighted")

    def __init__(self, borrows: bool, resource: str, unweighted: float, weight: float) -> None:
        self.borrows = borrows
        self.resource = resource  #: the dominant one, which has the largest share
        self.unweighted = unweighted
        #: inf if it borrows with weight 0, above all others
        self.weighted = 0.0
        if borrows:
            self.weighted = unweighted / weight if weight else inf

    @property
    def rank(self) -> tuple[float, float]:
        """How shares compare: two infinite ones by what they are before the weight."""
        return (self.weighted, self.unweighted if self.weighted == inf else 0.0)


class QuotaTree:
    """The live tree. Nodes are numbered: queues in their order, then cohorts in theirs.

    Taking and giving back cost the depth of the tree per cell.
    """

    __slots__ = (
        "_cap",
        "_clock",
        "_free_below",
        "_log",
        "_num_borrowing",
        "_own_left",
        "_own_stamp",
        "_roots",
        "_stamp",
        "_tops",
        "_versions",
        "borrow",
        "cells",
        "cells_by_resource",
        "children",
        "flavors",
        "heights",
        "index_of",
        "local",
        "names",
        "nominal",
        "num_queues",
        "parent",
        "potential",
        "queues",
        "subtree",
        "usage",
        "version",
        "weight",
    )

    def __init__(self, file: Queues) -> None:
        """Build an unused tree from words that are `checked`."""
        nodes: list[Queue | Cohort] = [*file.queues, *file.cohorts]
        self.queues = file.queues  #: the words of the first nodes
        self.num_queues = len(file.queues)
        self.flavors = tuple(flavor.name for flavor in file.flavors)
        self.names = [node.name for node in nodes]
        self.index_of = {name: i for i, name in enumerate(self.names)}
        self.weight = [float(node.weight) for node in nodes]
        self.parent = [
            self.index_of.get(_parent_of(node), NO_PARENT) for node in nodes
        ]  #: index of the cohort above
        self.children: list[list[int]] = [[] for _ in nodes]
        for node, above in enumerate(self.parent):
            if above != NO_PARENT:
                self.children[above].append(node)
        self.heights = [0] * len(nodes)  #: edges down to the deepest leaf
        self.cells: dict[tuple[str, str], int] = {}  #: by flavor and resource
        for flavor in self.flavors:
            for one in nodes:
                for resource in one.quota.get(flavor, ()):
                    self.cells.setdefault((flavor, resource), len(self.cells))
        self.cells_by_resource: dict[str, list[int]] = {}
        for (_, resource), cell in self.cells.items():
            self.cells_by_resource.setdefault(resource, []).append(cell)
        # per node and cell
        self.nominal = self._table(0)
        self.borrow = self._table(NO_LIMIT)  #: most that it takes from above
        self.local = self._table(0)  #: what it does not lend
        self.subtree = self._table(0)  #: its own, and what its children lend it
        self.potential = self._table(0)  #: available while nobody uses anything
        self.usage = self._table(0)
        self._log: list[Undo] | None = None
        #: of all usage: equal whenever nothing has changed, or all was undone
        self.version = 0
        self._clock = 0  #: the last version that was given out
        self._num_borrowing = self._table(0)  #: per root and cell, how many queues borrow
        # What a node may use depends on the root's usage, which nearly every gang changes, and on
        # that of nodes below it, which is worked out again only after a change in its branch.
        paths = [[node, *self.above(node)] for node in range(len(nodes))]
        self._roots = [path[-1] for path in paths]
        #: the ancestor just below the root, or the root itself
        self._tops = [path[-2:][0] for path in paths]
        self._versions = [0] * len(nodes)  #: of the usage in the branch of a top
        self._stamp = self._table(-1)  #: per node and cell, for which version these hold:
        self._free_below = self._table(0)  #: what it may use before it takes any of the root
        self._cap = self._table(0)  #: what borrowing limits let it use at most
        self._own_stamp = self._table(-1)  #: the same for this one:
        self._own_left = self._table(0)  #: see `own_left`
        self._fill(nodes)

    def _table(self, value: int) -> list[list[int]]:
        return [[value] * len(self.cells) for _ in self.names]

    def _fill(self, nodes: list[Queue | Cohort]) -> None:
        """Work out what does not depend on usage: upwards, then downwards."""
        order = [node for node, above in enumerate(self.parent) if above == NO_PARENT]
        for node in order:  # grows: parents come before their children
            order += self.children[node]
        for node in reversed(order):
            self.heights[node] = max((self.heights[c] + 1 for c in self.children[node]), default=0)
            for flavor, resources in nodes[node].quota.items():
                for resource, quota in resources.items():
                    cell = self.cells[flavor, resource]
                    self.nominal[node][cell] = quota.nominal
                    self.borrow[node][cell] = NO_LIMIT if quota.borrow is None else quota.borrow
            for cell in range(len(self.cells)):
                subtree = self.nominal[node][cell]
                for child in self.children[node]:
                    subtree += self.subtree[child][cell] - self.local[child][cell]
                self.subtree[node][cell] = subtree
            for flavor, resources in nodes[node].quota.items():
                for resource, quota in resources.items():
                    if quota.lend is not None:
                        cell = self.cells[flavor, resource]
                        self.local[node][cell] = max(0, self.subtree[node][cell] - quota.lend)
        for node in order:
            for cell in range(len(self.cells)):
                self.potential[node][cell] = self.available(node, cell)

    # -- usage -------------------------------------------------------------------------------

    def take(self, queue: int, amounts: Amounts) -> None:
        """Count what a gang of the queue takes, fits or not."""
        for cell, amount in amounts:
            node = queue
            while node != NO_PARENT and amount > 0:
                beyond = amount - self.local_free(node, cell)
                self._use(node, cell, amount)
                amount = beyond
                node = self.parent[node]

    def give_back(self, queue: int, amounts: Amounts) -> None:
        """Count what a gang of the queue gives back."""
        for cell, amount in amounts:
            node = queue
            while node != NO_PARENT and amount > 0:
                borrowed = self.usage[node][cell] - self.local[node][cell]
                self._use(node, cell, -amount)
                amount = min(amount, borrowed)
                node = self.parent[node]

    def _use(self, node: int, cell: int, amount: int) -> None:
        used, top = self.usage[node][cell], self._tops[node]
        if self._log is not None:
            self._log.append((node, cell, used, self._versions[top], self.version))
        self._set(node, cell, used + amount)
        self._clock += 1
        self._versions[top] = self.version = self._clock

    def _set(self, node: int, cell: int, used: int) -> None:
        usage = self.usage[node]
        if node < self.num_queues:
            own = self.subtree[node][cell]
            self._num_borrowing[self._roots[node]][cell] += (used > own) - (usage[cell] > own)
        usage[cell] = used

    def renew_versions(self) -> None:
        """Give everything a new version: something else has changed that matters as usage does."""
        self._clock += 1
        self.version = self._clock
        self._versions = [self._clock] * len(self._versions)

    def begin_trial(self) -> list[Undo] | None:
        """Start to log changes; return the log of the trial around this one."""
        outer = self._log
        self._log = []
        return outer

    def undo_trial(self, outer: list[Undo] | None) -> None:
        """Undo what was logged and go on with the log around it."""
        assert self._log is not None
        for node, cell, used, of_branch, version in reversed(self._log):
            self._set(node, cell, used)
            self._versions[self._tops[node]], self.version = of_branch, version
        self._log = outer

    # -- another usage than the present one ---------------------------------------------------

    def copied_usage(self) -> list[list[int]]:
        """Return the usage [num_nodes, num_cells] as it is, for the methods below."""
        return [list(used) for used in self.usage]

    def take_in(self, usage: list[list[int]], queue: int, amounts: Amounts) -> None:
        """Count in `usage` what a gang of the queue takes."""
        for cell, amount in amounts:
            node = queue
            while node != NO_PARENT and amount > 0:
                used = usage[node][cell]
                usage[node][cell] = used + amount
                amount -= max(0, self.local[node][cell] - used)
                node = self.parent[node]

    def give_back_in(self, usage: list[list[int]], queue: int, amounts: Amounts) -> None:
        """Count in `usage` what gangs of the queue give back."""
        for cell, amount in amounts:
            node = queue
            while node != NO_PARENT and amount > 0:
                used = usage[node][cell]
                usage[node][cell] = used - amount
                amount = min(amount, used - self.local[node][cell])
                node = self.parent[node]

    def available_in(self, usage: list[list[int]], node: int, cell: int) -> int:
        """Return how much more the node could use, if that were the usage."""
        root = self._roots[node]
        free = self.subtree[root][cell] - usage[root][cell]
        if node == root:
            return free
        below, cap = self._below_root(usage, node, cell)
        return min(free + below, cap)

    # -- what is left ------------------------------------------------------------------------

    def local_free(self, node: int, cell: int) -> int:
        """Return what is unused of the part that the node does not lend."""
        return max(0, self.local[node][cell] - self.usage[node][cell])

    def available(self, node: int, cell: int) -> int:
        """Return how much more the node may use now; below 0 if its quota is overdrawn."""
        root = self._roots[node]
        free = self.subtree[root][cell] - self.usage[root][cell]
        if node == root:
            return free
        if self._stamp[node][cell] != self._versions[self._tops[node]]:
            below, cap = self._below_root(self.usage, node, cell)
            self._free_below[node][cell], self._cap[node][cell] = below, cap
            self._stamp[node][cell] = self._versions[self._tops[node]]
        free += self._free_below[node][cell]
        cap = self._cap[node][cell]
        return free if free < cap else cap

    def branch(self, node: int) -> int:
        """Return the version of the usage below the root that a node depends on."""
        return self._versions[self._tops[node]]

    def free_at_root(self, node: int, cell: int) -> int:
        """Return what is unused of the whole tree that the node is in."""
        root = self._roots[node]
        return self.subtree[root][cell] - self.usage[root][cell]

    def _below_root(self, usage: list[list[int]], node: int, cell: int) -> tuple[int, int]:
        """Return what a node may use before it takes any of the root, and at most.

        Kueue's recursion, unrolled.
        """
        at, root, free, cap = node, self._roots[node], 0, _UNLIMITED
        while at != root:
            used, local = usage[at][cell], self.local[at][cell]
            free += max(0, local - used)
            limit = self.borrow[at][cell]
            if limit != NO_LIMIT:
                lent = self.subtree[at][cell] - local
                cap = min(cap, free + lent - max(0, used - local) + limit)
            at = self.parent[at]
        return free, cap

    def fits(self, queue: int, amounts: Amounts) -> bool:
        """True if the queue may use this much more now."""
        return all(amount <= max(0, self.available(queue, cell)) for cell, amount in amounts)

    def borrows(self, node: int, cell: int, more: int = 0) -> bool:
        """True if the node, with this much more, uses more than its own subtree has."""
        return self.usage[node][cell] + more > self.subtree[node][cell]

    def others_borrow(self, queue: int, cell: int) -> bool:
        """True if another queue of the same tree uses more than its own."""
        found = self._num_borrowing[self._roots[queue]][cell]
        return found > (1 if self.borrows(queue, cell) else 0)

    def lowest(self, queue: int, cell: int, amount: int) -> int:
        """Return the smallest subtree around the queue in whose own quota the amount fits now.

        NO_PARENT if there is none.
        """
        node = queue
        while node != NO_PARENT and self.borrows(node, cell, amount):
            amount -= self.local_free(node, cell)
            node = self.parent[node]
        return node

    def height(self, queue: int, cell: int, amount: int) -> int:
        """Return how far up a gang of this amount borrows: 0 if not at all.

        That is the height of the smallest subtree in whose own quota it fits now, or that of the
        whole tree.
        """
        found = self.lowest(queue, cell, amount)
        return self.heights[self.root(queue) if found == NO_PARENT else found]

    def height_of(self, queue: int, amounts: Amounts) -> int:
        """Return how far up a gang of these amounts borrows: the most of its resources."""
        most = 0
        for cell, amount in amounts:
            most = max(most, self.height(queue, cell, amount))
        return most

    def fits_below_root(self, queue: int, cell: int, amount: int) -> bool:
        """True if the amount fits now in the own quota of the queue, or of a cohort around it.

        The whole tree does not count: a gang that borrows of all has no better right than others.
        """
        lowest = self.lowest(queue, cell, amount)
        return lowest != NO_PARENT and self.parent[lowest] != NO_PARENT

    def smallest(self, queue: int, cell: int, amount: int) -> int:
        """Return the smallest subtree around the queue that could give it all, if nobody used any.

        NO_PARENT if only the whole tree could, which then is more than the queue.
        """
        node = queue
        while amount > self.subtree[node][cell]:
            amount -= self.local[node][cell]
            node = self.parent[node]
            if node == NO_PARENT:
                return NO_PARENT
        return NO_PARENT if node != queue and self.parent[node] == NO_PARENT else node

    def own_part(self, queue: int, cell: int, amount: int) -> int | None:
        """Return how much of an amount is unused in quota that others can only have borrowed.

        That quota is the queue's, or that of the smallest subtree around it that could give it
        all. None if only the whole tree could.
        """
        smallest = self.smallest(queue, cell, amount)
        if smallest == NO_PARENT:
            return None
        node, rest, found = queue, amount, 0
        while node != smallest:
            rest -= self.local[node][cell]
            found += self.local_free(node, cell)
            node = self.parent[node]
        left = self.subtree[node][cell] - self.usage[node][cell]
        return found + min(rest, left) if left > 0 else 0

    def own_left(self, queue: int, cell: int) -> int:
        """Return how much is unused of the queue's own quota, or of a cohort's below the root."""
        if self._own_stamp[queue][cell] != self._versions[self._tops[queue]]:
            most, node, local = 0, queue, 0
            while self.parent[node] != NO_PARENT:
                most = max(most, local + self.subtree[node][cell] - self.usage[node][cell])
                local += self.local_free(node, cell)
                node = self.parent[node]
            self._own_left[queue][cell] = most
            self._own_stamp[queue][cell] = self._versions[self._tops[queue]]
        return self._own_left[queue][cell]

    def above(self, node: int) -> list[int]:
        """Return the cohorts above a node, from its parent to the root."""
        found = []
        while self.parent[node] != NO_PARENT:
            node = self.parent[node]
            found.append(node)
        return found

    def root(self, node: int) -> int:
        """Return the root of the tree that the node is in."""
        return self._roots[node]

    def sides(self, queue: int, other: int) -> tuple[int, int]:
        """Return the nodes above two queues just below the lowest cohort that they share.

        The queues are in one tree, and not the same.
        """
        above = [queue, *self.above(queue)]
        theirs = other
        while self.parent[theirs] not in above:
            theirs = self.parent[theirs]
        return above[above.index(self.parent[theirs]) - 1], theirs

    def share(self, node: int) -> Share:
        """Return the dominant share of a node (Kueue's fair sharing); a root has none.

        Per resource it is what the node borrows of all flavors, by what its parent could have at
        most; the largest counts, the first by name among equals.
        """
        above = self.parent[node]
        if above == NO_PARENT:
            return Share(False, "", 0.0, self.weight[node])
        usage, subtree = self.usage[node], self.subtree[node]
        borrows = False
        dominant = ""
        largest = 0.0
        for resource, cells in self.cells_by_resource.items():
            borrowed = lendable = 0
            for cell in cells:
                borrowed += max(0, usage[cell] - subtree[cell])
                lendable += self.potential[above][cell]
            if borrowed > 0:
                borrows = True
                ratio = borrowed * 1000 / lendable if lendable > 0 else 0.0
                if ratio > largest or (ratio == largest and ratio > 0 and resource < dominant):
                    largest, dominant = ratio, resource
        return Share(borrows, dominant, largest, self.weight[node])


def _parent_of(node: Queue | Cohort) -> str:
    return node.cohort if isinstance(node, Queue) else node.parent
