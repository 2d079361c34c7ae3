"""Which pods come after those that are gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice

from scheduler.controller.membership import LiveGang
from scheduler.controller.slots import Slot
from scheduler.kube.objects import Pod, unix_s
from scheduler.workloads.gangs import Rank

MOST_TRIED = 16  #: empty slots that one pod is tried on


class Given(defaultdict[str, list[Slot]]):
    """Slots by the reason to give them back; without one they are kept."""

    def __init__(self) -> None:
        super().__init__(list)


class Successors:
    """Who is there of each rank, at one look at a gang; worked out once somebody is gone."""

    def __init__(self, gang: LiveGang, live: dict[str, Pod], free: list[Pod]) -> None:
        self._gang = gang
        self._live = live  #: by uid
        self._free = free  #: pods without a slot, in rank order
        self._placed: set[Rank] | None = None
        self._waiting: dict[Rank, list[Pod]] | None = None

    def has_node(self, slot: Slot) -> bool:
        """True if a pod that comes after the one that is gone of a slot has another node."""
        if self._placed is None:
            pods = (self._live.get(one.uid) for one in self._gang.slots if one.is_held)
            self._placed = {self._gang.rank(pod).place for pod in pods if pod is not None}
        return slot.rank.place in self._placed

    def of(self, slot: Slot) -> list[Pod]:
        """Return the pods of the rank of a slot that have no slot, those to take out of it."""
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
        """Yield empty slots, each with a pod that came instead, and whether it fits there.

        Owners such as a ReplicaSet give no pod the name of the one that it comes after. Where names
        say a number, a pod that asked already, and before `since_unix_s`, is of a rank beyond those
        that ran: who is missed comes again under the old name. An owner that tells its pods apart
        keeps its places while it is there; then another may have come after it.
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
