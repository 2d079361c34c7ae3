"""When a running gang loses a rank for good: it gives its GPUs back whole and comes again whole."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from scheduler.controller import plans
from scheduler.kube.api import ApiError
from scheduler.kube.objects import Pod
from scheduler.status.status import view
from tests.scheduler.controller.rig import Rig, pod, tried

REPAIR_S = 60.0
SIZE = 4
LABELS = {"muster.dev/group": "g"}
MINIMUM = {"muster.dev/min-member": str(SIZE)}


def rank(number: int, life: int = 0, **more: Any) -> Pod:
    """Return one rank of the gang in one of its lives."""
    labels = {**LABELS, "training.kubeflow.org/replica-index": str(number)}
    return pod(f"g-{number}", labels=labels, annotations=MINIMUM, uid=f"g-{number}-{life}", **more)


def told_to_go(one: Pod) -> Pod:
    """Return the pod as it is while its kubelet does not answer."""
    meta = msgspec.structs.replace(one.metadata, deletion_timestamp="2026-01-01T01:00:00Z")
    return msgspec.structs.replace(one, metadata=meta)


async def running(rig: Rig) -> list[Pod]:
    """Return the gang, started and bound as planned."""
    rig.see(*(rank(i) for i in range(SIZE)))
    await rig.settle()
    nodes = rig.placed()
    assert len(set(nodes.values())) == SIZE
    pods = [rank(i, node=nodes[f"g-{i}"]) for i in range(SIZE)]
    rig.see(*pods)
    await rig.pass_s(1.0)
    rig.api.requests.clear()
    return pods


def test_a_rank_that_cannot_go_does_not_hold_the_others_gpus() -> None:
    """Its node is dead, so nobody says that it ended; the others run into the void."""

    async def story(rig: Rig) -> None:
        pods = await running(rig)
        rig.see(told_to_go(pods[1]))
        await rig.settle()
        await rig.pass_s(REPAIR_S - 1.0)
        assert rig.evicted() == []
        await rig.pass_s(2.0)
        assert sorted(rig.evicted()) == ["g-0", "g-2", "g-3"]
        rig.lose(pods[0], pods[2], pods[3])
        rig.see(*(rank(i, 1) for i in (0, 2, 3)))
        await rig.settle()
        assert rig.placed() == {}, "three of four wait, though their nodes are free"
        rig.lose(pods[1])
        await rig.settle()
        assert rig.placed() == {}
        rig.see(rank(1, 1))
        await rig.settle()
        assert len(set(rig.placed().values())) == SIZE

    tried(story, nodes=SIZE)


@pytest.mark.parametrize("lane", ["pinned", "direct"])
@pytest.mark.parametrize(("code", "ends"), [(403, True), (422, True), (503, False)])
def test_a_gang_of_which_a_pod_may_not_be_written_does_not_run_in_part_for_good(
    lane: str, code: int, ends: bool
) -> None:
    """A webhook denies it; one that is only away for a while costs nobody its GPUs."""

    async def story(rig: Rig) -> None:
        said = {"schedulerName": "muster-direct"} if lane == "direct" else {}
        denied, take = "/g-1" if lane == "pinned" else "/g-1/binding", rig.api.call

        async def call(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith(denied) and method != "GET":
                raise ApiError(code, "denied")
            return await take(method, path, body, **more)

        rig.api.call = rig.api.persist = call  # type: ignore[method-assign]
        rig.see(*(rank(i, **said) for i in range(SIZE)))
        await rig.settle()
        nodes = rig.placed()
        assert nodes.keys() == {"g-0", "g-2", "g-3"}
        rig.see(*(rank(int(name[2:]), node=node, **said) for name, node in nodes.items()))
        await rig.settle()
        for _ in range(12):
            await rig.pass_s(REPAIR_S / 6.0)
        others = ["g-0", "g-2", "g-3"]
        assert sorted(rig.evicted()) == (others if ends else [])
        for _ in range(60):
            await rig.pass_s(REPAIR_S / 6.0)
        assert sorted(rig.evicted()) == others, "one that is away for good is no better"

    tried(story, nodes=SIZE, direct_schedulers=["muster-direct"])


def test_a_rank_that_comes_back_in_time_keeps_the_gang() -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        rig.see(told_to_go(pods[1]))
        await rig.settle()
        await rig.pass_s(REPAIR_S - 5.0)
        rig.lose(pods[1])
        rig.see(rank(1, 1))
        await rig.settle()
        assert rig.placed() == {"g-1": pods[1].spec.node_name}
        rig.see(rank(1, 1, node=pods[1].spec.node_name))
        await rig.pass_s(2 * REPAIR_S)
        assert rig.evicted() == []

    tried(story, nodes=SIZE)


def test_a_gang_that_may_not_be_evicted_is_mended() -> None:
    """A disruption budget holds its pods where they are: then the lost rank joins them."""

    async def story(rig: Rig) -> None:
        pods = await running(rig)
        rig.refuse("/eviction", ApiError(429, "its budget forbids it"))
        rig.see(told_to_go(pods[1]))
        await rig.settle()
        await rig.pass_s(REPAIR_S + 1.0)
        rig.lose(pods[1])
        rig.see(rank(1, 1))
        await rig.settle()
        assert rig.placed() == {"g-1": pods[1].spec.node_name}

    tried(story, nodes=SIZE)


@pytest.mark.parametrize(
    ("code", "text"),
    [(429, "Too many requests, please try again later."), (503, "not ready"), (0, "no answer")],
)
def test_a_busy_server_is_no_budget(code: int, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told that a pod may not be evicted, and it is tried again soon."""

    async def story(rig: Rig) -> None:
        pods = await running(rig)
        take, tried_at = rig.api.call, []

        async def busy(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("/eviction") and len(tried_at) < 12:
                tried_at.append(rig.control.now_s())
                raise ApiError(code, text, 1.0)
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "call", busy)
        rig.see(told_to_go(pods[1]))
        await rig.settle()
        rig.events()
        for _ in range(int(REPAIR_S) + 60):
            await rig.pass_s(1.0)
        gaps_s = [after - before for before, after in pairwise(sorted(set(tried_at)))]
        assert set(gaps_s) == {10.0}
        assert [reason for reason, _ in rig.events()] == ["Evicted"]
        assert sorted(rig.evicted()) == ["g-0", "g-2", "g-3"]

    tried(story, nodes=SIZE)


