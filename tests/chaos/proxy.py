"""Stands between muster and the API server and answers badly when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl

import aiohttp
from aiohttp import web

from tests.chaos.wire import Wire

HOP = {"transfer-encoding", "content-length", "connection", "content-encoding", "host"}
GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}


class Proxy:
    """Forwards requests; while a fault is set, a share of them goes wrong."""

    def __init__(self, wire: Wire, cert: str, key: str, rng: random.Random) -> None:
        self._wire, self._rng = wire, rng
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(cert, key)
        self._expire = asyncio.Event()
        self.fault = ""  #: 429, 500, lost (forwarded, and the answer thrown away), or none
        self.share = 0.0
        self.num_spoilt: dict[str, int] = {}

    async def start(self) -> str:
        """Listen on loopback; return the address."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._wire.tls, limit=0), auto_decompress=False
        )
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"https://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Hang up."""
        self.expire()
        await self._session.close()
        await self._runner.cleanup()

    def expire(self) -> None:
        """End all watches with 410, as a compaction of etcd does."""
        self._expire.set()
        self._expire = asyncio.Event()

    def _count(self, what: str) -> None:
        self.num_spoilt[what] = self.num_spoilt.get(what, 0) + 1

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        spoilt = self.fault if self.fault and self._rng.random() < self.share else ""
        watch = "watch" in request.query
        if spoilt in ("429", "500") and not watch:
            self._count(spoilt)
            status = {"kind": "Status", "code": int(spoilt), "message": "spoilt on the way"}
            headers = {"Retry-After": "1"} if spoilt == "429" else {}
            return web.json_response(status, status=int(spoilt), headers=headers)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        body = await request.read()
        try:
            async with self._session.request(
                request.method, self._wire.url + request.raw_path, data=body or None,
                headers=headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            ) as reply:  # fmt: skip
                if spoilt == "lost" and not watch:
                    self._count(spoilt)
                    await reply.read()
                    raise ConnectionResetError
                kept = {k: v for k, v in reply.headers.items() if k.lower() not in HOP}
                if not watch:
                    content = await reply.read()
                    if "Content-Encoding" in reply.headers:
                        kept["Content-Encoding"] = reply.headers["Content-Encoding"]
                    return web.Response(status=reply.status, body=content, headers=kept)
                return await self._stream(request, reply, kept)
        except (aiohttp.ClientError, OSError, RuntimeError):  # the last: stopped meanwhile
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)

    async def _stream(
        self, request: web.Request, reply: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        answer = web.StreamResponse(status=reply.status, headers=headers)
        await answer.prepare(request)
        expired = asyncio.ensure_future(self._expire.wait())
        try:
            while True:
                more = asyncio.ensure_future(reply.content.readany())
                await asyncio.wait((more, expired), return_when=asyncio.FIRST_COMPLETED)
                if expired.done():
                    more.cancel()
                    self._count("410")
                    await answer.write(json.dumps(GONE).encode() + b"\n")
                    return answer
                chunk = more.result()
                if not chunk:
                    return answer
                await answer.write(chunk)
        finally:
            expired.cancel()
            with contextlib.suppress(OSError):
                await answer.write_eof()
