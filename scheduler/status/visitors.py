"""Who may read the status port: users that the API server allows, and clients on this machine.

Health and metrics are open to every client of the port. Everything else names the gangs of all
namespaces. The API server says whose a token is (TokenReview) and whether that user may `get` the
resource `status` of the group `muster.dev` in muster's namespace (SubjectAccessReview); RBAC needs
no API of that name. `kubectl port-forward` comes from loopback, and the API server has allowed it.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from scheduler.kube.api import Api, ApiError, Turn
from scheduler.status.shown import AUDIENCE, is_here, token_of

OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
RESOURCE = {"group": "muster.dev", "resource": "status", "verb": "get"}
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
LET_IN_S = 60.0  #: what the API server said holds so long
KEPT_OUT_S = 10.0
MOST_KNOWN = 1024
HOW = (
    "use `kubectl muster`, `kubectl muster page`, `kubectl port-forward`, or a token of a user "
    "who may get status.muster.dev"
)

Scope = dict[str, Any]
Message = dict[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Message]], Any], Awaitable[None]]


class User(msgspec.Struct):
    """Whose a token is."""

    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _Said(msgspec.Struct):
    authenticated: bool = False
    allowed: bool = False
    user: User = msgspec.field(default_factory=User)
    audiences: list[str] = []


class _Review(msgspec.Struct):
    status: _Said = msgspec.field(default_factory=_Said)


_review = msgspec.json.Decoder(_Review)
_encode = msgspec.json.Encoder().encode


class Rate:
    """How often each of many may do something."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left: dict[str, tuple[float, float]] = {}  #: what is left, and when that was so

    def takes(self, who: str, now_s: float) -> bool:
        """Count one time; False if it is one too many."""
        left, then_s = self._left.pop(who, (self._burst, now_s))
        left = min(self._burst, left + (now_s - then_s) * self._per_s)
        self._left[who] = (max(left - 1.0, 0.0) if left >= 1.0 else left, now_s)
        while len(self._left) > MOST_KNOWN:
            del self._left[next(iter(self._left))]
        return left >= 1.0


class Visitors:
    """Asks the API server, and caches its answers for a while."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        *,
        trusts_loopback: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._trusts_loopback = trusts_loopback
        self._clock = clock
        self._known: dict[bytes, tuple[float, int, str]] = {}  #: until when, code, why not
        self._asking: dict[bytes, asyncio.Task[tuple[int, str]]] = {}
        # all who come by the API server's proxy have its address, and kubectl muster a token each
        self._requests = Rate(per_s=50.0, burst=200.0)
        self._reviews = Rate(per_s=10.0, burst=50.0)

    async def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and the reason with which a request is refused, or nothing."""
        path = scope["path"]
        if path in ("/healthz", "/readyz"):
            return None
        who, now_s = (scope.get("client") or ("",))[0], self._clock()
        here = self._trusts_loopback and is_here(scope)
        if not here and not self._requests.takes(who, now_s):
            return 429, "too many requests from this address"
        if here or path in OPEN:
            return None
        token = token_of(scope)
        if not token:
            return 401, f"no token; {HOW}"
        code, why = await self._look_up(token, who, now_s)
        return None if code == 200 else (code, why)

    async def _look_up(self, token: str, who: str, now_s: float) -> tuple[int, str]:
        key = hashlib.sha256(token.encode()).digest()
        until_s, code, why = self._known.get(key, (0.0, 0, ""))
        if now_s < until_s:
            return code, why
        task = self._asking.get(key)
        if task is None:
            if not self._reviews.takes(who, now_s):
                return 429, "too many tokens from this address"
            task = self._asking[key] = asyncio.create_task(self._ask(token))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        code, why = await asyncio.shield(task)
        if code != 503:
            self._known.pop(key, None)
            self._known[key] = (now_s + (LET_IN_S if code == 200 else KEPT_OUT_S), code, why)
            while len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]
        return code, why

    async def _ask(self, token: str) -> tuple[int, str]:
        """Return 200, or with what to refuse who has this token."""
        try:
            user = await self._whose(token)
            if user is None:
                return 401, f"the API server does not know this token; {HOW}"
            spec = {
                "user": user.username,
                "uid": user.uid,
                "groups": user.groups,
                "extra": user.extra,
                "resourceAttributes": {**RESOURCE, "namespace": self._namespace},
            }
            if (await self._said(ACCESS, spec, "SubjectAccessReview")).allowed:
                return 200, ""
        except ApiError as error:
            return 503, f"the API server does not say who may read this: {error}"
        return 403, (
            f"{user.username} may not get status.muster.dev in namespace {self._namespace}; ask "
            f"for a RoleBinding to the Role muster-viewer there"
        )

    async def _whose(self, token: str) -> User | None:
        """Return whose a token is, be it for muster alone or for the API server."""
        said = await self._said(REVIEWS, {"token": token, "audiences": [AUDIENCE]}, "TokenReview")
        if not (said.authenticated and AUDIENCE in said.audiences):
            said = await self._said(REVIEWS, {"token": token}, "TokenReview")
        return said.user if said.authenticated else None

    async def _said(self, path: str, spec: dict[str, Any], kind: str) -> _Said:
        group = path.split("/")[2]
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        reply = await self._api.call("POST", path, body, timeout_s=5.0, turn=Turn.NOW)
        try:
            return _review.decode(reply).status
        except msgspec.DecodeError as error:
            raise ApiError(0, f"the answer is not a {kind}: {error}") from None


class Guard:
    """Admits allowed users to an application."""

    def __init__(self, app: App, visitors: Visitors) -> None:
        self._app = app
        self._visitors = visitors

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        refused = await self._visitors.refusal(scope)
        if refused is None:
            await self._app(scope, receive, send)
            return
        code, why = refused
        body = _encode({"error": why})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        headers += [(b"www-authenticate", b"Bearer")] if code == 401 else []
        headers += [(b"retry-after", b"1")] if code == 429 else []
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": body})
