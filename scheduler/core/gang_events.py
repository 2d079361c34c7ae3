"""The life of gangs: they come, start, change, lose ranks and end."""

from __future__ import annotations

from scheduler.core.books import Books
from scheduler.core.claim_events import release_claim
from scheduler.core.events import (
    Admitted,
    CheckpointSaved,
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
    PriorityChanged,
)
from scheduler.core.model import Phase, Placement, Role, Slice
from scheduler.core.moves import (
    ask_again,
    drop_reservation,
    enqueue,
    free,
    gang_named,
    give_back,
    invalidate,
    node_named,
    take,
)
from scheduler.core.queueing import GangState, family_size
from scheduler.core.times import FOREVER_US, to_s


def submitted(state: Books, event: GangSubmitted) -> None:
    gang = event.gang
    if gang.name in state.gangs:
        raise ValueError(f"gang {gang.name!r} exists already; give every gang its own name")
    roles = gang.roles
    if len(roles) == 1:
        size = num_pods = roles[0].count
    else:
        size, num_pods = family_size(roles), gang.num_pods
    present = num_pods if event.present is None else event.present
    queue = 0
    flavors: tuple[int, ...] = ()
    if state.book is not None:
        queue = state.book.queue_of(gang)
        flavors = state.book.flavors_of[queue]
    family = state.family(roles, flavors)
    family.num_gangs += 1
    member = GangState(gang, present, family, size, queue)
    state.gangs[gang.name] = member
    if present < (gang.min_member or num_pods):
        return
    enqueue(state, member)


def admitted(state: Books, event: Admitted) -> None:
    name, placement, expected_end_us = event.gang, event.placement, event.expected_end_us
    member = gang_named(state, name)
    if not member.missing:
        raise ValueError(f"gang {name!r} has all its nodes; nothing is left to admit")
    head = state.queue.head_before(member)
    if member.phase is Phase.PREEMPTING:
        release_claim(state, member)
    elif head is not None and head is not member and not member.held:
        head.overtaken += 1
    member.overtaken = member.lost_claims = 0
    state.queue.discard(member)
    roles = member.gang.roles
    if state.reservations:
        _keep_promises(state, member, expected_end_us)
    if member.missing is not roles:  # slices count roles as in `missing`
        names = [role.name for role in roles]
        index = [names.index(role.name) for role in member.missing]
        placement = tuple([Slice(index[at], lo, hi, pods) for at, lo, hi, pods in placement])
    take(state, member, placement)
    if state.past is not None:
        gpus = sum([(hi - lo) * each * roles[at].pod.gpus for at, lo, hi, each in placement])
        state.past.note_start(member.queue, gpus)
    if member.held:
        state.forget_end(member)
        placement = member.held + placement
    else:
        member.admitted_us = event.now_us
    member.held = placement
    member.missing = ()
    member.mends = False
    member.phase = Phase.RUNNING
    member.expected_end_us = expected_end_us
    state.queue.note_running(member)
    state.note_end(member)


def _keep_promises(state: Books, member: GangState, expected_end_us: int) -> None:
    """Redeem the admitted gang's own reservation and doubt those that it may delay."""
    own = state.reservations.pop(member.gang.name, None)
    if own is not None and own.placement:
        give_back(state, member, own.placement)
    for promise in state.reservations.values():
        if expected_end_us > promise.start_us:
            promise.valid = False


def finished(state: Books, event: GangFinished | GangCancelled) -> None:
    name = event.gang
    member = gang_named(state, name)
    if member.missing:
        state.queue.discard(member)
    _release_all(state, member)
    if state.reservations:
        drop_reservation(state, name)
    if state.claims:
        release_claim(state, member)
    if name in state.gave_way and type(event) is GangFinished:
        state.gave_way = {other: to for other, to in state.gave_way.items() if other != name}
    member.family.num_gangs -= 1
    del state.gangs[name]


def interrupted(state: Books, event: GangInterrupted) -> None:
    member = gang_named(state, event.gang)
    state.queue.discard(member)
    release_claim(state, member)
    _release_all(state, member)
    ask_again(state, member, member.gang.roles)


def _release_all(state: Books, member: GangState) -> None:
    """Take everything from a gang that holds nodes."""
    if not member.held:
        return
    state.forget_end(member)
    give_back(state, member, member.held)
    for promise in state.reservations.values():
        if member.expected_end_us >= promise.start_us:  # due before, it was counted on already
            promise.valid = False
    member.held = ()
    _forget_times(member)
    state.queue.note_running(member)


def _forget_times(member: GangState) -> None:
    """A gang that holds nothing was not admitted, and a checkpoint of before is of no help."""
    member.admitted_us = member.expected_end_us = FOREVER_US
    member.saved_us = -FOREVER_US
    member.mends = member.leaving = False


def appeared(state: Books, event: MemberAppeared) -> None:
    member = gang_named(state, event.gang)
    member.present += event.num_pods
    if member.phase is Phase.GATHERING:
        ask_again(state, member, member.missing)


def member_lost(state: Books, event: MemberLost) -> None:
    member = gang_named(state, event.gang)
    node = node_named(state, event.node)
    at = next(
        (
            i
            for i, held in enumerate(member.held)
            if held.role == event.role and held.lo <= node < held.hi
        ),
        None,
    )
    if at is None:
        raise ValueError(
            f"gang {event.gang!r} has no pod of role {event.role} on node {event.node!r}"
        )
    state.queue.discard(member)
    piece = member.held[at]
    lost = Slice(piece.role, node, node + 1, 1)
    free(state, member, (lost,))
    rest = [
        Slice(piece.role, piece.lo, node, piece.pods_per_node),
        Slice(piece.role, node, node + 1, piece.pods_per_node - 1),
        Slice(piece.role, node + 1, piece.hi, piece.pods_per_node),
    ]
    if piece.pods_per_node == 1:
        state.forget_owner(event.gang, (lost,))
    kept = tuple(part for part in rest if part.num_pods)
    member.held = member.held[:at] + kept + member.held[at + 1 :]
    state.grew = True
    invalidate(state)
    placed = [0] * len(member.gang.roles)
    for piece in member.held:
        placed[piece.role] += piece.num_pods
    _ask_for_missing(state, member, placed)


