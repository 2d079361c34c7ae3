"""Pods that repel others by required anti-affinity, which kube-scheduler applies to both sides.

Each pod closes only its own place: the nodes whose topology label has the value of its node. Where
muster binds by itself, it plans around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from scheduler.kube.objects import NodeObject, Pod
from scheduler.workloads.eligibility import Avoid, clause_matches

MOST_TERMS = 1000  #: whose selectors are looked at for one gang; all others keep everybody off
ANYWHERE = ""  #: stands for every namespace
_encode = msgspec.json.Encoder(order="deterministic").encode


class _Term(msgspec.Struct):
    selector: dict[str, Any]
    topology: str
    nodes: Counter[str] = msgspec.field(default_factory=Counter)  #: of the pods that have it
    where: Avoid | None = None  #: the labels of those nodes; None if they are to be found


class _Taken(NamedTuple):
    """What was read of one pod."""

    node: str
    affinity: dict[str, Any]
    terms: list[tuple[str, bytes]]


class Repelling:
    """Required anti-affinity of the pods that have a node, by the namespaces that it applies to."""

    def __init__(self, nodes: Mapping[str, NodeObject]) -> None:
        self._nodes = nodes
        self._terms: dict[str, dict[bytes, _Term]] = {}
        self._of: dict[str, _Taken] = {}
        self.version = 0  #: grows whenever who is kept off may be another

    def take(self, pod: Pod) -> None:
        """Process a pod's present state."""
        uid, affinity, node = pod.metadata.uid, pod.spec.affinity, pod.spec.node_name
        known = self._of.get(uid)
        if affinity is None or not node or pod.ended:
            if known is not None:
                self.drop(uid)
            return
        if known is not None and (known.node, known.affinity) == (node, affinity):
            return
        self.drop(uid)
        taken = _Taken(node, affinity, [])
        found = affinity.get("podAntiAffinity") or {}
        for term in found.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
            selector, topology = term.get("labelSelector"), term.get("topologyKey") or ""
            if selector is None:
                continue  # it is about no pods
            spaces = term.get("namespaces") or []
            if term.get("namespaceSelector") is not None:
                spaces = [ANYWHERE]  # labels of namespaces are not watched
            key = _encode([selector, topology])
            for space in spaces or [pod.metadata.namespace]:
                one = self._terms.setdefault(space, {}).setdefault(key, _Term(selector, topology))
                one.nodes[node] += 1
                one.where = None
                taken.terms.append((space, key))
        if taken.terms:
            self._of[uid] = taken
            self.version += 1

    def drop(self, uid: str) -> None:
        """Note that a pod is gone, or repels nobody any more."""
        taken = self._of.pop(uid, None)
        if taken is None:
            return
        self.version += 1
        for space, key in taken.terms:
            known = self._terms[space]
            one = known[key]
            one.nodes[taken.node] -= 1
            one.where = None
            if not one.nodes[taken.node]:
                del one.nodes[taken.node]
            if not one.nodes:
                del known[key]
                if not known:
                    del self._terms[space]

    def node_changed(self, name: str) -> None:
        """Note that a node joined, or that its labels changed."""
        for known in self._terms.values():
            for term in known.values():
                if name in term.nodes:
                    term.where = None
                    self.version += 1

    def keeps_off(self, namespace: str, pods: Iterable[Pod]) -> Avoid:
        """Return the labels, with values, of the nodes that these pods of one gang must avoid.

        What repels one of them repels all: labels that differ match any selector.
        """
        found: set[tuple[str, str]] = set()
        if not self._terms:
            return frozenset()
        same, differing = in_common(pod.metadata.labels for pod in pods)
        for space in (namespace, ANYWHERE):
            for number, term in enumerate(self._terms.get(space, {}).values()):
                if number >= MOST_TERMS or may_match(term.selector, same, differing):
                    found |= self._where(term)
        return frozenset(found)

    def _where(self, term: _Term) -> Avoid:
        if term.where is None:
            there = (
                self._nodes[name].metadata.labels for name in term.nodes if name in self._nodes
            )
            key = term.topology
            term.where = frozenset((key, labels[key]) for labels in there if key in labels)
        return term.where


def in_common(several: Iterable[dict[str, str]]) -> tuple[dict[str, str], set[str]]:
    """Return the labels that all pods have, and the names of those in which they differ."""
    same: dict[str, str] | None = None
    differing: set[str] = set()
    for labels in several:
        if same is None:
            same = dict(labels)
            continue
        differing |= {key for key, _ in same.items() ^ labels.items()}
        for key in differing.intersection(same):
            del same[key]
    return same or {}, differing


def may_match(selector: dict[str, Any], same: dict[str, str], differing: set[str]) -> bool:
    """False if a selector takes none of pods with these labels."""
    wanted = selector.get("matchLabels") or {}
    clauses = selector.get("matchExpressions") or ()
    return all(key in differing or same.get(key) == value for key, value in wanted.items()) and all(
        clause.get("key") in differing or clause_matches(clause, same) for clause in clauses
    )
