"""The core's state, fed with what the API server says. All changes and decisions pass through here.

Kubernetes lets nodes shrink below what runs on them and pods appear anywhere; the core does not.
So foreign pods on a node are one occupant, as large as fits, and what the core cannot follow step
by step (a node that left, a new size or class) is a state built anew from the same facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

from scheduler.controller.devices import DeviceBook
from scheduler.controller.leaving import Lasts
from scheduler.controller.parts import Held, Request, held_by, placement_of
from scheduler.controller.standing import Standing
from scheduler.core.capacity import in_order
from scheduler.core.decisions import Admit, Decision, Explanation, Reserve, Wait
from scheduler.core.events import (
    Admitted,
    CheckpointSaved,
    ClusterEvent,
    Considered,
    ForeignPodBound,
    ForeignPodGone,
    GangCancelled,
    GangInterrupted,
    GangMends,
    GangResized,
    GangSetAside,
    GangSubmitted,
    GangTakenUp,
    MemberAppeared,
    MemberLost,
    NodeAdded,
    NodeCordoned,
    NodeReturned,
    Overtaken,
)
from scheduler.core.model import Node, NodeStatus, PodShape, Role, Selector
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import ends_us, to_us
from scheduler.kube.devices import DeviceClass, ResourceClaim, ResourceSlice
from scheduler.kube.objects import NodeObject, Pod, node_ready
from scheduler.policies import decide as core
from scheduler.policies.explain import explain
from scheduler.policies.policy import Policy
from scheduler.workloads.eligibility import TOPOLOGY_KEYS, may_use
from scheduler.workloads.nodeclasses import NodeClasses
from scheduler.workloads.requests import node_shape

ZERO = PodShape(0)
#: what changes no room
_LEAVES_ROOM = (Wait, Reserve, Considered)
MAX_TRIES = 3  #: to make a state while facts change


class Placed(NamedTuple):
    """A gang that the core admitted, with the node of each pod that asked for one."""

    name: str
    nodes: list[tuple[str, str, str]]  #: part, uid, node


@dataclass(slots=True)
class _Meanwhile:
    """What is heard while the core's state is made anew."""

    nodes: set[str] = field(default_factory=set)
    gangs: set[str] = field(default_factory=set)


#: told every event and decision, in order
Record = Callable[[float, ClusterEvent | Decision], None]


