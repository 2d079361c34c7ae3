"""Facts that drivers tell the core. `state.apply` takes them, and decisions, in order.

Events and decisions are values: nobody changes one after it is made. They are not `frozen`, because
a gang's life takes half a dozen and a frozen dataclass takes three times as long to make. Those of
which each gang takes one write their `__init__` out: what `dataclass` writes is never compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.core.model import Gang, Node, Placement, PodShape, Role
from scheduler.core.queues import Queues
from scheduler.core.times import FOREVER_US


@dataclass(slots=True)
class NodeAdded:
    """A node joined."""

    node: Node


@dataclass(slots=True)
class NodeCordoned:
    """A node takes no new pods; those on it keep running."""

    node: str


@dataclass(slots=True)
class NodeReturned:
    """A cordoned or lost node takes pods again."""

    node: str


@dataclass(slots=True)
class NodeLost:
    """A node is down: the ranks it held are gone, and their gangs miss them."""

    node: str


@dataclass(slots=True, init=False)
class GangSubmitted:
    """A gang is known. `present` pods of it exist; None means all of them."""

    gang: Gang
    present: int | None

    def __init__(self, gang: Gang, present: int | None = None) -> None:
        self.gang = gang
        self.present = present


@dataclass(slots=True)
class MemberAppeared:
    """One more pod of the gang exists, or several."""

    gang: str
    num_pods: int = 1


@dataclass(slots=True)
class MemberLost:
    """A running rank is gone from `node`; the gang misses it and asks for a new place."""

    gang: str
    role: int
    node: str


@dataclass(slots=True, init=False)
class GangFinished:
    """All ranks ended; the gang is gone."""

    gang: str

    def __init__(self, gang: str) -> None:
        self.gang = gang


@dataclass(slots=True)
class GangInterrupted:
    """All ranks were taken down, and the gang waits again, whole, at its old place in the queue."""

    gang: str


@dataclass(slots=True)
class GangCancelled:
    """The user cancelled it, waiting or running."""

    gang: str


@dataclass(slots=True)
class GangResized:
    """The gang now has these roles, and `present` of its pods exist; None: the new ones do, too.

    Roles are known by their names; one of which it holds pods stays, with its pod shape. A running
    gang gives back its last ranks or asks for the missing ones, once all of them exist.
    """

    gang: str
    roles: tuple[Role, ...]
    present: int | None = None


@dataclass(slots=True)
class CheckpointSaved:
    """A checkpoint of the gang was committed, with all that it had done by `saved_us`."""

    gang: str
    saved_us: int


@dataclass(slots=True)
class PriorityChanged:
    """The gang's priority is now this."""

    gang: str
    priority: int


@dataclass(slots=True)
class ForeignPodBound:
    """A pod that no gang owns occupies capacity."""

    pod: str
    node: str
    shape: PodShape


@dataclass(slots=True)
class ForeignPodGone:
    """It left."""

    pod: str


@dataclass(slots=True)
class CapacityReserved:
    """`placement` is held for a waiting gang until it is admitted or `expires_us` has come."""

    gang: str
    placement: Placement
    expires_us: int


@dataclass(slots=True)
class ReservationReleased:
    """The hold or promise for this gang is void; drivers send it when `expires_us` has come."""

    gang: str


@dataclass(slots=True)
class CapacityClaimed:
    """A waiting gang will start on `placement` once `victims`, who were told to, have left.

    What is free there, and what becomes free, is kept for it; it leaves the queue.
    """

    gang: str
    placement: Placement
    victims: tuple[str, ...]


@dataclass(slots=True)
class ClaimDropped:
    """Somebody did not leave in time: what is kept for the gang is free, and it queues again."""

    gang: str


@dataclass(slots=True, init=False)
class Admitted:
    """The gang's missing ranks now hold `placement`; `expected_end_us` is start plus walltime."""

    gang: str
    placement: Placement
    now_us: int
    expected_end_us: int

    def __init__(self, gang: str, placement: Placement, now_us: int, expected_end_us: int) -> None:
        self.gang = gang
        self.placement = placement
        self.now_us = now_us
        self.expected_end_us = expected_end_us


