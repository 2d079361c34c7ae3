"""Ages of gangs whose pods muster evicted: their successors inherit the waiting time.

The ages are stored in the cluster, so they hold under any leader and for any creator of the pods.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import inf
from typing import Protocol

import msgspec

from scheduler.controller.membership import LiveGang
from scheduler.controller.work import Work
from scheduler.kube.api import ApiError
from scheduler.kube.reading import UNREADABLE
from scheduler.workloads.gangs import GangKey, Source

log = logging.getLogger("muster.ages")
AGE_S = 600.0  #: pods that come so long after those before them are as old as they were
ENDING_S = 3600.0  #: pods that were told to end may take so long
MOST = 400  #: gangs that are written down, the latest: a ConfigMap holds 1 MiB


class Age(msgspec.Struct, array_like=True):
    """Since when a gang waits, and until when this is kept; in seconds since 1970."""

    key: tuple[str, str, str, str]
    submit_unix_s: float
    until_unix_s: float
    ordinal: int = 0


class Store(Protocol):
    """Where ages are stored."""

    async def write_ages(self, text: str) -> None: ...


class Ages:
    """The ages of gangs that come back."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._kept: dict[GangKey, Age] = {}
        self.store: Store | None = None
        self._is_stale = self._is_writing = False

    def knows(self, key: GangKey) -> bool:
        """True if muster evicted the pods of a gang."""
        return key in self._kept

    def give(self, gang: LiveGang) -> None:
        """Make a gang as old as the pods before it."""
        age = self._kept.get(gang.key)
        if age is not None and self._unix_s() < age.until_unix_s:
            gang.submit_s = min(gang.submit_s, age.submit_unix_s - self._work.zero_unix_s)
            gang.ordinal = age.ordinal or gang.ordinal

    def note(self, gang: LiveGang) -> None:
        """Record the age of a gang that is being evicted, or that inherited the age of one."""
        known, unix_s = self._kept.get(gang.key), self._unix_s()
        if known is None or known.until_unix_s < unix_s + AGE_S:
            self._keep(gang, unix_s + ENDING_S)

    def end(self, gang: LiveGang) -> None:
        """Let a gang without pods start over; one that muster evicted keeps its age."""
        if gang.sent_away and gang.submit_s < inf:
            self._keep(gang, self._unix_s() + AGE_S)
            self._work.look_again(gang.key, self._work.now_s() + AGE_S)
        else:
            gang.submit_s = inf
            self.forget(gang.key)
        gang.sent_away = False

    def forget(self, key: GangKey) -> None:
        """Forget the age of a gang that runs again, or that its user deleted."""
        if self._kept.pop(key, None) is not None:
            self._write()

    def read(self, text: str, gangs: Iterable[LiveGang]) -> None:
        """Read the ages that a predecessor stored, and apply them to gangs that exist already."""
        try:
            for age in msgspec.json.decode(text or "[]", type=list[Age]):
                namespace, name, source, owner = age.key
                age.ordinal = 0  # counted by that one
                self._kept[GangKey(namespace, name, Source(source), owner)] = age
        except UNREADABLE as error:
            log.warning("cannot read the ages of evicted gangs: %s", error)
        for gang in gangs:
            self.give(gang)

    def _unix_s(self) -> float:
        return self._work.now_s() + self._work.zero_unix_s

    def _keep(self, gang: LiveGang, until_unix_s: float) -> None:
        if gang.submit_s == inf:
            return
        key, unix_s = gang.key, self._unix_s()
        for other in [other for other, age in self._kept.items() if age.until_unix_s <= unix_s]:
            del self._kept[other]
        self._kept.pop(key, None)  # the latest comes last
        plain = (key.namespace, key.name, str(key.source), key.owner)
        submit_unix_s = gang.submit_s + self._work.zero_unix_s
        self._kept[key] = Age(plain, submit_unix_s, until_unix_s, gang.ordinal)
        self._write()

    def _write(self) -> None:
        self._is_stale = True
        if self.store is not None and not self._is_writing and self._work.active:
            self._is_writing = True
            self._work.start(self._written(self.store))

    async def _written(self, store: Store) -> None:
        try:
            while self._is_stale:
                self._is_stale = False
                latest = list(self._kept.values())[-MOST:]
                await store.write_ages(msgspec.json.encode(latest).decode())
        except ApiError as error:
            log.warning("cannot write the ages of evicted gangs: %s", error)
        finally:
            self._is_writing = False
