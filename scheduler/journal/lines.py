"""Every event and decision, one line each, so that a session can be replayed through the core."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path
from typing import Any, BinaryIO, get_args

import msgspec

from scheduler import compiled
from scheduler.core import decisions, events
from scheduler.core.capacity import GPUS
from scheduler.core.model import FamilyKey, Gang, Node, PodShape, Role, Selector, ShapeKey
from scheduler.core.queueing import family_key, family_size
from scheduler.core.queues import Queues
from scheduler.core.state import ClusterState
from scheduler.core.times import to_us
from scheduler.policies import catalog, queuesfile
from scheduler.policies.spec import WORDS, PolicySpec

log = logging.getLogger("muster.journal")
#: 1 counts memory in MiB and times in seconds, and looks at GPUs only where it says what is short;
#: until 2, a pass did not look again at gangs that nodes were taken from; until 3, there were no
#: queues with quota. All of them are read
FORMAT = 4
MIB = 1 << 20  #: in which format 1 counts memory
#: lines for people, which the core does not know: what happened to a gang, how many pods wait
TOLD, PENDING = "Told", "Pending"
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (*get_args(events.ClusterEvent), *get_args(decisions.Decision))
}
#: of each kind, the numbers that a line may leave out. In a compiled class a number is there from
#: the start, as 0, so that msgspec takes it for given
_NUMBERS: dict[str, dict[str, float]] = {
    name: {one.name: one.default for one in fields(kind) if isinstance(one.default, int | float)}
    for name, kind in KINDS.items()
}
_encode = msgspec.json.Encoder().encode
_LEAVES = frozenset((int, str, bool, type(None)))  #: by far the most of what is written


def with_bytes(value: Any) -> Any:
    """Return a value of format 1 as later ones have it: memory in bytes, not MiB."""
    if isinstance(value, PodShape):
        return value._replace(mem_bytes=value.mem_bytes * MIB)
    if isinstance(value, tuple):
        items = [with_bytes(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if hasattr(value, "__dataclass_fields__"):
        names = value.__dataclass_fields__
        return replace(value, **{name: with_bytes(getattr(value, name)) for name in names})
    return value


def _plain(value: Any) -> Any:
    """Return JSON for a value of the core; JSON has no infinity, so it is a word."""
    if type(value) in _LEAVES:
        return value
    if isinstance(value, float):
        return value if value not in (inf, -inf) else "inf" if value > 0 else "-inf"
    if isinstance(value, Queues):
        return queuesfile.write(value)
    if isinstance(value, (tuple, list)):
        return [item if type(item) in _LEAVES else _plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def encode(now_s: float, item: object) -> bytes:
    """Return one line, without its end, for an event or decision."""
    return _encode({"t": now_s, "is": type(item).__name__, "v": _plain(item)})


def snapshot(
    now_s: float,
    state: ClusterState,
    policy: PolicySpec,
    zero_unix_s: float | None = None,
    nodes: bytes = b"",
) -> bytes:
    """Return the line with which a state begins: nodes, queues, the policy, the clock's zero.

    It also says whether the core runs compiled. `nodes` are the state's, if the caller has encoded
    them already.
    """
    return _encode(
        {
            "t": now_s,
            "is": "Snapshot",
            "format": FORMAT,
            "core": compiled.which(),
            "zero_unix_s": zero_unix_s,
            "policy": policy,
            "queues": None if state.book is None else queuesfile.write(state.book.file),
            "nodes": msgspec.Raw(nodes) if nodes else state.capacity.nodes,
        }
    )


def decode_item(kind: str, value: object) -> object:
    """Return the event, decision or gap of one line.

    Raises:
        ValueError: there is no such kind, or the value does not match it.
    """
    try:
        if kind == "Wait":
            return _decode_wait(value)
        if kind == "QueuesChanged":
            return events.QueuesChanged(decode_queues(msgspec.convert(value, _Words).queues))
        if kind == "Gap":
            return msgspec.convert(value, Gap)
        if kind in _TIMED:
            value = _in_us(value)
        if isinstance(value, dict):
            value = {**_NUMBERS[kind], **value}
        return msgspec.convert(value, KINDS[kind], strict=False)
    except (KeyError, msgspec.ValidationError) as error:
        raise ValueError(f"{kind!r}: {error}") from None


#: kinds with times in them, which format 1 has in seconds
_TIMED = frozenset(("Admitted", "CapacityReserved", "GangSubmitted", "Reserve"))
_GANG_TIMES = [Gang._fields.index(name) for name in ("submit_us", "walltime_us")]


def _in_us(value: object) -> object:
    """Return the value of a line with its times in whole microseconds, as the core has them.

    Seconds are told by the name of their field; in a gang, which is a list, they are no integers.
    """
    if not isinstance(value, dict):
        return value
    found: dict[str, object] = {}
    for name, part in value.items():
        if name.endswith("_s"):
            found[name.removesuffix("_s") + "_us"] = to_us(float(part))
        elif name == "gang" and isinstance(part, list):
            found[name] = [
                to_us(float(item)) if at in _GANG_TIMES and not isinstance(item, int) else item
                for at, item in enumerate(part)
            ]
        else:
            found[name] = part
    return found


class _Words(msgspec.Struct):
    queues: str


class _Outlook(msgspec.Struct):
    family: list[Any]
    fit_pods: int
    free_pods: int
    short: str = GPUS  #: format 1 looked at nothing else
    apart: str = GPUS


def _decode_wait(value: object) -> decisions.Wait:
    """Return a `Wait`. In format 1 roles of equal pods were a family of their own, of one size."""
    seen = msgspec.convert(value, _Outlook)
    first = seen.family[0] if seen.family else None
    family: FamilyKey
    times = 1
    if isinstance(first, list) and first and not isinstance(first[0], int):
        shape, _ = _decode_shape(first)
        family = (shape, msgspec.convert(seen.family[1], tuple[int, ...]))
    else:
        family, times = _decode_shape(seen.family)
    fit_pods, free_pods = times * seen.fit_pods, times * seen.free_pods
    return decisions.Wait(family, fit_pods, free_pods, seen.short, seen.apart)


def _decode_shape(value: list[Any]) -> tuple[ShapeKey, int]:
    """Return a shape with its selector, or roles, and what the numbers of format 1 count by."""
    if value and isinstance(value[0], list):
        return msgspec.convert(value, tuple[PodShape, Selector]), 1
    roles = msgspec.convert(value, tuple[Role, ...])
    key = family_key(roles)
    return key, 1 if key == roles else family_size(roles)


def decode_queues(words: str) -> Queues:
    """Return the queues of a line.

    Raises:
        ValueError: their words make no sense.
    """
    return queuesfile.read(words.encode(), "queues")


def decode_policy(value: object) -> PolicySpec:
    """Return the policy of a snapshot line.

    Raises:
        ValueError: a word is missing, unknown, or contradicts another.
    """
    words = value if isinstance(value, dict) else {}
    for name in WORDS:
        if name not in words:
            raise ValueError(f"the policy of the snapshot lacks {name!r}")
    return catalog.recorded(words)


def decode_nodes(value: list[dict[str, Any]]) -> list[Node]:
    """Return the nodes of a snapshot line."""
    return msgspec.convert(value, list[Node], strict=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines that could not be written; what follows begins with a snapshot."""

    lost: int
    why: str


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, content) of a journal; lines for people are left out.

    Raises:
        ValueError: a line is not a journal line, or one is missing. A truncated last line is
            skipped.
    """
    for number, content, problem in told_lines(path):
        if problem:
            raise ValueError(f"{path}:{number}: {problem}")
        yield number, content


def told_lines(path: Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield the same with each error in a line, or before it; its content is then empty."""
    last: int | None = None
    with path.open("rb") as file:
        for number, line in enumerate(_read(file), 1):
            if not line.endswith(b"\n"):
                return
            try:
                content = msgspec.json.decode(line, type=dict[str, Any])
                content["t"], content["is"]
            except (msgspec.DecodeError, ValueError, RecursionError, KeyError) as error:
                last = None
                yield number, {}, f"not a journal line: {error}"
                continue
            own = content.get("n")  # journals of earlier versions are not numbered
            if not isinstance(own, int):
                own = None
            if own and last is not None and own != last + 1:
                yield (
                    number,
                    {},
                    f"line {own} of its snapshot follows line {last}; lines were removed, or "
                    "come from another file",
                )
            last = own
            if content["is"] not in (TOLD, PENDING):
                yield number, content, ""


def _read(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines; what keeps them from being read names the file."""
    try:
        yield from file
    except OSError as error:
        error.filename = file.name
        raise


def ends_whole(path: Path) -> bool:
    """True if the last line was written to its end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) == b"\n"
