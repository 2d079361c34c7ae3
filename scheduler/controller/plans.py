"""Plan records: which rank goes to which node, written before any pod is released.

One ConfigMap per plan, in a namespace that holds nothing else. It is created before the release, so
that a restarted muster knows what its predecessor promised; its resource version is the
compare-and-swap that lets only one of two leaders commit.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec

from scheduler.controller.membership import LiveGang
from scheduler.kube.api import MERGE, Api, ApiError, Turn
from scheduler.kube.objects import PLAN_LABEL, Thing
from scheduler.kube.reading import UNREADABLE
from scheduler.workloads.gangs import GangKey, Rank, Source

log = logging.getLogger("muster.plans")
FORMAT = "1"
AGES = "muster-ages"  #: name of the ConfigMap beside the records
ERASE_AGAIN_S = 5.0
#: a record up to this long is written as it is, one that is longer under `PACKED`
PLAIN_BYTES, PACKED = 600_000, "plan.json.zlib"
MOST_BYTES = 64 << 20  #: of a record that was compressed


class SlotRecord(msgspec.Struct, array_like=True):
    """The record of one slot."""

    role: str
    number: int
    pod: str
    node: str
    uid: str
    ran: bool = True  #: when this was written; earlier versions did not say
    by: str = ""  #: as a rank has it; earlier versions did not say


class PlanRecord(msgspec.Struct):
    """The record of a plan."""

    unit: str  #: name of the gang; in records of earlier versions of a part of it, `NAME+1`
    key: tuple[str, str, str, str]
    generation: int
    epoch: str  #: identity of the leader that made it
    slots: list[SlotRecord]
    format: str = FORMAT
    started: bool = False  #: its gang ran whole before; earlier versions did not say

    def gang(self) -> GangKey:
        """Return the identity of the gang."""
        namespace, name, source, owner = self.key
        return GangKey(namespace, name, Source(source), owner)

    def ranks(self) -> dict[Rank, SlotRecord]:
        """Return the slots by rank."""
        return {Rank(slot.role, slot.number, slot.pod, slot.by): slot for slot in self.slots}


def record_name(gang: str) -> str:
    """Return the name of the ConfigMap of a gang."""
    return f"muster-plan-{hashlib.sha256(gang.encode()).hexdigest()[:20]}"


def records_of(namespace: str) -> str:
    """Return where the records in a namespace are listed."""
    return f"/api/v1/namespaces/{namespace}/configmaps"


@contextmanager
def suppress_codes(*codes: int) -> Iterator[None]:
    """Treat a refusal with one of these codes as an answer."""
    try:
        yield
    except ApiError as error:
        if error.code not in codes:
            raise


class PlanRecords:
    """The records in the API."""

    def __init__(self, api: Api, namespace: str, epoch: str) -> None:
        self._api = api
        self._path = records_of(namespace)
        self.epoch = epoch
        self._versions: dict[str, str] = {}
        self._ages_version = ""
        self._again = asyncio.Lock()  #: one record after the other is tried again

    @property
    def path(self) -> str:
        """Where records are listed."""
        return self._path

    async def write(self, gang: LiveGang, unless: Callable[[], str] | None = None) -> None:
        """Record which rank of a gang has which node, replacing the earlier record.

        Raises:
            ApiError: 409 if another leader wrote meanwhile, or for a reason of `unless`, which is
                asked before each try; others as the API server has them.
        """
        plan = PlanRecord(
            unit=gang.name,
            key=(gang.key.namespace, gang.key.name, str(gang.key.source), gang.key.owner),
            generation=gang.generation,
            epoch=self.epoch,
            slots=[
                SlotRecord(*s.rank[:3], s.node, s.uid, s.is_bound, s.rank.by)
                for s in gang.slots
                if s.is_held
            ],
            started=bool(gang.started_min),
        )
        name = record_name(gang.name)
        written = await _packed(msgspec.json.encode(plan))
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {PLAN_LABEL: "true"}},
            **written,
        }
        known = self._versions.get(gang.name)
        if known is None:
            try:
                reply = await self._api.persist("POST", self._path, body, unless=unless)
            except ApiError as error:
                if error.code != 409:
                    raise
                # a write whose answer was lost looks like somebody else's
                known = await self._mine(gang.name)
                if known is None:
                    raise
        if known is not None:
            body = {"data": {"plan": None}, "binaryData": {PACKED: None}} | written
            try:
                reply = await self._swap(gang.name, known, body, unless)
            except ApiError as error:
                if error.code != 404:
                    raise
                await self.write(gang, unless)  # somebody removed it
                return
        self._versions[gang.name] = _written.decode(reply).metadata.resource_version

    async def commit(
        self,
        gang: LiveGang,
        generation: int,
        *,
        turn: Turn = Turn.WRITE,
        unless: Callable[[], str] | None = None,
    ) -> None:
        """Mark a plan as being carried out; only one of two leaders succeeds.

        Raises:
            ApiError: 409 if the record is not the one this leader wrote, 404 if somebody removed
                it, or 409 for a reason of `unless`.
        """
        # the generation, because a record outlives it and the annotation stays
        mark = f"{generation} {self.epoch}"
        body = {"metadata": {"annotations": {"muster.dev/committed": mark}}}
        version = self._versions.get(gang.name)
        if version is None:
            raise ApiError(404, f"its plan record {record_name(gang.name)} is gone")
        reply = await self._swap(gang.name, version, body, unless, turn)
        if self._versions.get(gang.name) == version:  # else it was erased or written meanwhile
            self._versions[gang.name] = _written.decode(reply).metadata.resource_version

    async def _swap(
        self,
        name: str,
        version: str,
        body: dict[str, Any],
        unless: Callable[[], str] | None = None,
        turn: Turn = Turn.WRITE,
    ) -> bytes:
        """Change a record if it is still of this version, or of one that this leader wrote since.

        Raises:
            ApiError: 409 if another leader wrote meanwhile; 404 if somebody removed it, and the
                next write makes it anew.
        """
        path = f"{self._path}/{record_name(name)}"
        meta = body.get("metadata", {})
        patch = partial(self._api.persist, content_type=MERGE, unless=unless, turn=turn)
        try:
            body["metadata"] = {**meta, "resourceVersion": version}
            return await patch("PATCH", path, body)
        except ApiError as error:
            if error.code == 404:
                self._versions.pop(name, None)
            mine = await self._mine(name, turn) if error.code == 409 else None
            if mine is None or mine == version:
                raise
        body["metadata"] = {**meta, "resourceVersion": mine}
        return await patch("PATCH", path, body)

    async def _mine(self, name: str, turn: Turn = Turn.WRITE) -> str | None:
        """Return the version of a record if this leader wrote it."""
        try:
            reply = await self._api.persist("GET", f"{self._path}/{record_name(name)}", turn=turn)
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        try:
            found = _written.decode(reply)
            plan = _unpacked(found)
        except UNREADABLE:
            return None
        return found.metadata.resource_version if plan.epoch == self.epoch else None

    async def erase(self, name: str, leads: Callable[[], bool]) -> None:
        """Delete a record, retrying until the API server accepts that; it may be gone already.

        If this replica stops leading first, the next leader deletes the record, or carries it out.
        """
        version = self._versions.pop(name, None)
        if await self._erased(name, version, leads):
            return
        async with self._again:  # those that are left by an outage would prolong it
            while not await self._erased(name, version, leads):
                await asyncio.sleep(ERASE_AGAIN_S)

    async def _erased(self, name: str, version: str | None, leads: Callable[[], bool]) -> bool:
        """Try once to remove a record of this version; True if it is gone, or another's."""

        def unless() -> str:
            return (
                "" if leads() and name not in self._versions else "a new plan replaced the record"
            )

        if unless():
            return True
        try:
            # the answer to a write may have been lost
            version = version or await self._mine(name)
            if version is not None:
                body = {"preconditions": {"resourceVersion": version}}
                path = f"{self._path}/{record_name(name)}"
                await self._api.call("DELETE", path, body, unless=unless)
        except ApiError as error:
            if error.code == 409 and not unless():
                mine = await self._mine(name)
                if mine not in (None, version):
                    return await self._erased(name, mine, leads)
            elif error.code not in (404, 409):
                log.warning("plan record not removed yet: %s", error, extra={"gang": name})
            return error.code in (404, 409)
        return True

    async def move_from(self, namespace: str) -> None:
        """Move records here that an earlier version left in another namespace."""
        there = records_of(namespace)
        if there == self._path:
            return
        here: dict[str, str] = {}
        items = await self._all(there)
        if items:
            found = [item["metadata"] for item in await self._all(self._path)]
            here = {meta["name"]: meta["resourceVersion"] for meta in found}
        for item in items:
            meta = item["metadata"]
            name, old = meta["name"], here.get(meta["name"])
            if old is not None and _is_newer(meta["resourceVersion"], old):
                # left here before an earlier version came back for a while
                stale = {"preconditions": {"resourceVersion": old}}
                with suppress_codes(404, 409):
                    await self._api.persist("DELETE", f"{self._path}/{name}", stale)
            kept: dict[str, Any] = {key: item[key] for key in ("data", "binaryData") if key in item}
            body: dict[str, Any] = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "labels": meta["labels"]},
                **kept,
            }
            try:
                with suppress_codes(409):  # it was moved before, or a newer one is here
                    await self._api.persist("POST", self._path, body)
            except ApiError as error:
                if error.code not in (403, 404):
                    raise
                log.error(  # the others would be refused alike, and none is lost
                    "cannot move plan records of an earlier version from %s to %s: %s; create "
                    "that namespace with muster's rights in it, and restart muster",
                    namespace, self._path.split("/")[4], error,
                )  # fmt: skip
                return
            seen = {"preconditions": {"resourceVersion": meta["resourceVersion"]}}
            with suppress_codes(404, 409):
                await self._api.persist("DELETE", f"{there}/{name}", seen)

    async def _all(self, path: str) -> list[dict[str, Any]]:
        reply = await self._api.persist("GET", f"{path}?labelSelector={PLAN_LABEL}%3Dtrue")
        items: list[dict[str, Any]] = msgspec.json.decode(reply)["items"]
        return items

    async def read_all(self) -> tuple[list[PlanRecord], list[str]]:
        """Return the existing records, and the names of those that cannot be read."""
        reply = await self._api.persist("GET", f"{self._path}?labelSelector={PLAN_LABEL}%3Dtrue")
        plans: list[PlanRecord] = []
        unreadable: list[str] = []
        for item in _listed.decode(reply).items:
            try:
                plan = _unpacked(item)
                if plan.format != FORMAT:
                    raise ValueError(f"format {plan.format!r}")
                plan.gang()
            except UNREADABLE:
                unreadable.append(item.metadata.name)
                continue
            self._versions[plan.unit] = item.metadata.resource_version
            plans.append(plan)
        return plans, unreadable

    async def read_ages(self) -> str:
        """Return the last stored ages of evicted gangs."""
        try:
            found = _written.decode(await self._api.persist("GET", f"{self._path}/{AGES}"))
        except ApiError as error:
            if error.code != 404:
                raise
            self._ages_version = ""
            return ""
        self._ages_version = found.metadata.resource_version
        return found.data.get("ages", "")

    async def write_ages(self, text: str) -> None:
        """Store the ages, replacing the earlier ones.

        Raises:
            ApiError: 409 if another leader writes.
        """
        body: dict[str, Any] = {"metadata": {"name": AGES}, "data": {"ages": text}}
        for again in (True, False):
            try:
                if self._ages_version:
                    body["metadata"]["resourceVersion"] = self._ages_version
                    path = f"{self._path}/{AGES}"
                    reply = await self._api.persist("PATCH", path, body, content_type=MERGE)
                else:
                    reply = await self._api.persist("POST", self._path, body)
            except ApiError as error:
                if not again or error.code not in (404, 409):
                    raise
                # the answer to an earlier write may have been lost, or somebody removed it
                await self.read_ages()
            else:
                self._ages_version = _written.decode(reply).metadata.resource_version
                return

    async def erase_named(self, name: str) -> None:
        """Remove a record that cannot be read; it may be gone already."""
        with suppress_codes(404):
            await self._api.persist("DELETE", f"{self._path}/{name}")


