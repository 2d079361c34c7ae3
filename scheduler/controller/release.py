"""Carries out plans: the record, the writes to each pod, and the undo when one fails."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

from scheduler.controller.asking import grows
from scheduler.controller.lanes import Lanes, plan_text
from scheduler.controller.membership import TOGETHER, Lane, LiveGang
from scheduler.controller.metrics import Metrics
from scheduler.controller.mirror import Placed
from scheduler.controller.parts import Wanted
from scheduler.controller.plans import PlanRecords
from scheduler.controller.refusals import MANY_PLANS, WAITS, at_odds, is_of_nodes
from scheduler.controller.slots import IllegalStepError, Plan, Slot, SlotState
from scheduler.controller.tables import Tables
from scheduler.controller.telling import Telling
from scheduler.kube.api import ApiError
from scheduler.kube.objects import PLAN, Pod, unix_s
from scheduler.kube.watch import Change
from scheduler.workloads.eligibility import Avoid, shunned
from scheduler.workloads.gangs import SYSTEM, GangKey

log = logging.getLogger("muster.release")
AS_OLD_S = 60.0  #: pods beyond the minimum rank with one that was created so much earlier
AT_ONCE = 100  #: pods that are looked at, or told, before others have their turn
MOST_TOLD = 3  #: attempts to release a pod to its slot
SILENT = 4  #: times `bind_s` without an answer to a write to a gang's pods: none is to come
MOST_NOTED = 100  #: pods on which it is written that fewer run together: one that stays is enough
MOST_NOT_DELETED = 10_000  #: pods that are remembered
LONGEST_PAUSE_S, JITTER = 300.0, 0.2  #: of a gang whose plan failed


class Release:
    """Writes what was decided. The next step repairs a write that failed."""

    def __init__(
        self,
        tables: Tables,
        lanes: Lanes,
        plans: PlanRecords,
        telling: Telling,
        metrics: Metrics,
        on_pod: Callable[[Change, Pod], None],
        set_aside: Callable[[LiveGang, Exception, str], None],
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
        self._set_aside = set_aside
        self._deleting: set[str] = set()
        self._not_deleted: dict[str, tuple[float, float]] = {}  #: by uid: when again, pause after
        self._reading: set[str] = set()
        #: at the start: a predecessor's plans of some gangs may be past, as others have their nodes
        self.waits_for_all: dict[GangKey, LiveGang] | None = None

    def planned(self, gang: LiveGang, placed: Placed) -> None:
        """Give the pods of a gang the nodes that the core decided on."""
        now_s = self._work.now_s()
        assert gang.request is not None
        if gang.admitted_s != gang.request.admitted_s:
            gang.admitted_s, gang.saved_s = gang.request.admitted_s, -inf
        gang.planned_s = now_s
        gang.generation += 1
        plan = Plan(gang.generation, len(placed.nodes))
        self._tables.give_slots(
            gang,
            [
                Slot(gang.facts(gang.pods[uid]).rank, node, uid, plan, now_s)
                for _, uid, node in placed.nodes
            ],
        )

    def ask_next(self, gang: LiveGang) -> bool:
        """Let the next pod beyond what was placed ask for a node; False if there is none."""
        while gang.later:
            pod = gang.pods.get(gang.later.pop())
            if pod is None or pod.spec.node_name or gang.request is None:
                continue
            name, avoid = gang.part_of(gang.facts(pod))
            asked_s = unix_s(pod.metadata.creation_timestamp) - self._work.zero_unix_s
            if asked_s > gang.request.submit_s + AS_OLD_S and grows(gang):
                break  # it came later, and ranks by that
            for part in gang.request.parts:
                if part.name == name:  # many may come, one after the other: they cost alike
                    part.pod, part.avoid, part.uids = pod, avoid, [pod.metadata.uid]
                    self._ledger.ask_more(gang.request)
                    return True
            break
        else:
            return False
        self._tables.tell(gang, Wanted([pod], 0, gang.pods_later()))
        return True

    def tell_planned(self, gang: LiveGang, nodes: list[str]) -> None:
        """Start releasing pods to these nodes."""
        self.telling.note(gang, "planned", f"{len(nodes)} pods on {len(set(nodes))} nodes")
        self.tell(gang)

    def go_on(self) -> None:
        """Release pods that waited until all gangs were reconciled."""
        waited, self.waits_for_all = self.waits_for_all, None
        for gang in (waited or {}).values():
            self.tell(gang)

    def tell(self, gang: LiveGang) -> None:
        """Start releasing the remaining pods to their slots once a gang is whole."""
        if self.waits_for_all is not None:
            self.waits_for_all[gang.key] = gang
            return
        waits = gang.releasing or self._work.now_s() < gang.tell_again_s
        if waits or not self._work.active:
            return
        slots = [s for s in gang.slots if s.state is SlotState.PLANNED and s.num_told < MOST_TOLD]
        if slots and gang.is_whole():
            gang.releasing = True
            for slot in slots:
                slot.deadline_s = 0.0
            self.start(gang, partial(self._release, gang, slots))

    def start(self, gang: LiveGang, work: Callable[[], Awaitable[None]]) -> None:
        """Run a write beside the steps; a gang on which it fails is set aside."""

        async def watched() -> None:
            try:
                await work()
            except IllegalStepError as error:
                self._set_aside(gang, error, "release")

        self._work.start(watched())

    async def _release(self, gang: LiveGang, slots: list[Slot]) -> None:
        """Write the plan down, then tell the pods."""
        work = self._work
        began_s = work.now_s()

        def dropped() -> str:
            gone = all(slot.state is SlotState.GONE for slot in slots)
            return "the plan was given up" if gone else ""

        try:
            if not work.active:
                raise ApiError(0, "this replica no longer leads")
            await self.plans.write(gang, unless=dropped)
            gang.recorded, gang.only_kept = True, False
            for name in gang.old_records:
                self.erase(name)
            gang.old_records.clear()
            slots = [slot for slot in slots if slot.state is SlotState.PLANNED]
            if not slots:
                return
            self._tables.look_at_neighbours(gang)
            direct = {s.plan.generation for s in slots if self.lane(gang, s) is Lane.DIRECT}
            for generation in sorted(direct):
                await self.plans.commit(gang, generation)
            if not (await self._can_all_go(gang, slots) or gang.begun()):
                return  # nobody knows of this plan yet: the next step makes another for all
            await self._tell_all(gang, slots)
            told = sum(slot.state in (SlotState.RELEASED, SlotState.BOUND) for slot in slots)
            self.telling.note(gang, "released", f"{told} of {len(slots)} pods were released")
        except ApiError as error:
            self._not_written(gang, slots, error, dropped())
        finally:
            gang.releasing = False
            until_s = work.now_s() + self._timeouts.bind_s
            for slot in slots:
                if not slot.is_bound:
                    slot.deadline_s = until_s
            if not gang.slots:
                self.forget_record(gang)
            work.look_again(gang.key, until_s)
            work.touch(gang.key)
            work.wake()
            self.metrics.release_seconds.observe(work.now_s() - began_s)

    def _not_written(
        self, gang: LiveGang, slots: list[Slot], error: ApiError, dropped: str
    ) -> None:
        """Give up slots whose plan could not be written down; who came after others waits on."""
        if not dropped:
            log.warning("plan not carried out: %s", error, extra={"gang": gang.name})
            self.metrics.aborts.labels(cause="plan record").inc()
            if error.code not in (0, 429) and error.code < 500:
                self._refused_record(gang, error)
        # without an answer the record may be there all the same
        gang.recorded = gang.recorded or error.code == 0 or error.code >= 500
        begun = gang.begun()
        lost = [
            slot
            for slot in slots
            if slot.state is SlotState.PLANNED and (slot.num_lives == 1 or not begun)
        ]
        if lost:
            self._tables.give_back(gang, lost, self._work.now_s(), f"no plan record: {error}")
            self._tables.tell(gang, Wanted([]))

    def _refused_record(self, gang: LiveGang, error: ApiError) -> None:
        """Say that a plan may not be written down, and leave the gang alone for a while."""
        text = f"cannot write its plan record: {error}"
        if text != gang.trouble:
            self.telling.event(gang, "PlanRefused", text)
        self._back_off(gang, self._work.now_s())
        gang.trouble, gang.tell_again_s = text, gang.hold_until_s

    def lane(self, gang: LiveGang, slot: Slot) -> Lane:
        """Return the lane of the pod of a slot."""
        pod = gang.pods.get(slot.uid)
        if pod is None:
            return Lane.EXTENDER
        settings = self._tables.settings
        wanted = pod.spec.scheduler_name in settings.direct_schedulers or (
            gang.request is not None and gang.request.queue in settings.direct_queues
        )
        tables = self._tables
        if wanted and not tables.unchecked(gang, pod) and not tables.kept_off(gang, slot.node):
            return Lane.DIRECT
        return Lane.PINNED if pod.gated else Lane.EXTENDER

    def _can_go(self, gang: LiveGang, slot: Slot) -> bool:
        """True unless a slot's pod cannot go where it was planned any more."""
        pod = gang.pods.get(slot.uid)
        if pod is None:
            return True
        shape = gang.facts(pod).shape
        if not self._ledger.takes(slot.node, pod) or self._ledger.overfull(slot.node, shape):
            return False
        return not self.binds_alone(pod) or not self._tables.kept_off(gang, slot.node)

    def binds_alone(self, pod: Pod) -> bool:
        """True if only muster binds a pod."""
        return pod.spec.scheduler_name in self._tables.settings.direct_schedulers

    def void(self, slot: Slot, uid: str, node: str) -> str:
        """Return why a pod may no longer be released to a slot or bound by it; else nothing.

        Called right before each attempt at a write, which may come long after the decision. A node
        that was only closed meanwhile is still used: other pods of the gang may be there already.
        """
        place = self._tables.slot_of.get(uid)
        if place is None or place[1] is not slot or slot.node != node:
            return "the plan changed"
        pod = place[0].pods.get(uid)
        if pod is None:
            return "the pod is gone"
        shape = place[0].facts(pod).shape
        if not slot.is_bound and (
            node not in self._ledger.nodes or self._ledger.overfull(node, shape)
        ):
            return f"there is no room left on {node}"
        return ""

    async def _can_all_go(self, gang: LiveGang, slots: list[Slot]) -> bool:
        """True unless a pod cannot go where it was planned; others have their turn meanwhile."""
        for number, slot in enumerate(slots, 1):
            if not self._can_go(gang, slot):
                return False
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return True

    async def _tell_all(self, gang: LiveGang, slots: list[Slot]) -> None:
        """Carry out a plan; others have their turn while the writes are begun."""
        begun = []
        for number, slot in enumerate(slots, 1):
            begun.append(asyncio.ensure_future(self._tell(gang, slot)))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*begun)

    async def _tell(self, gang: LiveGang, slot: Slot) -> None:
        """Carry out one slot of a plan."""
        pod, work = gang.pods.get(slot.uid), self._work
        if pod is None or not work.active or slot.state is not SlotState.PLANNED:
            return
        slot.num_told, slot.is_denied = slot.num_told + 1, False
        if not self._can_go(gang, slot):
            return
        plan, node = plan_text(gang, slot), slot.node
        meta = pod.metadata
        lane = self.lane(gang, slot)

        def unless() -> str:
            why = self.void(slot, meta.uid, node)
            if not why and lane is Lane.DIRECT and self._tables.kept_off(gang, node):
                return f"another pod now keeps it off {node}"
            return why

        # from now on somebody may bind it, and the watch that would tell may be behind
        slot.telling(work.now_s(), lane)
        slot.num_writing += 1
        try:
            match lane:
                case Lane.PINNED:
                    gang.pins[meta.uid] = node
                    await self.lanes.release_pinned(pod, node, plan, unless)
                case Lane.DIRECT:
                    if pod.gated:
                        await self.lanes.ungate(pod, unless)
                    where = (meta.namespace, meta.name, meta.uid, node, plan)
                    await self.lanes.bind(*where, unless=unless)
                case Lane.EXTENDER:
                    await self.lanes.nominate(pod, node, plan, unless)
            gang.unanswered_since_s = inf
            if slot.is_of(meta.uid):
                slot.released(work.now_s())  # else its successor is not told yet
        except ApiError as error:
            # 422: another uid, or bound, for a pod that is released twice
            if error.code in (404, 409) or (error.code == 422 and not pod.gated):
                return  # gone or replaced: the watch says so, and its successor takes the slot
            about = {"gang": gang.name, "pod": pod.where, "node": node}
            log.warning("pod not released: %s", error, extra=about)
            self.metrics.aborts.labels(cause=f"release {error.code}").inc()
            gang.not_told = f"cannot release pod {meta.name}: {error}"
            is_answer = 400 <= error.code < 500 and error.code != 429
            gang.unanswered_since_s = min(gang.unanswered_since_s, work.now_s())
            silent_s = work.now_s() - gang.unanswered_since_s
            slot.is_denied = is_answer or silent_s > SILENT * self._timeouts.bind_s
        finally:
            slot.num_writing -= 1

    def nominate_again(self, gang: LiveGang, slot: Slot, pod: Pod) -> None:
        """Nominate a pod's node again: kube-scheduler forgets it after each failed attempt."""
        told = slot.state in (SlotState.RELEASED, SlotState.CLEARED)
        if gang.releasing or not told or slot.num_told >= MOST_TOLD:
            return
        slot.num_told += 1
        self._work.start(self._nominate(pod, slot.node, plan_text(gang, slot)))

    async def _nominate(self, pod: Pod, node: str, plan: str) -> None:
        place = self._tables.slot_of.get(pod.metadata.uid)
        if not self._work.active or (place[1].node if place else "") != node:
            return  # planned again meanwhile
        try:
            await self.lanes.nominate(pod, node, plan)
        except ApiError as error:
            if error.code not in (404, 409, 422):
                about = {"pod": pod.where, "node": node}
                log.warning("node not nominated: %s", error, extra=about)

    def completed(self, gang: LiveGang, now_s: float) -> None:
        """Note that every pod of a gang has its node."""
        gang.num_aborts, gang.not_told = 0, ""
        gang.refusals.started()
        self.metrics.bind_seconds.observe(now_s - gang.planned_s)
        self.forget_record(gang)
        slots = [slot for slot in gang.slots if not gang.is_going(slot)]
        bound, nodes = len(slots), len({slot.node for slot in slots})
        num_pods = max(bound, gang.size.total - gang.num_succeeded if gang.size is not None else 0)
        many = f"all {bound:,}" if bound == num_pods else f"{bound:,} of {num_pods:,}"
        # a restarted muster may find the rest of its plan just not carried out
        whole = gang.size is None or gang.num_placed() >= gang.least()
        text = f"{many} pods are bound, on {nodes} nodes"
        if whole:
            self.telling.event(gang, "Started", text)
        else:
            self.telling.note(gang, "bound", text)

    def find_out(self, gang: LiveGang, slot: Slot, pod: Pod) -> None:
        """Ask the API server whether a bind succeeded before its node is given to others."""
        if slot.uid not in self._reading and self._work.active:
            self._reading.add(slot.uid)
            self.start(gang, partial(self._read, gang, slot, pod))

    async def _read(self, gang: LiveGang, slot: Slot, pod: Pod) -> None:
        try:
            found = await self.lanes.read(pod)
            told = slot.state in (SlotState.TELLING, SlotState.RELEASED)
            if slot.is_of(pod.metadata.uid) and told and not slot.num_writing:
                slot.cleared(self._work.now_s())
            if found is not None and found.spec.node_name and pod.metadata.uid in self._tables.pods:
                self._on_pod(Change.MODIFIED, found)
        except ApiError as error:
            about = {"gang": gang.name, "pod": pod.where, "node": slot.node}
            log.warning("pod not read: %s", error, extra=about)
        finally:
            self._reading.discard(pod.metadata.uid)
            if slot.num_writing:
                self._work.look_again(gang.key, self._work.now_s() + 1.0, "writing")
            else:
                self._work.touch(gang.key)
                self._work.wake()

    def give_up(self, gang: LiveGang, slot: Slot, pod: Pod, now_s: float) -> None:
        """Take a slot from a pod that cannot use it; the caller reports it to the core."""
        usable = self._ledger.takes(slot.node, pod)
        told = slot.state is SlotState.CLEARED
        taken = usable and self._ledger.overfull(slot.node, gang.facts(pod).shape)
        cause = "node taken" if taken else "not bound in time" if usable else "node lost"
        self.metrics.aborts.labels(cause=cause).inc()
        refused = usable and self.refused(gang, slot, pod)
        if told and usable and not taken:
            gang.given_up[slot.uid] = pod.refusal if refused else ""
            gang.wanted.discard(slot.uid)
        if told and not pod.gated and gang.pinned(pod) is None:
            self._work.start(self._nominate(pod, "", ""))
        if refused:
            self._keep_off(gang, slot, pod, now_s)
        self._tables.give_back(gang, [slot], now_s, cause)
        if gang.given_up_in == slot.plan.generation:
            return
        gang.given_up_in = slot.plan.generation
        gang.refusals.num_plans += refused
        again = refused and is_of_nodes(pod.refusal) and gang.refusals.num_plans < MANY_PLANS
        if usable and not again:
            self._back_off(gang, now_s)
        if told and self._work.active:
            pinned = usable and gang.pinned(pod) is not None
            then = "set aside" if pinned else "planned again"
            self.telling.event(
                gang, "Replanned", f"{pod.metadata.name}: {cause} on {slot.node}; {then}"
            )

    def _back_off(self, gang: LiveGang, now_s: float) -> None:
        """Leave a gang alone for a while whose plan failed though its nodes may be used."""
        gang.num_aborts += 1
        pause_s = min(LONGEST_PAUSE_S, 5.0 * 2.0 ** min(gang.num_aborts, 10))
        # those that were refused together come back apart
        gang.hold_until_s = now_s + pause_s * random.uniform(1.0 - JITTER, 1.0)
        self._work.look_again(gang.key, gang.hold_until_s)
        if gang.not_told:
            gang.trouble, gang.not_told = gang.not_told, ""
            self.telling.event(gang, "NotReleased", gang.trouble)

    def give_up_whole(self, gang: LiveGang, slots: list[Slot], now_s: float) -> None:
        """Take back a plan of which no pod was released; the caller reports it to the core."""
        pods = [(slot, pod) for slot in slots if (pod := gang.pods.get(slot.uid)) is not None]
        usable = all(self._ledger.takes(slot.node, pod) for slot, pod in pods)
        cause = "node taken" if usable else "node lost"
        self.metrics.aborts.labels(cause=cause).inc()
        if usable:
            self._back_off(gang, now_s)
        self._tables.give_back(gang, slots, now_s, cause)
        if not gang.slots:
            self.forget_record(gang)  # or the next muster would go on with it

    def is_wanted(self, uid: str) -> None:
        """Note that its scheduler has reached a pod: a pod that was given up may get its node."""
        gang = self._tables.gangs[self._tables.key_of_pod[uid]]
        if uid in gang.given_up and uid not in gang.wanted:
            gang.wanted.add(uid)
            self._work.touch(gang.key)
            self._work.wake()

    def refused(self, gang: LiveGang, slot: Slot, pod: Pod) -> bool:
        """True if kube-scheduler refused a pod on a node with room.

        It checks more than muster does: ports, volumes, affinity to pods.
        """
        said = pod.refusal
        shape = gang.facts(pod).shape
        full = "Insufficient" in said or "Too many pods" in said
        full = full or self._ledger.overfull(slot.node, shape)
        return bool(said) and WAITS not in said and not full

    def _keep_off(self, gang: LiveGang, slot: Slot, pod: Pod, now_s: float) -> None:
        """Plan a rank elsewhere for a while than where kube-scheduler refused it."""
        refusals, odds = gang.refusals, at_odds(pod)
        refusals.is_remade = pod.metadata.controller() is not None
        refusals.said = (
            f"kube-scheduler refused pod {pod.metadata.name} on {slot.node}: {pod.refusal[:1000]}"
        ) + (f" (it asks for {odds})" if odds else "")
        self.telling.event(gang, "Refused", refusals.said)
        self.metrics.aborts.labels(cause="refused").inc()
        if not is_of_nodes(pod.refusal):
            return  # it is no better off elsewhere
        self._shun(gang, slot, shunned(pod, self._ledger.nodes[slot.node]), now_s)

    def fails_on_node(self, gang: LiveGang, slot: Slot, now_s: float) -> None:
        """Avoid a node for a while where a rank's pods fail before they start."""
        said = (
            f"pod {slot.rank.pod} failed on {slot.node} before it started, and so did the pod "
            "before it"
        )
        gang.refusals.said = said
        self.telling.event(
            gang, "Refused", f"{said}; its rank goes to another node if one has room"
        )
        self.metrics.aborts.labels(cause="refused").inc()
        self._shun(gang, slot, frozenset({("metadata.name", slot.node)}), now_s)

    def _shun(self, gang: LiveGang, slot: Slot, what: Avoid, now_s: float) -> None:
        alone = not any(one.node == slot.node and one is not slot for one in gang.slots)
        until_s = gang.refusals.keep_off(slot.rank, what, now_s, alone=alone)
        self._tables.keep_off(gang, slot.node)
        self._work.look_again(gang.key, until_s)

    def drop(self, gang: LiveGang, cause: str) -> None:
        """Give back all that a gang holds, and ask for nothing."""
        self._tables.give_back(gang, gang.slots, self._work.now_s(), cause)
        self._tables.withdraw(gang)
        self.forget_record(gang)

    def note_kept(self, gang: LiveGang) -> None:
        """Record which nodes are kept for lost ranks of a running gang, for the next leader.

        All other holders of nodes are known from the pods themselves.
        """
        slots = [s for s in gang.slots if s.state is SlotState.VACANT and not s.is_noted]
        if slots and gang.runs() and not gang.releasing and self._work.active:
            gang.releasing = True
            for slot in slots:
                slot.is_noted = True
            self._work.start(self._note_kept(gang, slots))

    async def _note_kept(self, gang: LiveGang, slots: list[Slot]) -> None:
        def unless() -> str:
            kept = any(slot.state is SlotState.VACANT for slot in slots)
            return "" if kept else "its node is no longer kept"

        code = 0
        try:
            await self.plans.write(gang, unless=unless)
        except ApiError as error:
            code = error.code
            if not unless():
                log.warning("cannot record the kept nodes: %s", error, extra={"gang": gang.name})
        finally:
            if not 400 <= code < 500:  # without an answer the record may be there all the same
                gang.only_kept = gang.only_kept or not gang.recorded
                gang.recorded = True
            gang.releasing = False
            if not gang.slots:
                self.forget_record(gang)
            self.tell(gang)  # the pod that comes after it may be there by now
            self._work.touch(gang.key)
            self._work.wake()

    def forget_record(self, gang: LiveGang) -> None:
        """Delete a gang's plan record once the pods themselves say all of it."""
        if not gang.recorded or gang.releasing or not gang.is_placed():
            return
        gang.recorded = False
        if self._tables.names.get(gang.name, gang) is gang:  # else it is another's by now
            self.erase(gang.name)

    def erase(self, name: str) -> None:
        """Delete a plan record, unless it may now belong to another leader or another gang."""
        other = self._tables.names.get(name)
        if self._work.active and not (other is not None and other.recorded):
            self._work.start(self.plans.erase(name, lambda: self._work.active))

    def note_least(self, gang: LiveGang, need: int) -> None:
        """Write on pods that fewer are now enough than were released together.

        A restarted muster believes the lowest number.
        """
        bound = [slot for slot in gang.slots if slot.is_bound and not gang.is_going(slot)]
        for slot in bound[:MOST_NOTED]:
            pod = gang.pods.get(slot.uid)
            plan = pod.metadata.annotations.get(PLAN) if pod is not None else None
            if pod is not None and plan and self._work.active:
                self.poke(pod, f"{plan.partition(TOGETHER)[0]}{TOGETHER}{need}")

    def poke(self, pod: Pod, text: str) -> None:
        """Make the scheduler retry a pod that it may now bind."""
        if pod.metadata.namespace != SYSTEM:
            self._work.start(self._poke(pod, text))

    async def _poke(self, pod: Pod, text: str) -> None:
        try:
            await self.lanes.poke(pod, text)
        except ApiError as error:
            log.info("pod not woken or not released: %s", error, extra={"pod": pod.where})

    def delete(self, gang: LiveGang, pod: Pod) -> None:
        """Delete a pod so that its owner recreates it."""
        uid = pod.metadata.uid
        again_s, _ = self._not_deleted.get(uid, (0.0, 0.0))
        if self._work.active and uid not in self._deleting and self._work.now_s() >= again_s:
            self._deleting.add(uid)
            gang.sent_away = True
            self._work.start(self._delete(gang, pod))

    async def _delete(self, gang: LiveGang, pod: Pod) -> None:
        try:
            await self.lanes.delete(pod)
        except ApiError as error:
            about = {"gang": gang.name, "pod": pod.where}
            log.warning("pod not deleted: %s", error, extra=about)
            _, pause_s = self._not_deleted.pop(pod.metadata.uid, (0.0, 1.0))
            again_s = self._work.now_s() + pause_s
            if len(self._not_deleted) >= MOST_NOT_DELETED:
                self._not_deleted.clear()
            pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)
            self._not_deleted[pod.metadata.uid] = again_s, pause_s
            self._work.look_again(gang.key, again_s)
        finally:
            self._deleting.discard(pod.metadata.uid)
