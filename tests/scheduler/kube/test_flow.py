"""How many requests are under way, against servers that are simulated, in time that leaps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes.aio.client import Configuration

from scheduler.kube.api import Api, ApiError, Turn
from scheduler.kube.flow import BEHIND_OTHERS_S, FIRST, HALF, LEAST, MANY, SLACK, Flow
from scheduler.kube.lease import Lease
from tests.scheduler.kube.serving import serving


class Leaping(asyncio.SelectorEventLoop):
    """Nobody waits: when nothing is to be done, it is later at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def leap(timeout_s: float | None) -> Any:
            assert timeout_s is not None, "everybody waits for somebody else"
            self.now_s += timeout_s
            return select(0)

        self._selector.select = leap  # type: ignore[attr-defined]

    def time(self) -> float:
        """Return the time, in seconds."""
        return self.now_s


def leap(story: Callable[[Leaping], Awaitable[None]]) -> None:
    """Run a story in leaping time."""
    loop = Leaping()
    try:
        loop.run_until_complete(story(loop))
    finally:
        loop.close()


class Server:
    """Works on so many requests at a time, each for so long; the others wait in it."""

    def __init__(self, seats: int, takes_s: float) -> None:
        self.seats = asyncio.Semaphore(seats)
        self.takes_s = takes_s
        self.inside = self.most_inside = 0

    async def answer(self) -> int:
        """Return a status."""
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        async with self.seats:
            await asyncio.sleep(self.takes_s)
        self.inside -= 1
        return 200


async def write(flow: Flow, server: Any, loop: Leaping) -> None:
    """Make one request."""
    await flow.turn()
    sent_s = loop.time()
    code = await server.answer()
    flow.answered("PATCH", sent_s, code, 1.0 if code == 429 else 0.0)
    flow.over()


@settings(max_examples=60, deadline=None)
@given(seats=st.integers(1, 200), takes_s=st.floats(0.001, 1.0), most=st.integers(1, 64))
def test_a_server_is_used_and_not_flooded(seats: int, takes_s: float, most: int) -> None:
    async def story(loop: Leaping) -> None:
        flow, server = Flow(most, clock=loop.time), Server(seats, takes_s)
        await asyncio.gather(*(write(flow, server, loop) for _ in range(1000)))
        assert server.most_inside <= most
        assert flow.under_way == flow.num_waiting == 0
        began_s, server.most_inside = loop.time(), 0
        await asyncio.gather(*(write(flow, server, loop) for _ in range(1000)))
        could_s = 1000 * takes_s / min(seats, most)
        assert loop.time() - began_s <= 1.25 * could_s + 2 * takes_s
        # an answer may take twice the quickest, which some were under way for; half as many more
        # are let go before the first answer shows that it is too much
        assert server.most_inside <= 1.5 * (SLACK * max(LEAST, seats) + MANY)

    leap(story)


def test_a_server_that_becomes_slow_gets_less_and_later_more_again() -> None:
    async def story(loop: Leaping) -> None:
        flow, server = Flow(64, clock=loop.time), Server(64, 0.01)
        await asyncio.gather(*(write(flow, server, loop) for _ in range(2000)))
        assert flow.limit > 48
        server.takes_s = 0.5
        await asyncio.gather(*(write(flow, server, loop) for _ in range(2000)))
        assert flow.limit < 24
        server.takes_s = 0.01
        await asyncio.gather(*(write(flow, server, loop) for _ in range(4000)))
        assert flow.limit > 48

    leap(story)


def test_what_a_refusal_says_is_obeyed_by_all() -> None:
    """Nothing is sent before the time it names, and less than before; one refusal counts once."""

    async def story(loop: Leaping) -> None:
        flow, sent_s = Flow(64, clock=loop.time), []

        class Refuses(Server):
            async def answer(self) -> int:
                sent_s.append(loop.time())
                await asyncio.sleep(0.01)
                return 429 if len(sent_s) <= 40 else 200

        server = Refuses(64, 0.01)
        flow.limit = 40.0
        await asyncio.gather(*(write(flow, server, loop) for _ in range(100)))
        assert len({at for at in sent_s if at < 1.0}) == 1, "nobody came before a second was over"
        assert sum(1.0 <= at < 1.015 for at in sent_s) == 20, "half of those before"

    leap(story)


