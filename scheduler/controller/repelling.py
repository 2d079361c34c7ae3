"""Pods that keep others off by required anti-affinity: kube-scheduler heeds it for both sides.

Where muster binds by itself it asks whether any pod that has a node keeps the new one off, wherever
that is, and leaves the pod to kube-scheduler then.
"""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.kube.objects import Pod
from scheduler.workloads.eligibility import clause_matches

MOST_TERMS = 1000  #: that are looked at for one pod; with more it is kept off
ANYWHERE = ""  #: stands for every namespace
_encode = msgspec.json.Encoder(order="deterministic").encode


class _Term(msgspec.Struct):
    selector: dict[str, Any]
    where: str  #: one of the pods that have it
    num_pods: int = 0


class Repelling:
    """Required anti-affinity of the pods that have a node, by the namespaces that it is about."""

    def __init__(self) -> None:
        self._terms: dict[str, dict[bytes, _Term]] = {}
        self._of: dict[str, list[tuple[str, bytes]]] = {}

    def take(self, pod: Pod) -> None:
        """Take in a pod as it is now."""
        uid, affinity = pod.metadata.uid, pod.spec.affinity
        if uid in self._of:
            self.drop(uid)
        if affinity is None or not pod.spec.node_name or pod.ended:
            return
        found = affinity.get("podAntiAffinity") or {}
        for term in found.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
            selector = term.get("labelSelector")
            if selector is None:
                continue  # it is about no pods
            spaces = term.get("namespaces") or []
            if term.get("namespaceSelector") is not None:
                spaces = [ANYWHERE]  # labels of namespaces are not watched
            key = _encode(selector)
            for space in spaces or [pod.metadata.namespace]:
                known = self._terms.setdefault(space, {})
                known.setdefault(key, _Term(selector, pod.where)).num_pods += 1
                self._of.setdefault(uid, []).append((space, key))

    def drop(self, uid: str) -> None:
        """Note that a pod is gone, or keeps nobody off any more."""
        for space, key in self._of.pop(uid, ()):
            known = self._terms[space]
            known[key].num_pods -= 1
            if not known[key].num_pods:
                del known[key]
                if not known:
                    del self._terms[space]

    def keeps_off(self, pod: Pod) -> str:
        """Return who may keep a pod off a node; empty if nobody does."""
        if not self._terms:
            return ""
        for space in (pod.metadata.namespace, ANYWHERE):
            known = self._terms.get(space, {})
            for number, term in enumerate(known.values()):
                if number >= MOST_TERMS or _matches(term.selector, pod.metadata.labels):
                    return f"neighbours that keep pods off (podAntiAffinity, as of {term.where})"
        return ""


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels") or {}
    clauses = selector.get("matchExpressions") or ()
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        clause_matches(clause, labels) for clause in clauses
    )
