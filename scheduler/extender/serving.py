"""Two sockets: the verbs for kube-scheduler, and what people and Prometheus read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from scheduler.controller.metrics import Metrics
from scheduler.extender.binds import BindArgs
from scheduler.extender.verbs import Extender, FilterArgs, PreemptArgs

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = [(b"content-type", b"application/json")]
BODY_WITHIN_S = 10.0  #: a client that sends more slowly is cut off
_encode = msgspec.json.Encoder().encode


class ExtenderApp:
    """The verbs as an ASGI application: three paths, no framework between socket and answer."""

    def __init__(self, extender: Extender, metrics: Metrics, max_body_bytes: int) -> None:
        self._extender = extender
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._filter = msgspec.json.Decoder(FilterArgs)
        self._preempt = msgspec.json.Decoder(PreemptArgs)
        self._bind = msgspec.json.Decoder(BindArgs)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        verb = scope["path"].rsplit("/", 1)[-1]
        if scope["path"] not in ("/v1/filter", "/v1/preempt", "/v1/bind"):
            await _reply(send, 404, {"error": f"no verb {scope['path'][:200]!r}"})
            return
        if scope["method"] != "POST":
            await _reply(send, 405, {"error": "verbs are called with POST"})
            return
        arrived_s = asyncio.get_running_loop().time()
        try:
            body = await asyncio.wait_for(self._body(scope, receive), BODY_WITHIN_S)
        except TimeoutError:
            await _reply(send, 408, {"error": f"no complete body within {BODY_WITHIN_S:.0f} s"})
            return
        if body is None:
            await _reply(
                send, 413, {"error": f"a body may have at most {self._max_body_bytes} bytes"}
            )
            return
        began_s = time.perf_counter()
        try:
            result: object
            if verb == "filter":
                result = self._extender.filter(self._filter.decode(body))
            elif verb == "preempt":
                result = self._extender.preempt(self._preempt.decode(body))
            else:
                result = await self._held(self._bind.decode(body), arrived_s, receive)
        # a ValueError is a quantity that is none
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError) as error:
            await _reply(send, 400, {"error": f"{verb}: {error}"})
            return
        self._metrics.verb_seconds.labels(verb=verb).observe(time.perf_counter() - began_s)
        await _reply(send, 200, result)

    async def _held(self, args: BindArgs, arrived_s: float, receive: Receive) -> object:
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            return await self._extender.bind(args, arrived_s, gone)
        finally:
            gone.cancel()

    async def _body(self, scope: dict[str, Any], receive: Receive) -> bytes | None:
        """Return the body, or None as soon as it is too long."""
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._max_body_bytes:
                return None
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body_bytes:
                return None
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)


async def _hung_up(receive: Receive) -> None:
    """Return once the client hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reply(send: Send, code: int, content: object) -> None:
    body = _encode(content)
    headers = [*JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
