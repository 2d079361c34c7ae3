"""`decide`: the steps of one pass over the queue.

1. Admit the head if it fits; the driver carries that out and asks again.
2. A head that does not fit is handed to the policy's discipline, which may admit later gangs.
3. Report what the rest waits for, family by family, and end the pass.

Where several queues have quota, each has a head: see `queued`.
"""

from __future__ import annotations

from scheduler.core.decisions import Admit, Decision
from scheduler.core.events import Considered
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US
from scheduler.policies.passes import Pass, place_missing
from scheduler.policies.policy import Policy
from scheduler.policies.queued import decide_queued


def decide(state: ClusterState, policy: Policy, now_us: int) -> tuple[Decision, ...]:
    """Return what should happen now; reads only.

    Carry the decisions out in order, tell the state with `apply`, and ask again, until the last
    decision is `Considered`: then the pass is complete. Ask again after the next events, and at
    its `until_us` even if there are none. A head that fits is admitted alone, so
    that nothing has to be planned on top of it before it is known to have happened.

    A `Wait` is given for each family whose outlook differs from the last one applied.

    Raises:
        ValueError: the state keeps its queue in another order than the policy's.
    """
    if state.order is not policy.order:
        raise ValueError(
            f"policy {policy.name!r} orders the queue by {policy.order.__name__!r}, the state by "
            f"{state.order.__name__!r}; build the state with order={policy.order.__name__}"
        )
    queue = state.queue
    head = queue.head()
    if head is None and not state.claims:
        return _COMPLETE if state.past is None else (Considered(now_us=now_us),)
    if state.book is not None:
        return decide_queued(state, policy, now_us)
    assert head is not None, "claims are for queues with quota"
    blocked = not state.grew and head is queue.head_seen and now_us < state.until_us
    if not blocked:
        placement = place_missing(state, head, policy.placer)
        if placement is not None:
            return (Admit(head.gang.name, placement),)
    around = Pass(state, policy.placer, policy.numbers, now_us, blocked)
    try:
        policy.discipline(around, head)
        around.state_waits()
    finally:
        around.end()
    if around.until_us == FOREVER_US:
        if not around.made:
            return _COMPLETE
        around.made.append(_CONSIDERED)
    else:
        around.made.append(Considered(around.until_us))
    return tuple(around.made)


_CONSIDERED = Considered()
_COMPLETE: tuple[Decision, ...] = (_CONSIDERED,)
