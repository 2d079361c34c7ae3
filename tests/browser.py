"""Headless Chromium, driven by its own protocol: a page at a width, light or dark, and its text."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

WITHIN_S = 30.0
READY = "document.body && document.body.dataset.ready === 'yes'"


class Tab:
    """One page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.requested: list[str] = []  #: every address that the page asked for
        self.complaints: list[str] = []  #: uncaught errors and what went to the console
        self._traced: list[dict[str, Any]] = []  #: events of the browser's own trace
        self._trace_is_whole = False

    async def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            reply = json.loads(await self._socket.receive_str())
            if reply.get("id") == number:
                assert "error" not in reply, f"{method}: {reply['error']}"
                return reply["result"]
            self._note(reply.get("method", ""), reply.get("params", {}))

    def _note(self, event: str, said: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(said["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"])[:500])
        elif event == "Tracing.dataCollected":
            self._traced += said["value"]
        elif event == "Tracing.tracingComplete":
            self._trace_is_whole = True
        elif event == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.complaints.append(said["entry"]["text"])

    async def value(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        done = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, f"{script}: {done['exceptionDetails']}"
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """Return the first true value of an expression."""
        async with asyncio.timeout(WITHIN_S):
            while not (found := await self.value(script)):
                await asyncio.sleep(0.05)
            return found

    async def open(
        self, url: str, width: int, *, dark: bool = False, ready: str = READY, scripts: bool = True
    ) -> None:
        """Load an address on a screen of this width and wait until it is drawn.

        Below 600 pixels it is a phone: one touches it, and has no mouse.
        """
        for domain in ("Network", "Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600, maxTouchPoints=1)
        await self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url="about:blank")
        await self.until("location.href == 'about:blank'")
        await self.call("Page.navigate", url=url)
        await self.until(ready)

    async def trace(self) -> None:
        """Begin to record what the browser does."""
        self._traced, self._trace_is_whole = [], False
        await self.call("Tracing.start", traceConfig={"includedCategories": ["toplevel"]})

    async def tasks_ms(self) -> list[float]:
        """End the record; return the CPU time of each task of the page's main thread, descending.

        CPU time, as wall-clock time grows with what else the machine does.
        """
        await self.call("Tracing.end")
        async with asyncio.timeout(WITHIN_S):
            while not self._trace_is_whole:
                await self.call("Runtime.evaluate", expression="0")
        mains = {
            (one["pid"], one["tid"])
            for one in self._traced
            if one["name"] == "thread_name" and one["args"]["name"] == "CrRendererMain"
        }
        tasks = (
            one["tdur"] / 1000
            for one in self._traced
            if one["name"].endswith("RunTask") and "tdur" in one
            if (one["pid"], one["tid"]) in mains
        )
        return sorted(tasks, reverse=True)

    async def picture(self, file: Path) -> None:
        """Save the whole page as a picture."""
        done = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(done["data"]))

    async def print(self, file: Path) -> None:
        """Save the page as a printer has it."""
        done = await self.call("Page.printToPDF", preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(done["data"]))

    async def point(self, x: float, y: float) -> None:
        """Move the mouse to a place of the window."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def drag(self, x: float, to_x: float, y: float) -> None:
        """Drag the mouse from left to right, or back."""
        for kind, at in (("mousePressed", x), ("mouseMoved", (x + to_x) / 2),
                         ("mouseMoved", to_x), ("mouseReleased", to_x)):  # fmt: skip
            await self.call("Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left",
                            buttons=1, clickCount=1)  # fmt: skip

    async def touch(self, kind: str, *places: tuple[float, float]) -> None:
        """Put fingers down, move or lift them: touchStart, touchMove or touchEnd."""
        points = [{"x": x, "y": y} for x, y in places]
        await self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    async def tap(self, x: float, y: float) -> None:
        """Touch a place of the window for a moment."""
        await self.touch("touchStart", (x, y))
        await self.touch("touchEnd")

    async def swipe(self, x: float, y: float, by: float) -> None:
        """Push the page up with a finger by so many pixels."""
        await self.touch("touchStart", (x, y))
        for step in range(1, 9):
            await self.touch("touchMove", (x, y - by * step / 8))
        await self.touch("touchEnd")


@asynccontextmanager
async def chromium() -> AsyncIterator[Tab]:
    """Start a browser with one page.

    Raises:
        FileNotFoundError: there is none.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise FileNotFoundError("no chromium to look at the page with")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            where = Path(folder) / "DevToolsActivePort"
            async with asyncio.timeout(WITHIN_S):
                while not where.exists() or not where.read_text().strip():
                    await asyncio.sleep(0.05)
            port = where.read_text().splitlines()[0]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
                    (tab,) = [t for t in await reply.json() if t["type"] == "page"]
                async with session.ws_connect(
                    tab["webSocketDebuggerUrl"], max_msg_size=64 << 20
                ) as socket:
                    yield Tab(socket)
        finally:
            process.terminate()
            await process.wait()
