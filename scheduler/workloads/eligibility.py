"""Which nodes a pod may use: nodes that no waiting pod can tell apart form one class.

The core knows pools, not labels and taints. A class is a pool to it; a pod's node selector,
required affinity and tolerations become the list of classes it may use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from scheduler.core.model import Selector
from scheduler.kube.objects import NodeObject, Pod, Taint, Toleration

#: always told apart, because people ask for free GPUs by them
USUAL_KEYS = ("muster.dev/pool", "nvidia.com/gpu.product")
TOPOLOGY_KEYS = ("topology.kubernetes.io/zone", "muster.dev/block", "muster.dev/rack")
#: said by `spec.unschedulable` and the Ready condition, which the ledger reads itself
_STATUS_TAINTS = (
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
)
_NAME_FIELD = "metadata.name"
_OTHER = "*"  #: a value that no pod mentions
ZONE = "topology.kubernetes.io/zone"

#: labels, with their values, of nodes on which kube-scheduler did not want a pod
Avoid = frozenset[tuple[str, str]]

_encode = msgspec.json.Encoder(order="deterministic").encode


class NodeClasses:
    """Classes of nodes, told apart as finely as the pods seen so far require."""

    def __init__(self) -> None:
        self._mentioned: dict[str, set[str] | None] = dict.fromkeys(USUAL_KEYS)  #: None: all values
        self._class_of: dict[str, str] = {}
        self._example: dict[str, tuple[dict[str, str], list[Taint]]] = {}
        self._name_of: dict[bytes, str] = {}
        self._selectors: dict[bytes, Selector] = {}

    def class_of(self, node: NodeObject) -> str:
        """Return the class of a node; the empty string for the first one met."""
        seen, taints = self._seen(node), _taints(node)
        key = _encode([seen, sorted((t.key, t.value, t.effect) for t in taints)])
        name = self._name_of.get(key)
        if name is None:
            name = self._name_of[key] = f"class{len(self._name_of)}"
            self._example[name] = (seen, taints)
            self._selectors.clear()
        return name

    def labels_of(self, name: str) -> dict[str, str]:
        """Return the labels that tell a class of nodes from others."""
        example = self._example.get(name)
        return example[0] if example is not None else {}

    def _seen(self, node: NodeObject) -> dict[str, str]:
        labels = node.metadata.labels
        seen: dict[str, str] = {}
        for key, values in self._mentioned.items():
            value = node.metadata.name if key == _NAME_FIELD else labels.get(key)
            if value is not None:
                seen[key] = value if values is None or value in values else _OTHER
        return seen

    def learn(self, pod: Pod, avoid: Avoid = frozenset()) -> bool:
        """Tell nodes apart by what this pod asks for; True if that may split classes."""
        news = False
        others: list[tuple[str, set[str] | None]] = [(key, {value}) for key, value in avoid]
        for key, values in (*_mentions(pod), *others):
            known = self._mentioned.get(key, set())
            if known is None or (values is not None and key in self._mentioned and values <= known):
                continue
            self._mentioned[key] = None if values is None else known | values
            news = True
        if news:
            self._selectors.clear()
        return news

    def forget_classes(self) -> None:
        """Name the classes anew; the caller asks for the class of every node again."""
        self._name_of.clear()
        self._example.clear()
        self._selectors.clear()

    def selector(self, pod: Pod, avoid: Avoid = frozenset()) -> Selector:
        """Return the classes that the pod may use, as the core's selector."""
        spec = pod.spec
        key = _encode([spec.node_selector, _required(pod), spec.tolerations, sorted(avoid)])
        selector = self._selectors.get(key)
        if selector is None:
            fits = [
                name
                for name, (labels, taints) in self._example.items()
                if _tolerates(taints, spec.tolerations)
                and _matches(pod, labels)
                and avoid.isdisjoint(labels.items())
            ]
            everywhere = len(fits) == len(self._example)
            selector = Selector(pool="" if everywhere else "|".join(fits) or "none")
            self._selectors[key] = selector
        return selector


def unmodelled(pod: Pod) -> str:
    """Return what of a pod's constraints only kube-scheduler checks; empty if there is nothing.

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
    for kind in ("podAffinity", "podAntiAffinity"):
        if (affinity.get(kind) or {}).get("requiredDuringSchedulingIgnoredDuringExecution"):
            return kind
    if any(
        c.get("whenUnsatisfiable") != "ScheduleAnyway" for c in spec.topology_spread_constraints
    ):
        return "topologySpreadConstraints"
    if spec.resource_claims:
        return "resourceClaims"
    return ""


def shunned(pod: Pod, node: NodeObject) -> Avoid:
    """Return what to avoid after kube-scheduler refused the pod on a node that had room for it.

    A volume lies in a zone, so that the whole zone is meant; anything else is about one node.
    """
    zone = node.metadata.labels.get(ZONE, "")
    if zone and pod.claims_volumes:
        return frozenset({(ZONE, zone)})
    return frozenset({(_NAME_FIELD, node.metadata.name)})


def may_use(pod: Pod, node: NodeObject) -> bool:
    """True if the node's taints and labels let the pod there, as they are now."""
    taints = _taints(node)
    if taints and not _tolerates(taints, pod.spec.tolerations):
        return False
    if not pod.spec.node_selector and not _required(pod):
        return True
    return _matches(pod, {**node.metadata.labels, _NAME_FIELD: node.metadata.name})


def _taints(node: NodeObject) -> list[Taint]:
    return [
        taint
        for taint in node.spec.taints
        if taint.effect in ("NoSchedule", "NoExecute") and taint.key not in _STATUS_TAINTS
    ]


def _required(pod: Pod) -> list[dict[str, Any]]:
    affinity = (pod.spec.affinity or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return required.get("nodeSelectorTerms") or []


def _mentions(pod: Pod) -> Iterable[tuple[str, set[str] | None]]:
    """Yield the label keys a pod's constraints read, with the values they compare, or None."""
    for key, value in pod.spec.node_selector.items():
        yield key, {value}
    for term in _required(pod):
        for clause in (*(term.get("matchExpressions") or ()), *(term.get("matchFields") or ())):
            compared = clause.get("operator") in ("Gt", "Lt")
            yield clause.get("key", ""), None if compared else set(clause.get("values") or ())


def _matches(pod: Pod, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    terms = _required(pod)
    return not terms or any(_term_matches(term, labels) for term in terms)


def _term_matches(term: dict[str, Any], labels: dict[str, str]) -> bool:
    clauses = (*(term.get("matchExpressions") or ()), *(term.get("matchFields") or ()))
    return bool(clauses) and all(_clause_matches(clause, labels) for clause in clauses)


def _clause_matches(clause: dict[str, Any], labels: dict[str, str]) -> bool:
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
            try:
                have, bound = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return have > bound if operator == "Gt" else have < bound
    return False


def _tolerates(taints: list[Taint], tolerations: list[Toleration]) -> bool:
    return all(any(_one_tolerates(t, taint) for t in tolerations) for taint in taints)


def _one_tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect not in ("", taint.effect):
        return False
    if toleration.key not in ("", taint.key):
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.key == taint.key and toleration.value == taint.value
