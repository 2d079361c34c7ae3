"""Nodes, gangs and placements: the nouns of the core."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import NamedTuple

#: stands for a resource that the cluster description does not model
UNLIMITED = 1 << 40


class PodShape(NamedTuple):
    """Resources of one pod, or what is free on one node. Compares by GPUs first."""

    gpus: int
    cpu_milli: int = 0
    mem_mib: int = 0

    def plus(self, other: PodShape, times: int = 1) -> PodShape:
        """Return this shape with `times` x `other` added (or taken, where negative)."""
        return PodShape(
            self.gpus + times * other.gpus,
            self.cpu_milli + times * other.cpu_milli,
            self.mem_mib + times * other.mem_mib,
        )

    def holds(self, pod: PodShape) -> int:
        """Return how many pods of shape `pod` fit into this much."""
        count = UNLIMITED
        if pod.gpus:
            count = self.gpus // pod.gpus
        if pod.cpu_milli:
            count = min(count, self.cpu_milli // pod.cpu_milli)
        if pod.mem_mib:
            count = min(count, self.mem_mib // pod.mem_mib)
        return max(count, 0)


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


class Gang(NamedTuple):
    """What a user submits: pods that are useless until all of them run."""

    name: str
    roles: tuple[Role, ...]
    submit_s: float = 0.0
    walltime_s: float = inf  #: requested limit; inf where the user gave none
    priority: int = 0
    queue: str = ""
    min_member: int = 0  #: fewest pods that must exist before it is considered; 0 means all
    ordinal: int = 0  #: place in the submission file: breaks ties before the name does

    @property
    def num_pods(self) -> int:
        """All ranks."""
        return sum(role.count for role in self.roles)

    @property
    def gpus(self) -> int:
        """GPUs of all ranks."""
        return sum(role.gpus for role in self.roles)


#: place in the queue: numbers first, the name last
OrderKey = tuple[float | int | str, ...]
#: one role: its pod shape and selector; several: the roles themselves, where only one size exists
FamilyKey = tuple[PodShape, Selector] | tuple[Role, ...]


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
    start_s: float  #: latest start promised
    spare_pods: int = 0  #: pods of the gang's shape left over at `start_s` once it is placed
    placement: Placement = ()  #: nodes held now, if any
    expires_s: float = inf
    valid: bool = True  #: False once an event may have changed `start_s`; it is then recomputed


class Phase(StrEnum):
    """Where a gang is in its life, as the core sees it."""

    GATHERING = "gathering"  #: fewer pods exist than it needs
    WAITING = "waiting"
    RUNNING = "running"
    IMPOSSIBLE = "impossible"  #: larger than the whole cluster
