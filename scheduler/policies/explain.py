"""`explain`: why one gang waits, in words and numbers for people."""

from __future__ import annotations

from scheduler.core.decisions import Explanation, PendingReason, Shortage, Unmet, Wait
from scheduler.core.model import Phase, of_one_shape
from scheduler.core.queueing import Family, GangState
from scheduler.core.shortage import lead, shortage, unmet
from scheduler.core.state import ClusterState


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
    if member.phase is Phase.IMPOSSIBLE:
        reason = PendingReason.NEVER_FITS
        impossible = unmet(state.capacity, roles)
    elif member.phase is Phase.GATHERING:
        reason = PendingReason.MEMBERS
    else:
        outlook = _outlook(member.family)
        reason = reason_by_outlook(member.family, member.size, aside=member.phase is Phase.ASIDE)
        head = state.queue.head()
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
    )


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
