"""A controller on the bench with the pages of its status: facts are put in, looks are taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from scheduler.core.state import ClusterState
from scheduler.status.facts import ClusterFacts
from scheduler.status.pages import Breath
from scheduler.status.snapshot import Snapshot
from scheduler.status.story import Memory
from scheduler.status.tally import Tally
from tests.scheduler.controller.rig import Rig


class Watched(Rig):
    """A rig that is counted and looked at as a service's controller is."""

    tally: Tally

    def __init__(self, nodes: int = 4, gpus: int = 8, **settings: Any) -> None:
        super().__init__(0, gpus, **settings)
        self.memory = Memory()
        self.tally = Tally(self.control, self.memory)
        self.publisher.on_change = self.tally.changed
        self.publisher.memory = self.memory
        made: Any = SimpleNamespace(
            controller=self.control,
            ledger=self.ledger,
            publisher=self.publisher,
            memory=self.memory,
            tally=self.tally,
        )
        self.facts = ClusterFacts(made)
        for number in range(nodes):
            self.node(number, gpus)

    def _record(self, now_s: float, item: object) -> None:
        super()._record(now_s, item)
        self.tally.heard(item)

    def _rebuilt(self, now_s: float, state: ClusterState) -> None:
        super()._rebuilt(now_s, state)
        if hasattr(self, "tally"):  # the first state is made before anybody counts
            self.tally.all_changed()

    async def look(self) -> Snapshot:
        """Take a look at once, whatever was kept of the last one."""
        return await self.facts._look(Breath())

    async def now(self) -> dict[str, Any]:
        """Return what the page is made of."""
        self.facts._looks._until_s = 0.0
        found: dict[str, Any] = msgspec.json.decode(await self.facts.pages["/now"].get())
        return found
