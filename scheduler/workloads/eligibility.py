"""Which nodes a pod may use, by its node selector, required node affinity and tolerations.

`nodeclasses` answers for all nodes at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any

from scheduler.kube.objects import NodeObject, Pod, Taint, Toleration

TOPOLOGY_KEYS = ("topology.kubernetes.io/zone", "muster.dev/block", "muster.dev/rack")
#: said by `spec.unschedulable` and the Ready condition, which the ledger reads itself
_STATUS_TAINTS = (
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
)
NAME_FIELD = "metadata.name"
ZONE = "topology.kubernetes.io/zone"

#: labels, with their values, of nodes on which kube-scheduler did not want a pod
Avoid = frozenset[tuple[str, str]]


@lru_cache(maxsize=256)
def digest_of(avoid: Avoid) -> bytes:
    """Return a short key that identifies one, even with a thousand nodes."""
    text = "\0".join(f"{key}={value}" for key, value in sorted(avoid))
    return sha256(text.encode(errors="replace")).digest()


class Tolerated:
    """The taints that a pod tolerates; a lookup costs the same however many there are."""

    __slots__ = ("_any", "_equal")

    def __init__(self, tolerations: Iterable[Toleration]) -> None:
        self._any: set[tuple[str, str]] = set()  #: key and effect, where any value will do
        self._equal: set[tuple[str, str, str]] = set()
        for one in tolerations:
            if one.operator == "Exists":
                self._any.add((one.key, one.effect))
            else:
                self._equal.add((one.key, one.value, one.effect))

    def has(self, taint: Taint) -> bool:
        """True if the pod tolerates a taint."""
        return any(
            (taint.key, effect) in self._any
            or ("", effect) in self._any
            or (taint.key, taint.value, effect) in self._equal
            for effect in (taint.effect, "")
        )


def unmodelled(pod: Pod) -> str:
    """Return the constraints of a pod that only kube-scheduler checks; empty if none.

    Classes of nodes answer for node selectors, node affinity and taints, the core for all that is
    requested. Preferences are no constraints.
    """
    spec = pod.spec
    affinity = spec.affinity or {}
    for volume in spec.volumes:
        if volume.persistent_volume_claim or volume.ephemeral or volume.csi:
            return f"volume {volume.name}"
    for container in (*spec.containers, *spec.init_containers):
        for port in container.ports:
            if port.host_port:
                return f"host port {port.host_port}"
    for kind in ("podAffinity", "podAntiAffinity") if affinity else ():
        if (affinity.get(kind) or {}).get("requiredDuringSchedulingIgnoredDuringExecution"):
            return kind
    for spread in spec.topology_spread_constraints:
        if spread.get("whenUnsatisfiable") != "ScheduleAnyway":
            return "topologySpreadConstraints"
    if spec.resource_claims:
        return "resourceClaims"
    return ""


def shunned(pod: Pod, node: NodeObject) -> Avoid:
    """Return what to avoid after kube-scheduler refused the pod on a node that had room for it.

    A volume is in a zone, so the whole zone is avoided; otherwise only the node.
    """
    zone = node.metadata.labels.get(ZONE, "")
    if zone and pod.claims_volumes:
        return frozenset({(ZONE, zone)})
    return frozenset({(NAME_FIELD, node.metadata.name)})


def may_use(pod: Pod, node: NodeObject) -> bool:
    """True if the node's present taints and labels allow the pod."""
    spec = pod.spec
    taints = hard_taints(node) if node.spec.taints else ()
    if taints and not all(map(Tolerated(spec.tolerations).has, taints)):
        return False
    if not spec.node_selector and not (spec.affinity and required_terms(pod)):
        return True
    return _matches(pod, {**node.metadata.labels, NAME_FIELD: node.metadata.name})


def hard_taints(node: NodeObject) -> list[Taint]:
    """Return the taints that repel pods."""
    return [
        taint
        for taint in node.spec.taints
        if taint.effect in ("NoSchedule", "NoExecute") and taint.key not in _STATUS_TAINTS
    ]


def required_terms(pod: Pod) -> list[dict[str, Any]]:
    """Return the alternatives of a pod's node affinity."""
    affinity = (pod.spec.affinity or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return required.get("nodeSelectorTerms") or []


def _matches(pod: Pod, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    terms = required_terms(pod)
    return not terms or any(term_matches(term, labels) for term in terms)


def term_matches(term: dict[str, Any], labels: dict[str, str]) -> bool:
    """True if labels, of which the node's name is one, are as a term has them."""
    clauses = clauses_of(term)
    return bool(clauses) and all(clause_matches(clause, labels) for clause in clauses)


def clauses_of(term: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all that a term requires."""
    return [*(term.get("matchExpressions") or ()), *(term.get("matchFields") or ())]


def _integer(text: object) -> int | None:
    """Return a number as Go's ParseInt reads it, which takes no blanks and no underscores."""
    if not isinstance(text, str) or not re.fullmatch(r"[+-]?[0-9]{1,63}", text):
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


def clause_matches(clause: dict[str, Any], labels: dict[str, str]) -> bool:
    """True if labels are as one clause has them."""
    value = labels.get(clause.get("key", ""))
    values = clause.get("values") or []
    match clause.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            have, bound = _integer(value or ""), _integer(values[0] if values else "")
            if have is None or bound is None:
                return False
            return have > bound if operator == "Gt" else have < bound
    return False
