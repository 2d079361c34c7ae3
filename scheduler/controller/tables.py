"""The gangs of the cluster with their pods and slots, and the objects that define their size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count, islice
from math import inf

from scheduler.controller.ages import Ages
from scheduler.controller.asking import request_of
from scheduler.controller.budget import Budget
from scheduler.controller.failures import Failures
from scheduler.controller.leaving import Lasts, Leaving
from scheduler.controller.membership import LiveGang, attempt_of
from scheduler.controller.mirror import Ledger
from scheduler.controller.parts import Wanted
from scheduler.controller.patience import Patience
from scheduler.controller.progress import Progress
from scheduler.controller.refusals import Refusals
from scheduler.controller.repelling import Repelling
from scheduler.controller.settings import LiveSettings
from scheduler.controller.slots import Slot, SlotState
from scheduler.controller.vacancies import Vacancies
from scheduler.controller.work import Work
from scheduler.kube.objects import PLAN, Pod, Thing, scheduled_unix_s, unix_s
from scheduler.workloads.gangs import (
    JOBSET,
    KUBEFLOW_JOB,
    LWS,
    POD_GROUP,
    VOLCANO_GROUP,
    GangKey,
    indexed_job,
    is_name,
)

MOST_SCHEDULERS = 100  #: whoever creates pods chooses such names
MOST_NAMES = 10  #: for each pod, of objects that may say something of its gang
MOST_KEPT = 10_000  #: gangs without pods of which it is known what was refused
LOOKED_AT = 10  #: of them, whenever one more comes: the oldest


def _age(gang: LiveGang) -> tuple[float, GangKey]:
    made_s = (unix_s(pod.metadata.creation_timestamp) for pod in gang.pods.values())
    return min(made_s, default=inf), gang.key


def _objects_of(gang: LiveGang, pod: Pod) -> set[str]:
    """Return the names of objects that may say something of a pod's gang."""
    meta, owner = pod.metadata, pod.metadata.controller()
    names = {meta.labels.get(label, "") for label in (POD_GROUP, KUBEFLOW_JOB, JOBSET, LWS)}
    own = owner.name if owner is not None else gang.key.name
    return names | {gang.key.name, meta.annotations.get(VOLCANO_GROUP, ""), own}


def _called(gang: LiveGang, plain: str) -> str:
    """Return the name that pods of a gang carry, if it is one of those that it may have."""
    for pod in gang.pods.values():
        name = pod.metadata.annotations.get(PLAN, "").rpartition("/")[0].rpartition("/")[0]
        if name == plain or (name.startswith(f"{plain}~") and is_name(name[len(plain) + 1 :])):
            return name
    return ""


def _names(key: GangKey) -> Iterator[str]:
    """Yield what a gang may be called, without end."""
    plain = f"{key.namespace}/{key.name}"
    yield plain
    yield f"{plain}~{key.owner[:8] or key.source.split('.')[0].lower()}"
    # who writes an owner's uid may let many begin alike, or write what is none
    text = f"{key.source} {key.owner}".encode(errors="replace")
    whole = hashlib.sha256(text).hexdigest()[:16]
    yield f"{plain}~{whole}"
    for number in count(2):
        yield f"{plain}~{whole}~{number}"


