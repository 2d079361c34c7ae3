"""What the controller reports to people; others deliver it."""

from __future__ import annotations

from typing import Protocol

from scheduler.controller.membership import LiveGang
from scheduler.workloads.gangs import GangKey


class Telling(Protocol):
    """Accepts messages for people; a lost message has no other effect."""

    def wake(self) -> None:
        """Note that reasons may have changed."""

    def changed(self, key: GangKey) -> None:
        """Note that a gang may stand otherwise than it did, or be gone."""

    def note(self, gang: LiveGang, what: str, text: str) -> None:
        """Add an entry to the gang's history."""

    def event(self, gang: LiveGang, reason: str, message: str) -> None:
        """Send an Event on the object that the user created."""

    def forget(self, gang: LiveGang) -> None:
        """Note that a gang is gone."""
