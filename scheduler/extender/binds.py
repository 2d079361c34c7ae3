"""The bind verb: a pod of an ungated gang is bound only together with all of its gang.

Calls of one plan wait for each other. No write begins for a call whose caller hung up or soon will,
nor for a plan where that happened before the commit. A write in flight continues, and the next call
for its pod waits for its outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from scheduler.controller.controller import Controller
from scheduler.controller.lanes import plan_text
from scheduler.controller.membership import LiveGang
from scheduler.controller.slots import IllegalStepError, Plan, Slot
from scheduler.kube.api import ApiError, Turn
from scheduler.kube.objects import Pod
from scheduler.workloads.requests import pod_shape

log = logging.getLogger("muster.binds")
MARGIN_S = 1.0  #: before kube-scheduler hangs up, its answer is on the way
LOOK_S = 0.25  #: a plan may change without a call, and a watch be faster than an answer
PAUSE_S = 0.1
CHANGED = "the plan changed"
RESERVED = "reserved for a gang"
LOST = "muster no longer leads"
HUNG_UP = "kube-scheduler no longer waits"
NOT_COMMITTED = "the plan could not be committed in time"
UNDECIDED = "muster could not decide whether the gang is whole"


class BindArgs(msgspec.Struct, rename="pascal"):
    """A pod that kube-scheduler wants on a node."""

    pod_name: str
    pod_namespace: str
    pod_u_i_d: str = msgspec.field(name="PodUID")
    node: str


class BindResult(msgspec.Struct, rename="pascal"):
    """Empty if it is bound."""

    error: str = ""


@dataclass(eq=False, slots=True)
class Call:
    """One bind call."""

    arrived_s: float  #: by the event loop's clock, as all times here
    deadline_s: float  #: nothing is written for it from then on
    gone: asyncio.Future[Any]  #: done once the caller hung up
    parked: asyncio.Future[str] | None = None  #: why it is not bound; nothing if it may be

    def over(self) -> str:
        """Return why nothing may be written for it, or nothing."""
        if self.gone.done():
            return HUNG_UP
        late = asyncio.get_running_loop().time() >= self.deadline_s
        return "no time is left before kube-scheduler times out" if late else ""


@dataclass(eq=False, slots=True)
class Writing:
    """A Binding that is being written; calls for its pod come and go meanwhile."""

    node: str
    call: Call  #: the last of them; nothing more is begun once it is over
    outcome: asyncio.Future[BindResult]
    why: str = "the API server has not answered yet"  #: the Binding is not written
    task: asyncio.Task[None] | None = None


@dataclass(eq=False, slots=True)
class Barrier:
    """The calls of one plan of a gang."""

    gang: LiveGang
    plan: Plan
    end_s: float  #: all are here by then, or none is bound
    calls: dict[str, tuple[Slot, Call]] = field(default_factory=dict)  #: by uid
    something: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: str | None = None  #: once it is decided: why it failed, or nothing
    task: asyncio.Task[None] | None = None

    @property
    def slots(self) -> list[Slot]:
        """Slots of this plan that its gang still has."""
        return [slot for slot in self.gang.slots if slot.plan == self.plan]

    @property
    def unbound(self) -> list[Slot]:
        """Those of them that wait for their bind."""
        return [slot for slot in self.slots if not slot.is_bound]

    def answer(self, uid: str, text: str) -> None:
        """Let one call continue."""
        _, call = self.calls.pop(uid)
        if call.parked is not None and not call.parked.done():
            call.parked.set_result(text)


class Binds:
    """Answers bind calls."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._barriers: dict[tuple[str, int], Barrier] = {}  #: by gang and generation of its plan
        self._writings: dict[str, Writing] = {}  #: by uid

    async def bind(self, args: BindArgs, arrived_s: float, gone: asyncio.Future[Any]) -> BindResult:
        """Bind a pod; one of an ungated gang only together with all of its gang."""
        control = self._controller
        if not control.active:
            return BindResult("muster does not lead or has not read the cluster yet")
        if args.node not in control.ledger.nodes:  # the API server would take any name
            return BindResult(f"there is no node {args.node}")
        timeouts = control.settings.timeouts
        call = Call(arrived_s, arrived_s + timeouts.http_s - MARGIN_S, gone)
        place = control.slot_of.get(args.pod_u_i_d)
        if place is None:
            if args.pod_u_i_d in control.key_of_pod:
                return BindResult("the gang of this pod is not admitted")
            if args.pod_u_i_d not in control.pods:
                return BindResult("muster has not seen this pod yet")
            return await self._bind_alone(args, control.pods[args.pod_u_i_d], call)
        gang, slot = place
        if slot.node != args.node:
            return BindResult(f"planned for node {slot.node}, not {args.node}")
        pod = gang.pods.get(slot.uid)
        if pod is None or pod.metadata.deletion_timestamp:  # the next step takes its slot from it
            return BindResult("this pod is gone")
        control.progress.reached(pod.spec.scheduler_name, slot, control.now_s(), pod.spec.priority)
        if not slot.is_bound and control.ledger.overfull(slot.node, gang.facts(pod).shape):
            return BindResult(f"there is no room left on {slot.node}")
        # all of a plan were told by pins; a pod that still has its gate is seen as it was before
        seen_late = pod.gated and slot.is_told and gang.pins.get(slot.uid) == slot.node
        if gang.pinned(pod) != slot.node and not seen_late:
            refusal = await self._pass(gang, slot, call)
            if refusal:
                return BindResult(refusal)
        try:
            slot.telling(control.now_s(), "kube-scheduler")
        except IllegalStepError as error:
            control.set_aside(gang, error, "bind")
            return BindResult(str(error))
        unless = partial(control.release.void, slot, args.pod_u_i_d, args.node)

        def begin() -> None:
            slot.num_writing += 1

        def end(_: BindResult, is_over: bool) -> None:
            slot.num_writing -= 1
            if is_over:  # and not refused: kube-scheduler comes to it again after all others
                slot.queues(control.now_s())

        return await self._write(args, plan_text(gang, slot), call, unless, begin, end)

    async def _bind_alone(self, args: BindArgs, pod: Pod, call: Call) -> BindResult:
        """Bind a pod of no gang, unless gangs need the room; it counts from now on.

        kube-scheduler chose the node some time ago, and muster may have given it away since.
        """
        control = self._controller
        uid, shape = args.pod_u_i_d, pod_shape(pod, control.settings.resource)
        if pod.spec.node_name:
            here = pod.spec.node_name == args.node
            return BindResult("" if here else f"it is bound to {pod.spec.node_name}")

        def unless() -> str:
            room = control.ledger.room_beside_gangs(args.node)
            return (
                f"{args.node} is {RESERVED}" if room is not None and not room.holds(shape) else ""
            )

        if why := unless():
            return BindResult(why)
        counted = control.ledger.foreign_node(uid)
        if counted not in ("", args.node):  # by a call whose answer, or whose effect, is on its way
            return BindResult(f"it is being bound to {counted}")

        def begin() -> None:
            control.being_bound[uid] += 1
            if control.ledger.set_foreign(uid, args.node, shape):
                control.work.wake()  # the watch brings no news of it then, and people look

        def end(result: BindResult, _: bool) -> None:
            # one that succeeded counts until the watch tells of it
            if result.error and uid in control.being_bound:
                control.being_bound[uid] -= 1
                control.count_foreign(control.pods[uid])

        return await self._write(args, "", call, unless, begin, end)

    # -- waiting for the others --------------------------------------------------------------

    async def _pass(self, gang: LiveGang, slot: Slot, call: Call) -> str:
        """Wait until every pod of the plan is here or bound; return why not, or nothing."""
        barrier = self._barriers.get((gang.name, slot.plan.generation))
        if barrier is None or barrier.gang is not gang or not barrier.slots:
            barrier = self._begin(gang, slot.plan, call)
        if barrier.outcome is not None:  # decided for good: this plan, whoever comes late
            return barrier.outcome
        loop = asyncio.get_running_loop()
        uid = slot.uid
        call.parked = loop.create_future()
        if uid in barrier.calls:
            barrier.answer(uid, "kube-scheduler asked again")
        barrier.calls[uid] = slot, call
        call.gone.add_done_callback(lambda _: barrier.something.set())
        barrier.something.set()
        try:
            return await call.parked
        finally:
            if barrier.calls.get(uid, (slot, None))[1] is call:
                del barrier.calls[uid]

    def _begin(self, gang: LiveGang, plan: Plan, call: Call) -> Barrier:
        self._barriers = {
            name: one for name, one in self._barriers.items() if one.calls or one.slots
        }
        end_s = call.arrived_s + self._controller.settings.timeouts.barrier_s
        barrier = self._barriers[gang.name, plan.generation] = Barrier(gang, plan, end_s)
        barrier.task = asyncio.create_task(self._watch(barrier))
        return barrier

    async def _watch(self, barrier: Barrier) -> None:
        """Decide a barrier; whatever befalls this task, no call waits for it then."""
        decided = False
        try:
            await self._decide(barrier)
            decided = True
        except Exception:
            log.exception("the barrier is not decided", extra={"gang": barrier.gang.name})
        finally:
            if not decided:
                self._fail(barrier, UNDECIDED)

    async def _decide(self, barrier: Barrier) -> None:
        """Decide a barrier: one look at all its calls, whenever something happened."""
        loop = asyncio.get_running_loop()
        while True:
            barrier.something.clear()
            self._drop_stale(barrier)
            if not barrier.calls:  # nobody is left, and nothing was decided
                name = barrier.gang.name, barrier.plan.generation
                if self._barriers.get(name) is barrier:
                    del self._barriers[name]
                return
            if loop.time() >= barrier.end_s:
                self._fail(barrier, "not all pods of the gang arrived in time")
                return
            missing = [slot for slot in barrier.unbound if slot.uid not in barrier.calls]
            if not missing and not barrier.gang.releasing:
                break
            wait_s = min(LOOK_S, barrier.end_s - loop.time())
            with suppress(TimeoutError):
                await asyncio.wait_for(barrier.something.wait(), wait_s)
        refusal = self._refusal(barrier) or await self._commit(barrier) or self._refusal(barrier)
        if refusal:
            self._fail(barrier, refusal)
            return
        self._answer_all(barrier, "")

    def _drop_stale(self, barrier: Barrier) -> None:
        """Answer calls that cannot pass any more; the others may, with those that come instead."""
        for uid, (slot, call) in list(barrier.calls.items()):
            place = self._controller.slot_of.get(uid)
            if place is None or place[1] is not slot:
                barrier.answer(uid, CHANGED)
            elif call.gone.done():
                barrier.answer(uid, HUNG_UP)

    def _refusal(self, barrier: Barrier) -> str:
        """Return why the plan must not be carried out now, or nothing."""
        control = self._controller
        if not control.active:
            return LOST
        slots = barrier.unbound
        if not barrier.slots or any(slot.uid not in barrier.calls for slot in slots):
            return CHANGED
        if not all(control.ledger.usable(slot.node) for slot in slots):
            return "a planned node is gone"
        gang = barrier.gang
        for slot in slots:
            pod = gang.pods.get(slot.uid)
            if pod is None or pod.metadata.deletion_timestamp:
                return "a pod is gone"
            if control.ledger.overfull(slot.node, gang.facts(pod).shape):
                return "a planned node was taken"
        if self._lacks(barrier):
            return "a part of the gang lost its node"
        return next(filter(None, (call.over() for _, call in barrier.calls.values())), "")

    def _lacks(self, barrier: Barrier) -> bool:
        """True if the plan lost nodes since, and the gang would start without those pods."""
        gang = barrier.gang
        is_whole = len(barrier.slots) == barrier.plan.num_pods
        if gang.size is None or is_whole or (gang.started_min and gang.runs()):
            return False
        return gang.num_placed() < gang.size.min_member

    async def _commit(self, barrier: Barrier) -> str:
        """Pass the point of no return, once for the whole plan; return why not, or nothing.

        A write that is under way when the time of a call ends is not cut off: the calls are
        answered, and the plan ends once it is known what became of it.
        """
        loop = asyncio.get_running_loop()
        first_s = min(call.deadline_s for _, call in barrier.calls.values())

        def late() -> str:
            return NOT_COMMITTED if loop.time() >= first_s else ""

        commit = self._controller.plans.commit(
            barrier.gang, barrier.plan.generation, turn=Turn.BIND, unless=late
        )
        task = asyncio.ensure_future(commit)
        await asyncio.wait({task}, timeout=first_s - loop.time())
        if not task.done():
            self._answer_all(barrier, NOT_COMMITTED)
        try:
            await task
        except ApiError as error:
            return f"the plan could not be committed: {error}"
        return barrier.outcome or ""

    def _answer_all(self, barrier: Barrier, outcome: str) -> None:
        """Let all calls go on, those that come later too."""
        barrier.outcome = outcome
        for uid in list(barrier.calls):
            barrier.answer(uid, outcome)

    def _fail(self, barrier: Barrier, why: str) -> None:
        """Never bind a pod of this plan; have the gang planned anew."""
        control = self._controller
        self._answer_all(barrier, barrier.outcome or why)
        control.metrics.aborts.labels(cause="barrier").inc()
        if barrier.slots:
            for slot in barrier.unbound:
                slot.deadline_s, slot.is_void = control.now_s(), True
            control.work.touch(barrier.gang.key)
            control.work.wake()

    # -- writing -----------------------------------------------------------------------------

    async def _write(
        self,
        args: BindArgs,
        plan: str,
        call: Call,
        unless: Callable[[], str],
        begin: Callable[[], None],
        end: Callable[[BindResult, bool], None],
    ) -> BindResult:
        """Bind, or wait for the write of an earlier call; what kube-scheduler is told is the truth.

        Around the write `begin` and `end` are called, `end` with whether nobody waits any more.
        """
        uid = args.pod_u_i_d
        loop = asyncio.get_running_loop()
        writing = self._writings.get(uid)
        if writing is None:
            begin()
            writing = self._writings[uid] = Writing(args.node, call, loop.create_future())
            writing.task = asyncio.create_task(self._bind(args, plan, writing, unless, end))
        elif writing.node != args.node:
            return BindResult(f"it is being bound to {writing.node}")
        else:
            writing.call = call
        waits = {writing.outcome, call.gone}
        while not writing.outcome.done():
            if over := call.over():
                return BindResult(f"{over}: {writing.why}")
            pod = self._controller.pods.get(uid)
            if pod is not None and pod.spec.node_name == args.node:  # the answer is late
                return BindResult()
            left_s = call.deadline_s - loop.time()
            await asyncio.wait(
                waits, timeout=min(LOOK_S, left_s), return_when=asyncio.FIRST_COMPLETED
            )
        return writing.outcome.result()

    async def _bind(
        self,
        args: BindArgs,
        plan: str,
        writing: Writing,
        unless: Callable[[], str],
        end: Callable[[BindResult, bool], None],
    ) -> None:
        """Write a Binding, again and again while kube-scheduler waits."""
        result = BindResult("interrupted")
        try:
            result = await self._tried(args, plan, writing, unless)
        finally:
            del self._writings[args.pod_u_i_d]
            if not writing.outcome.done():
                writing.outcome.set_result(result)
            end(result, bool(writing.call.over()))

    async def _tried(
        self, args: BindArgs, plan: str, writing: Writing, unless: Callable[[], str]
    ) -> BindResult:
        control = self._controller
        where = (args.pod_namespace, args.pod_name, args.pod_u_i_d, args.node, plan)
        why = ""

        def may_not() -> str:  # its turn may come late
            return (unless() if control.active else LOST) or writing.call.over()

        while True:
            over = "" if control.active else LOST
            over = over or writing.call.over()
            if over:
                return BindResult(f"{over}: {why}" if why else over)
            pause_s = PAUSE_S
            try:
                await control.lanes.bind(*where, once=True, unless=may_not)
                return BindResult()
            except ApiError as error:
                if error.code not in (0, 429) and error.code < 500:
                    return BindResult(str(error))
                why = str(error) if error.code else why or str(error)
                writing.why = why
                pause_s = max(pause_s, error.retry_after_s)
            await asyncio.wait({writing.call.gone}, timeout=pause_s)
