"""Calls to the API server: few kinds, typed replies, and the retries that Kubernetes asks for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import Configuration
from yarl import URL

MERGE = "application/merge-patch+json"
STATUS_MERGE = MERGE
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
DENIES_S = 5.0  #: an API server that has just started denies what its rules, once read, allow
#: said with 403 of what is made in a namespace that ends: no right is missing, all of it is going
ENDING = b'"NamespaceTerminating"'
TOKEN_FOR_S = 30.0  #: tokens in files change before they expire
_encode = msgspec.json.Encoder().encode


class ApiError(Exception):
    """The API server refused; `code` is the HTTP status, 0 if it did not answer."""

    def __init__(self, code: int, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.retry_after_s = retry_after_s


async def access(kubeconfig: str, context: str = "") -> Configuration:
    """Return the address and credentials of the API server; an empty context is the current one.

    Raises:
        ValueError: there is no such file or context, or it is no kubeconfig, or no service account
            is here.
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
        self._in_flight = asyncio.Semaphore(in_flight)
        self._token: dict[str, str] = {}
        self._token_until_s = 0.0
        self.calls: dict[tuple[str, int], int] = {}
        self.may_write: Callable[[], bool] = lambda: True  #: asked before each try of `persist`

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0, keepalive_timeout=60),
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
        timeout_s: float = 10.0,
        unless: Callable[[], str] | None = None,
        at_once: bool = False,
    ) -> bytes:
        """Make one request; it waits for its turn, and `unless` is asked when that has come.

        With `at_once` it waits for no other: what keeps a replica alive must not stand behind a
        burst of writes.

        Raises:
            ApiError: the answer is no 2xx, or there is none within `timeout_s`. 404 also stands for
                a namespace that ends and takes nothing new, 409 for a reason of `unless`.
        """
        assert self._session is not None
        headers = await self._headers()
        headers["Accept"] = accept
        data = None
        if body is not None:
            headers["Content-Type"] = content_type
            data = body if isinstance(body, bytes) else _encode(body)
        code = 0
        async with self._in_flight if not at_once else nullcontext():
            if unless is not None and (why := unless()):
                raise ApiError(409, why)
            try:
                async with (
                    asyncio.timeout(timeout_s),
                    self._session.request(
                        method, URL(self.url + path, encoded=True), data=data, headers=headers
                    ) as reply,
                ):
                    code = reply.status
                    content = await reply.read()
                    if code == 403 and ENDING in content:
                        code = 404
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise ApiError(0, f"{type(error).__name__}: {error}") from error
            finally:
                self.calls[method, code] = self.calls.get((method, code), 0) + 1
        if code >= 300:
            raise _refusal(code, content, reply.headers.get("Retry-After", ""))
        return content

    async def persist(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        within_s: float = 30.0,
        unless: Callable[[], str] | None = None,
    ) -> bytes:
        """Make one request again until the server takes or refuses it.

        429 waits as told, a server's error or silence a little longer each time; so does 403, but
        not for long. Every try asks `unless`, and whether this replica still may write.

        Raises:
            ApiError: refused, or `within_s` is over.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        end_s = began_s + within_s
        pause_s = 0.1
        while True:
            left_s = min(10.0, max(0.1, end_s - loop.time()))
            if method != "GET" and not self.may_write():
                raise ApiError(0, "this replica does not lead any more")
            try:
                return await self.call(
                    method,
                    path,
                    body,
                    content_type=content_type,
                    timeout_s=left_s,
                    unless=unless,
                )
            except ApiError as error:
                denied = error.code == 403 and loop.time() - began_s < DENIES_S
                if not denied and error.code not in (0, 429) and error.code < 500:
                    raise
                wait_s = max(pause_s, error.retry_after_s)
                if loop.time() + wait_s > end_s:
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
                    *whole, left = (left + chunk).split(b"\n") if left else chunk.split(b"\n")
                    for line in whole:
                        if line:
                            yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, f"{type(error).__name__}: {error}") from error


def _refusal(code: int, content: bytes, retry_after: str) -> ApiError:
    try:
        text = msgspec.json.decode(content).get("message") or content[:300].decode(errors="replace")
    except (msgspec.DecodeError, AttributeError):
        text = content[:300].decode(errors="replace")
    try:
        retry_after_s = float(retry_after or 0)
    except ValueError:
        retry_after_s = 1.0
    return ApiError(code, text, retry_after_s)


def merge(**parts: Any) -> bytes:
    """Encode a merge patch."""
    return _encode(parts)
