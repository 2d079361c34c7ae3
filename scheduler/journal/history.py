"""The journal of a live muster as one history, across files and restarts.

A file begins with a snapshot and counts time from the start of the process that wrote it. Here all
times have one zero, the first snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from scheduler.core.decisions import Admit, Decision, Preempt
from scheduler.core.events import (
    Admitted,
    CapacityClaimed,
    CheckpointSaved,
    ClusterEvent,
    EvictionsSoFar,
    ForeignPodBound,
    GangMends,
    GangResized,
    GangSetAside,
    GangSubmitted,
    NodeAdded,
    Overtaken,
)
from scheduler.core.model import Gang, Node, Phase, Placement, PodShape, Role
from scheduler.core.queueing import GangState
from scheduler.core.queues import Queues
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US
from scheduler.journal.lines import (
    FORMAT,
    Gap,
    decode_item,
    decode_nodes,
    decode_policy,
    decode_queues,
    encode,
    snapshot,
    told_lines,
    with_bytes,
)
from scheduler.policies import catalog
from scheduler.policies.policy import Policy
from scheduler.policies.spec import PolicySpec

#: what lines raise that nobody wrote, or somebody else
UNREADABLE = (
    ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AssertionError,
)  # fmt: skip
MOST = (1 << 31) - 1  #: pods of a gang, and GPUs of a pod or a node, as Kubernetes counts
WRONG_FILES = "give all files of one journal, the oldest first"


@dataclass(frozen=True, slots=True)
class Begin:
    """The core's state is rebuilt: these nodes, and the content of the next entries."""

    nodes: list[Node]
    policy: PolicySpec
    offset_s: float  #: from the writing process's zero to the story's
    zero_unix_s: float | None = None  #: the story's zero, if the journal says it
    queues: Queues | None = None


@dataclass(frozen=True, slots=True)
class Aside:
    """A line that cannot be used, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    place: str  #: file and line
    now_s: float
    item: Begin | Gap | Aside | ClusterEvent | Decision


class _Snapshot(msgspec.Struct):
    t: float
    format: int
    policy: dict[str, Any]
    nodes: list[dict[str, Any]]
    zero_unix_s: float | None = None
    queues: str | None = None


def read(paths: Sequence[Path]) -> Iterator[Entry]:
    """Yield the entries of a journal whose files are given in order.

    If a process restarted and the snapshot says when (`zero_unix_s`), the time between is kept;
    else the new part follows the old one at once. A line that cannot be read is an `Aside`; after
    an unreadable snapshot nothing can be followed until the next.

    Raises:
        ValueError: a file is not a journal, or they are not in order; the text names file and line.
    """
    for path in paths:
        if not path.is_file():
            raise ValueError(f"journal {str(path)!r}: no such file")
    yield from _entries(
        (f"{path}:{number}", line, problem)
        for path in paths
        for number, line, problem in told_lines(path)
    )


def told(numbered: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Entry]:
    """Yield the entries of journal lines, each given with its place in the files."""
    return _entries((place, line, "") for place, line in numbered)


def _entries(numbered: Iterable[tuple[str, dict[str, Any], str]]) -> Iterator[Entry]:
    offset_s = last_s = last_line_s = 0.0
    zero_unix_s: float | None = None
    begun = blind = False
    form = FORMAT
    for place, line, problem in numbered:
        seen: _Snapshot | None = None
        item: object = None
        what = "" if problem else "not a journal line: "
        try:
            if problem:
                raise ValueError(problem)
            line_s = float(line["t"])
            if line["is"] == "Snapshot":
                seen = _begin(line)
                what = ""
                nodes, policy = _nodes(seen), decode_policy(seen.policy)
                queues = None if seen.queues is None else decode_queues(seen.queues)
                form = seen.format
            elif begun or line["is"] == "Gap":
                item = decode_item(line["is"], line["v"])
                item = with_bytes(item) if form == 1 else item
                check(item)
        except UNREADABLE as error:
            text = f"{what}{error}"
            if not begun:
                raise ValueError(f"{place}: {text}") from None
            blind = blind or line.get("is") == "Snapshot"
            yield Entry(place, last_s, Aside(text))
            continue
        entry: Any = item
        now_s = 0.0 if not begun else line_s + offset_s
        if seen is not None:
            if not begun:
                offset_s = -line_s
                zero_unix_s = seen.zero_unix_s
            elif seen.zero_unix_s is not None and zero_unix_s is not None:
                offset_s += seen.zero_unix_s - zero_unix_s
                zero_unix_s = seen.zero_unix_s
            elif line_s < last_line_s:  # another process, at an unknown time
                offset_s = last_s - line_s
                zero_unix_s = seen.zero_unix_s
            begun, blind = True, False
            zero_s = None if zero_unix_s is None else zero_unix_s - offset_s
            entry = Begin(nodes, policy, offset_s, zero_s, queues)
            now_s = line_s + offset_s
        elif not begun and line["is"] != "Gap":  # it could not be written from the start
            raise ValueError(f"{place}: a journal begins with a snapshot; {WRONG_FILES}")
        if now_s < last_s - 1e-3:
            raise ValueError(f"{place}: time goes back by {last_s - now_s:.3f} s; {WRONG_FILES}")
        last_s, last_line_s = max(now_s, last_s), line_s
        if blind:
            entry = Aside("it follows a snapshot that cannot be read")
        yield Entry(place, last_s, entry)
    if not begun:
        raise ValueError(f"the journal is empty; {WRONG_FILES}")


def _begin(line: dict[str, Any]) -> _Snapshot:
    seen = msgspec.convert(line, _Snapshot)
    if not 1 <= seen.format <= FORMAT:
        raise ValueError(
            f"format {seen.format} is unknown to this version, which reads 1 to {FORMAT}"
        )
    return seen


def _nodes(seen: _Snapshot) -> list[Node]:
    try:
        nodes = decode_nodes(seen.nodes)
    except msgspec.ValidationError as error:
        raise ValueError(f"nodes of the snapshot: {error}") from None
    for node in nodes:
        _check_shape(node.capacity)
    return [with_bytes(node) for node in nodes] if seen.format == 1 else nodes


def check(item: object) -> None:
    """Raise ValueError for impossible counts, which earlier versions accepted."""
    match item:
        case GangSubmitted():
            roles: tuple[Role, ...] = item.gang.roles
        case GangResized():
            roles = item.roles
        case ForeignPodBound():
            _check_shape(item.shape)
            return
        case NodeAdded():
            _check_shape(item.node.capacity)
            return
        case _:
            return
    num_pods = sum(role.count for role in roles)
    if not 0 < num_pods <= MOST or any(role.count < 0 for role in roles):
        raise ValueError(f"a gang of {shortened(num_pods)} pods")
    for role in roles:
        _check_shape(role.pod)


def _check_shape(shape: PodShape) -> None:
    for name, amount in shape.amounts().items():
        most = MOST if name in ("gpus", "pods") else MOST * MOST
        if abs(amount) > most:
            raise ValueError(f"{shortened(amount)} {name}")


def shortened(number: int) -> str:
    """Return a number as text; one too long to print, by its size."""
    return f"{number:,}" if abs(number) < 1 << 64 else f"2^{number.bit_length() - 1} or more"


class Follower:
    """The core's state as the journal records it."""

    def __init__(self) -> None:
        self.state = ClusterState(())
        self.policy: Policy | None = None

    def follow(self, entry: Entry) -> None:
        """Bring the state up to an entry.

        Raises:
            ValueError: the entry does not follow from those before it.
        """
        item = entry.item
        try:
            if isinstance(item, Begin):
                self.policy = catalog.policy(item.policy)
                self.state = ClusterState(item.nodes, self.policy.order, item.queues)
            elif not isinstance(item, (Admit, Preempt, Gap, Aside)):
                apply(self.state, item)
        except UNREADABLE as error:
            raise ValueError(f"{entry.place}: {error}; {WRONG_FILES}") from None


