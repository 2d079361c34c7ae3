"""How many kinds of waiting pods one namespace may have.

Every kind of waiting pods costs time in each pass over the queue, and may need its own class of
nodes. No single object shows how many kinds there are, so they are counted per namespace. Gangs
beyond the limit wait; gangs of other namespaces do not.
"""

from __future__ import annotations

from collections import Counter

from scheduler.controller.membership import LiveGang

MOST_KINDS = 1000  #: that wait at once, of one namespace
MOST_IN_ALL = 4000
ALWAYS = 8  #: of one namespace, however many others have
#: kinds of pods times classes of nodes: how many of the ones fit into the others is counted
MOST_FITS = 500_000
KIND_BYTES = 1024  #: a kind counts once for each so many of what it says: each is looked at


class Budget:
    """Counts kinds of waiting pods: equal pods are one kind, even in different gangs."""

    def __init__(self) -> None:
        self._gangs_with: dict[str, Counter[bytes]] = {}
        self._num_of: Counter[str] = Counter()  #: kinds by namespace
        self.num_kinds = 0

    def count(self, gang: LiveGang, kinds: frozenset[bytes], num_classes: int = 1) -> str:
        """Count these kinds for a gang instead of those it had, or say why they are too many."""
        if kinds == gang.kinds:
            return ""
        namespace = gang.key.namespace
        self._change(namespace, gang.kinds, -1)
        gang.kinds = frozenset()
        others = self._gangs_with.get(namespace, Counter())
        more = sum(_times(kind) for kind in kinds if kind not in others)
        num = self._num_of[namespace] + more
        in_all = min(MOST_IN_ALL, MOST_FITS // max(1, num_classes))
        # what others had first leaves a namespace its share
        share = max(ALWAYS, in_all // len(self._gangs_with.keys() | {namespace}))
        if num > MOST_KINDS or (num > share and self.num_kinds + more > in_all):
            whose = f"namespace {namespace}" if num > MOST_KINDS else "the cluster"
            most = MOST_KINDS if num > MOST_KINDS else in_all
            return (
                f"with its {len(kinds):,} kinds of pods, more than {most:,} kinds of pods of "
                f"{whose} would wait at once; give its pods equal requests, or let other gangs "
                "start first"
            )
        self._change(namespace, kinds, 1)
        gang.kinds = kinds
        return ""

    def _change(self, namespace: str, kinds: frozenset[bytes], by: int) -> None:
        if not kinds:
            return
        known = self._gangs_with.setdefault(namespace, Counter())
        num = 0
        for kind in kinds:
            known[kind] += by
            if known[kind] == max(0, by):  # it came, or the last of it went
                num += by * _times(kind)
            if not known[kind]:
                del known[kind]
        self.num_kinds += num
        self._num_of[namespace] += num
        if not known:
            del self._gangs_with[namespace], self._num_of[namespace]


def _times(kind: bytes) -> int:
    """Return how often a kind counts."""
    return 1 + len(kind) // KIND_BYTES
