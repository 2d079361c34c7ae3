"""The single writer: facts in, decisions out, all on one event loop.

Informers call `on_pod`, `on_node` and `on_thing`; the next step looks at what they touched. A step
is level-triggered: it compares a gang's pods with its units and slots, and mends the
difference, so that a missed or reordered event costs a look and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Coroutine, Iterable
from math import inf
from typing import Any

from scheduler.live.api import Api, ApiError
from scheduler.live.gangs import (
    KUBEFLOW_JOB,
    WALLTIME,
    GangKey,
    Source,
    environment,
    key_of,
    rank_of,
    size_of,
    wishes,
)
from scheduler.live.lanes import Lanes, pinned_to, plan_text
from scheduler.live.ledger import Ledger, Request
from scheduler.live.membership import Lane, LiveGang, Slot, Unit, signature
from scheduler.live.metrics import Metrics
from scheduler.live.objects import IGNORE, NodeObject, Pod, Thing, pod_shape, unix_s
from scheduler.live.plans import PlanRecord, PlanRecords
from scheduler.live.publish import Publisher
from scheduler.live.settings import LiveSettings
from scheduler.live.watch import Change

log = logging.getLogger("muster.controller")
#: facts that arrive together are looked at together; a burst of creations is one step
GATHER_S = 0.01
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


def duration_s(text: str) -> float:
    """Return the seconds of a text such as 90s, 2h30m or 1d; infinity if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class Controller:
    """All gangs of the cluster and the work that their plans need."""

    def __init__(
        self,
        settings: LiveSettings,
        api: Api,
        ledger: Ledger,
        plans: PlanRecords,
        publisher: Publisher,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.plans = plans
        self.lanes = Lanes(api)
        self.publisher = publisher
        self.metrics = metrics
        self.gangs: dict[GangKey, LiveGang] = {}
        self.names: dict[str, LiveGang] = {}
        self.key_of_pod: dict[str, GangKey] = {}
        self.pods: dict[str, Pod] = {}
        self.slot_of: dict[str, tuple[LiveGang, Unit, Slot]] = {}
        self.things: dict[tuple[str, str, str], Thing] = {}
        self.old_plans: dict[GangKey, list[PlanRecord]] = {}
        self.active = False  #: leader and synced: may write
        self.zero_unix_s = time.time()
        self._zero_s = time.monotonic()
        self._dirty: set[GangKey] = set()
        self._wake = asyncio.Event()
        self._timers: deque[tuple[float, GangKey]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refused: set[str] = set()  #: lone pods that the extender left without a node
        self._deleting: set[str] = set()
        self._reading: set[str] = set()
        self._num_freed = 0
        self._num_unbound = 0  #: 0 only if no slot awaits its bind

    def now_s(self) -> float:
        """Seconds since this process's zero, by the monotonic clock, in whole microseconds."""
        return round(time.monotonic() - self._zero_s, 6)

    def promised_nodes(self) -> set[str]:
        """Return nodes on which a pod with a slot is not bound yet."""
        if not self._num_unbound:
            return set()
        slots = [slot for gang in self.gangs.values() for _, slot in gang.slots()]
        found = {slot.node for slot in slots if not slot.bound}
        self._num_unbound = len(found)
        return found

    # -- facts -------------------------------------------------------------------------------

    def find(self, kind: str, namespace: str, name: str) -> Thing | None:
        """Return a watched object."""
        return self.things.get((kind, namespace, name))

    def on_node(self, change: Change, node: NodeObject) -> None:
        """Take in a node."""
        if change is Change.DELETED:
            self.ledger.remove_node(node.metadata.name)
        else:
            self.ledger.set_node(node)
        if not self.ledger.usable(node.metadata.name):
            for gang, unit, slot in list(self.slot_of.values()):
                if slot.node == node.metadata.name and not (slot.bound and unit.bound):
                    self._dirty.add(gang.key)
        self._wake.set()

    def on_thing(self, kind: str, change: Change, thing: Thing) -> None:
        """Take in an object that says how large gangs are."""
        where = (kind, thing.metadata.namespace, thing.metadata.name)
        if change is Change.DELETED:
            self.things.pop(where, None)
        else:
            old = self.things.get(where)
            self.things[where] = thing
            if old is not None and (old.spec, old.value) == (thing.spec, thing.value):
                return
        for gang in list(self.gangs.values()):
            if kind == "PriorityClass" or (
                gang.key.namespace == where[1]
                and (gang.key.name.startswith(where[2]) or where[2] in _owner_names(gang))
            ):
                self._dirty.add(gang.key)
        self._wake.set()

    def on_pod(self, change: Change, pod: Pod) -> None:
        """Take in a pod."""
        uid = pod.metadata.uid
        old_key = self.key_of_pod.get(uid)
        if change is Change.DELETED:
            self.pods.pop(uid, None)
            self.key_of_pod.pop(uid, None)
            self.ledger.drop_foreign(uid)
            if old_key is not None:
                gang = self.gangs[old_key]
                gang.forget(uid)
                self._dirty.add(old_key)
            self._wake.set()
            return
        self.pods[uid] = pod
        key = old_key
        if key is None and IGNORE not in pod.metadata.annotations:
            key = key_of(pod, self.find)
        if key is None:
            self._count_foreign(pod)
            return
        gang = self._gang(key)
        self.key_of_pod[uid] = key
        known = gang.pods.get(uid)
        gang.pods[uid] = pod
        if pod.ended and (known is None or not known.ended) and pod.status.phase == "Succeeded":
            gang.num_succeeded += 1
        place = self.slot_of.get(uid)
        if place is not None and pod.spec.node_name and not pod.ended:
            _, unit, slot = place
            if slot.node == pod.spec.node_name:
                if not slot.bound:
                    slot.bound = True
                    if unit.bound:
                        self._dirty.add(key)
                        self._wake.set()
                if known is not None and not pod.metadata.deletion_timestamp:
                    return  # bound where it should be: nothing to mend
        self._dirty.add(key)
        self._wake.set()

    def _gang(self, key: GangKey) -> LiveGang:
        gang = self.gangs.get(key)
        if gang is None:
            name = f"{key.namespace}/{key.name}"
            if name in self.names:
                name = f"{name}~{key.owner[:8] or key.source.split('.')[0].lower()}"
            gang = self.gangs[key] = LiveGang(key, name, self.settings.resource)
            self.names[name] = gang
        return gang

    def _count_foreign(self, pod: Pod) -> None:
        if pod.spec.node_name and not pod.ended:
            shape = pod_shape(pod, self.settings.resource)
            self.ledger.set_foreign(pod.metadata.uid, pod.spec.node_name, shape)
        else:
            self.ledger.drop_foreign(pod.metadata.uid)
        self._wake.set()

    # -- steps -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at what changed, decide, and start what follows, for ever."""
        while True:
            now_s = self.now_s()
            due = [key for at, key in self._timers if at <= now_s]
            self._timers = deque(entry for entry in self._timers if entry[0] > now_s)
            self._dirty.update(due)
            next_s = min((at for at, _ in self._timers), default=now_s + 30.0)
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, next_s - now_s))
            except TimeoutError:
                if not self._dirty:
                    continue
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            self.step()

    def step(self) -> None:
        """Mend every gang that something happened to, then let the core decide."""
        now_s = self.now_s()
        dirty, self._dirty = self._dirty, set()
        self.ledger.now_s = now_s
        for key in dirty:
            gang = self.gangs.get(key)
            if gang is not None:
                self._mend(gang, now_s)
        if not self.active:
            return
        began_s = time.perf_counter()
        for request in self.ledger.decide(now_s):
            self._planned(request, now_s)
        self.metrics.plan_seconds.observe(time.perf_counter() - began_s)
        self._wake_refused()
        self.publisher.wake()

    def _wake_refused(self) -> None:
        """Have kube-scheduler look again at lone pods that gangs were in the way of."""
        if self.ledger.num_freed == self._num_freed:
            return
        self._num_freed = self.ledger.num_freed
        refused, self.refused = self.refused, set()
        for uid in refused:
            pod = self.pods.get(uid)
            if pod is not None and not pod.spec.node_name:
                self._start(self._poke(pod))

    async def _poke(self, pod: Pod) -> None:
        try:
            await self.lanes.poke(pod, f"look-{self._num_freed}")
        except ApiError as error:
            log.info("pod %s not woken: %s", pod.where, error)

    def look_again(self, key: GangKey, at_s: float) -> None:
        """Mend a gang at `at_s`, if nothing makes it earlier."""
        self._timers.append((at_s, key))
        if at_s <= self.now_s():
            self._wake.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("work failed", exc_info=task.exception())

    async def finish_work(self, within_s: float) -> None:
        """Wait for writes that are under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)

    # -- mending -----------------------------------------------------------------------------

    def _mend(self, gang: LiveGang, now_s: float) -> None:
        """Bring units and slots in line with the gang's pods."""
        pods = gang.live_pods()
        if not pods:
            self._end(gang)
            return
        old, gang.size = gang.size, size_of(gang.key, pods, self.find)
        if gang.size is not None and gang.size.by_role:
            pods = gang.live_pods()  # minima of roles change who goes first
        said = gang.size.conflict if gang.size is not None else ""
        if said and (old is None or old.conflict != said):
            self.publisher.event(gang, "SizesDisagree", said)
        by_uid = {pod.metadata.uid: pod for pod in pods}
        free = [
            pod
            for pod in pods
            if pod.metadata.uid not in self.slot_of and not pod.metadata.deletion_timestamp
        ]
        for unit in list(gang.units.values()):
            if unit.slots:
                self._mend_slots(gang, unit, by_uid, free, now_s)
        free = [
            pod
            for pod in pods
            if pod.metadata.uid not in self.slot_of and not pod.metadata.deletion_timestamp
        ]
        self._adopt(gang, [p for p in free if p.spec.node_name], now_s)
        free = [p for p in free if p.metadata.uid not in self.slot_of and not p.spec.node_name]
        self._ask(gang, free, now_s)
        self._judge(gang, now_s)

    def _end(self, gang: LiveGang) -> None:
        """Forget a gang without pods."""
        for unit in list(gang.units.values()):
            self._drop_unit(gang, unit)
        for uid in gang.pods:
            self.ledger.drop_foreign(uid)
        if not gang.pods:
            del self.gangs[gang.key]
            del self.names[gang.name]
            self.publisher.forget(gang)

    def _mend_slots(
        self,
        gang: LiveGang,
        unit: Unit,
        by_uid: dict[str, Pod],
        free: list[Pod],
        now_s: float,
    ) -> None:
        """Free slots whose pod ended, hand others to successors, note pods bound elsewhere."""
        kept: list[Slot] = []
        changed = False
        for slot in unit.slots:
            pod = by_uid.get(slot.uid)
            if pod is None and slot.uid:
                old = gang.pods.get(slot.uid)
                self.slot_of.pop(slot.uid, None)
                slot.uid, slot.empty_since_s = "", now_s
                slot.bound = slot.released = slot.asked = False
                self._num_unbound += 1
                self.look_again(gang.key, now_s + self.settings.timeouts.repair_s)
                if old is not None and old.ended and old.status.phase == "Succeeded":
                    changed = True
                    continue
            if pod is None:
                pod = next((p for p in free if not p.spec.node_name and _same(slot, p)), None)
                if pod is not None and self.ledger.usable(slot.node):
                    free.remove(pod)
                    slot.uid, slot.rank = pod.metadata.uid, rank_of(pod)
                    self._num_unbound += 1
                    self.slot_of[slot.uid] = (gang, unit, slot)
                    slot.num_told = 0
                elif (
                    not self.ledger.usable(slot.node)
                    or now_s - slot.empty_since_s >= self.settings.timeouts.repair_s
                ):
                    changed = True
                    continue
                kept.append(slot)
                continue
            if pod.spec.node_name:
                slot.bound = True
                if pod.spec.node_name != slot.node:
                    slot.node = pod.spec.node_name
                    changed = True
            elif not self.ledger.usable(slot.node) or 0 < unit.deadline_s <= now_s:
                if not slot.asked:
                    self._give_up(gang, unit, slot, pod, now_s)
                    changed = True
                    continue
                self._find_out(gang, slot, pod)
            kept.append(slot)
        if changed:
            self._keep(gang, unit, kept)
        self._tell_successors(gang, unit)
        if unit.slots and unit.bound and unit.recorded and not unit.releasing:
            self._completed(gang, unit, now_s)

    def _tell_successors(self, gang: LiveGang, unit: Unit) -> None:
        """Release pods that came into a slot after its plan was carried out."""
        if unit.releasing or not self.active:
            return
        todo = [s for s in unit.slots if s.uid and not (s.bound or s.released) and s.num_told < 3]
        if todo:
            unit.releasing = True
            self._start(self._release(gang, unit, todo))

    def _find_out(self, gang: LiveGang, slot: Slot, pod: Pod) -> None:
        """Ask the API server whether a bind took place before its node is given to others."""
        if slot.uid not in self._reading and self.active:
            self._reading.add(slot.uid)
            self._start(self._read(gang, slot, pod))

    async def _read(self, gang: LiveGang, slot: Slot, pod: Pod) -> None:
        try:
            found = await self.lanes.read(pod)
            if slot.uid == pod.metadata.uid:
                slot.asked = False
            if found is not None and found.spec.node_name and pod.metadata.uid in self.pods:
                self.on_pod(Change.MODIFIED, found)
        except ApiError as error:
            log.warning("pod %s not read: %s", pod.where, error)
        finally:
            self._reading.discard(pod.metadata.uid)
            self._dirty.add(gang.key)
            self._wake.set()

    def _give_up(self, gang: LiveGang, unit: Unit, slot: Slot, pod: Pod, now_s: float) -> None:
        """Take a slot from a pod that cannot use it."""
        self.slot_of.pop(slot.uid, None)
        usable = self.ledger.usable(slot.node)
        cause = "not bound in time" if usable else "node lost"
        self.metrics.aborts.labels(cause=cause).inc()
        if slot.released:
            gang.given_up.add(slot.uid)
        if unit.given_up == unit.generation:
            return
        unit.given_up = unit.generation
        if usable:
            gang.num_aborts += 1
            gang.hold_until_s = now_s + min(300.0, 5.0 * 2**gang.num_aborts)
            self.look_again(gang.key, gang.hold_until_s)
        if slot.released and self.active:
            self.publisher.event(
                gang, "Replanned", f"{pod.metadata.name}: {cause} on {slot.node}; planned anew"
            )

    def _delete(self, gang: LiveGang, pod: Pod) -> None:
        """Have a pod made anew by its owner."""
        if self.active and pod.metadata.uid not in self._deleting:
            self._deleting.add(pod.metadata.uid)
            self._start(self._delete_now(gang, pod))

    async def _delete_now(self, gang: LiveGang, pod: Pod) -> None:
        try:
            await self.lanes.delete(pod)
        except ApiError as error:
            log.warning("pod %s not deleted: %s", pod.where, error)
            self.look_again(gang.key, self.now_s() + 1.0)
        finally:
            self._deleting.discard(pod.metadata.uid)

    def _keep(self, gang: LiveGang, unit: Unit, slots: list[Slot]) -> None:
        """Let a unit hold these slots and no others."""
        unit.slots = slots
        pods = [gang.pods.get(slot.uid) for slot in slots]
        if not slots:
            self._drop_unit(gang, unit)
            return
        request = unit.request
        templates = {part.name.split("#")[0]: part for part in request.parts}
        parts = gang.parts([pod for pod in pods if pod is not None])
        order = [pod.metadata.uid for pod in pods if pod is not None]
        empty = [slot for slot in slots if not slot.uid]
        for slot in empty:
            part = templates.get(slot.rank.role) or request.parts[0]
            parts.append(type(part)(f"{part.name}#lost{len(parts)}", 1, part.shape, part.pod))
        by_uid = {slot.uid: slot for slot in slots}
        unit.slots = [by_uid[uid] for uid in order] + empty
        self.ledger.hold(
            Request(
                name=request.name,
                parts=parts,
                submit_s=request.submit_s,
                priority=request.priority,
                queue=request.queue,
                walltime_s=request.walltime_s,
                present=len(slots),
                nodes=tuple(slot.node for slot in unit.slots),
                admitted_s=request.admitted_s,
            )
        )
        unit.request = self.ledger.requests[request.name]

    def _drop_unit(self, gang: LiveGang, unit: Unit) -> None:
        for slot in unit.slots:
            self.slot_of.pop(slot.uid, None)
        self.ledger.withdraw(unit.name)
        gang.units.pop(unit.name, None)
        if unit.recorded:
            unit.recorded = False
            self._start(self.plans.erase(unit.name))

    def _adopt(self, gang: LiveGang, bound: list[Pod], now_s: float) -> None:
        """Count pods that run without a plan of ours: bound by others, or before muster started."""
        known = [p for p in bound if p.spec.node_name in self.ledger.nodes]
        if not known:
            return
        slots = [
            Slot(rank_of(p), p.spec.node_name, p.metadata.uid, released=True, bound=True)
            for p in known
        ]
        self._hold_new(gang, known, slots, now_s)

    def _hold_new(self, gang: LiveGang, pods: list[Pod], slots: list[Slot], now_s: float) -> Unit:
        request = self._request(gang, pods)
        request.nodes = tuple(slot.node for slot in slots)
        request.admitted_s = now_s
        request.present = len(pods)
        unit = Unit(request, tuple(p.metadata.uid for p in pods), slots)
        gang.units[unit.name] = unit
        self._num_unbound += sum(not slot.bound for slot in slots)
        for slot in slots:
            self.slot_of[slot.uid] = (gang, unit, slot)
        self.ledger.hold(request)
        return unit

    # -- asking ------------------------------------------------------------------------------

    def _ask(self, gang: LiveGang, free: list[Pod], now_s: float) -> None:
        """Let what has no node yet wait for one, as one request or several."""
        waiting = [unit for unit in gang.units.values() if not unit.slots]
        plans = self.old_plans.pop(gang.key, None)
        if plans is not None and self._resume(gang, plans, free, now_s):
            free = [p for p in free if p.metadata.uid not in self.slot_of]
        stranded = [p for p in free if not p.gated and pinned_to(p) and _was_planned(p)]
        stuck = [self._resume_pinned(gang, pod, now_s) for pod in stranded]
        if stranded:
            lost = {pod.metadata.uid for pod in stranded}
            free = [p for p in free if p.metadata.uid not in lost]
        gang.problem = self._problem(gang, free) or next(filter(None, stuck), "")
        groups = self._groups(gang, free) if not gang.problem and now_s >= gang.hold_until_s else []
        wanted: list[tuple[list[Pod], int]] = groups
        for unit, (pods, num_pods) in zip(waiting, wanted, strict=False):
            self._request_again(gang, unit, pods, num_pods)
        for pods, num_pods in wanted[len(waiting) :]:
            request = self._request(gang, pods, num_pods)
            unit = Unit(request, tuple(p.metadata.uid for p in pods))
            gang.units[unit.name] = unit
            self.ledger.submit(request)
        for unit in waiting[len(wanted) :]:
            self._drop_unit(gang, unit)

    def _groups(self, gang: LiveGang, free: list[Pod]) -> list[tuple[list[Pod], int]]:
        """Split pods into requests: what the minimum needs together, the others one by one."""
        if not free or gang.size is None:
            return []
        lacking = gang.size.min_member - gang.num_placed()
        if lacking > 0:
            together, alone = free[:lacking], free[lacking:]
            if len(together) < lacking:
                return [(together, lacking)]
            groups = [(together, lacking)]
            if not gang.started_min:
                return groups
            return groups + [([pod], 1) for pod in alone]
        return [([pod], 1) for pod in free]

    def _request(self, gang: LiveGang, pods: list[Pod], num_pods: int = 0) -> Request:
        first = pods[0]
        parts = gang.parts(pods)
        if num_pods > len(pods):
            largest = max(parts, key=lambda part: part.count)
            largest.count += num_pods - len(pods)
        meta = first.metadata
        job = self.find("PyTorchJob", gang.key.namespace, _label(pods, KUBEFLOW_JOB))
        queue, priority = wishes(job, self.find)
        return Request(
            name=gang.new_unit_name(),
            parts=parts,
            submit_s=min(unix_s(p.metadata.creation_timestamp) for p in pods) - self.zero_unix_s,
            priority=max(p.spec.priority for p in pods) or priority,
            queue=meta.labels.get("kueue.x-k8s.io/queue-name")
            or meta.annotations.get("muster.dev/queue")
            or queue,
            walltime_s=duration_s(meta.annotations.get(WALLTIME, "")),
            present=len(pods),
        )

    def _request_again(self, gang: LiveGang, unit: Unit, pods: list[Pod], num_pods: int) -> None:
        counter = gang.next_unit
        request = self._request(gang, pods, num_pods)
        gang.next_unit = counter
        request.name = unit.name
        request.submit_s = min(request.submit_s, unit.request.submit_s)
        unit.uids = tuple(p.metadata.uid for p in pods)
        if signature(request) == signature(unit.request):
            return
        unit.request = request
        self.ledger.submit(request)

    def _problem(self, gang: LiveGang, free: list[Pod]) -> str:
        """Return why the gang must not be considered; mends what can be mended."""
        if gang.size is None:
            return "the object that says how many pods it needs cannot be read yet"
        if not gang.key.source.startswith(("PodGroup.scheduling.x", "Kubeflow")):
            return ""
        job = self.find("PyTorchJob", gang.key.namespace, _label(free, KUBEFLOW_JOB))
        if job is None or job.spec.get("elasticPolicy"):
            return ""
        total = sum(
            int(part.get("replicas", 1))
            for part in (job.spec.get("pytorchReplicaSpecs") or {}).values()
        )
        per_node = str(job.spec.get("nprocPerNode") or "")
        world = total * (int(per_node) if per_node.isdigit() else 1)
        stale = [p for p in free if (environment(p, "WORLD_SIZE") or str(world)) != str(world)]
        if not stale:
            return ""
        if self.active:
            for pod in stale:
                if pod.gated:
                    self._delete(gang, pod)
        return (
            f"{len(stale)} pods were made for another WORLD_SIZE than {world} and would never "
            "meet the others; waiting for their owner to make them anew"
        )

    # -- plans -------------------------------------------------------------------------------

    def _planned(self, request: Request, now_s: float) -> None:
        """Give an admitted request's pods their slots and start telling them."""
        gang = self.names[request.name.split("+")[0]]
        unit = gang.units[request.name]
        unit.generation += 1
        unit.slots = [
            Slot(gang.facts(gang.pods[uid]).rank, node, uid)
            for uid, node in zip(unit.uids, request.nodes, strict=True)
        ]
        unit.deadline_s = 0.0
        self._num_unbound += len(unit.slots)
        for slot in unit.slots:
            self.slot_of[slot.uid] = (gang, unit, slot)
        unit.releasing = True
        self._start(self._release(gang, unit, list(unit.slots)))

    async def _release(self, gang: LiveGang, unit: Unit, slots: list[Slot]) -> None:
        """Write the plan down, then tell the pods; slots that fail are mended by the next step."""
        unit.releasing = True
        began_s = self.now_s()
        try:
            await self.plans.write(unit, gang.key)
            unit.recorded = True
            if unit.name not in gang.units:
                await self.plans.erase(unit.name)
                return
            direct = [slot for slot in slots if self._lane(gang, slot) is Lane.DIRECT]
            if direct:
                await self.plans.commit(unit)
            await asyncio.gather(*(self._tell(gang, unit, slot) for slot in slots))
        except ApiError as error:
            log.warning("%s: plan not carried out: %s", unit.name, error)
            self.metrics.aborts.labels(cause="plan record").inc()
            if not any(slot.released for slot in unit.slots):
                self._drop_unit(gang, unit)
        finally:
            unit.releasing = False
            unit.deadline_s = self.now_s() + self.settings.timeouts.bind_s
            self.look_again(gang.key, unit.deadline_s)
            self._dirty.add(gang.key)
            self._wake.set()
            self.metrics.release_seconds.observe(self.now_s() - began_s)

    def _lane(self, gang: LiveGang, slot: Slot) -> Lane:
        pod = gang.pods.get(slot.uid)
        if pod is not None and pod.spec.scheduler_name in self.settings.direct_schedulers:
            return Lane.DIRECT
        return Lane.PINNED if pod is not None and pod.gated else Lane.EXTENDER

    async def _tell(self, gang: LiveGang, unit: Unit, slot: Slot) -> None:
        """Carry out one slot of a plan."""
        pod = gang.pods.get(slot.uid)
        if pod is None or not self.active or slot.bound or not self.ledger.usable(slot.node):
            return
        if self.ledger.overfull(slot.node):
            return
        slot.num_told += 1
        plan = plan_text(unit.name, unit.generation, slot)
        meta = pod.metadata
        try:
            match self._lane(gang, slot):
                case Lane.PINNED:
                    await self.lanes.release_pinned(pod, slot.node, plan)
                case Lane.DIRECT:
                    if pod.gated:
                        await self.lanes.ungate(pod)
                    slot.asked = True
                    await self.lanes.bind(meta.namespace, meta.name, meta.uid, slot.node, plan)
                case Lane.EXTENDER:
                    await self.lanes.poke(pod, plan)
            slot.released = True
        except ApiError as error:
            if error.code in (404, 409):
                return  # gone or replaced: the watch says so, and its successor takes the slot
            log.warning("%s: pod %s not released: %s", unit.name, meta.name, error)
            self.metrics.aborts.labels(cause=f"release {error.code}").inc()

    def _completed(self, gang: LiveGang, unit: Unit, now_s: float) -> None:
        """Note that every pod of a plan has its node."""
        unit.recorded = False
        gang.num_aborts = 0
        self.metrics.bind_seconds.observe(now_s - unit.request.admitted_s)
        self._start(self.plans.erase(unit.name))
        nodes = len(set(unit.request.nodes))
        self.publisher.event(
            gang, "Started", f"all {len(unit.slots)} pods are bound, on {nodes} nodes"
        )

    def _judge(self, gang: LiveGang, now_s: float) -> None:
        """End a gang that runs in part for too long: it holds GPUs and does no work."""
        bound = sum(slot.bound for _, slot in gang.slots())
        size = gang.size
        if size is None or not bound:
            gang.degraded_since_s = 0.0
            return
        # a job that runs and is then asked to grow goes on as it is until there is room
        need = min(size.min_member, gang.started_min or size.min_member)
        if bound + gang.num_succeeded >= need:
            gang.degraded_since_s = 0.0
            gang.started_min = need
            return
        if any(
            unit.slots and not unit.bound and unit.deadline_s == 0 for unit in gang.units.values()
        ):
            gang.degraded_since_s = 0.0  # being released just now
            return
        repair_s = self.settings.timeouts.repair_s
        if not gang.degraded_since_s:
            gang.degraded_since_s = now_s
            self.look_again(gang.key, now_s + repair_s)
            return
        if now_s - gang.degraded_since_s < repair_s or not self.active:
            return
        gang.degraded_since_s = now_s
        self.look_again(gang.key, now_s + repair_s)
        self.metrics.aborts.labels(cause="degraded").inc()
        self.publisher.event(
            gang,
            "Evicted",
            f"{bound} of {need} pods ran for {repair_s:.0f} s without the others",
        )
        for _, slot in gang.slots():
            pod = gang.pods.get(slot.uid)
            if pod is not None and slot.bound:
                self._start(self._evict(pod))

    async def _evict(self, pod: Pod) -> None:
        try:
            await self.lanes.evict(pod)
        except ApiError as error:
            log.warning("pod %s not evicted: %s", pod.where, error)

    # -- recovery ----------------------------------------------------------------------------

    def _resume(
        self, gang: LiveGang, plans: list[PlanRecord], free: list[Pod], now_s: float
    ) -> bool:
        """Go on with a predecessor's plans where their nodes still serve; erase the others."""
        resumed = False
        for plan in plans:
            ranks = {(r.role, r.number, r.pod): s for r, s in plan.ranks().items()}
            pods, slots = [], []
            for pod in free:
                rank = rank_of(pod)
                written = ranks.get((rank.role, rank.number, rank.pod))
                if written is None or not self.ledger.usable(written.node):
                    continue
                told = not pod.gated and pinned_to(pod) == written.node
                pods.append(pod)
                slots.append(Slot(rank, written.node, pod.metadata.uid, released=told))
            bound = sum(1 for p in gang.live_pods() if p.spec.node_name)
            if len(pods) + bound < len(plan.slots) or not pods:
                if self.active:
                    self._start(self.plans.erase(plan.unit))
                continue
            unit = self._hold_new(gang, pods, slots, now_s)
            unit.generation = plan.generation
            unit.recorded = plan.unit == unit.name
            if plan.unit != unit.name:
                self._start(self.plans.erase(plan.unit))
            todo = [slot for slot in slots if not slot.released]
            unit.releasing = True
            self._start(self._release(gang, unit, todo))
            resumed = True
        return resumed

    def _resume_pinned(self, gang: LiveGang, pod: Pod, now_s: float) -> str:
        """Keep the node of a pod that was pinned and not bound, or have the pod made anew.

        A pin cannot be changed. Returns why the pod can only wait, or nothing.
        """
        node = pinned_to(pod) or ""
        uid, owned = pod.metadata.uid, pod.metadata.controller() is not None
        if not self.ledger.usable(node):
            wrong = "is gone or closed"
        elif not self.ledger.has_room(node, gang.facts(pod).shape):
            wrong = "has no room for it"
        elif owned and uid in gang.given_up:
            wrong = "did not get it in time"
        else:
            unit = self._hold_new(
                gang, [pod], [Slot(rank_of(pod), node, uid, released=True)], now_s
            )
            unit.deadline_s = now_s + self.settings.timeouts.bind_s
            self.look_again(gang.key, unit.deadline_s)
            return ""
        if owned:
            self._delete(gang, pod)
            return ""
        self.look_again(gang.key, now_s + self.settings.timeouts.repair_s)
        return (
            f"pod {pod.metadata.name} is pinned to {node}, which {wrong}, and has no owner that "
            "would make it anew; delete it and create it again to have it planned elsewhere"
        )


def _same(slot: Slot, pod: Pod) -> bool:
    rank = rank_of(pod)
    return (slot.rank.role, slot.rank.number) == (rank.role, rank.number) and (
        slot.rank.pod == rank.pod or bool(rank.number)
    )


def _was_planned(pod: Pod) -> bool:
    return "muster.dev/plan" in pod.metadata.annotations


def _label(pods: Iterable[Pod], label: str) -> str:
    return next((p.metadata.labels[label] for p in pods if label in p.metadata.labels), "")


def _owner_names(gang: LiveGang) -> set[str]:
    if gang.key.source not in (Source.JOB, Source.JOBSET, Source.COSCHEDULING):
        return set()
    return {
        owner.name for pod in gang.pods.values() if (owner := pod.metadata.controller()) is not None
    }
