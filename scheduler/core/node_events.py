"""Nodes come, close, return and are lost; pods of no gang take room on them."""

from __future__ import annotations

from scheduler.core.books import Books
from scheduler.core.claim_events import drop_claims_on
from scheduler.core.events import (
    ForeignPodBound,
    ForeignPodGone,
    MemberLost,
    NodeAdded,
    NodeCordoned,
    NodeLost,
    NodeReturned,
)
from scheduler.core.gang_events import member_lost
from scheduler.core.model import NodeStatus, Phase, PodShape, Role, Slice
from scheduler.core.moves import drop_reservation, enqueue, invalidate, node_named


def node_added(state: Books, event: NodeAdded) -> None:
    if event.node.name in state.capacity.index_of:
        raise ValueError(f"node {event.node.name!r} exists already; give it its own name")
    if state.book is not None:
        state.book.check(event.node)
    state.capacity.add_node(event.node)
    if state.book is not None:
        state.book.count_nodes()
    state.note_node(event.node)
    for family in state.families.values():
        if state.book is None:
            family.max_size = state.largest(family.roles)
        else:
            family.max_size = state.size_options(family.options)
    state.grew = True
    invalidate(state)
    for member in list(state.gangs.values()):
        if member.phase is Phase.IMPOSSIBLE:
            enqueue(state, member)


def cordoned(state: Books, event: NodeCordoned) -> None:
    node = node_named(state, event.node)
    drop_claims_on(state, node)
    state.capacity.set_status(node, NodeStatus.CORDONED)
    state.shrank = True
    invalidate(state)


def returned(state: Books, event: NodeReturned) -> None:
    if state.capacity.set_status(node_named(state, event.node), NodeStatus.SCHEDULABLE):
        state.grew = True
        invalidate(state)


def node_lost(state: Books, event: NodeLost) -> None:
    node = node_named(state, event.node)
    drop_claims_on(state, node)
    state.capacity.set_status(node, NodeStatus.DOWN)
    state.shrank = True
    invalidate(state)
    for owner in dict.fromkeys(state.on_node[node]):
        if owner in state.foreign:
            foreign_gone(state, ForeignPodGone(owner))
            continue
        reservation = state.reservations.get(owner)
        if reservation is not None and any(p.lo <= node < p.hi for p in reservation.placement):
            drop_reservation(state, owner)
        member = state.gangs[owner]
        for role, lo, hi, pods in list(member.held):
            if lo <= node < hi:
                for _ in range(pods):
                    member_lost(state, MemberLost(owner, role, event.node))


def foreign_bound(state: Books, event: ForeignPodBound) -> None:
    if event.pod in state.foreign:
        raise ValueError(f"pod {event.pod!r} is bound already; report that it left first")
    node = node_named(state, event.node)
    placement = (Slice(0, node, node + 1, 1),)
    state.capacity.take(_as_role(event.shape), placement)
    state.shrank = True
    state.foreign[event.pod] = (node, event.shape)
    state.note_owner(event.pod, placement)
    invalidate(state)


def foreign_gone(state: Books, event: ForeignPodGone) -> None:
    if event.pod not in state.foreign:
        raise ValueError(f"pod {event.pod!r} is not bound here, so it cannot leave")
    node, shape = state.foreign.pop(event.pod)
    placement = (Slice(0, node, node + 1, 1),)
    state.capacity.give_back(_as_role(shape), placement)
    state.forget_owner(event.pod, placement)
    state.grew = True
    invalidate(state)


def _as_role(shape: PodShape) -> tuple[Role, ...]:
    return (Role(1, shape),)
