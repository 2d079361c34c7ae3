"""What is free where: an index that admission can ask without looking at every node."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

from scheduler.model import Node, NodeStatus, PodShape, Role, Selector, Slice
from scheduler.nodeset import NodeSet


class NodeGroup:
    """Nodes of one pool, GPU model and capacity, kept by what is free on them."""

    __slots__ = (
        "_prune_at",
        "capacity",
        "files_full",
        "free_gpus",
        "free_shapes",
        "gpu_model",
        "nodes_by_free",
        "num_nodes",
        "pool",
    )

    def __init__(self, pool: str, gpu_model: str, capacity: PodShape) -> None:
        self.pool = pool
        self.gpu_model = gpu_model
        self.capacity = capacity
        self.num_nodes = 0  #: schedulable or not
        #: schedulable nodes by their free shape; sets that ran empty stay for a while
        self.nodes_by_free: dict[PodShape, NodeSet] = {}
        self.free_shapes: list[PodShape] = []  #: the keys of `nodes_by_free`, ascending
        self.free_gpus = 0  #: on schedulable nodes
        #: False while nodes without a free GPU are left out of `nodes_by_free`; only pods that need
        #: none could use them, and most clusters see no such pod
        self.files_full = not capacity.gpus
        self._prune_at = 32

    def allows(self, selector: Selector) -> bool:
        """True if pods with this selector may use these nodes."""
        return selector.pool in ("", self.pool) and selector.gpu_model in ("", self.gpu_model)

    def file(self, free: PodShape) -> NodeSet:
        """Return the set of nodes with so much free, made if it is new."""
        nodes = self.nodes_by_free.get(free)
        if nodes is None:
            if len(self.free_shapes) >= 2 * self._prune_at:
                self._drop_empty()
            nodes = self.nodes_by_free[free] = NodeSet()
            insort(self.free_shapes, free)
        return nodes

    def _drop_empty(self) -> None:
        for free in [free for free, nodes in self.nodes_by_free.items() if not nodes.size]:
            del self.nodes_by_free[free]
        self.free_shapes = sorted(self.nodes_by_free)
        self._prune_at = max(32, len(self.free_shapes))

    def add(self, free: PodShape, lo: int, hi: int) -> None:
        """Index the nodes [lo, hi) under `free`."""
        if free.gpus or self.files_full:
            self.file(free).add(lo, hi)
        self.free_gpus += free.gpus * (hi - lo)

    def remove(self, free: PodShape, lo: int, hi: int) -> None:
        """Take the nodes [lo, hi) out of the index."""
        if free.gpus or self.files_full:
            self.nodes_by_free[free].remove(lo, hi)
        self.free_gpus -= free.gpus * (hi - lo)


#: the nodes [lo, hi) went from one free shape to another
Move = tuple[int, int, PodShape, PodShape]


class Trial:
    """A what-if on a `Capacity`: an undo log, never a copy."""

    __slots__ = ("_capacity", "_outer")

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity

    def __enter__(self) -> None:
        self._outer = self._capacity.begin_trial()

    def __exit__(self, *_: object) -> None:
        self._capacity.undo_trial(self._outer)


class Capacity:
    """All nodes of a cluster and their free resources.

    Nodes are numbered once, by pool, model, capacity and topology, so that neighbours in number
    are neighbours in the network. Taking and giving back cost the ranges touched.
    """

    def __init__(self, nodes: Iterable[Node], *, all_in_service: bool = False) -> None:
        self._ignores_status = all_in_service
        self.nodes: list[Node] = sorted(
            nodes, key=lambda n: (n.pool, n.gpu_model, n.capacity, n.topology, n.name)
        )
        self.index_of = {node.name: i for i, node in enumerate(self.nodes)}
        if len(self.index_of) != len(self.nodes):
            seen: set[str] = set()
            twice = next(n.name for n in self.nodes if n.name in seen or seen.add(n.name))  # type: ignore[func-returns-value]
            raise ValueError(f"node {twice!r} is listed twice; give every node its own name")
        self.free: list[PodShape] = [node.capacity for node in self.nodes]
        self.groups: list[NodeGroup] = []
        self.group_of: list[NodeGroup] = []
        self.unschedulable: dict[int, NodeStatus] = {}
        self._eligible: dict[Selector, list[NodeGroup]] = {}
        self._trial_log: list[Move] | None = None
        #: (pod, times) -> {free: free + times x pod}: few distinct values, asked for all the time
        self._sums: dict[tuple[PodShape, int], dict[PodShape, PodShape]] = {}
        self._fits: dict[PodShape, dict[PodShape, int]] = {}
        for i, node in enumerate(self.nodes):
            self._index_new(i, node)

    def _group_for(self, node: Node) -> NodeGroup:
        for group in reversed(self.groups):
            if (group.pool, group.gpu_model, group.capacity) == (
                node.pool,
                node.gpu_model,
                node.capacity,
            ):
                return group
        group = NodeGroup(node.pool, node.gpu_model, node.capacity)
        self.groups.append(group)
        self._eligible.clear()
        return group

    def _index_new(self, i: int, node: Node) -> None:
        group = self._group_for(node)
        self.group_of.append(group)
        group.num_nodes += 1
        if node.status is NodeStatus.SCHEDULABLE or self._ignores_status:
            group.add(node.capacity, i, i + 1)
        else:
            self.unschedulable[i] = node.status

    # -- questions -------------------------------------------------------------------------

    def eligible(self, selector: Selector) -> list[NodeGroup]:
        """Return the groups that pods with this selector may use."""
        groups = self._eligible.get(selector)
        if groups is None:
            groups = self._eligible[selector] = [g for g in self.groups if g.allows(selector)]
        return groups

    def searched(self, pod: PodShape, selector: Selector) -> list[NodeGroup]:
        """Return the groups to search for room for pods of this shape."""
        groups = self.eligible(selector)
        if not pod[0]:
            self._file_full(groups)
        return groups

    def _file_full(self, groups: list[NodeGroup]) -> None:
        """From now on index nodes without a free GPU, too."""
        for group in groups:
            if not group.files_full:
                group.files_full = True
                for i, free in enumerate(self.free):
                    if not free[0] and self.group_of[i] is group and i not in self.unschedulable:
                        group.file(free).add(i, i + 1)

    def pods_on(self, free: PodShape, pod: PodShape) -> int:
        """Return how many pods of shape `pod` fit into `free`; remembered, as shapes are few."""
        by_free = self._fits.get(pod)
        if by_free is None:
            by_free = self._fits[pod] = {}
        count = by_free.get(free)
        if count is None:
            count = by_free[free] = free.holds(pod)
        return count

    def slots(self, pod: PodShape, selector: Selector) -> int:
        """Return how many pods of this shape fit now. Costs the distinct free shapes."""
        total = 0
        gpus = pod[0]
        for group in self.searched(pod, selector):
            nodes_by_free = group.nodes_by_free
            for free in reversed(group.free_shapes):
                if free[0] < gpus:
                    break
                size = nodes_by_free[free].size
                if size:
                    total += self.pods_on(free, pod) * size
        return total

    def free_gpus(self, selector: Selector) -> int:
        """Return the free GPUs on nodes that pods with this selector may use."""
        groups = self.eligible(selector)
        return groups[0].free_gpus if len(groups) == 1 else sum(g.free_gpus for g in groups)

    def total_slots(self, pod: PodShape, selector: Selector) -> int:
        """Return how many pods of this shape the empty cluster holds, nodes out of service too."""
        return sum(
            group.num_nodes * self.pods_on(group.capacity, pod) for group in self.eligible(selector)
        )

    # -- changes ---------------------------------------------------------------------------

    def take(self, roles: tuple[Role, ...], placement: Iterable[Slice]) -> None:
        """Occupy the nodes of `placement`; it must fit."""
        self._change(roles, placement, -1)

    def give_back(self, roles: tuple[Role, ...], placement: Iterable[Slice]) -> None:
        """Undo `take`."""
        self._change(roles, placement, 1)

    def _change(self, roles: tuple[Role, ...], placement: Iterable[Slice], sign: int) -> None:
        """Add `sign` x what each slice holds to what is free on its nodes."""
        free = self.free
        sums = self._sums
        for role, lo, hi, pods_per_node in placement:
            key = (roles[role].pod, sign * pods_per_node)
            after = sums.get(key)
            if after is None:
                after = sums[key] = {}
            start = lo
            while start < hi:
                # nodes with the same amount free move together
                old = free[start]
                end = hi
                if end - start > 1 and free[start:end].count(old) < end - start:
                    end = next(i for i in range(start, hi) if free[i] != old)
                new = after.get(old)
                if new is None:
                    new = after[old] = old.plus(*key)
                    assert min(new) >= 0, f"taking {-key[1]} x {key[0]} from {old} leaves {new}"
                self._move(start, end, old, new)
                start = end

    def _move(self, lo: int, hi: int, old: PodShape, new: PodShape) -> None:
        """Refile the nodes [lo, hi) from free shape `old` to `new`."""
        num_nodes = hi - lo
        group = self.group_of[lo]
        if self.unschedulable and not self.unschedulable.keys().isdisjoint(range(lo, hi)):
            for i in range(lo, hi):
                if i not in self.unschedulable:
                    group.remove(old, i, i + 1)
                    group.add(new, i, i + 1)
        else:
            by_free = group.nodes_by_free
            if old[0] or group.files_full:
                by_free[old].remove(lo, hi)
            if new[0] or group.files_full:
                nodes = by_free.get(new)
                (group.file(new) if nodes is None else nodes).add(lo, hi)
            group.free_gpus += (new[0] - old[0]) * num_nodes
        self.free[lo:hi] = [new] * num_nodes
        if self._trial_log is not None:
            self._trial_log.append((lo, hi, old, new))

    def trial(self) -> Trial:
        """Return a context that undoes every `take` and `give_back` made inside. Trials nest."""
        return Trial(self)

    def begin_trial(self) -> list[Move] | None:
        """Start to log changes; return the log of the trial around this one."""
        outer = self._trial_log
        self._trial_log = []
        return outer

    def undo_trial(self, outer: list[Move] | None) -> None:
        """Undo what was logged and go on with the log around it."""
        log = self._trial_log
        assert log is not None
        self._trial_log = None
        for lo, hi, old, new in reversed(log):
            self._move(lo, hi, new, old)
        self._trial_log = outer

    def set_status(self, i: int, status: NodeStatus) -> bool:
        """Open or close a node for new pods; return True if that freed capacity."""
        was = self.unschedulable.get(i, NodeStatus.SCHEDULABLE)
        if was is status:
            return False
        if status is NodeStatus.SCHEDULABLE:
            del self.unschedulable[i]
            self.group_of[i].add(self.free[i], i, i + 1)
            return True
        if was is NodeStatus.SCHEDULABLE:
            self.group_of[i].remove(self.free[i], i, i + 1)
        self.unschedulable[i] = status
        return False

    def add_node(self, node: Node) -> int:
        """Append a node that joins later; it is numbered last, whatever its topology."""
        i = len(self.nodes)
        self.nodes.append(node)
        self.index_of[node.name] = i
        self.free.append(node.capacity)
        self._index_new(i, node)
        return i
