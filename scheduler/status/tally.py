"""How many pods and gangs wait, by reason, at every moment: kept up with what changes.

Gangs of one shape and size wait for one reason, so that a pass which changes that costs by the
distinct shapes that wait and not by the length of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import NamedTuple

from scheduler.controller.controller import Controller
from scheduler.core.decisions import PendingReason
from scheduler.core.events import NodeAdded, NodeLost
from scheduler.core.model import Gang
from scheduler.core.state import ClusterState
from scheduler.status.pages import Breath
from scheduler.status.phases import Outlook, standing
from scheduler.status.story import Memory
from scheduler.workloads.gangs import GangKey

log = logging.getLogger("muster.tally")
MOST_GONE = 10_000  #: gangs to look at that are no more, on a replica whose pages nobody reads


class _Share(NamedTuple):
    """What one gang adds."""

    why: PendingReason | Outlook
    pods: int


class Tally:
    """Counts what waits, and looks at a gang again once somebody says that it may have changed.

    `memory` keeps the pods by reason, and since when there are so many.
    """

    def __init__(self, control: Controller, memory: Memory) -> None:
        self._control = control
        self._memory = memory
        self._lock = asyncio.Lock()
        self._stale: dict[GangKey, None] = {}
        self._shares: dict[GangKey, _Share] = {}
        self._pods: Counter[PendingReason | Outlook] = Counter()
        self._gangs: Counter[PendingReason | Outlook] = Counter()
        self._state: ClusterState | None = None  #: of which the shares are
        self._changed = asyncio.Event()
        self._since_unix_s = 0.0  #: when the first change came that was not counted yet

    # -- what changed ------------------------------------------------------------------------

    def changed(self, key: GangKey) -> None:
        """Note that a gang may stand otherwise, or be gone."""
        self._stale[key] = None
        if len(self._stale) > 2 * len(self._control.gangs) + MOST_GONE:  # nobody looks, nor counts
            there = self._stale.keys() & (self._control.gangs.keys() | self._shares.keys())
            self._stale = dict.fromkeys(there)
        self._note()

    def heard(self, item: object) -> None:
        """Note what the core was told, or decided."""
        gang = getattr(item, "gang", None)
        if gang is not None:
            found = self._control.names.get(gang.name if isinstance(gang, Gang) else gang)
            if found is not None:
                self._stale[found.key] = None
        elif isinstance(item, NodeAdded | NodeLost):
            self.all_changed()  # of what never fitted something may fit now
        self._note()

    def all_changed(self) -> None:
        """Note that each gang may stand otherwise."""
        self._stale |= dict.fromkeys(self._control.gangs)
        self._stale |= dict.fromkeys(self._shares)
        self._note()

    def _note(self) -> None:
        if not self._changed.is_set():
            self._changed.set()
            self._since_unix_s = time.time()

    async def wait(self, within_s: float) -> bool:
        """Wait until something has changed; return whether it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        return self._changed.is_set()

    # -- what waits --------------------------------------------------------------------------

    async def settle(self, breath: Breath) -> None:
        """Look at all gangs that may have changed, and tell what waits now."""
        async with self._lock:  # or what one found would be told after what another found later
            since_unix_s = self._since_unix_s if self._changed.is_set() else time.time()
            self._changed.clear()
            if self._state is not self._control.ledger.state:  # made anew, with other families
                self._state = self._control.ledger.state
                self.all_changed()
                self._changed.clear()
            while self._stale:
                key = next(iter(self._stale))
                del self._stale[key]
                self._look_at(key)
                await breath()
            self._memory.point(self.pods(), since_unix_s)

    def _look_at(self, key: GangKey) -> None:
        old = self._shares.pop(key, None)
        if old is not None:
            self._add(old, -1)
        gang = self._control.gangs.get(key)
        if gang is None or not gang.pods:
            return
        try:
            found = standing(gang, self._control.ledger)
        except Exception:
            log.exception("gang %s is not counted", gang.name)
            return
        if found.why is not None:
            share = self._shares[key] = _Share(found.why, found.pending)
            self._add(share, 1)

    def _add(self, share: _Share, times: int) -> None:
        for counts, number in ((self._pods, share.pods), (self._gangs, 1)):
            counts[share.why] += times * number
            if not counts[share.why]:
                del counts[share.why]

    def pods(self) -> Counter[str]:
        """Return how many pods wait, by reason."""
        return _by_reason(self._pods)

    def gangs(self) -> Counter[str]:
        """Return how many gangs wait, by reason."""
        return _by_reason(self._gangs)


def _by_reason(counts: Counter[PendingReason | Outlook]) -> Counter[str]:
    found: Counter[str] = Counter()
    for why, number in counts.items():
        found[str(why.reason if isinstance(why, Outlook) else why)] += number
    return found