def _is_newer(version: str, other: str) -> bool:
    """True if a ConfigMap was written after another; those of one API server are counted alike."""
    return version.isdecimal() and other.isdecimal() and int(version) > int(other)


async def _packed(plan: bytes) -> dict[str, Any]:
    """Return a record's part of a ConfigMap, which holds 1 MiB: a long one is compressed."""
    if len(plan) <= PLAIN_BYTES:
        return {"data": {"plan": plan.decode()}}
    small = await asyncio.to_thread(zlib.compress, plan)
    return {"binaryData": {PACKED: base64.b64encode(small).decode()}}


def _unpacked(item: Thing) -> PlanRecord:
    """Return the plan in a ConfigMap.

    Raises:
        ValueError: it cannot be read.
    """
    plan = item.data.get("plan", "").encode()
    if small := item.binary_data.get(PACKED):
        unpack = zlib.decompressobj()
        try:
            plan = unpack.decompress(base64.b64decode(small), MOST_BYTES)
        except zlib.error as error:
            raise ValueError(str(error)) from None
    return msgspec.json.decode(plan, type=PlanRecord)


class _Listed(msgspec.Struct):
    items: list[Thing]


_written = msgspec.json.Decoder(Thing)
_listed = msgspec.json.Decoder(_Listed)
