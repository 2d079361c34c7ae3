"""Events and the condition by which `kubectl describe` shows why a gang waits.

A waiting gang is published when its reason changes, never when only a number does, and no more
often than the budget allows: a thousand gangs behind one blocked head must cost the API server
nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from scheduler.live.api import Api, ApiError
from scheduler.live.membership import LiveGang
from scheduler.live.status import GangView

log = logging.getLogger("muster.publish")
CONDITION = "muster.dev/Admitted"
STRATEGIC = "application/strategic-merge-patch+json"
LATE_S = 5.0  #: gangs admitted sooner need no condition
#: writes about waiting gangs; the burst is for a queue that builds up at once
PER_MINUTE, BURST = 4.0, 1000.0

_encode = msgspec.json.Encoder().encode


class Publisher:
    """Writes what people read about gangs. Losing a message loses nothing else."""

    def __init__(self, api: Api, identity: str) -> None:
        self._api = api
        self._identity = identity
        self._queue: asyncio.Queue[tuple[str, bytes, str]] = asyncio.Queue(maxsize=2000)
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._tokens = BURST
        self.active = False

    def wake(self) -> None:
        """Note that reasons may have changed."""
        self._wake.set()

    def forget(self, gang: LiveGang) -> None:
        """Note that a gang is gone."""

    def event(self, gang: LiveGang, reason: str, message: str) -> None:
        """Write a Kubernetes Event about a gang's owner, or its first pod."""
        if not self.active or not gang.pods:
            return
        pod = min(gang.pods.values(), key=lambda p: p.metadata.name)
        owner = pod.metadata.controller()
        regarding = {
            "kind": "Pod",
            "name": pod.metadata.name,
            "uid": pod.metadata.uid,
            "apiVersion": "v1",
        }
        if owner is not None:
            regarding = {
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "apiVersion": owner.api_version,
            }
        namespace = pod.metadata.namespace
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"muster.{os.getpid():x}.{time.time():.6f}.{next(self._numbers)}",
                "namespace": namespace,
            },
            "eventTime": now,
            "reportingController": "muster.dev/scheduler",
            "reportingInstance": self._identity[:128],
            "type": "Normal" if reason == "Started" else "Warning",
            "reason": reason,
            "action": reason,
            "note": message[:1000],
            "regarding": {**regarding, "namespace": namespace},
        }
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        self._put(path, _encode(body), "POST")

    def _put(self, path: str, body: bytes, method: str) -> None:
        try:
            self._queue.put_nowait((path, body, method))
        except asyncio.QueueFull:
            log.warning("messages dropped: the API server takes them too slowly")

    async def send(self) -> None:
        """Send what was put in the queue, for ever."""
        while True:
            path, body, method = await self._queue.get()
            content_type = STRATEGIC if method == "PATCH" else "application/json"
            try:
                await self._api.call(method, path, body, content_type=content_type)
            except ApiError as error:
                log.info("message not taken: %s", error)

    async def watch_reasons(
        self, gangs: Callable[[], list[LiveGang]], view: Callable[[LiveGang], GangView]
    ) -> None:
        """Put the condition on gangs whose reason changed, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(1.0)
            self._wake.clear()
            if not self.active:
                continue
            self._tokens = min(BURST, self._tokens + PER_MINUTE / 60)
            left = False
            for gang in gangs():
                seen = view(gang)
                told = f"{seen.phase} {seen.reason} {gang.problem}"
                if told == gang.told:
                    continue
                if not gang.told and (seen.waited_s < LATE_S or seen.phase != "waiting"):
                    left = left or seen.phase == "waiting"
                    continue
                if self._tokens < 1:
                    left = True
                    break
                self._tokens -= 1
                gang.told = told
                self._condition(gang, seen)
            if left:
                self._wake.set()

    def _condition(self, gang: LiveGang, seen: GangView) -> None:
        """Put one condition on the gang's first pod."""
        pods = gang.live_pods()
        if not pods:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        condition = {
            "type": CONDITION,
            "status": "False" if seen.phase in ("waiting", "degraded") else "True",
            "reason": (seen.reason or seen.phase).title().replace("_", ""),
            "message": f"gang {gang.name} {seen.text}"[:1000],
            "lastTransitionTime": now,
        }
        meta = pods[0].metadata
        path = f"/api/v1/namespaces/{meta.namespace}/pods/{meta.name}/status"
        body = {"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}}
        self._put(path, _encode(body), "PATCH")
