"""Nodes kept for missing pods: no more than their namespace had pods for.

A quota counts existing pods. A user who creates and deletes pods in rounds would hold the nodes of
each round for `repair_s`, without a pod and beyond any quota.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.controller.membership import LiveGang
from scheduler.controller.slots import Slot
from scheduler.core.model import PodShape

ZERO = PodShape(0)
SAMPLE_S = 1.0  #: what pods hold is added up at most once in so long


@dataclass(slots=True)
class _Namespace:
    """What one namespace keeps for pods to come, and the most that pods of it held of late."""

    kept: dict[Slot, LiveGang] = field(default_factory=dict)  #: the oldest first
    size: PodShape = ZERO  #: of all that is kept
    since_s: float = 0.0  #: the most is of since then ...
    most: PodShape = ZERO
    before: PodShape = ZERO  #: ... and of the `keep_s` before
    sampled_s: float = -SAMPLE_S

    def lived(self, shape: PodShape, now_s: float, keep_s: float) -> None:
        """Note what existing pods hold."""
        if now_s - self.since_s >= keep_s:
            self.before = self.most if now_s - self.since_s < 2 * keep_s else ZERO
            self.since_s, self.most = now_s, ZERO
        self.most = self.most.most(shape)
        self.sampled_s = now_s


class Vacancies:
    """The empty slots of each namespace."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._known: dict[str, _Namespace] = {}

    def add(self, gang: LiveGang, slot: Slot, gangs: Iterable[LiveGang], now_s: float) -> None:
        """Note that a slot lost its pod; `gangs` are all gangs."""
        name = gang.key.namespace
        here = self._known.setdefault(name, _Namespace())
        if now_s - here.sampled_s >= SAMPLE_S or here.since_s > now_s:
            held = _held(gang for gang in gangs if gang.key.namespace == name)
            here.lived(held.plus(here.size, -1), now_s, self._keep_s)
        here.kept[slot] = gang
        here.size = here.size.plus(slot.shape)

    def resume(self, gang: LiveGang, slot: Slot, now_s: float) -> None:
        """Note an empty slot of a predecessor, which had kept within the limit."""
        here = self._known.setdefault(gang.key.namespace, _Namespace(since_s=now_s))
        here.kept[slot] = gang
        here.size = here.size.plus(slot.shape)
        here.most = here.most.most(here.size)

    def remove(self, gang: LiveGang, slot: Slot) -> None:
        """Note that an empty slot is filled, or given back."""
        name = gang.key.namespace
        here = self._known.get(name)
        if here is not None and here.kept.pop(slot, None) is not None:
            here.size = here.size.plus(slot.shape, -1)

    def beyond(self, namespace: str) -> list[tuple[LiveGang, Slot]]:
        """Return the oldest empty slots beyond what pods of the namespace held together."""
        here = self._known.get(namespace)
        if here is None:
            return []
        most, size = here.most.most(here.before), here.size
        found: list[tuple[LiveGang, Slot]] = []
        for slot, gang in here.kept.items():
            if most.covers(size):
                break
            size = size.plus(slot.shape, -1)
            found.append((gang, slot))
        return found

    def forget(self, now_s: float) -> None:
        """Forget namespaces in which nothing was lost for a long time."""
        for name, here in list(self._known.items()):
            if not here.kept and now_s - here.sampled_s > 2 * self._keep_s:
                del self._known[name]


def _held(gangs: Iterable[LiveGang]) -> PodShape:
    total = ZERO
    for gang in gangs:
        for part in gang.request.parts if gang.request is not None else ():
            total = total.plus(part.shape, len(part.nodes))
    return total