def lines_of(now_s: float, state: ClusterState, policy: PolicySpec) -> list[msgspec.Raw]:
    """Return journal lines that rebuild a state."""
    written = [snapshot(now_s, state, policy), *(encode(now_s, e) for e in events_of(state))]
    return [msgspec.Raw(line) for line in written]


def events_of(state: ClusterState) -> list[ClusterEvent]:
    """Return the events that fill the nodes of a state: what runs first, then what waits."""
    found: list[ClusterEvent] = []
    for member in state.gangs.values():  # before any waits that they would overtake
        if member.held:
            part, held = holding(member)
            found.append(GangSubmitted(part))
            at_us, end_us = member.admitted_us, member.expected_end_us
            found.append(Admitted(member.gang.name, held, at_us, end_us))
    for member in sorted(state.gangs.values(), key=lambda member: not member.held):
        found += _events_of_gang(member)
    for pod, (node, shape) in state.foreign.items():
        found.append(ForeignPodBound(pod, state.capacity.nodes[node].name, shape))
    for claim in state.claims.values():
        found.append(CapacityClaimed(claim.gang, claim.placement, claim.victims))
    for name in dict.fromkeys([*state.gangs, *state.gave_way]):
        gave_way = tuple(sorted(state.gave_way.get(name, ())))
        known = state.gangs.get(name)
        lost, leaving = (known.lost_claims, known.leaving) if known is not None else (0, False)
        if gave_way or lost or leaving:
            found.append(EvictionsSoFar(name, gave_way, lost, leaving))
    if state.past is not None and state.book is not None:
        found.append(state.past.told([queue.name for queue in state.book.file.queues]))
    return found


def _events_of_gang(member: GangState) -> Iterator[ClusterEvent]:
    """Yield what makes a gang as it stands, beyond the nodes that it holds."""
    gang = member.gang
    if not member.held:
        yield GangSubmitted(gang, member.present)
    elif member.missing or member.present != gang.num_pods:
        yield GangResized(gang.name, gang.roles, member.present)
    if member.overtaken:
        yield Overtaken(gang.name, member.overtaken)
    if member.mends:
        yield GangMends(gang.name, first=True)
    if member.saved_us > -FOREVER_US:
        yield CheckpointSaved(gang.name, member.saved_us)
    if member.phase is Phase.ASIDE:
        yield GangSetAside(gang.name)


def holding(member: GangState) -> tuple[Gang, Placement]:
    """Return a gang as if it were only what it holds, and that, with its roles counted so."""
    placed = [0] * len(member.gang.roles)
    for piece in member.held:
        placed[piece.role] += piece.num_pods
    at = {role: index for index, role in enumerate(r for r, count in enumerate(placed) if count)}
    roles = tuple(replace(member.gang.roles[role], count=placed[role]) for role in at)
    held = tuple(piece._replace(role=at[piece.role]) for piece in member.held)
    return member.gang._replace(roles=roles), held
