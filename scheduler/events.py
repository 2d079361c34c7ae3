"""Facts that drivers tell the core. `state.apply` takes them, and decisions, in order.

Events and decisions are named tuples: immutable, comparable, and made several times as fast as
frozen dataclasses, of which a gang's life takes a dozen.
"""

from __future__ import annotations

from typing import NamedTuple

from scheduler.model import Gang, Node, Placement, PodShape, Role


class NodeAdded(NamedTuple):
    """A node joined."""

    node: Node


class NodeCordoned(NamedTuple):
    """A node takes no new pods; those on it go on."""

    node: str


class NodeReturned(NamedTuple):
    """A cordoned or lost node takes pods again."""

    node: str


class NodeLost(NamedTuple):
    """A node is down: the ranks it held are gone, and their gangs miss them."""

    node: str


class GangSubmitted(NamedTuple):
    """A gang is known. `present` pods of it exist; None means all of them."""

    gang: Gang
    present: int | None = None


class MemberAppeared(NamedTuple):
    """One more pod of the gang exists, or several."""

    gang: str
    num_pods: int = 1


class MemberLost(NamedTuple):
    """A running rank is gone from `node`; the gang misses it and asks for a new place."""

    gang: str
    role: int
    node: str


class GangFinished(NamedTuple):
    """All ranks ended; the gang is gone."""

    gang: str


class GangInterrupted(NamedTuple):
    """All ranks were taken down, and the gang waits again, whole, at its old place in the queue."""

    gang: str


class GangCancelled(NamedTuple):
    """The user took it back, waiting or running."""

    gang: str


class GangResized(NamedTuple):
    """The gang now has these roles; the same role names in the same order, other counts.

    A running gang gives back its last ranks or asks for the missing ones.
    """

    gang: str
    roles: tuple[Role, ...]


class PriorityChanged(NamedTuple):
    """The gang's priority is now this."""

    gang: str
    priority: int


class ForeignPodBound(NamedTuple):
    """A pod that no gang owns occupies capacity."""

    pod: str
    node: str
    shape: PodShape


class ForeignPodGone(NamedTuple):
    """It left."""

    pod: str


class CapacityReserved(NamedTuple):
    """`placement` is held for a waiting gang until it is admitted or `expires_s` has come."""

    gang: str
    placement: Placement
    expires_s: float


class ReservationReleased(NamedTuple):
    """The hold or promise for this gang is void; drivers send it when `expires_s` has come."""

    gang: str


class Admitted(NamedTuple):
    """The gang's missing ranks now hold `placement`; `expected_end_s` is start plus walltime."""

    gang: str
    placement: Placement
    now_s: float
    expected_end_s: float


class Considered(NamedTuple):
    """The pass over this state is complete and its decisions are applied; `decide` ends with it.

    What waits now cannot start before capacity grows or the head of the queue changes, so the
    next pass may look at newcomers alone.
    """


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
    | PriorityChanged
    | ForeignPodBound
    | ForeignPodGone
    | CapacityReserved
    | ReservationReleased
    | Admitted
    | Considered
)
