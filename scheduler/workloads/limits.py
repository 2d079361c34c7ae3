"""Limits on the parts of a pod that cost time whenever the pod is considered.

Kubernetes limits only the bytes of an object, and everybody would wait while muster checks 5,000
node selector keys. The limits are far beyond what people write by hand and what controllers
generate. Running pods are not checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scheduler.kube.objects import Pod
from scheduler.workloads.eligibility import clauses_of, required_terms

MOST_LISTED = 64  #: of what nobody has many of
MOST_CLAUSES = 256  #: of all terms of a pod's node affinity together
MOST_VALUES = 1024  #: of all its clauses together; a list of bad nodes may be long
MOST_PARTS = 256  #: containers, ports, volumes: what a pod is made of


def excess(pod: Pod) -> str:
    """Return what a pod has too much of, and how to fix it; empty if nothing."""
    if pod.is_lean or _has_little(pod):
        return pod.excess
    for what, count, most in _counts(pod):
        if count > most:
            return f"{count:,} {what}, and muster reads at most {most:,}; use fewer"
    return ""


def _has_little(pod: Pod) -> bool:
    """True for a pod that has few things altogether, as almost all have."""
    spec = pod.spec
    if spec.affinity or spec.init_containers or spec.overhead or spec.resources:
        return False
    few = len(spec.containers) + len(spec.volumes) + len(spec.node_selector)
    few += len(spec.tolerations) + len(spec.scheduling_gates) + len(pod.metadata.owner_references)
    few += len(spec.topology_spread_constraints) + len(spec.resource_claims)
    for one in spec.containers:
        few += len(one.ports) + len(one.resources.requests) + len(one.resources.limits)
    return few <= MOST_LISTED


def _counts(pod: Pod) -> Iterator[tuple[str, int, int]]:
    spec = pod.spec
    yield "owners", len(pod.metadata.owner_references), MOST_LISTED
    yield "scheduling gates", len(spec.scheduling_gates), MOST_LISTED
    yield "node selector keys", len(spec.node_selector), MOST_LISTED
    yield "tolerations", len(spec.tolerations), MOST_PARTS
    yield "topology spread constraints", len(spec.topology_spread_constraints), MOST_LISTED
    yield "resource claims", len(spec.resource_claims), MOST_LISTED
    yield "volumes", len(spec.volumes), MOST_PARTS
    containers = [*spec.containers, *spec.init_containers]
    yield "containers", len(containers), MOST_PARTS
    yield "ports", sum(len(one.ports) for one in containers), MOST_PARTS
    resources = [one.resources for one in containers]
    if spec.resources is not None:
        resources.append(spec.resources)
    named = {name for one in resources for name in (*one.requests, *one.limits)}
    yield "resources", len(named | spec.overhead.keys()), MOST_LISTED
    if not spec.affinity:
        return
    for kind in ("podAffinity", "podAntiAffinity"):
        yield f"terms of {kind}", _length(spec.affinity.get(kind)), MOST_LISTED
    terms = required_terms(pod)
    yield "node affinity terms", len(terms), MOST_CLAUSES
    clauses = [clause for term in terms for clause in clauses_of(term)]
    yield "node affinity expressions", len(clauses), MOST_CLAUSES
    yield "node affinity values", sum(len(c.get("values") or ()) for c in clauses), MOST_VALUES


def _length(affinity: Any) -> int:
    required = (affinity or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    return len(required or ())