@pytest.mark.parametrize("seats", [1, 3, 20])
def test_flow_control_with_few_seats_is_used_and_seldom_hit(seats: int) -> None:
    """It refuses what comes while all seats are taken, and has everybody rest for a second."""

    class Refuses(Server):
        refused = 0

        async def answer(self) -> int:
            if self.inside >= seats:
                self.refused += 1
                return 429
            return await super().answer()

    async def story(loop: Leaping) -> None:
        binds = Flow(64, clock=loop.time)
        writes, server = Flow(64, before=binds, clock=loop.time), Refuses(seats, 0.01)

        async def one(flow: Flow, again: bool = False) -> None:
            await flow.turn(again=again)
            sent_s = loop.time()
            code = await server.answer()
            flow.answered("PATCH" if flow is writes else "POST", sent_s, code, 1.0)
            flow.over()
            if code == 429:
                await asyncio.sleep(1.0)
                await one(flow, again=True)

        async def both() -> None:
            await one(writes)
            await one(binds)

        await asyncio.gather(*(both() for _ in range(2000)))
        assert loop.time() < 4 * 4000 * 0.01 / seats + 20.0
        assert server.refused < 200

    leap(story)


def test_binds_go_before_writes_that_came_first() -> None:
    async def story(loop: Leaping) -> None:
        binds = Flow(64, clock=loop.time)
        writes, done = Flow(64, before=binds, clock=loop.time), []
        binds.limit = writes.limit = 4.0

        async def one(flow: Flow, name: str) -> None:
            await flow.turn()
            await asyncio.sleep(0.1)
            done.append(name)
            flow.over()

        tasks = [asyncio.create_task(one(writes, f"write {i}")) for i in range(100)]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(one(binds, f"bind {i}")) for i in range(8)]
        await asyncio.gather(*tasks)
        assert {f"bind {i}" for i in range(4)} <= set(done[:8]), "beside the writes under way"
        assert {f"bind {i}" for i in range(8)} <= set(done[:16])

    leap(story)


@pytest.mark.parametrize("limits", [(3.0, 5.0), (1.0, 1.0), (2.0, 16.0), (5.0, 3.0)])
def test_a_bind_that_waits_for_writes_has_its_turn_once_they_end(
    limits: tuple[float, float],
) -> None:
    """With few for both a bind waits for writes, and all writes wait behind it."""

    async def story(loop: Leaping) -> None:
        binds = Flow(64, clock=loop.time)
        writes = Flow(64, before=binds, clock=loop.time)
        under_way = 0
        while writes._may_go():
            await writes.turn()
            under_way += 1
            if under_way == 4:
                break
        binds.limit, writes.limit = limits
        waiting = [asyncio.ensure_future(flow.turn()) for flow in (binds, writes)]
        await asyncio.sleep(0)
        for _ in range(under_way):
            writes.over()
        await asyncio.wait_for(waiting[0], 0.1)
        binds.over()
        await asyncio.wait_for(waiting[1], 0.1)

    leap(story)


@pytest.mark.parametrize(
    "when", ["before its turn", "in its turn", "as its turn comes", "just before"]
)
def test_a_request_that_is_given_up_leaves_its_place_to_the_next(when: str) -> None:
    async def story(loop: Leaping) -> None:
        flow = Flow(1, clock=loop.time)
        await flow.turn()
        tries = [asyncio.create_task(flow.turn()) for _ in range(3)]
        await asyncio.sleep(0)
        if when == "as its turn comes":
            flow.over()
        else:
            tries[0].cancel()
            if when != "just before":  # a time limit and an answer in one turn of the loop
                await asyncio.sleep(0)
            if when == "in its turn":
                flow.over()
                await asyncio.sleep(0)
                assert tries[1].done() and not tries[2].done()
                return
            flow.over()
        tries[0].cancel()
        given_up, _ = await asyncio.gather(*tries[:2], return_exceptions=True)
        assert isinstance(given_up, asyncio.CancelledError)
        assert (flow.under_way, flow.num_waiting) == (1, 1)

    leap(story)


class Scripted(Api):
    """Answers from a list of codes, and notes when each try was sent."""

    def __init__(self, loop: Leaping, *codes: int, takes_s: float = 0.0) -> None:
        super().__init__(Configuration())
        for flow in self.flows.values():
            flow._clock = loop.time
        self._loop, self._codes, self._takes_s = loop, list(codes), takes_s
        self._session = object()  # type: ignore[assignment]
        self.sent_s: list[float] = []

    async def _headers(self) -> dict[str, str]:
        return {}

    async def _send(self, *_: Any) -> bytes:
        self.sent_s.append(self._loop.time())
        await asyncio.sleep(self._takes_s)
        code = self._codes.pop(0) if self._codes else 200
        if code != 200:
            raise ApiError(code, "no", 2.0 if code == 429 else 0.0)
        return b""


def test_the_time_for_a_write_begins_when_it_is_sent() -> None:
    """However many stand before it: what waits for its turn is not late."""

    async def story(loop: Leaping) -> None:
        api = Scripted(loop, *[503] * 3, takes_s=1.0)
        api.flows[Turn.WRITE].limit = 1.0
        await asyncio.gather(*(api.persist("PATCH", f"/{i}", {}, within_s=5.0) for i in range(100)))
        assert len(api.sent_s) == 103 and loop.time() > 100.0

    leap(story)


