"""The certificate of the verbs: renewed without a restart, and demanded beyond loopback."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509

from scheduler.controller.settings import ServeSettings, load
from scheduler.controlplane.certificates import Authority
from scheduler.controlplane.processes import free_ports
from scheduler.extender.certificates import Certificates
from scheduler.live.doors import Bounds, Door, server_behind


class Files:
    """Where muster reads its certificate, and somebody renews it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tls"
        self.folder.mkdir()
        paths = [str(self.folder / name) for name in ("tls.crt", "tls.key", "ca.crt")]
        self.settings = ServeSettings("127.0.0.1", free_ports(1)[0], *paths)

    def renew(self, authority: Authority) -> bytes:
        """Put a new pair and its authority there; return the certificate."""
        crt, key = authority.issue("muster")
        for name, path in (("tls.crt", crt), ("tls.key", key), ("ca.crt", authority.path)):
            (self.folder / name).write_bytes(path.read_bytes())
        return ssl.PEM_cert_to_DER_cert(crt.read_text())


def client(authority: Authority, trusts: Authority) -> ssl.SSLContext:
    """Return what a client needs that has a certificate of one authority and trusts another."""
    context = ssl.create_default_context(cafile=str(trusts.path))
    context.load_cert_chain(*authority.issue("kube-scheduler"))
    return context


class Connection:
    """A connection that is kept open."""

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext) -> Connection:
        """Connect."""
        found = cls()
        found._reader, found._writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        shown = found._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        found.shown: bytes = shown
        return found

    async def ask(self) -> bytes:
        """Return the body of an answer."""
        self._writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 10)
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        return await self._reader.readexactly(int(length[1]))

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


@asynccontextmanager
async def served(files: Files) -> AsyncIterator[Certificates]:
    """Serve as muster does."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"well"})

    certificates = Certificates(files.settings)
    door = Door(Bounds(), certificates)
    server = server_behind(door, app, files.settings.host, files.settings.port)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield certificates
    finally:
        server.should_exit = True
        await task


def test_files_that_change_are_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    files = Files(tmp_path)
    first = files.renew(old)
    port = files.settings.port

    async def story() -> None:
        async with served(files) as certificates:
            kept = await Connection.open(port, client(old, old))
            assert (await kept.ask(), kept.shown) == (b"well", first)
            assert not certificates.look(), "nothing changed"
            second = files.renew(old)
            assert certificates.look() and second != first
            again = await Connection.open(port, client(old, old))
            assert (await again.ask(), again.shown) == (b"well", second)
            assert await kept.ask() == b"well", "what is open stays"

            third = files.renew(new)
            assert certificates.look()
            other = await Connection.open(port, client(new, new))
            assert (await other.ask(), other.shown) == (b"well", third)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await (await Connection.open(port, client(old, new))).ask()

            (files.folder / "tls.key").write_text("half a ke")
            assert not certificates.look()
            assert "keeping the old certificates" in caplog.text
            (files.folder / "tls.key").unlink()
            assert not certificates.look()
            still = await Connection.open(port, client(new, new))
            assert (await still.ask(), still.shown) == (b"well", third)
            ends = x509.load_der_x509_certificate(third).not_valid_after_utc.timestamp()
            assert certificates.expires_unix_s["cert"] == ends
            assert certificates.expires_unix_s.keys() == {"cert", "client_ca"}
            for connection in (kept, again, other, still):
                connection.close()

    uvloop.run(story())


def test_files_that_cannot_be_used_are_named_at_the_start(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with pytest.raises(ValueError, match=r"tls\.crt: No such file"):
        Certificates(files.settings)
    files.renew(Authority(tmp_path / "old"))
    key = Authority(tmp_path / "new").issue("muster")[1]
    (files.folder / "tls.key").write_bytes(key.read_bytes())
    with pytest.raises(ValueError, match=r"tls\.key.*matching pair"):
        Certificates(files.settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('host = "0.0.0.0"', "not a loopback address"),
        ('host = "0.0.0.0"\ncert = "a"\nkey = "b"', "give all three"),
        ('host = "muster.local"\ncert = "a"\nkey = "b"', "not a loopback address"),
        ('cert = "a"', "one of cert and key"),
        ('client_ca = "a"', "neither cert nor key"),
        ('host = "::1"', ""),
        ('host = "localhost"', ""),
        ('host = "::"\ncert = "a"\nkey = "b"\nclient_ca = "c"', ""),
    ],
)
def test_verbs_are_not_served_to_everybody(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "muster.toml"
    path.write_text(f"[serve]\n{text}\n")
    if says:
        with pytest.raises(ValueError, match=f"muster.toml: .*{says}"):
            load(path)
    else:
        assert load(path).serve.port == 8443
