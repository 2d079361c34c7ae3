"""What goes on beside the tests: an observer of the API, and a proxy that muster can be put behind.

Both run in a thread of their own, for as long as the cluster does.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from scheduler.controlplane.record import Cluster
from tests.chaos.observer import GROUPS, JOBS, PLANS, Limits, Observer, num_filters
from tests.chaos.proxy import Proxy
from tests.chaos.wire import Wire

T = TypeVar("T")


class Watcher:
    """The observer and the proxy of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._well_s = 0.0
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._up = threading.Event()
        # tests leave pods of nobody's scheduler about, and limits must hold on busy machines
        self.observer = Observer(lambda: self._well_s, {}, Limits(released_s=120.0))
        self._loop: asyncio.AbstractEventLoop
        self._down: asyncio.Event
        self.proxy: Proxy
        self.url = ""  #: of the proxy

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(30), "the observer started"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "the observer ended"
        self.observer.end()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the thread of the proxy."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        self._loop, self._down = asyncio.get_running_loop(), asyncio.Event()
        cluster, keys = self.cluster, self.cluster.dir / "certificates"
        async with Wire(cluster.api_url, cluster.kubeconfig, keys / "ca.crt") as wire:
            crt, key = (str(keys / f"muster.{kind}") for kind in ("crt", "key"))
            self.proxy = Proxy(wire, crt, key, random.Random(1))
            self.url = await self.proxy.start()
            kinds = {
                "/api/v1/nodes": self.observer.on_node,
                GROUPS: self.observer.on_group,
                JOBS: self.observer.on_job,
                "/api/v1/pods": self.observer.on_pod,
                PLANS: self.observer.on_plan,
            }
            work = [
                asyncio.ensure_future(self.observer.watch(wire, path, handle))
                for path, handle in kinds.items()
            ]
            work.append(asyncio.ensure_future(self._look()))
            self._up.set()
            ended, _ = await asyncio.wait(
                (*work, asyncio.ensure_future(self._down.wait())),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in ended:
                task.result()  # an observer that fell over is no observer
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            await self.proxy.stop()

    async def _look(self) -> None:
        """Advance the observer's clock while all is well."""
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(0.5)
            if await asyncio.to_thread(self._well):
                self._well_s += time.monotonic() - before_s
                # muster may be killed while it answers
                with contextlib.suppress(OSError, http.client.HTTPException):
                    url = self.cluster.status_url
                    self.observer.count_filters(await asyncio.to_thread(num_filters, url))
            self.observer.look()

    def _well(self) -> bool:
        return all(self.cluster.healthy(process.name) for process in list(self.cluster.processes))


def send_through(cluster: Cluster, url: str) -> None:
    """Let muster find the API server at another address from its next start on."""
    path = cluster.dir / "muster.kubeconfig"
    config = json.loads(path.read_text())
    config["clusters"][0]["cluster"]["server"] = url
    path.write_text(json.dumps(config))
