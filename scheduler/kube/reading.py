"""Reads what the API server sends, whatever a user has put into it.

One object that cannot be read is left out, and counted; it hides no other. The API server keeps
the bytes of `managedFields` as they came, so what no decoder takes is mended first: values nested
deeper than anything that muster reads are cut out, and halves of characters replaced.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

log = logging.getLogger("muster.reading")
#: what decoders raise on bytes that somebody else made
UNREADABLE = (msgspec.DecodeError, ValueError, OverflowError, RecursionError)
#: levels that are kept; what muster reads of an object lies within 20
DEEPEST = 64
BOOKMARK, ERROR = "BOOKMARK", "ERROR"
#: half of a character, its other half missing
_HALF = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..", re.DOTALL
)
_BETWEEN = rb'(?:[^"\[\]{}]|"[^"\\]*+(?:\\.[^"\\]*+)*+"%s)*+[\[\]{}]'
#: up to where a level begins or ends, and the same where a value without content is no level
_LEVEL = re.compile(_BETWEEN % rb"", re.DOTALL)
_FILLED_LEVEL = re.compile(_BETWEEN % rb"|\{\}|\[\]", re.DOTALL)
#: a backslash that is escaped, and what no JSON has, to stand for it for a while
_BACKSLASH, _STANDS_FOR_IT = b"\\\\", b"\x00\x01"
T = TypeVar("T")


def shallow(content: bytes, deepest: int = DEEPEST) -> bytes:
    """Return JSON with null in place of each value on a level below `deepest`."""
    kept: list[bytes] = []
    depth = 0
    begin = 0  #: of what is kept next
    end = 0
    while token := (_LEVEL if depth == deepest else _FILLED_LEVEL).match(content, end):
        end = token.end()
        match content[end - 1]:
            case 0x5B | 0x7B:
                depth += 1
                if depth == deepest + 1:
                    kept += (content[begin : end - 1], b"null")
                    begin = len(content)
            case 0x5D | 0x7D:
                if depth == deepest + 1:
                    begin = end
                depth -= 1
    kept.append(content[begin:])
    return b"".join(kept)


def mended(content: bytes) -> bytes:
    """Return JSON of which decoders take every part."""
    text = content.decode(errors="replace").encode()
    if b"\\ud" in text or b"\\uD" in text:
        text = text.replace(_BACKSLASH, _STANDS_FOR_IT)
        text = _HALF.sub(rb"\\ufffd", text).replace(_STANDS_FOR_IT, _BACKSLASH)
    return shallow(text)


def decode(decoder: msgspec.json.Decoder[T], content: bytes | msgspec.Raw) -> T:
    """Return what `content` says, mended where it has to be.

    Raises:
        One of `UNREADABLE`: it has not the form that it should have.
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

    def page(self, content: bytes) -> Page[T]:
        """Return the objects of a part of a list, without those that cannot be read.

        Raises:
            ValueError: it is no list at all.
        """
        try:
            page = self._page.decode(content)
            items, unread = page.items, []
        except UNREADABLE:
            try:
                page = decode(_raw_page, content)
            except UNREADABLE as error:
                raise ValueError(f"{self._path}: no list: {error}") from None
            read = [(raw, self._read(raw)) for raw in page.items]
            items = [item for _, item in read if item is not None]
            unread = [_named(raw).uid for raw, item in read if item is None]
        return Page(items, unread, page.metadata.resource_version, page.metadata.continue_)

    def line(self, content: bytes) -> Told[T] | None:
        """Return what a line of a watch tells; None if not even its object's name can be read."""
        try:
            line = decode(_line, content)
            if line.type == ERROR:
                return Told(ERROR, "", "", None)
            item = self._read(line.object) if line.type != BOOKMARK else None
            known: Any = item if item is not None else decode(_barest, line.object)
            meta = known.metadata
        except UNREADABLE as error:
            self.skipped += 1
            log.error("%s: a change left out, it cannot be read: %s", self._path, error)
            return None
        return Told(line.type, meta.uid, meta.resource_version, item)

    def _read(self, raw: msgspec.Raw) -> T | None:
        try:
            return decode(self._object, raw)
        except UNREADABLE as error:
            self.skipped += 1
            about = _named(raw)
            where = f"{about.namespace}/{about.name}"
            log.error("%s %s left out, it cannot be read: %s", self._path, where, error)
            return None


def _named(raw: msgspec.Raw) -> _Named:
    try:
        return decode(_barest, raw).metadata
    except UNREADABLE:
        return _Named("(without a name)")
