"""Nodes, and what pods of no gang take of them, as reported to the core.

Kubernetes lets nodes shrink below what runs on them and pods appear anywhere; the core does not.
So foreign pods on a node are one occupant, as large as fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.controller.devices import DeviceBook
from scheduler.controller.leaving import Lasts
from scheduler.controller.parts import Request
from scheduler.controller.standing import Standing
from scheduler.core.decisions import Decision, Reserve, Wait
from scheduler.core.events import (
    ClusterEvent,
    Considered,
    ForeignPodBound,
    ForeignPodGone,
    NodeAdded,
    NodeCordoned,
    NodeReturned,
)
from scheduler.core.model import Node, NodeStatus, PodShape
from scheduler.core.state import ClusterState, apply
from scheduler.kube.devices import DeviceClass, ResourceClaim, ResourceSlice
from scheduler.kube.objects import NodeObject, Pod, node_ready
from scheduler.policies.policy import Policy
from scheduler.workloads.eligibility import TOPOLOGY_KEYS, may_use
from scheduler.workloads.nodeclasses import NodeClasses
from scheduler.workloads.requests import node_shape

ZERO = PodShape(0)
#: what changes no room
_LEAVES_ROOM = (Wait, Reserve, Considered)


@dataclass(slots=True)
class Meanwhile:
    """Facts that arrive while the core's state is rebuilt."""

    nodes: set[str] = field(default_factory=set)
    gangs: set[str] = field(default_factory=set)


#: told every event and decision, in order
Record = Callable[[float, ClusterEvent | Decision], None]


