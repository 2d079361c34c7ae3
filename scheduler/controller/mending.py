"""Reconciles a gang's slots with its pods.

This is level-triggered: it reads the present state, not the events, so that a missed or reordered
event costs one extra reconciliation and nothing else.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from scheduler.controller.asking import wanted
from scheduler.controller.evicting import Evicting, Pods
from scheduler.controller.membership import Lane, LiveGang
from scheduler.controller.parts import Wanted
from scheduler.controller.recovery import Recovery
from scheduler.controller.release import Release
from scheduler.controller.slots import Plan, Slot, SlotState
from scheduler.controller.successors import Given, Succession, Successors
from scheduler.controller.tables import Tables
from scheduler.controller.worldsize import misfits
from scheduler.kube.objects import SAVED, Pod
from scheduler.workloads.completed import Completed, completed
from scheduler.workloads.eligibility import Avoid
from scheduler.workloads.gangs import rank_of, shown
from scheduler.workloads.sizes import Size, asked_of, size_of, without_surplus

FIRST_IN = 10.0  #: gangs of a namespace that lost ranks come first for one in so many `repair_s`
LOOK_S = 60.0  #: schedulers that come later, and room in a budget, are noticed after so long


class Mending:
    """Reconciles one gang at a time."""

    def __init__(
        self, tables: Tables, release: Release, evicting: Evicting, recovery: Recovery
    ) -> None:
        self._tables = tables
        self._work = tables.work
        self._ledger = tables.ledger
        self._timeouts = tables.settings.timeouts
        self._release = release
        self._evicting = evicting
        self._recovery = recovery
        self._succession = Succession(tables, release)
        #: by namespace: since when gangs of it that lost ranks come first
        self._first_since_s: dict[str, float] = {}

    def mend(self, gang: LiveGang, now_s: float) -> None:
        """Reconcile a gang's slots with its pods, and request what it lacks.

        Raises:
            ValueError: an object that defines the gang's size cannot be read.
        """
        pods = gang.live_pods()
        if not pods:
            self._end(gang, now_s)
            return
        if gang.is_another_run(pods):
            self._end(gang, now_s)
        # those that end count for nobody: others of their ranks may be there already
        staying = [pod for pod in pods if not pod.metadata.deletion_timestamp] or pods
        find, unread = self._tables.find, self._tables.unread
        old, gang.size = gang.size, size_of(gang.key, staying, find, unread)
        done = self._completed(gang, staying)
        if old is None and gang.size is not None:
            asked = asked_of(staying[0], find)  # it may have shrunk by some of those
            awaited = {
                rank
                for rank in self._recovery.awaited(gang)
                if rank.number < asked.get(rank.role, gang.size.total)
            }
            gang.first_look(awaited, knows_all=done is not None)
            # whoever may change pods may have them look so: only what was written down is believed
            gang.sent_away = gang.sent_away and self._tables.ages.knows(gang.key)
        gang.count_succeeded(done or frozenset())
        if gang.size is not None and gang.size.by_role:
            pods = gang.live_pods()  # minima of roles change who goes first
        said = gang.size.conflict if gang.size is not None else ""
        if said and (old is None or old.conflict != said):
            self._release.telling.event(gang, "SizesDisagree", said)
        if vacant := self._recovery.vacant(gang):
            self._adopt(gang, pods, now_s)
            self._recovery.keep(gang, vacant, now_s)
        self._mend_slots(gang, pods, now_s)
        self._adopt(gang, pods, now_s)
        self._note_saved(gang, now_s)
        gang.mends = self._comes_first(gang, now_s)
        free = [pod for pod in self._without_slot(pods) if not pod.spec.node_name]
        self._ask(gang, free, now_s)
        self._release.tell(gang)
        self._release.note_kept(gang)
        if gang.recorded and gang.slots and gang.is_placed() and not gang.releasing:
            if gang.only_kept:
                self._release.forget_record(gang)
            else:
                self._release.completed(gang, now_s)
        if gang.sent_away:
            self._tables.ages.note(gang)
        self._judge(gang, now_s)

    def _completed(self, gang: LiveGang, pods: list[Pod]) -> Completed | None:
        """Return the ranks that are done by the word of the gang's owner; None if none says."""
        if gang.size is None or len(pods) + len(gang.succeeded) >= gang.size.total:
            return frozenset()  # none is missing
        return completed(gang.key, pods[0], gang.size, self._tables.find)

    def let_go(self, gang: LiveGang, now_s: float) -> None:
        """Count only what pods hold; reads no object of a gang that cannot be read."""
        before = [slot.node for slot in gang.slots]
        pods = [pod for pod in gang.live_pods() if _is_readable(gang, pod)]
        successors = Successors(gang, {pod.metadata.uid: pod for pod in pods}, [])
        given = Given()
        for slot in gang.slots:
            pod = gang.pods.get(slot.uid)
            is_gone = pod is None or pod.ended
            if slot.uid and is_gone:
                given[self._succession.empty(gang, slot, successors, now_s)].append(slot)
            elif pod is not None and pod.spec.node_name:
                slot.bound(now_s, pod.spec.node_name)
            if slot.state is SlotState.VACANT and self._succession.is_over(gang, slot, now_s):
                given["no successor came"].append(slot)
        self._succession.give_back(gang, given, now_s)
        self._succession.keep_within(gang, now_s)
        if self._end_overdue(gang, now_s) or [slot.node for slot in gang.slots] != before:
            self._tables.tell(gang, Wanted([]))
        self._adopt(gang, pods, now_s)

    def _end_overdue(self, gang: LiveGang, now_s: float) -> bool:
        """Let nobody wait for pods that should be gone and are not; True if there are any.

        They are in the way as pods of no gang are, and their gang holds their nodes no longer.
        """
        found = False
        for slot in gang.slots:
            pod = gang.pods.get(slot.uid) if slot.is_bound else None
            if pod is None or pod.metadata.deletion_timestamp is None:
                continue
            if self._tables.leaving.is_overdue(pod):
                found = True
                if slot.state is SlotState.BOUND:
                    slot.ending(now_s, "its pod should be gone by now")
        return found

    def _without_slot(self, pods: list[Pod]) -> list[Pod]:
        slot_of = self._tables.slot_of
        return [
            pod
            for pod in pods
            if (meta := pod.metadata).uid not in slot_of and not meta.deletion_timestamp
        ]

    def _end(self, gang: LiveGang, now_s: float) -> None:
        """Forget a gang without pods."""
        self._release.drop(gang, "no pod of its gang is left")
        self._recovery.forget(gang)
        for uid in gang.pods:
            self._ledger.drop_foreign(uid)
        gang.started_min, gang.started_roles, gang.degraded_since_s = 0, {}, 0.0
        gang.begun_min = 0
        gang.lacks_since_s, gang.mends = inf, False
        gang.later = []
        self._tables.ages.end(gang)
        gang.problem, gang.size = "", None
        if not gang.pods:
            self._tables.forget_gang(gang)
            self._release.telling.forget(gang)

    def _comes_first(self, gang: LiveGang, now_s: float) -> bool:
        """True if a gang lacks ranks of late: it gets nodes for them before others start.

        Not for longer than it is mended: one that may not be evicted would be first for good. Nor
        for more than a part of all time, whatever its namespace does with its pods.
        """
        if not gang.lacks():
            gang.lacks_since_s = inf
            return False
        if gang.lacks_since_s == inf:  # that it was hard to start it, or to let it grow, is past
            gang.lacks_since_s, gang.num_aborts, gang.hold_until_s = now_s, 0, 0.0
        repair_s, namespace = self._timeouts.repair_s, gang.key.namespace
        if now_s - gang.lacks_since_s >= repair_s:
            return False
        began_s = self._first_since_s.get(namespace, -inf)
        if now_s - began_s >= FIRST_IN * repair_s:
            self._first_since_s.pop(namespace, None)  # the latest come last
            self._first_since_s[namespace] = began_s = now_s
            self._forget_first(now_s - FIRST_IN * repair_s)
        is_first = now_s - began_s < repair_s
        if is_first:
            self._work.look_again(gang.key, began_s + repair_s, "first")
        return is_first

    def _forget_first(self, before_s: float) -> None:
        """Forget the namespaces whose gangs came first too long ago to count."""
        for namespace, began_s in list(self._first_since_s.items()):
            if began_s > before_s:
                return
            del self._first_since_s[namespace]

    def _mend_slots(self, gang: LiveGang, pods: list[Pod], now_s: float) -> None:
        """Free slots whose pod ended, hand others to successors, note pods bound elsewhere."""
        gang.waits = None
        by_uid = {pod.metadata.uid: pod for pod in pods}
        # what a pod with another's gate asks for may change yet: its node is kept, and not told
        free = [pod for pod in self._without_slot(pods) if not pod.held_by]
        if not gang.begun():
            unknown = [s for s in gang.slots if s.state in (SlotState.PLANNED, SlotState.VACANT)]
            known = [(slot, by_uid.get(slot.uid)) for slot in unknown]
            if len(unknown) > 1 and any(
                pod is not None and self._is_lost(gang, slot, pod, now_s) for slot, pod in known
            ):
                # nobody knows of this plan: a part of it would start without the rest
                self._release.give_up_whole(gang, unknown, now_s)
            elif self._wait_for_the_rest(gang, unknown, now_s):
                self._tables.give_back(gang, unknown, now_s, "the rest got no nodes in time")
        successors = Successors(gang, by_uid, free)
        given = Given()
        leaves = False
        for slot in list(gang.slots):
            pod = by_uid.get(slot.uid)
            if pod is None and slot.uid:
                given[self._succession.empty(gang, slot, successors, now_s)].append(slot)
            if slot.state is SlotState.VACANT:
                given[self._succession.fill(gang, slot, successors, now_s)].append(slot)
            elif pod is not None and (node := pod.spec.node_name):
                if not slot.is_bound or slot.node != node:
                    slot.bound(now_s, node)
                leaves = leaves or pod.metadata.deletion_timestamp is not None
            elif pod is not None:
                self._try(gang, slot, pod, now_s)
        self._succession.give_back(gang, given, now_s)
        self._succession.fill_instead(gang, successors, now_s)
        if leaves:
            self._end_overdue(gang, now_s)
        self._succession.keep_within(gang, now_s)
        if gang.request is not None and gang.request.nodes:
            self._tables.tell(gang, gang.asks())

    def _wait_for_the_rest(self, gang: LiveGang, slots: list[Slot], now_s: float) -> bool:
        """True if pods that came again have nodes, and others that start with them got none yet.

        Their nodes are kept for as long as for a pod to come.
        """
        since_s = [slot.since_s for slot in slots if slot.uid and not slot.num_told]
        if not since_s or gang.is_whole():
            return False
        end_s = min(since_s) + self._timeouts.repair_s
        self._work.look_again(gang.key, end_s)
        return end_s <= now_s

    def _try(self, gang: LiveGang, slot: Slot, pod: Pod, now_s: float) -> None:
        """Take a slot from a pod that cannot use it, once it is known not to be bound."""
        if not self._is_lost(gang, slot, pod, now_s):
            if slot.state is SlotState.CLEARED:
                slot.trusted(now_s)
        elif slot.state in (SlotState.TELLING, SlotState.RELEASED):
            self._release.find_out(gang, slot, pod)
        else:
            self._release.give_up(gang, slot, pod, now_s)

    def _is_lost(self, gang: LiveGang, slot: Slot, pod: Pod, now_s: float) -> bool:
        """True if a pod cannot use its slot any more, or did not in time."""
        told = slot.is_told  # then kube-scheduler, or a look, says who has the node
        patience = self._tables.patience
        if not self._ledger.serves(slot.node, pod, slot.shape):
            pinned = told and gang.pins.get(slot.uid) == slot.node
            return not pinned or patience.is_over(gang, slot.uid, slot.node)
        if patience.since and told and patience.end(slot.uid, slot.node):
            slot.deadline_s = now_s + self._timeouts.bind_s  # nobody could bind it
            self._work.look_again(gang.key, slot.deadline_s)
        if 0 < slot.deadline_s <= now_s and self._is_late(gang, slot, pod, now_s):
            return True
        if told:
            return False
        if self._release.binds_alone(pod) and self._tables.kept_off(gang, slot.node):
            return True
        return self._ledger.overfull(slot.node, gang.facts(pod).shape)

    def _is_late(self, gang: LiveGang, slot: Slot, pod: Pod, now_s: float) -> bool:
        """True if a pod whose time is over did not get its node, and not as others are late."""
        if not slot.is_told:
            return slot.num_told > 0
        if slot.is_void or self._release.refused(gang, slot, pod):
            return True
        if self._ledger.overfull(slot.node, gang.facts(pod).shape):
            return True  # its node was taken: no scheduler has room for it there
        own = slot.state is SlotState.TELLING or self._release.lane(gang, slot) is Lane.DIRECT
        if own and not slot.num_writing:  # muster's write was refused, or not answered
            return True
        if slot.num_writing:  # its bind is under way
            slot.deadline_s = now_s + self._timeouts.bind_s
        elif self._tables.progress.is_late(
            pod.spec.scheduler_name, slot, now_s, pod.spec.priority, others=gang.waits_for_rest()
        ):
            return True
        self._work.look_again(gang.key, slot.deadline_s)
        return False

    def _adopt(self, gang: LiveGang, pods: list[Pod], now_s: float) -> None:
        """Count pods that run without a plan of ours: bound by others, or before muster started.

        Also those on nodes of which nothing was heard yet.
        """
        slots = []
        for pod in pods:
            uid, node = pod.metadata.uid, pod.spec.node_name
            if not node or uid in self._tables.slot_of:
                continue
            ends = pod.metadata.deletion_timestamp is not None
            state = SlotState.ENDING if ends else SlotState.BOUND
            plan = Plan(gang.generation, 0)
            slots.append(Slot(rank_of(pod), node, uid, plan, now_s, state, "found there"))
        if slots:
            self._tables.hold(gang, slots)

    def _note_saved(self, gang: LiveGang, now_s: float) -> None:
        """Believe the latest time that the pods say, if it is one since the gang was admitted."""
        for slot in gang.slots:
            pod = gang.pods.get(slot.uid) if slot.state is SlotState.BOUND else None
            if pod is not None and SAVED in pod.metadata.annotations:
                saved_s = pod.saved_unix_s - self._work.zero_unix_s
                if gang.admitted_s <= saved_s <= now_s:
                    gang.saved_s = max(gang.saved_s, saved_s)

    def _ask(self, gang: LiveGang, free: list[Pod], now_s: float) -> None:
        """Let what has no node yet wait for one."""
        gang.refusals.forget_past(now_s)
        gang.avoids = self._avoids(gang, free, now_s)
        free = without_surplus(free, self._tables.find)
        there = [pod for pod in free if not pod.spec.scheduling_gates or not pod.held_by]
        held_by = self._held_by(gang, free, there)
        free, stuck = self._recovery.resume(gang, there, now_s)
        if now_s >= gang.hold_until_s:
            gang.trouble = ""
        gang.problem = gang.trouble or held_by or self._problem(gang, free, now_s) or stuck
        asks = Wanted([])
        if not gang.problem and now_s >= gang.hold_until_s:
            asks = wanted(gang, free)
        gang.later = [pod.metadata.uid for pod in reversed(asks.later)]
        self._tables.tell(gang, asks)

    def _held_by(self, gang: LiveGang, free: list[Pod], there: list[Pod]) -> str:
        """Return whose gates a gang needs off first, if it does.

        Until then nobody can bind the pods, and what they ask for may change with the gate.
        """
        if len(there) == len(free) or gang.size is None:
            return ""
        if gang.num_placed() + len(there) >= gang.size.min_member:
            return ""  # the others come later, as any do
        gates = sorted({pod.held_by for pod in free} - {""})
        text = (
            f"its pods have the scheduling gate {shown(gates[0])}, which is not muster's; muster "
            "plans them once that gate is removed"
        )
        if text != gang.problem:
            self._release.telling.event(gang, "HeldByOthers", text)
        return text

    def _avoids(self, gang: LiveGang, free: list[Pod], now_s: float) -> Avoid:
        """Return where neighbours keep pods off that nobody but muster binds."""
        alone = self._tables.settings.direct_schedulers
        if not alone or {pod.spec.scheduler_name for pod in free}.isdisjoint(alone):
            return frozenset()
        self._tables.look_at_neighbours(gang)
        if gang.kept_off:  # those may go
            self._work.look_again(gang.key, now_s + LOOK_S, "regularly")
        return gang.kept_off

    def _problem(self, gang: LiveGang, free: list[Pod], now_s: float) -> str:
        """Return why the gang must not be considered; mends what can be mended."""
        if gang.size is None:
            return "the object that says how many pods it needs cannot be read yet"
        if much := self._too_much(gang, free, now_s):
            if much != gang.problem:
                self._release.telling.event(gang, "TooMuch", much)
            return much
        if unserved := self._unserved(gang, free):
            if unserved != gang.problem:
                self._release.telling.event(gang, "NotServed", unserved)
            return unserved
        found = misfits(gang, free, self._tables.find, now_s)
        early: Pods = [(None, pod) for pod in found.remake if pod.spec.node_name]
        if early:
            self._evicting.evict_whole(gang, early)
        for pod in found.remake:
            if not pod.spec.node_name:
                self._release.delete(gang, pod)
        if found.look_s:
            self._work.look_again(gang.key, found.look_s)
        if found.event and found.problem != gang.problem:
            self._release.telling.event(gang, found.event, found.problem)
        return found.problem

    def _too_much(self, gang: LiveGang, free: list[Pod], now_s: float) -> str:
        """Return why to look at these pods would take work that others would wait for."""
        kinds = set()
        for pod in free:
            known = gang.facts(pod)
            kinds.add(known.alike)
            if known.excess:
                return f"pod {pod.metadata.name} has {known.excess}"
        much = self._tables.budget.count(gang, frozenset(kinds), self._ledger.classes.num_classes)
        if much:
            self._work.look_again(gang.key, now_s + LOOK_S, "regularly")
        return much

    def _unserved(self, gang: LiveGang, free: list[Pod]) -> str:
        """Return why nobody would bind a pod, were it told of a node; nothing if somebody would.

        Once it is told, its node is kept for it, and neither its node nor its scheduler can be
        changed.
        """
        alone, served = self._tables.settings.direct_schedulers, self._tables.schedulers
        named = {pod.spec.scheduler_name for pod in free}
        if named <= served and named.isdisjoint(alone):
            return ""
        for pod in free:
            if pod.spec.scheduler_name not in served:
                self._work.look_again(gang.key, self._work.now_s() + LOOK_S, "regularly")
                return (
                    f"pod {pod.metadata.name} names scheduler {shown(pod.spec.scheduler_name)}, "
                    "which muster has never seen bind a pod here; recreate the pod with another "
                    "schedulerName, or add this one to `schedulers` in muster's settings"
                )
            if pod.spec.scheduler_name in alone and (what := self._tables.unchecked(gang, pod)):
                self._work.look_again(gang.key, self._work.now_s() + LOOK_S, "regularly")
                return (
                    f"pod {pod.metadata.name} has {what}, which only kube-scheduler checks, but "
                    f"schedulerName {pod.spec.scheduler_name}, which it does not serve; recreate "
                    "the pod without that schedulerName"
                )
        return ""

    def _judge(self, gang: LiveGang, now_s: float) -> None:
        """End a gang that runs in part for too long: it holds GPUs and does no work."""
        pods = gang.pods
        bound = [
            slot
            for slot in gang.slots
            if slot.is_bound
            and ((pod := pods.get(slot.uid)) is None or pod.metadata.deletion_timestamp is None)
        ]
        # a master without a GPU that nobody gated runs early, and is in nobody's way
        holds = any(gang.facts(gang.pods[slot.uid]).shape.gpus for slot in bound)
        if gang.size is None or not holds:
            gang.degraded_since_s = 0.0
            return
        lacks = self._lacks(gang, gang.size, bound)
        if not lacks:
            gang.degraded_since_s, gang.kept_by = 0.0, ""
            if gang.sent_away and all(slot.state is SlotState.BOUND for slot in bound):
                gang.sent_away = False  # it may stay after all, or is whole again
            if not gang.sent_away:
                self._tables.ages.forget(gang.key)
            return
        if gang.releasing:
            return  # what comes of it is known soon; it is looked at then
        if self._awaits(gang, now_s) or not gang.is_known_whole(bound):
            gang.degraded_since_s = 0.0
            return
        repair_s = self._timeouts.repair_s
        if not gang.degraded_since_s:
            gang.degraded_since_s, gang.evict_at_s = now_s, now_s + repair_s
            self._work.look_again(gang.key, gang.evict_at_s)
            return
        if now_s < gang.evict_at_s or not self._work.active:
            return
        if (left_s := repair_s - self._work.waited_s(gang.degraded_since_s)) > 0:
            self._work.look_again(gang.key, now_s + left_s, "away")
            return
        gang.evict_at_s = now_s + repair_s
        self._work.look_again(gang.key, gang.evict_at_s)
        if self._plan_anew(gang, now_s):
            return
        gang.why_evicted = f"{lacks} ran for {repair_s:.0f} s without the others"
        ending: Pods = []
        for slot in gang.slots:
            if slot.state is SlotState.BOUND:  # what comes after its pod waits for the whole gang
                slot.ending(now_s)
                ending.append((slot, gang.pods[slot.uid]))
        if ending:
            self._evicting.evict_whole(gang, ending)
        self._tables.tell(gang, gang.asks())

    def _awaits(self, gang: LiveGang, now_s: float) -> bool:
        """True if its scheduler may yet bind a pod of a gang: it is late, and nothing is lost.

        Nobody binds one of which muster may not write where it goes, however often it is planned.
        """
        return any(
            slot.is_told
            and not slot.is_denied
            and slot.deadline_s > now_s
            and (pod := gang.pods.get(slot.uid)) is not None
            and not self._release.refused(gang, slot, pod)
            for slot in gang.slots
        )

    def _plan_anew(self, gang: LiveGang, now_s: float) -> bool:
        """Let go of nodes on which kube-scheduler does not want the rest; True if there are any.

        To end those that run would free what the rest is refused for, and so on for ever.
        """
        found = False
        for slot in gang.slots:
            pod = gang.pods.get(slot.uid)
            waits = slot.is_told and slot.deadline_s > now_s
            if pod is not None and waits and self._release.refused(gang, slot, pod):
                slot.deadline_s, found = now_s, True
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
        roles.update(role for _, role, _ in gang.completed)
        started, need = gang.started_roles, gang.least()
        runs = len(bound) + gang.num_succeeded
        by_role = {
            role: min(least, started.get(role, least if not started else 0))
            for role, least in size.by_role
        }
        if not gang.started_min and need < size.min_member and runs >= need:
            # it has grown since a predecessor started it: whole with what it was found with
            by_role = {role: min(least, roles[role]) for role, least in by_role.items()}
        for role, least in by_role.items():
            if roles[role] + gang.presumed < least:
                return f"{roles[role]} of {least} pods of role {role.lstrip('!')}"
        if runs < need:
            return f"{len(bound)} of {need} pods"
        if need < (gang.started_min or gang.begun_min):
            self._release.note_least(gang, need)
        gang.started_min, gang.started_roles = need, by_role
        return ""


def _is_readable(gang: LiveGang, pod: Pod) -> bool:
    try:
        gang.facts(pod)
    except ValueError:
        return False
    return True