def test_an_answer_is_waited_for_however_late_it_is() -> None:
    async def story(loop: Leaping) -> None:
        api = Scripted(loop, takes_s=50.0)
        await api.persist("PATCH", "/x", {}, within_s=5.0)
        assert len(api.sent_s) == 1, "it may be under way: to send it again is to do it twice"

    leap(story)


def test_those_refused_together_come_back_apart_and_no_sooner_than_told() -> None:
    async def story(loop: Leaping) -> None:
        api = Scripted(loop, *[429] * 8)
        await asyncio.gather(*(api.persist("PATCH", f"/{i}", {}) for i in range(8)))
        again_s = [at for at in api.sent_s if at > 0]
        assert min(again_s) >= 2.0 and len(set(again_s)) == 8

    leap(story)


def test_a_gang_of_5000_pods_at_an_api_server_that_takes_700_ms_for_each_answer() -> None:
    """Each write is made once; binds and the lease wait for none of them."""

    class Slow(Scripted):
        held: dict[str, Any] | None = None

        async def _send(self, method: str, path: str, data: Any, *more: Any) -> bytes:
            await super()._send()
            flow = next((one for one in more if isinstance(one, Flow)), None)
            if flow is not None:
                flow.answered(method, self._loop.time() - 0.7, 200)
            if "leases" not in path:
                return b""
            if method == "GET" and self.held is None:
                raise ApiError(404, "not found")
            if method != "GET":
                body = msgspec.json.decode(data)
                spec = {**(self.held or {"spec": {}})["spec"], **body["spec"]}
                self.held = {"metadata": {"resourceVersion": str(len(self.sent_s))}, "spec": spec}
            return msgspec.json.encode(self.held)

    async def story(loop: Leaping) -> None:
        api = Slow(loop, takes_s=0.7)
        lease = Lease(api, "n", "me", lease_s=30.0, renew_s=12.0)
        renewing = asyncio.create_task(lease.run())
        await lease.acquired.wait()
        gaps_s, waits_s = [], []

        async def one(number: int) -> None:
            await api.persist("PATCH", f"/pods/{number}", {})
            gaps_s.append(loop.time() - lease._renewed_s)
            began_s = loop.time()
            await api.call("POST", f"/pods/{number}/binding", {}, turn=Turn.BIND)
            waits_s.append(loop.time() - began_s)

        await asyncio.gather(*(one(number) for number in range(5000)))
        assert loop.time() < 2 * 5000 * 0.7 / 64 + 30.0
        assert max(gaps_s) < 15.0, "renewed within half its time"
        assert max(waits_s) < 3.0, "kube-scheduler waits for 10 s"
        assert len(api.sent_s) < 10_040, "nothing but the lease is sent beside them"
        renewing.cancel()

    leap(story)


TENTHS = st.integers(0, 20).map(lambda tenths: tenths / 10)  #: so that things coincide


@st.composite
def requests(draw: st.DrawFn) -> tuple[bool, float, float, int, float, float]:
    """Return one: of binds, when it comes, how long it takes, its code, the rest, its end."""
    code = draw(st.sampled_from([0, 200, 200, 200, 429, 503]))
    given_up_s = draw(st.one_of(st.just(math.inf), TENTHS.map(lambda late_s: late_s + 0.1)))
    takes_s = draw(st.sampled_from([0.1, 0.1, 0.2, 0.5, 3.0, 40.0]))
    rest_s = draw(st.sampled_from([0.0, 0.3, 1.0, 5.0]))
    return draw(st.booleans()), draw(TENTHS), takes_s, code, rest_s, given_up_s


