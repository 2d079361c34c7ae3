"""The present state of one gang: its pods, their slots, and what it still asks for.

A slot is a node for one rank; a recreated pod, with another uid, takes the slot of its rank. For
the core it is one gang for its whole life: see `asking.request_of`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

import msgspec

from scheduler.controller.parts import Request, Wanted
from scheduler.controller.pins import pinned_to, unpinned
from scheduler.controller.refusals import Refusals
from scheduler.controller.slots import Slot, SlotState
from scheduler.core.model import PodShape
from scheduler.kube.objects import PLAN, Container, Pod
from scheduler.workloads.completed import Completed
from scheduler.workloads.eligibility import Avoid, digest_of, unmodelled
from scheduler.workloads.gangs import JOBSET_ATTEMPT, GangKey, Rank, rank_of
from scheduler.workloads.limits import excess
from scheduler.workloads.requests import pod_shape
from scheduler.workloads.sizes import Size

#: ranks that are known to have ended well, if the gang has no more: the latest
MOST_SUCCEEDED = 1000
AT_ONCE = 100  #: pods that are looked at before others have their turn
TOGETHER = " of "  #: stands in a pod's plan before the number of pods that start together

_encode = msgspec.json.Encoder(order="deterministic").encode


class Lane(StrEnum):
    """How a pod gets to its node."""

    PINNED = "pinned"  #: gate off and pin on in one PATCH; kube-scheduler binds
    DIRECT = "direct"  #: muster binds
    EXTENDER = "extender"  #: not gated: kube-scheduler asks, and binds through muster


class Facts(NamedTuple):
    """What never changes in a pod, or only with its gate; computed once."""

    rank: Rank
    shape: PodShape
    alike: bytes  #: equal for pods that the core need not tell apart
    gated: bool
    unmodelled: str  #: what of its constraints only kube-scheduler checks
    excess: str  #: what it has too much of for muster to look at; empty if nothing


@dataclass(slots=True)
class Success:
    """A rank that succeeded."""

    rank: Rank
    name: str  #: of its pod
    run_by: str  #: uid of the pod's controller
    attempt: int
    closed: bool = False  #: no pod of the gang was left when it ended


@dataclass(slots=True)
class Remade:
    """Pods of one rank that were recreated because they had another world size."""

    uids: set[str] = field(default_factory=set)
    last_s: float = -inf


def _told_least(pod: Pod) -> int:
    """Return with how many others a pod was to run when it was told; 0 if its plan says none."""
    least = pod.metadata.annotations[PLAN].rpartition(TOGETHER)[2]
    return int(least) if least.isdecimal() and len(least) < 10 else 0


def _run_by(pod: Pod) -> str:
    owner = pod.metadata.controller()
    return owner.uid if owner is not None else ""


def attempt_of(pod: Pod) -> int:
    """Return the attempt of its JobSet that a pod belongs to."""
    text = pod.metadata.labels.get(JOBSET_ATTEMPT, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0


@dataclass
class LiveGang:
    """A gang of the cluster."""

    key: GangKey
    name: str  #: namespace/name, what people call it
    resource: str
    ordinal: int = 0  #: counts gangs as they are seen: creation times have whole seconds only
    pods: dict[str, Pod] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    request: Request | None = None  #: as reported to the core; none: it knows no such gang
    later: list[str] = field(default_factory=list)  #: pods that ask next, the last one first
    came_s: float = 0.0  #: when muster met it
    submit_s: float = inf  #: when the pod was created that made it whole
    aged_with: int = 0  #: so many pods made it whole then
    admitted_s: float = 0.0  #: since when it holds nodes
    saved_s: float = -inf  #: until when its work is saved, since then
    planned_s: float = 0.0  #: when it was last given nodes
    generation: int = 0  #: plans that were made for it
    given_up_in: int = -1  #: the last of them of which a pod did not get its node
    releasing: bool = False  #: pods are being told
    recorded: bool = False  #: a plan record exists
    #: it says no more than which nodes are kept for ranks that are lost
    only_kept: bool = False
    #: records under names of an earlier version, erased once what they say is written down again
    old_records: list[str] = field(default_factory=list)
    size: Size | None = None
    succeeded: dict[str, Success] = field(default_factory=dict)  #: by pod, in this attempt
    num_succeeded: int = 0
    completed: Completed = frozenset()  #: ranks that are done by the word of their owner alone
    #: ranks of which nobody knows more than that they ran: their pods were gone when muster began
    presumed: int = 0
    attempt: int = 0  #: the latest of the pods that are there
    started_min: int = 0  #: pods that ran together when it started; 0 before
    begun_min: int = 0  #: the same by the word of a predecessor, or as it was found; 0: not known
    started_roles: dict[str, int] = field(default_factory=dict)  #: the same by role, if roles count
    remade: dict[tuple[str, str, int], Remade] = field(default_factory=dict)  #: by size and rank
    waits: bool | None = None  #: pods of it run and wait for others; None: not looked at yet
    degraded_since_s: float = 0.0
    #: since when it lacks ranks though it ran whole; inf while it lacks none
    lacks_since_s: float = inf
    mends: bool = False  #: it comes before gangs that hold nothing
    why_evicted: str = ""  #: what is said once the first pod of it goes
    kept_by: str = ""  #: who forbids to evict it, and says why
    num_refused: int = 0  #: tries to evict it, one after the other
    refused_until_s: float = 0.0  #: nothing of it is evicted before
    evict_at_s: float = 0.0  #: it is evicted then, if it still runs in part
    #: muster ended pods of it, so that those that come after them are as old as they were
    sent_away: bool = False
    hold_until_s: float = 0.0  #: not asked for before: its last plan failed
    num_aborts: int = 0
    #: by uid of pods that were told of a node in vain: why they did not get it
    given_up: dict[str, str] = field(default_factory=dict)
    #: of them, those that their scheduler has come to since
    wanted: set[str] = field(default_factory=set)
    not_told: str = ""  #: why a pod was last not told of its node
    unanswered_since_s: float = inf  #: since when no write to a pod of it was taken; inf: one was
    tell_again_s: float = 0.0  #: no release before: the last plan record was refused
    #: by uid, of pods that are there: nodes that muster pinned them to, or that a record of its
    #: names; a pin that it did not write is a demand of the pod's owner, and nothing else
    pins: dict[str, str] = field(default_factory=dict)
    refusals: Refusals = field(default_factory=Refusals)
    owner_says: str = ""  #: why whoever makes its pods makes no more of them
    problem: str = ""  #: why it cannot be considered, if that is so
    objects: set[str] = field(default_factory=set)  #: names of those that may say something of it
    named: tuple[str, ...] = ()  #: the same, as the last pod that was looked at has them
    kinds: frozenset[bytes] = frozenset()  #: of pods that wait, as its namespace's count has them
    trouble: str = ""  #: what the core failed on; holds until `hold_until_s`
    kept_off: Avoid = frozenset()  #: by neighbours of pods that muster binds by itself
    neighbours: int = -1  #: that were looked at for it, as a version
    avoids: Avoid = frozenset()  #: of that, what is planned around
    _part_of: dict[bytes, str] = field(default_factory=dict)
    _num_parts: Counter[str] = field(default_factory=Counter)  #: by role
    _facts: dict[str, Facts] = field(default_factory=dict)
    #: what the last pod with plain containers takes; that list is shared by equal pods
    _known_shape: tuple[list[Container], PodShape] | None = None
    _counted: set[str] = field(default_factory=set)  #: pods that ended well, of any attempt

    def facts(self, pod: Pod) -> Facts:
        """Return a pod's rank and request."""
        uid = pod.metadata.uid
        known = self._facts.get(uid)
        if known is None or known.gated != bool(pod.spec.scheduling_gates):
            rank, shape, spec = rank_of(pod), self._shape(pod), pod.spec
            bound_by_plan = bool(spec.node_name) and PLAN in pod.metadata.annotations
            own = bound_by_plan or self.pinned(pod) is not None
            affinity = (unpinned(pod) if own else spec.affinity or {}).get("nodeAffinity")
            alike = _encode([rank.role, shape, spec.node_selector, spec.tolerations, affinity])
            unchecked, much = unmodelled(pod), excess(pod)
            known = Facts(rank, shape, alike, bool(spec.scheduling_gates), unchecked, much)
            self._facts[uid] = known
        return known

    def looking(self) -> Iterator[None]:
        """Compute the facts of new pods in slices; more pods may arrive meanwhile."""
        if len(self._facts) == len(self.pods):
            return
        news = [pod for uid, pod in self.pods.items() if uid not in self._facts and not pod.ended]
        for number, pod in enumerate(news, 1):
            if number % AT_ONCE == 0:
                yield
            try:
                if pod.metadata.uid in self.pods:
                    self.facts(pod)
            except Exception:
                continue  # the gang is looked at next, and set aside

    def _shape(self, pod: Pod) -> PodShape:
        """Return what a pod takes; worked out once for pods that share their containers."""
        spec, status = pod.spec, pod.status
        more = spec.init_containers or spec.resources is not None or spec.overhead
        said = (
            status.container_statuses
            or status.init_container_statuses
            or (
                status.resources is not None
                or status.allocated_resources is not None
                or status.resize_is_infeasible
            )
        )
        if more or said or not spec.containers:
            return pod_shape(pod, self.resource)
        if self._known_shape is None or self._known_shape[0] is not spec.containers:
            self._known_shape = spec.containers, pod_shape(pod, self.resource)
        return self._known_shape[1]

    def pinned(self, pod: Pod) -> str | None:
        """Return the node that muster pinned a pod to; None if others did."""
        node = self.pins.get(pod.metadata.uid)
        return node if node is not None and pinned_to(pod) == node else None

    def look_anew(self, uid: str) -> None:
        """Note that a pod's requests changed."""
        self._facts.pop(uid, None)

    def forget(self, uid: str) -> None:
        """Forget a pod that is gone."""
        self.pods.pop(uid, None)
        self._facts.pop(uid, None)
        self.pins.pop(uid, None)
        self.given_up.pop(uid, None)
        self.wanted.discard(uid)
        self._counted.discard(uid)

    def note_success(self, pod: Pod, *, done: bool) -> None:
        """Note that a pod succeeded; `done` if nobody runs its rank again."""
        if pod.metadata.uid not in self._counted and done:
            self._counted.add(pod.metadata.uid)
            self.succeeded[pod.metadata.uid] = Success(
                rank_of(pod), pod.metadata.name, _run_by(pod), attempt_of(pod)
            )
            most = max(MOST_SUCCEEDED, self.size.total if self.size is not None else 0)
            while len(self.succeeded) > most:
                del self.succeeded[next(iter(self.succeeded))]
        if self._all_succeeded() and all(pod.ended for pod in self.pods.values()):
            self._close_attempt()

    def _all_succeeded(self) -> bool:
        """True if no rank is missing: one whose pod was deleted comes back, and is of this run."""
        return self.size is not None and len(self.succeeded) >= self.size.total

    def _close_attempt(self) -> None:
        for success in self.succeeded.values():
            success.closed = True

    def is_another_run(self, pods: list[Pod]) -> bool:
        """True if all pods with nodes were gone before these came, which replace none of them.

        Nothing was reconciled in between: else the run would have ended there.
        """
        held = (self.pods.get(slot.uid) for slot in self.slots)
        if not self.slots or any(pod is not None and not pod.ended for pod in held):
            return False
        places = {slot.rank.place for slot in self.slots}
        is_over = any(success.closed for success in self.succeeded.values())
        return is_over or places.isdisjoint(self.rank(pod).place for pod in pods)

    def first_look(self, awaited: set[Rank], *, knows_all: bool) -> None:
        """Separate a finished run from the next one of the same name when both are seen at once.

        A running gang was started whole, except the ranks that a record lists as `awaited`. A
        muster that has just started does not know which ranks have ended since, unless it
        `knows_all`; nor whether waiting ranks ever ran. It evicts nobody for that.
        """
        live = [pod for pod in self.pods.values() if not pod.ended]
        runs = [pod for pod in live if pod.spec.node_name]
        if self._all_succeeded() and not runs:
            self._close_attempt()
        self.presumed = 0
        planned_here = self.generation or self.started_min
        if planned_here or not runs or not all(PLAN in pod.metadata.annotations for pod in runs):
            return  # it saw them run, or somebody else bound them
        # perhaps by that predecessor: then those that come after them are as old as they were
        self.sent_away = all(pod.metadata.deletion_timestamp for pod in runs)
        ranks = [self.rank(pod) for pod in live]
        there = {rank.place for rank in ranks}
        there.update(rank._replace(by="") for rank in ranks)  # as an earlier version had them
        lost = sum(rank.place not in there for rank in awaited)
        told = sum(PLAN in pod.metadata.annotations and not pod.gated for pod in live)
        # an earlier version did not write down how many start together
        self.begun_min = min(filter(None, map(_told_least, runs)), default=0)
        self.begun_min = self.begun_min or told + lost + len(self.succeeded)
        if not knows_all:
            self.presumed = max(0, self._num_absent(live) - lost)

    def _num_absent(self, live: list[Pod]) -> int:
        """Return how many ranks of the minimum are neither there nor known to have ended."""
        if self.size is None:
            return 0
        known = len(self.succeeded) + len(self.completed)
        least = self.least()
        old = sum(self.rank(pod).number < least for pod in live)  # not by which it grew
        return max(0, least - known - old, self.size.min_member - known - len(live))

    def least(self) -> int:
        """Return how many pods it needs to run, without those that were requested later."""
        assert self.size is not None
        need = self.size.min_member
        return min(need, self.started_min or self.begun_min or need)

    def count_succeeded(self, done: Completed) -> None:
        """Count ranks that succeeded in this attempt and are not run again; the owner says `done`.

        They count even when their pods are gone. Ranks of a finished attempt count only if the same
        controller runs the rest: it does not run them again.
        """
        live = [pod for pod in self.pods.values() if not pod.ended]
        if live:
            said = [attempt_of(pod) for pod in live if JOBSET_ATTEMPT in pod.metadata.labels]
            self.attempt = max(said, default=0)
        if live and self.succeeded:
            names = {pod.metadata.name for pod in live}
            runs = {_run_by(pod) for pod in live} - {""}
            ranks = {(_run_by(pod), *self.facts(pod).rank[:2]) for pod in live}
            self.succeeded = {
                uid: done
                for uid, done in self.succeeded.items()
                if done.name not in names
                and not (done.run_by and (done.run_by, *done.rank[:2]) in ranks)
                and done.attempt >= self.attempt
                and (not done.closed or done.run_by in runs)
            }
        self.completed = frozenset()
        if done:
            seen = {(one.run_by, *one.rank[:2]) for one in self.succeeded.values()}
            seen |= {(_run_by(pod), *self.facts(pod).rank[:2]) for pod in live}
            self.completed = done - seen
        if self.presumed:
            self.presumed = min(self.presumed, self._num_absent(live))
        self.num_succeeded = len(self.succeeded) + len(self.completed) + self.presumed

    def all_wait(self) -> bool:
        """True if the pods that the gang requested from the core still exist, without a node."""
        for part in self.request.parts if self.request is not None else []:
            for uid in part.uids:
                pod = self.pods.get(uid)
                if pod is None or pod.spec.node_name or pod.ended:
                    return False
                if pod.metadata.deletion_timestamp:
                    return False
        return True

    def live_pods(self) -> list[Pod]:
        """Return pods that run or will run, in rank order; required pods of a role first."""
        known, ranked = self._facts, []
        for at, (uid, pod) in enumerate(self.pods.items()):
            if pod.ended or (pod.metadata.deletion_timestamp and not pod.spec.node_name):
                continue
            facts = known.get(uid)
            ranked.append((self.rank(pod) if facts is None else facts.rank, at, pod))
        ranked.sort()
        pods = [pod for _, _, pod in ranked]
        if self.size is None or not self.size.by_role:
            return pods
        left = dict(self.size.by_role)
        beyond: dict[str, bool] = {}
        for pod in pods:
            role = self.rank(pod).role
            left[role] = left.get(role, 0) - 1
            beyond[pod.metadata.uid] = left[role] < 0
        return sorted(pods, key=lambda pod: beyond[pod.metadata.uid])

    def rank(self, pod: Pod) -> Rank:
        """Return a pod's rank, even if its requests cannot be read."""
        known = self._facts.get(pod.metadata.uid)
        if known is not None:
            return known.rank
        try:
            return self.facts(pod).rank
        except ValueError:
            return rank_of(pod)

    def begun(self) -> bool:
        """True if a pod of the present attempt runs, or may have been released."""
        return any(
            slot.attempt >= self.attempt
            and (slot.is_told or (slot.is_bound and not self.is_going(slot)))
            for slot in self.slots
        )

    def runs(self) -> bool:
        """True if one of its pods runs and is not being deleted."""
        return any(s.state is SlotState.BOUND and not self.is_going(s) for s in self.slots)

    def is_known_whole(self, bound: list[Slot]) -> bool:
        """True if it is known how many pods it started with, and these should still run.

        A gang that others bound may run as intended: some ranks may have succeeded, and its known
        size may be a guess, until it was seen whole.
        """
        if self.started_min or self.begun_min:
            return True
        return all(
            slot.plan.num_pods
            or not slot.shape.gpus
            or PLAN in self.pods[slot.uid].metadata.annotations
            for slot in bound
        )

    def is_placed(self) -> bool:
        """True once all its slots are bound."""
        if self.slots and not self.slots[-1].is_bound:
            return False  # most bind in rank order
        return all(slot.is_bound for slot in self.slots)

    def lacks(self) -> bool:
        """True if it ran whole and now holds GPUs with only a part of its ranks."""
        if self.size is None or not self.started_min:
            return False
        bound = [s for s in self.slots if s.state is SlotState.BOUND and not self.is_going(s)]
        if not bound or len(bound) + self.num_succeeded >= self.least():
            return False
        return any(slot.shape.gpus for slot in bound)

    def num_placed(self) -> int:
        """Pods with a slot that is to stay, plus those that succeeded.

        A node kept for a missing rank counts only while other ranks run.
        """
        kept = self.begun()
        return self.num_succeeded + sum(
            kept if slot.state is SlotState.VACANT else slot.is_held and not self.is_going(slot)
            for slot in self.slots
        )

    def is_whole(self) -> bool:
        """True unless pods that it needs are missing."""
        return self.size is None or self.begun() or self.num_placed() >= self.least()

    def waits_for_rest(self) -> bool:
        """True if some of its pods run with GPUs, but fewer than it needs."""
        if self.waits is None:
            runs = [s for s in self.slots if s.state is SlotState.BOUND and not self.is_going(s)]
            lacks = self.size is None or len(runs) + self.num_succeeded < self.least()
            self.waits = lacks and any(slot.shape.gpus for slot in runs)
        return self.waits

    def is_going(self, slot: Slot) -> bool:
        """True if the slot's pod is being deleted: it does no work, however long that takes."""
        pod = self.pods.get(slot.uid)
        return pod is not None and pod.metadata.deletion_timestamp is not None

    def asks(self) -> Wanted:
        """Return its requested pods that still exist and have no node."""
        if self.request is None:
            return Wanted([])
        uids = [uid for part in self.request.parts for uid in part.uids]
        placed = {slot.uid for slot in self.slots} if uids else ()
        pods = [self.pods[uid] for uid in uids if uid in self.pods and uid not in placed]
        to_come = sum(part.to_come for part in self.request.parts) if pods else 0
        return Wanted(pods, to_come, self.pods_later() if pods else ())

    def pods_later(self) -> tuple[Pod, ...]:
        """Return the pods that ask next, in this order."""
        return tuple(self.pods[uid] for uid in reversed(self.later) if uid in self.pods)

    def part_of(self, facts: Facts) -> tuple[str, Avoid]:
        """Return the part of equal pods that a pod belongs to, and what they avoid.

        The name of a part holds for as long as the gang is there.
        """
        rank, alike = facts.rank, facts.alike
        avoid = self.refusals.avoided(rank)
        alike += _encode(sorted(avoid)) if avoid else b""
        if self.avoids:  # many, but of all pods the same
            alike += digest_of(self.avoids)
            avoid = avoid | self.avoids if avoid else self.avoids
        name = self._part_of.get(alike)
        if name is None:
            same = self._num_parts[rank.role]
            self._num_parts[rank.role] += 1
            name = self._part_of[alike] = f"{rank.role}#{same}" if same else rank.role
        return name, avoid

    def look_at(self, slot: Slot) -> None:
        """Note what the pod of a slot asks for now."""
        facts = self.facts(self.pods[slot.uid])
        if slot.shape != facts.shape:
            slot.part, slot.shape = self.part_of(facts)[0], facts.shape
