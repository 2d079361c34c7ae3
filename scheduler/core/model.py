"""Nodes, gangs and placements: the nouns of the core."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from scheduler.core.times import FOREVER_US

#: stands for a resource that the cluster description does not model
UNLIMITED = 1 << 50
#: further resources by name: ascending, and none of 0
Others = tuple[tuple[str, int], ...]


class PodShape(NamedTuple):
    """Resources of one pod, or what is free on one node. Compares by GPUs first.

    A node has no more of a further resource than it names; a pod that asks for none fits anywhere.
    """

    gpus: int
    cpu_milli: int = 0
    mem_bytes: int = 0
    pods: int = 0  #: places under a node's limit of pods; a pod takes 0 where it has none
    others: Others = ()

    def plus(self, other: PodShape, times: int = 1) -> PodShape:
        """Return this shape with `times` x `other` added (or taken, where negative)."""
        return PodShape(
            self.gpus + times * other.gpus,
            self.cpu_milli + times * other.cpu_milli,
            self.mem_bytes + times * other.mem_bytes,
            self.pods + times * other.pods,
            _sum(self.others, other.others, times) if other.others else self.others,
        )

    def holds(self, pod: PodShape) -> int:
        """Return how many pods of shape `pod` fit into this much."""
        count = UNLIMITED
        if pod.gpus:
            count = self.gpus // pod.gpus
        if pod.cpu_milli:
            count = min(count, self.cpu_milli // pod.cpu_milli)
        if pod.mem_bytes:
            count = min(count, self.mem_bytes // pod.mem_bytes)
        if pod.pods:
            count = min(count, self.pods // pod.pods)
        if pod.others:
            here = dict(self.others)
            for name, amount in pod.others:
                count = min(count, here.get(name, 0) // amount)
        return max(count, 0)

    def amounts(self) -> dict[str, int]:
        """Return how much there is of each resource, by its name."""
        return {
            "gpus": self.gpus,
            "cpu": self.cpu_milli,
            "memory": self.mem_bytes,
            "pods": self.pods,
            **dict(self.others),
        }

    def amount(self, name: str) -> int:
        """Return how much there is of one resource, named as `amounts` names it."""
        if name == "gpus":
            return self.gpus
        if name == "cpu":
            return self.cpu_milli
        if name == "memory":
            return self.mem_bytes
        if name == "pods":
            return self.pods
        return dict(self.others).get(name, 0)

    @staticmethod
    def of(amounts: Mapping[str, int]) -> PodShape:
        """Return the shape with these amounts, named as `amounts` names them."""
        known = ("gpus", "cpu", "memory", "pods")
        gpus, cpu_milli, mem_bytes, pods = (amounts.get(name, 0) for name in known)
        rest = {name: amount for name, amount in amounts.items() if name not in known}
        return PodShape(gpus, cpu_milli, mem_bytes, pods, others(rest))

    def only(self, names: Collection[str]) -> PodShape:
        """Return the shape with nothing but these resources."""
        return PodShape.of({n: amount for n, amount in self.amounts().items() if n in names})

    def short_of(self, wanted: PodShape) -> list[str]:
        """Return the resources, by name, of which `wanted` asks for more than there is."""
        here = self.amounts()
        asked = wanted.amounts()
        return [name for name, amount in asked.items() if amount > 0 and here.get(name, 0) < amount]

    def covers(self, other: PodShape) -> bool:
        """True if there is at least as much of everything as in `other`."""
        return not self.plus(other, -1).is_overdrawn

    @property
    def is_overdrawn(self) -> bool:
        """True if there is less than nothing of a resource."""
        least = min(self.gpus, self.cpu_milli, self.mem_bytes, self.pods)
        return least < 0 or any(amount < 0 for _, amount in self.others)

    def overdrawn(self) -> list[str]:
        """Return the resources, by name, of which there is less than nothing."""
        return [name for name, amount in self.amounts().items() if amount < 0]

    def least(self, other: PodShape) -> PodShape:
        """Return the smaller amount of each resource."""
        return self._each(other, min)

    def most(self, other: PodShape) -> PodShape:
        """Return the larger amount of each resource."""
        return self._each(other, max)

    def _each(self, other: PodShape, of: Callable[[int, int], int]) -> PodShape:
        rest: Others = ()
        if self.others or other.others:
            mine, more = dict(self.others), dict(other.others)
            rest = others({n: of(mine.get(n, 0), more.get(n, 0)) for n in {**mine, **more}})
        return PodShape(
            of(self.gpus, other.gpus),
            of(self.cpu_milli, other.cpu_milli),
            of(self.mem_bytes, other.mem_bytes),
            of(self.pods, other.pods),
            rest,
        )


def others(amounts: Mapping[str, int]) -> Others:
    """Return further resources in the form that shapes keep them in."""
    return tuple(sorted((name, amount) for name, amount in amounts.items() if amount))


def _sum(mine: Others, more: Others, times: int) -> Others:
    found = dict(mine)
    for name, amount in more:
        found[name] = found.get(name, 0) + times * amount
    return others(found)


class NodeStatus(StrEnum):
    """Whether new pods may go to a node."""

    SCHEDULABLE = "schedulable"
    CORDONED = "cordoned"  #: keeps its pods, takes no new ones
    DOWN = "down"  #: lost its pods


@dataclass(frozen=True, slots=True)
class Node:
    """One machine."""

    name: str
    capacity: PodShape
    pool: str = ""
    gpu_model: str = ""
    topology: tuple[str, ...] = ()  #: from the widest level inwards: block, rack
    status: NodeStatus = NodeStatus.SCHEDULABLE


class Selector(NamedTuple):
    """Which nodes a pod may use; an empty string allows any."""

    pool: str = ""  #: one, or several with `|` between
    gpu_model: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """Equal pods of a gang: its workers, or its one master."""

    count: int
    pod: PodShape
    selector: Selector = Selector()
    name: str = "worker"

    @property
    def gpus(self) -> int:
        """GPUs of all pods of the role."""
        return self.count * self.pod.gpus


def of_one_shape(roles: tuple[Role, ...]) -> Role | None:
    """Return all pods as one role where they are equal, whatever their roles are called.

    Most masters are one more worker. None if the pods differ.
    """
    first = roles[0]
    if len(roles) == 1:
        return first
    count = 0
    for role in roles:
        if role.pod != first.pod or role.selector != first.selector:
            return None
        count += role.count
    return Role(count, first.pod, first.selector, first.name)


class Gang(NamedTuple):
    """What a user submits: pods that are useless until all of them run."""

    name: str
    roles: tuple[Role, ...]
    submit_us: int = 0
    walltime_us: int = FOREVER_US  #: requested limit; that where the user gave none
    priority: int = 0
    queue: str = ""
    min_member: int = 0  #: fewest pods that must exist before it is considered; 0 means all
    ordinal: int = 0  #: place in the submission file: breaks ties before the name does
    #: False: its class says `preemptionPolicy: Never`, and it starts only where nobody has to leave
    evicts: bool = True
    evictable: bool = True  #: False: it could not come back, so it never leaves for others

    @property
    def num_pods(self) -> int:
        """All ranks."""
        return sum(role.count for role in self.roles)

    @property
    def gpus(self) -> int:
        """GPUs of all ranks."""
        return sum(role.gpus for role in self.roles)


#: place in the queue: numbers first, the name last
OrderKey = tuple[int | str, ...]
#: equal pods: their shape and selector; others: the roles themselves, where only one size exists
ShapeKey = tuple[PodShape, Selector] | tuple[Role, ...]
#: where queues have quota, with the flavors that the gangs may try, by number
FamilyKey = ShapeKey | tuple[ShapeKey, tuple[int, ...]]


class Slice(NamedTuple):
    """`pods_per_node` pods of one role on each node of the index range [lo, hi).

    Node indices follow the topology, so a gang of 500 pods is a handful of slices, and rank order
    within a role is slice order.
    """

    role: int
    lo: int
    hi: int
    pods_per_node: int

    @property
    def num_pods(self) -> int:
        """Pods in the slice."""
        return (self.hi - self.lo) * self.pods_per_node


Placement = tuple[Slice, ...]


@dataclass(slots=True)
class Reservation:
    """A promise to a waiting gang, or capacity set aside for it."""

    gang: str
    start_us: int  #: latest start promised
    spare_pods: int = 0  #: pods of the gang's shape left over at `start_us` once it is placed
    placement: Placement = ()  #: nodes held now, if any
    expires_us: int = FOREVER_US
    valid: bool = True  #: False once an event may have changed `start_us`; it is then recomputed


class Phase(StrEnum):
    """Where a gang is in its life, as the core sees it."""

    GATHERING = "gathering"  #: fewer pods exist than it needs
    WAITING = "waiting"
    RUNNING = "running"
    IMPOSSIBLE = "impossible"  #: larger than the whole cluster
    PREEMPTING = "preempting"  #: waits for gangs that leave; their nodes are kept for it
    ASIDE = "aside"  #: cannot be placed as the cluster stands, and blocks nobody
