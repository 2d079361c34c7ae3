"""What the core answers: admit, reserve, preempt, or wait and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scheduler.core.events import Considered
from scheduler.core.model import FamilyKey, Placement, PodShape, Selector


class PendingReason(StrEnum):
    """Why a pod is not running its work yet: exactly one applies at any moment.

    The words; `reasons.TABLE` says what each means. They stand in the order in which curves stack
    them, most structural first.
    """

    NEVER_FITS = "never_fits"
    QUOTA = "quota"
    CAPACITY = "capacity"
    FRAGMENTATION = "fragmentation"
    BEHIND_HEAD = "behind_head"
    HELD_BY_OTHERS = "held_by_others"
    OWN_PARTIAL_HOLD = "own_partial_hold"
    PERMIT_BACKOFF = "permit_backoff"
    MEMBERS = "members"
    PREEMPTING = "preempting"
    CONTROL_PLANE = "control_plane"
    STARTING = "starting"


@dataclass(slots=True, init=False)
class Admit:
    """Every missing rank of `gang` has a node: start it."""

    gang: str
    placement: Placement

    def __init__(self, gang: str, placement: Placement) -> None:
        self.gang = gang
        self.placement = placement


@dataclass(slots=True, init=False)
class Reserve:
    """Promise `gang` a start no later than `start_us`; backfill keeps it."""

    gang: str
    start_us: int
    spare_pods: int  #: pods of the gang's shape that stay free at `start_us` beside it

    def __init__(self, gang: str, start_us: int, spare_pods: int) -> None:
        self.gang = gang
        self.start_us = start_us
        self.spare_pods = spare_pods


@dataclass(slots=True)
class Preempt:
    """Stop the gangs `victims`, whole, so that `gang` can start on `placement` once they have left.

    Some of them may be leaving already. The driver reports `CapacityClaimed`, then stops them.
    """

    gang: str
    victims: tuple[str, ...]
    placement: Placement = ()


@dataclass(slots=True, init=False)
class Wait:
    """What all waiting gangs of one pod family wait for, by their size in pods.

    It is about nodes: that a queue's quota is short instead depends on the queue, and whoever has
    the state works it out from its tree (`quotabook.QuotaBook.fits`).
    One value for a whole family, because a blocked queue must cost by its distinct shapes and
    not by its length; `policies.explain` spells it out for one gang.
    """

    family: FamilyKey  #: key of the family: the pod request and its node selector
    fit_pods: int  #: up to so many pods fit now: such a gang waits `behind_head`
    #: for up to so many enough of everything is free in all: `fragmentation`; above: `capacity`
    free_pods: int
    short: str  #: the resource of which the fewest pods' worth is free
    #: the resource by which the fewest pods fit: the GPUs (or what else its pods are counted by)
    #: alone, or what nodes with enough of these have too little of
    apart: str

    def __init__(
        self,
        family: FamilyKey,
        fit_pods: int,
        free_pods: int,
        short: str = "gpus",
        apart: str = "gpus",
    ) -> None:
        self.family = family
        self.fit_pods = fit_pods
        self.free_pods = free_pods
        self.short = short
        self.apart = apart

    def reason(self, num_pods: int) -> PendingReason:
        """Return why a gang of this family with `num_pods` pods waits."""
        if num_pods <= self.fit_pods:
            return PendingReason.BEHIND_HEAD
        if num_pods <= self.free_pods:
            return PendingReason.FRAGMENTATION
        return PendingReason.CAPACITY

    def resource(self, num_pods: int) -> str:
        """Return what such a gang finds too little of, as `PodShape.amounts` names it; or none."""
        if num_pods <= self.fit_pods:
            return ""
        return self.apart if num_pods <= self.free_pods else self.short


@dataclass(frozen=True, slots=True)
class Shortage:
    """One resource that a waiting gang finds too little of. Amounts are in the resource's unit."""

    resource: str  #: as `PodShape.amounts` names it: gpus, cpu (milli), memory (bytes), pods, ...
    asked: int  #: by each pod; the largest where its pods differ
    need: int  #: by all pods without a node
    free: int  #: on schedulable nodes that it may use
    most: int  #: free on one of these nodes
    beside: str = ""  #: where given, `most` looks at nodes that have this resource for a pod


@dataclass(frozen=True, slots=True)
class QuotaShortage:
    """One resource of one flavor of which a waiting gang's queue has too little quota left."""

    queue: str
    flavor: str  #: empty where the file names none
    resource: str  #: as `PodShape.amounts` names it, and in its unit
    asked: int  #: by the gang
    available: int  #: to the queue now; below 0 if its quota is overdrawn
    nominal: int  #: the queue's own
    used: int  #: by the queue
    #: who would have to give back, and how much each borrows: the most first
    borrowers: tuple[tuple[str, int], ...] = ()
    #: when enough has been given back if gangs that run keep their walltimes; None: not by then
    back_us: int | None = None


class Lack(StrEnum):
    """Why a gang could not start on the empty cluster, with all nodes in service."""

    QUOTA = "quota"  #: it asks for more than its queue could ever have
    NODES = "nodes"  #: there are no nodes
    POOL = "pool"  #: no node is in the pool
    MODEL = "model"  #: no node has the GPU model
    MODEL_IN_POOL = "model_in_pool"  #: the pool has other models
    NODE = "node"  #: no node that it may use has so much for one pod
    MIX = "mix"  #: each resource is on some node, but no node has all of them
    COUNT = "count"  #: the nodes hold too few of its pods
    ROLES = "roles"  #: each role fits alone, not all of them together


@dataclass(frozen=True, slots=True)
class Offer:
    """What a pod asks for, and the node that comes closest."""

    resource: str
    asked: int
    most: int  #: on one node when it is empty
    pool: str  #: of that node
    gpu_model: str


@dataclass(frozen=True, slots=True)
class Unmet:
    """The request that no node, or not all nodes together, can meet."""

    lack: Lack
    selector: Selector
    pods: int  #: of the role it is about, or of all roles
    pod: PodShape
    #: NODE: each resource of which no node has enough; MIX: two that no node has both of;
    #: ROLES: what all of them ask for, and all nodes have; QUOTA: the same, and the queue may have
    offers: tuple[Offer, ...] = ()
    pools: tuple[str, ...] = ()  #: that there are; MODEL_IN_POOL: that have the model
    models: tuple[str, ...] = ()  #: that there are; MODEL_IN_POOL: that the pool has
    num_nodes: int = 0  #: that it may use
    hold_pods: int = 0  #: COUNT: how many of its pods they hold when empty
    resource: str = ""  #: COUNT: the resource for which they hold no more
    queue: str = ""  #: QUOTA: whose quota


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one gang waits, with the numbers behind it: what people and dashboards are shown."""

    gang: str
    reason: PendingReason
    need_pods: int
    need_gpus: int
    free_gpus: int  #: on schedulable nodes that the gang may use
    fit_pods: int  #: how many of its pods would fit now
    ahead: str | None  #: the gang it must not overtake, if that is the reason
    start_us: int | None  #: promised latest start, if a policy gave one
    short: Shortage | None = None  #: what binds, where it waits for capacity or fragmentation
    unmet: Unmet | None = None  #: what no node offers, where it can never fit
    aside: bool = False  #: no end of gangs makes room for it; it lets others pass
    quota: QuotaShortage | None = None  #: what is short, where it waits for quota
    leaving: tuple[str, ...] = ()  #: the gangs that it waits for, which were told to leave


#: `decide` ends a complete pass with `Considered`
Decision = Admit | Reserve | Preempt | Wait | Considered
