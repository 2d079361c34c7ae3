"""Reservations, promises, and what a pass said of those that wait."""

from __future__ import annotations

from scheduler.core.books import Books
from scheduler.core.claim_events import drop_claim
from scheduler.core.decisions import Reserve, Wait
from scheduler.core.events import CapacityReserved, Considered, Overtaken, ReservationReleased
from scheduler.core.model import Phase, Reservation
from scheduler.core.moves import drop_reservation, gang_named, take


def reserved(state: Books, event: CapacityReserved) -> None:
    member = gang_named(state, event.gang)
    drop_reservation(state, event.gang)
    if member.phase is Phase.PREEMPTING:
        drop_claim(state, member)
    take(state, member, event.placement)
    state.reservations[event.gang] = Reservation(
        event.gang, event.expires_us, placement=event.placement, expires_us=event.expires_us
    )


def reservation_released(state: Books, event: ReservationReleased) -> None:
    drop_reservation(state, event.gang)


def promised(state: Books, event: Reserve) -> None:
    old = state.reservations.get(event.gang)
    if old is None:
        for name, other in list(state.reservations.items()):
            if not other.placement:  # one promise at a time: the head's
                del state.reservations[name]
        state.reservations[event.gang] = Reservation(event.gang, event.start_us, event.spare_pods)
    else:
        old.start_us, old.spare_pods, old.valid = event.start_us, event.spare_pods, True


def waited(state: Books, event: Wait) -> None:
    family = state.queue.families.get(event.family)
    if family is not None:
        family.fit_pods, family.free_pods = event.fit_pods, event.free_pods
        family.short, family.apart = event.short, event.apart


def overtaken(state: Books, event: Overtaken) -> None:
    gang_named(state, event.gang).overtaken = event.times


def considered(state: Books, event: Considered) -> None:
    state.grew = state.shrank = False
    state.until_us = event.until_us
    if event.searched or state.searched:
        state.searched = dict(event.searched)
    if event.restraints or state.queue.restraints:
        state.queue.restraints = {name: (nodes, quota) for name, nodes, quota in event.restraints}
    if state.past is not None and state.book is not None:
        state.past.note(event.now_us, state.book.tree, state.book.gpus)
    state.queue.note_seen()
