"""The cluster as the core knows it, and `apply`, the only place where it changes.

A handler is in the module of what its event is about: `gang_events`, `node_events`, `claim_events`,
`queue_events`, and `pass_events` for what a pass decided. `moves` is what several of them do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scheduler.core import (
    claim_events,
    gang_events,
    node_events,
    pass_events,
    queue_events,
)
from scheduler.core.books import Books
from scheduler.core.claim_events import fill_claims
from scheduler.core.decisions import Decision, Reserve, Wait
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    CapacityReserved,
    CheckpointSaved,
    ClaimDropped,
    ClusterEvent,
    Considered,
    EvictionsSoFar,
    ForeignPodBound,
    ForeignPodGone,
    GangCancelled,
    GangFinished,
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
    NodeLost,
    NodeReturned,
    Overtaken,
    PriorityChanged,
    QueuesChanged,
    ReservationReleased,
    UseSoFar,
)
from scheduler.core.model import (
    Slice,
)
from scheduler.core.trial import Trial


class ClusterState(Books):
    """Nodes, gangs, foreign pods and reservations. Read it freely; change it through `apply`.

    A policy with another order than the state's refuses it.
    """

    def trial(self) -> Trial:
        """Return a context that undoes every event applied inside. Trials nest."""
        return Trial(self)

    def node_names(self, placement: Iterable[Slice]) -> list[str]:
        """Return the node of each pod, in rank order within each role."""
        nodes = self.capacity.nodes
        return [
            nodes[i].name
            for piece in placement
            for i in range(piece.lo, piece.hi)
            for _ in range(piece.pods_per_node)
        ]


def apply(state: ClusterState, event: ClusterEvent | Decision) -> None:
    """Change `state` by one event, or by a decision that needs no act outside.

    Raises:
        ValueError: the event names a gang, node or pod that the state does not have, or has; or
            it is a decision that has to be carried out outside.
    """
    try:
        handler = _HANDLERS[type(event)]
    except KeyError:
        raise ValueError(
            f"the state does not accept a {type(event).__name__}: {event}; a driver carries it "
            "out and reports the result, such as Admitted after Admit"
        ) from None
    if state.under_trial is not None:
        state.under_trial.note(event)
    handler(state, event)
    if state.searched and type(event) is not Considered:
        state.searched = {}
    if state.unfilled:
        fill_claims(state)


_HANDLERS: dict[type, Callable[[Books, Any], None]] = {
    NodeAdded: node_events.node_added,
    NodeCordoned: node_events.cordoned,
    NodeReturned: node_events.returned,
    NodeLost: node_events.node_lost,
    GangSubmitted: gang_events.submitted,
    MemberAppeared: gang_events.appeared,
    MemberLost: gang_events.member_lost,
    GangFinished: gang_events.finished,
    GangInterrupted: gang_events.interrupted,
    GangCancelled: gang_events.finished,
    GangResized: gang_events.resized,
    CheckpointSaved: gang_events.saved,
    PriorityChanged: gang_events.priority_changed,
    ForeignPodBound: node_events.foreign_bound,
    ForeignPodGone: node_events.foreign_gone,
    CapacityReserved: pass_events.reserved,
    ReservationReleased: pass_events.reservation_released,
    CapacityClaimed: claim_events.claimed,
    ClaimDropped: claim_events.claim_dropped,
    Reserve: pass_events.promised,
    Admitted: gang_events.admitted,
    Wait: pass_events.waited,
    Overtaken: pass_events.overtaken,
    EvictionsSoFar: claim_events.evictions_so_far,
    UseSoFar: queue_events.use_so_far,
    GangMends: gang_events.mends,
    GangSetAside: gang_events.set_aside,
    GangTakenUp: gang_events.taken_up,
    Considered: pass_events.considered,
    QueuesChanged: queue_events.queues_changed,
}
