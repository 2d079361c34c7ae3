"""The skip discipline: a head that does not fit lets others pass; nothing is kept for it."""

from __future__ import annotations

from scheduler.core.queueing import GangState
from scheduler.policies.passes import Pass


def skip(around: Pass, head: GangState) -> None:
    """Admit every later gang that fits, in order."""
    for member, _, placement in around.fitting():
        around.admit(member, placement)