def test_a_refused_eviction_is_said_as_it_is_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget = "Cannot evict pod; The disruption budget frail needs 4 healthy pods and has 3"

    async def story(rig: Rig) -> None:
        pods = await running(rig)
        take, tried_at = rig.api.call, []
        allowed = False

        async def refuse(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("/eviction") and not allowed:
                tried_at.append(rig.control.now_s())
                raise ApiError(429, budget)
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "call", refuse)
        rig.see(told_to_go(pods[1]))
        await rig.settle()
        rig.events()
        for _ in range(int(REPAIR_S) + 200):
            await rig.pass_s(1.0)
        gaps_s = [after - before for before, after in pairwise(sorted(set(tried_at)))]
        assert gaps_s == [10.0, 20.0, 40.0, 80.0]
        said = rig.events()
        assert [reason for reason, _ in said] == ["NotEvicted"], "once, and no word of Evicted"
        assert budget in said[0][1]
        (gang,) = rig.control.gangs.values()
        assert budget in view(gang, rig.ledger, rig.control.now_s()).text
        allowed = True
        await rig.pass_s(170.0)
        assert sorted(rig.evicted()) == ["g-0", "g-2", "g-3"]
        assert [reason for reason, _ in rig.events()] == ["Evicted"]

    tried(story, nodes=SIZE)


def test_an_eviction_is_told_of_though_the_last_pod_is_gone_before_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        take = rig.api.call

        async def call(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if path.endswith("/eviction"):
                rig.lose(*pods)
                rig.control.step()
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "call", call)
        rig.lose(pods[1])
        await rig.settle()
        rig.events()
        await rig.pass_s(REPAIR_S + 1.0)
        assert [reason for reason, _ in rig.events()] == ["Evicted"]

    tried(story, nodes=SIZE)


