"""One running muster: starts and stops informers, lease, controller and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from scheduler.controller.controller import Controller
from scheduler.controller.metrics import Metrics
from scheduler.controller.mirror import Ledger
from scheduler.controller.plans import PlanRecord, PlanRecords
from scheduler.controller.settings import LiveSettings
from scheduler.core.events import Considered
from scheduler.core.state import ClusterState
from scheduler.extender.certificates import Certificates
from scheduler.extender.serving import ExtenderApp
from scheduler.extender.verbs import Extender
from scheduler.journal import lines as journals
from scheduler.journal.file import Journal
from scheduler.kube.api import PARTIAL, PARTIAL_LIST, Api, ApiError, access
from scheduler.kube.devices import (
    CLAIMS,
    CLASSES,
    SLICES,
    DeviceClass,
    ResourceClaim,
    ResourceSlice,
)
from scheduler.kube.lease import Lease, LeaseLostError
from scheduler.kube.objects import NodeObject, Pod, Thing
from scheduler.kube.watch import Change, Informer
from scheduler.live.doors import Bounds, Door, Guarded, bounds_of_verbs, server_behind
from scheduler.live.guard import kept
from scheduler.policies import catalog
from scheduler.status.facts import ClusterFacts
from scheduler.status.pages import Breath
from scheduler.status.publish import Publisher
from scheduler.status.serving import status_app
from scheduler.status.story import STEP_S, Memory
from scheduler.status.tally import Tally
from scheduler.status.visitors import Guard, Visitors
from scheduler.workloads.gangs import KINDS
from scheduler.workloads.lean import lean_pod, lean_thing

log = logging.getLogger("muster")
RECENT_LINES = 20_000  #: of the journal, where no file is set
#: muster leads without a kind of objects of which no more is read for so long: the gangs wait of
#: which those say something, and others need not
READ_S = 15.0
AGAIN_S = 2.0  #: plan records that cannot be read are read again after so long
SETTLE_S = 0.05  #: what changes together is one step of the curve
REST_TIMES = 10.0  #: the curve costs a tenth of the time at most
FLUSH_STEP_S = 5.0  #: what a crash may cost the journal
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
#: what dynamic resource allocation says of devices; what goes wrong where it cannot be read
DEVICES: tuple[tuple[str, type, str], ...] = (
    (CLASSES, DeviceClass, "GPUs that a device class stands for count as none"),
    (
        SLICES,
        ResourceSlice,
        "nodes whose GPUs a driver publishes as devices count as having no GPUs",
    ),
    (CLAIMS, ResourceClaim, "devices that claims hold count as free"),
)


class Service:
    """Everything that one process runs."""

    def __init__(self, settings: LiveSettings, api: Api) -> None:
        self.settings = settings
        self.api = api
        self.metrics = Metrics()
        who = settings.who()
        self.journal = (
            Journal(Path(settings.journal), settings.journal_max_bytes)
            if settings.journal
            else None
        )
        self.recent: list[bytes] = []  #: since the last snapshot, where no file is set
        self.policy = settings.policy
        policy = catalog.policy(settings.policy)
        self.ledger = Ledger(policy, settings.resource, self._record, self._rebuilt)
        self.publisher = Publisher(api, who)
        self.memory = Memory(self.journal.write if self.journal is not None else None)
        self.publisher.memory = self.memory
        plans = PlanRecords(api, settings.plans_in(), who)
        self.controller = Controller(
            settings, api, self.ledger, plans, self.publisher, self.metrics
        )
        self.publisher.find = self.controller.find
        self.tally = Tally(self.controller, self.memory)
        self.publisher.on_change = self.tally.changed
        self.extender = Extender(self.controller)
        self.lease = Lease(
            api,
            settings.namespace,
            who,
            lease_s=settings.leader.lease_s,
            renew_s=settings.leader.renew_s,
        )
        self.informers: dict[str, Informer[object]] = {}
        self.why_not_ready = "starting"
        self.certificates = Certificates(settings.serve) if settings.serve.cert else None
        self.facts = ClusterFacts(self)

    # -- journal -----------------------------------------------------------------------------

    def _record(self, now_s: float, item: object) -> None:
        self.tally.heard(item)
        line = journals.encode(now_s, item)
        if self.journal is None:
            self.recent.append(line)
            if len(self.recent) >= RECENT_LINES + 2 * len(self.ledger.requests):
                self.ledger.begin_anew()
            return
        self.journal.write(line, rests=isinstance(item, Considered))
        if self.journal.full:  # a file begins with the state that its lines change
            self.ledger.begin_anew()

    def _rebuilt(self, now_s: float, state: ClusterState) -> None:
        self.tally.all_changed()
        line = journals.snapshot(now_s, state, self.policy, self.controller.zero_unix_s)
        if self.journal is None:
            self.recent = [line]
        else:
            self.journal.begin(now_s, line)

    # -- life --------------------------------------------------------------------------------

    def _start(self, group: asyncio.TaskGroup, kind: str, informer: Informer[object]) -> None:
        self.informers[kind] = informer
        self._keep(group, f"watch of {kind}", informer.run)

    def _start_kind(self, group: asyncio.TaskGroup, kind: str) -> None:
        """Watch a kind of objects that say how large gangs are."""
        informer = self._things(kind)
        self.controller.tables.unread.add(kind)
        self._start(group, kind, informer)

        async def note() -> None:
            await informer.synced.wait()
            self.controller.is_read(kind)

        self._keep(group, f"first list of {kind}", note)

    async def _read(self, *required: str) -> None:
        """Wait until the cluster is read: what is required, and the rest as long as it comes."""
        now_s = asyncio.get_running_loop().time

        def is_awaited(kind: str) -> bool:
            return kind in required or now_s() - (self.informers[kind].came_s or now_s()) < READ_S

        while awaited := [kind for kind in self._unread() if is_awaited(kind)]:
            self.why_not_ready = "; ".join(["reading the cluster", *self._unread().values()])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.informers[awaited[0]].synced.wait()

    def _unread(self) -> dict[str, str]:
        """Return the kinds of objects of which no list has come, and why."""
        return {
            kind: f"{kind} ({informer.path}): {informer.trouble or 'no answer'}"
            for kind, informer in self.informers.items()
            if not informer.synced.is_set()
        }

    async def _lead(self, group: asyncio.TaskGroup) -> None:
        """Wait for the lease."""
        group.create_task(self.lease.run())
        while not self.lease.acquired.is_set():
            trouble = self.lease.trouble
            self.why_not_ready = f"the lease: {trouble}" if trouble else "another replica leads"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.lease.acquired.wait()

    async def _read_plans(self) -> list[PlanRecord]:
        """Return the records of plans, once they can be read: without them none may be made."""
        plans = self.controller.plans
        self.why_not_ready = "reading the plan records"
        while True:
            try:
                try:
                    await plans.move_from(self.settings.namespace)
                except ApiError as error:
                    if error.code not in (403, 404):
                        raise
                    log.error("plan records of an earlier version stay where they are: %s", error)
                found, unreadable = await plans.read_all()
                for name in unreadable:
                    log.warning("deleting plan record %s of another version", name)
                    await plans.erase_named(name)
                ages = await plans.read_ages()
            except ApiError as error:
                self.why_not_ready = f"the plan records in {plans.path}: {error}"
                log.error("not leading yet: %s", self.why_not_ready)
                await asyncio.sleep(AGAIN_S)
            else:
                self.controller.tables.ages.read(ages, self.controller.gangs.values())
                return found

    def _keep(
        self, group: asyncio.TaskGroup, what: str, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Have work done beside the rest that one failure does not end."""
        group.create_task(kept(what, work, self.metrics.failures), name=what)

    def _things(self, kind: str) -> Informer[object]:
        def handler(change: Change, thing: object) -> None:
            assert isinstance(thing, Thing)
            self.controller.on_thing(kind, change, thing)

        return Informer(
            self.api,
            KINDS[kind].path,
            Thing,
            handler,
            stalled_s=self.settings.timeouts.stalled_watch_s,
            optional=True,
            lean=lean_thing,  # type: ignore[arg-type]
        )

    async def run(self) -> None:
        """Run until a signal comes or the lease is lost.

        Raises:
            LeaseLostError: the process should be restarted.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        status, serve = self.settings.status, self.settings.serve
        visitors = Visitors(
            self.api, self.settings.namespace, trusts_loopback=status.trust_loopback
        )
        pages = Guard(status_app(self.facts), visitors)
        servers = [server_behind(Door(Bounds()), pages, status.host, status.port)]
        verbs = ExtenderApp(self.extender, self.metrics, serve.max_body_bytes)
        door = Door(bounds_of_verbs(), self.certificates)
        servers.append(server_behind(door, verbs, serve.host, serve.port))
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                for server in servers:
                    group.create_task(server.serve())
                if self.certificates is not None:
                    self._keep(group, "look at certificates", self.certificates.keep_looking)
                group.create_task(self._watch_and_act(group))
                group.create_task(self._end(stop, group, servers))
        if self.lease.lost.is_set() and not stop.is_set():
            raise LeaseLostError("the lease was lost to another replica, or could not be renewed")

    async def _end(
        self, stop: asyncio.Event, group: asyncio.TaskGroup, servers: list[Guarded]
    ) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self.lease.lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        self.why_not_ready = "stopping"
        self.controller.active = False
        self.publisher.active = False
        await self.controller.finish_work(5.0)
        await self.lease.give_up()
        for server in servers:
            server.should_exit = True
        if self.journal is not None:
            self.journal.close()
        for task in list(group._tasks):
            if task is not asyncio.current_task():
                task.cancel()

    async def _watch_and_act(self, group: asyncio.TaskGroup) -> None:
        control = self.controller
        stalled_s = self.settings.timeouts.stalled_watch_s
        self.why_not_ready = "reading the cluster"
        if self.journal is not None:
            await asyncio.to_thread(self.memory.read, self.journal.files())

        def on_crd(change: Change, crd: object) -> None:
            assert isinstance(crd, Thing)
            for kind, where in KINDS.items():
                if where.crd == crd.metadata.name and kind not in self.informers:
                    self._start_kind(group, kind)

        crds: Informer[object] = Informer(
            self.api, CRDS, Thing, on_crd, stalled_s=stalled_s, optional=True
        )
        crds.accept, crds.accept_line = PARTIAL_LIST, PARTIAL
        self._start(group, "definitions", crds)
        for kind, where in KINDS.items():
            if not where.crd:
                self._start_kind(group, kind)
        for path, of, missed in DEVICES:
            known: Informer[object] = Informer(
                self.api,
                path,
                of,
                control.on_devices,
                stalled_s=stalled_s,
                optional=True,
                missed=missed,
            )
            self._start(group, path.rpartition("/")[2], known)
        await self._read()
        if not crds.synced.is_set():  # each kind says for itself whether it is there
            for kind in KINDS.keys() - self.informers.keys():
                self._start_kind(group, kind)
            await self._read()
        nodes: Informer[object] = Informer(
            self.api,
            "/api/v1/nodes",
            NodeObject,
            control.on_node,  # type: ignore[arg-type]
            stalled_s=stalled_s,
        )
        self._start(group, "nodes", nodes)
        await self._read("nodes")
        pods: Informer[object] = Informer(
            self.api,
            "/api/v1/pods",
            Pod,
            control.on_pod,  # type: ignore[arg-type]
            stalled_s=stalled_s,
            lean=lean_pod,  # type: ignore[arg-type]
        )
        self._start(group, "pods", pods)
        await self._read("pods")
        if self.settings.leader.elect:
            await self._lead(group)
            control.plans.epoch = self.lease.epoch
            self.api.may_write = control.work.leads = lambda: self.lease.held
            self.api.away_s = max(self.api.away_s, 2 * self.settings.leader.renew_s)
            control.work.served_since_s = lambda: self.api.served_since_s
        plans = await self._read_plans()
        for unread in self._unread().values():
            log.error("leading without %s; gangs that depend on these wait", unread)
        for plan in plans:
            control.old_plans.setdefault(plan.gang(), []).append(plan)
        control.tables.name_anew()
        control.active = self.publisher.active = True
        if not control.tables.unread:  # else a gang of a plan may not be known as such yet
            control.recovery.erase_left()
        log.info(
            "leading: %d nodes, %d pods, %d gangs",
            len(self.ledger.nodes), len(control.pods), len(control.gangs),
        )  # fmt: skip
        await control.step_in_turns()
        gc.collect()
        gc.freeze()  # what the cluster is now lives long; do not walk it again and again
        gc.set_threshold(50_000, 20, 50)
        self._keep(group, "steps", control.run)
        self._keep(group, "messages", self.publisher.send)
        self._keep(group, "reasons", self._tell_reasons)
        self._keep(group, "pending curve", self._draw_curve)
        if self.journal is not None:
            self._keep(group, "journal", self._write_journal)

    async def _tell_reasons(self) -> None:
        gangs = self.controller.gangs
        await self.publisher.watch_reasons(lambda: list(gangs.values()), self.facts.view)

    async def _draw_curve(self) -> None:
        """Keep the curve up with what waits, for ever."""
        while True:
            began_s = time.perf_counter()
            self.memory.forget_old(self.controller.names)
            self.tally.all_changed()  # whoever changed a gang and did not say so is found here
            while (left_s := began_s + STEP_S - time.perf_counter()) > 0:
                if await self.tally.wait(left_s):
                    await asyncio.sleep(SETTLE_S)
                    counts_s = time.perf_counter()
                    await self.tally.settle(Breath())
                    await asyncio.sleep(REST_TIMES * (time.perf_counter() - counts_s))

    async def _write_journal(self) -> None:
        while True:
            self._flush()
            await asyncio.sleep(FLUSH_STEP_S)

    def _flush(self) -> None:
        """Write the journal; one that failed goes on with the next step, once it can."""
        if self.journal is None:
            return
        self.journal.flush()
        if self.journal.failing and self.journal.writable():
            self.ledger.begin_anew()


def on_trouble(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log errors that no code caught; a broken connection is not a failure of muster.

    uvloop reports a write to a socket that the other side has just closed as fatal, with the
    transport; the sender of the request notices by itself.
    """
    error = context.get("exception")
    if "transport" in context and isinstance(error, OSError | RuntimeError):
        log.info("a client closed its connection: %s", error)
    else:
        loop.default_exception_handler(context)


async def serve(settings: LiveSettings) -> None:
    """Run muster on a cluster until it is asked to stop."""
    asyncio.get_running_loop().set_exception_handler(on_trouble)
    configuration = await access(settings.kubeconfig)
    async with Api(configuration, in_flight=settings.requests_in_flight) as api:
        await Service(settings, api).run()
