"""The words of queues with quota change, or what they used is restored."""

from __future__ import annotations

from scheduler.core.books import Books
from scheduler.core.claim_events import drop_claim
from scheduler.core.events import QueuesChanged, UseSoFar
from scheduler.core.model import Phase
from scheduler.core.moves import enqueue, invalidate
from scheduler.core.pastuse import PastUse
from scheduler.core.queueing import WaitQueue
from scheduler.core.quotabook import QuotaBook


def queues_changed(state: Books, event: QueuesChanged) -> None:
    """Count usage and queue gangs by the new words; what runs goes on."""
    if state.under_trial is not None:
        raise ValueError("queues cannot change inside a trial; change them before it begins")
    if state.book is None:
        raise ValueError("the state has no queues to change; build it with queues=")
    old = state.book.file
    book = QuotaBook(state.capacity, event.queues)  # what is refused changes nothing
    queue_of = {name: book.queue_of(member.gang) for name, member in state.gangs.items()}
    for name in list(state.claims):
        # not in vain: whom it evicts is decided by the new words
        drop_claim(state, state.gangs[name], in_vain=False)
    waiting = list(state.queue.in_order())
    for member in waiting:
        state.queue.discard(member)
    state.book = book
    past = PastUse(old.sharing, len(old.queues)) if state.past is None else state.past
    needed = event.queues.sharing.uses_past
    state.past = past.kept_for(old, event.queues) if needed else None
    state.families = {}
    state.queue = WaitQueue(book.tree.num_queues)
    for name, reservation in state.reservations.items():
        roles = state.gangs[name].gang.roles
        book.tree.take(queue_of[name], book.amounts_of(roles, reservation.placement))
    for name, member in state.gangs.items():
        member.queue = queue_of[name]
        member.takes_of = None
        state.queue.note_running(member)
        book.tree.take(member.queue, book.amounts_of(member.gang.roles, member.held))
    for member in state.gangs.values():
        member.family = state.family(member.missing or member.gang.roles, state.flavors_for(member))
        member.family.num_gangs += 1
    impossible = [m for m in state.gangs.values() if m.phase is Phase.IMPOSSIBLE]
    for member in (*waiting, *impossible):
        enqueue(state, member)
    state.grew = state.shrank = True
    invalidate(state)


def use_so_far(state: Books, event: UseSoFar) -> None:
    if state.past is None or state.book is None:
        raise ValueError("the heads of these queues do not depend on what was used")
    state.past.recall(event, [queue.name for queue in state.book.file.queues])