def test_a_plan_record_goes_however_long_the_api_server_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plans, "ERASE_AGAIN_S", 0.0)
    refusals = [ApiError(500, "no"), ApiError(0, "no answer"), ApiError(403, "not yet")]
    deleted: list[str] = []

    async def story(rig: Rig) -> None:
        take = rig.api.call

        async def call(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if method == "DELETE" and "/configmaps/" in path:
                if refusals:
                    raise refusals.pop()
                deleted.append(path)
            return await take(method, path, body, **more)

        monkeypatch.setattr(rig.api, "call", call)
        await running(rig)
        assert not refusals
        assert len(deleted) == 1

    tried(story)


def test_a_record_that_a_new_plan_has_taken_over_stays() -> None:
    async def story(rig: Rig) -> None:
        records = rig.control.plans
        await running(rig)
        (gang,) = rig.control.gangs.values()
        await records.write(gang)
        before = len(rig.api.requests)
        call = rig.api.call

        async def refuse(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if method == "DELETE":
                await records.write(gang)
                raise ApiError(500, "no")
            return await call(method, path, body, **more)

        rig.api.call = refuse  # type: ignore[method-assign]
        await records.erase(gang.name, lambda: True)
        assert [method for method, _, _ in rig.api.requests[before:]] == ["POST"]

    tried(story)


@pytest.mark.parametrize("by", ["this leader", "the next leader"])
def test_only_the_record_that_was_written_is_erased(by: str) -> None:
    """A DELETE that was held up meets what came after it under the same name."""

    async def story(rig: Rig) -> None:
        await running(rig)
        (gang,) = rig.control.gangs.values()
        records = rig.control.plans
        anew = plans.PlanRecords(rig.api, "muster-system", "next")  # type: ignore[arg-type]
        await records.write(gang)
        call, met, go_on = rig.api.call, asyncio.Event(), asyncio.Event()

        async def slow(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if method == "DELETE":
                met.set()
                await go_on.wait()
            return await call(method, path, body, **more)

        rig.api.call = slow  # type: ignore[method-assign]
        erased = asyncio.create_task(records.erase(gang.name, lambda: True))
        await met.wait()
        await (records if by == "this leader" else anew).write(gang)
        go_on.set()
        await erased
        assert [plan.epoch for plan in rig.records_there()] == [
            records.epoch if by == "this leader" else "next"
        ]

    tried(story)


def test_a_record_whose_writing_got_no_answer_is_erased() -> None:
    async def story(rig: Rig) -> None:
        await running(rig)
        (gang,) = rig.control.gangs.values()
        await rig.control.plans.write(gang)
        rig.control.plans._versions.clear()
        await rig.control.plans.erase(gang.name, lambda: True)
        assert not rig.records_there()

    tried(story)


@pytest.mark.parametrize("bound", [True, False])
def test_a_pinned_pod_is_looked_up_before_its_node_is_given_away(bound: bool) -> None:
    """kube-scheduler may have bound it while the watch of pods was silent."""

    async def story(rig: Rig) -> None:
        rig.see(*(rank(i) for i in range(SIZE)))
        await rig.settle()
        nodes = rig.placed()
        assert len(set(nodes.values())) == SIZE
        rig.api.requests.clear()
        answer, asked = rig.api.persist, []

        async def persist(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if method != "GET" or "/pods/" not in path:
                return await answer(method, path, body, **more)
            rig.api.requests.append((method, path, body))
            asked.append(path.rpartition("/")[2])
            node = nodes[asked[-1]] if bound else ""
            return msgspec.json.encode(rank(int(asked[-1][-1]), node=node, gated=False))

        rig.api.persist = persist  # type: ignore[method-assign]
        more = {"schedulerName": "muster-direct", "gated": False}
        late = {"muster.dev/group": "late"}
        rig.see(*(pod(f"l-{i}", labels=late, annotations=MINIMUM, **more) for i in range(SIZE)))
        await rig.pass_s(31.0)
        assert sorted(asked) == sorted(nodes)
        assert rig.deleted() == []
        placed = rig.placed()
        assert placed == {} if bound else set(placed) == {f"l-{i}" for i in range(SIZE)}

    tried(story)


def test_what_is_deleted_is_what_was_seen() -> None:
    async def story(rig: Rig) -> None:
        seen = rank(0, owner=("PyTorchJob", "g", "uid-g"))
        meta = msgspec.structs.replace(seen.metadata, resource_version="17")
        await rig.control.lanes.delete(msgspec.structs.replace(seen, metadata=meta))
        ((method, _, body),) = rig.api.requests
        preconditions = {"uid": "g-0-0", "resourceVersion": "17"}
        assert (method, body) == ("DELETE", {"preconditions": preconditions})

    tried(story)
