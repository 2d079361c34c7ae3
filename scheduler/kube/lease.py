"""Leadership by a Lease. Expiry is judged by the local monotonic clock, never by wall clocks.

The client library's elector compares wall-clock times and keeps the lease when it stops; a jump of
the clock or a rolling update would leave the cluster without a leader for the lease's length.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from scheduler.kube.api import MERGE, Api, ApiError, Turn
from scheduler.kube.reading import UNREADABLE

log = logging.getLogger("muster.lease")


class LeaseLostError(Exception):
    """Another replica leads, or may: this process must exit, and is restarted as the standby."""


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: float | None = None
    lease_transitions: int | None = None


class _Found(msgspec.Struct):
    """A Lease as the API server answers with it."""

    metadata: _Meta
    spec: _Spec | None = None


class Lease:
    """Holds the Lease `muster`, or waits for it."""

    def __init__(
        self, api: Api, namespace: str, identity: str, *, lease_s: float, renew_s: float
    ) -> None:
        self._api = api
        self._list = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._list}/muster"
        self._identity = identity
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._seen = ""  #: resource version of the holder's last renewal
        self._seen_s = 0.0
        self._mine = ""  #: resource version of the own last renewal
        self._renewed_s = -1e9
        self._transitions = 0
        self.trouble = ""  #: why it could last not be read or written; empty if it could
        self.acquired = asyncio.Event()
        self.lost = asyncio.Event()

    @property
    def held(self) -> bool:
        """True while no other replica can have taken it."""
        if not self.acquired.is_set() or self.lost.is_set():
            return False
        return asyncio.get_running_loop().time() < self._renewed_s + self._lease_s

    @property
    def epoch(self) -> str:
        """The unique name of this term of leadership."""
        return f"{self._identity}/{self._transitions}"

    async def run(self) -> None:
        """Take the lease and renew it; returns once it is lost."""
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                mine = await asyncio.wait_for(self._try(began_s), self._lease_s / 2)
                self.trouble = ""
            except (ApiError, TimeoutError) as error:
                mine = None
                self.trouble = str(error) or "no answer"
                log.warning("lease not renewed: %s", error)
            if mine:
                self._renewed_s = began_s
                self.acquired.set()
            elif self.acquired.is_set() and (mine is False or not self.held):
                log.error("lease lost")
                self.lost.set()
                return
            pause_s = self._renew_s if mine else min(2.0, self._renew_s)
            await asyncio.sleep(pause_s)

    async def _try(self, now_s: float) -> bool:
        """Take or renew; False if somebody else holds it."""
        renewed = {"metadata": {"resourceVersion": self._mine}, "spec": {"renewTime": _now()}}
        try:
            if self._mine and await self._write("PATCH", self._path, renewed):
                return True  # one write, no read, while nobody else touches it
        except ApiError as error:
            if error.code != 404:  # else somebody deleted it, and who makes it first leads
                raise
        self._mine = ""
        try:
            lease = _read(await self._api.call("GET", self._path, turn=Turn.NOW))
        except ApiError as error:
            if error.code != 404:
                raise
            if not self.acquired.is_set():
                self._transitions = 0
            body = {"metadata": {"name": "muster"}, "spec": self._spec(taken=True)}
            return await self._write("POST", self._list, body)
        spec = lease.spec or _Spec()
        holder, version = spec.holder_identity or "", lease.metadata.resource_version
        if holder not in ("", self._identity):
            if version != self._seen:
                self._seen, self._seen_s = version, now_s
            if now_s - self._seen_s < (spec.lease_duration_seconds or self._lease_s):
                return False
        transitions = spec.lease_transitions or 0
        taken = holder != self._identity or not self.acquired.is_set()
        if not taken and transitions != self._transitions:
            return False  # another process of this name has taken it since
        self._transitions = transitions + int(taken)
        body = {"metadata": {"resourceVersion": version}, "spec": self._spec(taken=taken)}
        return await self._write("PATCH", self._path, body)

    async def _write(self, method: str, path: str, body: dict[str, Any]) -> bool:
        content_type = MERGE if method == "PATCH" else "application/json"
        try:
            reply = await self._api.call(
                method, path, body, content_type=content_type, turn=Turn.NOW
            )
        except ApiError as error:
            if error.code == 409:
                return False
            raise
        self._mine = _read(reply).metadata.resource_version
        return True

    def _spec(self, *, taken: bool) -> dict[str, Any]:
        now = _now()
        spec: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._lease_s),
            "renewTime": now,
            "leaseTransitions": self._transitions,
        }
        if taken:
            spec["acquireTime"] = now
        return spec

    async def give_up(self) -> None:
        """Let the next replica take over at once."""
        if not self.held:
            return
        self.lost.set()
        try:
            # of the version that this replica wrote: another may lead already
            await self._write(
                "PATCH",
                self._path,
                {"metadata": {"resourceVersion": self._mine}, "spec": {"holderIdentity": None}},
            )
        except ApiError as error:
            log.warning("lease not released: %s", error)


def _read(reply: bytes) -> _Found:
    """Return the Lease of an answer; one that is none, as a proxy on the way gives, tells nothing.

    Raises:
        ApiError: 0, as without an answer.
    """
    try:
        return msgspec.json.decode(reply, type=_Found)
    except UNREADABLE as error:
        raise ApiError(0, f"the answer is not a Lease: {error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