@settings(max_examples=300, deadline=None)
@given(
    asked=st.lists(requests(), min_size=1, max_size=60),
    limits=st.tuples(st.integers(1, 6), st.integers(1, 20)),
    most=st.integers(1, 64),
)
def test_whatever_is_answered_all_have_their_turn(
    asked: list[tuple[bool, float, float, int, float, float]], limits: tuple[int, int], most: int
) -> None:
    """Requests of both kinds that are refused, not answered, or given up at any time.

    No failure raises a limit. A bind waits for no write for longer than stated: not while there
    may be several writes at once, and else for a second.
    """

    async def story(loop: Leaping) -> None:
        binds = Flow(most, clock=loop.time)
        writes = Flow(most, before=binds, clock=loop.time)
        for flow, limit in zip((binds, writes), limits, strict=True):
            flow.limit = float(min(limit, most))
        served = set()

        async def one(number: int) -> None:
            is_bind, _, takes_s, code, rest_s, _ = asked[number]
            flow, came_s = (binds, loop.time()) if is_bind else (writes, 0.0)
            is_alone = is_bind and binds.under_way == binds.num_waiting == 0
            has_many = max(binds.limit, writes.limit) >= LEAST
            may_s = max(came_s, binds._rests_until_s)
            await flow.turn()
            sent_s = loop.time()
            if is_alone and has_many and may_s == came_s:
                assert sent_s == came_s
            if is_alone:
                patient_s = came_s + BEHIND_OTHERS_S
                assert sent_s <= max(patient_s, binds._rests_until_s) + 1e-6
            try:
                await asyncio.sleep(takes_s)
                before = binds.limit, writes.limit
                flow.answered("PATCH", sent_s, code, rest_s)
                if code != 200:
                    assert binds.limit <= before[0] and writes.limit <= before[1]
                assert min(binds.limit, writes.limit) >= 1.0
            finally:
                flow.over()
            served.add(number)

        tasks = {}
        for number, (_, comes_s, *_, given_up_s) in enumerate(asked):

            def come(number: int = number) -> None:
                tasks[number] = asyncio.ensure_future(one(number))

            loop.call_at(comes_s, come)
            if given_up_s < math.inf:
                loop.call_at(comes_s + given_up_s, lambda number=number: tasks[number].cancel())
        await asyncio.sleep(2.1)
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for number, result in zip(tasks, results, strict=True):
            may_be_given_up = asked[number][-1] < math.inf
            if not (may_be_given_up and isinstance(result, asyncio.CancelledError)):
                assert result is None and number in served
        for flow in (binds, writes):
            assert flow.under_way == flow.num_waiting == 0

    leap(story)


def test_a_flow_that_a_refusal_left_with_next_to_nothing_recovers_by_itself() -> None:
    """It hears of few answers of its own, and then a thousand come at once."""

    async def story(loop: Leaping) -> None:
        binds = Flow(64, clock=loop.time)
        writes, server = Flow(64, before=binds, clock=loop.time), Server(64, 0.01)
        for _ in range(6):
            await asyncio.sleep(1.0)
            binds.answered("POST", loop.time(), 429, 0.1)
        assert binds.limit == writes.limit == 1.0
        await asyncio.sleep(30.0)
        await asyncio.gather(*(write(writes, server, loop) for _ in range(4000)))
        assert writes.limit > 48 > 1.0 == binds.limit
        began_s = loop.time()
        both = [binds] * 1000 + [writes] * 4000
        await asyncio.gather(*(write(flow, server, loop) for flow in both))
        assert loop.time() - began_s < 5.0 and binds.limit > 10

    leap(story)


def test_binds_do_not_wait_for_slow_writes_after_one_refusal() -> None:
    async def story(loop: Leaping) -> None:
        binds = Flow(64, clock=loop.time)
        writes = Flow(64, before=binds, clock=loop.time)
        binds.limit, writes.limit = 4.0, 64.0  # what the last half minute left them
        for _ in range(60):
            await writes.turn()  # which take long
        writes.answered("PATCH", loop.time(), 429, 1.0)
        for _ in range(2):
            await asyncio.wait_for(binds.turn(), 1.1)
        writes.limit = 3.0
        binds.over()
        binds.over()
        await asyncio.wait_for(binds.turn(), BEHIND_OTHERS_S + 0.1)

    leap(story)


@pytest.mark.parametrize("path", ["/pods/a", "/pods/a/eviction"])
@pytest.mark.parametrize("by", ["flow control", "a budget"])
def test_a_budget_is_no_sign_of_too_much_work_and_flow_control_is(by: str, path: str) -> None:
    """Both say 429 to an eviction, and so kube-apiserver answers."""
    said = "Cannot evict pod as it would violate the pod's disruption budget."
    needs = "The disruption budget a needs 2 healthy pods and has 2 currently"
    cause = {"reason": "DisruptionBudget", "message": needs}
    status = {"kind": "Status", "status": "Failure", "message": said, "code": 429}
    status |= {"reason": "TooManyRequests", "details": {"causes": [cause]}}

    async def refuse(_: web.Request) -> web.Response:
        if by == "a budget":
            return web.json_response(status, status=429)
        text, after = "Too many requests, please try again later.\n", {"Retry-After": "1"}
        return web.Response(text=text, status=429, headers=after)

    async def story() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", refuse)
        async with serving(app) as url, Api(Configuration(host=url)) as api:
            with pytest.raises(ApiError) as refused:
                await api.call("POST", path, {})
            limits = {flow.limit for flow in api.flows.values()}
        by_budget = by == "a budget"
        assert refused.value.is_late is not by_budget
        assert limits == {FIRST if by_budget and path.endswith("/eviction") else HALF * FIRST}
        assert (needs in refused.value.text) is by_budget

    asyncio.run(story())
