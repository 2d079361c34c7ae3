"""Every event and decision, one line each, so that a session can be replayed through the core."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import IO, Any

import msgspec

from scheduler import decisions, events
from scheduler.model import FamilyKey, Node, PodShape, Role, Selector
from scheduler.state import ClusterState

FORMAT = 1
KINDS: dict[str, type] = {
    kind.__name__: kind
    for module in (events, decisions)
    for kind in vars(module).values()
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
}
_encode = msgspec.json.Encoder().encode


def _plain(value: Any) -> Any:
    """Return JSON for a value of the core; JSON has no infinity, so it is a word."""
    if isinstance(value, float) and value in (inf, -inf):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return value


def encode(now_s: float, item: object) -> bytes:
    """Return one line, without its end, for an event or decision."""
    return _encode({"t": now_s, "is": type(item).__name__, "v": _plain(item)})


def snapshot(
    now_s: float, state: ClusterState, policy: dict[str, str], zero_unix_s: float | None = None
) -> bytes:
    """Return the line with which a state begins: its nodes, the policy, the clock's zero."""
    return _encode(
        {
            "t": now_s,
            "is": "Snapshot",
            "format": FORMAT,
            "zero_unix_s": zero_unix_s,
            "policy": policy,
            "nodes": [_plain(node) for node in state.capacity.nodes],
        }
    )


def decode_item(kind: str, value: object) -> object:
    """Return the event or decision of one line.

    Raises:
        ValueError: there is no such kind, or the value is none of it.
    """
    try:
        if kind == "Wait":
            return _decode_wait(value)
        return msgspec.convert(value, KINDS[kind], strict=False)
    except (KeyError, msgspec.ValidationError) as error:
        raise ValueError(f"{kind!r}: {error}") from None


class _Outlook(msgspec.Struct):
    family: list[Any]
    fit_pods: int
    free_pods: int


def _decode_wait(value: object) -> decisions.Wait:
    """Return a `Wait`: its family is a shape with a selector, or roles."""
    seen = msgspec.convert(value, _Outlook)
    family: FamilyKey
    if seen.family and isinstance(seen.family[0], list):
        family = msgspec.convert(seen.family, tuple[PodShape, Selector])
    else:
        family = msgspec.convert(seen.family, tuple[Role, ...])
    return decisions.Wait(family, seen.fit_pods, seen.free_pods)


def decode_nodes(value: list[dict[str, Any]]) -> list[Node]:
    """Return the nodes of a snapshot line."""
    return msgspec.convert(value, list[Node], strict=False)


class Journal:
    """A file of lines that is set aside when it is full; the one before it is kept."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file: IO[bytes] | None = None
        self._size = 0
        self.full = False  #: the next state snapshot begins a new file

    def write(self, line: bytes) -> None:
        """Append a line."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            self._size = self._path.stat().st_size
        self._file.write(line + b"\n")
        self._size += len(line) + 1
        self.full = self._size >= self._max_bytes

    def rotate(self) -> None:
        """Set the file aside and begin anew."""
        self.close()
        os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        self.full = False

    def flush(self) -> None:
        """Hand what was written to the system."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, content) of a journal.

    Raises:
        ValueError: a line is no journal line. A last line that was cut off is left out.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                content = msgspec.json.decode(line, type=dict[str, Any])
                content["t"], content["is"]
            except (msgspec.DecodeError, KeyError) as error:
                raise ValueError(f"{path}:{number}: no journal line: {error}") from None
            yield number, content