class Tables:
    """What muster knows. All changes of what gangs hold reach the ledger through here."""

    def __init__(self, settings: LiveSettings, ledger: Ledger, work: Work) -> None:
        self.settings = settings
        self.ledger = ledger
        self.work = work
        self.gangs: dict[GangKey, LiveGang] = {}
        self.names: dict[str, LiveGang] = {}
        self.key_of_pod: dict[str, GangKey] = {}
        self.pods: dict[str, Pod] = {}
        self.slot_of: dict[str, tuple[LiveGang, Slot]] = {}
        self.things: dict[tuple[str, str, str], Thing] = {}
        #: kinds of objects of which no list has come yet: nobody knows what those say
        self.unread: set[str] = set()
        self.progress = Progress(settings.timeouts.bind_s, settings.schedulers)
        self.ages = Ages(work)
        self.budget = Budget()
        self.failures = Failures(self.find)
        self.leaving = Leaving(work, settings.timeouts.bind_s)
        self.repelling = Repelling(ledger.nodes)
        self.patience = Patience(work, settings.timeouts.bind_s)
        #: by namespace and name of objects: the gangs of which these may say something
        self._about: dict[tuple[str, str], dict[GangKey, None]] = {}
        #: by namespace and name of Indexed Jobs: their pods that are of no gang, until it grows
        self.single: dict[tuple[str, str], dict[str, None]] = {}
        self._refusals: dict[GangKey, Refusals] = {}  #: of gangs without pods
        self.refused_on: dict[str, set[GangKey]] = {}  #: by node: gangs that it was refused to
        self._num_seen = 0  #: gangs
        self.vacancies = Vacancies(settings.timeouts.repair_s)
        #: schedulers that serve: those of the settings, and those seen to bind a pod
        self.schedulers = {"", *settings.schedulers, *settings.direct_schedulers}
        self.unplaced: dict[GangKey, LiveGang] = {}  #: all gangs with slots that await their binds

    def find(self, kind: str, namespace: str, name: str) -> Thing | None:
        """Return a watched object."""
        return self.things.get((kind, namespace, name))

    def note_bound(self, pod: Pod) -> None:
        """Note that a pod's scheduler binds pods; the pod was created without a node.

        A pod that is created with a node may name any scheduler.
        """
        name = pod.spec.scheduler_name
        if len(self.schedulers) < MOST_SCHEDULERS:
            self.schedulers.add(name)

    def unchecked(self, gang: LiveGang, pod: Pod) -> str:
        """Return what only kube-scheduler checks for a pod or gives it; empty if nothing."""
        if what := gang.facts(pod).unmodelled:
            return what
        resource = self.ledger.devices.known.asked_by(pod)
        return f"devices for {resource}" if resource else ""

    def kept_off(self, gang: LiveGang, node: str) -> bool:
        """True if another pod repels a gang's pods without a node from a node."""
        if gang.neighbours != self.repelling.version:
            self.look_at_neighbours(gang)
        if not gang.kept_off or node not in self.ledger.nodes:
            return False
        return not gang.kept_off.isdisjoint(self.ledger.nodes[node].metadata.labels.items())

    def look_at_neighbours(self, gang: LiveGang) -> None:
        """Recompute which nodes a gang's pods without a node must avoid because of other pods."""
        gang.neighbours = self.repelling.version
        waiting = (p for p in gang.pods.values() if not p.spec.node_name and not p.ended)
        gang.kept_off = self.repelling.keeps_off(gang.key.namespace, waiting)

    def promised_nodes(self) -> set[str]:
        """Return nodes on which a pod with a slot is not bound yet."""
        slots = (slot for gang in self.awaiting_binds() for slot in gang.slots)
        return {slot.node for slot in slots if not slot.is_bound}

    def awaiting_binds(self) -> list[LiveGang]:
        """Return the gangs with pods that are not bound to their nodes yet."""
        for key in [key for key, gang in self.unplaced.items() if gang.is_placed()]:
            del self.unplaced[key]
        return list(self.unplaced.values())

    def gang(self, key: GangKey) -> LiveGang:
        """Return a gang, created on first use."""
        gang = self.gangs.get(key)
        if gang is None:
            name = self._free_name(key)
            self._num_seen += 1
            gang = self.gangs[key] = LiveGang(key, name, self.settings.resource, self._num_seen)
            gang.refusals = refusals = self._refusals.pop(key, gang.refusals)
            gang.num_aborts, gang.hold_until_s = refusals.num_aborts, refusals.hold_until_s
            gang.came_s = self.work.now_s()
            self.names[name] = gang
            self.ages.give(gang)
        return gang

    def _free_name(self, key: GangKey) -> str:
        """Return what people call a gang: others of its name had it before."""
        for name in _names(key):
            if name not in self.names and is_name(name.rpartition("~")[2].rpartition("/")[2]):
                return name
        raise AssertionError("there is always one more")

    def note_names(self, gang: LiveGang, pod: Pod) -> None:
        """Note the names of objects that may define something of a gang."""
        meta = pod.metadata
        owner = meta.controller()
        labels = meta.labels
        named = (
            owner.name if owner is not None else gang.key.name,
            labels.get(POD_GROUP) or labels.get(KUBEFLOW_JOB) or "",
            labels.get(JOBSET) or labels.get(LWS) or meta.annotations.get(VOLCANO_GROUP) or "",
        )
        if named == gang.named:
            return  # as the pod before it
        gang.named = named
        names = _objects_of(gang, pod)
        for name in names - gang.objects:
            self._about.setdefault((gang.key.namespace, name), {})[gang.key] = None
        gang.objects |= names
        if len(gang.objects) > MOST_NAMES * (1 + len(gang.pods)):  # owners are renamed, or go
            names = names.union(*(_objects_of(gang, one) for one in gang.pods.values()))
            self._forget_names(gang, gang.objects - names)
            gang.objects = names

    def note_single(self, pod: Pod, *, is_there: bool) -> None:
        """Note whether a pod exists and belongs to no gang; its Job may become one."""
        where = pod.metadata.namespace, indexed_job(pod)
        if where[1] and is_there:
            self.single.setdefault(where, {})[pod.metadata.uid] = None
        elif where in self.single:
            self.single[where].pop(pod.metadata.uid, None)
            if not self.single[where]:
                del self.single[where]

    def _forget_names(self, gang: LiveGang, names: set[str]) -> None:
        for name in names:
            where = gang.key.namespace, name
            del self._about[where][gang.key]
            if not self._about[where]:
                del self._about[where]

    def about(self, namespace: str, name: str) -> list[LiveGang]:
        """Return the gangs that an object of this name may concern."""
        return [self.gangs[key] for key in self._about.get((namespace, name), ())]

    def name_anew(self) -> None:
        """Name gangs of equal names as the previous muster did, which met them by age.

        Nothing was reported of them yet. Released pods carry the name of their gang.
        """
        alike: dict[str, list[LiveGang]] = {}
        for gang in self.gangs.values():
            alike.setdefault(f"{gang.key.namespace}/{gang.key.name}", []).append(gang)
        for plain, gangs in alike.items():
            if len(gangs) == 1 and gangs[0].name == plain and not _called(gangs[0], plain):
                continue
            for gang in gangs:
                del self.names[gang.name]
            gangs.sort(key=_age)
            for called in (True, False):
                for gang in gangs:
                    name = _called(gang, plain)
                    if called and name and name not in self.names:
                        gang.name = name
                        self.names[name] = gang
                    elif not called and self.names.get(gang.name) is not gang:
                        gang.name = self._free_name(gang.key)
                        self.names[gang.name] = gang

    def forget_gang(self, gang: LiveGang) -> None:
        """Forget a gang without pods, except where and how often kube-scheduler refused them."""
        if gang.refusals or gang.refusals.num_plans:
            refusals, now_s = gang.refusals, self.work.now_s()
            if refusals.is_remade:
                refusals.num_aborts, refusals.hold_until_s = gang.num_aborts, gang.hold_until_s
            self._refusals[gang.key] = refusals
            for key in list(islice(self._refusals, LOOKED_AT)):
                if self._refusals[key].is_over(now_s):
                    del self._refusals[key]
            if len(self._refusals) > MOST_KEPT:
                del self._refusals[next(iter(self._refusals))]
        self.budget.count(gang, frozenset())
        self.unplaced.pop(gang.key, None)
        self._forget_names(gang, gang.objects)
        del self.gangs[gang.key]
        del self.names[gang.name]

    def keep_off(self, gang: LiveGang, node: str) -> None:
        """Note that a gang avoids a node until the node may have changed."""
        keys = self.refused_on.setdefault(node, set())
        keys.add(gang.key)
        if len(keys) > MOST_KEPT:
            keys &= self.gangs.keys() | self._refusals.keys()

    def may_have_room(self, node: str) -> None:
        """Note that a pod left a node, or that the node changed: a refused pod may now fit."""
        keys = self.refused_on.get(node)
        if not keys:
            return
        now_s = self.work.now_s()
        for key in list(keys):
            gang = self.gangs.get(key)
            refusals = gang.refusals if gang is not None else self._refusals.get(key)
            at_s = refusals.lift(node, now_s) if refusals is not None else None
            if at_s is None:
                keys.discard(key)
            else:
                self.work.look_again(key, at_s)
        if not keys:
            del self.refused_on[node]

    def give_slots(self, gang: LiveGang, slots: list[Slot]) -> None:
        """Note which pods have which nodes; the caller reports it to the core, or got it there."""
        for slot in slots:
            pod = gang.pods[slot.uid]
            slot.attempt = attempt_of(pod)
            facts = gang.facts(pod)
            slot.part, slot.shape = gang.part_of(facts)[0], facts.shape
            self.slot_of[slot.uid] = (gang, slot)
        gang.slots += slots
        self.unplaced[gang.key] = gang

    def hold(self, gang: LiveGang, slots: list[Slot]) -> None:
        """Count pods on nodes where the core did not put them."""
        now_s = self.work.now_s()
        if not any(slot.is_held for slot in gang.slots):
            gang.admitted_s, gang.saved_s = now_s, -inf
            since = [at for s in slots if (at := scheduled_unix_s(gang.pods[s.uid]))]
            if since:
                gang.admitted_s = min(now_s, min(since) - self.work.zero_unix_s)
        self.give_slots(gang, slots)
        self.tell(gang, gang.asks())

    def tell(self, gang: LiveGang, asks: Wanted) -> None:
        """Report to the core what a gang holds and asks for."""
        foreign = self.ledger.foreign
        for slot in gang.slots:
            if slot.state is SlotState.ENDING:  # in the way as any pod of no gang
                pod = gang.pods.get(slot.uid)
                stays = pod is not None and self.leaving.is_overdue(pod)
                lasts = Lasts.FOR_GOOD if stays else Lasts.LEAVING
                self.ledger.set_foreign(slot.uid, slot.node, slot.shape, lasts)
            elif slot.uid in foreign:
                self.ledger.drop_foreign(slot.uid)
        zero_unix_s, jobs_rank = self.work.zero_unix_s, self.settings.job_priority
        request = request_of(gang, asks, self.find, zero_unix_s, jobs_rank=jobs_rank)
        if request is None:
            self.withdraw(gang)
            return
        gang.request = self.ledger.set_gang(request)

    def ask_nothing(self, gang: LiveGang) -> None:
        """Report to the core only what a gang holds, without reading its pods again."""
        gang.later = []
        if gang.request is None or not gang.request.asks:
            return
        if not gang.request.nodes:
            self.withdraw(gang)
            return
        gang.request = self.ledger.set_gang(gang.request.running())

    def withdraw(self, gang: LiveGang) -> None:
        """Remove a gang that holds nothing and asks for nothing from the core."""
        if gang.request is not None:
            gang.request = None
            self.ledger.drop_gang(gang.name)

    def give_back(self, gang: LiveGang, slots: list[Slot], now_s: float, cause: str) -> None:
        """Take slots from a gang; the caller reports it to the core."""
        for slot in slots:
            place = self.slot_of.get(slot.uid)
            if place is not None and place[1] is slot:  # else a later plan has the pod
                del self.slot_of[slot.uid]
            self.ledger.drop_foreign(slot.uid)
            self.vacancies.remove(gang, slot)
            slot.gone(now_s, cause)
        gang.slots = [slot for slot in gang.slots if slot.state is not SlotState.GONE]
