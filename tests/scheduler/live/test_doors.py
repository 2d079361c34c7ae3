"""The sockets hold out against whoever reaches them, and answer the others meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from scheduler.controller.settings import ServeSettings
from scheduler.controlplane.certificates import Authority
from scheduler.extender.certificates import Certificates
from scheduler.live.doors import Bounds, Door, server_behind

SHORT = Bounds(connections=20, head_s=0.3, handshake_s=0.3, answer_s=0.6, idle_s=0.5)
ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer; /slow never does, /long without end."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/slow":
        await asyncio.sleep(60)
    for _ in range(10_000 if scope["path"] == "/long" else 0):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def served(door: Door) -> AsyncIterator[int]:
    """Serve on a port of this machine."""
    server = server_behind(door, app, "127.0.0.1", 0)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield door.port
    server.should_exit = server.force_exit = True
    await task


async def answer(port: int, asked: bytes = ASK, tls: Any = None) -> bytes:
    """Ask, and return what comes."""
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    writer.write(asked)
    try:
        return await asyncio.wait_for(reader.readuntil(b"ok"), 5.0)
    finally:
        writer.close()


async def closed_after_s(reader: asyncio.StreamReader) -> float:
    """Return after how many seconds the other side closed."""
    began_s = time.perf_counter()
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 5.0)
    return time.perf_counter() - began_s


def story(run: Callable[[int, Door], Awaitable[None]], bounds: Bounds = SHORT) -> None:
    """Run a test's story against a server, in the event loop that muster has."""

    async def whole() -> None:
        door = Door(bounds)
        async with served(door) as port:
            assert b"200 OK" in await answer(port)
            await run(port, door)
            assert b"200 OK" in await answer(port), "others are served"

    uvloop.run(whole())


CHUNKED = b"POST /slow HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"


@pytest.mark.parametrize(
    "what",
    ["a header", "headers", "an address", "after another", "after a body", "one after a body"],
)
def test_a_head_without_end_is_cut_off(what: str) -> None:
    async def run(port: int, door: Door) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.set_write_buffer_limits(high=0)
        begin, more = {
            "a header": (b"GET / HTTP/1.1\r\nx: ", b"x" * 4096),
            "headers": (b"GET / HTTP/1.1\r\n", b"x: y\r\n" * 700),
            "an address": (b"GET /", b"x" * 4096),
            "after a body": (CHUNKED + b"0\r\n", b"x: y\r\n" * 700),
            "one after a body": (CHUNKED + b"0\r\nx: ", b"x" * 4096),
            "after another": (b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nx: ", b"x"),
        }[what]
        more = more * 4096 if len(more) == 1 else more
        sent: list[int] = []

        async def send() -> None:
            writer.write(begin)
            while sum(sent) < 100 << 20:
                writer.write(more)
                await asyncio.wait_for(writer.drain(), 5.0)
                sent.append(len(more))
                await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            await send()
        assert sum(sent) < 20 << 20, "what the sockets of both sides hold"

    story(run, Bounds())


def test_a_large_body_is_taken() -> None:
    async def run(port: int, door: Door) -> None:
        length = 20 * door.bounds.head_bytes
        head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        assert b"200 OK" in await answer(port, head.encode() + b"x" * length)

    story(run, Bounds())


def test_a_large_head_is_refused_at_once() -> None:
    async def run(port: int, door: Door) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000 + b"\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"200 OK" not in await asyncio.wait_for(reader.read(), 5.0)
        writer.close()

    story(run, Bounds())


@pytest.mark.parametrize("sent", [b"", b"GET / HT", ASK[:-2], ASK + b"GET "])
def test_half_a_request_is_not_waited_for(sent: bytes) -> None:
    async def run(port: int, door: Door) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await closed_after_s(reader) < 4.5
        writer.close()

    story(run)


def test_one_byte_now_and_then_prolongs_nothing() -> None:
    async def run(port: int, door: Door) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began_s = time.perf_counter()
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof() and time.perf_counter() - began_s < 9.0:
                writer.write(b"G" if time.perf_counter() == began_s else b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        assert time.perf_counter() - began_s < 6.0
        writer.close()

    story(run)


def test_an_answer_that_nobody_reads_ends() -> None:
    async def run(port: int, door: Door) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
        began_s = time.perf_counter()
        while len(door.inside) > 1 or time.perf_counter() - began_s < 0.2:
            await asyncio.sleep(0.05)
            assert time.perf_counter() - began_s < 6.0
        writer.close()

    story(run)


def test_many_half_requests_keep_nobody_out() -> None:
    """Three times as many connections as there may be: the oldest make room."""

    async def run(port: int, door: Door) -> None:
        writers = []
        for _ in range(3 * 20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ASK[:10])
            writers.append(writer)
            assert b"200 OK" in await answer(port)
            assert len(door.inside) <= 20
        for writer in writers:
            writer.close()

    story(run, Bounds(connections=20, head_s=30.0))


def test_who_does_not_read_the_answer_keeps_nobody_out() -> None:
    """Three times as many as may be: who came first goes, and health is told all the while."""

    async def run(port: int, door: Door) -> None:
        busy = []
        for _ in range(3 * 20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b"200 OK"), 5.0)
            busy.append((reader, writer))
            assert b"200 OK" in await answer(port)
        assert len(door.inside) <= 20
        assert not any(reader.at_eof() for reader, _ in busy[-15:]), "others are answered on"
        for _, writer in busy:
            writer.close()
        await asyncio.sleep(0.2)

    story(run, Bounds(connections=20, head_s=30.0))


def test_an_upgrade_leaves_no_bound_behind() -> None:
    async def run(port: int, door: Door) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        )
        assert b"101" not in await asyncio.wait_for(reader.readline(), 5.0)
        assert await closed_after_s(reader) < 4.5
        writer.close()

    story(run)


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Certificates, ssl.SSLContext]:
    """Return what is served, and what a client has that may ask."""
    authority = Authority(tmp_path)
    authority.issue("muster", "127.0.0.1")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.check_hostname = False
    client.load_cert_chain(tmp_path / "muster.crt", tmp_path / "muster.key")
    names = {"cert": "muster.crt", "key": "muster.key", "client_ca": "ca.crt"}
    served = ServeSettings(**{key: str(tmp_path / name) for key, name in names.items()})  # type: ignore[arg-type]
    return Certificates(served), client


def test_handshakes_are_bounded_and_keep_nobody_out(
    certificates: tuple[Certificates, ssl.SSLContext],
) -> None:
    served_by, client = certificates

    async def whole() -> None:
        door = Door(SHORT, served_by)
        async with served(door) as port:
            stalled = []
            for number in range(3 * 20):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                if number % 2:
                    writer.write(b"\x16\x03\x01\x02\x00")  # of a handshake, the beginning
                stalled.append((reader, writer))
                assert len(door.inside) <= 20
            assert b"200 OK" in await answer(port, tls=client)
            for reader, writer in stalled:
                assert await closed_after_s(reader) < 4.5
                writer.close()
            bare = ssl.create_default_context()
            bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await answer(port, tls=bare)  # without a certificate
            assert b"200 OK" in await answer(port, tls=client)
            await asyncio.sleep(0.1)
            assert not door.inside or len(door.inside) <= 1

    uvloop.run(whole())


def test_a_client_without_a_certificate_asks_nothing(
    certificates: tuple[Certificates, ssl.SSLContext],
) -> None:
    async def whole() -> None:
        async with served(Door(SHORT, certificates[0])) as port:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await answer(port)

    uvloop.run(whole())
