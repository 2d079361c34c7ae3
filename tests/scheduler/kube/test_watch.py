"""An informer and a lease against a small API server on loopback."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from scheduler.kube.api import Api
from scheduler.kube.lease import Lease
from scheduler.kube.objects import Thing
from scheduler.kube.watch import Change, Informer
from tests.scheduler.kube.serving import serving


class Server:
    """Lists and watches one kind, and keeps one Lease with its resource version."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.changes: asyncio.Queue[bytes] = asyncio.Queue()
        self.lease: dict[str, Any] | None = None
        self.odd: bytes | None = None  #: in place of a Lease
        self.slow = asyncio.Event()  #: answers wait for it
        self._versions = itertools.count(1)

    async def slowly(self, _: web.Request) -> web.Response:
        """Answer once that is allowed."""
        await self.slow.wait()
        return web.json_response({})

    async def things(self, request: web.Request) -> web.StreamResponse:
        """Answer a list or a watch."""
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": self.items})
        reply = web.StreamResponse()
        await reply.prepare(request)
        while True:
            await reply.write(await self.changes.get() + b"\n")

    async def leases(self, request: web.Request) -> web.Response:
        """Keep the Lease; a patch of another version than the last is refused."""
        reply = await self._lease(request)
        return reply if self.odd is None else web.Response(body=self.odd)

    async def _lease(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            if self.lease is None:
                return web.json_response({"message": "not found"}, status=404)
            return web.json_response(self.lease)
        body = await request.json()
        if request.method == "POST" and self.lease is not None:
            return web.json_response({"message": "there is one"}, status=409)
        if request.method == "PATCH":
            if self.lease is None:
                return web.json_response({"message": "not found"}, status=404)
            known = self.lease["metadata"]["resourceVersion"]
            if body.setdefault("metadata", {}).pop("resourceVersion", known) != known:
                return web.json_response({"message": "conflict"}, status=409)
            body = {"metadata": {}, "spec": {**self.lease["spec"], **body["spec"]}}
        body["metadata"]["resourceVersion"] = str(next(self._versions))
        self.lease = body
        return web.json_response(body)


def served(story: Callable[[Server, Api], Awaitable[None]]) -> None:
    """Run a test's story with a server of its own."""

    async def run() -> None:
        server, app = Server(), web.Application()
        app.router.add_get("/things", server.things)
        app.router.add_post("/slow", server.slowly)
        leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases"
        app.router.add_route("*", leases, server.leases)
        app.router.add_route("*", f"{leases}/muster", server.leases)
        async with serving(app) as url, Api(Configuration(host=url)) as api:
            await asyncio.wait_for(story(server, api), 20)

    asyncio.run(run())


def thing(name: str, spec: Any, version: int = 1) -> dict[str, Any]:
    """Return an object as the API server has it."""
    meta = {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": spec}


def change(kind: str, item: dict[str, Any]) -> bytes:
    """Return a line of a watch."""
    return json.dumps({"type": kind, "object": item}).encode()


def test_one_odd_object_does_not_end_the_watch_of_all_others() -> None:
    async def story(server: Server, api: Api) -> None:
        heard: list[tuple[str, str]] = []
        last = asyncio.Event()

        def handler(kind: Change, item: Thing) -> None:
            if item.metadata.name == "refused":
                raise KeyError("as if by a rule that nobody thought of")
            heard.append((str(kind), item.metadata.name))
            if item.metadata.name == "last":
                last.set()

        server.items = [thing("good", {}), thing("odd", "a text"), thing("refused", {})]
        informer = Informer(api, "/things", Thing, handler)
        watch = asyncio.create_task(informer.run())
        await informer.synced.wait()
        for line in (
            change("MODIFIED", thing("good", ["a list"], 2)),
            change("ADDED", thing("odder", 7, 3)),
            change("DELETED", thing("odder", 7, 4)),
            change("DELETED", thing("good", ["a list"], 5)),
            change("ADDED", thing("last", {}, 6)),
        ):
            server.changes.put_nowait(line)
        await last.wait()
        assert not watch.done()
        watch.cancel()
        assert heard == [("ADDED", "good"), ("DELETED", "good"), ("ADDED", "last")]
        assert informer.skipped == 6, "two of the list, two changes, and both ends of one object"

    served(story)


def test_lines_that_come_together_give_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.kube.watch.TURN_S", -1.0)

    async def story(server: Server, api: Api) -> None:
        turns, last, at = 0, asyncio.Event(), []

        def handler(kind: Change, item: Thing) -> None:
            at.append(turns)
            if item.metadata.name == "last":
                last.set()

        informer = Informer(api, "/things", Thing, handler)
        watch = asyncio.create_task(informer.run())
        await informer.synced.wait()
        lines = [change("ADDED", thing(f"t{at}", {}, at)) for at in range(50)]
        server.changes.put_nowait(b"\n".join([*lines, change("ADDED", thing("last", {}, 99))]))
        while not last.is_set():
            turns += 1
            await asyncio.sleep(0)
        watch.cancel()
        assert len(set(at)) == 51

    served(story)


async def takes(lease: Lease) -> asyncio.Task[None]:
    """Wait until a lease is taken; return what renews it."""
    renewing = asyncio.create_task(lease.run())
    await lease.acquired.wait()
    return renewing


def test_every_time_of_leading_has_an_epoch_of_its_own() -> None:
    """A process that follows one of the same name on the same host is another leader."""

    async def story(server: Server, api: Api) -> None:
        first = Lease(api, "n", "host-8443", lease_s=30.0, renew_s=0.05)
        dead = await takes(first)
        dead.cancel()
        second = Lease(api, "n", "host-8443", lease_s=30.0, renew_s=0.05)
        alive = await takes(second)
        assert first.epoch != second.epoch
        renewed = server.lease["metadata"]["resourceVersion"]  # type: ignore[index]
        while server.lease["metadata"]["resourceVersion"] == renewed:  # type: ignore[index]
            await asyncio.sleep(0.01)
        epoch = f"host-8443/{server.lease['spec']['leaseTransitions']}"  # type: ignore[index]
        assert second.epoch == epoch, "a renewal is no new time of leading"
        alive.cancel()

    served(story)


def test_a_stopped_leader_does_not_take_the_lease_back_from_its_successor_of_the_same_name() -> (
    None
):
    async def story(server: Server, api: Api) -> None:
        stopped = Lease(api, "n", "host-8443", lease_s=30.0, renew_s=0.05)
        renewing = await takes(stopped)
        renewing.cancel()  # as SIGSTOP does
        successor = Lease(api, "n", "host-8443", lease_s=30.0, renew_s=60.0)
        alive = await takes(successor)
        await stopped.run()  # goes on where it was, and ends
        assert stopped.lost.is_set() and not stopped.held
        assert successor.held
        alive.cancel()

    served(story)


def test_a_lease_is_renewed_while_a_burst_of_writes_waits() -> None:
    async def story(server: Server, api: Api) -> None:
        answers = asyncio.Event()
        server.slow = answers
        burst = [asyncio.create_task(api.call("POST", "/slow", {})) for _ in range(200)]
        await asyncio.sleep(0)
        lease = Lease(api, "n", "me", lease_s=30.0, renew_s=0.01)
        renewing = await takes(lease)
        first = server.lease and server.lease["metadata"]["resourceVersion"]
        while server.lease is None or server.lease["metadata"]["resourceVersion"] == first:
            await asyncio.sleep(0.01)
        assert not any(one.done() for one in burst)
        answers.set()
        await asyncio.gather(*burst)
        renewing.cancel()

    served(story)


def test_a_lease_that_another_has_taken_is_not_given_up() -> None:
    async def story(server: Server, api: Api) -> None:
        lease = Lease(api, "n", "me", lease_s=30.0, renew_s=10.0)
        renewing = await takes(lease)
        assert server.lease is not None
        server.lease["metadata"]["resourceVersion"] = "of another"
        server.lease["spec"]["holderIdentity"] = "another"
        await lease.give_up()
        assert server.lease["spec"]["holderIdentity"] == "another"
        renewing.cancel()

    served(story)


@pytest.mark.parametrize("first", ["its holder", "another"])
def test_a_lease_that_somebody_deletes_has_one_holder_at_once(first: str) -> None:
    async def story(server: Server, api: Api) -> None:
        lease = Lease(api, "n", "me", lease_s=30.0, renew_s=0.05)
        renewing = await takes(lease)
        epoch, server.lease = lease.epoch, None
        if first == "another":
            other = Lease(api, "n", "another", lease_s=30.0, renew_s=10.0)
            taking = await takes(other)
            await asyncio.wait_for(lease.lost.wait(), 5.0)
            assert not lease.held and other.held
            taking.cancel()
        else:
            while server.lease is None:
                await asyncio.sleep(0.01)
            assert lease.held and lease.epoch == epoch
        renewing.cancel()

    served(story)


@pytest.mark.parametrize("odd", [b"<html>maintenance</html>", b"", b"{}", b"[" * 9_999, b"\xff"])
@pytest.mark.parametrize("leads", [True, False])
def test_an_answer_that_is_no_lease_ends_nobody(odd: bytes, leads: bool) -> None:
    """A load balancer answers for the API server for a while."""

    async def story(server: Server, api: Api) -> None:
        lease = Lease(api, "n", "me", lease_s=30.0, renew_s=0.01)
        if leads:
            renewing = await takes(lease)
        else:
            renewing = asyncio.create_task(lease.run())
        server.odd = odd
        while not lease.trouble and not renewing.done():
            await asyncio.sleep(0.01)
        assert "not a Lease" in lease.trouble
        assert lease.held == leads
        server.odd = None
        while lease.trouble and not renewing.done():
            await asyncio.sleep(0.01)
        assert lease.held
        renewing.cancel()

    served(story)
