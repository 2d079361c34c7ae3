"""Messages for pods that match nothing: no node by their constraints, or no gang."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from scheduler.core.sentences import UNMATCHED
from scheduler.kube.objects import IGNORE, NodeObject, Pod, Thing, Toleration
from scheduler.workloads.eligibility import may_use

MOST_NAMED = 5  #: values of a label, or taints
#: what people call a label that muster knows: of one node, of several
_KNOWN = {
    "muster.dev/pool": ("pool", "pools"),
    "nvidia.com/gpu.product": ("GPU model", "models"),
}


def unmatched(pod: Pod, nodes: Collection[NodeObject]) -> str:
    """Say which constraint keeps a pod from every node; empty if a node meets all of them."""
    if any(may_use(pod, node) for node in nodes):
        return ""
    if not nodes:
        return "the cluster has no nodes"
    wanted = pod.spec.node_selector
    missing = [
        _missing(key, value, nodes)
        for key, value in sorted(wanted.items())
        if all(node.metadata.labels.get(key) != value for node in nodes)
    ]
    if missing:
        return "asks for " + "; and for ".join(missing)
    matching = [node for node in nodes if wanted.items() <= node.metadata.labels.items()]
    if not matching:
        return f"asks for {_pairs(wanted)}; no node has all of these labels"
    if pod.spec.affinity and not any(may_use(_tolerant(pod), node) for node in matching):
        return "no node matches its required node affinity" + (
            f" among those with {_pairs(wanted)}" if wanted else ""
        )
    taints = sorted(
        {
            f"{taint.key}{'=' if taint.value else ''}{taint.value}:{taint.effect}"
            for node in matching
            for taint in node.spec.taints
        }
    )
    if taints:
        return (
            "does not tolerate the taints of any node that it may use; taints there: "
            f"{_few(taints)}"
        )
    return UNMATCHED


def _tolerant(pod: Pod) -> Pod:
    """Return the pod as if it tolerated every taint."""
    spec = msgspec.structs.replace(pod.spec, tolerations=[Toleration(operator="Exists")])
    return msgspec.structs.replace(pod, spec=spec)


def _missing(key: str, value: str, nodes: Collection[NodeObject]) -> str:
    """Say that no node has a label, and which values there are."""
    one, several = _KNOWN.get(key, ("", ""))
    here = sorted({node.metadata.labels[key] for node in nodes if key in node.metadata.labels})
    wanted = f"{one} {value!r}" if one else f"nodes with {key}={value}"
    if not here:
        return f"{wanted}; no node has the label {key}"
    return f"{wanted}; {several or 'values'} here: {_few(here)}"


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _few(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def no_gang(pod: Pod) -> str:
    """Say of a pod of no gang who places it, and how far that is."""
    by = pod.spec.scheduler_name or "default-scheduler"
    said = f"pod {pod.where} belongs to no gang"
    if IGNORE in pod.metadata.annotations:
        said += f", as its annotation {IGNORE} requests"
    said += f": scheduler {by!r} places it, and it does not queue"
    if pod.ended:
        return f"{said}; it has ended"
    if pod.spec.node_name:
        return f"{said}; it is on node {pod.spec.node_name}"
    return f"{said}; it has no node yet" + (f": {pod.refusal[:500]}" if pod.refusal else "")


def no_gang_job(job: Thing) -> str:
    """Say why the pods of a Job are no gang."""
    at_once, all_of_it = job.spec.get("parallelism", 1), job.spec.get("completions")
    said = f"Job {job.metadata.namespace}/{job.metadata.name} is not a gang"
    if job.spec.get("completionMode") != "Indexed":
        return f"{said}: it is not Indexed, so its pods are placed one by one"
    if at_once == all_of_it:
        return f"{said}: " + ("it has one pod" if at_once == 1 else "muster knows no pod of it")
    return (
        f"{said}: it runs {at_once} of its {all_of_it} pods at a time, so each is placed by "
        "itself; set parallelism equal to completions to start them together"
    )
