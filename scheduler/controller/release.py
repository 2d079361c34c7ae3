"""Carrying out plans: the record, the writes to each pod, and what is undone when one fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from scheduler.controller.lanes import WAITS, Lanes, pinned_to, plan_text
from scheduler.controller.membership import Lane, LiveGang, Slot, Unit
from scheduler.controller.metrics import Metrics
from scheduler.controller.mirror import Request
from scheduler.controller.plans import PlanRecords
from scheduler.controller.tables import Tables
from scheduler.controller.telling import Telling
from scheduler.kube.api import ApiError
from scheduler.kube.objects import Pod
from scheduler.kube.watch import Change
from scheduler.workloads.eligibility import shunned

log = logging.getLogger("muster.release")
MOST_TOLD = 3  #: times that a pod is told of its slot
AVOID_S = 600.0  #: a node on which kube-scheduler refused a pod is tried again after that


class Release:
    """Writes what was decided. A write that fails is mended by the next step."""

    def __init__(
        self,
        tables: Tables,
        lanes: Lanes,
        plans: PlanRecords,
        telling: Telling,
        metrics: Metrics,
        on_pod: Callable[[Change, Pod], None],
    ) -> None:
        self._tables = tables
        self._work = tables.work
        self._ledger = tables.ledger
        self._timeouts = tables.settings.timeouts
        self.lanes = lanes
        self.plans = plans
        self.telling = telling
        self.metrics = metrics
        self._on_pod = on_pod
        self._deleting: set[str] = set()
        self._reading: set[str] = set()

    def planned(self, request: Request) -> None:
        """Give an admitted request's pods their slots and start telling them."""
        gang = self._tables.gang_of_unit[request.name]
        unit = gang.units[request.name]
        unit.generation += 1
        slots = [
            Slot(gang.facts(gang.pods[uid]).rank, node, uid)
            for uid, node in zip(unit.uids, request.nodes, strict=True)
        ]
        unit.deadline_s = 0.0
        self._tables.give_slots(gang, unit, slots)
        nodes = len(set(request.nodes))
        self.telling.note(gang, "planned", f"{len(slots)} pods on {nodes} nodes")
        self.tell(gang, unit, list(slots))

    def tell(self, gang: LiveGang, unit: Unit, slots: list[Slot]) -> None:
        """Start telling pods of their slots."""
        unit.releasing = True
        if not _told_besides(unit, slots):
            unit.deadline_s = 0.0  # that of those before says nothing of these
        self._work.start(self._release(gang, unit, slots))

    async def _release(self, gang: LiveGang, unit: Unit, slots: list[Slot]) -> None:
        """Write the plan down, then tell the pods."""
        work = self._work
        began_s = work.now_s()

        def dropped() -> str:
            return "" if gang.units.get(unit.name) is unit else "the plan was given up"

        try:
            if not work.active:
                raise ApiError(0, "this replica does not lead any more")
            await self.plans.write(unit, gang.key, unless=dropped)
            unit.recorded = True
            if dropped():
                self.drop_unit(gang, unit)
                return
            direct = [slot for slot in slots if self._lane(gang, unit, slot) is Lane.DIRECT]
            if direct:
                await self.plans.commit(unit)
            going = all(self._can_go(gang, slot) for slot in slots)
            if dropped() or not (going or gang.begun()):
                return  # nobody knows of this plan yet: the next step makes another for all
            await asyncio.gather(*(self._tell(gang, unit, slot) for slot in slots))
            told = sum(slot.released for slot in slots)
            self.telling.note(gang, "released", f"{told} of {len(slots)} pods know their node")
        except ApiError as error:
            if not dropped():
                about = {"gang": gang.name, "unit": unit.name}
                log.warning("plan not carried out: %s", error, extra=about)
                self.metrics.aborts.labels(cause="plan record").inc()
            if not any(slot.released for slot in unit.slots):
                # without an answer the record may be there all the same
                unit.recorded = unit.recorded or error.code == 0 or error.code >= 500
                self.drop_unit(gang, unit)
        finally:
            unit.releasing = False
            # those told before have waited since then
            if not _told_besides(unit, slots) or not unit.deadline_s:
                unit.deadline_s = work.now_s() + self._timeouts.bind_s
            work.look_again(gang.key, unit.deadline_s)
            work.touch(gang.key)
            work.wake()
            self.metrics.release_seconds.observe(work.now_s() - began_s)

    def _lane(self, gang: LiveGang, unit: Unit, slot: Slot) -> Lane:
        pod = gang.pods.get(slot.uid)
        if pod is None:
            return Lane.EXTENDER
        settings = self._tables.settings
        wanted = (
            pod.spec.scheduler_name in settings.direct_schedulers
            or unit.request.queue in settings.direct_queues
        )
        if wanted and not self._tables.unchecked(gang, pod):
            return Lane.DIRECT
        return Lane.PINNED if pod.gated else Lane.EXTENDER

    def _can_go(self, gang: LiveGang, slot: Slot) -> bool:
        """True unless a slot's pod cannot go where it was planned any more."""
        pod = gang.pods.get(slot.uid)
        if pod is None:
            return True
        shape = gang.facts(pod).shape
        return self._ledger.takes(slot.node, pod) and not self._ledger.overfull(slot.node, shape)

    def void(self, slot: Slot, uid: str, node: str) -> str:
        """Return why a pod must not be told of a slot, or bound by it, any more; or nothing.

        Asked right before each try of a write, which may come long after the decision. A node that
        was only closed since is used all the same: the others of the gang may be there already.
        """
        place = self._tables.slot_of.get(uid)
        if place is None or place[2] is not slot or slot.node != node:
            return "the plan changed"
        pod = place[0].pods.get(uid)
        if pod is None:
            return "the pod is gone"
        shape = place[0].facts(pod).shape
        if not slot.bound and (
            node not in self._ledger.nodes or self._ledger.overfull(node, shape)
        ):
            return f"there is no room left on {node}"
        return ""

    async def _tell(self, gang: LiveGang, unit: Unit, slot: Slot) -> None:
        """Carry out one slot of a plan."""
        pod = gang.pods.get(slot.uid)
        if pod is None or not self._work.active or slot.bound:
            return
        slot.num_told += 1
        if not self._can_go(gang, slot):
            return
        plan, node = plan_text(unit.name, unit.generation, slot), slot.node
        meta = pod.metadata
        unless = partial(self.void, slot, meta.uid, node)
        # from now on somebody may bind it, and the watch that would tell may be behind
        slot.asked = True
        slot.num_writing += 1
        try:
            match self._lane(gang, unit, slot):
                case Lane.PINNED:
                    await self.lanes.release_pinned(pod, node, plan, unless)
                case Lane.DIRECT:
                    if pod.gated:
                        await self.lanes.ungate(pod, unless)
                    where = (meta.namespace, meta.name, meta.uid, node, plan)
                    await self.lanes.bind(*where, unless=unless)
                case Lane.EXTENDER:
                    await self.lanes.nominate(pod, node, plan, unless)
            if slot.uid == meta.uid:  # else its successor is not told yet
                slot.released = True
        except ApiError as error:
            # 422: another uid, or bound, for a pod that is told twice
            if error.code in (404, 409) or (error.code == 422 and not pod.gated):
                return  # gone or replaced: the watch says so, and its successor takes the slot
            about = {"gang": gang.name, "unit": unit.name, "pod": pod.where, "node": node}
            log.warning("pod not released: %s", error, extra=about)
            self.metrics.aborts.labels(cause=f"release {error.code}").inc()
        finally:
            slot.num_writing -= 1

    def nominate_again(self, unit: Unit, slot: Slot, pod: Pod) -> None:
        """Name a pod's node once more: kube-scheduler forgets it with every try that fails."""
        if unit.releasing or not slot.released or slot.num_told >= MOST_TOLD:
            return
        slot.num_told += 1
        plan = plan_text(unit.name, unit.generation, slot)
        self._work.start(self._nominate(pod, slot.node, plan))

    async def _nominate(self, pod: Pod, node: str, plan: str) -> None:
        place = self._tables.slot_of.get(pod.metadata.uid)
        if not self._work.active or (place[2].node if place else "") != node:
            return  # planned anew meanwhile
        try:
            await self.lanes.nominate(pod, node, plan)
        except ApiError as error:
            if error.code not in (404, 409, 422):
                about = {"pod": pod.where, "node": node}
                log.warning("node not nominated: %s", error, extra=about)

    def tell_successors(self, gang: LiveGang, unit: Unit) -> None:
        """Release pods that came into a slot after its plan was carried out."""
        if unit.releasing or not self._work.active:
            return
        todo = [
            s
            for s in unit.slots
            if s.uid and not (s.bound or s.released) and s.num_told < MOST_TOLD
        ]
        if todo:
            self.tell(gang, unit, todo)

    def completed(self, gang: LiveGang, unit: Unit, now_s: float) -> None:
        """Note that every pod of a plan has its node."""
        unit.recorded = False
        gang.num_aborts = 0
        self.metrics.bind_seconds.observe(now_s - unit.request.admitted_s)
        self.erase(unit.name)
        nodes = len(set(unit.request.nodes))
        self.telling.event(
            gang, "Started", f"all {len(unit.slots)} pods are bound, on {nodes} nodes"
        )

    def find_out(self, gang: LiveGang, slot: Slot, pod: Pod) -> None:
        """Ask the API server whether a bind took place before its node is given to others."""
        if slot.uid not in self._reading and self._work.active:
            self._reading.add(slot.uid)
            self._work.start(self._read(gang, slot, pod))

    async def _read(self, gang: LiveGang, slot: Slot, pod: Pod) -> None:
        try:
            found = await self.lanes.read(pod)
            if slot.uid == pod.metadata.uid and not slot.num_writing:
                slot.asked = False
            if found is not None and found.spec.node_name and pod.metadata.uid in self._tables.pods:
                self._on_pod(Change.MODIFIED, found)
        except ApiError as error:
            about = {"gang": gang.name, "pod": pod.where, "node": slot.node}
            log.warning("pod not read: %s", error, extra=about)
        finally:
            self._reading.discard(pod.metadata.uid)
            if slot.num_writing:
                self._work.look_again(gang.key, self._work.now_s() + 1.0)
            else:
                self._work.touch(gang.key)
                self._work.wake()

    def give_up(self, gang: LiveGang, unit: Unit, slot: Slot, pod: Pod, now_s: float) -> None:
        """Take a slot from a pod that cannot use it."""
        self._tables.slot_of.pop(slot.uid, None)
        usable = self._ledger.takes(slot.node, pod)
        cause = "not bound in time" if usable else "node lost"
        self.metrics.aborts.labels(cause=cause).inc()
        if slot.released:
            gang.given_up.add(slot.uid)
            if not pod.gated and pinned_to(pod) is None:
                self._work.start(self._nominate(pod, "", ""))
        refused = usable and self.refused(gang, slot, pod)
        if refused:
            self._keep_off(gang, slot, pod, now_s)
        if unit.given_up == unit.generation:
            return
        unit.given_up = unit.generation
        if usable and not refused:
            self._back_off(gang, now_s)
        if slot.released and self._work.active:
            self.telling.event(
                gang, "Replanned", f"{pod.metadata.name}: {cause} on {slot.node}; planned anew"
            )

    def _back_off(self, gang: LiveGang, now_s: float) -> None:
        """Leave a gang alone for a while whose plan failed though its nodes may be used."""
        gang.num_aborts += 1
        gang.hold_until_s = now_s + min(300.0, 5.0 * 2**gang.num_aborts)
        self._work.look_again(gang.key, gang.hold_until_s)

    def give_up_whole(
        self, gang: LiveGang, unit: Unit, slots: list[tuple[Slot, Pod]], now_s: float
    ) -> None:
        """Take back a plan of which nobody was told yet."""
        usable = all(self._ledger.takes(slot.node, pod) for slot, pod in slots)
        self.metrics.aborts.labels(cause="node taken" if usable else "node lost").inc()
        if usable:
            self._back_off(gang, now_s)
        self.drop_unit(gang, unit)

    def refused(self, gang: LiveGang, slot: Slot, pod: Pod) -> bool:
        """True if kube-scheduler refused a pod its node though there was room.

        It checks more than muster plans by: ports, volumes, affinity to pods.
        """
        said = pod.refusal
        shape = gang.facts(pod).shape
        full = "Insufficient" in said or self._ledger.overfull(slot.node, shape)
        return bool(said) and WAITS not in said and not full

    def _keep_off(self, gang: LiveGang, slot: Slot, pod: Pod, now_s: float) -> None:
        """Plan a rank elsewhere for a while than where kube-scheduler refused it."""
        what = shunned(pod, self._ledger.nodes[slot.node])
        gang.keep_off(slot.rank, what, now_s + AVOID_S)
        gang.refusal = (
            f"kube-scheduler refused pod {pod.metadata.name} on {slot.node}: {pod.refusal}"
        )
        self.telling.event(gang, "Refused", gang.refusal[:1000])
        self.metrics.aborts.labels(cause="refused").inc()
        self._work.look_again(gang.key, now_s + AVOID_S)

    def drop_unit(self, gang: LiveGang, unit: Unit) -> None:
        """Give back what a unit holds or asks for, and erase its record."""
        self._tables.drop_unit(gang, unit)
        if unit.recorded:
            unit.recorded = False
            if unit.name not in self._tables.gang_of_unit:  # else the record is another's by now
                self.erase(unit.name)

    def erase(self, unit_name: str) -> None:
        """Remove a plan record, unless it may be another leader's by now."""
        if self._work.active:
            self._work.start(self.plans.erase(unit_name, lambda: self._work.active))

    def delete(self, gang: LiveGang, pod: Pod) -> None:
        """Have a pod made anew by its owner."""
        if self._work.active and pod.metadata.uid not in self._deleting:
            self._deleting.add(pod.metadata.uid)
            self._work.start(self._delete(gang, pod))

    async def _delete(self, gang: LiveGang, pod: Pod) -> None:
        try:
            await self.lanes.delete(pod)
        except ApiError as error:
            about = {"gang": gang.name, "pod": pod.where}
            log.warning("pod not deleted: %s", error, extra=about)
            self._work.look_again(gang.key, self._work.now_s() + 1.0)
        finally:
            self._deleting.discard(pod.metadata.uid)

    def evict(self, gang: LiveGang, pod: Pod, slot: Slot | None = None) -> None:
        """Ask for a running pod to go; it keeps a slot that was given back if it may not."""
        going = pod.metadata.deletion_timestamp or pod.metadata.uid in self._deleting
        if self._work.active and not going:
            self._deleting.add(pod.metadata.uid)
            self._work.start(self._evict(gang, pod, slot))

    async def _evict(self, gang: LiveGang, pod: Pod, slot: Slot | None) -> None:
        try:
            await self.lanes.evict(pod)
        except ApiError as error:
            about = {"pod": pod.where, "node": pod.spec.node_name}
            log.warning("pod not evicted: %s", error, extra=about)
            if slot is not None and slot.uid == pod.metadata.uid:
                slot.given_back = False
                self._work.touch(gang.key)
                self._work.wake()
        finally:
            self._deleting.discard(pod.metadata.uid)


def _told_besides(unit: Unit, slots: list[Slot]) -> bool:
    """True if others of a unit than these were told of their node and are not bound yet."""
    these = {id(slot) for slot in slots}
    return any(
        slot.uid and (slot.released or slot.asked) and not slot.bound and id(slot) not in these
        for slot in unit.slots
    )
