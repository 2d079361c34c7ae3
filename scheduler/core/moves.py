"""What handlers of several events do with gangs: into the queue, onto nodes and off them."""

from __future__ import annotations

from scheduler.core.books import Books
from scheduler.core.model import OrderKey, Phase, Placement, Role
from scheduler.core.queueing import GangState, family_size
from scheduler.core.quota import Amounts
from scheduler.core.quotabook import merged
from scheduler.core.times import FOREVER_US


def gang_named(state: Books, name: str) -> GangState:
    """Return a gang.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        return state.gangs[name]
    except KeyError:
        raise ValueError(f"gang {name!r} is unknown; submit it first") from None


def node_named(state: Books, name: str) -> int:
    """Return the index of a node.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        return state.capacity.index_of[name]
    except KeyError:
        raise ValueError(f"node {name!r} is unknown; add it first") from None


def enqueue(state: Books, member: GangState) -> None:
    """Put a gang with missing ranks and enough pods where it belongs: the queue, or aside."""
    if (
        member.size > member.family.max_size
        or (member.held and _is_too_large(state, member))
        or (state.book is not None and exceeds_quota(state, member))
    ):
        member.phase = Phase.IMPOSSIBLE
        return
    member.phase = Phase.RUNNING if member.held else Phase.WAITING
    member.key = place_in_queue(state, member)
    state.queue.add(member)


def place_in_queue(state: Books, member: GangState) -> OrderKey:
    """Return the key of a gang: by the order, but those that run in part come first."""
    key = state.order(member.gang)
    return (-FOREVER_US, *key) if member.mends and member.held else key


def _is_too_large(state: Books, member: GangState) -> bool:
    """True if what a gang holds and what it misses do not fit together."""
    roles = member.gang.roles
    return family_size(roles) > state.family(roles, state.flavors_for(member)).max_size


def exceeds_quota(state: Books, member: GangState) -> bool:
    """True if a gang has no way to be placed that its queue could ever have the quota for."""
    book = state.book
    assert book is not None
    held: Amounts = ()
    if member.held:
        held = book.amounts_of(member.gang.roles, member.held)
    for option in member.family.options:
        if option.max_size >= member.size:
            amounts = option.amounts(member.size)
            if book.could_fit(member.queue, merged(amounts, held) if held else amounts):
                return False
    return True


def _join(state: Books, member: GangState, roles: tuple[Role, ...]) -> None:
    """Count a gang to the family of these roles, and no longer to the one before."""
    family = state.family(roles, state.flavors_for(member))
    member.family.num_gangs -= 1
    family.num_gangs += 1
    member.family = family
    member.size = family_size(roles)


def ask_again(state: Books, member: GangState, missing: tuple[Role, ...]) -> None:
    """Let a gang that is not in the queue ask for these roles, if enough of its pods exist."""
    member.missing = missing
    _join(state, member, missing)
    if member.present < (member.gang.min_member or member.gang.num_pods):
        member.phase = Phase.GATHERING
    else:
        enqueue(state, member)


def take(state: Books, member: GangState, placement: Placement) -> None:
    """Let a gang hold nodes, and quota where there is any."""
    state.capacity.take(member.gang.roles, placement)
    if state.book is not None:
        amounts = state.book.amounts_of(member.gang.roles, placement)
        state.book.tree.take(member.queue, amounts)
        member.takes, member.takes_of = amounts, placement  # true once it holds that and no more
    state.shrank = True
    state.note_owner(member.gang.name, placement)


def give_back(state: Books, member: GangState, held: Placement) -> None:
    """Let a gang hold them no longer."""
    free(state, member, held)
    state.forget_owner(member.gang.name, held)
    state.grew = True


def free(state: Books, member: GangState, held: Placement) -> None:
    """Free nodes and quota; their owners stay noted."""
    if member.leaving:  # claims want nothing that others hold
        state.unfilled = True
    state.capacity.give_back(member.gang.roles, held)
    if state.book is not None:
        book, is_all = state.book, held is member.held
        amounts = member.quota_taken(book) if is_all else book.amounts_of(member.gang.roles, held)
        book.give_back(member.queue, amounts)


def drop_reservation(state: Books, gang: str) -> None:
    """Forget what is held for a gang, or promised to it, if anything is."""
    reservation = state.reservations.pop(gang, None) if state.reservations else None
    if reservation is not None and reservation.placement:
        give_back(state, state.gangs[gang], reservation.placement)


def invalidate(state: Books) -> None:
    """Let the next pass work out again when promised starts can be."""
    for promise in state.reservations.values():
        promise.valid = False
