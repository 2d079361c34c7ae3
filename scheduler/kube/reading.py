"""Reads what the API server sends, whatever users have put into it.

An object that cannot be read is skipped and counted; it hides no other. The API server keeps the
bytes of `managedFields` as they came, so input that no decoder accepts is repaired first: values
nested deeper than anything that muster reads are cut out, and broken characters are replaced.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

log = logging.getLogger("muster.reading")
#: what decoders raise on bytes that somebody else made
UNREADABLE = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)
#: levels that are kept; what muster reads of an object lies within 20
DEEPEST = 32
BOOKMARK, ERROR = "BOOKMARK", "ERROR"
#: half of a character, its other half missing
_HALF = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..", re.DOTALL
)
_BETWEEN = rb'(?:[^"\[\]{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+"%s)*+[\[\]{}]'
#: up to where a level begins or ends, and the same where a value without content is no level
_LEVEL = re.compile(_BETWEEN % rb"", re.DOTALL)
_FILLED_LEVEL = re.compile(_BETWEEN % rb"|\{\}|\[\]", re.DOTALL)
#: bytes that are looked at in one go, in C, and levels that begin or end in one turn otherwise
MOST_AT_ONCE, LEVELS_A_TURN = 2 << 20, 20_000
#: a backslash that is escaped, and what no JSON has, to stand for it for a while
_BACKSLASH, _STANDS_FOR_IT = b"\\\\", b"\x00\x01"
T = TypeVar("T")


@lru_cache(maxsize=8)
def _of_levels(most: int) -> re.Pattern[bytes]:
    """Return what JSON consists of that begins and ends at most so many levels in each other."""
    part = rb'[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"'
    found = rb"(?:%s)*+" % part
    for _ in range(most):
        found = rb"(?:%s|[\[{]%s[\]}])*+" % (part, found)
    return re.compile(found, re.DOTALL)


_of_levels(DEEPEST)  # now, not in a turn of others


def _cutting(content: bytes, deepest: int) -> Iterator[bytes]:
    """Yield again and again, so that others may have their turn, last what `shallow` returns."""
    few = _of_levels(deepest)
    at_once = len(content) <= MOST_AT_ONCE
    if at_once and few.fullmatch(content):
        yield content
        return
    kept: list[bytes] = []
    depth = 0
    begin = 0  #: of what is kept next
    end = num = 0
    while token := (_LEVEL if depth == deepest else _FILLED_LEVEL).match(content, end):
        end = token.end()
        num += 1
        if num % LEVELS_A_TURN == 0:
            yield b""
        match content[end - 1]:
            case 0x5B | 0x7B:
                depth += 1
                if depth == deepest + 1:
                    kept += (content[begin : end - 1], b"null")
                    begin = len(content)
                    skipped = few.match(content, end) if at_once else None
                    end = skipped.end() if skipped is not None else end
            case 0x5D | 0x7D:
                if depth == deepest + 1:
                    begin = end
                depth -= 1
    kept.append(content[begin:])
    yield b"".join(kept)


def shallow(content: bytes, deepest: int = DEEPEST) -> bytes:
    """Return JSON with null in place of each value on a level below `deepest`."""
    return deque(_cutting(content, deepest), 1).pop()


def mending(content: bytes) -> Iterator[bytes]:
    """Yield repeatedly, so that other tasks can run, and finally what `mended` returns."""
    text = content.decode(errors="replace").encode()
    if b"\\ud" in text or b"\\uD" in text:
        text = text.replace(_BACKSLASH, _STANDS_FOR_IT)
        text = _HALF.sub(rb"\\ufffd", text).replace(_STANDS_FOR_IT, _BACKSLASH)
    yield b""
    yield from _cutting(text, DEEPEST)


def mended(content: bytes) -> bytes:
    """Return JSON that decoders accept in full."""
    return deque(mending(content), 1).pop()


def decode(decoder: msgspec.json.Decoder[T], content: bytes | msgspec.Raw) -> T:
    """Return the decoded `content`, repaired where necessary.

    Raises:
        One of `UNREADABLE`: it does not have the expected form.
    """
    try:
        return decoder.decode(content)
    except msgspec.ValidationError:
        raise
    except UNREADABLE:
        return decoder.decode(mended(bytes(content)))


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Line(msgspec.Struct):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


class _Named(msgspec.Struct, rename="camel"):
    """What every object has, however odd the rest of it is."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Barest(msgspec.Struct):
    metadata: _Named


