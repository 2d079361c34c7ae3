"""A small API server: any kind, by list and watch, in a thread of its own; pods get bound and run.

It keeps what it is given as it is, so that a test can have it send what real API servers send of
what users write: `msgspec.Raw` anywhere in an object goes out byte by byte. What Kubernetes does
beside is played as far as muster needs it: preconditions, Bindings, evictions, a quota of GPUs, a
kube-scheduler that binds pinned pods, and kubelets that run what is bound.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec
from aiohttp import web

Object = dict[str, Any]
T = TypeVar("T")
GPU = "nvidia.com/gpu"
MOST_BYTES = 3 << 19  #: of an object, as etcd has it
_PATH = re.compile(
    r"(?P<api>/api/v1|/apis/[^/]+/[^/]+)(/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<kind>[^/]+)(/(?P<name>[^/]+)(/(?P<sub>[^/]+))?)?"
)
encode = msgspec.json.Encoder().encode


class RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class SmallApi:
    """Objects by collection, such as /api/v1/pods, and by namespace and name."""

    def __init__(self, quota_gpus: dict[str, int] | None = None) -> None:
        self.objects: dict[str, dict[tuple[str, str], Object]] = {}
        self.quota_gpus = quota_gpus or {}  #: by namespace
        #: by address: the code that every request gets; 0: no answer at all
        self.broken: dict[str, int] = {}
        self.requests: dict[str, int] = {}  #: writes, by method
        self.url = ""
        self._version = itertools.count(1)
        self._uids = itertools.count(1)
        self._watches: dict[str, set[asyncio.Queue[bytes]]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="small api", daemon=True)
        self._started = threading.Event()
        self._stop = asyncio.Event()

    # -- for tests, from any thread ----------------------------------------------------------

    def __enter__(self) -> SmallApi:
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def do(self, work: Callable[[], T]) -> T:
        """Do something in the server's thread; return what it returns."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(30)

    def create(self, path: str, item: Object) -> Object:
        """Add an object to a collection.

        Raises:
            RefusedError: there is one of this name, the namespace's quota is used up, or it is
                larger than etcd takes.
        """
        return self.do(lambda: self._create(path, item))

    def change(self, path: str, namespace: str, name: str, how: Callable[[Object], None]) -> None:
        """Change an object; one that is gone stays so."""

        def work() -> None:
            item = self.objects.get(path, {}).get((namespace, name))
            if item is not None:
                how(item)
                self._changed(path, item)

        self.do(work)

    def delete(self, path: str, namespace: str, name: str) -> None:
        """Remove an object; gone already is fine."""
        self.do(lambda: self._remove(path, namespace, name))

    def all(self, path: str) -> list[Object]:
        """Return the objects of a collection."""
        return self.do(lambda: list(self.objects.get(path, {}).values()))

    # -- objects -----------------------------------------------------------------------------

    def _create(self, path: str, item: Object) -> Object:
        meta = item.setdefault("metadata", {})
        namespace, name = meta.get("namespace", ""), str(meta.get("name", ""))
        there = self.objects.setdefault(path, {})
        if (namespace, name) in there:
            raise RefusedError(409, "there is one of this name")
        if len(encode(item)) > MOST_BYTES:
            raise RefusedError(413, "etcdserver: request is too large")
        if path == "/api/v1/pods":
            used = sum(_gpus(one) for (where, _), one in there.items() if where == namespace)
            if used + _gpus(item) > self.quota_gpus.get(namespace, 1 << 62):
                raise RefusedError(403, "exceeded quota")
        meta.setdefault("uid", f"uid-{next(self._uids)}")
        meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        there[namespace, name] = item
        self._tell(path, "ADDED", item)
        if path == "/api/v1/pods":
            self._loop.call_soon(self._play, item)
        return item

    def _changed(self, path: str, item: Object) -> None:
        self._tell(path, "MODIFIED", item)
        if path == "/api/v1/pods":
            self._loop.call_soon(self._play, item)

    def _remove(self, path: str, namespace: str, name: str) -> None:
        item = self.objects.get(path, {}).pop((namespace, name), None)
        if item is not None:
            self._tell(path, "DELETED", item)

    def _tell(self, path: str, change: str, item: Object) -> None:
        item["metadata"]["resourceVersion"] = str(next(self._version))
        line = encode({"type": change, "object": item}) + b"\n"
        for queue in self._watches.get(path, ()):
            queue.put_nowait(line)

    def _play(self, pod: Object) -> None:
        """Bind a pod that is pinned, and run one that is bound."""
        meta, spec = pod["metadata"], pod.get("spec")
        if not isinstance(spec, dict) or pod is not self.objects["/api/v1/pods"].get(
            (meta.get("namespace", ""), str(meta.get("name", "")))
        ):
            return
        if not spec.get("nodeName") and not spec.get("schedulingGates") and (node := _pin(spec)):
            spec["nodeName"] = node
            self._changed("/api/v1/pods", pod)
        elif spec.get("nodeName") and (pod.get("status") or {}).get("phase") in (None, "Pending"):
            pod["status"] = {"phase": "Running"}
            self._changed("/api/v1/pods", pod)

    # -- requests ----------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.5
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        found = _PATH.fullmatch(request.path)
        if found is None:
            return web.Response(status=404)
        path = f"{found['api']}/{found['kind']}"
        if (code := self.broken.get(request.path)) is not None:
            if not code:
                await asyncio.sleep(600)
            text = {"kind": "Status", "code": code, "message": "its webhook does not answer"}
            return web.json_response(text, status=code)
        if request.method == "GET" and "watch" in request.query:
            return await self._watch(request, path)
        content = await request.read()
        body = msgspec.json.decode(content) if content else {}
        if request.method != "GET":
            self.requests[request.method] = self.requests.get(request.method, 0) + 1
        where = found["namespace"] or ""
        try:
            answer = self._answer(request, path, where, found["name"] or "", found["sub"], body)
        except RefusedError as error:
            text = {"kind": "Status", "code": error.code, "message": str(error)}
            return web.json_response(text, status=error.code)
        return web.Response(body=encode(answer), content_type="application/json")

    def _answer(
        self, request: web.Request, path: str, where: str, name: str, sub: str | None, body: Any
    ) -> object:
        there = self.objects.setdefault(path, {})
        if request.method == "GET" and not name:
            items = [one for (space, _), one in there.items() if where in ("", space)]
            return {"metadata": {"resourceVersion": str(next(self._version))}, "items": items}
        if request.method == "POST" and not name:
            if path.endswith("/events"):
                return {"metadata": {"resourceVersion": "1"}}
            body["metadata"].setdefault("namespace", where)
            return self._create(path, body)
        item = there.get((where, name))
        if item is None:
            raise RefusedError(404, "not found")
        meta = item["metadata"]
        if request.method == "GET":
            return item
        given = body.get("preconditions") or body.get("metadata") or {}
        if sub == "eviction":
            given = (body.get("deleteOptions") or {}).get("preconditions") or {}
        for key in ("uid", "resourceVersion"):
            if given.get(key, meta.get(key)) != meta.get(key):
                raise RefusedError(409, f"of another {key}")
        if request.method == "DELETE" or sub == "eviction":
            self._remove(path, where, name)
        elif sub == "binding":
            spec = item.setdefault("spec", {})
            if spec.get("nodeName") or spec.get("schedulingGates"):
                raise RefusedError(409, "bound or gated")
            spec["nodeName"] = body["target"]["name"]
            self._changed(path, item)
        else:
            _merge(item, body)
            self._changed(path, item)
        return item

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        # what there is is told again: the version asked for lies before it, and nothing is missed
        for item in self.objects.get(path, {}).values():
            queue.put_nowait(encode({"type": "ADDED", "object": item}) + b"\n")
        self._watches.setdefault(path, set()).add(queue)
        answer = web.StreamResponse()
        try:
            await answer.prepare(request)
            while True:
                await answer.write(await queue.get())
        except (ConnectionError, asyncio.CancelledError):
            return answer
        finally:
            self._watches[path].discard(queue)


def _merge(into: Object, patch: Object) -> None:
    """Merge a patch as RFC 7396 has it: null removes, also where there was nothing."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _gpus(pod: Object) -> int:
    """Return the GPUs that a quota counts for a pod."""
    total = 0
    try:
        if pod["status"]["phase"] in ("Succeeded", "Failed"):
            return 0
    except (KeyError, TypeError):
        pass
    try:
        for container in pod["spec"]["containers"]:
            total += int(container["resources"]["limits"][GPU])
    except (KeyError, TypeError, ValueError, AttributeError):
        return total
    return total


def _pin(spec: Object) -> str:
    """Return the one node that a pod may go to, if it is pinned."""
    try:
        required = spec["affinity"]["nodeAffinity"]
        terms = required["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        return str(terms[0]["matchFields"][-1]["values"][0])
    except (KeyError, TypeError, IndexError):
        return ""
