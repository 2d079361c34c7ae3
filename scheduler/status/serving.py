"""What people and Prometheus read, as a read-only application."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from importlib import resources
from typing import Protocol

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from scheduler.core.reasons import TABLE
from scheduler.status.pages import Content

MOST_JOURNALS = 2  #: that are sent at once
_encode = msgspec.json.Encoder().encode


class Facts(Protocol):
    """What the status pages are made of."""

    pages: dict[str, Content]  #: by path

    def alive(self) -> tuple[bool, str]:
        """Return whether this process does its work, or why not."""

    def ready(self) -> tuple[bool, str]:
        """Return whether this replica acts, or why not."""

    async def explain(self, name: str) -> bytes:
        """Return the story of a gang, or of the gang of a pod; nothing if there is none."""

    async def node(self, name: str) -> bytes:
        """Return what is on a node; nothing if there is none of that name."""

    async def unknown(self, name: str) -> str:
        """Say what a thing is that is no gang and of none."""

    def journal(self, *, whole: bool = False) -> AsyncIterator[bytes]:
        """Yield the journal from its last snapshot on, or all files of it."""


class _Journals:
    """Hands out the journal to few at once: it is long, and read from disk."""

    def __init__(self) -> None:
        self.num = 0

    def answer(self, lines: AsyncIterator[bytes]) -> Response:
        """Return the journal, or why it cannot be had now."""
        if self.num >= MOST_JOURNALS:
            said = f"{self.num} others are fetching the journal; try again"
            return JSONResponse({"error": said}, 429, {"retry-after": "10"})
        return _Journal(self, lines)


class _Journal(StreamingResponse):
    def __init__(self, journals: _Journals, lines: AsyncIterator[bytes]) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._journals = journals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._journals.num += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._journals.num -= 1


def front_page() -> str:
    """Return the page, with its style and its script in it: a browser may run no other.

    It says so itself, so that it holds behind any proxy.
    """
    files = resources.files("scheduler.status")
    text, style, script = (
        files.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")
    )
    known = {
        word: {"label": row.label, "colour": row.colour, "hatch": row.hatch}
        for word, row in TABLE.items()
    }
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "reasons": _encode(known).decode(), "script": script}
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part)
    return text


def _digest(text: str) -> str:
    """Return how a policy names what stands in the page itself."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def status_app(facts: Facts) -> Starlette:
    """Return the read-only application."""
    journals = _Journals()

    async def healthz(_: Request) -> Response:
        alive, text = facts.alive()
        return Response(text, 200 if alive else 503)

    async def readyz(_: Request) -> Response:
        ready, text = facts.ready()
        return Response(text, 200 if ready else 503)

    async def explain(request: Request) -> Response:
        name = f"{request.path_params['namespace']}/{request.path_params['gang']}"
        found = await facts.explain(name)
        if not found:
            error = f"{await facts.unknown(name)}; /queue lists the gangs"
            return JSONResponse({"error": error}, 404)
        return Response(found, media_type="application/json")

    async def node(request: Request) -> Response:
        name = request.path_params["node"]
        found = await facts.node(name)
        if not found:
            return JSONResponse({"error": f"no node {name!r}; /nodes lists them"}, 404)
        return Response(found, media_type="application/json")

    async def page_of(request: Request) -> Response:
        path = request.url.path
        media_type = CONTENT_TYPE_PLAIN_0_0_4 if path == "/metrics" else "application/json"
        return Response(await facts.pages[path].get(), media_type=media_type)

    async def journal(request: Request) -> Response:
        whole = request.query_params.get("files") == "all"
        return journals.answer(facts.journal(whole=whole))

    page = front_page()

    async def front(_: Request) -> Response:
        return Response(page, media_type="text/html")

    handlers = {
        "/": front,
        "/healthz": healthz,
        "/readyz": readyz,
        "/explain/{namespace}/{gang}": explain,
        "/node/{node}": node,
        "/journal": journal,
        **dict.fromkeys(facts.pages, page_of),
    }
    return Starlette(
        routes=[Route(path, handler, methods=["GET"]) for path, handler in handlers.items()]
    )