class _RawPage(msgspec.Struct):
    items: list[msgspec.Raw]
    metadata: _ListMeta


_line = msgspec.json.Decoder(_Line)
_barest = msgspec.json.Decoder(_Barest)
_raw_page = msgspec.json.Decoder(_RawPage)


class Page(NamedTuple, Generic[T]):
    """A part of a list."""

    items: list[T]
    unread: list[str]  #: uids of those that cannot be read
    version: str
    more: str  #: what asks for the next part; empty after the last


class Told(NamedTuple, Generic[T]):
    """One line of a watch."""

    change: str
    uid: str
    version: str
    item: T | None  #: None if it cannot be read


class Reader(Generic[T]):
    """Reads objects of one kind, and counts those that it cannot read."""

    def __init__(self, kind: type[T], path: str) -> None:
        self._path = path
        self._object = msgspec.json.Decoder(kind)
        self._page: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct(
                f"{kind.__name__}List",
                [("items", list[kind]), ("metadata", _ListMeta)],  # type: ignore[valid-type]
            )
        )
        self.skipped = 0

    def whole_page(self, content: bytes) -> Page[T]:
        """Return the objects of a part of a list.

        Raises:
            One of `UNREADABLE`: not all of it can be read as it is.
        """
        page = self._page.decode(content)
        return Page(page.items, [], page.metadata.resource_version, page.metadata.continue_)

    def page(self, content: bytes) -> Page[T]:
        """Return the objects of a part of a list, without those that cannot be read.

        Raises:
            ValueError: it is not a list.
        """
        try:
            return self.whole_page(content)
        except UNREADABLE:
            try:
                page = decode(_raw_page, content)
            except UNREADABLE as error:
                raise ValueError(f"{self._path}: not a list: {error}") from None
        read = [(raw, self._read(raw)) for raw in page.items]
        items = [item for _, item in read if item is not None]
        unread = [_named(raw).uid for raw, item in read if item is None]
        return Page(items, unread, page.metadata.resource_version, page.metadata.continue_)

    def whole_line(self, content: bytes) -> Told[T]:
        """Return the content of a watch line.

        Raises:
            One of `UNREADABLE`: not all of it can be read as it is.
        """
        return _told(_line.decode(content), self._object.decode)

    def line(self, content: bytes) -> Told[T] | None:
        """Return the content of a watch line; None if not even its object's name can be read."""
        try:
            return _told(decode(_line, content), self._read)
        except UNREADABLE as error:
            self.skipped += 1
            log.error("%s: skipped a change that cannot be read: %s", self._path, error)
            return None

    def _read(self, raw: msgspec.Raw) -> T | None:
        try:
            return decode(self._object, raw)
        except UNREADABLE as error:
            self.skipped += 1
            about = _named(raw)
            where = f"{about.namespace}/{about.name}"
            log.error("%s %s skipped, it cannot be read: %s", self._path, where, error)
            return None


def _told(line: _Line, read: Callable[[msgspec.Raw], T | None]) -> Told[T]:
    if line.type == ERROR:
        return Told(ERROR, "", "", None)
    item = read(line.object) if line.type != BOOKMARK else None
    known: Any = item if item is not None else decode(_barest, line.object)
    return Told(line.type, known.metadata.uid, known.metadata.resource_version, item)


def _named(raw: msgspec.Raw) -> _Named:
    try:
        return decode(_barest, raw).metadata
    except UNREADABLE:
        return _Named("(without a name)")
