"""What the status pages say, taken from a running muster."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from typing import Protocol

import msgspec
from prometheus_client import generate_latest

from scheduler.controller.controller import Controller
from scheduler.controller.membership import LiveGang
from scheduler.controller.metrics import Metrics
from scheduler.controller.mirror import Ledger
from scheduler.core.decisions import PendingReason
from scheduler.core.times import to_s
from scheduler.journal import lines as journals
from scheduler.journal.file import Journal
from scheduler.journal.history import events_of
from scheduler.kube.api import Api
from scheduler.kube.watch import Informer
from scheduler.policies.spec import PolicySpec
from scheduler.status.nodemap import node_map, node_view, rack_of
from scheduler.status.pages import Breath, Content, Kept, Page, array, mapping
from scheduler.status.publish import Publisher
from scheduler.status.shapes import shapes
from scheduler.status.snapshot import ROW, Cut, Snapshot, reasons_in, rows, snapshot, steps
from scheduler.status.status import GangView, places
from scheduler.status.status import explain as explain_gang
from scheduler.status.status import view as describe
from scheduler.status.story import Memory
from scheduler.status.tally import Tally
from scheduler.status.unmatched import no_gang, no_gang_job
from scheduler.status.way_out import closed_by

MOST_POSITIONS = 100  #: places in the queue that are metrics
PLACES_FOR_S = 0.05  #: places in the queue are counted again after this
MOST_RESOURCES = 50  #: that are metrics by themselves
MOST_LISTED = 20_000  #: gangs on one page
MANY_FAILED = 3  #: steps, one after the other: no accident
CHUNK_BYTES = 1 << 20
MOST_EXPLAINED = 256  #: gangs and pods whose last answer is kept
_encode = msgspec.json.Encoder().encode


class Expiring(Protocol):
    """Certificates, as far as the metrics tell of them."""

    expires_unix_s: dict[str, float]  #: by file


class Running(Protocol):
    """The source of the pages: a running muster."""

    controller: Controller
    ledger: Ledger
    publisher: Publisher
    memory: Memory
    tally: Tally
    metrics: Metrics
    api: Api
    policy: PolicySpec
    journal: Journal | None
    recent: list[bytes]  #: lines since the last snapshot, where no file is set
    informers: dict[str, Informer[object]]
    why_not_ready: str

    @property
    def certificates(self) -> Expiring | None:
        """Those that the verbs are served with, if any."""


class ClusterFacts:
    """Reads, never writes."""

    def __init__(self, service: Running) -> None:
        self._service = service
        self._place_of: dict[str, int] = {}
        self._placed_s = -1.0
        self._uids = Kept(self._uids_by_name)
        self._explained: dict[str, Page] = {}
        self._num_looks = 0
        self._looks = Kept(self._look)
        self._on_node = Kept(self._pods_by_node)
        self._map = Page(self._map_page)
        self.pages: dict[str, Content] = {
            "/now": Cut(self._looks, "now", self._now_page),
            "/queue": Cut(self._looks, "queue", self._queue_page),
            "/curve": Cut(self._looks, "curve", self._curve_page),
            "/nodes": Page(self._nodes_page),
            "/classes": Page(self._classes_page),
            "/state": Page(self._state_page),
            "/metrics": Page(self._metrics_page),
        }

    def _now_s(self) -> float:
        return self._service.controller.now_s()

    def ready(self) -> tuple[bool, str]:
        """Return whether this replica acts, or why not."""
        active = self._service.controller.active
        return active, "ok" if active else self._service.why_not_ready

    def alive(self) -> tuple[bool, str]:
        """Return whether this process works, or why not; a waiting standby is healthy."""
        failed = self._service.controller.num_failed
        if failed < MANY_FAILED:
            return True, "ok"
        return False, f"the last {failed} steps failed: nothing is decided; the log says why"

    def view(self, gang: LiveGang) -> GangView:
        return describe(gang, self._service.ledger, self._now_s(), at=self._places())

    def _places(self) -> dict[str, int]:
        """Return the places in the queue; one list serves all gangs that are looked at together."""
        now_s = self._now_s()
        if not 0 <= now_s - self._placed_s <= PLACES_FOR_S:
            self._place_of, self._placed_s = places(self._service.ledger), now_s
        return self._place_of

    async def explain(self, name: str) -> bytes:
        """Return the story of a gang, or of the gang of a pod; nothing if there is none."""
        page = self._explained.pop(name, None) or Page(partial(self._explain, name))
        self._explained[name] = page
        while len(self._explained) > MOST_EXPLAINED:
            del self._explained[next(iter(self._explained))]
        return await page.get()

    async def _uids_by_name(self, breath: Breath) -> dict[str, str]:
        """Return the uids of all pods by where they are."""
        found = {}
        for uid, pod in list(self._service.controller.pods.items()):
            found[pod.where] = uid
            await breath()
        return found

    async def _explain(self, name: str, _: Breath) -> bytes:
        control = self._service.controller
        gang = control.names.get(name)
        if gang is None:
            key = control.key_of_pod.get((await self._uids.get()).get(name, ""))
            gang = control.gangs.get(key) if key is not None else None
        if gang is None or not gang.pods:
            return b""
        seen = explain_gang(gang, self._service.ledger, control.now_s())
        came = self._service.publisher.came(gang)
        seen.story = [came, *self._service.memory.story(gang.name, came.unix_s)]
        return _encode(seen)

    async def unknown(self, name: str) -> str:
        """Describe something that is not a gang and belongs to none, as far as muster knows it."""
        control = self._service.controller
        pod = control.pods.get((await self._uids.get()).get(name, ""))
        if pod is not None:
            return no_gang(pod)
        namespace, _, short = name.partition("/")
        job = control.find("Job", namespace, short)
        if job is not None:
            return no_gang_job(job)
        return f"no gang or pod {name!r}"

    async def _views(self, breath: Breath) -> list[GangView]:
        """Describe all gangs that have pods."""
        views = []
        for gang in list(self._service.controller.gangs.values()):
            if gang.live_pods():
                views.append(self.view(gang))
            await breath()
        return views

    async def _look(self, breath: Breath) -> Snapshot:
        """Look at all gangs."""
        tally = self._service.tally
        await tally.settle(breath)
        views = await self._views(breath)
        await tally.settle(breath)  # what changed meanwhile
        self._num_looks += 1
        return snapshot(self._num_looks, time.time(), views, self._service.memory.curve)

    async def _queue_page(self, seen: Snapshot, breath: Breath) -> bytes:
        """The gangs, up to a bound: those that are not running whole first, in queue order."""
        return await array(seen.gangs[:MOST_LISTED], breath)

    async def _curve_page(self, seen: Snapshot, breath: Breath) -> bytes:
        """Pending pods by reason, as steps, for a day; the last point is now."""
        return await array(seen.curve, breath)

    async def _now_page(self, seen: Snapshot, breath: Breath) -> bytes:
        """All that the page shows, of one look."""
        reasons = reasons_in(seen.curve, list(map(str, PendingReason)))
        return mapping(
            number=_encode(seen.number),
            unix_s=_encode(seen.unix_s),
            pods=_encode(seen.pods),
            waiting=_encode(seen.waiting),
            phases=_encode(seen.phases),
            fields=_encode(ROW),
            gangs=await rows(seen.gangs[:MOST_LISTED], breath),
            reasons=_encode(reasons),
            curve=await steps(seen.curve, reasons, breath),
            pools=await self._map.get(),
            shapes=await self.pages["/classes"].get(),
        )

    async def pending(self, _: Breath) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """Return pods by reason, gangs by reason, and pods by the resource that is short."""
        seen = await self._looks.get()
        return seen.pods, seen.waiting, seen.short

    async def _map_page(self, breath: Breath) -> bytes:
        """The nodes by pool and rack."""
        return await array(await node_map(self._service.ledger, breath), breath)

    async def _pods_by_node(self, breath: Breath) -> dict[str, list[str]]:
        """Return the uids of pods by the node that they have, or are to have."""
        slots = self._service.controller.slot_of
        found: dict[str, list[str]] = {}
        for uid, pod in list(self._service.controller.pods.items()):
            place = slots.get(uid)
            node = pod.spec.node_name or (place[1].node if place is not None else "")
            if node and not pod.ended:
                found.setdefault(node, []).append(uid)
            await breath()
        return found

    async def node(self, name: str) -> bytes:
        """Return what is on a node; nothing if there is none of that name."""
        if name not in self._service.ledger.nodes:
            return b""
        uids = (await self._on_node.get()).get(name, [])
        return _encode(node_view(self._service.controller, name, uids))

    async def _state_page(self, breath: Breath) -> bytes:
        """Nodes and requests as they stand; `lines` are a journal that makes them anew."""
        control, state = self._service.controller, self._service.ledger.state
        now_s = control.now_s()
        events = events_of(state)
        gangs, nodes = list(control.gangs.values()), list(state.capacity.nodes)
        encoded = await array(nodes, breath)
        lines = [journals.snapshot(now_s, state, self._service.policy, nodes=encoded)]
        for event in events:
            lines.append(journals.encode(now_s, event))
            await breath()
        views = (
            describe(g, self._service.ledger, now_s, pods=True, at=self._places()) for g in gangs
        )
        return mapping(
            zero_unix_s=_encode(control.zero_unix_s),
            now_s=_encode(now_s),
            policy=_encode(self._service.policy),
            nodes=await self._nodes_page(breath),
            gangs=await array(views, breath),
            lines=b"[" + b",".join(lines) + b"]",
        )

    async def _nodes_page(self, breath: Breath) -> bytes:
        """What is free on each node."""
        capacity = self._service.ledger.state.capacity
        return await array(
            (
                {
                    "name": node.name,
                    "pool": node.pool,
                    "rack": rack_of(self._service.ledger, node.name),
                    "gpus": node.capacity.gpus,
                    "free_gpus": capacity.free_on(i).gpus,
                    "usable": i not in capacity.unschedulable,
                    "closed": closed_by(self._service.ledger, node.name)
                    if i in capacity.unschedulable
                    else "",
                }
                for i, node in enumerate(capacity.nodes)
            ),
            breath,
        )

    async def _classes_page(self, _: Breath) -> bytes:
        """Free shapes by class of nodes, and fragmentation for the shapes that wait."""
        return _encode(shapes(self._service.ledger))

    async def journal(self, *, whole: bool = False) -> AsyncIterator[bytes]:
        """Yield the journal from its last snapshot on, or all files of it."""
        if self._service.journal is None:
            for start in range(0, len(self._service.recent), 1000):
                yield b"\n".join(self._service.recent[start : start + 1000]) + b"\n"
                await asyncio.sleep(0)
            return
        self._service.journal.flush()
        for path in self._service.journal.files() if whole else self._service.journal.files()[-1:]:
            file = await asyncio.to_thread(path.open, "rb")
            with file:
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    yield chunk

    async def _metrics_page(self, breath: Breath) -> bytes:
        """Bring the gauges up to date and write them all."""
        pods, gangs, short = await self.pending(breath)
        metrics = self._service.metrics
        for gauge, counts in ((metrics.pending_pods, pods), (metrics.pending_gangs, gangs)):
            gauge.clear()
            for reason, count in counts.items():
                gauge.labels(reason=reason).set(count)
        metrics.short_pods.clear()
        named = short.most_common(MOST_RESOURCES)
        for resource, count in named:
            metrics.short_pods.labels(resource=resource).set(count)
        if len(short) > len(named):  # users make up as many as they like
            rest = short.total() - sum(count for _, count in named)
            metrics.short_pods.labels(resource="others").set(rest)
        queue = self._service.ledger.state.queue
        metrics.queue_length.set(len(queue.members))
        head = queue.head()
        waits_s = self._now_s() - to_s(head.gang.submit_us) if head is not None else 0.0
        metrics.head_waits.set(max(0.0, waits_s))
        metrics.aside.set(self._service.ledger.standing.num_aside(self._service.ledger.state))
        metrics.queue_position.clear()
        for at, member in enumerate(islice(queue.in_order(), MOST_POSITIONS), 1):
            metrics.queue_position.labels(gang=member.gang.name).set(at)
        await breath()
        unbound = sum(not slot.is_bound for _, slot in self._service.controller.slot_of.values())
        metrics.reservations.set(unbound)
        metrics.leader.set(float(self._service.controller.active))
        metrics.rebuilds.set(self._service.ledger.num_rebuilds)
        metrics.not_understood.set(len(self._service.ledger.devices.not_understood))
        journal, certificates = self._service.journal, self._service.certificates
        if journal is not None:
            metrics.journal_lost.inc(journal.num_lost - metrics.journal_lost._value.get())
            metrics.journal_failing.set(float(journal.failing))
        for name, ends_s in certificates.expires_unix_s.items() if certificates else ():
            metrics.certificate_expires.labels(file=name).set(ends_s)
        now_s = asyncio.get_running_loop().time()
        metrics.watch_age.clear()  # a kind that is gone has no watch to wait for
        for kind, informer in self._service.informers.items():
            # one that has not been read yet is as old as what came of it
            heard_s = informer.heard_s or (0.0 if informer.synced.is_set() else informer.came_s)
            if heard_s:
                metrics.watch_age.labels(kind=kind).set(now_s - heard_s)
            metrics.watch_skipped.labels(kind=kind).set(informer.skipped)
        for turn, flow in self._service.api.flows.items():
            metrics.api_limit.labels(of=turn.value).set(int(flow.limit))
            metrics.api_waiting.labels(of=turn.value).set(flow.num_waiting)
        for (verb, code), count in self._service.api.calls.items():
            child = metrics.api_requests.labels(verb=verb, code=str(code))
            child.inc(count - child._value.get())
        await breath()
        return generate_latest(metrics.registry)
