"""Sockets with bounds on connections, headers and time, against hostile clients.

uvicorn with httptools has no such bounds: it keeps endless headers, and waits without end for half
a request or a TLS handshake. At the limit of connections, the one that has waited longest for a
request or a handshake is closed; if none waits, the one whose answer takes longest. So clients that
send a request and read the answer are served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from scheduler.extender.certificates import Certificates

BACKLOG = 1024
PAUSE_S = 0.1  #: where the process has no file left for another connection


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one socket."""

    connections: int = 256
    head_bytes: int = 32 << 10  #: of a request, beside its body; tokens of some providers are long
    head_s: float = 10.0  #: from the first byte of a request, or the connection, to its last header
    handshake_s: float = 5.0
    answer_s: float = 120.0  #: from the last header to the last byte of the answer
    idle_s: float = 30.0  #: between requests


def bounds_of_verbs() -> Bounds:
    """Return the bounds for kube-scheduler, which has a connection for every bind that is held."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Bounds(connections=min(4096, soft // 2), idle_s=75.0)


@dataclass(eq=False, slots=True)
class Door:
    """One socket: its connections, and which of them have not sent a request yet."""

    bounds: Bounds
    certificates: Certificates | None = None
    inside: dict[Visit, None] = field(default_factory=dict)  #: who came first, first
    waiting: dict[Visit, None] = field(default_factory=dict)  #: the longest first
    _listeners: list[socket.socket] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def open(self, host: str, port: int, server: uvicorn.Server) -> None:
        """Listen.

        Raises:
            OSError: the address does not belong to this machine, or is in use.
        """
        loop = asyncio.get_running_loop()
        for family, kind, number, _, address in await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = socket.socket(family, kind, number)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setblocking(False)
            listener.bind(address)
            listener.listen(BACKLOG)
            task = loop.create_task(self._accept(listener, server))
            task.add_done_callback(lambda _, listener=listener: listener.close())  # type: ignore[misc]
            self._tasks.append(task)

    @property
    def port(self) -> int:
        """The port, which the system chose where 0 was asked for."""
        return int(self._listeners[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more connections."""
        for task in self._tasks:
            task.cancel()
        for visit in [visit for visit in self.waiting if visit.comes_by is not None]:
            visit.end()

    async def wait_closed(self) -> None:
        """Wait until no more connections are accepted."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                there, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(PAUSE_S)
                continue
            more = {"config": server.config, "server_state": server.server_state, "app_state": {}}
            visit = Visit(self, _loop=loop, **more)
            visit.comes_by = there
            visit.coming = loop.create_task(self._let_in(visit, there))
            if len(self.inside) >= self.bounds.connections:
                next(iter(self.waiting or self.inside)).end()
            self.inside[visit] = self.waiting[visit] = None

    async def _let_in(self, visit: Visit, there: socket.socket) -> None:
        """Shake hands, where there are certificates."""
        context = self.certificates.context if self.certificates is not None else None
        patience_s = self.bounds.handshake_s if context is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: visit, there, ssl=context, ssl_handshake_timeout=patience_s
            )
        except (OSError, RuntimeError):  # RuntimeError: of uvloop, where it is closed already
            self.left(visit)
            there.detach()  # the event loop closes it
        finally:
            visit.comes_by = visit.coming = None

    def left(self, visit: Visit) -> None:
        """Stop counting a connection."""
        self.inside.pop(visit, None)
        self.waiting.pop(visit, None)


class Guarded(uvicorn.Server):
    """A server behind a door, in place of the sockets that uvicorn opens."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self.door = door

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the door."""
        await self.door.open(self.config.host, self.config.port, self)
        await super().startup(sockets=[])
        self.servers.append(self.door)  # type: ignore[arg-type]  # it is closed as they are

    def install_signal_handlers(self) -> None:
        """Leave signals to the process."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals to the process."""
        return contextlib.nullcontext()


class Visit(HttpToolsProtocol):
    """One connection."""

    def __init__(self, door: Door, **more: Any) -> None:
        super().__init__(**more)
        self._door = door
        self.comes_by: socket.socket | None = None  #: until hands are shaken
        self.coming: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = self._in_request = False
        self._body_bytes = 0  #: of all requests
        self._other_bytes = 0  #: of this request: what is no body

    # -- who comes and goes ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request."""
        super().connection_made(transport)
        self._within(self._door.bounds.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting it."""
        self._door.left(self)
        self._stop_timer()
        super().connection_lost(exc)

    def end(self) -> None:
        """Close the connection."""
        self._door.left(self)
        self._stop_timer()
        if self.comes_by is not None:  # what reads from it hears of an end
            with contextlib.suppress(OSError):
                self.comes_by.shutdown(socket.SHUT_RDWR)
        if self.transport is not None:
            self.transport.abort()

    # -- time --------------------------------------------------------------------------------

    def _within(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- requests ----------------------------------------------------------------------------

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Process received data, unless headers before or after the body are too long."""
        before = self._body_bytes
        super().data_received(data)
        if self._in_request:
            self._other_bytes += len(data) - (self._body_bytes - before)
            if self._other_bytes > self._door.bounds.head_bytes:
                self.end()

    def on_body(self, body: bytes) -> None:
        """Process a part of the body; no more is kept than the application asks for."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is complete."""
        self._in_request = False
        super().on_message_complete()

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._other_bytes = 0
        if not self._answers:
            self._within(self._door.bounds.head_s)

    def on_headers_complete(self) -> None:
        """Note that it can be answered.

        Raises:
            ValueError: it is too large; the sender gets an answer that says so.
        """
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._door.bounds.head_bytes:
            raise ValueError("request headers too large")
        super().on_headers_complete()
        self._door.waiting.pop(self, None)
        self._within(self._door.bounds.answer_s)

    def on_response_complete(self) -> None:
        """Wait for the next request, or answer one that came meanwhile."""
        super().on_response_complete()
        bounds = self._door.bounds
        if self not in self._door.inside or self.transport.is_closing():
            return
        if self._answers:
            self._within(bounds.answer_s)
        else:
            self._door.waiting[self] = None
            self._within(bounds.head_s if self._in_head else bounds.idle_s)


def server_behind(door: Door, app: object, host: str, port: int) -> Guarded:
    """Return a server for an ASGI application."""
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # or whoever is here could say to be somewhere else
        lifespan="off",
        ws="none",  # or an upgrade would leave all bounds behind
        timeout_keep_alive=int(door.bounds.idle_s),
        timeout_graceful_shutdown=5,
    )
    return Guarded(config, door)
