"""What one gang holds and asks for, in the terms of the controller and of the core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

from scheduler.core.capacity import Capacity
from scheduler.core.model import Gang, Placement, PodShape, Role, Slice
from scheduler.core.queueing import GangState
from scheduler.core.state import ClusterState
from scheduler.core.times import to_us
from scheduler.kube.objects import Pod
from scheduler.workloads.eligibility import Avoid

#: pods of a role on a node, by the names of both
Held = Counter[tuple[str, str]]


@dataclass(slots=True)
class Part:
    """Equal pods of a gang: their shape, and one of them, whose constraints apply to all."""

    name: str
    shape: PodShape
    pod: Pod | None = None  #: one that asks for a node
    avoid: Avoid = frozenset()
    nodes: list[str] = field(default_factory=list)  #: of those that have one
    uids: list[str] = field(default_factory=list)  #: of those that ask for one, in rank order
    to_come: int = 0  #: asked for with them, and not there yet

    @property
    def asks(self) -> int:
        """Pods without a node."""
        return len(self.uids) + self.to_come

    @property
    def count(self) -> int:
        """All pods."""
        return len(self.nodes) + self.asks


class Wanted(NamedTuple):
    """Which pods of a gang ask for a node now."""

    pods: list[Pod]
    to_come: int = 0  #: that are asked for with them, and are not there yet
    later: tuple[Pod, ...] = ()  #: each asks once the one before it has its node


@dataclass(slots=True)
class Request:
    """The present state of a gang: the nodes that it holds, and the pods that need nodes."""

    name: str
    parts: list[Part]
    submit_s: float
    ordinal: int = 0  #: among gangs submitted in the same second
    priority: int = 0
    queue: str = ""
    walltime_s: float = inf
    admitted_s: float = 0.0  #: since when it holds nodes
    saved_s: float = -inf  #: until when its work is saved
    mends: bool = False  #: it runs in part, and comes before gangs that hold nothing
    overtaken: int = 0  #: the count of the core's state at its last rebuild

    @property
    def num_pods(self) -> int:
        """All pods, present or missing."""
        return sum(part.count for part in self.parts)

    @property
    def present(self) -> int:
        """Pods that exist, or whose node is kept."""
        return sum([len(part.nodes) + len(part.uids) for part in self.parts])

    @property
    def asks(self) -> int:
        """Pods without a node."""
        return sum(part.asks for part in self.parts)

    @property
    def asking(self) -> int:
        """Those of them that exist."""
        return sum(len(part.uids) for part in self.parts)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The node of every pod that has one."""
        return tuple(name for part in self.parts for name in part.nodes)

    def held(self) -> Held:
        """Return how many pods of which part are on which node."""
        return Counter((part.name, node) for part in self.parts for node in part.nodes)

    def says(self) -> tuple[object, ...]:
        """Return all that is reported to the core."""
        return (
            [(p.name, p.shape, p.avoid, p.nodes, p.uids, p.to_come) for p in self.parts],
            (self.submit_s, self.ordinal, self.priority, self.queue, self.walltime_s),
            (self.admitted_s, self.saved_s, self.mends),
        )

    def on(self, nodes: Container[str]) -> Request:
        """Return it with the pods on these nodes, and those that ask for a node."""
        if all(node in nodes for part in self.parts for node in part.nodes):
            return self
        parts = [replace(p, nodes=[node for node in p.nodes if node in nodes]) for p in self.parts]
        return replace(self, parts=[part for part in parts if part.count])

    def without(self, held: Held) -> Request:
        """Return it without so many pods of these parts on these nodes."""
        if not held:
            return self
        parts = []
        for part in self.parts:
            left = Counter({node: n for (name, node), n in held.items() if name == part.name})
            nodes = []
            for node in part.nodes:
                if left[node]:
                    left[node] -= 1
                else:
                    nodes.append(node)
            parts.append(replace(part, nodes=nodes))
        return replace(self, parts=[part for part in parts if part.count])

    def running(self) -> Request:
        """Return it with only the pods that have a node."""
        parts = [replace(part, uids=[], to_come=0) for part in self.parts if part.nodes]
        return replace(self, parts=parts)

    def gang(self, roles: tuple[Role, ...]) -> Gang:
        """Return it as the core's gang, with these roles."""
        return Gang(
            name=self.name,
            roles=roles,
            submit_us=to_us(self.submit_s),
            walltime_us=to_us(self.walltime_s),
            priority=self.priority,
            queue=self.queue,
            ordinal=self.ordinal,
        )


def held_by(state: ClusterState, member: GangState) -> Held:
    """Return which pods of a gang the core counts where."""
    nodes, roles = state.capacity.nodes, member.gang.roles
    held: Held = Counter()
    for role, lo, hi, pods_per_node in member.held:
        for at in range(lo, hi):
            held[roles[role].name, nodes[at].name] += pods_per_node
    return held


def placement_of(capacity: Capacity, roles: tuple[Role, ...], held: Held) -> Placement | None:
    """Return the slices for pods on these nodes; None if the core sees no room for them."""
    shape = {role.name: role.pod for role in roles}
    index = {role.name: at for at, role in enumerate(roles)}
    takes: dict[int, PodShape] = {}
    found: list[tuple[int, int, int]] = []
    for (part, node), count in held.items():
        at = capacity.index_of.get(node)
        if at is None:
            return None
        takes[at] = takes.get(at, PodShape(0)).plus(shape[part], count)
        found.append((index[part], at, count))
    if not all(capacity.free_on(at).covers(take) for at, take in takes.items()):
        return None
    slices: list[Slice] = []
    for role, at, count in sorted(found):
        last = slices[-1] if slices else None
        beside = last and last.hi == at and capacity.group_of[at - 1] is capacity.group_of[at]
        if last and beside and last.role == role and last.pods_per_node == count:
            slices[-1] = last._replace(hi=at + 1)
        else:
            slices.append(Slice(role, at, at + 1, count))
    return tuple(slices)
