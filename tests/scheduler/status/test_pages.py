"""Pages of a large cluster must not keep kube-scheduler waiting. No cluster: facts are put in."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes.aio.client import Configuration

from scheduler.controller.settings import LiveSettings
from scheduler.controlplane.objects import node as played
from scheduler.journal.replay import replay
from scheduler.kube.api import Api
from scheduler.kube.objects import NodeObject, Pod, Thing
from scheduler.kube.watch import Change
from scheduler.live.service import Service
from scheduler.status.pages import KEPT_TIMES, Breath, Page

NODES, RUNNING, WAITING = 7500, 70, 500


def service(**settings: Any) -> Service:
    """Return a muster that is not connected to anything."""
    return Service(LiveSettings(**settings), Api(Configuration()))


def fill(found: Service, nodes: int, running: int, waiting: int) -> None:
    """Let `running` gangs of 100 pods run, and `waiting` ones of 4 pods wait."""
    control = found.controller
    for number in range(nodes):
        control.on_node(Change.ADDED, msgspec.convert(played(number, 8), NodeObject))
    for number in range(running):
        _gang(found, f"runs-{number}", 100, [f"node-{100 * number + i:05d}" for i in range(100)])
    for number in range(waiting):
        _gang(found, f"waits-{number}", 4, [])
    control.step()
    list(found.ledger.decide(1.0))


def _gang(found: Service, name: str, size: int, nodes: list[str]) -> None:
    group = {"metadata": {"name": name, "namespace": "n"}, "spec": {"minMember": size}}
    found.controller.on_thing("coscheduling", Change.ADDED, msgspec.convert(group, Thing))
    limits = {"nvidia.com/gpu": "8" if nodes else "9"}
    for rank in range(size):
        item = {
            "metadata": {
                "name": f"{name}-{rank}",
                "namespace": "n",
                "uid": f"{name}-{rank}",
                "labels": {"scheduling.x-k8s.io/pod-group": name},
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "containers": [{"resources": {"limits": limits}}],
                "nodeName": nodes[rank] if nodes else "",
                "schedulingGates": [] if nodes else [{"name": "muster.dev/queued"}],
            },
            "status": {"phase": "Running" if nodes else "Pending"},
        }
        found.controller.on_pod(Change.ADDED, msgspec.convert(item, Pod))


@pytest.fixture(scope="module")
def large() -> Iterator[Service]:
    found = service()
    fill(found, NODES, RUNNING, WAITING)
    gc.collect()
    gc.freeze()  # as a muster does once it has read the cluster
    yield found
    gc.unfreeze()


async def held_s(work: Any) -> tuple[float, float, bytes]:
    """Return how long the event loop was held at most while `work` ran, all of it, and its result.

    Counted in CPU time of this thread, so that what else runs here does not count.
    """
    longest_s, last_s = 0.0, time.thread_time()
    task = asyncio.ensure_future(work)
    began_s = last_s
    while not task.done():
        await asyncio.sleep(0)
        now_s = time.thread_time()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return longest_s, last_s - began_s, task.result()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/now", "/state", "/queue", "/nodes", "/curve", "/metrics", "/classes"]
)
def test_no_page_holds_the_event_loop(large: Service, path: str) -> None:
    longest_s, whole_s, content = asyncio.run(held_s(large.facts.pages[path].get()))
    print(
        f"{path}: {len(content) / 1e6:.2f} MB in {1e3 * whole_s:.1f} ms, "
        f"longest block {1e3 * longest_s:.1f} ms"
    )
    assert longest_s < max(0.25 * whole_s, 0.02), f"{path} holds {longest_s:.3f} of {whole_s:.3f} s"


@pytest.mark.slow
def test_one_gangs_story_is_short_work(large: Service) -> None:
    began_s = time.thread_time()
    found = asyncio.run(large.facts.explain("n/waits-1"))
    took_s = time.thread_time() - began_s
    print(f"/explain: {1e3 * took_s:.1f} ms")
    assert found is not None and took_s < 0.1


@pytest.mark.slow
def test_what_is_on_a_node_is_found_without_holding_the_event_loop(large: Service) -> None:
    longest_s, whole_s, content = asyncio.run(held_s(large.facts.node("node-00001")))
    assert b"n/runs-0" in content
    assert longest_s < max(0.25 * whole_s, 0.02), f"/node holds {longest_s:.3f} of {whole_s:.3f} s"


@pytest.mark.slow
def test_the_curve_is_kept_up_without_holding_the_event_loop(large: Service) -> None:
    large.tally.all_changed()
    longest_s, whole_s, _ = asyncio.run(held_s(large.tally.settle(Breath())))
    print(f"all gangs in {1e3 * whole_s:.1f} ms, longest block {1e3 * longest_s:.1f} ms")
    assert longest_s < max(0.25 * whole_s, 0.02)


@pytest.mark.slow
def test_the_state_of_a_large_cluster_is_one(large: Service, tmp_path: Path) -> None:
    content = asyncio.run(large.facts.pages["/state"].get())
    state = json.loads(content)
    assert len(state["nodes"]) == NODES and len(state["gangs"]) == RUNNING + WAITING
    assert [line["is"] for line in state["lines"]].count("Admitted") == RUNNING


def test_readers_who_come_at_once_share_a_page_and_it_is_kept() -> None:
    built: list[tuple[float, float]] = []

    async def build(breath: Breath) -> bytes:
        began_s = time.monotonic()
        await asyncio.sleep(0.02)
        built.append((began_s, time.monotonic()))
        return b"page"

    async def readers() -> list[bytes]:
        page = Page(build)
        found = await asyncio.gather(*(page.get() for _ in range(50)))
        assert len(built) == 1, "once for all"
        end_s = time.monotonic() + 60.0
        while len(built) < 2 and time.monotonic() < end_s:
            assert await page.get() == b"page"
            await asyncio.sleep(0)
        return list(found)

    assert asyncio.run(readers()) == [b"page"] * 50
    (began_s, ended_s), (again_s, _) = built
    assert again_s - ended_s >= KEPT_TIMES * (ended_s - began_s) - 0.001, "when it was old"


def test_a_journal_without_a_file_still_begins_with_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.live.service.RECENT_LINES", 30)
    found = service()
    fill(found, 10, 0, 5)
    for number in range(200):
        _gang(found, f"later-{number}", 1, [])
        found.controller.step()
        list(found.ledger.decide(2.0 + number))

    async def journal() -> bytes:
        return b"".join([chunk async for chunk in found.facts.journal()])

    file = tmp_path / "journal.jsonl"
    file.write_bytes(asyncio.run(journal()))
    done = replay(file)
    assert not done.difference and done.num_states == 1
    assert done.num_lines < 30 + 3 * 205, "it does not grow for ever"
