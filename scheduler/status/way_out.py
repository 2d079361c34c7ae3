"""What would have to change for a waiting gang to start: pods that must fit, gangs that end, nodes.

All numbers count what the gang still lacks, never what it holds already.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

import msgspec

from scheduler.controller.mirror import Ledger
from scheduler.core.decisions import PendingReason
from scheduler.core.model import Role, Selector
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.queueing import GangState
from scheduler.core.reasons import label
from scheduler.core.sentences import UNMATCHED
from scheduler.core.times import FOREVER_US, duration, to_s
from scheduler.kube.objects import node_ready
from scheduler.policies.shadow import Gain

GIB = 1 << 30
MOST_NAMED = 5  #: nodes or gangs that are named; the others are counted
MOST_LOOKED_AT = 500  #: running gangs of which the room is worked out


class Kind(msgspec.Struct):
    """Equal pods that it lacks."""

    pods: int
    gpus: int  #: of each
    cpu_milli: int
    mem_bytes: int
    fit_pods: int  #: how many of them fit now
    more_pods: int  #: how many more must fit


class Ending(msgspec.Struct):
    """A running gang whose end makes room."""

    gang: str
    gpus: int
    makes_room_for: int  #: pods, with the gangs before it in the list
    ends_in_s: float | None  #: by its walltime; None if it has none


class Closed(msgspec.Struct):
    """Nodes it may use that take no pods, and why they do not."""

    state: str  #: cordoned, or not ready
    num_nodes: int
    nodes: list[str]
    fit_pods: int  #: pods of it that they have room for


class Block(msgspec.Struct):
    """This many GPUs are free together on each of these nodes."""

    free_gpus: int
    num_nodes: int


class Offer(msgspec.Struct):
    """What nodes of one class hold when they are empty."""

    nodes: str
    num_nodes: int
    gpus_per_node: int
    fit_pods: int


class Head(msgspec.Struct):
    """The gang that must start first."""

    gang: str
    reason: str
    text: str
    starts_in_s: float | None


class WayOut(msgspec.Struct):
    """What would have to change."""

    lacks: list[Kind]
    blocks: list[Block] = []
    short_of: str = ""  #: what nodes with enough free GPUs have too little of
    endings: list[Ending] = []
    endings_suffice: bool = False
    any_ending: bool = False  #: each of the endings suffices alone
    closed: list[Closed] = []
    foreign_gpus: int = 0  #: held by pods of no gang on nodes it may use
    offers: list[Offer] = []
    head: Head | None = None
    starts_in_s: float | None = None


def way_out(ledger: Ledger, name: str, reason: PendingReason, now_s: float) -> WayOut:
    """Return what would have to change for the gang `name`, which waits or lacks pods."""
    member = ledger.state.gangs[name]
    roles = merged(member.missing)
    found = WayOut([_kind(ledger, role) for role in roles])
    lead = max(
        zip(found.lacks, roles, strict=True), key=lambda both: (both[0].more_pods, both[1].pod)
    )
    if reason is PendingReason.NEVER_FITS:
        found.offers = _offers(ledger, lead[1])
        return found
    if reason in (PendingReason.CAPACITY, PendingReason.FRAGMENTATION):
        _blocks(ledger, lead[1], found)
        found.closed = _closed(ledger, lead[1])
        found.foreign_gpus = sum(
            shape.gpus
            for node, shape in ledger.state.foreign.values()
            if ledger.state.capacity.group_of[node].allows(lead[1].selector)
        )
        _endings(ledger, member, roles, found, now_s)
    first = ledger.state.queue.head()
    promise = ledger.state.reservations.get(name)
    if promise is not None and promise.start_us < FOREVER_US:
        found.starts_in_s = max(0.0, to_s(promise.start_us) - now_s)
    elif first is member and found.endings_suffice and not found.any_ending:
        found.starts_in_s = found.endings[-1].ends_in_s
    return found


def merged(roles: Iterable[Role]) -> list[Role]:
    """Return the roles with pods of as many GPUs put together: a master is mostly one more worker.

    Where they differ in CPUs or memory the larger request stands for all.
    """
    found: dict[tuple[int, Selector], Role] = {}
    for role in roles:
        key = (role.pod.gpus, role.selector)
        old = found.get(key)
        if old is not None:
            pod = old.pod.most(role.pod)
            role = Role(old.count + role.count, pod, role.selector, old.name)
        found[key] = role
    return list(found.values())


def _kind(ledger: Ledger, role: Role) -> Kind:
    fit = ledger.state.capacity.slots(role.pod, role.selector)
    fit = min(fit, role.count)
    pod = role.pod
    return Kind(
        role.count, pod.gpus, pod.cpu_milli, pod.mem_bytes, fit_pods=fit, more_pods=role.count - fit
    )


def _blocks(ledger: Ledger, role: Role, found: WayOut) -> None:
    capacity = ledger.state.capacity
    free: dict[int, int] = {}
    short: set[str] = set()
    for group in capacity.searched(role.pod, role.selector):
        for shape, nodes in group.by_free():
            free[shape.gpus] = free.get(shape.gpus, 0) + nodes.size
            if shape.gpus >= role.pod.gpus and not shape.holds(role.pod):
                short.update(shape.short_of(role.pod))
    found.blocks = [Block(gpus, free[gpus]) for gpus in sorted(free, reverse=True) if gpus][
        :MOST_NAMED
    ]
    found.short_of = " and ".join(sorted(short))


def _closed(ledger: Ledger, role: Role) -> list[Closed]:
    capacity = ledger.state.capacity
    by_state: dict[str, Closed] = {}
    for i in sorted(capacity.unschedulable):
        room = capacity.free_on(i).holds(role.pod)
        if not room or not capacity.group_of[i].allows(role.selector):
            continue
        name = capacity.nodes[i].name
        state = closed_by(ledger, name)
        seen = by_state.setdefault(state, Closed(state, 0, [], 0))
        seen.num_nodes += 1
        seen.fit_pods += room
        if len(seen.nodes) < MOST_NAMED:
            seen.nodes.append(name)
    return [by_state[state] for state in sorted(by_state)]


def closed_by(ledger: Ledger, node: str) -> str:
    """Return why a node takes no pods: cordoned, not ready, or nothing."""
    known = ledger.nodes.get(node)
    if known is None or not node_ready(known):
        return "not ready"
    return "cordoned" if known.spec.unschedulable else ""


def _endings(
    ledger: Ledger, waits: GangState, roles: list[Role], found: WayOut, now_s: float
) -> None:
    """Find the gangs that make room soonest: by their walltimes, else the smallest that suffice."""
    capacity = ledger.state.capacity
    short = [kind.more_pods for kind in found.lacks]
    if not any(short):
        return
    others = [(end_us, m) for end_us, _, _, m in ledger.state.ends if m is not waits]
    timed = [m for end_us, m in others if end_us < FOREVER_US][:MOST_LOOKED_AT]
    gains = [Gain(capacity, role) for role in roles]
    total = 0

    def suffice(members: Iterable[GangState]) -> bool:
        """Let gangs end one after the other, those that help; True once that is enough."""
        nonlocal short, total
        for member in members:
            gained = [gain.of(member) for gain in gains]
            if not _helps(gained, short):
                continue
            total += max(gained)
            found.endings.append(_ending(member, total, now_s))
            short = [lack - more for lack, more in zip(short, gained, strict=True)]
            if max(short) <= 0:
                found.endings_suffice = True
                return True
        return False

    if suffice(timed):
        return
    untimed = [m for end_us, m in others if end_us == FOREVER_US][:MOST_LOOKED_AT]
    alone: list[tuple[int, GangState, list[int]]] = []
    for member in untimed:
        gained = [Gain(capacity, role).of(member) for role in roles]
        if _helps(gained, short):
            alone.append((member.gang.gpus, member, gained))
    enough = [
        (gpus, member, gained)
        for gpus, member, gained in alone
        if all(more >= lack for more, lack in zip(gained, short, strict=True))
    ]
    if enough:
        enough.sort(key=lambda one: (one[0], one[1].gang.name))
        found.any_ending = not found.endings
        found.endings_suffice = True
        for _, member, gained in enough[: 3 if found.any_ending else 1]:
            found.endings.append(_ending(member, total + max(gained), now_s))
        return
    alone.sort(key=lambda one: (-max(one[2]), one[0], one[1].gang.name))
    suffice(member for _, member, _ in alone)


def _helps(gained: list[int], short: list[int]) -> bool:
    return any(more > 0 and lack > 0 for more, lack in zip(gained, short, strict=True))


def _ending(member: GangState, room: int, now_s: float) -> Ending:
    end_s = to_s(member.expected_end_us)
    ends_in_s = max(0.0, end_s - now_s) if end_s < inf else None
    return Ending(member.gang.name, member.gang.gpus, room, ends_in_s)


def _offers(ledger: Ledger, role: Role) -> list[Offer]:
    """Return what each class of nodes holds when it is empty, the largest first."""
    capacity = ledger.state.capacity
    by_label: dict[tuple[str, int], Offer] = {}
    for group in capacity.eligible(role.selector):
        label, gpus = label_of(ledger, group), group.gpus_each
        seen = by_label.setdefault((label, gpus), Offer(label, 0, gpus, 0))
        seen.num_nodes += group.num_nodes
        seen.fit_pods += group.slots(role.pod)
    offers = [offer for offer in by_label.values() if offer.num_nodes]
    return sorted(offers, key=lambda o: (-o.fit_pods, -o.gpus_per_node, o.nodes))


def label_of(ledger: Ledger, group: NodeGroup) -> str:
    """Return what people call these nodes: their pool and GPU model, as far as they have any."""
    pool = ledger.classes.labels_of(group.pool).get("muster.dev/pool", "")
    return " ".join(part for part in (pool, group.gpu_model) if part)


# -- the same in words -------------------------------------------------------------------------


def many(count: int, one: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {one}" if count == 1 else f"{count:,} {one}s"


def sentences(found: WayOut, reason: PendingReason) -> list[str]:
    """Say what would have to change, the most telling first."""
    said: list[str] = []
    if found.head is not None:
        head = found.head
        when = (
            "" if head.starts_in_s is None else f"; it starts within {duration(head.starts_in_s)}"
        )
        said.append(f"first in the queue: {head.gang}, {label(head.reason)}: {head.text}{when}")
    if reason is PendingReason.NEVER_FITS:
        return [*said, *_never(found)]
    if reason not in (PendingReason.CAPACITY, PendingReason.FRAGMENTATION):
        return said
    said += [
        f"{many(kind.more_pods, 'more pod')} of {_gpus(kind)} would have to fit: "
        f"{kind.fit_pods} of {kind.pods} fit now"
        for kind in found.lacks
        if kind.more_pods
    ]
    if not any(kind.more_pods for kind in found.lacks):
        said.append("each kind of its pods would fit alone, but not all together")
    if reason is PendingReason.FRAGMENTATION or found.short_of:
        said += _shapes(found)
    said += _ends(found)
    said += _returns(found)
    if not found.endings_suffice and not said[1:] and found.foreign_gpus:
        said.append(f"pods of no gang hold {many(found.foreign_gpus, 'GPU')} on nodes it may use")
    return said


def _gpus(kind: Kind) -> str:
    return many(kind.gpus, "GPU") if kind.gpus else f"{kind.cpu_milli / 1000:g} CPUs"


def _never(found: WayOut) -> list[str]:
    kind = max(found.lacks, key=lambda kind: (kind.more_pods, kind.gpus))
    if not found.offers:
        return [UNMATCHED]
    best = found.offers[0]
    what = f"{many(best.num_nodes, 'node')} of {many(best.gpus_per_node, 'GPU')}"
    what += f" ({best.nodes})" if best.nodes else ""
    if not best.fit_pods:
        return [f"no node holds a pod of {_gpus(kind)}; the largest class has {what}"]
    said = f"when empty, the largest class of nodes it may use, {what}, holds {best.fit_pods:,}"
    said += f" of its {kind.pods:,} pods of {_gpus(kind)}"
    others = sum(offer.fit_pods for offer in found.offers[1:])
    return [said + (f"; other classes hold {others:,}" if others else "")]


def _shapes(found: WayOut) -> list[str]:
    kind = max(found.lacks, key=lambda kind: (kind.more_pods, kind.gpus))
    said = []
    if found.blocks:
        parts = ", ".join(
            f"{block.free_gpus} on {many(block.num_nodes, 'node')}" for block in found.blocks
        )
        said.append(
            f"largest free block: {many(found.blocks[0].free_gpus, 'GPU')} on one node, "
            f"a pod needs {kind.gpus} (free GPUs: {parts})"
        )
    if found.short_of:
        need = []
        if "cpu" in found.short_of:
            need.append(f"{kind.cpu_milli / 1000:g} CPUs")
        if "memory" in found.short_of:
            need.append(f"{kind.mem_bytes / GIB:g} GiB")
        said.append(
            f"some nodes have the GPUs free but too little {found.short_of}: "
            f"a pod asks for {' and '.join(need)}"
        )
    return said


def _ends(found: WayOut) -> list[str]:
    if not found.endings:
        return []
    named = [_named(ending) for ending in found.endings[:MOST_NAMED]]
    more = len(found.endings) - len(named)
    if found.any_ending:
        listed = named[0] if len(named) == 1 else ", or ".join(named)
        return [f"enough room is free when this gang ends: {listed}"]
    tail = f" and {many(more, 'other')}" if more > 0 else ""
    if not found.endings_suffice:
        return [
            f"the end of running gangs does not free enough room; most would come from {named[0]}"
        ]
    return [f"room is free soonest when these end: {', '.join(named)}{tail}"]


def _named(ending: Ending) -> str:
    when = (
        "no walltime known"
        if ending.ends_in_s is None
        else f"ends within {duration(ending.ends_in_s)}"
    )
    return f"{ending.gang} ({many(ending.gpus, 'GPU')}, {when})"


def _returns(found: WayOut) -> list[str]:
    said = []
    for closed in found.closed:
        named = ", ".join(closed.nodes)
        if closed.num_nodes > len(closed.nodes):
            named += f" and {closed.num_nodes - len(closed.nodes):,} more"
        room = f"with room for {closed.fit_pods:,} of its pods"
        what = many(closed.num_nodes, "node")
        is_are = "is" if closed.num_nodes == 1 else "are"
        if closed.state == "cordoned":
            said.append(f"{what} {room} {is_are} cordoned: kubectl uncordon {named}")
        else:
            said.append(f"{what} {room} {is_are} not ready: {named}")
    return said
