"""The single writer: facts in, decisions out, all on one event loop.

Informers call `on_pod`, `on_node` and `on_thing`; the next step reconciles the gangs that they
touched, then lets the core decide. `work` holds the gangs to reconcile, `tables` what is known,
`mending` reconciles a gang with its pods, `deciding` asks the core, `release` carries plans out,
`recovery` continues old ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from math import inf

from scheduler.controller.deciding import Deciding
from scheduler.controller.evicting import Evicting
from scheduler.controller.lanes import Lanes
from scheduler.controller.leaving import Lasts
from scheduler.controller.membership import LiveGang
from scheduler.controller.mending import Mending
from scheduler.controller.metrics import Metrics
from scheduler.controller.mirror import Ledger
from scheduler.controller.plans import PlanRecords
from scheduler.controller.rates import Rates
from scheduler.controller.recovery import Recovery
from scheduler.controller.release import Release
from scheduler.controller.settings import LiveSettings
from scheduler.controller.suspending import Suspending
from scheduler.controller.tables import Tables
from scheduler.controller.telling import Telling
from scheduler.controller.work import Work
from scheduler.core.model import PodShape
from scheduler.core.times import to_s
from scheduler.kube.api import Api
from scheduler.kube.devices import DeviceClass, ResourceClaim, ResourceSlice
from scheduler.kube.objects import IGNORE, SAVED, NodeObject, Pod, Thing
from scheduler.kube.watch import Change
from scheduler.workloads.gangs import GangKey, Source, has_done_its_work, key_of
from scheduler.workloads.requests import pod_shape, resized

log = logging.getLogger("muster.controller")
TURN_S = 0.015  #: a step gives others their turn after so long
AGAIN_S = 1.0  #: after a step in which nothing could be decided
MOST_SAID = 1000  #: characters of what is wrong with a gang
LINES = 20.0  #: of gangs set aside that one namespace may fill the log with, and again per minute
WAKE_S = 1.0  #: lone pods are woken so many at once, and more after so long
MOST_WOKEN, FEW_WOKEN = 100, 10  #: the latter also where the core sees no room
SORTED = (Source.JOB, Source.JOBSET, Source.LEADER_WORKER_SET, Source.LONE)  #: as an object says
SET_ASIDE_S = 60.0  #: a gang that cannot be read or decided is tried again after so long


class Controller:
    """All gangs of the cluster and the work that their plans need."""

    def __init__(
        self,
        settings: LiveSettings,
        api: Api,
        ledger: Ledger,
        plans: PlanRecords,
        telling: Telling,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.plans = plans
        self.telling = telling
        self.metrics = metrics
        self.lanes = Lanes(api)
        self.work = Work(clock)
        self.tables = Tables(settings, ledger, self.work)
        self.progress = self.tables.progress
        self.tables.ages.store = plans
        self.suspending = Suspending(self.tables, self.lanes)
        self.release = Release(
            self.tables, self.lanes, plans, telling, metrics, self.on_pod, self.set_aside
        )
        evicting = Evicting(
            self.tables, self.suspending, self.lanes, telling, metrics, self.release.start
        )
        self.recovery = Recovery(self.tables, self.release, evicting, self.suspending)
        self.mending = Mending(self.tables, self.release, evicting, self.recovery)
        self._deciding = Deciding(self.tables, self.release, metrics, self._mend, self.set_aside)
        self.gangs = self.tables.gangs
        self.names = self.tables.names
        self.key_of_pod = self.tables.key_of_pod
        self.pods = self.tables.pods
        self.slot_of = self.tables.slot_of
        self.find = self.tables.find
        self.promised_nodes = self.tables.promised_nodes
        self.old_plans = self.recovery.old_plans
        self.zero_unix_s = self.work.zero_unix_s
        self.now_s = self.work.now_s
        self.finish_work = self.work.finish
        self.num_failed = 0  #: the latest steps, if nothing could be decided in them
        self.refused: dict[str, None] = {}  #: lone pods that the extender left without a node
        self.being_bound: Counter[str] = Counter()  #: by uid of pods of no gang: binds under way
        self._loud = Rates(LINES, LINES / 60.0)
        self._num_freed = 0
        self._to_wake: dict[str, None] = {}  #: of those refused: gangs gave nodes back since
        self._wake_s = 0.0  #: no more are woken before
        self._leaving = self.tables.leaving
        ledger.standing.patience_s = settings.timeouts.bind_s
        ledger.devices.lasts = self._lasts
        ledger.devices.pod = self.pods.get

    @property
    def active(self) -> bool:
        """True while this replica leads and has read the cluster: it may write."""
        return self.work.active

    @active.setter
    def active(self, active: bool) -> None:
        if active:
            for uid in self.recovery.read_told() - self.key_of_pod.keys():
                if uid in self.pods:
                    self.on_pod(Change.MODIFIED, self.pods[uid])
        if active and not self.work.admitted:
            self.release.waits_for_all = {}
        self.work.admitted = active

    # -- facts -------------------------------------------------------------------------------

    def on_node(self, change: Change, node: NodeObject) -> None:
        """Process a node."""
        old = self.ledger.nodes.get(node.metadata.name)
        if change is Change.DELETED:
            self.ledger.remove_node(node.metadata.name)
        elif not self.ledger.set_node(node):
            return  # a heartbeat
        self.tables.may_have_room(node.metadata.name)
        self.tables.patience.node_changed(node.metadata.name)
        if old is None or old.metadata.labels != node.metadata.labels:
            self.tables.repelling.node_changed(node.metadata.name)
        if old is not None or not self.ledger.usable(node.metadata.name):
            for gang in self.tables.awaiting_binds():
                if any(slot.node == node.metadata.name for slot in gang.slots):
                    self.work.touch(gang.key)
        self.work.wake()

    def on_devices(self, change: Change, item: object) -> None:
        """Process a device class, a slice of devices, or a claim."""
        assert isinstance(item, DeviceClass | ResourceSlice | ResourceClaim)
        if self.ledger.set_device(item, gone=change is Change.DELETED):
            self.work.wake()

    def on_thing(self, kind: str, change: Change, thing: Thing) -> None:
        """Process an object that defines the size of gangs."""
        where = (kind, thing.metadata.namespace, thing.metadata.name)
        things = self.tables.things
        self.suspending.see(kind, change, thing)
        if change is Change.DELETED:
            things.pop(where, None)
        else:
            old = things.get(where)
            things[where] = thing
            if old is not None and (old.spec, old.value) == (thing.spec, thing.value):
                return
        everyone = kind == "PriorityClass"
        for gang in self.gangs.values() if everyone else self.tables.about(*where[1:]):
            self.work.touch(gang.key)
        if kind in ("Job", "JobSet", "LeaderWorkerSet"):
            self._sort_anew(*where[1:], late=kind in self.tables.unread)
        self.work.wake()

    def is_read(self, kind: str) -> None:
        """Note that all objects of a kind are known, and reconcile gangs that waited for them."""
        self.tables.unread.discard(kind)
        for gang in self.gangs.values():
            if gang.size is None:
                self.work.touch(gang.key)
        if not self.tables.unread and self.active:
            self.recovery.erase_left()
        self.work.wake()

    def _sort_anew(self, namespace: str, name: str, *, late: bool) -> None:
        """Find the gangs anew of pods that were there before the object that says which it is.

        Also of those that run, if the object was there and is only read `late`.
        """
        for gang in self.tables.about(namespace, name):
            for pod in list(gang.pods.values()):
                if not pod.ended and self._is_of_another(gang.key, pod, late=late):
                    self._move(gang, pod)
        for uid in list(self.tables.single.get((namespace, name), ())):
            self.on_pod(Change.MODIFIED, self.pods[uid])

    def _is_of_another(self, key: GangKey, pod: Pod, *, late: bool = False) -> bool:
        """True if a pod is of another gang than it was taken for, and nothing of that stands.

        A pod that was a gang by itself is of the gang that its Job has become, also if it runs.
        """
        if key.source not in SORTED:
            return False
        lone, runs = key.source is Source.LONE, bool(pod.spec.node_name)
        settled = not (late or lone) if runs else pod.metadata.uid in self.slot_of
        return not settled and key_of(pod, self.find) not in ((key, None) if lone else (key,))

    def _move(self, gang: LiveGang, pod: Pod) -> None:
        """Take a pod from a gang that it is not of, and take it in anew."""
        uid = pod.metadata.uid
        place = self.slot_of.get(uid)
        if place is not None:
            self.tables.give_back(gang, [place[1]], self.now_s(), "of another gang")
            self.tables.tell(gang, gang.asks())
        gang.forget(uid)
        del self.key_of_pod[uid]
        self.ledger.unhear(gang.key, uid)
        self._left(gang)
        self.on_pod(Change.MODIFIED, pod)

    def on_pod(self, change: Change, pod: Pod) -> None:
        """Process a pod; its gang is reconciled even if the pod cannot be read."""
        before = self.key_of_pod.get(pod.metadata.uid)
        try:
            self._take_in(change, pod)
        except Exception:
            key = self.key_of_pod.get(pod.metadata.uid)
            if key is not None:
                self.work.touch(key)
                self.work.wake()
            raise
        finally:
            after = self.key_of_pod.get(pod.metadata.uid)
            for key in (before, after) if before != after else (after,):
                if key is not None:
                    self.telling.changed(key)

    def _take_in(self, change: Change, pod: Pod) -> None:
        uid, spec, ended = pod.metadata.uid, pod.spec, pod.ended
        here = spec.node_name
        old_key = self.key_of_pod.get(uid)
        if change is Change.DELETED or ended:
            self.suspending.lost(pod)
            if self.tables.refused_on:
                self.tables.may_have_room(here)
        if change is Change.DELETED:
            self._forget(uid, old_key)
            return
        before = self.pods.get(uid)
        if before is not None and before.spec.node_name and not here:
            return  # older than what was read meanwhile: no pod leaves its node but by its end
        self.pods[uid] = pod
        if before is not None and old_key is None:
            self.tables.note_single(before, is_there=False)
        if here:
            self.tables.repelling.take(pod)
            self.progress.works(spec.scheduler_name)
            if before is not None and not before.spec.node_name:
                self.tables.note_bound(pod)
                if old_key is not None and self._is_of_another(old_key, pod):
                    self._move(self.gangs[old_key], pod)
                    return
        key = old_key
        if key is None and IGNORE not in pod.metadata.annotations:
            key = key_of(pod, self.find) or self.recovery.told_with(pod)
        if key is None:
            self.tables.note_single(pod, is_there=not ended)
            self.count_foreign(pod)
            return
        gang = self.gangs.get(key) or self.tables.gang(key)
        if old_key is None:
            self.key_of_pod[uid] = key
            was_foreign = self.ledger.drop_foreign(uid)
            if self.ledger.devices.look_at(uid) or was_foreign:
                self.work.wake()  # what makes it a gang's came after it
        known = gang.pods.get(uid)
        gang.pods[uid] = pod
        if known is None or known.metadata.owner_references != pod.metadata.owner_references:
            self.tables.note_names(gang, pod)
        place = self.slot_of.get(uid)
        slot = place[1] if place is not None else None
        if slot is not None and not here and pod.refusal:
            self.progress.reached(spec.scheduler_name, slot, self.now_s(), spec.priority)
        is_resized = known is not None and resized(known, pod, self.settings.resource)
        if is_resized:
            gang.look_anew(uid)
            if slot is not None:
                gang.look_at(slot)
        elif known is not None:
            if _alike(known, pod):
                return
            if not here and _asks_for_another_place(known, pod):
                gang.look_anew(uid)
        if pod.status.phase == "Succeeded":
            gang.note_success(pod, done=has_done_its_work(pod, self.find))
        elif ended and slot is not None and (known is None or not known.ended):
            # noted here, as its owner may have removed it before the next step
            slot.num_failed = slot.num_failed + 1 if pod.never_started else 0
        if here and not ended and slot is not None and slot.node == here:
            if not slot.is_bound:
                now_s = self.now_s()
                self.progress.reached(spec.scheduler_name, slot, now_s, spec.priority)
                slot.bound(now_s, here)
                if gang.is_placed():
                    self.work.touch(key)
                    self.work.wake()
            is_news = known is None or _saved(known) != _saved(pod)
            if not (is_news or is_resized or pod.metadata.deletion_timestamp):
                return  # bound where it should be: nothing to mend
        elif here and not ended and (known is None or known.spec.node_name != here):
            self.ledger.hear(key, uid, here, gang.facts(pod).shape)
        self.work.touch(key)
        self.work.wake()

    def _forget(self, uid: str, key: GangKey | None) -> None:
        """Forget a pod that is gone."""
        pod = self.pods.pop(uid, None)
        if pod is not None and key is None:
            self.tables.note_single(pod, is_there=False)
        self.refused.pop(uid, None)
        self.key_of_pod.pop(uid, None)
        self.being_bound.pop(uid, None)
        self._leaving.forget(uid)
        self.tables.repelling.drop(uid)
        freed = self.ledger.drop_foreign(uid)
        if key is not None:
            gang = self.gangs[key]
            self.tables.patience.end(uid, gang.pins.get(uid, ""))
            self.ledger.unhear(key, uid)
            gang.forget(uid)
            self._left(gang)
        if freed or key is not None:
            self.work.wake()

    def _left(self, gang: LiveGang) -> None:
        """Have a gang looked at that a pod has left; only a leader looks, so others forget it."""
        if gang.pods or gang.slots or self.work.admitted:
            self.work.touch(gang.key)
            return
        self.work.forget(gang.key)
        self.tables.forget_gang(gang)

    def count_foreign(self, pod: Pod) -> None:
        """Count a pod of no gang where it is, or nowhere."""
        if self.being_bound[pod.metadata.uid] and not pod.spec.node_name and not pod.ended:
            return
        self.being_bound.pop(pod.metadata.uid, None)
        if pod.spec.node_name and not pod.ended:
            shape = pod_shape(pod, self.settings.resource)
            lasts, node = self._leaving.lasts(pod), pod.spec.node_name
            news = self.ledger.set_foreign(pod.metadata.uid, node, shape, lasts)
        else:
            news = self.ledger.drop_foreign(pod.metadata.uid)
        if self.ledger.devices.look_at(pod.metadata.uid) or news:
            self.work.wake()

    def _lasts(self, uid: str) -> Lasts:
        """Return for how long a pod holds what it does: one of no gang gives nothing back."""
        pod = self.pods.get(uid)
        if pod is None or pod.ended or uid in self.key_of_pod:
            return Lasts.WITH_A_GANG
        return self._leaving.lasts(pod)

    def _count_overdue(self, now_s: float) -> None:
        """Count pods for good that should be gone by now."""
        for uid in self._leaving.overdue(now_s):
            pod, key = self.pods.get(uid), self.key_of_pod.get(uid)
            if key is not None:
                self.work.touch(key)
            elif pod is not None:
                self.count_foreign(pod)

    # -- steps -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile what changed, decide, and start the writes that follow, in an endless loop."""
        while True:
            await self.work.something()
            began_s = time.perf_counter()
            try:
                await self.step_in_turns()
            except Exception:
                self.num_failed += 1
                raise
            finally:
                self.work.stepped(time.perf_counter() - began_s)

    async def step_in_turns(self) -> None:
        """Make a step in slices, with other tasks in between."""
        began_s = time.perf_counter()
        for _ in self.turns():
            if time.perf_counter() - began_s > TURN_S:
                await asyncio.sleep(0)
                began_s = time.perf_counter()

    def step(self) -> None:
        """Make a step at once."""
        for _ in self.turns():
            pass

    def turns(self) -> Iterator[None]:
        """Reconcile every gang that changed, then let the core decide.

        Between two turns other tasks may add facts, and read.
        """
        now_s = self.now_s()
        self.ledger.now_s = now_s
        self.tables.vacancies.forget(now_s)
        self._count_overdue(now_s)
        for key in self.work.take():
            if key in self.gangs:
                yield from self.gangs[key].looking()
            if self.ledger.is_to_be_made and self._asks_for_room(key):
                yield from self._deciding.settling(now_s)  # else it were made in one go
            self.ledger.forget_heard(key)
            gang = self.gangs.get(key)
            if gang is not None:
                self._mend(gang, now_s)
                yield
        self.work.step_at_s = inf
        if not self.active:
            return
        if self.release.waits_for_all is not None:
            yield from self._deciding.settling(now_s)  # what others hold counts then
            self.release.go_on()
        began_s = time.perf_counter()
        self.num_failed = 0 if (yield from self._deciding.turns()) else self.num_failed + 1
        if not self.active:
            return
        standing = self.ledger.standing
        resume_s = self.suspending.go_on(now_s)
        woken_s = self._wake_refused(now_s)
        until_s = min(to_s(self.ledger.state.until_us), standing.look_s, resume_s, woken_s)
        until_s = min(until_s, self._leaving.look_s)
        if standing.has_more:
            self.work.wake()
        self.work.step_at_s = until_s if until_s > now_s else inf
        if self.num_failed:
            self.work.step_at_s = now_s + AGAIN_S
        self.metrics.plan_seconds.observe(time.perf_counter() - began_s)
        self.telling.wake()

    def _asks_for_room(self, key: GangKey) -> bool:
        """True if a pod of a gang is pinned to a node that is not kept for it."""
        gang = self.gangs.get(key)
        return gang is not None and any(
            uid not in self.slot_of and uid in gang.pods and not gang.pods[uid].spec.node_name
            for uid in gang.pins
        )

    def _mend(self, gang: LiveGang, now_s: float) -> None:
        try:
            self.mending.mend(gang, now_s)
        except Exception as error:
            try:
                self.mending.let_go(gang, now_s)
            except Exception:
                log.exception("gang %s: cannot give back what its vanished pods held", gang.name)
            self.set_aside(gang, error, "mend")
        self.telling.changed(gang.key)

    def set_aside(self, gang: LiveGang, error: Exception, where: str) -> None:
        """Skip a gang that cannot be read or decided, report that, and retry later."""
        asked = isinstance(error, ValueError)  # its user wrote what nobody can read
        self.metrics.set_aside.labels(where="asked" if asked else where).inc()
        text = str(error)[:MOST_SAID]
        if not asked:
            text = f"muster fails on it ({type(error).__name__}: {error}); please report this"
        if text != gang.problem:
            if self._loud.allow((gang.key.namespace, asked), self.now_s()):
                trace = None if asked else error
                log.error("gang %s set aside: %s", gang.name, text, exc_info=trace)
            self.telling.event(gang, "NotUnderstood", text)
        gang.problem = text
        self.telling.changed(gang.key)
        again_s = self.now_s() + SET_ASIDE_S
        if where != "mend":  # a look would find nothing wrong with it
            gang.trouble, gang.hold_until_s = text, again_s
        self.work.look_again(gang.key, again_s, "unread" if where == "mend" else "")
        self.tables.ask_nothing(gang)

    def _wake_refused(self, now_s: float) -> float:
        """Have kube-scheduler look again at lone pods that gangs were in the way of.

        No more than there is room for at once, each once until gangs give more nodes back. Returns
        when others are to be woken.
        """
        if self.ledger.num_freed != self._num_freed:
            self._num_freed = self.ledger.num_freed
            self._to_wake |= self.refused
            self.refused.clear()
        if self._to_wake and now_s >= self._wake_s:
            self._wake_s = now_s + WAKE_S
            left: dict[PodShape, int] = {}
            for uid in list(islice(self._to_wake, MOST_WOKEN)):
                pod = self.pods.get(uid)
                if pod is None or pod.spec.node_name:
                    del self._to_wake[uid]
                    continue
                try:
                    shape = pod_shape(pod, self.settings.resource)
                except ValueError:  # whoever asked with it was told; steps go on
                    del self._to_wake[uid]
                    continue
                if shape not in left:
                    left[shape] = max(FEW_WOKEN, self.ledger.fits(shape))
                if left[shape]:
                    left[shape] -= 1
                    del self._to_wake[uid]
                    self.release.poke(pod, f"look-{self._num_freed}")
        return self._wake_s if self._to_wake else inf


def _saved(pod: Pod) -> str | None:
    return pod.metadata.annotations.get(SAVED)


def _asks_for_another_place(one: Pod, other: Pod) -> bool:
    """True if where a pod may go has changed, which it may while it is gated."""
    old, new = one.spec, other.spec
    same = old.node_selector == new.node_selector and old.affinity == new.affinity
    return not same or old.tolerations != new.tolerations


def _alike(one: Pod, other: Pod) -> bool:
    """True if two states of a pod differ in nothing that muster looks at, such as conditions."""
    return (
        one.spec == other.spec
        and one.status.phase == other.status.phase
        and one.metadata.deletion_timestamp == other.metadata.deletion_timestamp
        and one.metadata.labels == other.metadata.labels
        and one.metadata.annotations == other.metadata.annotations
    )
