"""Successors of pods that are gone, and the nodes that are kept for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice

from scheduler.controller.membership import LiveGang
from scheduler.controller.release import Release
from scheduler.controller.slots import Slot, SlotState
from scheduler.controller.tables import Tables
from scheduler.kube.objects import Pod, unix_s
from scheduler.workloads.eligibility import NAME_FIELD
from scheduler.workloads.gangs import GangKey, Rank, rank_of

MOST_FAILED = 2  #: pods in a row that a node's kubelet refuses; the next goes elsewhere if it can
MOST_TRIED = 16  #: empty slots that one pod is tried on


class Given(defaultdict[str, list[Slot]]):
    """Slots by the reason to give them back; without one they are kept."""

    def __init__(self) -> None:
        super().__init__(list)


class Successors:
    """The present pods of each rank of a gang; computed only once a pod is gone."""

    def __init__(self, gang: LiveGang, live: dict[str, Pod], free: list[Pod]) -> None:
        self._gang = gang
        self._live = live  #: by uid
        self._free = free  #: pods without a slot, in rank order
        self._placed: set[Rank] | None = None
        self._waiting: dict[Rank, list[Pod]] | None = None

    def has_node(self, slot: Slot) -> bool:
        """True if the successor of a slot's vanished pod has another node."""
        if self._placed is None:
            pods = (self._live.get(one.uid) for one in self._gang.slots if one.is_held)
            self._placed = {self._gang.rank(pod).place for pod in pods if pod is not None}
        return slot.rank.place in self._placed

    def of(self, slot: Slot) -> list[Pod]:
        """Return the candidates for a slot: pods of its rank without a slot."""
        if self._waiting is None:
            self._waiting = {}
            for pod in self._free:
                self._waiting.setdefault(self._gang.rank(pod).place, []).append(pod)
        return self._waiting.get(slot.rank.place) or []

    def instead(
        self,
        vacant: list[Slot],
        takes: Callable[[str, Pod], bool],
        since_unix_s: Callable[[Slot], float],
    ) -> Iterator[tuple[Slot, Pod, bool]]:
        """Yield empty slots, each with a replacement pod, and whether it fits there.

        Owners such as a ReplicaSet never give a replacement the name of the old pod. Where names
        contain a number, a pod that asked before `since_unix_s` has a rank beyond those that ran: a
        missing rank comes back under its old name. An owner that distinguishes its pods keeps its
        places while it exists; then another owner may have replaced it.
        """
        gang = self._gang
        left: dict[tuple[str, bool], list[Slot]] = {}
        here = {gang.rank(pod).by for pod in self._live.values()} - {""}
        for slot in reversed(vacant):
            if slot.rank.by not in here:
                left.setdefault((slot.rank.role, bool(slot.rank.by)), []).append(slot)
        ran = {slot.rank.by for slot in gang.slots} - {""}
        asked = {pod.metadata.uid for pod in (*gang.asks().pods, *gang.pods_later())}
        had = {slot.uid for slot in gang.slots}
        for pod in self._free if left else ():
            uid = pod.metadata.uid
            rank = gang.rank(pod)
            if uid in had or pod.spec.node_name or rank.by in ran:
                continue
            shape = gang.facts(pod).shape
            may, created_s = uid not in asked, unix_s(pod.metadata.creation_timestamp)
            alike = left.get((rank.role, bool(rank.by)), [])
            unfit = [
                (slot.shape != shape or not takes(slot.node, pod), at)
                for at, slot in enumerate(islice(reversed(alike), MOST_TRIED), 1)
                if may or not (slot.rank.within or rank.within) or created_s >= since_unix_s(slot)
            ]
            if unfit:
                is_unfit, at = min(unfit)
                yield alike.pop(-at), pod, not is_unfit


