"""The API server as the chaos run reaches it: plain JSON over HTTP, none of muster's own client."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

Object = dict[str, Any]
Handler = Callable[[str, Object], None]
MERGE = "application/merge-patch+json"


class Wire:
    """Requests and watches as an administrator."""

    def __init__(self, url: str, kubeconfig: Path, ca: Path) -> None:
        self.url = url
        token = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
        self.headers = {"Authorization": f"Bearer {token}"}
        self.tls = ssl.create_default_context(cafile=str(ca))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Wire:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.tls, limit=0), headers=self.headers
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """Return status and JSON; 0 and a text if nobody answers."""
        assert self._session is not None
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        try:
            async with self._session.request(
                method, self.url + path, data=data, headers=headers,
                timeout=aiohttp.ClientTimeout(total=15),
            ) as reply:  # fmt: skip
                return reply.status, await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return 0, repr(error)

    async def sure(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Any:
        """Repeat until the API server answers with anything but an error of its own."""
        while True:
            code, reply = await self.call(method, path, body, content_type)
            if code and code < 500 and code != 429:
                return reply
            await asyncio.sleep(0.3)

    async def watch(
        self, path: str, handle: Handler, listed: Callable[[], Awaitable[None]]
    ) -> None:
        """List and watch for ever; `handle` gets ADDED, MODIFIED, DELETED and the object.

        After every list, `SYNC` with the list is handed over in one piece, so that what went
        unseen is known, and then `listed` is awaited. `BROKEN`, with nothing, says that the watch
        broke off, and that the next list will tell what happened meanwhile.
        """
        assert self._session is not None
        while True:
            code, reply = await self.call("GET", path)
            if code != 200:
                await asyncio.sleep(0.3)
                continue
            handle("SYNC", reply)
            await listed()
            version = reply["metadata"]["resourceVersion"]
            mark = "&" if "?" in path else "?"
            where = f"{self.url}{path}{mark}watch=true&resourceVersion={version}"
            try:
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
                async with self._session.get(where, timeout=timeout) as stream:
                    if stream.status != 200:
                        raise ValueError(f"the watch is answered with {stream.status}")
                    buffer = b""
                    async for chunk in stream.content.iter_any():
                        buffer += chunk
                        *lines, buffer = buffer.split(b"\n")
                        for line in lines:
                            change = json.loads(line)
                            if change["type"] == "ERROR":
                                raise ValueError(change["object"].get("message"))
                            handle(change["type"], change["object"])
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                handle("BROKEN", {})
                await asyncio.sleep(0.3)
