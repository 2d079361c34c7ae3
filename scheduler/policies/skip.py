"""The skip discipline: a head that does not fit lets others pass; nothing is kept for it."""

from __future__ import annotations

from scheduler.core.queueing import Demand, Entry, Family, GangState
from scheduler.policies.passes import Pass


def skip(around: Pass, head: GangState) -> None:
    """Admit every later gang that fits, in order."""

    def first(family: Family, demand: Demand) -> Entry | None:
        return demand.first(around.taken)

    for member, _, placement in around.fitting(first, lambda newcomer: True):
        around.admit(member, placement)
