"""Leaving a cluster in which pods come, go and change meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, Self
from urllib.parse import parse_qs

import msgspec
import pytest

from scheduler.kube.api import ApiError
from scheduler.live import uninstall
from tests.scheduler.controller.rig import pod

#: what is asked for if a query says nothing of it: all from the first one on
PAGES = {"continue": "0", "limit": "1000000"}


class World:
    """An API server with gated pods; some answer in their own way, once or always."""

    def __init__(self, count: int, *, once: dict[str, int], always: dict[str, int]) -> None:
        self.gated = {f"p-{i}" for i in range(count)}
        self.once, self.always = once, always
        self.most_at_once = 0  #: pods in one answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def persist(self, method: str, path: str, *_: Any, **__: Any) -> bytes:
        if method == "GET":
            pods = [*(pod(name) for name in sorted(self.gated)), pod("free", gated=False)]
            asked = parse_qs(path.partition("?")[2])
            begin, limit = (int(asked.get(key, [default])[0]) for key, default in PAGES.items())
            page, more = pods[begin : begin + limit], begin + limit < len(pods)
            self.most_at_once = max(self.most_at_once, len(page))
            meta = {"continue": str(begin + limit)} if more else {}
            return msgspec.json.encode({"metadata": meta, "items": page})
        name = path.rpartition("/")[2]
        await asyncio.sleep(0)
        code = self.always.get(name) or self.once.pop(name, 0)
        if code == 404:
            self.gated.remove(name)
        if code:
            raise ApiError(code, "not this one")
        self.gated.remove(name)
        return b"{}"


def ungated(monkeypatch: pytest.MonkeyPatch, world: World) -> tuple[int, int]:
    async def access(*_: object) -> None:
        return None

    monkeypatch.setattr(uninstall, "access", access)
    monkeypatch.setattr(uninstall, "chosen", lambda _: "")
    monkeypatch.setattr(uninstall, "Api", lambda _: world)
    return asyncio.run(uninstall.ungate())


def test_pods_that_are_gone_or_changed_stop_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uninstall, "PAGE", 40)
    world = World(300, once={"p-3": 404, "p-7": 409, "p-250": 422}, always={})
    assert ungated(monkeypatch, world) == (299, 0)
    assert not world.gated
    assert world.most_at_once == 40, "page by page, as a large cluster has them"


def test_a_pod_that_keeps_its_gate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(20, once={}, always={"p-3": 403})
    with pytest.raises(ValueError, match=r"19 pods ungated, but .* 4 rounds; pod n/p-3: 403: not"):
        ungated(monkeypatch, world)
    assert world.gated == {"p-3"}


class Jobs(World):
    """An API server with jobs, by path; what is written to them is kept."""

    def __init__(self, **items: list[dict[str, Any]]) -> None:
        super().__init__(0, once={}, always={})
        self.items = items
        self.written: dict[str, Any] = {}

    async def persist(self, method: str, path: str, body: Any = None, **_: Any) -> bytes:
        path, _, _ = path.partition("?")
        name = path.rpartition("/")[2]
        if method == "PATCH":
            if name == "refused":
                raise ApiError(403, "not you")
            self.written[path] = msgspec.json.decode(body)
            return b"{}"
        if name not in self.items:
            raise ApiError(404, "no such kind here")
        return msgspec.json.encode({"metadata": {}, "items": self.items[name]})


def suspended(name: str, note: str | None, **spec: Any) -> dict[str, Any]:
    annotations = {} if note is None else {"muster.dev/suspended": note}
    meta = {"name": name, "namespace": "n", "uid": f"uid-{name}", "annotations": annotations}
    return {"metadata": meta, "spec": spec}


def resumed(monkeypatch: pytest.MonkeyPatch, world: Jobs) -> int:
    ungated(monkeypatch, World(0, once={}, always={}))
    monkeypatch.setattr(uninstall, "Api", lambda _: world)
    return asyncio.run(uninstall.resume())


def test_jobs_that_muster_suspended_are_resumed_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Jobs(
        jobs=[
            suspended("a", "uid-a", suspend=True),
            suspended("by-its-user", None, suspend=True),
            suspended("a-copy", "uid-a", suspend=True),
        ],
        pytorchjobs=[suspended("t", "uid-t", runPolicy={"suspend": True})],
    )
    assert resumed(monkeypatch, world) == 2
    assert {path: body["spec"] for path, body in world.written.items()} == {
        "/apis/batch/v1/namespaces/n/jobs/a": {"suspend": False},
        "/apis/kubeflow.org/v1/namespaces/n/pytorchjobs/t": {"runPolicy": {"suspend": False}},
    }
    notes = [body["metadata"]["annotations"] for body in world.written.values()]
    assert notes == [{"muster.dev/suspended": None}] * 2


def test_a_job_that_stays_suspended_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = suspended("refused", "uid-refused", suspend=True)
    world = Jobs(jobs=[refused, suspended("a", "uid-a", suspend=True)])
    with pytest.raises(ValueError, match=r"1 jobs resumed, but 1 may stay .*Job n/refused: 403"):
        resumed(monkeypatch, world)
