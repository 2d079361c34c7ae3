"""Items of a JSON file: the elements of an array, or one object a line (JSON Lines)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from traces.formats.source import MARKS, Source
from traces.schema import TraceError


@dataclass(frozen=True, slots=True)
class Items:
    """Undecoded items, and where in the file each is."""

    raw: Sequence[msgspec.Raw | bytes]
    places: Sequence[int]
    unit: str  #: what `places` counts: "item" of an array, or "line"


def items_of(source: Source) -> Items:
    """Split a JSON file into its items, each still JSON; blank lines are skipped.

    Raises:
        TraceError: it is neither an array nor one object a line.
    """
    content = json_of(source)
    if content.lstrip()[:1] == b"[":
        try:
            found = msgspec.json.decode(content, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError) as error:
            raise TraceError(
                f"jobs file {str(source)!r} is not sound JSON: {error}; was it cut off?"
            ) from None
        return Items(found, range(1, len(found) + 1), "item")
    lines = [(number, line) for number, line in enumerate(_lines(content), 1) if line.strip()]
    return Items([line for _, line in lines], [number for number, _ in lines], "line")


def json_of(source: Source) -> bytes:
    """Return the content of a JSON file as UTF-8 without a byte order mark."""
    content = source.content
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "")
    return content.decode(encoding, "replace").encode() if encoding else content


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end]
        start = end + 1
