"""The core's state, fed from the API server. All changes and decisions pass through here.

`nodebook` reports nodes and pods of no gang to the core, `gangbook` reports gangs. For a change
that the core cannot follow step by step (a node that left, a new size or class), the state is
rebuilt from the same facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import NamedTuple

from scheduler.controller.gangbook import GangBook
from scheduler.controller.nodebook import Meanwhile
from scheduler.core.capacity import in_order
from scheduler.core.decisions import Admit, Decision, Explanation, Reserve, Wait
from scheduler.core.events import (
    Admitted,
    Considered,
    GangSetAside,
    GangTakenUp,
)
from scheduler.core.model import Node, PodShape
from scheduler.core.state import ClusterState
from scheduler.core.times import ends_us, to_us
from scheduler.kube.objects import NodeObject, Pod
from scheduler.policies import decide as core
from scheduler.policies.explain import explain
from scheduler.workloads.eligibility import NAME_FIELD, Avoid

MAX_TRIES = 3  #: to make a state while facts change


class Placed(NamedTuple):
    """A gang that the core admitted, with the node of each pod that asked for one."""

    name: str
    nodes: list[tuple[str, str, str]]  #: part, uid, node


class Ledger(GangBook):
    """Nodes, requests and foreign pods, and the core's state that follows from them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._making: Iterator[None] | None = None  #: the state that is made at present
        self._once_more = False
        self.is_deciding = False  #: a pass was begun, and the core has more to decide in it
        self._num_seen = -1  #: events told when it was last asked whether ...
        self._is_stuck = False  #: ... the head of the queue does not fit

    def begin_anew(self) -> None:
        """Rebuild the core's state from the facts at the next step, even during a rebuild."""
        self._once_more = True

    def has_room(self, name: str, shape: PodShape) -> bool:
        """True if the node has room for such a pod besides all that is placed or promised there."""
        self.settle(self.now_s)
        at = self.state.capacity.index_of.get(name)
        return at is not None and self.state.capacity.free_on(at).holds(shape) > 0

    def has_room_beside(self, avoid: Avoid, pod: Pod, shape: PodShape) -> bool:
        """True if a node has room for a pod and is none of those to avoid."""
        self.settle(self.now_s)
        capacity = self.state.capacity
        return any(
            self.takes(name, pod)
            and avoid.isdisjoint({**self.nodes[name].metadata.labels, NAME_FIELD: name}.items())
            for group in capacity.groups
            for free, nodes in group.by_free()
            if free.holds(shape)
            for lo, hi in nodes
            for name in [node.name for node in capacity.nodes[lo:hi]]
        )

    def _rebuild(self) -> Iterator[None]:
        """Make the core's state anew from the facts, bit by bit.

        Until it is whole everybody sees the state that was; what is heard meanwhile comes after it.
        """
        self._start_over = self._once_more = False
        self._keep_counts()
        self.num_rebuilds += 1
        self._meanwhile = meanwhile = Meanwhile()
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
        """True if the core's state must be rebuilt, which takes long."""
        return self._making is not None or self._start_over or self._once_more

    @property
    def is_settled(self) -> bool:
        """True if the core's state is up to date and the standing needs no count."""
        if self._stale or self._look_anew or self.standing.aside or self.is_to_be_made:
            return False
        return not self._head_is_stuck()

    def settle(self, now_s: float) -> None:
        """Bring the core's state up to date with the facts."""
        for _ in self.settling(now_s):
            pass

    def settling(self, now_s: float) -> Iterator[None]:
        """Do the same in slices; between two slices other tasks may add facts, and read."""
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
        """True if the standing must be counted before the present pass can continue."""
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
        """Return what the core decides next, in this pass or a new one, without recording it.

        Nothing, if the head of the queue was set aside: the next one may be, too. The state is up
        to date.
        """
        self.now_s = now_s
        if not self.is_deciding:
            self.is_deciding = True
            self.standing.begin()
            for name in self.standing.returning(self.state):
                self._tell(GangTakenUp(name))
        if self._sets_aside(now_s):
            return ()
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
        assert placed or not decisions or not self.is_deciding, "a pass neither goes on nor ends"
        if self.is_deciding and self.state.queue.head() is None:  # what ends it is all that is left
            self.carry_out(self.ask(now_s), now_s)
        return placed

    def _sets_aside(self, now_s: float) -> bool:
        """Let others pass a head that no end of gangs makes room for; True if it did so."""
        head = self.state.queue.head()
        if head is None:
            return False
        if not self._head_is_stuck():
            self.standing.has_its_turn(head)
            return False
        if not self.standing.bars(head, now_s):
            return False
        self._tell(GangSetAside(head.gang.name))
        return self.standing.set_aside(head.gang.name)

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
        """Return the gangs whose requests make the core fail, each tried separately.

        The state is rebuilt afterwards; nothing of the trials is recorded.
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