class Succession:
    """Keeps the nodes of vanished pods for their successors."""

    def __init__(self, tables: Tables, release: Release) -> None:
        self._tables = tables
        self._work = tables.work
        self._ledger = tables.ledger
        self._timeouts = tables.settings.timeouts
        self._release = release

    def empty(self, gang: LiveGang, slot: Slot, successors: Successors, now_s: float) -> str:
        """Take a slot from a vanished pod, and keep its node for the successor.

        Returns why there can be no successor and the slot must be given back, or nothing.
        """
        if slot.uid in gang.succeeded:
            return "its pod succeeded"
        if slot.state is SlotState.ENDING:
            return "its pod ended with its gang"
        if successors.has_node(slot):
            return "its successor has another node"
        self._tables.slot_of.pop(slot.uid, None)
        slot.vacated(now_s)
        self._tables.vacancies.add(gang, slot, self._tables.gangs.values(), now_s)
        self._tables.unplaced[gang.key] = gang
        self._work.look_again(gang.key, now_s + self._timeouts.repair_s)
        return ""

    def fill(self, gang: LiveGang, slot: Slot, successors: Successors, now_s: float) -> str:
        """Give an empty slot to the pod of its rank, if there is one.

        Returns why no pod can get it and it must be given back, or nothing.
        """
        of_rank = successors.of(slot)
        pod = next((pod for pod in of_rank if not pod.spec.node_name), None)
        old = slot.attempt < gang.attempt
        if pod is not None and not old and self._ledger.takes(slot.node, pod):
            of_rank.remove(pod)
            return self._hand_over(gang, slot, pod, now_s)
        return (
            "of an earlier attempt"
            if old
            else "its pod cannot use it"
            if of_rank
            else "its node is gone"
            if slot.node not in self._ledger.nodes
            else "no successor came"
            if self.is_over(gang, slot, now_s)
            else ""
        )

    def fill_instead(self, gang: LiveGang, successors: Successors, now_s: float) -> None:
        """Give empty slots to replacement pods, or back if these cannot use them."""
        vacant = [slot for slot in gang.slots if slot.state is SlotState.VACANT]
        if not vacant:
            return
        earlier_s = self._timeouts.repair_s - self._work.zero_unix_s
        found = successors.instead(
            vacant, self._ledger.takes, lambda slot: slot.since_s - earlier_s
        )
        given = Given()
        for slot, pod, fits in found:
            why = "its successor cannot use it"
            given[self._hand_over(gang, slot, pod, now_s) if fits else why].append(slot)
        self.give_back(gang, given, now_s)

    def _hand_over(self, gang: LiveGang, slot: Slot, pod: Pod, now_s: float) -> str:
        """Give an empty slot to a pod.

        Returns why the pod is better off elsewhere, so that it is to be given back, or nothing.
        """
        shape = gang.facts(pod).shape
        if self._ledger.overfull(slot.node, shape, shape.plus(slot.shape, -1)):
            return "its node is taken"
        if slot.num_failed >= MOST_FAILED:
            avoid = gang.refusals.avoided(rank_of(pod)) | {(NAME_FIELD, slot.node)}
            if self._ledger.has_room_beside(avoid, pod, shape):
                self._release.fails_on_node(gang, slot, now_s)
                return "its node refuses its pods"
        self._tables.vacancies.remove(gang, slot)
        slot.filled(now_s, pod.metadata.uid, rank_of(pod))
        gang.look_at(slot)
        self._tables.unplaced[gang.key] = gang
        self._tables.slot_of[slot.uid] = (gang, slot)
        self._work.look_again(gang.key, now_s + self._timeouts.repair_s)  # by then others have one
        return ""

    def is_over(self, gang: LiveGang, slot: Slot, now_s: float) -> bool:
        """True if a node was kept long enough for the successor of a vanished pod."""
        if now_s - slot.since_s < self._timeouts.repair_s:
            return False
        left_s = self._timeouts.repair_s - self._work.waited_s(slot.since_s)
        if left_s > 0:  # nobody could make one while the API server was away
            self._work.look_again(gang.key, now_s + left_s, "away")
        return left_s <= 0

    def give_back(self, gang: LiveGang, given: Given, now_s: float) -> None:
        """Give slots back all at once: there may be thousands."""
        for cause, slots in given.items():
            if cause:
                self._tables.give_back(gang, slots, now_s, cause)

    def keep_within(self, gang: LiveGang, now_s: float) -> None:
        """Give back the oldest empty slots of a namespace that keeps more than it had pods for."""
        found: dict[GangKey, list[Slot]] = {}
        for other, slot in self._tables.vacancies.beyond(gang.key.namespace):
            found.setdefault(other.key, []).append(slot)
        for key, slots in found.items():
            other = self._tables.gangs[key]
            self._tables.give_back(
                other, slots, now_s, "its namespace keeps as much as it may for other ranks"
            )
            if other is not gang:
                self._tables.tell(other, other.asks())
