"""The bind verb: all of a gang or none, and nothing for a caller who does not wait any more."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
import pytest

from scheduler.controller.metrics import Metrics
from scheduler.controller.plans import PlanRecord
from scheduler.extender import binds as barriers
from scheduler.extender.binds import HUNG_UP, NOT_COMMITTED, UNDECIDED, Barrier, BindArgs, Binds
from scheduler.extender.serving import ExtenderApp
from scheduler.extender.verbs import Extender
from scheduler.kube.api import ApiError, Turn
from tests.scheduler.controller.rig import Recorder, Rig, pod, tried

GROUP = "scheduling.x-k8s.io/pod-group"
LATE = "not all pods of the gang arrived in time"
SHORT = {"barrier_s": 0.3, "http_s": 3.5}


class Slow(Recorder):
    """Keeps a kind of request until it may go on, or answers it with an error."""

    def __init__(self) -> None:
        super().__init__()
        self.held = ""
        self.goes_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.code = 0
        self.seen_s: list[float] = []  #: when such requests came

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> bytes:
        """Answer, at last."""
        if self.held and self.held in f"{method} {path}":
            self.seen_s.append(asyncio.get_running_loop().time())
        answer = await super().call(method, path, body, **more)
        if self.held and f"{method} {path}".find(self.held) >= 0:
            self.asked.set()
            if self.code:
                raise ApiError(self.code, "not now")
            await self.goes_on.wait()
        return answer

    persist = call


class Gang:
    """An ungated gang whose pods know their nodes, and the bind calls for them."""

    def __init__(self, rig: Rig, size: int) -> None:
        self.rig = rig
        self.size = size
        self.api = rig.api
        self.binds = Binds(rig.control)
        self.calls: list[tuple[asyncio.Task[Any], asyncio.Future[Any]]] = []

    @classmethod
    async def made(cls, rig: Rig, size: int) -> Gang:
        """Tell the rig of it, and wait until it is planned."""
        found = cls(rig, size)
        rig.clock_s += 1.0
        rig.thing("coscheduling", "g", {"minMember": size})
        rig.see(*(pod(f"g-{i}", labels={GROUP: "g"}, gated=False) for i in range(size)))
        await rig.settle()
        assert len(rig.control.slot_of) == size
        return found

    def node(self, number: int) -> str:
        """Return where a pod is planned."""
        return self.rig.control.slot_of[f"g-{number}"][1].node

    def call(self, number: int, node: str = "") -> asyncio.Task[Any]:
        """Call bind for a pod, as kube-scheduler does."""
        gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        args = BindArgs(f"g-{number}", "n", f"g-{number}", node or self.node(number))
        now_s = asyncio.get_running_loop().time()
        task = asyncio.create_task(self.binds.bind(args, now_s, gone))
        self.calls.append((task, gone))
        return task

    async def errors(self) -> list[str]:
        """Return the answers to all calls."""
        return [(await task).error for task, _ in self.calls]

    def hang_up(self, number: int) -> None:
        """Let the caller of the call of this number be gone."""
        self.calls[number][1].set_result(None)

    def num_bindings(self) -> int:
        """Return how many Bindings were written."""
        return sum(path.endswith("/binding") for _, path, _ in self.api.requests)

    def num_commits(self) -> int:
        """Return how often a plan was committed."""
        return sum(
            "muster.dev/committed" in str(body) for _, path, body in self.api.requests if body
        )


def with_slow(rig: Rig) -> Slow:
    slow = Slow()
    for holder in (rig.control.lanes, rig.control.plans):
        holder._api = slow
    rig.api = slow
    return slow


def test_all_come_and_each_call_costs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    stale = Binds._drop_stale

    def counted(self: Binds, barrier: Barrier) -> None:
        nonlocal looks
        looks += 1
        stale(self, barrier)

    monkeypatch.setattr(Binds, "_drop_stale", counted)

    async def story(rig: Rig) -> None:
        one = await Gang.made(rig, 100)
        for number in range(100):
            one.call(number)
            await asyncio.sleep(0)
            assert one.num_bindings() == 0
        assert await one.errors() == [""] * 100
        assert (one.num_bindings(), one.num_commits()) == (100, 1)
        assert looks <= 110
        again = one.call(7)
        assert (await again).error == "", "kube-scheduler may ask again for what is committed"

    tried(story, nodes=100)


def test_one_that_does_not_come_ends_the_plan_for_good() -> None:
    async def story(rig: Rig) -> None:
        one = await Gang.made(rig, 3)
        one.call(0)
        one.call(1)
        assert await one.errors() == [LATE] * 2
        for number in range(3):
            assert (await one.call(number)).error == LATE, "this plan is never carried out"
        assert one.num_bindings() == one.num_commits() == 0
        await rig.settle()
        assert not rig.control.slot_of, "it is planned anew, later"
        await rig.pass_s(11.0)
        assert len(rig.control.slot_of) == 3
        one.calls.clear()
        for number in range(3):
            one.call(number)
        assert await one.errors() == [""] * 3

    tried(story, timeouts=SHORT)


def test_who_hung_up_is_not_counted_and_may_come_again() -> None:
    async def story(rig: Rig) -> None:
        one = await Gang.made(rig, 3)
        one.call(0)
        one.call(1)
        await asyncio.sleep(0)
        one.hang_up(0)
        assert (await one.calls[0][0]).error == HUNG_UP
        one.call(2)
        await asyncio.sleep(0.05)
        assert one.num_commits() == 0, "two are not three"
        one.call(0)
        assert await one.errors() == [HUNG_UP, "", "", ""]
        assert one.num_bindings() == 3

    tried(story)


@pytest.mark.parametrize("when", ["too late", "hung up", "another leads", "node gone"])
def test_what_changes_while_the_plan_is_committed(when: str) -> None:
    async def story(rig: Rig) -> None:
        slow = with_slow(rig)
        one = await Gang.made(rig, 3)
        slow.held = "PATCH /api/v1/namespaces/muster-system/configmaps"
        for number in range(3):
            one.call(number)
        await slow.asked.wait()
        began_s = time.monotonic()
        if when == "hung up":
            one.hang_up(1)
        elif when == "another leads":
            rig.control.active = False
        elif when == "node gone":
            rig.ledger.remove_node(one.node(2))
        if when != "too late":
            slow.goes_on.set()
        errors = await one.errors()
        assert all(errors) and len(set(errors)) == 1, errors
        assert time.monotonic() - began_s < 3.5
        if when == "too late":
            (barrier,) = one.binds._barriers.values()
            assert barrier.task is not None and not barrier.task.done(), "no write is cut off"
            assert (await one.call(0)).error == NOT_COMMITTED and not barrier.calls
            assert not any(slot.is_void for slot in barrier.slots), "nor a plan made beside it"
        slow.goes_on.set()
        await asyncio.sleep(0.05)
        assert one.num_bindings() == 0 and one.num_commits() == 1

    tried(story, timeouts=SHORT)


@pytest.mark.parametrize("how", ["an error", "cancelled"])
def test_a_barrier_whose_task_ends_answers_its_calls(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it: calls that nobody answers are made again for ever."""

    async def story(rig: Rig) -> None:
        one = await Gang.made(rig, 2)
        tried = asyncio.Event()

        async def breaks(*_: Any, **__: Any) -> None:
            tried.set()
            if how == "an error":
                raise RuntimeError("of no kind that anybody thought of")
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(rig.control.plans, "commit", breaks)
            one.call(0)
            one.call(1)
            await tried.wait()
            for barrier in one.binds._barriers.values():
                assert barrier.task is not None
                if how == "cancelled":
                    barrier.task.cancel()
            assert await asyncio.wait_for(one.errors(), 1.0) == [UNDECIDED] * 2
        await rig.settle()
        await rig.pass_s(11.0)
        one.calls.clear()
        for number in range(2):
            one.call(number)
        assert await one.errors() == ["", ""], "it is planned anew"

    tried(story, timeouts=SHORT)


