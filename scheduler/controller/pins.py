"""Pins: a node that muster requires in a pod's affinity, read and written."""

from __future__ import annotations

from typing import Any

from scheduler.kube.objects import Pod

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def pin(affinity: dict[str, Any] | None, node: str) -> dict[str, Any]:
    """Return the affinity with `node` added to every required term.

    Terms are alternatives, so each gets the pin. With `matchFields` kube-scheduler checks only this
    node; a node selector by host name would make it filter all of them.
    """
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    whole = dict(affinity or {})
    node_affinity = dict(whole.get("nodeAffinity") or {})
    terms = (node_affinity.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    node_affinity[REQUIRED] = {
        "nodeSelectorTerms": [
            {**term, "matchFields": [*(term.get("matchFields") or ()), field]} for term in terms
        ]
    }
    whole["nodeAffinity"] = node_affinity
    return whole


def unpinned(pod: Pod) -> dict[str, Any]:
    """Return a pod's affinity as it was before muster pinned it: what `pin` added is the last.

    The caller knows that muster pinned it: anybody may write an affinity that looks like a pin.
    """
    whole = dict(pod.spec.affinity or {})
    terms = ((whole.get("nodeAffinity") or {}).get(REQUIRED) or {}).get("nodeSelectorTerms")
    if pinned_to(pod) is None or not terms:
        return whole
    rest = [{**term, "matchFields": list(term.get("matchFields") or ())[:-1]} for term in terms]
    rest = [{key: value for key, value in term.items() if value} for term in rest]
    node_affinity = {key: value for key, value in whole["nodeAffinity"].items() if key != REQUIRED}
    if any(rest):
        node_affinity[REQUIRED] = {"nodeSelectorTerms": rest}
    whole["nodeAffinity"] = node_affinity or None
    return whole


def pinned_to(pod: Pod) -> str | None:
    """Return the node that an affinity requires by name, as muster's pins do, and others may."""
    required = ((pod.spec.affinity or {}).get("nodeAffinity") or {}).get(REQUIRED) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for clause in term.get("matchFields") or ():
            if clause.get("key") == "metadata.name" and len(clause.get("values") or ()) == 1:
                return str(clause["values"][0])
    return None
