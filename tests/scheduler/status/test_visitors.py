"""Who may read the status port: whom the API server lets, or who is here."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from scheduler.kube.api import ApiError
from scheduler.status.visitors import KEPT_OUT_S, LET_IN_S, Guard, Visitors

#: what each token is for: its audience, its user, and whether they may
TOKENS = {
    "for-muster": ("muster.dev", "viewer", True),
    "own": ("api", "admin", True),
    "stranger": ("api", "stranger", False),
}


class Reviews:
    """Answers as an API server does."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.code = 0

    async def call(self, method: str, path: str, body: Any, **_: Any) -> bytes:
        """Review a token, or what its user may."""
        self.asked.append((path.rpartition("/")[2], body["spec"]))
        if self.code:
            raise ApiError(self.code, "not now")
        spec = body["spec"]
        if "token" not in spec:
            wanted = {"group": "muster.dev", "resource": "status", "verb": "get", "namespace": "m"}
            assert spec["resourceAttributes"] == wanted
            allowed = {user: may for _, user, may in TOKENS.values()}[spec["user"]]
            return msgspec.json.encode({"status": {"allowed": allowed}})
        audience, user, _ = TOKENS.get(spec["token"], ("", "", False))
        known = audience in spec.get("audiences", ["api"])
        status = {"authenticated": known, "audiences": [audience], "user": {"username": user}}
        return msgspec.json.encode({"status": status if known else {"error": "unknown"}})


class Port:
    """The guarded port, with a clock of its own."""

    def __init__(self, **settings: Any) -> None:
        self.api = Reviews()
        self.now_s = 0.0
        visitors = Visitors(self.api, "m", clock=lambda: self.now_s, **settings)  # type: ignore[arg-type]
        self._guard = Guard(self._app, visitors)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def get(self, path: str, address: str = "10.0.0.9", **headers: str) -> int:
        """Return the status of an answer."""
        named = {"host": "muster", **headers}
        shown = [(k.replace("_", "-").encode(), v.encode()) for k, v in named.items()]
        scope = {"type": "http", "path": path, "headers": shown, "client": (address, 1)}
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self._guard(scope, None, send)
        return int(sent[0]["status"])


def test_health_and_metrics_are_open_and_nothing_else() -> None:
    async def story() -> None:
        port = Port()
        for path in ("/healthz", "/readyz", "/metrics"):
            assert await port.get(path) == 200
        for path in ("/", "/queue", "/journal", "/healthz/", "/healthz/../queue", "//queue"):
            assert await port.get(path) == 401
        assert not port.api.asked

    asyncio.run(story())


@pytest.mark.parametrize(
    ("token", "code"), [("for-muster", 200), ("own", 200), ("stranger", 403), ("none", 401)]
)
@pytest.mark.parametrize("header", ["authorization", "x_muster_token"])
def test_the_api_server_says_who_may(token: str, code: int, header: str) -> None:
    async def story() -> None:
        port = Port()
        shown = {header: f"Bearer {token}" if header == "authorization" else token}
        assert await port.get("/queue", **shown) == code
        num_asked = len(port.api.asked)
        assert await port.get("/state", **shown) == code
        assert len(port.api.asked) == num_asked, "it is remembered"
        port.now_s += 1 + (LET_IN_S if code == 200 else KEPT_OUT_S)
        assert await port.get("/state", **shown) == code
        assert len(port.api.asked) == 2 * num_asked, "for a while"

    asyncio.run(story())


@pytest.mark.parametrize(
    ("address", "headers", "code"),
    [
        ("127.0.0.1", {"host": "localhost:8080"}, 200),
        ("::1", {"host": "[::1]:8080"}, 200),
        ("127.0.0.1", {"host": "127.0.0.1"}, 200),
        ("127.0.0.1", {"host": "led-here.example:8080"}, 401),
        ("127.0.0.1", {"host": "10.0.0.7:8080", "x_forwarded_for": "10.0.0.9"}, 401),
        ("127.0.0.6", {"host": "localhost", "x_envoy_attempt_count": "1"}, 401),
        ("127.0.0.1", {"host": "localhost", "x_forwarded_for": "10.0.0.9"}, 401),
        ("10.0.0.9", {"host": "localhost:8080"}, 401),
        ("10.0.0.9", {"host": "localhost", "x_forwarded_for": "127.0.0.1"}, 401),
    ],
)
def test_who_is_here_reads_all(address: str, headers: dict[str, str], code: int) -> None:
    assert asyncio.run(Port().get("/queue", address, **headers)) == code
    closed = Port(trusts_loopback=False)
    assert asyncio.run(closed.get("/queue", address, **headers)) == 401


def test_an_api_server_that_does_not_answer_lets_nobody_in_and_is_asked_again() -> None:
    async def story() -> None:
        port = Port()
        port.api.code = 500
        assert await port.get("/queue", x_muster_token="own") == 503
        port.api.code = 0
        assert await port.get("/queue", x_muster_token="own") == 200

    asyncio.run(story())


def test_one_address_neither_floods_muster_nor_the_api_server() -> None:
    async def story() -> None:
        port = Port()
        codes = [await port.get("/queue", x_muster_token=f"t-{i}") for i in range(500)]
        assert codes.count(429) >= 450 and len(port.api.asked) <= 2 * 50
        assert await port.get("/healthz") == 200, "who looks after muster still may"
        assert await port.get("/queue", "10.0.0.8", x_muster_token="own") == 200, "so may others"
        port.now_s += 60.0
        assert await port.get("/queue", x_muster_token="own") == 200

    asyncio.run(story())


def test_many_who_show_one_token_at_once_ask_once() -> None:
    async def story() -> None:
        port = Port()
        codes = await asyncio.gather(*(port.get("/queue", x_muster_token="own") for _ in range(50)))
        assert set(codes) == {200} and len(port.api.asked) == 3

    asyncio.run(story())
