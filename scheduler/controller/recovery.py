"""Going on with what a predecessor planned: its records, and pods that it pinned.

Whoever may create pods may write what looks like a pin of muster's. One that no record names holds
nothing: its pod waits with its gang, as any pod does whose owner wants it on one node.
"""

from __future__ import annotations

from scheduler.controller.membership import LiveGang
from scheduler.controller.pins import pinned_to
from scheduler.controller.plans import PlanRecord
from scheduler.controller.release import Release
from scheduler.controller.slots import Plan, Slot, SlotState
from scheduler.controller.tables import Tables
from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import GangKey, rank_of


class Recovery:
    """Keeps the nodes that a predecessor promised where they still serve."""

    def __init__(self, tables: Tables, release: Release) -> None:
        self._tables = tables
        self._work = tables.work
        self._ledger = tables.ledger
        self._release = release
        self.old_plans: dict[GangKey, list[PlanRecord]] = {}

    def resume(self, gang: LiveGang, free: list[Pod], now_s: float) -> tuple[list[Pod], str]:
        """Return the pods that still need a plan, and why one of the others can only wait."""
        plans = self.old_plans.pop(gang.key, None)
        if plans is not None and self._go_on(gang, plans, free, now_s):
            free = [p for p in free if p.metadata.uid not in self._tables.slot_of]
        pinned = [p for p in free if not p.gated and gang.pinned(p)]
        stuck = [self._keep_pin(gang, pod, now_s) for pod in pinned]
        if pinned:
            kept = {pod.metadata.uid for pod in pinned}
            free = [p for p in free if p.metadata.uid not in kept]
        return free, next(filter(None, stuck), "")

    def forget(self, gang: LiveGang) -> None:
        """Erase what a predecessor planned for a gang that has ended."""
        for plan in self.old_plans.pop(gang.key, ()):
            self._release.erase(plan.unit)

    def _go_on(
        self, gang: LiveGang, plans: list[PlanRecord], free: list[Pod], now_s: float
    ) -> bool:
        """Go on with a predecessor's plans where their nodes still serve; erase the others."""
        resumed = False
        self._believe(gang, plans, free)
        for plan in plans:
            ranks = {(r.role, r.number, r.pod): s for r, s in plan.ranks().items()}
            made = Plan(plan.generation, len(plan.slots))
            slots = []
            for pod in free:
                rank = rank_of(pod)
                written = ranks.get((rank.role, rank.number, rank.pod))
                if written is None or not self._ledger.takes(written.node, pod):
                    continue
                told = not pod.gated and gang.pinned(pod) == written.node
                state = SlotState.RELEASED if told else SlotState.PLANNED
                where = (rank, written.node, pod.metadata.uid)
                slots.append(Slot(*where, made, now_s, state, f"written down by {plan.epoch}"))
            bound = sum(1 for p in gang.live_pods() if p.spec.node_name)
            if len(slots) + bound < len(plan.slots) or not slots:
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
                gang.recorded = True
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

    def _keep_pin(self, gang: LiveGang, pod: Pod, now_s: float) -> str:
        """Keep the node of a pod that was pinned and not bound, or have the pod made anew.

        A pin cannot be changed. Returns why the pod can only wait, or nothing.
        """
        uid, owned = pod.metadata.uid, pod.metadata.controller() is not None
        node = gang.pins[uid]
        if not self._ledger.takes(node, pod):
            wrong = "is gone or closed"
        elif not self._ledger.has_room(node, gang.facts(pod).shape):
            wrong = "has no room for it"
        elif owned and uid in gang.given_up:
            wrong = "did not get it in time"
        else:
            plan = Plan(gang.generation, 1)
            slot = Slot(rank_of(pod), node, uid, plan, now_s, SlotState.RELEASED, "found pinned")
            slot.deadline_s = now_s + self._tables.settings.timeouts.bind_s
            self._tables.hold(gang, [slot])
            self._work.look_again(gang.key, slot.deadline_s)
            return ""
        if owned:
            self._release.delete(gang, pod)
            return ""
        self._work.look_again(gang.key, now_s + self._tables.settings.timeouts.repair_s)
        return (
            f"pod {pod.metadata.name} is pinned to {node}, which {wrong}, and has no owner that "
            "would make it anew; delete it and create it again to have it planned elsewhere"
        )
