"""The strict discipline: a head that does not fit blocks everybody behind it."""

from __future__ import annotations

from scheduler.core.queueing import GangState
from scheduler.policies.passes import Pass


def strict(around: Pass, head: GangState) -> None:
    """Admit nobody."""
