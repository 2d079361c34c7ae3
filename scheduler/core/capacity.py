"""What is free where: an index that admission can ask without looking at every node."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.model import UNLIMITED, Node, NodeStatus, PodShape, Role, Selector, Slice
from scheduler.core.nodegroup import UNKNOWN, Asked, Fit, NodeGroup
from scheduler.core.nodeset import NodeSet
from scheduler.core.rolefits import FEW, Across, Changes, RoleFits

#: so many free shapes are remembered for one shape of pods
MOST_ROOMS = 4096
#: shapes of pods that are followed across many groups, by the groups of each
MOST_ACROSS = 200_000
#: roles that are known by their identity
_ROLES_KNOWN = 4096

#: the resource by which pods are counted where they ask for several
GPUS = "gpus"


#: what a trial undoes: the nodes [lo, hi) went from one shape to another, by number; or, with
#: one of the two below for `hi`, a node was opened or closed (next is its status before, by place
#: in `STATUSES`), or it joined
Undo = tuple[int, int, int, int]
_STATUS = -1
_JOINED = -2
STATUSES = tuple(NodeStatus)


def in_order(nodes: Iterable[Node]) -> list[Node]:
    """Return nodes as they are numbered: by pool, model, GPUs and topology."""
    return sorted(nodes, key=lambda n: (n.pool, n.gpu_model, n.capacity.gpus, n.topology, n.name))


class Rooms(dict[PodShape, int]):
    """How many pods of one shape fit into what is free; worked out when first asked."""

    __slots__ = ("_pod",)

    def __init__(self, pod: PodShape) -> None:
        self._pod = pod

    def __missing__(self, free: PodShape) -> int:
        if len(self) >= MOST_ROOMS:
            self.clear()
        room = self[free] = free.holds(self._pod)
        return room


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

    Nodes are numbered once, by pool, model, GPUs and topology, so that neighbours in number are
    neighbours in the network. Taking and giving back cost the ranges touched.
    """

    def __init__(self, nodes: Iterable[Node], *, all_in_service: bool = False) -> None:
        self._ignores_status = all_in_service
        self.nodes: list[Node] = in_order(nodes)
        self.index_of = {node.name: i for i, node in enumerate(self.nodes)}
        if len(self.index_of) != len(self.nodes):
            seen: set[str] = set()
            twice = next(n.name for n in self.nodes if n.name in seen or seen.add(n.name))  # type: ignore[func-returns-value]
            raise ValueError(f"node {twice!r} is listed twice; give every node its own name")
        self.groups: list[NodeGroup] = []
        self.group_of: list[NodeGroup] = []
        self._group_of_kind: dict[tuple[str, str, int], NodeGroup] = {}
        self.unschedulable: dict[int, NodeStatus] = {}
        self._free: list[int] = []  #: what is free on each node, as its group numbers it
        self._eligible: dict[Selector, list[NodeGroup]] = {}
        self._fits: dict[tuple[PodShape, Selector], list[Fit]] = {}
        self._asked: dict[tuple[PodShape, Selector], tuple[Asked, ...]] = {}
        #: both by the identity of a role, which hashing its names and numbers costs more than
        self._by_role: dict[int, RoleFits] = {}
        self._across: dict[tuple[PodShape, Selector], Across] = {}
        self._changes = Changes()
        self._trial_log: list[Undo] | None = None
        self._rooms: dict[PodShape, Rooms] = {}
        for i, node in enumerate(self.nodes):
            self._index_new(i, node)

    def _group_for(self, node: Node) -> NodeGroup:
        kind = (node.pool, node.gpu_model, node.capacity.gpus)
        known = self._group_of_kind.get(kind)
        if known is not None:
            return known
        group = self._group_of_kind[kind] = NodeGroup(*kind)
        self.groups.append(group)
        self._eligible.clear()
        self._forget_fits()
        return group

    def _index_new(self, i: int, node: Node) -> None:
        group = self._group_for(node)
        self.group_of.append(group)
        group.num_nodes += 1
        if node.capacity not in group.capacities:
            group.capacities[node.capacity] = 0
            self._forget_fits()
        group.capacities[node.capacity] += 1
        number = group.number(node.capacity)
        self._free.append(number)
        if node.status is NodeStatus.SCHEDULABLE or self._ignores_status:
            group.add(number, i, i + 1)
        else:
            self.unschedulable[i] = node.status

    # -- questions -------------------------------------------------------------------------

    def free_on(self, i: int) -> PodShape:
        """Return what is free on a node, whether or not it is schedulable."""
        return self.group_of[i].shapes[self._free[i]]

    def free_on_each(self) -> list[PodShape]:
        """Return what is free on every node."""
        return [
            group.shapes[number] for group, number in zip(self.group_of, self._free, strict=True)
        ]

    def eligible(self, selector: Selector) -> list[NodeGroup]:
        """Return the groups that pods with this selector may use."""
        groups = self._eligible.get(selector)
        if groups is None:
            pools = set(selector.pool.split("|"))  # once: there may be as many as groups
            groups = self._eligible[selector] = [
                group
                for group in self.groups
                if (not selector.pool or group.pool in pools or group.pool == selector.pool)
                and selector.gpu_model in ("", group.gpu_model)
            ]
        return groups

    def fits(self, pod: PodShape, selector: Selector) -> list[Fit]:
        """Return what tells how many pods of this shape fit, for each group they may use."""
        found = self._fits.get((pod, selector))
        if found is None:
            groups = self.searched(pod, selector)
            found = self._fits[pod, selector] = [group.fit(pod) for group in groups]
        return found

    def fits_of(self, role: Role) -> RoleFits:
        """Return the same for a role, and what its pods ask for."""
        known = self._by_role.get(id(role))
        if known is None or known.role is not role:  # one that is gone had that identity
            if len(self._by_role) >= _ROLES_KNOWN:
                self._by_role.clear()
            key = role.pod, role.selector
            known = self._by_role[id(role)] = RoleFits(
                role, self.fits(*key), self.asked(*key), self._across.get(key)
            )
        return known

    def across(self, found: RoleFits) -> Across:
        """Return the same in the order in which pods use the nodes, kept up to date from now on."""
        if found.across is None:
            if len(self._across) * len(found.fits) >= MOST_ACROSS:
                self._forget_across()
            key = found.role.pod, found.role.selector
            found.across = self._across.get(key)
            if found.across is None:
                found.across = self._across[key] = Across(found.fits, self._changes)
                self._by_role.clear()  # other roles of such pods are to have it, too
        return found.across

    def searched(self, pod: PodShape, selector: Selector) -> list[NodeGroup]:
        """Return the groups that pods of this shape may use, with all their nodes filed."""
        groups = self.eligible(selector)
        if not pod.gpus:
            self._file_full(groups)
        return groups

    def _file_full(self, groups: list[NodeGroup]) -> None:
        """From now on index nodes without a free GPU, too."""
        for group in groups:
            if not group.files_full:
                group.files_full = True
                for i, number in enumerate(self._free):
                    if (
                        self.group_of[i] is group
                        and not group.shapes[number].gpus
                        and i not in self.unschedulable
                    ):
                        group.file_full(number, i)

    def rooms(self, pod: PodShape) -> Rooms:
        """Return how many pods of this shape fit into each free shape."""
        rooms = self._rooms.get(pod)
        if rooms is None:
            rooms = self._rooms[pod] = Rooms(pod)
        return rooms

    def slots(self, pod: PodShape, selector: Selector) -> int:
        """Return how many pods of this shape fit now."""
        return sum([fit.pods() for fit in self.fits(pod, selector)])

    def outlook(self, pod: PodShape, selector: Selector) -> tuple[int, int]:
        """Return how many pods of this shape fit now, and how many free GPUs there are for them."""
        return self.slots(pod, selector), self.free_gpus(selector)

    def free_gpus(self, selector: Selector) -> int:
        """Return the free GPUs on nodes that pods with this selector may use."""
        groups = self.eligible(selector)
        return groups[0].free_gpus if len(groups) == 1 else sum([g.free_gpus for g in groups])

    def asked(self, pod: PodShape, selector: Selector) -> tuple[Asked, ...]:
        """Return the resources that such pods ask for and that nodes they may use have a limit of.

        GPUs come first, then the others as `PodShape.amounts` has them.
        """
        found = self._asked.get((pod, selector))
        if found is None:
            # machines of few kinds, though each may be a group of its own
            kinds = {has: None for group in self.eligible(selector) for has in group.capacities}
            here = [has.amounts() for has in kinds]
            amounts = {
                name: amount
                for name, amount in pod.amounts().items()
                if amount > 0 and any(has.get(name, 0) < UNLIMITED for has in here)
            }
            lead = next(iter(amounts), GPUS)
            found = self._asked[pod, selector] = tuple(
                Asked(name, amount, PodShape.of({name: 1}), pod.only((lead, name)))
                for name, amount in amounts.items()
            )
        return found

    def free(self, unit: PodShape, selector: Selector) -> int:
        """Return how much of a resource is free on schedulable nodes that the selector allows."""
        return self.free_gpus(selector) if unit.gpus else self.slots(unit, selector)

    def total_slots(self, pod: PodShape, selector: Selector) -> int:
        """Return how many pods of this shape the empty cluster holds, nodes out of service too."""
        return sum([group.slots(pod) for group in self.eligible(selector)])

    def forget_pods(self) -> None:
        """Forget what was worked out for shapes of pods; it is worked out again when asked for."""
        self._forget_fits()
        self._rooms.clear()
        self._eligible.clear()
        for group in self.groups:
            group.forget_pods()

    # -- changes ---------------------------------------------------------------------------

    def take(self, roles: tuple[Role, ...], placement: Iterable[Slice]) -> None:
        """Occupy the nodes of `placement`; it must fit."""
        self._change(roles, placement, -1)

    def give_back(self, roles: tuple[Role, ...], placement: Iterable[Slice]) -> None:
        """Undo `take`."""
        self._change(roles, placement, 1)

    def _change(self, roles: tuple[Role, ...], placement: Iterable[Slice], sign: int) -> None:
        """Change what is free by `sign` x what the slices hold.

        Ranges of nodes that go from one shape to the same other one are counted together.
        """
        free, log, closed = self._free, self._trial_log, self.unschedulable
        fit: Fit | None = None
        role = each = was = now = -1
        moved = 0  #: nodes that went from `was` to `now` and are not counted yet
        files_of_old: NodeSet | None = None  # none for what is not filed
        files_of_new: NodeSet | None = None
        for index, lo, hi, pods_per_node in placement:
            group = self.group_of[lo]
            if fit is None or fit.group is not group or index != role or pods_per_node != each:
                if fit is not None and moved:
                    fit.group.recount(moved, was, now)
                if len(self.groups) <= FEW:
                    fit = self.fits_of(roles[index]).on(group)
                else:  # the others need not be known
                    fit = group.fit(roles[index].pod)
                role, each, was, moved = index, pods_per_node, -1, 0
                times = sign * pods_per_node
                then = fit.then(times)
            while lo < hi:
                old = free[lo]
                end = hi
                if hi - lo > 1 and free[lo:hi].count(old) < hi - lo:
                    end = self._run_end(lo, hi)
                if old != was:
                    if moved:
                        group.recount(moved, was, now)
                    was, now, moved = old, then[old], 0
                    if now == UNKNOWN:
                        now = fit.work_out(old, times)
                        then = fit.then(times)
                    files_of_old, files_of_new = group.files(was), group.files(now)
                if closed and not closed.keys().isdisjoint(range(lo, end)):
                    self._move_open(group, lo, end, old, now)
                else:
                    moved += end - lo
                    if files_of_old is not None:
                        files_of_old.remove(lo, end)
                    if files_of_new is not None:
                        files_of_new.add(lo, end)
                if end - lo == 1:
                    free[lo] = now
                else:
                    free[lo:end] = [now] * (end - lo)
                if log is not None:
                    log.append((lo, end, old, now))
                lo = end
        if fit is not None:
            if moved:
                fit.group.recount(moved, was, now)
            if len(fit.group.shapes) > fit.group.prune_at and log is None:
                self._number_anew(fit.group)

    def _run_end(self, lo: int, hi: int) -> int:
        """Return where the nodes from `lo` on, up to `hi`, stop to have the same free."""
        free = self._free
        end = lo + 1
        while end < hi and free[end] == free[lo]:
            end += 1
        return end

    def _move_open(self, group: NodeGroup, lo: int, hi: int, old: int, new: int) -> None:
        """File and count nodes of one group anew, but for those that are out of service."""
        for i in range(lo, hi):
            if i not in self.unschedulable:
                group.refile(i, i + 1, old, new)
                group.recount(1, old, new)

    def _number_anew(self, group: NodeGroup) -> None:
        free = self._free
        mine = [i for i, its_group in enumerate(self.group_of) if its_group is group]
        numbers = group.number_anew({free[i] for i in mine})
        for i in mine:
            free[i] = numbers[free[i]]
        self._forget_fits()

    def _forget_fits(self) -> None:
        self._fits.clear()
        self._asked.clear()
        self._forget_across()

    def _forget_across(self) -> None:
        self._by_role.clear()
        self._across.clear()
        self._changes.forget()

    def trial(self) -> Trial:
        """Return a context that undoes every change made inside. Trials nest."""
        return Trial(self)

    def begin_trial(self) -> list[Undo] | None:
        """Start to log changes; return the log of the trial around this one."""
        outer = self._trial_log
        self._trial_log = []
        return outer

    def undo_trial(self, outer: list[Undo] | None) -> None:
        """Undo what was logged and go on with the log around it."""
        log = self._trial_log
        assert log is not None
        self._trial_log = None
        for lo, hi, old, new in reversed(log):
            if hi == _STATUS:
                self.set_status(lo, STATUSES[old])
            elif hi == _JOINED:
                self._drop_last_node()
            else:
                group = self.group_of[lo]
                if self.unschedulable:
                    self._move_open(group, lo, hi, new, old)
                else:
                    group.refile(lo, hi, new, old)
                    group.recount(hi - lo, new, old)
                self._free[lo:hi] = [old] * (hi - lo)
        self._trial_log = outer

    def set_status(self, i: int, status: NodeStatus) -> bool:
        """Open or close a node for new pods; return True if that freed capacity."""
        was = self.unschedulable.get(i, NodeStatus.SCHEDULABLE)
        if was is status:
            return False
        if self._trial_log is not None:
            self._trial_log.append((i, _STATUS, STATUSES.index(was), 0))
        if status is NodeStatus.SCHEDULABLE:
            del self.unschedulable[i]
            self.group_of[i].add(self._free[i], i, i + 1)
            return True
        if was is NodeStatus.SCHEDULABLE:
            self.group_of[i].remove(self._free[i], i, i + 1)
        self.unschedulable[i] = status
        return False

    def add_node(self, node: Node) -> int:
        """Append a node that joins later; it is numbered last, whatever its topology."""
        i = len(self.nodes)
        self.nodes.append(node)
        self.index_of[node.name] = i
        self._index_new(i, node)
        if self._trial_log is not None:
            self._trial_log.append((i, _JOINED, 0, 0))
        return i

    def _drop_last_node(self) -> None:
        """Undo `add_node`; the node is as it was when it joined."""
        node = self.nodes.pop()
        del self.index_of[node.name]
        i = len(self.nodes)
        number, group = self._free.pop(), self.group_of.pop()
        if i in self.unschedulable:
            del self.unschedulable[i]
        else:
            group.remove(number, i, i + 1)
        group.num_nodes -= 1
        group.capacities[node.capacity] -= 1
        if not group.capacities[node.capacity]:
            del group.capacities[node.capacity]
        if not group.num_nodes:
            self.groups.remove(group)
            del self._group_of_kind[group.pool, group.gpu_model, group.gpus_each]
            self._eligible.clear()
        self._forget_fits()
