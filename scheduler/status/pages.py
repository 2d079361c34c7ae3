"""Pages that are built beside the scheduling without delaying it.

Everything runs on one event loop. Long pages are built in slices, so that an answer to
kube-scheduler waits for a slice and not for a page. A page is cached for a while, so that many
readers cost as much as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

import msgspec

SLICE_S = 0.002  #: so long a page may hold the event loop at once
KEPT_TIMES = 10.0  #: a page is kept so many times as long as it took to build
_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


class Breath:
    """Lets other tasks run whenever this work has held the event loop for a slice."""

    def __init__(self) -> None:
        self._began_s = perf_counter()

    async def __call__(self) -> None:
        """Wait for the others, if it is time."""
        if perf_counter() - self._began_s > SLICE_S:
            await asyncio.sleep(0)
            self._began_s = perf_counter()


class Content(Protocol):
    """What is sent where somebody asks for a path."""

    async def get(self) -> bytes:
        """Return it as it is sent."""


class Kept(Generic[T]):
    """Content that is rebuilt when it is requested and too old."""

    def __init__(self, build: Callable[[Breath], Awaitable[T]]) -> None:
        self._build = build
        self._lock = asyncio.Lock()
        self._content: T
        self._until_s = 0.0

    async def get(self) -> T:
        """Return the content; concurrent readers share it."""
        async with self._lock:
            began_s = perf_counter()
            if began_s >= self._until_s:
                self._content = await self._build(Breath())
                done_s = perf_counter()
                self._until_s = done_s + KEPT_TIMES * (done_s - began_s)
            return self._content


class Page(Kept[bytes]):
    """Content as it is sent."""


async def array(items: Iterable[Any], breath: Breath) -> bytes:
    """Encode the items, made as they are asked for, as one JSON array."""
    parts: list[bytes] = []
    for item in items:
        parts.append(_encode(item))
        await breath()
    return b"[" + b",".join(parts) + b"]"


def mapping(**parts: bytes) -> bytes:
    """Put encoded parts together as one JSON object."""
    return b"{" + b",".join(f'"{name}":'.encode() + part for name, part in parts.items()) + b"}"
