"""Continues what a predecessor planned: its records, and pods that it pinned.

Whoever may create pods may write what looks like muster's pin. A pin without a record holds
nothing: its pod waits with its gang, like any pod whose owner wants it on one node.
"""

from __future__ import annotations

from scheduler.controller.evicting import Evicting
from scheduler.controller.membership import LiveGang
from scheduler.controller.pins import pinned_to
from scheduler.controller.plans import PlanRecord
from scheduler.controller.refusals import NODES, WAITS, is_of_nodes
from scheduler.controller.release import Release
from scheduler.controller.slots import Plan, Slot, SlotState
from scheduler.controller.successors import Successors
from scheduler.controller.suspending import Suspending
from scheduler.controller.tables import Tables
from scheduler.core.model import PodShape
from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import GangKey, Rank, rank_of


class Recovery:
    """Keeps the nodes that a predecessor promised where they still serve."""

    def __init__(
        self, tables: Tables, release: Release, evicting: Evicting, suspending: Suspending
    ) -> None:
        self._tables = tables
        self._evicting = evicting
        self._suspending = suspending
        self._work = tables.work
        self._ledger = tables.ledger
        self._release = release
        self.old_plans: dict[GangKey, list[PlanRecord]] = {}
        self._told: dict[str, GangKey] = {}  #: by uid of pods that records name: their gangs

    def read_told(self) -> set[str]:
        """Note the pods that a predecessor recorded and did not see on their nodes."""
        for key, plans in self.old_plans.items():
            self._told.update((slot.uid, key) for p in plans for slot in p.slots if not slot.ran)
        return set(self._told)

    def told_with(self, pod: Pod) -> GangKey | None:
        """Return the gang of a released pod that only a record still assigns to it.

        A pod of no group is a gang only while it is gated.
        """
        return None if pod.spec.node_name else self._told.get(pod.metadata.uid)

    def awaited(self, gang: LiveGang) -> set[Rank]:
        """Return the ranks that a predecessor recorded and that have not run since.

        Once a part of the gang ran, a rank that had a pod then may have run and succeeded since.
        """
        plans = self.old_plans.get(gang.key, ())
        runs = any(plan.started or any(slot.ran for slot in plan.slots) for plan in plans)
        ranks = (each for plan in plans for each in plan.ranks().items())
        return {rank for rank, slot in ranks if not (slot.ran or (runs and slot.uid))}

    def resume(self, gang: LiveGang, free: list[Pod], now_s: float) -> tuple[list[Pod], str]:
        """Return the pods that still need a plan, and why one of the others can only wait."""
        plans = self.old_plans.pop(gang.key, None)
        if plans is not None and self._go_on(gang, plans, free, now_s):
            free = [p for p in free if p.metadata.uid not in self._tables.slot_of]
        pinned = [p for p in free if not p.gated and gang.pinned(p)]
        if pinned:
            kept = {pod.metadata.uid for pod in pinned}
            free = [p for p in free if p.metadata.uid not in kept]
        return free, self._keep_pins(gang, pinned, now_s)

    def vacant(self, gang: LiveGang) -> list[tuple[PlanRecord, Rank, str]]:
        """Return the nodes that a predecessor kept for lost ranks, until its plans are resumed."""
        plans = (p for p in self.old_plans.get(gang.key, ()) if p.unit == gang.name)
        return [(p, rank, s.node) for p in plans for rank, s in p.ranks().items() if not s.uid]

    def keep(
        self, gang: LiveGang, vacant: list[tuple[PlanRecord, Rank, str]], now_s: float
    ) -> None:
        """Keep these nodes for a running gang, except those of ranks that now have one."""
        runs = {slot.rank.role: slot for slot in gang.slots if slot.state is SlotState.BOUND}
        successors = Successors(gang, gang.pods, [])
        end_s = now_s + self._tables.settings.timeouts.repair_s
        for plan, rank, node in vacant:
            alike = runs.get(rank.role)
            if alike is None or not self._has_room(node, alike.shape):
                continue
            made = Plan(plan.generation, len(plan.slots))
            slot = Slot(rank, node, "", made, now_s, SlotState.VACANT, f"kept by {plan.epoch}")
            slot.part, slot.shape, slot.attempt = alike.part, alike.shape, alike.attempt
            slot.is_noted = True
            if successors.has_node(slot):
                continue
            gang.slots.append(slot)
            gang.recorded = gang.only_kept = True
            gang.generation = max(gang.generation, plan.generation)
            self._tables.vacancies.resume(gang, slot, now_s)
            self._tables.unplaced[gang.key] = gang
            self._work.look_again(gang.key, end_s)
        self._tables.tell(gang, gang.asks())

    def _has_room(self, node: str, shape: PodShape) -> bool:
        """True if a node may be kept: one that is closed, or restarts, may open again."""
        ledger = self._ledger
        return node in ledger.nodes and (not ledger.usable(node) or ledger.has_room(node, shape))

    def forget(self, gang: LiveGang) -> None:
        """Erase what a predecessor planned for a gang that has ended."""
        for plan in self.old_plans.pop(gang.key, ()):
            self._release.erase(plan.unit)

    def erase_left(self) -> None:
        """Delete what a predecessor planned for gangs that no longer exist."""
        for key in self.old_plans.keys() - self._tables.gangs.keys():
            for plan in self.old_plans.pop(key):
                self._release.erase(plan.unit)

    def _go_on(
        self, gang: LiveGang, plans: list[PlanRecord], free: list[Pod], now_s: float
    ) -> bool:
        """Go on with a predecessor's plans where their nodes still serve; erase the others."""
        resumed = False
        kept = sum(not slot.is_bound for slot in gang.slots)
        self._believe(gang, plans, free)
        for plan in plans:
            ranks = {(r.role, r.number, r.pod): s for r, s in plan.ranks().items()}
            made = Plan(plan.generation, len(plan.slots))
            slots = []
            for pod in free:
                rank = rank_of(pod)
                written = ranks.get((rank.role, rank.number, rank.pod))
                shape = gang.facts(pod).shape
                if written is None or not self._ledger.serves(written.node, pod, shape):
                    continue
                told = not pod.gated and gang.pinned(pod) == written.node
                state = SlotState.RELEASED if told else SlotState.PLANNED
                where = (rank, written.node, pod.metadata.uid)
                slots.append(Slot(*where, made, now_s, state, f"written down by {plan.epoch}"))
            old = {slot.uid for slot in plan.slots}
            bound = sum(
                bool(pod.spec.node_name)
                and (not pod.metadata.deletion_timestamp or pod.metadata.uid in old)
                for pod in gang.live_pods()
            )
            if len(slots) + bound + kept < len(plan.slots) or not slots:
                if not gang.recorded:
                    self._release.erase(plan.unit)
                continue
            for slot in slots:
                if slot.is_told:
                    slot.deadline_s = now_s + self._tables.settings.timeouts.bind_s
                    self._work.look_again(gang.key, slot.deadline_s)
            self._tables.hold(gang, slots)
            gang.generation = max(gang.generation, plan.generation)
            gang.planned_s = now_s
            if plan.unit == gang.name:
                gang.recorded, gang.only_kept = True, False
            else:
                gang.old_records.append(plan.unit)
            free = [p for p in free if p.metadata.uid not in self._tables.slot_of]
            resumed = True
        return resumed

    def _believe(self, gang: LiveGang, plans: list[PlanRecord], free: list[Pod]) -> None:
        """Take pins for those of a predecessor whose pod and node it wrote down."""
        nodes = {slot.uid: slot.node for plan in plans for slot in plan.slots}
        for pod in free:
            node = pinned_to(pod)
            if node is not None and not pod.gated and nodes.get(pod.metadata.uid) == node:
                gang.pins[pod.metadata.uid] = node
                gang.look_anew(pod.metadata.uid)

    def _keep_pins(self, gang: LiveGang, pods: list[Pod], now_s: float) -> str:
        """Keep the nodes of pods that were pinned and not bound, or have the pods made anew.

        A pin cannot be changed. To delete a pod is right where it never can be bound, and where its
        owner makes another for nothing. Returns why one can only wait, or nothing.
        """
        stuck = {
            pod.metadata.uid: (pod, why)
            for pod in pods
            if (why := self._keep_pin(gang, pod, now_s))
        }
        for uid in self._to_delete(gang, [pod for pod, _ in stuck.values()]):
            self._release.delete(gang, stuck.pop(uid)[0])
        if not stuck:
            return ""
        again_s = now_s + self._tables.settings.timeouts.repair_s
        self._work.look_again(gang.key, again_s, "stuck")
        pod, why = next(iter(stuck.values()))
        text = f"pod {pod.metadata.name} is pinned to {gang.pins[pod.metadata.uid]}, {why}"
        if text != gang.problem:
            self._release.telling.event(gang, "SetAside", text)
        return text

    def _to_delete(self, gang: LiveGang, stuck: list[Pod]) -> list[str]:
        """Return the uids of pods to delete that cannot have the nodes they are pinned to."""
        found = []
        for pod in stuck:
            uid = pod.metadata.uid
            node, said = gang.pins[uid], gang.given_up.get(uid, NODES)
            if pod.metadata.controller() is None or self._tables.patience.waits(uid, node):
                continue
            # else its scheduler is late, or it would be no better off anew
            if node not in self._ledger.nodes or is_of_nodes(said):
                found.append(pod)
        if self._tables.failures.may_cost(gang, found):
            return [pod.metadata.uid for pod in found]
        lost = [pod for pod in found if not self._serves(gang, pod)]
        runs = any(slot.is_bound for slot in gang.slots)  # those are judged by themselves
        if lost and not runs and self._suspending.job_of(gang) is not None:
            self._evicting.evict_whole(gang, [(None, pod) for pod in lost])
        return []

    def _serves(self, gang: LiveGang, pod: Pod) -> bool:
        node, shape = gang.pins[pod.metadata.uid], gang.facts(pod).shape
        return self._ledger.serves(node, pod, shape)

    def _keep_pin(self, gang: LiveGang, pod: Pod, now_s: float) -> str:
        """Keep the node of a pod that was pinned and not bound; return why not, or nothing."""
        uid = pod.metadata.uid
        node = gang.pins[uid]
        shape = gang.facts(pod).shape
        full = not self._ledger.has_room(node, shape)
        if self._serves(gang, pod):
            self._tables.patience.end(uid, node)
        elif self._tables.patience.is_over(gang, uid, node) or full:
            return f"which is gone or closed{_way_out(pod)}"
        if full:
            return f"which has no room for it{_way_out(pod)}"
        said = gang.given_up.get(uid) if uid not in gang.wanted else None
        if said is not None:
            if said and not is_of_nodes(said):
                return f"and kube-scheduler refuses it on every node: {said}"
            if said:
                return f"where kube-scheduler refuses it: {said}{_way_out(pod)}"
            name = pod.spec.scheduler_name
            return (
                f"and its scheduler, {name!r}, does not bind it; it starts once its scheduler does"
            )
        gang.given_up.pop(uid, None)
        gang.wanted.discard(uid)
        plan = Plan(gang.generation, 1)
        slot = Slot(rank_of(pod), node, uid, plan, now_s, SlotState.RELEASED, "found pinned")
        slot.deadline_s = now_s + self._tables.settings.timeouts.bind_s
        self._tables.hold(gang, [slot])
        self._work.look_again(gang.key, slot.deadline_s)
        if WAITS in pod.refusal:  # said to its scheduler when the node was not the pod's
            self._release.poke(pod, f"look-{now_s:.0f}")
        return ""


def _way_out(pod: Pod) -> str:
    if pod.metadata.controller() is None:
        how = "no owner would recreate it; delete it and create it again"
    else:
        how = "its owner may count a deleted pod as a failure; delete it"
    return f", and {how} to have it planned elsewhere"
