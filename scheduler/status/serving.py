"""What people and Prometheus read, as a read-only application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib import resources
from typing import Protocol

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from scheduler.core.reasons import TABLE
from scheduler.status.pages import Page

_encode = msgspec.json.Encoder().encode


class Facts(Protocol):
    """What the status pages are made of."""

    pages: dict[str, Page]  #: by path

    def ready(self) -> tuple[bool, str]:
        """Return whether this replica acts, or why not."""

    def explain(self, name: str) -> object | None:
        """Return the story of a gang, or of the gang of a pod."""

    def unknown(self, name: str) -> str:
        """Say what a thing is that is no gang and of none."""

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
            error = f"{facts.unknown(name)}; /queue lists the gangs"
            return JSONResponse({"error": error}, 404)
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
        known = {
            word: {"label": row.label, "colour": row.colour, "hatch": row.hatch}
            for word, row in TABLE.items()
        }
        text = text.replace("REASON_TABLE", _encode(known).decode())
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
