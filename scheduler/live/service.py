"""One running muster: informers, lease, controller and sockets, put together and taken apart."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path

import msgspec
import uvicorn

from scheduler import catalog
from scheduler.events import Considered
from scheduler.live import journal as journals
from scheduler.live.api import PARTIAL, PARTIAL_LIST, Api, access
from scheduler.live.app import ExtenderApp, Facts, status_app
from scheduler.live.certificates import Certificates
from scheduler.live.controller import Controller
from scheduler.live.extender import Extender
from scheduler.live.gangs import KINDS
from scheduler.live.history import lines_of
from scheduler.live.lease import Lease
from scheduler.live.ledger import Ledger
from scheduler.live.membership import LiveGang
from scheduler.live.metrics import Metrics
from scheduler.live.objects import NodeObject, Pod, Thing
from scheduler.live.plans import PlanRecords
from scheduler.live.publish import Publisher
from scheduler.live.settings import LiveSettings
from scheduler.live.status import GangView, view
from scheduler.live.watch import Change, Informer
from scheduler.state import ClusterState

log = logging.getLogger("muster")
CURVE_STEP_S, CURVE_LENGTH = 60.0, 24 * 60
FLUSH_STEP_S = 5.0  #: what a crash may cost the journal
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Service(Facts):
    """Everything that one process runs."""

    def __init__(self, settings: LiveSettings, api: Api) -> None:
        self.settings = settings
        self.api = api
        self.metrics = Metrics()
        who = settings.who()
        self._journal = (
            journals.Journal(Path(settings.journal), settings.journal_max_bytes)
            if settings.journal
            else None
        )
        self._recent: deque[bytes] = deque(maxlen=5000)
        self._policy = msgspec.to_builtins(settings.policy)
        chosen = settings.policy
        policy = catalog.policy(chosen.order, chosen.discipline, chosen.backfill, chosen.placement)
        self.ledger = Ledger(policy, settings.resource, self._record, self._rebuilt)
        self.publisher = Publisher(api, who)
        plans = PlanRecords(api, settings.namespace, who)
        self.controller = Controller(
            settings, api, self.ledger, plans, self.publisher, self.metrics
        )
        self.extender = Extender(self.controller)
        self.lease = Lease(
            api,
            settings.namespace,
            who,
            lease_s=settings.leader.lease_s,
            renew_s=settings.leader.renew_s,
        )
        self._informers: dict[str, Informer[object]] = {}
        self._points: deque[dict[str, float]] = deque(maxlen=CURVE_LENGTH)
        self._why_not_ready = "starting"
        self._certificates = Certificates(settings.serve) if settings.serve.cert else None

    # -- journal -----------------------------------------------------------------------------

    def _record(self, now_s: float, item: object) -> None:
        line = journals.encode(now_s, item)
        self._recent.append(line)
        if self._journal is not None:
            self._journal.write(line, rests=isinstance(item, Considered))
            if self._journal.full:  # a file begins with the state that its lines change
                self.ledger.begin_anew()

    def _rebuilt(self, now_s: float, state: ClusterState) -> None:
        self._recent.clear()
        line = journals.snapshot(now_s, state, self._policy, self.controller.zero_unix_s)
        self._recent.append(line)
        if self._journal is not None:
            self._journal.begin(now_s, line)

    # -- facts for the pages -----------------------------------------------------------------

    def ready(self) -> tuple[bool, str]:
        """Return whether this replica acts, or why not."""
        return (True, "ok") if self.controller.active else (False, self._why_not_ready)

    def _view(self, gang: LiveGang, *, pods: bool = False) -> GangView:
        return view(gang, self.ledger, self.controller.now_s(), pods=pods)

    def queue(self) -> list[GangView]:
        """Return all gangs that are not running whole, in queue order."""
        views = [self._view(gang) for gang in self.controller.gangs.values() if gang.live_pods()]
        order = {"degraded": 0, "starting": 1, "waiting": 2, "running": 3}
        return sorted(views, key=lambda v: (order[v.phase], v.position or 1 << 30, v.gang))

    def explain(self, name: str) -> object | None:
        """Return the story of a gang, or of the gang of a pod."""
        gang = self.controller.names.get(name)
        if gang is None:
            for pod in self.controller.pods.values():
                if pod.where == name:
                    key = self.controller.key_of_pod.get(pod.metadata.uid)
                    gang = self.controller.gangs.get(key) if key is not None else None
                    break
        return self._view(gang, pods=True) if gang is not None else None

    def state(self) -> object:
        """Return nodes and requests as they stand."""
        return {
            "zero_unix_s": self.controller.zero_unix_s,
            "now_s": self.controller.now_s(),
            "policy": self._policy,
            "nodes": self.nodes(),
            "gangs": [self._view(g, pods=True) for g in self.controller.gangs.values()],
            "lines": lines_of(self.controller.now_s(), self.ledger.state, self._policy),
        }

    def nodes(self) -> object:
        """Return what is free on each node."""
        capacity = self.ledger.state.capacity
        return [
            {
                "name": node.name,
                "pool": node.pool,
                "gpus": node.capacity.gpus,
                "free_gpus": capacity.free[i].gpus,
                "usable": i not in capacity.unschedulable,
            }
            for i, node in enumerate(capacity.nodes)
        ]

    def _pending(self) -> tuple[Counter[str], Counter[str]]:
        pods: Counter[str] = Counter()
        gangs: Counter[str] = Counter()
        for gang in self.controller.gangs.values():
            seen = self._view(gang)
            if seen.reason and seen.pods_present:
                pods[seen.reason] += max(0, seen.pods_present - seen.pods_bound)
                gangs[seen.reason] += 1
        return pods, gangs

    def curve(self) -> object:
        """Return pending pods by reason, minute by minute, for a day."""
        return [*self._points, self._point()]

    def journal(self) -> Iterable[bytes]:
        """Return the last lines of the journal, the newest last."""
        return list(self._recent)

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        pods, gangs = self._pending()
        for gauge, counts in (
            (self.metrics.pending_pods, pods),
            (self.metrics.pending_gangs, gangs),
        ):
            gauge.clear()
            for reason, count in counts.items():
                gauge.labels(reason=reason).set(count)
        self.metrics.queue_length.set(len(self.ledger.state.queue.members))
        unbound = sum(not slot.bound for _, _, slot in self.controller.slot_of.values())
        self.metrics.reservations.set(unbound)
        self.metrics.leader.set(float(self.controller.active))
        self.metrics.rebuilds.set(self.ledger.num_rebuilds)
        if self._journal is not None:
            lost = self.metrics.journal_lost
            lost.inc(self._journal.num_lost - lost._value.get())
            self.metrics.journal_failing.set(float(self._journal.failing))
        if self._certificates is not None:
            for name, expires_unix_s in self._certificates.expires_unix_s.items():
                self.metrics.certificate_expires.labels(file=name).set(expires_unix_s)
        now_s = asyncio.get_running_loop().time()
        for kind, informer in self._informers.items():
            if informer.heard_s:
                self.metrics.watch_age.labels(kind=kind).set(now_s - informer.heard_s)
            self.metrics.watch_skipped.labels(kind=kind).set(informer.skipped)
        for (verb, code), count in self.api.calls.items():
            child = self.metrics.api_requests.labels(verb=verb, code=str(code))
            child.inc(count - child._value.get())

    # -- life --------------------------------------------------------------------------------

    async def _informer(
        self, group: asyncio.TaskGroup, kind: str, informer: Informer[object]
    ) -> None:
        self._informers[kind] = informer
        group.create_task(informer.run(), name=f"watch {kind}")

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
        )

    async def run(self) -> None:
        """Run until a signal comes or the lease is lost.

        Raises:
            RuntimeError: the lease was lost; the process should be started anew.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        status, serve = self.settings.status, self.settings.serve
        servers = [_server(status_app(self), status.host, status.port)]
        verbs = ExtenderApp(self.extender, self.metrics, serve.max_body_bytes)
        servers.append(_server(verbs, serve.host, serve.port, self._certificates))
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                for server in servers:
                    group.create_task(server.serve())
                if self._certificates is not None:
                    group.create_task(self._certificates.keep_looking())
                group.create_task(self._watch_and_act(group))
                group.create_task(self._end(stop, group, servers))
        if self.lease.lost.is_set() and not stop.is_set():
            raise RuntimeError("the lease was lost to another replica, or could not be renewed")

    async def _end(
        self, stop: asyncio.Event, group: asyncio.TaskGroup, servers: list[uvicorn.Server]
    ) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self.lease.lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        self._why_not_ready = "stopping"
        self.controller.active = False
        self.publisher.active = False
        await self.controller.finish_work(5.0)
        await self.lease.give_up()
        for server in servers:
            server.should_exit = True
        if self._journal is not None:
            self._journal.close()
        for task in list(group._tasks):
            if task is not asyncio.current_task():
                task.cancel()

    async def _watch_and_act(self, group: asyncio.TaskGroup) -> None:
        control = self.controller
        stalled_s = self.settings.timeouts.stalled_watch_s
        self._why_not_ready = "reading the cluster"

        def on_crd(change: Change, crd: object) -> None:
            assert isinstance(crd, Thing)
            for kind, where in KINDS.items():
                if where.crd == crd.metadata.name and kind not in self._informers:
                    informer = self._things(kind)
                    self._informers[kind] = informer
                    group.create_task(informer.run())

        crds: Informer[object] = Informer(
            self.api, CRDS, Thing, on_crd, stalled_s=stalled_s, optional=True
        )
        crds.accept, crds.accept_line = PARTIAL_LIST, PARTIAL
        await self._informer(group, "definitions", crds)
        await crds.synced.wait()
        for kind, where in KINDS.items():
            if not where.crd:
                await self._informer(group, kind, self._things(kind))
        for informer in list(self._informers.values()):
            await informer.synced.wait()
        nodes: Informer[object] = Informer(
            self.api,
            "/api/v1/nodes",
            NodeObject,
            control.on_node,  # type: ignore[arg-type]
            stalled_s=stalled_s,
        )
        await self._informer(group, "nodes", nodes)
        await nodes.synced.wait()
        pods: Informer[object] = Informer(
            self.api,
            "/api/v1/pods",
            Pod,
            control.on_pod,  # type: ignore[arg-type]
            stalled_s=stalled_s,
        )
        await self._informer(group, "pods", pods)
        await pods.synced.wait()
        if self.settings.leader.elect:
            self._why_not_ready = "another replica leads"
            group.create_task(self.lease.run())
            await self.lease.acquired.wait()
            control.plans.epoch = self.lease.epoch
            control.work.leads = lambda: self.lease.held
        plans, unreadable = await control.plans.read_all()
        for name in unreadable:
            log.warning("plan record %s is of another version and is erased", name)
            await control.plans.erase_named(name)
        for plan in plans:
            control.old_plans.setdefault(plan.gang(), []).append(plan)
        control.active = self.publisher.active = True
        for key, stale in list(control.old_plans.items()):
            if key not in control.gangs:
                for plan in control.old_plans.pop(key):
                    await control.plans.erase(plan.unit)
            del stale
        log.info(
            "leading: %d nodes, %d pods, %d gangs",
            len(self.ledger.nodes), len(control.pods), len(control.gangs),
        )  # fmt: skip
        control.step()
        gc.collect()
        gc.freeze()  # what the cluster is now lives long; do not walk it again and again
        gc.set_threshold(50_000, 20, 50)
        group.create_task(control.run())
        group.create_task(self.publisher.send())
        group.create_task(
            self.publisher.watch_reasons(lambda: list(control.gangs.values()), self._view)
        )
        group.create_task(self._draw_curve())

    def _point(self) -> dict[str, float]:
        pods, _ = self._pending()
        return {"t_s": round(self.controller.now_s(), 1), **pods}

    async def _draw_curve(self) -> None:
        while True:
            self._points.append(self._point())
            for _ in range(int(CURVE_STEP_S / FLUSH_STEP_S)):
                self._flush()
                await asyncio.sleep(FLUSH_STEP_S)

    def _flush(self) -> None:
        """Write the journal; one that failed goes on with the next step, once it can."""
        if self._journal is None:
            return
        self._journal.flush()
        if self._journal.failing and self._journal.writable():
            self.ledger.begin_anew()


def _server(
    app: object, host: str, port: int, certificates: Certificates | None = None
) -> uvicorn.Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        ssl_context_factory=(lambda *_: certificates.context) if certificates else None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        backlog=1024,
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    return server


async def serve(settings: LiveSettings) -> None:
    """Run muster on a cluster until it is told to stop."""
    configuration = await access(settings.kubeconfig)
    async with Api(configuration, in_flight=settings.requests_in_flight) as api:
        await Service(settings, api).run()
