"""Letting the core decide, a gang at a time, and giving the pods of that gang their nodes.

Between two gangs other tasks run, so that a thousand gangs that start at once delay neither the
lease nor a bind call. Facts that arrive then come after the decisions made before. The core is
asked again, so that a replay of the journal has facts and decisions in the same order.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator

from scheduler.controller.membership import LiveGang
from scheduler.controller.metrics import Metrics
from scheduler.controller.release import Release
from scheduler.controller.tables import Tables
from scheduler.core.decisions import Admit, Decision
from scheduler.workloads.gangs import GangKey

log = logging.getLogger("muster.deciding")
MOST_COUNTS = 3  #: in a row, bit by bit, of what stands; it is counted at once then
MOST_TRIES = 10  #: of a step to admit a gang whose pods come and go
#: a gang, and the nodes of its pods, before any of them is released
Untold = tuple[LiveGang, list[str]]


class Deciding:
    """Asks the core what to do next, and starts it."""

    def __init__(
        self,
        tables: Tables,
        release: Release,
        metrics: Metrics,
        mend: Callable[[LiveGang, float], None],
        set_aside: Callable[[LiveGang, Exception, str], None],
    ) -> None:
        self._work = tables.work
        self._ledger = tables.ledger
        self._names = tables.names
        self._release = release
        self._metrics = metrics
        self._mend = mend
        self._set_aside = set_aside

    def turns(self) -> Generator[None, None, bool]:
        """Let the core decide until nothing is left to decide; return whether it could.

        Other tasks may add facts, and read, after each head of the queue that fits.
        """
        untold: dict[GangKey, Untold] = {}
        decided = False
        for is_last in (False, True):
            try:
                yield from self._passes(untold)
                decided = True
                break
            except Exception:
                if is_last or not self._find_broken():
                    log.exception("the core failed again; nothing is planned in this step")
                    self._metrics.set_aside.labels(where="step").inc()
                    self._ledger.begin_anew()
                    break
        for gang, nodes in untold.values():
            self._release.tell_planned(gang, nodes)
            if not self._work.active:
                self._work.touch(gang.key)  # it may lead again
        return decided

    def settling(self, now_s: float) -> Iterator[None]:
        """Bring the core's state up to date in slices, if possible."""
        try:
            yield from self._ledger.settling(now_s)
        except Exception as error:
            log.warning("cannot build the core's state: %s", error)  # nor can it later on

    def _passes(self, untold: dict[GangKey, Untold]) -> Iterator[None]:
        """Make passes until none is followed by a gang that asks for its next pod."""
        placed: list[LiveGang] = []  #: in this pass
        tries: Counter[str] = Counter()
        num_counts = 0
        self._ledger.is_deciding = False
        while True:
            now_s = self._work.now_s()
            is_settled = self._ledger.is_settled
            if not is_settled:
                yield from self.settling(now_s)
            if not self._work.active:
                return
            if not is_settled:
                if self._ledger.has_to_count() and num_counts < MOST_COUNTS:
                    num_counts += 1
                    continue
                self._ledger.settle(now_s)  # it is, or nothing can be decided
            num_counts = 0
            decisions = self._ledger.ask(now_s)
            if not self._have_changed(decisions, now_s, tries):
                for gang, nodes in self._carry_out(decisions, now_s):
                    placed.append(gang)
                    untold.setdefault(gang.key, (gang, []))[1].extend(nodes)
                    if not gang.later:
                        self._release.tell_planned(*untold.pop(gang.key))
                if not self._ledger.is_deciding:
                    if not [gang for gang in placed if self._ask_next(gang)]:
                        return
                    placed = []
            yield

    def _have_changed(
        self, decisions: tuple[Decision, ...], now_s: float, tries: Counter[str]
    ) -> bool:
        """True if gangs that the core admits ask for pods that wait no more: they were mended.

        That was heard since they were looked at; nothing is carried out then.
        """
        changed = False
        for one in decisions:
            gang = self._names[one.gang] if isinstance(one, Admit) else None
            if gang is not None and not gang.all_wait() and tries[gang.name] < MOST_TRIES:
                tries[gang.name] += 1
                self._mend(gang, now_s)
                changed = True
        return changed

    def _carry_out(self, decisions: tuple[Decision, ...], now_s: float) -> Iterator[Untold]:
        """Carry out what the core decided; yield the gangs that got nodes."""
        for placed in self._ledger.carry_out(decisions, now_s):
            gang = self._names[placed.name]
            try:
                self._release.planned(gang, placed)
                yield gang, [node for _, _, node in placed.nodes]
            except Exception as error:
                self._could_not_release(gang, error)

    def _ask_next(self, gang: LiveGang) -> bool:
        """Let the next pod of a gang ask for a node; False if there is none."""
        try:
            return self._release.ask_next(gang)
        except Exception as error:
            self._could_not_release(gang, error)
            return False

    def _could_not_release(self, gang: LiveGang, error: Exception) -> None:
        self._set_aside(gang, error, "release")
        self._release.drop(gang, "muster failed on it")

    def _find_broken(self) -> bool:
        """Set the gangs aside that the core fails on; return whether they could be found."""
        log.exception("the core failed; searching for the gang that causes it")
        try:
            for name, error in self._ledger.find_broken(self._work.now_s()).items():
                self._set_aside(self._names[name], error, "decide")
            return True
        except Exception:
            return False
