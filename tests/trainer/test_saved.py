"""What the trainer tells its pod of its checkpoints, and that nothing depends on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import certifi
import msgspec
import pytest

from scheduler.kube.objects import SAVED as READ
from scheduler.kube.objects import Pod
from trainer.saved import SAVED, Saved


class Server:
    """An API server that keeps what is written and answers with a code."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.code = 200
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_PATCH(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = dict(self.headers.items())
                server.asked.append((self.command, self.path, headers, json.loads(body)))
                self.send_response(server.code)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/api/v1/namespaces/n/pods/train-0"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def times(self) -> list[str]:
        return [body["metadata"]["annotations"][SAVED] for *_, body in self.asked]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("secret\n")
    return path


def tell(saved: Saved, unix_s: float) -> None:
    thread = saved.note(unix_s)
    assert thread is not None
    thread.join(20.0)


def test_the_time_stands_on_the_pod_as_muster_reads_it(server: Server, token: Path) -> None:
    saved = Saved(server.url, token)
    tell(saved, 1_800_000_000.25)
    ((method, path, headers, body),) = server.asked
    assert (method, path) == ("PATCH", "/api/v1/namespaces/n/pods/train-0")
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert SAVED == READ
    pod = msgspec.convert({**body, "spec": {"containers": []}}, Pod)
    assert pod.saved_unix_s == 1_800_000_000.25


def test_an_earlier_time_takes_nothing_back(server: Server, token: Path) -> None:
    saved = Saved(server.url, token)
    for unix_s in (2000.0, 1000.0):
        tell(saved, unix_s)
    assert server.times() == ["1970-01-01T00:33:20.000Z"] * 2


@pytest.mark.parametrize("code", [401, 403, 404])
def test_who_may_not_asks_once_and_says_so(
    server: Server, token: Path, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = Saved(server.url, token)
    server.code = code
    tell(saved, 1.0)
    assert saved.note(2.0) is None
    assert len(server.asked) == 1
    assert f"{SAVED} is not written ({code})" in capsys.readouterr().err


@pytest.mark.parametrize("trouble", ["busy", "gone", "no token"])
def test_a_cluster_in_trouble_is_told_the_next_time(
    server: Server, token: Path, trouble: str
) -> None:
    url = "http://127.0.0.1:9/nobody" if trouble == "gone" else server.url
    saved = Saved(url, token.with_name("none") if trouble == "no token" else token)
    server.code = 503
    tell(saved, 1.0)
    tell(saved, 2.0)
    assert len(server.asked) == (2 if trouble == "busy" else 0)


def test_a_pod_knows_itself_by_its_account(tmp_path: Path) -> None:
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "HOSTNAME": "train-0"}
    assert Saved.of_pod(env, tmp_path) is None, "no account is mounted"
    (tmp_path / "namespace").write_text("team-a")
    (tmp_path / "token").write_text("secret")
    assert Saved.of_pod(env, tmp_path) is None, "no certificate to trust"
    (tmp_path / "ca.crt").write_text(Path(certifi.where()).read_text())
    found = Saved.of_pod(env, tmp_path)
    assert found is not None
    assert found._pod_url == "https://[fd00::1]:443/api/v1/namespaces/team-a/pods/train-0"
    assert Saved.of_pod({}, tmp_path) is None
