"""Informers: list one kind of object once, then watch it, as calls to a handler."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar
from urllib.parse import urlencode

from scheduler.kube.api import TOO_LARGE, Api, ApiError, Turn
from scheduler.kube.objects import Meta
from scheduler.kube.reading import BOOKMARK, ERROR, UNREADABLE, Reader, Told, mending

log = logging.getLogger("muster.watch")
PAGE, FIRST_PAGE = 500, 50  #: objects of a list that are asked for at once
PAGE_BYTES = 8 << 20  #: that these are to be
MOST_BYTES = 64 << 20  #: that are read of one; with more, fewer objects are asked for
WIDEST = 8  #: parts of a list as one
AT_ONCE = 100  #: objects of a list that are processed before other tasks run
TURN_S = 0.015  #: lines that came together give others their turn after so long


class Change(StrEnum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


T = TypeVar("T")


FIRST_PAUSE_S = 0.2
PATIENCE_STEP = 0.05  #: of `stalled_s`; how exactly a silent watch is noticed
GONE_AFTER_S = 30.0  #: a kind that was there and is denied for so long is gone


@dataclass
class Informer(Generic[T]):
    """Calls `handler` for every change of one kind of object.

    After a gap (expired watch, restart of the server) it lists again and reports the differences,
    deletions included, so that the handler never misses a state, only steps on the way to it.
    """

    api: Api
    path: str  #: such as /api/v1/pods
    kind: type[T]
    handler: Callable[[Change, T], None]
    selector: str = ""
    stalled_s: float = 90.0
    optional: bool = False  #: the kind may not exist here: then there are no such objects
    absent_s: float = 300.0  #: between looks for an optional kind that is not there
    missed: str = ""  #: what goes wrong without an optional kind; said once where it is denied
    accept: str = "application/json"
    accept_line: str = "application/json"  #: of a watch, whose objects come one by one
    #: what is kept of an object, which it may change; None: nothing, as if it were not there
    lean: Callable[[T], T | None] = lambda item: item
    synced: asyncio.Event = field(default_factory=asyncio.Event)
    heard_s: float = 0.0  #: loop time of the last line
    relists: int = 0
    trouble: str = ""  #: why the last list or watch failed; empty if it did not
    came_s: float = 0.0  #: loop time at which a list last brought more than any before it
    _parts: int = 1  #: how many parts of a list are asked for as one
    _most: int = 0  #: objects that a list brought so far
    _untaken: int = 0  #: changes that the handler did not take
    _known: dict[str, T] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reader = Reader(self.kind, self.path)

    @property
    def skipped(self) -> int:
        """Objects and changes that could not be processed."""
        return self._untaken + self._reader.skipped

    async def run(self) -> None:
        """Watch without end."""
        pause_s = FIRST_PAUSE_S
        absent_since_s: float | None = None
        self.came_s = self.came_s or asyncio.get_running_loop().time()
        while True:
            listed = False
            try:
                version = await self._list()
                listed = True
                self.synced.set()
                self.trouble = ""
                pause_s, absent_since_s = FIRST_PAUSE_S, None
                await self._watch(version)
            except ApiError as error:
                if listed and error.code == 410:
                    continue
                if error.code == 410:  # its parts came too slowly to be of one list
                    self._parts = min(WIDEST, 2 * self._parts)
                self.trouble = str(error)
                longest_s = 10.0
                if error.code in (404, 403) and self.optional:
                    # an API server that has just started denies its custom kinds, too
                    now_s = asyncio.get_running_loop().time()
                    absent_since_s = absent_since_s or now_s
                    if not self._known or now_s - absent_since_s > GONE_AFTER_S:
                        if self.missed:
                            log.warning("%s: %s; %s", self.path, error, self.missed)
                            self.missed = ""
                        self._forget_all()
                        self.synced.set()
                        longest_s = self.absent_s
                else:
                    log.warning("watch of %s: %s; trying again", self.path, error)
                await asyncio.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(2 * pause_s, longest_s)

    def _query(self, **query: str) -> dict[str, str]:
        if self.selector:
            query["labelSelector"] = self.selector
        return query

    async def _list(self) -> str:
        """Report the difference between what is there and what was known; return its version."""
        found: dict[str, T] = {}
        more, limit = "", FIRST_PAGE
        self.relists += 1
        while True:
            query = self._query(limit=str(limit))
            if more:
                query["continue"] = more
            try:
                reply = await self.api.call(
                    "GET",
                    f"{self.path}?{urlencode(query)}",
                    accept=self.accept,
                    turn=Turn.NOW,
                    most_bytes=MOST_BYTES,
                )
            except ApiError as error:
                if error.code != TOO_LARGE or limit == 1:
                    raise
                limit = max(1, limit // 10)
                continue
            try:
                try:
                    page = self._reader.whole_page(reply)
                except UNREADABLE:
                    page = self._reader.page(await _in_turns(mending(reply)))
            except ValueError as error:
                raise ApiError(0, str(error)) from None
            for item in page.items:
                kept = self._lean(item)
                if kept is None:
                    continue
                meta: Meta = kept.metadata  # type: ignore[attr-defined]
                old = self._known.get(meta.uid)
                same = old is not None and _version(old) == meta.resource_version
                found[meta.uid] = old if old is not None and same else kept
            if len(found) > self._most:
                self._most, self.came_s = len(found), asyncio.get_running_loop().time()
            # what became unreadable is still there: as it was known
            found |= {uid: self._known[uid] for uid in page.unread if uid in self._known}
            more = page.more
            if not more:
                break
            per_item = len(reply) // (len(page.items) + len(page.unread) or 1)
            limit = min(PAGE, max(1, PAGE_BYTES // max(1, per_item))) * self._parts
        for number, uid in enumerate(self._known.keys() - found.keys()):
            self._tell(Change.DELETED, self._known[uid])
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        for number, (uid, item) in enumerate(found.items()):
            old = self._known.get(uid)
            if old is None:
                self._tell(Change.ADDED, item)
            elif _version(old) != _version(item):
                self._tell(Change.MODIFIED, item)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        self._known = found
        self.heard_s = asyncio.get_running_loop().time()
        return page.version

    async def _watch(self, version: str) -> None:
        """Follow the changes after `version` until the watch has to be opened anew from a list."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            lines = self.api.lines(
                self.path,
                self._query(
                    watch="1",
                    resourceVersion=version,
                    allowWatchBookmarks="true",
                    timeoutSeconds=str(1500 + random.randrange(1500)),
                ),
                accept=self.accept_line,
            )
            opened_s = heard_s = turn_s = loop.time()
            try:
                async with asyncio.timeout(self.stalled_s) as silence:
                    async for line in lines:
                        self.heard_s = now_s = loop.time()
                        if now_s - heard_s > PATIENCE_STEP * self.stalled_s:  # not for every line
                            heard_s = now_s
                            silence.reschedule(now_s + self.stalled_s)
                        told: Told[T] | None
                        try:
                            told = self._reader.whole_line(line)
                        except UNREADABLE:
                            told = self._reader.line(await _in_turns(mending(line)))
                        if told is None:
                            continue
                        if told.change == ERROR:
                            raise ApiError(410, "the watch expired")
                        version = told.version
                        if told.change == BOOKMARK:
                            continue
                        self._follow(Change(told.change), told.uid, told.item)
                        if now_s - turn_s > TURN_S:  # many lines may lie here already
                            await asyncio.sleep(0)
                            turn_s = loop.time()
                # the server ends a watch after timeoutSeconds; go on where it ended
            except TimeoutError:
                log.warning(
                    "watch of %s silent for %.0f s; reopening it", self.path, self.stalled_s
                )
            except ApiError as error:
                if error.code not in (0, 429) and error.code < 500:
                    raise
                failures = failures + 1 if loop.time() - opened_s < 5 else 1
                if failures > 5:
                    raise
                await asyncio.sleep(min(0.2 * 2**failures, 5.0) * (0.5 + random.random()))
            finally:
                await lines.aclose()  # type: ignore[attr-defined]

    def _follow(self, change: Change, uid: str, item: T | None) -> None:
        """Take in one change; without the object if it cannot be read."""
        kept = self._lean(item) if item is not None else None
        if item is not None and kept is None:
            change = Change.DELETED
        if change is Change.DELETED:
            kept = self._known.pop(uid, None) or kept
        elif kept is not None:
            self._known[uid] = kept
        if kept is not None:
            self._tell(change, kept)

    def _lean(self, item: T) -> T | None:
        try:
            return self.lean(item)
        except Exception:
            log.exception("%s %s kept whole", self.path, _where(item.metadata))  # type: ignore[attr-defined]
            return item

    def _forget_all(self) -> None:
        for item in list(self._known.values()):
            self._tell(Change.DELETED, item)
        self._known.clear()
        self.heard_s = 0.0

    def _tell(self, change: Change, item: T) -> None:
        """Hand a change on; what the handler cannot take must not end the watch of all others."""
        try:
            self.handler(change, item)
        except Exception:
            self._untaken += 1
            meta: Meta = item.metadata  # type: ignore[attr-defined]
            log.exception("%s of %s %s not processed", change, self.path, _where(meta))


async def _in_turns(steps: Iterator[bytes]) -> bytes:
    """Return the last of these; others have their turn between two of them."""
    found = b""
    for step in steps:
        found = step
        await asyncio.sleep(0)
    return found


def _version(item: object) -> str:
    version: str = item.metadata.resource_version  # type: ignore[attr-defined]
    return version


def _where(meta: Meta) -> str:
    return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