@dataclass
class Ledger:
    """Nodes, requests and foreign pods, and the core's state that follows from them."""

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
        self._stale: set[str] = set()  #: nodes whose foreign occupant has to be told anew
        self._short: set[str] = set()  #: nodes with more on them than they have
        #: by gang: pods on nodes that have no room for them beside what was there before
        self._beyond: dict[str, dict[str, PodShape]] = {}
        self._look_anew: set[str] = set()  #: gangs of which such a node has got room
        self._left: set[str] = set()  #: nodes that went away under a request
        self._heard: dict[str, PodShape] = {}  #: by node: pods of gangs that are news there
        self._heard_of: dict[object, list[tuple[str, PodShape]]] = {}  #: the same by gang
        self._start_over = True
        self._making: Iterator[None] | None = None  #: the state that is made at present
        self._meanwhile: _Meanwhile | None = None
        self._once_more = False
        self.now_s = 0.0
        self.is_deciding = False  #: a pass was begun, and the core has more to decide in it
        self.version = 0  #: grows whenever a node may have got more or less room
        self._num_told = 0  #: events, and states that were made anew
        self._num_seen = -1  #: of them, those when it was last asked whether ...
        self._is_stuck = False  #: ... the head of the queue does not fit

    # -- nodes -------------------------------------------------------------------------------

    def set_node(self, node: NodeObject) -> bool:
        """Take in a node as it is now; return whether that is news to the core."""
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

    def begin_anew(self) -> None:
        """Make the core's state from the facts at the next step, also if one is made just now."""
        self._once_more = True

    def room_beside_gangs(self, name: str) -> PodShape | None:
        """Return what gangs leave of a node, whoever else is on it; None if it is not known."""
        capacity = self.state.capacity
        at = capacity.index_of.get(name)
        if at is None:
            return None
        foreign = self.state.foreign.get(name)
        free = capacity.free_on(at)
        return free if foreign is None else free.plus(foreign[1])

    def room(self, name: str) -> PodShape | None:
        """Return what is free on a node beside all that is there or promised."""
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

    def overfull(self, name: str, shape: PodShape) -> bool:
        """True if more is on the node, or promised there, than it has, of what the shape asks for.

        All that was heard counts, also what the core will be told of by the next step only.
        """
        fact, room = self._facts.get(name), self.room_beside_gangs(name)
        if fact is None or room is None:
            return False
        known = self.state.capacity.nodes[self.state.capacity.index_of[name]].capacity
        room = room.plus(fact.capacity).plus(known, -1)
        for more in (self._foreign_on.get(name, ZERO), self._heard.get(name, ZERO)):
            room = room.plus(more, -1)
        return room.is_overdrawn and not set(room.overdrawn()).isdisjoint(ZERO.short_of(shape))

    def hear(self, gang: object, name: str, shape: PodShape) -> None:
        """Count a gang's pod on a node for now; the next step finds out whose slot it has."""
        self._heard[name] = self._heard.get(name, ZERO).plus(shape)
        self._heard_of.setdefault(gang, []).append((name, shape))

    def forget_heard(self, gang: object) -> None:
        """Stop counting what was heard of a gang: it is looked at now."""
        for name, shape in self._heard_of.pop(gang, ()):
            left = self._heard.pop(name).plus(shape, -1)
            if left != ZERO:
                self._heard[name] = left

    def has_room(self, name: str, shape: PodShape) -> bool:
        """True if the node has room for such a pod beside all that is there or promised."""
        self.settle(self.now_s)
        at = self.state.capacity.index_of.get(name)
        return at is not None and self.state.capacity.free_on(at).holds(shape) > 0

    def usable(self, name: str) -> bool:
        """True if new pods may go to the node."""
        fact = self._facts.get(name)
        return fact is not None and fact.status is NodeStatus.SCHEDULABLE

    def takes(self, name: str, pod: Pod) -> bool:
        """True if this pod may go to the node, were there room."""
        fact = self._facts.get(name)
        is_open = fact is not None and fact.status is NodeStatus.SCHEDULABLE
        return is_open and may_use(pod, self.nodes[name])

    def serves(self, name: str, pod: Pod, shape: PodShape) -> bool:
        """True if this pod may go to the node, and that has as many such devices."""
        if not self.takes(name, pod):
            return False
        there = self._facts[name].capacity
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

    # -- devices -----------------------------------------------------------------------------

    def set_device(
        self, item: DeviceClass | ResourceSlice | ResourceClaim, *, gone: bool = False
    ) -> bool:
        """Take in devices, what stands for them, or who has them; return whether that is news."""
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

    # -- foreign pods ------------------------------------------------------------------------

    def set_foreign(
        self, pod: str, node: str, shape: PodShape, lasts: Lasts = Lasts.FOR_GOOD
    ) -> bool:
        """Count a bound pod that no request holds; return whether that is news."""
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
        """Stop counting it; return whether that is news."""
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

    # -- gangs -------------------------------------------------------------------------------

    def set_gang(self, request: Request) -> Request:
        """Take in a gang as it is now, whatever the core was told of it; return what is kept."""
        old = self.requests.get(request.name)
        if old is not None:
            if old.says() == request.says():
                return old
            request.overtaken = old.overtaken
        self.requests[request.name] = request
        if old is not None and old.held() - request.held():
            self.num_freed += 1
        if self._is_told_later(request.name):
            return request
        try:
            self._take_in(request)
        except Exception:
            del self.requests[request.name]
            self._start_over = True
            raise
        return request

    def _take_in(self, request: Request) -> None:
        """Tell the core of a gang, unless that takes another state."""
        for part in request.parts:
            if part.asks and part.pod is not None and self.classes.learn(part.pod, part.avoid):
                self._start_over = True
        if not self._start_over:
            self._tell_gang(request)

    def _is_told_later(self, gang: str) -> bool:
        """True if the core hears of a gang by a state that is made anew."""
        if self._meanwhile is not None:
            self._meanwhile.gangs.add(gang)
            return True
        return self._start_over

    def ask_more(self, request: Request) -> None:
        """Take in that a gang, which is kept here, asks for more pods of parts that it has."""
        if self._is_told_later(request.name):
            return
        if request.name in self._beyond:
            self._tell_gang(request)
        else:
            self._tell_asked(request)

    def drop_gang(self, name: str) -> None:
        """Forget a gang, waiting or running."""
        request = self.requests.pop(name, None)
        if request is None:
            return
        self.num_freed += bool(request.nodes)
        if not self._is_told_later(name):
            self._tell_end(name)

    def _tell_end(self, name: str) -> None:
        """Tell the core that a gang is no more."""
        self._count_beyond(name, Counter())
        member = self.state.gangs.get(name)
        if member is not None:  # else its nodes are gone
            nodes = {node for _, node in held_by(self.state, member)}
            self._tell(GangCancelled(name))
            self._freed(nodes)

    def _freed(self, nodes: Collection[str]) -> None:
        """Look again at nodes that had more on them than they have."""
        self._stale.update(self._short.intersection(nodes))
        for gang, beyond in self._beyond.items():
            if not beyond.keys().isdisjoint(nodes):
                self._look_anew.add(gang)

    def _tell_gang(self, request: Request) -> None:
        """Tell the core what changed of a gang: what it lost, what it has, what it asks for."""
        self._left |= {name for name in request.nodes if name not in self._facts}
        wanted = request.on(self.state.capacity.index_of)
        name, gang = request.name, request.gang(())
        member = self.state.gangs.get(name)
        if member is not None and member.gang._replace(roles=()) != gang:
            self._tell(GangCancelled(name))
            self._freed(tuple(node for _, node in held_by(self.state, member)))
            member = None
        told = held_by(self.state, member) if member is not None else Counter()
        held = wanted.held()
        if lost := told - held:
            self._tell_lost(name, lost, not +(told - lost))
        gained = held - told
        if gained or name in self._beyond:
            beyond = self._find_beyond(wanted, gained)
            self._count_beyond(name, beyond, wanted)
            wanted, gained = wanted.without(beyond), gained - beyond
        if gained:
            self._tell_held(wanted.running(), gained)
        if not wanted.parts:
            if name in self.state.gangs:
                self._tell(GangCancelled(name))
            return
        self._tell_asked(wanted)
        if request.saved_s > -inf:
            member, saved_us = self.state.gangs[name], to_us(request.saved_s)
            # what was saved before this admission is of an earlier one, and counts no more
            if member.held and saved_us >= member.admitted_us and saved_us > member.saved_us:
                self._tell(CheckpointSaved(name, saved_us))

    def _tell_lost(self, name: str, lost: Held, whole: bool) -> None:
        if whole:
            self._tell(GangInterrupted(name))
        else:
            for (part, node), count in lost.items():
                for _ in range(count):
                    roles = [role.name for role in self.state.gangs[name].gang.roles]
                    self._tell(MemberLost(name, roles.index(part), node))
        self._freed(tuple(node for _, node in lost))

    def _tell_held(self, request: Request, gained: Held) -> None:
        """Count pods on their nodes that no decision of the core put there."""
        name, gang = request.name, request.gang(self._roles(request))
        if name in self.state.gangs:
            self._tell(GangResized(name, gang.roles, request.present))
        placement = placement_of(self.state.capacity, gang.roles, gained)
        assert placement is not None, "what has no room is not among what is held"
        if name not in self.state.gangs:
            self._tell(GangSubmitted(gang))
        missing = [role.name for role in self.state.gangs[name].missing]
        index = [missing.index(r.name) if r.name in missing else -1 for r in gang.roles]
        placement = tuple(piece._replace(role=index[piece.role]) for piece in placement)
        now_us = to_us(request.admitted_s)
        self._tell(Admitted(name, placement, now_us, ends_us(now_us, gang.walltime_us)))

    def _find_beyond(self, request: Request, gained: Held) -> Held:
        """Return the pods that a node has no room for, whoever bound them there.

        A kubelet may still refuse them; the node does not grow by them. Pods of no gang make room.
        """
        shapes = {part.name: part.shape for part in request.parts}
        capacity = self.state.capacity
        beyond: Held = Counter()
        left: dict[str, PodShape] = {}
        for (part, node), count in gained.items():
            shape = shapes[part]
            room = left.get(node)
            if room is None:
                room = capacity.free_on(capacity.index_of[node])
            fits = min(count, room.holds(shape))
            if fits < count and node in self.state.foreign:
                without = room.plus(self.state.foreign[node][1])
                if without.holds(shape) > fits:
                    room, fits = without, min(count, without.holds(shape))
                    self._tell(ForeignPodGone(node))
                    self._stale.add(node)
            if fits < count:
                beyond[part, node] = count - fits
            left[node] = room.plus(shape, -fits)
        return beyond

    def _count_beyond(self, name: str, beyond: Held, request: Request | None = None) -> None:
        """Count what a gang has beyond the room of its nodes as pods of no gang, from now on."""
        for node, shape in self._beyond.pop(name, {}).items():
            self._count_on(node, shape, Lasts.WITH_A_GANG, -1)
        if not beyond:
            return
        assert request is not None
        shapes = {part.name: part.shape for part in request.parts}
        taken: dict[str, PodShape] = {}
        for (part, node), count in beyond.items():
            taken[node] = taken.get(node, ZERO).plus(shapes[part], count)
        self._beyond[name] = taken
        for node, shape in taken.items():
            self._count_on(node, shape, Lasts.WITH_A_GANG, 1)

    def _tell_asked(self, request: Request) -> None:
        """Tell which pods the gang has and which of them are there."""
        name, roles, present = request.name, self._roles(request), request.present
        member = self.state.gangs.get(name)
        if member is None:
            self._tell(GangSubmitted(request.gang(roles), present))
            if request.overtaken:
                self._tell(Overtaken(name, request.overtaken))
        elif member.gang.roles != roles or member.present > present:
            self._tell(GangResized(name, roles, present))
        elif member.present < present:
            self._tell(MemberAppeared(name, present - member.present))
        member = self.state.gangs[name]
        if member.mends != request.mends and (member.held or member.mends):
            self._tell(GangMends(name, request.mends))

    def _roles(self, request: Request) -> tuple[Role, ...]:
        """Return the parts of a gang as the core's roles.

        What has a node asks for none: its pin would make a class of every node.
        """
        member = self.state.gangs.get(request.name)
        known = member.gang.roles if member is not None else ()
        roles = []
        for part in request.parts:
            if part.asks and part.pod is not None:
                selector = self.classes.selector(part.pod, part.avoid)
            else:
                told = (role.selector for role in known if role.name == part.name)
                selector = next(told, Selector())
            roles.append(Role(part.count, part.shape, selector, part.name))
        return tuple(roles)

    # -- the core ----------------------------------------------------------------------------

    def _tell(self, event: ClusterEvent | Wait | Reserve) -> None:
        apply(self.state, event)
        self._num_told += 1
        if not isinstance(event, _LEAVES_ROOM):
            self.version += 1
        self.record(self.now_s, event)

    def _rebuild(self) -> Iterator[None]:
        """Make the core's state anew from the facts, bit by bit.

        Until it is whole everybody sees the state that was; what is heard meanwhile comes after it.
        """
        self._start_over = self._once_more = False
        self._keep_counts()
        self.num_rebuilds += 1
        self._meanwhile = meanwhile = _Meanwhile()
        facts, nodes = dict(self._facts), dict(self.nodes)
        before = self.state, self.classes
        try:
            for _ in self._make(facts, nodes):
                made = self.state, self.classes
                self.state, self.classes = before
                yield
                self.state, self.classes = made
        except BaseException:
            self.state, self.classes = before
            self._start_over = True
            raise
        finally:
            self._meanwhile = None
        self.version += 1
        self._num_told += 1
        self.standing.begin_anew()
        for name in self._facts.keys() & facts.keys():
            self._facts[name] = facts[name]
        for name in meanwhile.gangs:
            request = self.requests.get(name)
            if request is not None:
                self._take_in(request)
            else:
                self._tell_end(name)
        for name in meanwhile.nodes & self.nodes.keys():
            self._facts[name], is_new_class = self._fact(self.nodes[name])
            self._tell_node(facts.get(name), self._facts[name], is_new_class)

    def _make(self, facts: dict[str, Node], nodes: dict[str, NodeObject]) -> Iterator[None]:
        """Put classes of nodes and a state in place at once, then tell it all; what runs is first.

        `facts` get the classes of their nodes.
        """
        beyond = self._beyond
        requests = sorted(self.requests.values(), key=lambda r: (not r.nodes, r.name in beyond))
        asked = [(p.pod, p.avoid) for r in requests for p in r.parts if p.asks and p.pod]
        for classes in self.classes.sorted_anew([nodes[name] for name in facts], asked):
            self.classes = classes
            yield
        for name, fact in facts.items():
            pool, _ = self.classes.class_of(nodes[name])
            if pool != fact.pool:
                facts[name] = replace(fact, pool=pool)
            yield
        self.state = ClusterState((), order=self.policy.order)
        for node in in_order(facts.values()):
            self.state.capacity.add_node(node)
            yield
        self.rebuilt(self.now_s, self.state)
        yield
        self._short.clear()
        for gang in self._beyond.keys() - self.requests.keys():
            self._count_beyond(gang, Counter())
        for request in requests:
            self._tell_gang(request)
            if request.name in self.standing.aside and request.name in self.state.queue.members:
                self._tell(GangSetAside(request.name))
            yield
        for name in list(self._foreign_on):
            self._occupy(name)
            yield

    def _keep_counts(self) -> None:
        """Note what the core's state counted by itself, before another takes its place."""
        for name, member in self.state.gangs.items():
            if member.overtaken and name in self.requests:
                self.requests[name].overtaken = member.overtaken

    @property
    def is_to_be_made(self) -> bool:
        """True if the core's state has to be made anew, which takes long."""
        return self._making is not None or self._start_over or self._once_more

    @property
    def is_settled(self) -> bool:
        """True if the core's state is up to date, and what stands need not be counted."""
        if self._stale or self._look_anew or self.standing.aside or self.is_to_be_made:
            return False
        return not self._head_is_stuck()

    def settle(self, now_s: float) -> None:
        """Bring the core's state up to date with the facts."""
        for _ in self.settling(now_s):
            pass

    def settling(self, now_s: float) -> Iterator[None]:
        """Do the same bit by bit; others may tell of facts, and ask, between two of them."""
        self.now_s = now_s
        tries = 0
        while True:
            if self.is_to_be_made:
                tries += 1
                for _ in self._made_anew():
                    if tries <= MAX_TRIES:  # what changes all the time must be told, too
                        yield
            while self._look_anew and not self._start_over:
                request = self.requests.get(self._look_anew.pop())
                if request is not None:
                    self._tell_gang(request)
            while self._stale:
                self._occupy(self._stale.pop())
                yield
            if self.standing.aside or self._head_is_stuck():
                yield from self.standing.brought_up_to_date()
            if not (self._start_over or self._once_more or self._look_anew or self._stale):
                return

    def _head_is_stuck(self) -> bool:
        """True unless it is known that the head of the queue fits now, or nobody waits."""
        if self._num_told != self._num_seen:  # else nothing has changed since
            head = self.state.queue.head()
            self._is_stuck = head is not None and not self.standing.fits(self.state, head)
            self._num_seen = self._num_told
        return self._is_stuck

    def has_to_count(self) -> bool:
        """True if what stands is to be counted before the pass that was made can go on."""
        return self.standing.is_behind and self._head_is_stuck()

    def _made_anew(self) -> Iterator[None]:
        """Go on with the state that is being made, or begin one."""
        if self._making is None:
            self._making = self._rebuild()
        try:
            yield from self._making
            self._making = None
        except Exception:
            self._making = None
            raise

    def decide(self, now_s: float) -> list[Placed]:
        """Make a pass; return the gangs that it admitted, each with the nodes of its pods."""
        self.settle(now_s)
        placed = self.carry_out(self.ask(now_s), now_s)
        while self.is_deciding:
            placed += self.carry_out(self.ask(now_s), now_s)
        return placed

    def ask(self, now_s: float) -> tuple[Decision, ...]:
        """Return what the core decides next, in this pass or a new one; tell nobody of it yet.

        The state is up to date.
        """
        self.now_s = now_s
        if not self.is_deciding:
            self.is_deciding = True
            self.standing.begin()
            for name in self.standing.returning(self.state):
                self._tell(GangTakenUp(name))
        self._set_aside(now_s)
        return core.decide(self.state, self.policy, to_us(now_s))

    def carry_out(self, decisions: tuple[Decision, ...], now_s: float) -> list[Placed]:
        """Do what the core just decided; return the gangs that it admitted.

        `is_deciding` says whether to ask again: facts may come before that, but not in between.
        """
        placed: list[Placed] = []
        for decision in decisions:
            match decision:
                case Admit():
                    self.record(now_s, decision)
                    placed.append(self._admit(decision, now_s))
                case Considered():
                    self._tell(decision)
                    self.is_deciding = False
                case Wait() | Reserve():
                    self._tell(decision)
                case _:
                    raise ValueError(f"the core decides {decision}, which nobody carries out")
        assert placed or not self.is_deciding, "a pass neither goes on nor ends"
        if self.is_deciding and self.state.queue.head() is None:  # what ends it is all that is left
            self.carry_out(self.ask(now_s), now_s)
        return placed

    def _set_aside(self, now_s: float) -> None:
        """Let others pass a head that no end of gangs makes room for."""
        while (head := self.state.queue.head()) is not None:
            if not self._head_is_stuck():
                self.standing.has_its_turn(head)
                return
            if not self.standing.bars(head, now_s):
                return
            self._tell(GangSetAside(head.gang.name))
            if not self.standing.set_aside(head.gang.name):
                return

    def _admit(self, decision: Admit, now_s: float) -> Placed:
        """Carry a decision out: each pod that asked gets its node."""
        request = self.requests[decision.gang]
        if not any(part.nodes for part in request.parts):
            request.admitted_s = now_s
            request.saved_s = -inf
        request.mends = False
        parts = {part.name: part for part in request.parts}
        nodes: list[tuple[str, str, str]] = []
        for index, role in enumerate(self.state.gangs[decision.gang].missing):
            part = parts[role.name]
            names = self.state.node_names(p for p in decision.placement if p.role == index)
            nodes += [(part.name, uid, node) for uid, node in zip(part.uids, names, strict=True)]
            part.nodes, part.uids = part.nodes + names, []
        end_us = ends_us(to_us(request.admitted_s), to_us(request.walltime_s))
        self._tell(Admitted(decision.gang, decision.placement, to_us(now_s), end_us))
        return Placed(decision.gang, nodes)

    def find_broken(self, now_s: float) -> dict[str, Exception]:
        """Return the gangs on which the core fails by what they ask for, each tried by itself.

        The state is made anew afterwards; nothing of the trials is recorded.
        """
        self._keep_counts()
        requests, record, rebuilt = self.requests, self.record, self.rebuilt
        self.record, self.rebuilt = lambda now_s, item: None, lambda now_s, state: None
        running = {name: r.running() for name, r in requests.items() if r.nodes}
        self.requests = dict(running)
        broken: dict[str, Exception] = {}
        self._start_over = True
        try:
            self.settle(now_s)  # what runs is not to blame, or nothing can be done
            for name, request in requests.items():
                if not request.asks:
                    continue
                try:
                    self.settle(now_s)
                    self.set_gang(replace(request))
                    self.settle(now_s)
                    core.decide(self.state, self.policy, to_us(now_s))
                except Exception as error:
                    broken[name] = error
                    self._start_over = True
                if name in running:
                    self.requests[name] = running[name]
                    self._start_over = True
                else:
                    self.drop_gang(name)
        finally:
            self.requests, self.record, self.rebuilt = requests, record, rebuilt
            self._start_over = True
        return broken

    def explain(self, name: str) -> Explanation | None:
        """Return why a request waits; None if it does not."""
        if name not in self.state.gangs or not self.state.gangs[name].missing:
            return None
        return explain(self.state, name)

    def position(self, name: str) -> int | None:
        """Return the place in the queue, from 1; None if it is not queued."""
        for at, member in enumerate(self.state.queue.in_order(), 1):
            if member.gang.name == name:
                return at
        return None


def _placed(node: Node) -> tuple[object, ...]:
    """Return what decides where a node stands in the core's index."""
    return (node.capacity, node.pool, node.gpu_model, node.topology)
