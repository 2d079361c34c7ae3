"""Stands between muster and the API server and answers badly when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

import aiohttp
from aiohttp import web

from tests.chaos.wire import Wire

HOP = {"transfer-encoding", "content-length", "connection", "content-encoding", "host"}
GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}


LOOK_S = 0.01


@dataclass(eq=False)
class Rule:
    """What happens to the next `times` requests like this; a test in another thread may wait on it.

    With `status` they are answered and never forwarded. Held ones wait for `let_go`: before they
    are forwarded, or between the API server's answer and its delivery. With `drop` the connection
    ends in place of what would come next: a held request is never carried out, and any other is,
    without an answer.
    """

    method: str
    path: str  #: pattern, searched in path and query
    times: int = 1
    skip: int = 0  #: so many are let through first
    status: int = 0
    retry_after_s: int = 0
    hold: Literal["", "request", "answer"] = ""
    drop: bool = False
    seen_s: list[float] = field(default_factory=list)  #: when each like it came, on time.monotonic
    codes: list[int] = field(default_factory=list)  #: what the API server answered to those met
    met: threading.Event = field(default_factory=threading.Event)  #: the last of `times` came
    let_go: threading.Event = field(default_factory=threading.Event)

    def meets(self, method: str, path: str) -> bool:
        """True for a request that this rule is about; counts it."""
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen_s.append(time.monotonic())
        number = len(self.seen_s) - self.skip
        return 0 < number <= self.times

    def note(self) -> None:
        """Say that the last one is where the rule wants it."""
        if len(self.seen_s) - self.skip >= self.times:
            self.met.set()

    async def wait(self) -> None:
        """Wait for `let_go`."""
        while not self.let_go.is_set():
            await asyncio.sleep(LOOK_S)


@dataclass(eq=False)
class Stream:
    """A watch on its way through; while it is quiet, what comes is kept back."""

    path: str
    answer: web.StreamResponse
    quiet: bool = False
    kept: list[bytes] = field(default_factory=list)


class Proxy:
    """Forwards requests; while a fault is set, a share of them goes wrong. Rules are exact."""

    def __init__(self, wire: Wire, cert: str, key: str, rng: random.Random) -> None:
        self._wire, self._rng = wire, rng
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(cert, key)
        self._expire = asyncio.Event()
        self.fault = ""  #: 429, 500, lost (forwarded, and the answer thrown away), or none
        self.share = 0.0
        self.delay_s = 0.0  #: before each answer, but those to watches
        self.num_spoilt: dict[str, int] = {}
        self.rules: list[Rule] = []
        self._streams: list[Stream] = []

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
        await asyncio.sleep(0.25)  # TLS connections end a little later than that

    def expire(self) -> None:
        """End all watches with 410, as a compaction of etcd does."""
        self._expire.set()
        self._expire = asyncio.Event()

    def hush(self, path: str) -> list[Stream]:
        """Let nothing more through of the watches that are open now; return them."""
        found = [stream for stream in self._streams if re.search(path, stream.path)]
        for stream in found:
            stream.quiet = True
        return found

    @staticmethod
    async def tell(streams: list[Stream]) -> None:
        """Hand on what was kept back, and let the rest through again."""
        for stream in streams:
            stream.quiet = False
            with contextlib.suppress(OSError):  # nobody listens any more
                await stream.answer.write(b"".join(stream.kept))
            stream.kept.clear()

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
        rules = [rule for rule in self.rules if rule.meets(request.method, request.raw_path)]
        rule = rules[0] if rules else None
        if rule is not None and rule.status:
            rule.note()
            status = {"kind": "Status", "code": rule.status, "message": "as the test wants it"}
            after = {"Retry-After": str(rule.retry_after_s)} if rule.retry_after_s else {}
            return web.json_response(status, status=rule.status, headers=after)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP}
        body = await request.read()
        if rule is not None and rule.hold == "request":
            rule.note()
            await rule.wait()
            if rule.drop:
                return self._hang_up(request)
        try:
            async with self._session.request(
                request.method, self._wire.url + request.raw_path, data=body or None,
                headers=headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            ) as reply:  # fmt: skip
                if spoilt == "lost" and not watch:
                    self._count(spoilt)
                    await reply.read()
                    raise ConnectionResetError
                if rule is not None:
                    content = await reply.read()
                    rule.codes.append(reply.status)
                    if rule.hold != "request":
                        rule.note()
                    if rule.hold == "answer":
                        await rule.wait()
                    if rule.drop:
                        return self._hang_up(request)
                kept = {k: v for k, v in reply.headers.items() if k.lower() not in HOP}
                if not watch:
                    await asyncio.sleep(self.delay_s)
                    content = await reply.read()
                    if "Content-Encoding" in reply.headers:
                        kept["Content-Encoding"] = reply.headers["Content-Encoding"]
                    return web.Response(status=reply.status, body=content, headers=kept)
                return await self._stream(request, reply, kept)
        except (aiohttp.ClientError, OSError, RuntimeError):  # the last: stopped meanwhile
            return self._hang_up(request)

    @staticmethod
    def _hang_up(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)

    async def _stream(
        self, request: web.Request, reply: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        answer = web.StreamResponse(status=reply.status, headers=headers)
        await answer.prepare(request)
        expired = asyncio.ensure_future(self._expire.wait())
        stream = Stream(request.raw_path, answer)
        self._streams.append(stream)
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
                if stream.quiet:
                    stream.kept.append(chunk)
                else:
                    await answer.write(chunk)
        finally:
            self._streams.remove(stream)
            expired.cancel()
            with contextlib.suppress(OSError):
                await answer.write_eof()
