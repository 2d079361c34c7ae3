"""Leaving a cluster in which pods come, go and change meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import msgspec
import pytest

from scheduler.kube.api import ApiError
from scheduler.live import uninstall
from tests.scheduler.controller.rig import pod


class World:
    """An API server with gated pods; some answer in their own way, once or always."""

    def __init__(self, count: int, *, once: dict[str, int], always: dict[str, int]) -> None:
        self.gated = {f"p-{i}" for i in range(count)}
        self.once, self.always = once, always

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def persist(self, method: str, path: str, *_: Any, **__: Any) -> bytes:
        if method == "GET":
            pods = [pod(name) for name in sorted(self.gated)]
            return msgspec.json.encode({"metadata": {}, "items": [*pods, pod("free", gated=False)]})
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
    world = World(300, once={"p-3": 404, "p-7": 409, "p-250": 422}, always={})
    assert ungated(monkeypatch, world) == (299, 0)
    assert not world.gated


def test_a_pod_that_keeps_its_gate_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(20, once={}, always={"p-3": 403})
    with pytest.raises(ValueError, match=r"19 pods ungated, but .* 4 rounds; pod n/p-3: 403: not"):
        ungated(monkeypatch, world)
    assert world.gated == {"p-3"}
