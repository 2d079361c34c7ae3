"""What the controller tells people, whoever carries it to them."""

from __future__ import annotations

from typing import Protocol

from scheduler.controller.membership import LiveGang
from scheduler.workloads.gangs import GangKey


class Telling(Protocol):
    """Takes what is worth telling; losing a message loses nothing else."""

    def wake(self) -> None:
        """Note that reasons may have changed."""

    def changed(self, key: GangKey) -> None:
        """Note that a gang may stand otherwise than it did, or be gone."""

    def note(self, gang: LiveGang, what: str, text: str) -> None:
        """Put a moment into the gang's story."""

    def event(self, gang: LiveGang, reason: str, message: str) -> None:
        """Tell whoever looks at what the user made."""

    def forget(self, gang: LiveGang) -> None:
        """Note that a gang is gone."""
