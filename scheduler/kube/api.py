"""Calls to the API server: few kinds, typed replies, and the retries that Kubernetes expects."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from enum import Enum
from math import inf
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration
from yarl import URL

from scheduler.kube.flow import Flow

MERGE = "application/merge-patch+json"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
DENIES_S = 5.0  #: an API server that has just started denies what its rules, once read, allow
#: said with 403 of what is made in a namespace that ends: no right is missing, all of it is going
ENDING = b'"NamespaceTerminating"'
TOKEN_FOR_S = 30.0  #: tokens in files change before they expire
#: the API server itself gives up on a request after 60 s; what is cut off sooner may be under way,
#: and sent again is done twice by a server that is late already
ANSWER_S = 65.0
#: whether the other side is alive is asked by TCP: a machine that is gone, not one that is slow
DEAD_S, IDLE_S, PROBE_S, PROBES = 15.0, 10, 3, 3
JITTER = 0.25  #: a pause is longer by up to this share: those refused together come back apart
AWAY_S = 20.0  #: without any answer; the lease alone has one every 12 s
MEASURED_BYTES = 1 << 16  #: a larger body takes its own time
#: said with 429 of a pod that may not be evicted; flow control says it for too much work, too
BUDGET = "budget"
_encode = msgspec.json.Encoder().encode


TOO_LARGE = 413  #: stands for an answer that is longer than it may be


class ApiError(Exception):
    """The API server refused; `code` is the HTTP status, 0 if it did not answer."""

    def __init__(self, code: int, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.retry_after_s = retry_after_s

    @property
    def is_late(self) -> bool:
        """True if the server was overloaded or did not answer, so that it refused nothing."""
        return self.code in (0, 503, 504) or (self.code == 429 and BUDGET not in self.text)


class Turn(Enum):
    """What a request waits for."""

    NOW = "now"  #: nothing: it keeps the replica alive, or is the only one of its kind
    BIND = "bind"  #: other binds: kube-scheduler waits for the answer
    WRITE = "write"  #: binds, and the writes before it


async def access(kubeconfig: str, context: str = "") -> Configuration:
    """Return the address and credentials of the API server; an empty context is the current one.

    Raises:
        ValueError: there is no such file or context, or it is not a kubeconfig, or there is no
            service account.
    """
    configuration = Configuration()
    try:
        if kubeconfig:
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig,
                context=context or None,
                client_configuration=configuration,
            )
        else:
            kube_config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    except kube_config.ConfigException as error:
        where = repr(kubeconfig) if kubeconfig else "this pod's service account"
        raise ValueError(f"{where}: {error}; name a kubeconfig in the settings") from None
    return configuration


async def _bounded(reply: aiohttp.ClientResponse, most: int) -> bytes:
    """Return what an answer says, if it is not too long to be kept in memory as a whole."""
    parts, length = [], 0
    async for part in reply.content.iter_any():
        parts.append(part)
        length += len(part)
        if length > most:
            raise ApiError(TOO_LARGE, f"the answer is longer than {most:,} bytes")
    return b"".join(parts)


class Api:
    """One session with the API server."""

    def __init__(self, configuration: Configuration, *, in_flight: int = 64) -> None:
        self.url = str(configuration.host).rstrip("/")
        self._configuration = configuration
        self._tls: ssl.SSLContext | bool = True
        if self.url.startswith("https"):
            tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            if not configuration.verify_ssl:
                tls.check_hostname = False
                tls.verify_mode = ssl.CERT_NONE
            if configuration.cert_file:
                tls.load_cert_chain(configuration.cert_file, configuration.key_file)
            self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        binds = Flow(in_flight)
        self.flows = {Turn.BIND: binds, Turn.WRITE: Flow(in_flight, before=binds)}
        self._token: dict[str, str] = {}
        self._token_until_s = 0.0
        self.calls: dict[tuple[str, int], int] = {}
        self.away_s = AWAY_S
        self.answered_s = -inf  #: when the server last answered, on the monotonic clock
        self.served_since_s = -inf  #: since when it does so all the time
        self.may_write: Callable[[], bool] = lambda: True  #: asked before each try of `persist`

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._tls, limit=0, keepalive_timeout=60, socket_factory=_socket
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent",),
            headers={"User-Agent": "muster"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def _headers(self) -> dict[str, str]:
        """Return the credentials; a service account's token is read anew now and then."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._token_until_s:
            return dict(self._token)
        hook = self._configuration.refresh_api_key_hook
        if hook is not None:
            found = hook(self._configuration)
            if asyncio.iscoroutine(found):
                await found
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        token = token or await self._configuration.get_api_key_with_prefix("authorization")
        self._token = {"Authorization": token} if token else {}
        self._token_until_s = now_s + TOKEN_FOR_S
        return dict(self._token)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float = ANSWER_S,
        unless: Callable[[], str] | None = None,
        turn: Turn = Turn.WRITE,
        again: bool = False,
        headers: dict[str, str] | None = None,
        most_bytes: int = 0,
    ) -> bytes:
        """Make one request; it waits for its turn, and calls `unless` then.

        With `again`, it goes before new requests. `timeout_s` begins with its turn.

        Raises:
            ApiError: the answer is not 2xx, or there is none within `timeout_s`. 404 also means a
                namespace that is being deleted, 409 a reason of `unless`, and `TOO_LARGE` an
                answer of more than `most_bytes`.
        """
        assert self._session is not None
        headers = {**await self._headers(), **(headers or {}), "Accept": accept}
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = body if isinstance(body, bytes) else _encode(body)
        flow = self.flows.get(turn)
        if flow is not None:
            await flow.turn(again=again)
        try:
            if unless is not None and (why := unless()):
                raise ApiError(409, why)
            return await self._send(method, path, data, headers, timeout_s, flow, most_bytes)
        finally:
            if flow is not None:
                flow.over()

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        timeout_s: float,
        flow: Flow | None,
        most_bytes: int = 0,
    ) -> bytes:
        """Send a request and read the answer; `flow` learns from it."""
        assert self._session is not None
        code, retry_after, content, cut = 0, "", b"", True
        sent_s = time.monotonic()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method, URL(self.url + path, encoded=True), data=data, headers=headers
                ) as reply,
            ):
                content = await (_bounded(reply, most_bytes) if most_bytes else reply.read())
                code, retry_after = reply.status, reply.headers.get("Retry-After", "")
                if code == 403 and ENDING in content:
                    code = 404
            cut = False
            self._answered()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            code, cut = 0, False
            raise ApiError(0, f"{type(error).__name__}: {error}") from error
        finally:
            self.calls[method, code] = self.calls.get((method, code), 0) + 1
            told = data is None or len(data) < MEASURED_BYTES
            if path.endswith("/eviction"):  # no server has too much to do for a disruption budget
                told = code == 429 and BUDGET.encode() not in content
            if flow is not None and told and not cut:
                flow.answered(method, sent_s, code, _seconds(retry_after))
        if code >= 300:
            raise _refusal(code, content, retry_after)
        return content

    def _answered(self) -> None:
        now_s = time.monotonic()
        if now_s > self.answered_s + self.away_s:
            self.served_since_s = now_s
        self.answered_s = now_s

    async def persist(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        within_s: float = 30.0,
        unless: Callable[[], str] | None = None,
        turn: Turn = Turn.WRITE,
    ) -> bytes:
        """Repeat one request until the server accepts or refuses it.

        After 429 it waits as long as the server says, after a server's error or silence a little
        longer each time; after 403 the same, but not for long. Each attempt calls `unless`, and
        checks whether this replica may still write. No attempt begins later than `within_s` after
        the first; one in flight is awaited.

        Raises:
            ApiError: refused, or `within_s` is over.
        """
        now_s = asyncio.get_running_loop().time
        began_s = inf
        pause_s = 0.1

        def may_not() -> str:
            nonlocal began_s
            began_s = min(began_s, now_s())
            if method != "GET" and not self.may_write():
                raise ApiError(0, "this replica no longer leads")
            return unless() if unless is not None else ""

        while True:
            if method != "GET" and not self.may_write():
                raise ApiError(0, "this replica no longer leads")
            try:
                return await self.call(
                    method,
                    path,
                    body,
                    content_type=content_type,
                    unless=may_not,
                    turn=turn,
                    again=began_s < inf,
                )
            except ApiError as error:
                began_s = min(began_s, now_s())
                denied = error.code == 403 and now_s() - began_s < DENIES_S
                if not denied and error.code not in (0, 429) and error.code < 500:
                    raise
                wait_s = max(pause_s, error.retry_after_s) * (1.0 + JITTER * random.random())
                if now_s() + wait_s > began_s + within_s:
                    raise
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, 5.0)

    async def lines(
        self, path: str, query: dict[str, str], *, accept: str = "application/json"
    ) -> AsyncIterator[bytes]:
        """Yield the lines of a watch until the server ends it.

        Raises:
            ApiError: the watch could not be opened, or broke off.
        """
        assert self._session is not None
        headers = {**await self._headers(), "Accept": accept}
        url = f"{self.url}{path}?{urlencode(query)}"
        try:
            async with self._session.get(url, headers=headers, read_bufsize=1 << 20) as reply:
                if reply.status != 200:
                    raise _refusal(reply.status, await reply.read(), "")
                left = b""
                async for chunk in reply.content.iter_any():
                    self._answered()
                    *whole, left = (left + chunk).split(b"\n") if left else chunk.split(b"\n")
                    for line in whole:
                        if line:
                            yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"{type(error).__name__}: {error}") from error


def _socket(info: Any) -> socket.socket:
    """Return a socket that ends once its other side is dead, and waits for one that is slow."""
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", IDLE_S),
        ("TCP_KEEPINTVL", PROBE_S),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", int(1000 * DEAD_S)),
    ):
        if hasattr(socket, option):  # not everywhere
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _seconds(retry_after: str) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:  # a date
        return 1.0


class _Cause(msgspec.Struct):
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] = []


class _Said(msgspec.Struct):
    """The part of a Status that is for people."""

    message: str = ""
    details: _Details | None = None


def _refusal(code: int, content: bytes, retry_after: str) -> ApiError:
    try:
        said = msgspec.json.decode(content, type=_Said)
        # of an eviction only the causes name the budget
        causes = [one.message for one in (said.details or _Details()).causes if one.message]
        text = "; ".join([said.message, *causes][-2:]) or content[:300].decode(errors="replace")
    except (msgspec.DecodeError, RecursionError):
        text = content[:300].decode(errors="replace")
    return ApiError(code, text, _seconds(retry_after))


def merge(**parts: Any) -> bytes:
    """Encode a merge patch."""
    return _encode(parts)
