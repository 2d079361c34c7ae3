"""Claims: gangs are evicted for another, and what they leave is kept for it."""

from __future__ import annotations

from scheduler.core.books import Books
from scheduler.core.claims import Claim, wanted
from scheduler.core.events import CapacityClaimed, ClaimDropped, EvictionsSoFar
from scheduler.core.model import Phase
from scheduler.core.moves import drop_reservation, enqueue, gang_named, invalidate
from scheduler.core.queueing import GangState


def claimed(state: Books, event: CapacityClaimed) -> None:
    name = event.gang
    member = gang_named(state, name)
    if state.book is None or name not in state.queue.members or member.held:
        raise ValueError(
            f"gang {name!r} is {member.phase}: nodes are claimed for a gang that waits in a queue "
            "with quota and holds none"
        )
    drop_reservation(state, name)
    state.queue.discard(member)
    member.phase = Phase.PREEMPTING
    for victim in event.victims:
        evicted = gang_named(state, victim)
        evicted.leaving = True
        state.queue.note_running(evicted)
    to = state.gave_way.get(name, frozenset()) | {name}
    gave_way = dict(state.gave_way)  # a copy: trials keep the one of before
    for victim in event.victims:
        before = gave_way.get(victim, frozenset())
        gave_way[victim] = to.union([other for other in before if other in state.gangs])
    state.gave_way = gave_way
    roles = member.gang.roles
    amounts = state.book.amounts_of(roles, event.placement)
    state.book.tree.take(member.queue, amounts)
    state.claims[name] = Claim(
        name, event.placement, amounts, event.victims, wanted(roles, event.placement), {}
    )
    state.shrank = state.unfilled = True
    invalidate(state)


def fill_claims(state: Books) -> None:
    """Keep what came free for those who claim it, and note who left."""
    state.unfilled = False
    gangs = state.gangs
    for claim in state.claims.values():
        if claim.victims:
            claim.victims = tuple(
                [name for name in claim.victims if name in gangs and gangs[name].leaving]
            )
        if claim.rest and claim.fill(state.capacity):
            state.shrank = True


def release_claim(state: Books, member: GangState) -> None:
    """Free what is kept for a gang, if anything is."""
    claim = state.claims.pop(member.gang.name, None)
    if claim is not None:
        assert state.book is not None
        claim.release(state.capacity)
        state.book.give_back(member.queue, claim.amounts)
        state.grew = True
        invalidate(state)


def drop_claim(state: Books, member: GangState, *, in_vain: bool = True) -> None:
    """Free what is kept for a gang, which queues again; what was in vain is counted."""
    if state.under_trial is not None:
        state.under_trial.note_gang(member.gang.name)
    release_claim(state, member)
    if in_vain:
        member.lost_claims += 1
    enqueue(state, member)


def drop_claims_on(state: Books, node: int) -> None:
    """Drop the claims of a node that takes no new pods."""
    for name, claim in list(state.claims.items()):
        if node in claim.rest or node in claim.taken:
            drop_claim(state, state.gangs[name])


def claim_dropped(state: Books, event: ClaimDropped) -> None:
    member = gang_named(state, event.gang)
    if member.phase is not Phase.PREEMPTING:
        raise ValueError(f"gang {event.gang!r} has no claim to drop; it is {member.phase}")
    drop_claim(state, member)


def evictions_so_far(state: Books, event: EvictionsSoFar) -> None:
    if event.leaving or event.lost_claims:
        member = gang_named(state, event.gang)
        if event.leaving and not member.held:
            raise ValueError(f"gang {event.gang!r} holds nothing, so it cannot leave")
        member.leaving, member.lost_claims = event.leaving, event.lost_claims
        state.unfilled = True
        state.queue.note_running(member)
    if event.gave_way:
        state.gave_way = {**state.gave_way, event.gang: frozenset(event.gave_way)}
