"""What is free where: an index that admission can ask without looking at every node."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator

from scheduler.core.model import Node, NodeStatus, PodShape, Role, Selector, Slice
from scheduler.core.nodeset import NodeSet


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
        pools = selector.pool
        named = pools in ("", self.pool) or self.pool in pools.split("|")
        return named and selector.gpu_model in ("", self.gpu_model)

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


class Rooms(dict[PodShape, int]):
    """How many pods of one shape fit into what is free; worked out when first asked."""

    __slots__ = ("_pod",)

    def __init__(self, pod: PodShape) -> None:
        self._pod = pod

    def __missing__(self, free: PodShape) -> int:
        room = self[free] = free.holds(self._pod)
        return room


class _Sums(dict[PodShape, PodShape]):
    """What is free after pods came or left; worked out when first asked."""

    __slots__ = ("_pod", "_times")

    def __init__(self, pod: PodShape, times: int) -> None:
        self._pod = pod
        self._times = times

    def __missing__(self, free: PodShape) -> PodShape:
        result = self[free] = free.plus(self._pod, self._times)
        assert not result.is_overdrawn, (
            f"taking {-self._times} x {self._pod} from {free} leaves {result}"
        )
        return result


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
        # few distinct values, asked for all the time
        self._sums: dict[tuple[PodShape, int], _Sums] = {}
        self._rooms: dict[PodShape, Rooms] = {}
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

    def rooms(self, pod: PodShape) -> Rooms:
        """Return how many pods of this shape fit into each free shape."""
        rooms = self._rooms.get(pod)
        if rooms is None:
            rooms = self._rooms[pod] = Rooms(pod)
        return rooms

    def outlook(self, pod: PodShape, selector: Selector) -> tuple[int, int]:
        """Return how many pods of this shape fit now, and how many free GPUs there are for them.

        Costs the distinct free shapes.
        """
        rooms = self.rooms(pod)
        gpus = pod[0]
        fit_pods = free_gpus = 0
        for group in self.searched(pod, selector):
            free_gpus += group.free_gpus
            nodes_by_free = group.nodes_by_free
            for free in reversed(group.free_shapes):
                if free[0] < gpus:
                    break
                size = nodes_by_free[free].size
                if size:
                    fit_pods += rooms[free] * size
        return fit_pods, free_gpus

    def slots(self, pod: PodShape, selector: Selector) -> int:
        """Return how many pods of this shape fit now."""
        return self.outlook(pod, selector)[0]

    def free_gpus(self, selector: Selector) -> int:
        """Return the free GPUs on nodes that pods with this selector may use."""
        groups = self.eligible(selector)
        return groups[0].free_gpus if len(groups) == 1 else sum(g.free_gpus for g in groups)

    def total_slots(self, pod: PodShape, selector: Selector) -> int:
        """Return how many pods of this shape the empty cluster holds, nodes out of service too."""
        rooms = self.rooms(pod)
        return sum(group.num_nodes * rooms[group.capacity] for group in self.eligible(selector))

    # -- changes ---------------------------------------------------------------------------

    def take(self, roles: tuple[Role, ...], placement: Iterable[Slice]) -> None:
        """Occupy the nodes of `placement`; it must fit."""
        self._refile(self._moves(roles, placement, -1))

    def give_back(self, roles: tuple[Role, ...], placement: Iterable[Slice]) -> None:
        """Undo `take`."""
        self._refile(self._moves(roles, placement, 1))

    def _moves(
        self, roles: tuple[Role, ...], placement: Iterable[Slice], sign: int
    ) -> Iterator[Move]:
        """Yield how nodes change by `sign` x what the slices hold, each after those before it."""
        free = self.free
        for role, lo, hi, pods_per_node in placement:
            key = (roles[role].pod, sign * pods_per_node)
            after = self._sums.get(key)
            if after is None:
                after = self._sums[key] = _Sums(*key)
            old = free[lo]
            if hi - lo == 1 or free[lo:hi].count(old) == hi - lo:
                yield lo, hi, old, after[old]
                continue
            start = lo
            for end in range(lo + 1, hi + 1):
                if end == hi or free[end] != free[start]:
                    yield start, end, free[start], after[free[start]]
                    start = end

    def _refile(self, moves: Iterable[Move]) -> None:
        """Carry out moves, one after the other."""
        unschedulable = self.unschedulable
        free = self.free
        log = self._trial_log
        for lo, hi, old, new in moves:
            group = self.group_of[lo]
            if unschedulable and not unschedulable.keys().isdisjoint(range(lo, hi)):
                for i in range(lo, hi):
                    if i not in unschedulable:
                        group.remove(old, i, i + 1)
                        group.add(new, i, i + 1)
            else:
                by_free = group.nodes_by_free
                if old[0] or group.files_full:
                    by_free[old].remove(lo, hi)
                if new[0] or group.files_full:
                    nodes = by_free.get(new)
                    (group.file(new) if nodes is None else nodes).add(lo, hi)
                group.free_gpus += (new[0] - old[0]) * (hi - lo)
            free[lo:hi] = [new] * (hi - lo)
            if log is not None:
                log.append((lo, hi, old, new))

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
        self._refile([(lo, hi, new, old) for lo, hi, old, new in reversed(log)])
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