@dataclass
class NodeBook:
    """Nodes and foreign pods, and the core's state; see `Ledger`."""

    policy: Policy
    resource: str
    record: Record
    rebuilt: Callable[[float, ClusterState], None] = lambda now_s, state: None
    classes: NodeClasses = field(default_factory=NodeClasses)
    nodes: dict[str, NodeObject] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    num_rebuilds: int = 0
    num_freed: int = 0  #: times a request gave nodes back

    def __post_init__(self) -> None:
        self.state = ClusterState((), order=self.policy.order)
        self.devices = DeviceBook(
            self.resource, self.nodes, self._recount, self._occupy_as, self._doubt
        )
        self._facts: dict[str, Node] = {}
        #: pods of no request, by uid: where they count, for how much and for how long
        self.foreign: dict[str, tuple[str, PodShape, Lasts]] = {}
        self._foreign_on: dict[str, PodShape] = {}
        #: of that, by how long it lasts
        self._passing: dict[Lasts, dict[str, PodShape]] = {Lasts.WITH_A_GANG: {}, Lasts.LEAVING: {}}
        leaving = self._passing[Lasts.LEAVING]
        self.standing = Standing(self._facts, self._lasting, self.policy.placer, leaving)
        self._stale: set[str] = set()  #: nodes whose foreign occupant must be reported again
        self._short: set[str] = set()  #: nodes with more on them than they have
        self._left: set[str] = set()  #: nodes that went away under a request
        self._heard: dict[str, PodShape] = {}  #: by node: pods of gangs that are news there
        #: the same by gang and uid
        self._heard_of: dict[object, dict[str, tuple[str, PodShape]]] = {}
        self._start_over = True
        self._meanwhile: Meanwhile | None = None
        self.now_s = 0.0
        self.version = 0  #: grows whenever a node may have got more or less room
        self._num_told = 0  #: events and rebuilds

    # -- nodes ---------------------------------------------------------------------------------

    def set_node(self, node: NodeObject) -> bool:
        """Process a node's present state; return whether that is new to the core."""
        name = node.metadata.name
        self.nodes[name] = node
        fact, is_new_class = self._fact(node)
        old = self._facts.get(name)
        if fact == old:
            return False
        self._facts[name] = fact
        if self._meanwhile is not None:
            self._meanwhile.nodes.add(name)
        else:
            self._tell_node(old, fact, is_new_class)
        return True

    def _tell_node(self, old: Node | None, fact: Node, is_new_class: bool) -> None:
        """Tell the core how a node differs from what it was told, if it can follow."""
        name = fact.name
        if name in self._left:  # what still stands on it is counted again
            self._left.discard(name)
            self._start_over = True
        elif is_new_class:  # who may use it is worked out for all
            self._start_over = True
        elif old is None and not self._start_over:
            self._tell(NodeAdded(fact))
            self._stale.add(name)
            self.standing.change(name)
        elif old is not None and _placed(old) == _placed(fact) and not self._start_over:
            closed = fact.status is not NodeStatus.SCHEDULABLE
            self._tell(NodeCordoned(name) if closed else NodeReturned(name))
            self.standing.change(name)
        else:
            self._start_over = True

    def remove_node(self, name: str) -> None:
        """Forget a node that left the cluster."""
        self.nodes.pop(name, None)
        self.devices.forget_node(name)
        if self._facts.pop(name, None) is not None:
            self._start_over = True

    def room_beside_gangs(self, name: str) -> PodShape | None:
        """Return what gangs leave free on a node, without other pods; None if it is unknown."""
        capacity = self.state.capacity
        at = capacity.index_of.get(name)
        if at is None:
            return None
        foreign = self.state.foreign.get(name)
        free = capacity.free_on(at)
        return free if foreign is None else free.plus(foreign[1])

    def room(self, name: str) -> PodShape | None:
        """Return what is free on a node besides all that is placed or promised there."""
        at = self.state.capacity.index_of.get(name)
        return None if at is None else self.state.capacity.free_on(at)

    def all_have_room(self, shape: PodShape) -> bool:
        """True if every usable node has room for such a pod, as the core sees it."""
        capacity = self.state.capacity
        roomy = sum(
            nodes.size
            for group in capacity.groups
            for free, nodes in group.by_free()
            if free.holds(shape)
        )
        return roomy == len(capacity.nodes) - len(capacity.unschedulable)

    def fits(self, shape: PodShape) -> int:
        """Return how many such pods the usable nodes have room for."""
        return sum(
            free.holds(shape) * nodes.size
            for group in self.state.capacity.groups
            for free, nodes in group.by_free()
        )

    def overfull(self, name: str, shape: PodShape, more: PodShape = ZERO) -> bool:
        """True if more of the shape's resources is placed or promised on the node than it has.

        Everything that arrived counts, even facts that reach the core only in the next step, and
        `more`, which is to come.
        """
        fact, room = self._facts.get(name), self.room_beside_gangs(name)
        if fact is None or room is None:
            return False
        known = self.state.capacity.nodes[self.state.capacity.index_of[name]].capacity
        room = room.plus(fact.capacity).plus(known, -1)
        for taken in (self._foreign_on.get(name, ZERO), self._heard.get(name, ZERO), more):
            if taken is not ZERO:
                room = room.plus(taken, -1)
        return room.is_overdrawn and not set(room.overdrawn()).isdisjoint(ZERO.short_of(shape))

    def hear(self, gang: object, uid: str, name: str, shape: PodShape) -> None:
        """Count a gang's pod on a node for now; the next step assigns it to a slot."""
        self.unhear(gang, uid)
        self._heard[name] = self._heard.get(name, ZERO).plus(shape)
        self._heard_of.setdefault(gang, {})[uid] = (name, shape)

    def forget_heard(self, gang: object) -> None:
        """Stop counting what arrived for a gang: it is reconciled now."""
        for uid in list(self._heard_of.get(gang, ())):
            self.unhear(gang, uid)

    def unhear(self, gang: object, uid: str) -> None:
        """Stop counting what arrived for a pod: it is gone."""
        of_gang = self._heard_of.get(gang, {})
        if uid in of_gang:
            name, shape = of_gang.pop(uid)
            if not of_gang:
                del self._heard_of[gang]
            left = self._heard.pop(name).plus(shape, -1)
            if left != ZERO:
                self._heard[name] = left

    def usable(self, name: str) -> bool:
        """True if new pods may go to the node."""
        fact = self._facts.get(name)
        return fact is not None and fact.status is NodeStatus.SCHEDULABLE

    def takes(self, name: str, pod: Pod) -> bool:
        """True if this pod may go to the node, apart from room."""
        fact = self._facts.get(name)
        is_open = fact is not None and fact.status is NodeStatus.SCHEDULABLE
        return is_open and may_use(pod, self.nodes[name])

    def serves(self, name: str, pod: Pod, shape: PodShape) -> bool:
        """True if this pod may go to the node, and the node has enough devices for it."""
        fact = self._facts.get(name)
        if fact is None or fact.status is not NodeStatus.SCHEDULABLE:
            return False
        if not may_use(pod, self.nodes[name]):
            return False
        there = fact.capacity
        return there.gpus >= shape.gpus and (not shape.others or there.covers(shape))

    def _fact(self, node: NodeObject) -> tuple[Node, bool]:
        """Return a node as the core knows it, and whether nodes of its class are news."""
        labels = node.metadata.labels
        pool, is_new = self.classes.class_of(node)
        usable = not node.spec.unschedulable and node_ready(node)
        fact = Node(
            name=node.metadata.name,
            capacity=node_shape(node, self.resource, self.devices.of(node)),
            pool=pool,
            gpu_model=labels.get("nvidia.com/gpu.product", ""),
            topology=tuple(labels.get(key, "") for key in TOPOLOGY_KEYS),
            status=NodeStatus.SCHEDULABLE if usable else NodeStatus.CORDONED,
        )
        return fact, is_new

    # -- devices -------------------------------------------------------------------------------

    def set_device(
        self, item: DeviceClass | ResourceSlice | ResourceClaim, *, gone: bool = False
    ) -> bool:
        """Process devices, their classes or claims; return whether that changed something."""
        return self.devices.take(item, gone=gone)

    def _recount(self, names: Iterable[str]) -> bool:
        """Count nodes again; return whether that is news to the core."""
        news = [self.set_node(self.nodes[name]) for name in names if name in self.nodes]
        return any(news)

    def _occupy_as(self, name: str, node: str, shape: PodShape, lasts: Lasts) -> bool:
        if not node:
            return self.drop_foreign(name)
        return self.set_foreign(name, node, shape, lasts)

    def _doubt(self) -> None:
        self.version += 1

    # -- foreign pods --------------------------------------------------------------------------

    def set_foreign(
        self, pod: str, node: str, shape: PodShape, lasts: Lasts = Lasts.FOR_GOOD
    ) -> bool:
        """Count a bound pod that no request holds; return whether that changed something."""
        old = self.foreign.get(pod)
        if old == (node, shape, lasts):
            return False
        if old is not None:
            self.drop_foreign(pod)
        self.foreign[pod] = (node, shape, lasts)
        self._count_on(node, shape, lasts, 1)
        return True

    def _count_on(self, node: str, shape: PodShape, lasts: Lasts, times: int) -> None:
        """Count pods of no gang, or that the core counts as such, on a node, or no longer."""
        for on in (self._foreign_on, self._passing.get(lasts)):
            if on is not None:
                total = on.pop(node, ZERO).plus(shape, times)
                if total != ZERO:
                    on[node] = total
        self._stale.add(node)
        self.standing.change(node)

    def _lasting(self, node: str) -> PodShape:
        """Return what is left on a node that no end of gangs gives back."""
        foreign = self._foreign_on.get(node, ZERO)
        ends = self._passing[Lasts.WITH_A_GANG].get(node)
        return foreign if ends is None else foreign.plus(ends, -1)

    def foreign_node(self, pod: str) -> str:
        """Return where a foreign pod counts, or nothing."""
        return self.foreign.get(pod, ("", ZERO, Lasts.FOR_GOOD))[0]

    def drop_foreign(self, pod: str) -> bool:
        """Stop counting it; return whether that changed something."""
        old = self.foreign.pop(pod, None)
        if old is not None:
            self._count_on(*old, -1)
        return old is not None

    def _occupy(self, name: str) -> None:
        """Tell the core how much foreign pods take of a node, as far as it has room."""
        room = self.room_beside_gangs(name)
        if room is None:
            return
        _, told = self.state.foreign.get(name, (0, ZERO))
        wanted = self._foreign_on.get(name)
        fits = wanted.least(room) if wanted is not None else ZERO
        if wanted is not None and fits != wanted:
            self._short.add(name)
        else:
            self._short.discard(name)
        if fits == told:
            return
        if told != ZERO:
            self._tell(ForeignPodGone(name))
        if fits != ZERO:
            self._tell(ForeignPodBound(name, name, fits))

    def _tell(self, event: ClusterEvent | Wait | Reserve) -> None:
        apply(self.state, event)
        self._num_told += 1
        if not isinstance(event, _LEAVES_ROOM):
            self.version += 1
        self.record(self.now_s, event)


def _placed(node: Node) -> tuple[object, ...]:
    """Return what decides where a node stands in the core's index."""
    return (node.capacity, node.pool, node.gpu_model, node.topology)
