"""Quota on nodes: which nodes a flavor is, where a gang may go, and what it takes by its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from scheduler.core.capacity import Capacity
from scheduler.core.model import Gang, Node, Placement, PodShape, Role, Selector, Slice
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Victims, checked
from scheduler.core.quota import NO_PARENT, Amounts, QuotaTree

#: stands for the flavor of nodes that are in none
NO_FLAVOR = -1
#: where a gang goes that names no queue, if there are several
DEFAULT = "default"
#: roles for which an option remembers where they may go
_MOST_KNOWN = 4096


class Option:
    """A flavor for each role of a family's gangs: one way to place them."""

    __slots__ = ("_narrowed", "asks", "flavors", "max_size", "roles", "selectors")

    def __init__(
        self,
        flavors: tuple[int, ...],
        roles: tuple[Role, ...],
        selectors: dict[Selector, Selector],
        asks: Amounts,
    ) -> None:
        self.flavors = flavors  #: of the distinct selectors of its roles, in their order
        self.selectors = selectors  #: which of the nodes that a role may use are of its flavor
        self.asks = asks  #: what a gang of size 1 takes of which quota
        self.max_size = 0  #: the largest that the empty cluster holds there
        self._narrowed: dict[int, tuple[tuple[Role, ...], tuple[Role, ...]]] = {}
        self.roles = self.narrow(roles)  #: those of the family, on these nodes only

    def narrow(self, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        """Return roles with such selectors, which may use nodes of their flavors only."""
        known = self._narrowed.get(id(roles))
        if known is not None and known[0] is roles:
            return known[1]
        narrowed = roles
        if any(self.selectors[role.selector] != role.selector for role in roles):
            narrowed = tuple(
                [
                    Role(role.count, role.pod, self.selectors[role.selector], role.name)
                    for role in roles
                ]
            )
        if len(self._narrowed) >= _MOST_KNOWN:
            self._narrowed.clear()
        self._narrowed[id(roles)] = (roles, narrowed)
        return narrowed

    def amounts(self, size: int) -> Amounts:
        """Return what a gang of this size takes."""
        asks = self.asks
        if size == 1:
            return asks
        if len(asks) == 1:
            return ((asks[0][0], size * asks[0][1]),)
        return tuple([(cell, size * amount) for cell, amount in self.asks])


class Lack:
    """Quota that was found too small: it is, until so much more has been given back."""

    __slots__ = ("cell", "epoch", "until")

    def __init__(self, epoch: int, cell: int, until: int) -> None:
        self.epoch = epoch
        self.cell = cell
        self.until = until


class QuotaBook:
    """The quota tree of a state, and what its flavors are among the state's nodes."""

    __slots__ = (
        "_asks",
        "_capacity",
        "_epoch",
        "_flavor_of",
        "_freed",
        "_near",
        "_spans",
        "disciplines",
        "evicts",
        "file",
        "flavors_of",
        "gpus",
        "has_easy",
        "has_others",
        "num_nodes",
        "tree",
    )

    def __init__(self, capacity: Capacity, file: Queues) -> None:
        """Resolve flavors to nodes.

        Raises:
            ValueError: the words make no sense, a flavor is by labels, it has no nodes though
                somebody has quota for it, or it shares nodes with another.
        """
        self.file = checked(file, "queues")
        self.tree = QuotaTree(file)
        self.disciplines = [queue.discipline for queue in file.queues]
        #: True if a queue has words to evict gangs
        self.evicts = any(
            queue.within is not Victims.NEVER or queue.reclaim is not Victims.NEVER
            for queue in file.queues
        )
        self.has_easy = Holding.EASY in self.disciplines
        #: True if a queue is not strict
        self.has_others = any(word is not Holding.STRICT for word in self.disciplines)
        #: how much was ever given back: by cell, and in the end how often
        self._freed = [0] * (len(self.tree.cells) + 1)
        self._epoch = 0  #: see `forget_lacks`
        self.num_nodes = 0
        self._capacity = capacity
        self._flavor_of: dict[NodeGroup, int] = {}
        self._asks: dict[tuple[PodShape, int], Amounts] = {}
        #: by id of a pod's shape: the shape, and what such a pod asks for in flavors
        self._near: dict[int, tuple[PodShape, dict[int, Amounts]]] = {}
        #: per queue: the cells of which it has as much as all the nodes
        self._spans: list[frozenset[int]] = []
        index = {flavor.name: at for at, flavor in enumerate(file.flavors)}
        #: per queue: the flavors that its gangs try, in order
        self.flavors_of = [
            tuple([index[name] for name in queue.flavors or _with_quota(file, queue)])
            for queue in file.queues
        ]
        for flavor in file.flavors:
            if flavor.labels:
                raise ValueError(
                    f"flavor {flavor.name!r}: it is the nodes with labels {flavor.labels}, but "
                    "nodes have no labels here; name them by pool or gpu_model"
                )
        for node in capacity.nodes:
            self.check(node)
        if capacity.nodes:
            self._check_flavors_have_nodes()
        self.count_nodes()

    def check(self, node: Node) -> None:
        """Raise ValueError if a node is in two flavors."""
        found = [
            flavor.name for flavor in self.file.flavors if _has(flavor, node.pool, node.gpu_model)
        ]
        if len(found) > 1:
            raise ValueError(
                f"node {node.name!r} (pool {node.pool!r}, model {node.gpu_model!r}) is in flavors "
                f"{found[0]!r} and {found[1]!r}; set pool or gpu_model of one of them so that "
                "they have no node in common"
            )

    def _check_flavors_have_nodes(self) -> None:
        nodes = self._capacity.nodes
        for flavor in self.file.flavors:
            if any(_has(flavor, node.pool, node.gpu_model) for node in nodes):
                continue
            owners: list[Queue | Cohort] = [*self.file.queues, *self.file.cohorts]
            for owner in owners:
                if flavor.name in owner.quota:
                    kinds = sorted({(node.pool, node.gpu_model) for node in nodes})
                    here = ", ".join(f"pool {pool!r} with {model!r}" for pool, model in kinds[:9])
                    pool = f"in pool {flavor.pool!r}" if flavor.pool else "of any pool"
                    model = f" with model {flavor.gpu_model!r}" if flavor.gpu_model else ""
                    raise ValueError(
                        f"{owner.name!r} has quota for flavor {flavor.name!r}, but there is no "
                        f"node {pool}{model}; nodes here: {here}"
                    )

    def count_nodes(self) -> None:
        """Note which quotas are as large as all the nodes, after a change of nodes.

        The quota of a queue outside every cohort does not limit it then: its nodes do.
        """
        tree, capacity = self.tree, self._capacity
        self.forget_lacks()
        self.num_nodes = len(capacity.nodes)
        self.gpus = sum([node.capacity.gpus for node in capacity.nodes])  #: of all nodes
        self._flavor_of = {}
        totals = dict.fromkeys(tree.cells.values(), 0)
        for (name, resource), cell in tree.cells.items():
            for group in capacity.groups:
                flavor = self.flavor_of(group)
                if flavor != NO_FLAVOR and self.file.flavors[flavor].name == name:
                    for has, num_nodes in group.capacities.items():
                        totals[cell] += num_nodes * has.amount(resource)
        self._spans = [
            frozenset(
                [cell for cell, total in totals.items() if tree.nominal[queue][cell] >= total]
                if tree.parent[queue] == NO_PARENT
                else []
            )
            for queue in range(tree.num_queues)
        ]

    @property
    def is_one_queue(self) -> bool:
        """True if there is one queue that takes all nodes and evicts nobody, limited by no quota.

        It is then what a state without queues is, as long as no nodes join.
        """
        if self.evicts or self.tree.num_queues > 1 or len(self.flavors_of[0]) != 1:
            return False
        flavor = self.file.flavors[self.flavors_of[0][0]]
        is_all = not flavor.pool and not flavor.gpu_model
        return is_all and len(self._spans[0]) == len(self.tree.cells)

    def flavor_of(self, group: NodeGroup) -> int:
        """Return the flavor of the nodes of a group."""
        found = self._flavor_of.get(group)
        if found is None:
            found = NO_FLAVOR
            for at, flavor in enumerate(self.file.flavors):
                if _has(flavor, group.pool, group.gpu_model):
                    found = at
            self._flavor_of[group] = found
        return found

    # -- queues ------------------------------------------------------------------------------

    def queue_of(self, gang: Gang) -> int:
        """Return the queue that a gang is for.

        Raises:
            ValueError: there is none of that name, or it names none and none is the default.
        """
        found = self.queue_named(gang.queue)
        if found == NO_PARENT:
            names = ", ".join(queue.name for queue in self.file.queues)
            if gang.queue:
                raise ValueError(
                    f"gang {gang.name!r}: queue {gang.queue!r} is unknown; choose one of {names}"
                )
            raise ValueError(
                f"gang {gang.name!r} names no queue, and none is called {DEFAULT!r}; choose one "
                f"of {names}, or add a queue {DEFAULT!r}"
            )
        return found

    def queue_named(self, name: str) -> int:
        """Return the queue of that name; the default one if it is empty. NO_PARENT if none is."""
        tree = self.tree
        if not name:
            if tree.num_queues == 1:
                return 0
            name = DEFAULT
        found = tree.index_of.get(self.file.aliases.get(name, name), NO_PARENT)
        return found if found < tree.num_queues else NO_PARENT

    # -- where gangs may go ------------------------------------------------------------------

    def options(self, roles: tuple[Role, ...], flavors: tuple[int, ...]) -> tuple[Option, ...]:
        """Return the ways to place these roles of a family, in the order of the flavors.

        Roles of one selector go to one flavor. `max_size` is still to be worked out.
        """
        selectors = list(dict.fromkeys(role.selector for role in roles))
        allowed = [
            [at for at in flavors if _narrowed(selector, self.file.flavors[at]) is not None]
            for selector in selectors
        ]
        return tuple(
            self._option(roles, selectors, chosen)
            for chosen in product(*allowed)  # none if a role may go nowhere
        )

    def _option(
        self, roles: tuple[Role, ...], selectors: list[Selector], chosen: tuple[int, ...]
    ) -> Option:
        narrow: dict[Selector, Selector] = {}
        flavor_of: dict[Selector, int] = {}
        for selector, at in zip(selectors, chosen, strict=True):
            one = _narrowed(selector, self.file.flavors[at])
            assert one is not None
            narrow[selector] = one
            flavor_of[selector] = at
        total: dict[int, int] = {}
        for role in roles:
            times = role.count if len(roles) > 1 else 1
            _add(total, self._pod_asks(role.pod, flavor_of[role.selector]), times)
        return Option(chosen, roles, narrow, _sorted(total))

    def _pod_asks(self, pod: PodShape, flavor: int) -> Amounts:
        """Return what a pod takes of which quota on nodes of a flavor."""
        near = self._near.get(id(pod))
        if near is None or near[0] is not pod:  # to look up by what a pod asks for takes long
            if len(self._near) >= _MOST_KNOWN:
                self._near.clear()
            near = self._near[id(pod)] = (pod, {})
        known = near[1].get(flavor)
        if known is None:
            known = near[1][flavor] = self._worked_out(pod, flavor)
        return known

    def _worked_out(self, pod: PodShape, flavor: int) -> Amounts:
        known = self._asks.get((pod, flavor))
        if known is None:
            name, cells = self.file.flavors[flavor].name, self.tree.cells
            known = self._asks[pod, flavor] = tuple(
                sorted(
                    (cells[name, resource], amount)
                    for resource, amount in pod.amounts().items()
                    if amount > 0 and (name, resource) in cells
                )
            )
        return known

    def flavors_held(self, placement: Iterable[Slice]) -> tuple[int, ...]:
        """Return the flavors of the nodes of a placement, in the order of the file."""
        groups = self._capacity.group_of
        found = {self.flavor_of(groups[piece.lo]) for piece in placement}
        return tuple(sorted(found - {NO_FLAVOR}))

    # -- amounts -----------------------------------------------------------------------------

    def amounts_of(self, roles: tuple[Role, ...], placement: Placement) -> Amounts:
        """Return what pods on these nodes take of which quota."""
        total: dict[int, int] = {}
        groups = self._capacity.group_of
        if len(placement) == 1:
            role, lo, hi, pods_per_node = placement[0]
            flavor = self.flavor_of(groups[lo])
            if flavor == NO_FLAVOR:
                return ()
            times, asks = (hi - lo) * pods_per_node, self._pod_asks(roles[role].pod, flavor)
            return tuple([(cell, times * amount) for cell, amount in asks])
        for role, lo, hi, pods_per_node in placement:
            flavor = self.flavor_of(groups[lo])
            if flavor != NO_FLAVOR:
                asks = self._pod_asks(roles[role].pod, flavor)
                _add(total, asks, (hi - lo) * pods_per_node)
        return _sorted(total)

    def fits(self, queue: int, amounts: Amounts) -> bool:
        """True if the queue may take this much more now."""
        tree = self.tree
        for cell, amount in amounts:
            if amount > tree.available(queue, cell) and cell not in self._spans[queue]:
                return False
        return True

    def fits_in(self, usage: list[list[int]], queue: int, amounts: Amounts) -> bool:
        """True if the queue could take this much more, if that were the usage of all quotas."""
        tree = self.tree
        for cell, amount in amounts:
            if amount > tree.available_in(usage, queue, cell) and cell not in self._spans[queue]:
                return False
        return True

    def give_back(self, queue: int, amounts: Amounts) -> None:
        """Count what a gang of the queue gives back."""
        self.tree.give_back(queue, amounts)
        for cell, amount in amounts:
            self._freed[cell] += amount
        self._freed[-1] += 1

    def forget_lacks(self) -> None:
        """Believe no `Lack` of before: more may be there although nobody gave back."""
        self._epoch += 1
        self.tree.renew_versions()

    def lack(self, queue: int, options: tuple[Option, ...], size: int) -> Lack:
        """Return what keeps a gang waiting that fits its quota in none of these ways.

        What a queue may use grows by no more than what is given back.
        """
        if len(options) == 1:
            for cell, amount in options[0].amounts(size):
                left = self.tree.available(queue, cell)
                if amount > left and cell not in self._spans[queue]:
                    return Lack(self._epoch, cell, self._freed[cell] + amount - left)
        return Lack(self._epoch, -1, self._freed[-1] + 1)

    def still(self, lack: Lack) -> bool:
        """True if no gang can have become possible that lacked this."""
        return lack.epoch == self._epoch and self._freed[lack.cell] < lack.until

    def spans(self, queue: int, cell: int) -> bool:
        """True if nodes limit the queue before this quota can."""
        return cell in self._spans[queue]

    def could_fit(self, queue: int, amounts: Amounts) -> bool:
        """True if the queue might take this much while nobody uses anything."""
        potential = self.tree.potential[queue]
        return all(amount <= potential[cell] for cell, amount in amounts)

    def resource(self, cell: int) -> tuple[str, str]:
        """Return the flavor and the resource of a cell."""
        return next(key for key, at in self.tree.cells.items() if at == cell)

    def borrowers(self, queue: int, cell: int) -> Iterator[tuple[str, int]]:
        """Yield the queues that borrow what this one could use, and how much, the most first."""
        tree, found = self.tree, []
        left = tree.available(queue, cell)
        for other in range(tree.num_queues):
            more = tree.usage[other][cell] - tree.subtree[other][cell]
            if other != queue and more > 0 and tree.root(other) == tree.root(queue):
                without = tree.copied_usage()
                tree.give_back_in(without, other, ((cell, more),))
                if tree.available_in(without, queue, cell) > left:
                    found.append((-more, tree.names[other]))
        return ((name, -less) for less, name in sorted(found))


def merged(first: Amounts, second: Amounts) -> Amounts:
    """Return the sum of two amounts."""
    total = dict(first)
    _add(total, second, 1)
    return _sorted(total)


def _add(total: dict[int, int], amounts: Amounts, times: int) -> None:
    for cell, amount in amounts:
        total[cell] = total.get(cell, 0) + times * amount


def _sorted(total: dict[int, int]) -> Amounts:
    return tuple(total.items()) if len(total) < 2 else tuple(sorted(total.items()))


def _with_quota(file: Queues, queue: Queue) -> list[str]:
    return [flavor.name for flavor in file.flavors if flavor.name in queue.quota]


def _has(flavor: Flavor, pool: str, gpu_model: str) -> bool:
    """True if nodes of this pool and model are of the flavor."""
    return flavor.pool in ("", pool) and flavor.gpu_model in ("", gpu_model)


def _narrowed(selector: Selector, flavor: Flavor) -> Selector | None:
    """Return the selector for such nodes that are of the flavor; None if there are none."""
    pool, model = selector.pool, selector.gpu_model
    if flavor.pool:
        if pool not in ("", flavor.pool) and flavor.pool not in pool.split("|"):
            return None
        pool = flavor.pool
    if flavor.gpu_model:
        if model not in ("", flavor.gpu_model):
            return None
        model = flavor.gpu_model
    return Selector(pool, model)
