"""Two sockets: the verbs for kube-scheduler, and what people and Prometheus read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any, Protocol

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from scheduler.controller.metrics import Metrics
from scheduler.core.reasons import COLOURS
from scheduler.extender.binds import BindArgs
from scheduler.extender.verbs import Extender, FilterArgs, PreemptArgs
from scheduler.status.pages import Page

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
            await _reply(send, 408, {"error": f"no whole body within {BODY_WITHIN_S:.0f} s"})
            return
        if body is None:
            await _reply(send, 413, {"error": f"bodies end at {self._max_body_bytes} bytes"})
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


class Facts(Protocol):
    """What the status pages are made of."""

    pages: dict[str, Page]  #: by path

    def ready(self) -> tuple[bool, str]:
        """Return whether this replica acts, or why not."""

    def explain(self, name: str) -> object | None:
        """Return the story of a gang, or of the gang of a pod."""

    def journal(self, *, whole: bool = False) -> AsyncIterator[bytes]:
        """Yield the journal from its last snapshot on, or all files of it."""


def status_app(facts: Facts) -> Starlette:
    """Return the read-only application."""

    async def healthz(_: Request) -> Response:
        return Response("ok")

    async def readyz(_: Request) -> Response:
        ready, text = facts.ready()
        return Response(text, 200 if ready else 503)

    async def explain(request: Request) -> Response:
        name = f"{request.path_params['namespace']}/{request.path_params['gang']}"
        found = facts.explain(name)
        if found is None:
            return JSONResponse({"error": f"no gang or pod {name!r}; /queue lists the gangs"}, 404)
        return Response(_encode(found), media_type="application/json")

    async def page_of(request: Request) -> Response:
        path = request.url.path
        media_type = CONTENT_TYPE_PLAIN_0_0_4 if path == "/metrics" else "application/json"
        return Response(await facts.pages[path].get(), media_type=media_type)

    async def journal(request: Request) -> Response:
        whole = request.query_params.get("files") == "all"
        return StreamingResponse(facts.journal(whole=whole), media_type="application/x-ndjson")

    async def front(_: Request) -> Response:
        text = resources.files("scheduler.status").joinpath("page.html").read_text(encoding="utf-8")
        colours = {str(reason): colour for reason, colour in COLOURS.items()}
        text = text.replace("REASON_COLOURS", _encode(colours).decode())
        return Response(text, media_type="text/html")

    handlers = {
        "/": front,
        "/healthz": healthz,
        "/readyz": readyz,
        "/explain/{namespace}/{gang}": explain,
        "/journal": journal,
        **dict.fromkeys(facts.pages, page_of),
    }
    return Starlette(
        routes=[Route(path, handler, methods=["GET"]) for path, handler in handlers.items()]
    )
