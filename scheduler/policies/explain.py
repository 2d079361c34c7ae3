"""`explain`: why one gang waits, in the words and numbers that people are shown."""

from __future__ import annotations

from scheduler.core.decisions import Explanation, PendingReason, Wait
from scheduler.core.model import Phase, of_one_shape
from scheduler.core.state import ClusterState


def explain(state: ClusterState, gang: str) -> Explanation:
    """Return why `gang` waits, from the outlook of the last pass that was applied.

    Raises:
        ValueError: the gang is unknown or does not wait.
    """
    member = state.gangs.get(gang)
    if member is None or not member.missing:
        raise ValueError(f"gang {gang!r} does not wait; it is {'running' if member else 'unknown'}")
    roles = member.missing
    selectors = {role.selector for role in roles}
    free_gpus = max(state.capacity.free_gpus(selector) for selector in selectors)
    equal = of_one_shape(roles)
    fit_pods = state.capacity.slots(equal.pod, equal.selector) if equal is not None else 0
    ahead: str | None = None
    if member.phase is Phase.IMPOSSIBLE:
        reason = PendingReason.NEVER_FITS
    elif member.phase is Phase.GATHERING:
        reason = PendingReason.MEMBERS
    else:
        family = member.family
        outlook = Wait(family.key, family.fit_pods, family.free_pods)
        reason = outlook.reason(member.size)
        head = state.queue.head()
        if reason is PendingReason.BEHIND_HEAD and head is not None and head is not member:
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
    )