def _ask_for_missing(state: Books, member: GangState, placed: list[int]) -> None:
    """Queue a gang for the ranks it should have beyond these, by role."""
    missing = tuple(
        [
            Role(role.count - have, role.pod, role.selector, role.name)
            for role, have in zip(member.gang.roles, placed, strict=True)
            if role.count > have
        ]
    )
    if not member.held:
        state.forget_end(member)
        _forget_times(member)
        state.queue.note_running(member)
    if missing:
        ask_again(state, member, missing)
    else:
        member.missing = ()
        member.phase = Phase.RUNNING


def resized(state: Books, event: GangResized) -> None:
    member = gang_named(state, event.gang)
    held = _held_in(member, event.roles)
    state.queue.discard(member)
    release_claim(state, member)
    drop_reservation(state, event.gang)
    grown = sum(r.count for r in event.roles) - member.gang.num_pods
    # not from what it holds: a gang that grows pod by pod would cost their square
    had = {role.name: role.count for role in member.gang.roles}
    for role in member.missing:
        had[role.name] -= role.count
    placed = [had.get(role.name, 0) for role in event.roles]
    member.gang = member.gang._replace(roles=event.roles)
    member.held = held
    surplus = [max(0, have - r.count) for have, r in zip(placed, event.roles, strict=True)]
    if any(surplus):
        _give_back_pods(state, member, surplus)
        invalidate(state)
    member.present = max(0, member.present + grown) if event.present is None else event.present
    state.queue.note_running(member)
    if member.held:
        _ask_for_missing(state, member, placed)
    else:
        ask_again(state, member, event.roles)


def _held_in(member: GangState, roles: tuple[Role, ...]) -> Placement:
    """Return what a gang holds, with its roles counted as in `roles`.

    Raises:
        ValueError: a role of which it holds pods is not among them, or has pods of another shape.
    """
    mine = member.gang.roles
    if len(mine) == len(roles) and all(
        old.name == new.name and old.pod == new.pod for old, new in zip(mine, roles, strict=True)
    ):
        return member.held
    at = {role.name: index for index, role in enumerate(roles)}
    keeps = [mine[index] for index in dict.fromkeys(p.role for p in member.held)]
    if any(role.name not in at or roles[at[role.name]].pod != role.pod for role in keeps):
        raise ValueError(
            f"gang {member.gang.name!r}: a resize must keep the roles that hold nodes, with "
            f"their pod shapes: {[r.name for r in keeps]}, got {[r.name for r in roles]}"
        )
    return tuple(p._replace(role=at[mine[p.role].name]) for p in member.held)


def _give_back_pods(state: Books, member: GangState, surplus: list[int]) -> None:
    """Give back the last pods of each role."""
    kept: list[Slice] = []
    for piece in reversed(member.held):
        role, lo, hi, per_node = piece
        for node in range(hi - 1, lo - 1, -1):
            drop = min(surplus[role], per_node)
            if drop:
                surplus[role] -= drop
                part = Slice(role, node, node + 1, drop)
                free(state, member, (part,))
                if drop == per_node:
                    state.forget_owner(member.gang.name, (part,))
                else:
                    kept.append(Slice(role, node, node + 1, per_node - drop))
            else:
                kept.append(Slice(role, lo, node + 1, per_node))
                break
    member.held = tuple(kept[::-1])
    state.grew = True


def saved(state: Books, event: CheckpointSaved) -> None:
    member = gang_named(state, event.gang)
    if event.saved_us < member.admitted_us:
        raise ValueError(
            f"gang {event.gang!r} saved at {to_s(event.saved_us)} s, admitted at "
            f"{to_s(member.admitted_us)} s: a checkpoint counts from the admission on"
        )
    member.saved_us = max(member.saved_us, event.saved_us)


def priority_changed(state: Books, event: PriorityChanged) -> None:
    member = gang_named(state, event.gang)
    queued = event.gang in state.queue.members
    state.queue.discard(member)
    state.queue.forget_running(member)
    member.gang = member.gang._replace(priority=event.priority)
    state.queue.note_running(member)
    if state.book is not None:
        state.book.tree.renew_versions()  # who may be evicted has changed
    if queued:
        enqueue(state, member)


def mends(state: Books, event: GangMends) -> None:
    member = gang_named(state, event.gang)
    if event.first and not member.held:
        raise ValueError(
            f"gang {event.gang!r} holds nothing and is already at its place in the queue"
        )
    queued = event.gang in state.queue.members
    state.queue.discard(member)
    member.mends = event.first
    if queued:
        enqueue(state, member)


def set_aside(state: Books, event: GangSetAside) -> None:
    member = gang_named(state, event.gang)
    if event.gang not in state.queue.members:
        raise ValueError(f"gang {event.gang!r} is not in the queue, so it blocks nobody")
    state.queue.discard(member)
    drop_reservation(state, event.gang)
    member.phase = Phase.ASIDE


def taken_up(state: Books, event: GangTakenUp) -> None:
    member = gang_named(state, event.gang)
    if member.phase is not Phase.ASIDE:
        raise ValueError(f"gang {event.gang!r} was not set aside; it is {member.phase}")
    enqueue(state, member)