@dataclass(slots=True)
class Overtaken:
    """Gangs started past this one while it headed the queue, so many times in all.

    The state counts by itself; a driver that rebuilds a state passes in the old count.
    """

    gang: str
    times: int


@dataclass(slots=True)
class EvictionsSoFar:
    """What evictions have made of a gang until now.

    The state keeps this by itself; a driver that rebuilds a state passes it in.
    """

    gang: str
    gave_way: tuple[str, ...] = ()  #: for whom it was evicted, and for whom those were by then
    lost_claims: int = 0  #: how often nodes were kept for it in vain since it last ran
    leaving: bool = False  #: it was told to leave its nodes, and still holds them


@dataclass(slots=True)
class UseSoFar:
    """What queues used of late, where that orders their heads.

    The state counts by itself; a driver that rebuilds a state passes in the old counts.
    """

    now_us: int  #: until when it is counted
    sampled_us: int  #: when moving averages had a new value last
    gpus: int  #: of all nodes, from then on
    cluster_us: float  #: what these could have given, in GPU-microseconds
    #: by queue: its GPUs from then on, and the counters that `pastuse.PastUse` keeps of it
    queues: tuple[tuple[str, int, tuple[int | float, ...]], ...]
    #: queues and GPUs of starts since then
    started: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class GangMends:
    """Whether a gang, which runs, lacks ranks that it cannot do without: then it comes first.

    Whatever the order, it comes before all gangs that hold nothing, until it has what it lacks.
    Only the driver knows this; without the event it never applies.
    """

    gang: str
    first: bool


@dataclass(slots=True)
class GangSetAside:
    """The gang cannot be placed in the present cluster, even if others end: it leaves the queue.

    It blocks nobody and keeps its age. Only the driver knows this.
    """

    gang: str


@dataclass(slots=True)
class GangTakenUp:
    """A gang that was set aside is queued again, at its old place."""

    gang: str


@dataclass(slots=True)
class QueuesChanged:
    """The words of the queues file are these now. Whatever runs goes on, even above its quota."""

    queues: Queues


@dataclass(slots=True)
class Considered:
    """The pass over this state is complete and its decisions are applied; `decide` ends with it.

    What waits now cannot start before capacity grows, the head of the queue changes, or `until_us`
    has come: drivers decide again then. Until that, a pass may look at newcomers alone.

    A pass that searches for victims for long is cut into slices: `until_us` is then the present,
    and drivers ask again at once, after whatever else cannot wait.
    """

    until_us: int = FOREVER_US  #: from then on time alone may change the decisions
    #: heads that found nobody to evict, and when time alone may change that; kept for the next
    #: slice, and void once anything else happens
    searched: tuple[tuple[str, int], ...] = ()
    #: when the pass was, where past use of queues counts; else 0
    now_us: int = 0
    #: what heads keep from others, by their names: nodes of these flavors, and so much quota
    restraints: tuple[
        tuple[str, tuple[tuple[int, ...], ...], tuple[tuple[int, int], ...]], ...
    ] = ()


ClusterEvent = (
    NodeAdded
    | NodeCordoned
    | NodeReturned
    | NodeLost
    | GangSubmitted
    | MemberAppeared
    | MemberLost
    | GangFinished
    | GangInterrupted
    | GangCancelled
    | GangResized
    | CheckpointSaved
    | PriorityChanged
    | ForeignPodBound
    | ForeignPodGone
    | CapacityReserved
    | ReservationReleased
    | CapacityClaimed
    | ClaimDropped
    | Admitted
    | Overtaken
    | EvictionsSoFar
    | UseSoFar
    | GangMends
    | GangSetAside
    | GangTakenUp
    | QueuesChanged
    | Considered
)