@pytest.mark.parametrize("comes", ["too late", "in time"])
def test_a_commit_goes_with_the_binds_and_begins_in_time_or_never(comes: str) -> None:
    """An answer that was lost is looked up as it was asked: kube-scheduler waits."""

    async def story(rig: Rig) -> None:
        one = await Gang.made(rig, 2)
        persist, turns, sent = rig.api.persist, [], []

        async def waits(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if "/configmaps/" not in path:
                return await persist(method, path, body, **more)
            turns.append(more.get("turn"))
            if method == "GET":
                kept = PlanRecord("n/g", ("n", "g", "Job", ""), 1, rig.control.plans.epoch, [])
                data = {"plan": json.dumps(msgspec.to_builtins(kept))}
                meta = {"name": "x", "resourceVersion": "8"}
                return json.dumps({"metadata": meta, "data": data}).encode()
            if comes == "too late":
                await asyncio.sleep(3.0)  # its turn
            if why := more["unless"]():
                raise ApiError(409, why)
            sent.append(method)
            if len(sent) == 1:
                raise ApiError(409, "its answer was lost, and this is the second try")
            return await persist(method, path, body, **more)

        rig.control.plans._api.persist = waits  # type: ignore[method-assign]
        one.call(0)
        one.call(1)
        errors = await one.errors()
        await asyncio.sleep(1.0 if comes == "too late" else 0.0)
        assert set(turns) == {Turn.BIND}
        assert sent == ([] if comes == "too late" else ["PATCH", "PATCH"])
        assert errors == [NOT_COMMITTED if comes == "too late" else ""] * 2

    tried(story, timeouts=SHORT)


@pytest.mark.parametrize("how", ["answers 503", "does not answer", "hung up"])
def test_a_binding_is_tried_while_kube_scheduler_waits(how: str) -> None:
    async def story(rig: Rig) -> None:
        slow = with_slow(rig)
        one = await Gang.made(rig, 1)
        slow.held, slow.code = "/binding", 0 if how == "does not answer" else 503
        began_s = asyncio.get_running_loop().time()
        one.call(0)
        await slow.asked.wait()
        if how == "hung up":
            one.hang_up(0)
        (error,) = await one.errors()
        assert error and ("503" in error or how != "answers 503"), "it is told what was answered"
        took_s = asyncio.get_running_loop().time() - began_s
        assert took_s < 1.0 if how == "hung up" else 2.0 < took_s < 3.0
        tries = one.num_bindings()
        assert tries > 3 if how == "answers 503" else tries == 1
        assert slow.seen_s[-1] - began_s < SHORT["http_s"] - barriers.MARGIN_S
        await asyncio.sleep(0.3)
        assert one.num_bindings() == tries, "nothing is begun after the answer"
        assert rig.control.slot_of["g-0"][1].is_told, "what became of it is asked"

    tried(story, timeouts=SHORT)


@pytest.mark.parametrize("heard", ["the answer", "the watch"])
def test_the_next_call_waits_for_the_binding_that_is_under_way(heard: str) -> None:
    """To cut it off and write it again makes a late server later."""

    async def story(rig: Rig) -> None:
        slow = with_slow(rig)
        one = await Gang.made(rig, 1)
        slow.held = "/binding"
        one.call(0)
        assert "has not answered yet" in (await one.errors())[0]
        slot = rig.control.slot_of["g-0"][1]
        assert slot.num_writing == 1
        await rig.pass_s(500.0)
        assert rig.control.slot_of["g-0"][1] is slot, "it may be bound at any time"
        assert not any(method == "GET" for method, _, _ in rig.api.requests), "nobody asks"
        one.call(0)
        await asyncio.sleep(0.05)
        if heard == "the answer":
            slow.goes_on.set()
        else:
            rig.see(pod("g-0", labels={GROUP: "g"}, node=slot.node))
        assert (await one.errors())[1] == ""
        slow.goes_on.set()
        await asyncio.sleep(0.05)
        assert (one.num_bindings(), slot.num_writing) == (1, 0)
        assert (await one.call(0)).error == ""

    tried(story, timeouts=SHORT)


def test_a_pod_that_was_pinned_passes_though_the_watch_is_late() -> None:
    """Its gate is off, or kube-scheduler would not have it: a barrier would end its plan."""

    async def story(rig: Rig) -> None:
        one = Gang(rig, 2)
        rig.thing("coscheduling", "g", {"minMember": 2})
        rig.see(*(pod(f"g-{i}", labels={GROUP: "g"}) for i in range(2)))
        await rig.settle()
        assert (await one.call(0)).error == ""
        assert one.num_bindings() == 1

    tried(story, timeouts=SHORT)


def test_a_quantity_that_is_none_is_a_bad_request() -> None:
    async def story(rig: Rig) -> None:
        app = ExtenderApp(Extender(rig.control), Metrics(), 1 << 20)
        for amount in ("abc", "1e999999", "NaN", ""):
            container = {"resources": {"limits": {"nvidia.com/gpu": amount}}}
            asked = {"metadata": {"uid": "x"}, "spec": {"containers": [container]}}
            body = json.dumps({"Pod": asked, "NodeNames": ["node-00000"]}).encode()
            sent: list[dict[str, Any]] = []

            async def receive(body: bytes = body) -> dict[str, Any]:
                return {"type": "http.request", "body": body}

            async def send(message: dict[str, Any], sent: list[dict[str, Any]] = sent) -> None:
                sent.append(message)

            scope = {"type": "http", "path": "/v1/filter", "method": "POST", "headers": []}
            await app(scope, receive, send)
            assert sent[0]["status"] == 400, (amount, sent)

    tried(story)
