"""What the core answers: admit, reserve, preempt, or wait and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scheduler.core.events import Considered
from scheduler.core.model import FamilyKey, Placement


class PendingReason(StrEnum):
    """Why a pod is not running its work yet: exactly one applies at any moment.

    The words; `reasons.TABLE` says what each means. They stand in the order in which curves stack
    them, most structural first.
    """

    NEVER_FITS = "never_fits"
    CAPACITY = "capacity"
    FRAGMENTATION = "fragmentation"
    BEHIND_HEAD = "behind_head"
    HELD_BY_OTHERS = "held_by_others"
    OWN_PARTIAL_HOLD = "own_partial_hold"
    PERMIT_BACKOFF = "permit_backoff"
    MEMBERS = "members"
    CONTROL_PLANE = "control_plane"
    STARTING = "starting"


@dataclass(slots=True)
class Admit:
    """Every missing rank of `gang` has a node: start it."""

    gang: str
    placement: Placement


@dataclass(slots=True)
class Reserve:
    """Promise `gang` a start no later than `start_us`; backfill keeps it."""

    gang: str
    start_us: int
    spare_pods: int  #: pods of the gang's shape that stay free at `start_us` beside it


@dataclass(slots=True)
class Preempt:
    """Stop the gangs `victims`, whole, so that `gang` can start. No policy here decides it yet."""

    gang: str
    victims: tuple[str, ...]


@dataclass(slots=True)
class Wait:
    """What all waiting gangs of one pod family wait for, by their size in pods.

    One value for a whole family, because a blocked queue must cost by its distinct shapes and
    not by its length; `policies.explain` spells it out for one gang.
    """

    family: FamilyKey  #: key of the family: the pod request and its node selector
    fit_pods: int  #: up to so many pods fit now: such a gang waits `behind_head`
    free_pods: int  #: up to so many have GPUs enough: `fragmentation`; above: `capacity`

    def reason(self, num_pods: int) -> PendingReason:
        """Return why a gang of this family with `num_pods` pods waits."""
        if num_pods <= self.fit_pods:
            return PendingReason.BEHIND_HEAD
        if num_pods <= self.free_pods:
            return PendingReason.FRAGMENTATION
        return PendingReason.CAPACITY


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one gang waits, with the numbers behind it: what people and dashboards are shown."""

    gang: str
    reason: PendingReason
    need_pods: int
    need_gpus: int
    free_gpus: int  #: free GPUs on nodes the gang may use
    fit_pods: int  #: how many of its pods would fit now
    ahead: str | None  #: the gang it must not overtake, if that is the reason
    start_us: int | None  #: promised latest start, if a policy gave one


#: `decide` ends a complete pass with `Considered`
Decision = Admit | Reserve | Preempt | Wait | Considered
