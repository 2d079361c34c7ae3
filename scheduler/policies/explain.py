"""`explain`: why one gang waits, in words and numbers for people."""

from __future__ import annotations

from operator import itemgetter

from scheduler.core.decisions import (
    Explanation,
    Lack,
    Offer,
    PendingReason,
    QuotaShortage,
    Shortage,
    Unmet,
    Wait,
)
from scheduler.core.model import Phase, of_one_shape
from scheduler.core.queueing import Family, GangState
from scheduler.core.queues import DEFAULT_FLAVOR
from scheduler.core.quota import Amounts
from scheduler.core.quotabook import QuotaBook, merged
from scheduler.core.shortage import lead, shortage, unmet
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US
from scheduler.policies.shadow import quota_comes_us


def explain(state: ClusterState, gang: str) -> Explanation:
    """Return why `gang` waits, from the outlook of the last pass that was applied.

    The numbers are current.

    Raises:
        ValueError: the gang is unknown or does not wait.
    """
    member = state.gangs.get(gang)
    if member is None or not member.missing:
        raise ValueError(
            f"gang {gang!r} is not waiting; it is {'running' if member else 'unknown'}"
        )
    roles = member.missing
    selectors = {role.selector for role in roles}
    free_gpus = max(state.capacity.free_gpus(selector) for selector in selectors)
    equal = of_one_shape(roles)
    fit_pods = state.capacity.slots(equal.pod, equal.selector) if equal is not None else 0
    ahead: str | None = None
    short: Shortage | None = None
    impossible: Unmet | None = None
    quota: QuotaShortage | None = None
    leaving: tuple[str, ...] = ()
    if member.phase is Phase.IMPOSSIBLE:
        reason = PendingReason.NEVER_FITS
        impossible = never_fits(state, member)
    elif member.phase is Phase.GATHERING:
        reason = PendingReason.MEMBERS
    elif (claim := state.claims.get(gang)) is not None:
        reason = PendingReason.PREEMPTING
        leaving = claim.victims
    elif (quota := _over_quota(state, member)) is not None:
        reason = PendingReason.QUOTA
    else:
        outlook = _outlook(member.family)
        reason = reason_by_outlook(member.family, member.size, aside=member.phase is Phase.ASIDE)
        head = _ahead(state, member)
        if reason is not PendingReason.BEHIND_HEAD:
            short = _short(state, member, outlook)
        elif head is not None and head is not member:
            ahead = head.gang.name
    promise = state.reservations.get(gang)
    return Explanation(
        gang=gang,
        reason=reason,
        need_pods=sum(role.count for role in roles),
        need_gpus=sum(role.gpus for role in roles),
        free_gpus=free_gpus,
        fit_pods=fit_pods,
        ahead=ahead,
        start_us=promise.start_us if promise is not None else None,
        short=short,
        unmet=impossible,
        aside=member.phase is Phase.ASIDE,
        quota=quota,
        leaving=leaving,
    )


def _ahead(state: ClusterState, member: GangState) -> GangState | None:
    """Return the gang that a gang must not overtake: the head of its queue, or of another."""
    head = state.queue.head_before(member)
    if head is not member or not state.queue.lines:
        return head
    for name, promise in state.reservations.items():
        if not promise.placement and name != member.gang.name:
            return state.gangs[name]
    earlier = [other for line in state.queue.lines if (other := line.head()) is not None]
    return min(earlier, key=lambda other: other.key, default=None)


def never_fits(state: ClusterState, member: GangState) -> Unmet | None:
    """Return which request keeps a gang from ever starting: more than the nodes, or the quota."""
    book = state.book
    if book is None:
        return unmet(state.capacity, member.missing)
    if not member.family.options:
        return unmet(state.capacity, member.missing) or _beyond_quota(book, member, ())
    on_nodes = [option for option in member.family.options if option.max_size >= member.size]
    if on_nodes:
        ways = [option.amounts(member.size) for option in on_nodes]
        if member.held:  # it keeps what it has
            held = book.amounts_of(member.gang.roles, member.held)
            ways = [merged(asks, held) for asks in ways]
        most = book.tree.potential[member.queue]
        nearest = min(ways, key=lambda asks: max([n - most[cell] for cell, n in asks], default=0))
        return _beyond_quota(book, member, nearest)
    option = max(member.family.options, key=lambda option: option.max_size)
    return unmet(state.capacity, option.narrow(member.missing))


