"""What the pods of one namespace may make muster tell apart, all of them together.

Every kind of pods that waits costs a look in each pass over the queue, and may be a class of nodes.
No single object shows how many there are, so they are counted by namespace. Who has more waits, and
nobody else does.
"""

from __future__ import annotations

from collections import Counter

from scheduler.controller.membership import LiveGang

MOST_KINDS = 1000  #: that wait at once, of one namespace
MOST_IN_ALL = 4000
ALWAYS = 8  #: of one namespace, however many others have
#: kinds of pods times classes of nodes: how many of the ones fit into the others is counted
MOST_FITS = 500_000


class Budget:
    """Counts kinds of waiting pods: equal ones, of whichever gang, are one."""

    def __init__(self) -> None:
        self._gangs_with: dict[str, Counter[bytes]] = {}
        self.num_kinds = 0

    def count(self, gang: LiveGang, kinds: frozenset[bytes], num_classes: int = 1) -> str:
        """Count these kinds for a gang instead of those it had, or say why they are too many."""
        if kinds == gang.kinds:
            return ""
        namespace = gang.key.namespace
        self._change(namespace, gang.kinds, -1)
        gang.kinds = frozenset()
        others = self._gangs_with.get(namespace, Counter())
        more = sum(kind not in others for kind in kinds)
        num = len(others) + more
        in_all = min(MOST_IN_ALL, MOST_FITS // max(1, num_classes))
        if num > MOST_KINDS or (num > ALWAYS and self.num_kinds + more > in_all):
            whose = f"namespace {namespace}" if num > MOST_KINDS else "the cluster"
            most = MOST_KINDS if num > MOST_KINDS else in_all
            return (
                f"with its {len(kinds):,} kinds of pods, pods of more than {most:,} kinds of "
                f"{whose} would wait at once; let pods ask for the same, or let others start first"
            )
        self._change(namespace, kinds, 1)
        gang.kinds = kinds
        return ""

    def _change(self, namespace: str, kinds: frozenset[bytes], by: int) -> None:
        if not kinds:
            return
        known = self._gangs_with.setdefault(namespace, Counter())
        self.num_kinds -= len(known)
        for kind in kinds:
            known[kind] += by
            if not known[kind]:
                del known[kind]
        self.num_kinds += len(known)
        if not known:
            del self._gangs_with[namespace]
