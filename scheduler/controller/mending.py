"""Bringing a gang's units and slots in line with its pods.

Mending is level-triggered: it looks at what is, not at what happened, so that a missed or reordered
event costs a look and nothing else.
"""

from __future__ import annotations

from collections import Counter

from scheduler.controller.asking import groups
from scheduler.controller.membership import LiveGang, Slot, Unit, signature
from scheduler.controller.recovery import Recovery
from scheduler.controller.release import Release
from scheduler.controller.tables import Tables
from scheduler.controller.worldsize import misfits
from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import rank_of
from scheduler.workloads.sizes import Size, size_of, without_surplus


class Mending:
    """Mends one gang at a time."""

    def __init__(self, tables: Tables, release: Release, recovery: Recovery) -> None:
        self._tables = tables
        self._work = tables.work
        self._ledger = tables.ledger
        self._timeouts = tables.settings.timeouts
        self._release = release
        self._recovery = recovery

    def mend(self, gang: LiveGang, now_s: float) -> None:
        """Bring units and slots in line with the gang's pods.

        Raises:
            ValueError: an object that says how large the gang is cannot be read.
        """
        pods = gang.live_pods()
        if not pods:
            self._end(gang)
            return
        old, gang.size = gang.size, size_of(gang.key, pods, self._tables.find)
        if old is None and gang.size is not None:
            gang.first_look()
        gang.count_succeeded()
        if gang.size is not None and gang.size.by_role:
            pods = gang.live_pods()  # minima of roles change who goes first
        said = gang.size.conflict if gang.size is not None else ""
        if said and (old is None or old.conflict != said):
            self._release.telling.event(gang, "SizesDisagree", said)
        by_uid = {pod.metadata.uid: pod for pod in pods}
        free = self._without_slot(pods)
        for unit in list(gang.units.values()):
            if unit.slots:
                self._mend_slots(gang, unit, by_uid, free, now_s)
        free = self._without_slot(pods)
        slot_of = self._tables.slot_of
        self._adopt(
            gang, [p for p in pods if p.spec.node_name and p.metadata.uid not in slot_of], now_s
        )
        free = [
            p for p in free if p.metadata.uid not in self._tables.slot_of and not p.spec.node_name
        ]
        self._ask(gang, free, now_s)
        self._judge(gang, now_s)

    def _without_slot(self, pods: list[Pod]) -> list[Pod]:
        return [
            pod
            for pod in pods
            if pod.metadata.uid not in self._tables.slot_of and not pod.metadata.deletion_timestamp
        ]

    def _end(self, gang: LiveGang) -> None:
        """Forget a gang without pods."""
        for unit in list(gang.units.values()):
            self._release.drop_unit(gang, unit)
        self._recovery.forget(gang)
        for uid in gang.pods:
            self._ledger.drop_foreign(uid)
        gang.started_min, gang.started_roles, gang.degraded_since_s = 0, {}, 0.0
        gang.problem, gang.size = "", None
        if not gang.pods:
            self._tables.forget_gang(gang)
            self._release.telling.forget(gang)

    def _mend_slots(
        self,
        gang: LiveGang,
        unit: Unit,
        by_uid: dict[str, Pod],
        free: list[Pod],
        now_s: float,
    ) -> None:
        """Free slots whose pod ended, hand others to successors, note pods bound elsewhere."""
        if len(unit.slots) > 1 and not gang.begun():
            pairs = [(slot, by_uid.get(slot.uid)) for slot in unit.slots]
            known = [(slot, pod) for slot, pod in pairs if pod is not None]
            if any(self._is_lost(gang, unit, slot, pod, now_s) for slot, pod in known):
                # nobody knows of this plan: a part of it would start without the rest
                self._release.give_up_whole(gang, unit, known, now_s)
                return
        kept: list[Slot] = []
        changed = False
        for slot in unit.slots:
            pod = by_uid.get(slot.uid)
            if pod is None and slot.uid:
                ended_well = slot.uid in gang.succeeded
                self._empty(gang, slot, now_s)
                if ended_well or slot.given_back:
                    changed = True
                    continue
            if pod is None:
                if not self._fill(gang, unit, slot, free) and (
                    slot.attempt < gang.attempt
                    or any(_same(slot, p) for p in free)  # who cannot use it
                    or not self._ledger.usable(slot.node)
                    or now_s - slot.empty_since_s >= self._timeouts.repair_s
                ):
                    changed = True
                    continue
                kept.append(slot)
                continue
            if slot.uid in gang.resized:
                gang.resized.discard(slot.uid)
                changed = True
            if pod.spec.node_name:
                slot.bound = True
                if pod.spec.node_name != slot.node:
                    slot.node = pod.spec.node_name
                    changed = True
            elif self._is_lost(gang, unit, slot, pod, now_s):
                if not slot.asked:
                    self._release.give_up(gang, unit, slot, pod, now_s)
                    changed = True
                    continue
                self._release.find_out(gang, slot, pod)
            kept.append(slot)
        if changed and kept:
            self._tables.keep(gang, unit, kept)
        elif changed:
            unit.slots = []
            self._release.drop_unit(gang, unit)
        self._release.tell_successors(gang, unit)
        if unit.slots and unit.bound and unit.recorded and not unit.releasing:
            self._release.completed(gang, unit, now_s)

    def _is_lost(self, gang: LiveGang, unit: Unit, slot: Slot, pod: Pod, now_s: float) -> bool:
        """True if a pod cannot use its slot any more, or did not in time."""
        told = slot.released or slot.asked  # then kube-scheduler, or a look, says who has the node
        # the time of those before it says nothing of a successor that nobody told yet
        late = 0 < unit.deadline_s <= now_s and (told or slot.num_told > 0)
        if slot.refused or late or not self._ledger.takes(slot.node, pod):
            return True
        return not told and self._ledger.overfull(slot.node, gang.facts(pod).shape)

    def _empty(self, gang: LiveGang, slot: Slot, now_s: float) -> None:
        """Take a slot from a pod that is gone, and keep its node for the one that comes after."""
        self._tables.slot_of.pop(slot.uid, None)
        slot.uid, slot.empty_since_s = "", now_s
        slot.bound = slot.released = slot.asked = slot.refused = False
        self._tables.num_unbound += 1
        self._work.look_again(gang.key, now_s + self._timeouts.repair_s)

    def _fill(self, gang: LiveGang, unit: Unit, slot: Slot, free: list[Pod]) -> bool:
        """Give an empty slot to the pod of its rank, if there is one."""
        pod = next((p for p in free if not p.spec.node_name and _same(slot, p)), None)
        if pod is None or slot.attempt < gang.attempt or not self._ledger.takes(slot.node, pod):
            return False
        free.remove(pod)
        slot.uid, slot.rank = pod.metadata.uid, rank_of(pod)
        self._tables.num_unbound += 1
        self._tables.slot_of[slot.uid] = (gang, unit, slot)
        slot.num_told = 0
        return True

    def _adopt(self, gang: LiveGang, bound: list[Pod], now_s: float) -> None:
        """Count pods that run without a plan of ours: bound by others, or before muster started."""
        known = [p for p in bound if p.spec.node_name in self._ledger.nodes]
        if not known:
            return
        slots = [
            Slot(
                rank_of(p),
                p.spec.node_name,
                p.metadata.uid,
                released=True,
                bound=True,
                given_back=p.metadata.deletion_timestamp is not None,
            )
            for p in known
        ]
        self._tables.hold_new(gang, known, slots, now_s)

    def _ask(self, gang: LiveGang, free: list[Pod], now_s: float) -> None:
        """Let what has no node yet wait for one, as one request or several."""
        waiting = [unit for unit in gang.units.values() if not unit.slots]
        gang.forget_refusals(now_s)
        free = without_surplus(free, self._tables.find)
        free, stuck = self._recovery.resume(gang, free, now_s)
        if now_s >= gang.hold_until_s:
            gang.trouble = ""
        gang.problem = gang.trouble or self._problem(gang, free, now_s) or stuck
        wanted = groups(gang, free) if not gang.problem and now_s >= gang.hold_until_s else []
        for unit, (pods, num_pods) in zip(waiting, wanted, strict=False):
            self._ask_again(gang, unit, pods, num_pods)
        for pods, num_pods in wanted[len(waiting) :]:
            request = self._tables.request(gang, pods, num_pods)
            self._tables.add_unit(gang, Unit(request, tuple(p.metadata.uid for p in pods)))
            self._ledger.submit(request)
        for unit in waiting[len(wanted) :]:
            self._release.drop_unit(gang, unit)

    def _ask_again(self, gang: LiveGang, unit: Unit, pods: list[Pod], num_pods: int) -> None:
        request = self._tables.request(gang, pods, num_pods, unit.name)
        request.submit_s = min(request.submit_s, unit.request.submit_s)
        unit.uids = tuple(p.metadata.uid for p in pods)
        if signature(request) == signature(unit.request):
            return
        unit.request = request
        self._ledger.submit(request)

    def _problem(self, gang: LiveGang, free: list[Pod], now_s: float) -> str:
        """Return why the gang must not be considered; mends what can be mended."""
        if gang.size is None:
            return "the object that says how many pods it needs cannot be read yet"
        if unserved := self._unserved(gang, free):
            if unserved != gang.problem:
                self._release.telling.event(gang, "NotServed", unserved)
            return unserved
        found = misfits(gang, free, self._tables.find, now_s)
        for pod in found.remake:
            if pod.spec.node_name:
                self._release.evict(gang, pod)
            else:
                self._release.delete(gang, pod)
        if found.look_s:
            self._work.look_again(gang.key, found.look_s)
        if found.event and found.problem != gang.problem:
            self._release.telling.event(gang, found.event, found.problem)
        return found.problem

    def _unserved(self, gang: LiveGang, free: list[Pod]) -> str:
        """Return why nobody can bind a pod that asks for muster alone; nothing if muster can."""
        settings = self._tables.settings
        for pod in free:
            what = self._tables.unchecked(gang, pod)
            if what and pod.spec.scheduler_name in settings.direct_schedulers:
                return (
                    f"pod {pod.metadata.name} has {what}, which only kube-scheduler checks, "
                    f"but schedulerName {pod.spec.scheduler_name}, which it does not serve; "
                    "have the pod made anew without that schedulerName"
                )
        return ""

    def _judge(self, gang: LiveGang, now_s: float) -> None:
        """End a gang that runs in part for too long: it holds GPUs and does no work."""
        bound = [slot for _, slot in gang.slots() if slot.bound and not gang.is_going(slot)]
        # a master without a GPU that nobody gated runs early, and is in nobody's way
        holds = any(gang.facts(gang.pods[slot.uid]).shape.gpus for slot in bound)
        if gang.size is None or not holds:
            gang.degraded_since_s = 0.0
            return
        lacks = self._lacks(gang, gang.size, bound)
        if not lacks:
            gang.degraded_since_s = 0.0
            return
        if any(
            unit.slots and not unit.bound and unit.deadline_s == 0 for unit in gang.units.values()
        ):
            gang.degraded_since_s = 0.0  # being released just now
            return
        repair_s = self._timeouts.repair_s
        if not gang.degraded_since_s:
            gang.degraded_since_s = now_s
            self._work.look_again(gang.key, now_s + repair_s)
            return
        if now_s - gang.degraded_since_s < repair_s or not self._work.active:
            return
        gang.degraded_since_s = now_s
        self._work.look_again(gang.key, now_s + repair_s)
        if self._plan_anew(gang):
            return
        self._release.metrics.aborts.labels(cause="degraded").inc()
        self._release.telling.event(
            gang, "Evicted", f"{lacks} ran for {repair_s:.0f} s without the others"
        )
        for _, slot in gang.slots():
            slot.given_back = slot.bound  # what comes after its pod waits for the whole gang
            if slot in bound:
                self._release.evict(gang, gang.pods[slot.uid], slot)

    def _plan_anew(self, gang: LiveGang) -> bool:
        """Let go of nodes on which kube-scheduler does not want the rest; True if there are any.

        To end those that run would free what the rest is refused for, and so on for ever.
        """
        found = False
        for _, slot in gang.slots():
            pod = gang.pods.get(slot.uid)
            if (
                pod is None
                or slot.bound
                or slot.refused
                or not self._release.refused(gang, slot, pod)
            ):
                continue
            found = slot.refused = True
        if found:
            self._work.touch(gang.key)
            self._work.wake()
        return found

    def _lacks(self, gang: LiveGang, size: Size, bound: list[Slot]) -> str:
        """Return what of the gang's minimum does not run; notes the minimum when all of it does.

        A job that runs and is then asked to grow goes on as it is until there is room.
        """
        roles = Counter(slot.rank.role for slot in bound)
        roles.update(done.rank.role for done in gang.succeeded.values())
        started = gang.started_roles
        by_role = {
            role: min(least, started.get(role, least if not started else 0))
            for role, least in size.by_role
        }
        for role, least in by_role.items():
            if roles[role] < least:
                return f"{roles[role]} of {least} pods of role {role.lstrip('!')}"
        need = min(size.min_member, gang.started_min or size.min_member)
        if len(bound) + gang.num_succeeded < need:
            return f"{len(bound)} of {need} pods"
        gang.started_min, gang.started_roles = need, by_role
        return ""


def _same(slot: Slot, pod: Pod) -> bool:
    rank = rank_of(pod)
    return (slot.rank.role, slot.rank.number) == (rank.role, rank.number) and (
        slot.rank.pod == rank.pod or bool(rank.number)
    )