def _beyond_quota(book: QuotaBook, member: GangState, amounts: Amounts) -> Unmet:
    """Return of what a gang asks for more than its queue could ever have."""
    tree, has_choice = book.tree, len(member.family.options) > 1
    offers = []
    for cell, amount in amounts:
        most = tree.potential[member.queue][cell]
        if amount > most:
            flavor, resource = book.resource(cell)
            offers.append(Offer(resource, amount, most, flavor if has_choice else "", ""))
    return Unmet(
        Lack.QUOTA,
        member.missing[0].selector,
        sum(role.count for role in member.missing),
        member.missing[0].pod,
        tuple(offers),
        queue=tree.names[member.queue],
    )


def _over_quota(state: ClusterState, member: GangState) -> QuotaShortage | None:
    """Return what a gang's queue has too little quota of, in the flavor that lacks the least."""
    book = state.book
    if book is None:
        return None
    queue = member.queue
    found: list[tuple[int, QuotaShortage]] = []
    for option in member.family.options:
        amounts = option.amounts(member.size)
        if option.max_size < member.size or not book.could_fit(queue, amounts):
            continue
        if book.fits(queue, amounts):
            return None
        found.append(_most_lacking(state, book, queue, amounts))
    return min(found, key=itemgetter(0))[1] if found else None


def _most_lacking(
    state: ClusterState, book: QuotaBook, queue: int, amounts: Amounts
) -> tuple[int, QuotaShortage]:
    """Return by how much the quota is short, and of what: the resource of which the most lacks."""
    tree = book.tree
    lacking = [one for one in amounts if not book.fits(queue, (one,))]
    cell, asked = max(lacking, key=lambda one: one[1] - tree.available(queue, one[0]))
    left = tree.available(queue, cell)
    flavor, resource = book.resource(cell)
    if tree.flavors == (DEFAULT_FLAVOR,):  # the file names none
        flavor = ""
    # what others give back helps unless the queue's own limit is in the way
    helps = tree.potential[queue][cell] - tree.usage[queue][cell] >= asked
    back_us = quota_comes_us(state, book, queue, amounts)
    short = QuotaShortage(
        tree.names[queue],
        flavor,
        resource,
        asked,
        left,
        tree.nominal[queue][cell],
        tree.usage[queue][cell],
        tuple(book.borrowers(queue, cell)) if helps else (),
        back_us if back_us < FOREVER_US else None,
    )
    return asked - left, short


def reason_by_outlook(family: Family, size: int, *, aside: bool) -> PendingReason:
    """Return why the gangs of a family and size wait, in the queue or set aside.

    The same for all of them, and it changes with what the last pass said of the family alone.
    """
    reason = _outlook(family).reason(size)
    if aside and reason is PendingReason.BEHIND_HEAD:
        return PendingReason.CAPACITY  # others of its size that are in the queue fit
    return reason


def _outlook(family: Family) -> Wait:
    return Wait(family.key, family.fit_pods, family.free_pods, family.short, family.apart)


def _short(state: ClusterState, member: GangState, outlook: Wait) -> Shortage | None:
    """Return the numbers of what binds; None if only nodes that take pods are missing."""
    first = lead(state.capacity, member.missing)
    if not first:
        return None
    resource = outlook.resource(member.size) or first
    apart = outlook.reason(member.size) is PendingReason.FRAGMENTATION and resource != first
    return shortage(state.capacity, member.missing, resource, beside=first if apart else "")
