"""Objects as kept in memory: without unused fields, and with shared values stored once.

For each pod that muster plans, a cluster has a hundred that it only counts, and their owners may
write a megabyte into each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from scheduler.kube.objects import (
    IGNORE,
    PLAN,
    SAVED,
    SUSPENDED,
    Container,
    Pod,
    PodSpec,
    Quantities,
    Resources,
    Thing,
)
from scheduler.workloads import gangs
from scheduler.workloads.limits import MOST_LISTED, excess
from scheduler.workloads.requests import LARGEST, UNIT, nano, pod_requests

#: labels and annotations of pods that are read, whichever of the two they are
READ = frozenset({
    IGNORE, PLAN, SAVED,
    gangs.POD_GROUP, gangs.VOLCANO_GROUP, gangs.VOLCANO_ROLE, gangs.KUEUE_GROUP, gangs.KUEUE_COUNT,
    gangs.KUEUE_QUEUE, gangs.KUBEFLOW_JOB, gangs.KUBEFLOW_TYPE, gangs.KUBEFLOW_INDEX, gangs.JOBSET,
    gangs.JOBSET_UID, gangs.JOBSET_ATTEMPT, gangs.JOBSET_ROLE, gangs.JOBSET_INDEX,
    gangs.TRAIN_STEP, gangs.LWS, gangs.LWS_GROUP, gangs.LWS_WORKER, gangs.LWS_SIZE,
    gangs.LWS_EXCLUSIVE,
    gangs.JOB_INDEX, gangs.JOB_FAILURES, gangs.OWN_GROUP, gangs.OWN_MIN, gangs.OWN_QUEUE,
    gangs.WALLTIME,
})  # fmt: skip
#: variables of which the values are read
VARIABLES = frozenset({"WORLD_SIZE", "PET_NNODES"})
CONDITIONS = frozenset({"PodScheduled", "PodResizePending"})
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
MOST_SHARED, MOST_BYTES = 5000, 2048  #: values that are kept once, and how long each may be
MOST_TEXT = 1000  #: characters that are kept of what a user, or kube-scheduler, wrote
DEEPEST = 8  #: levels of a job's spec that its pods' template is looked for in

_encode = msgspec.json.Encoder().encode
_shared: dict[tuple[type, bytes], Any] = {}
T = TypeVar("T")
#: what becomes of an object as it is read: None is not kept
Lean = Callable[[T], T | None]


def _share(value: T) -> T:
    """Return the one object of this value that is kept; it is never changed."""
    if not value:
        return value
    encoded = _encode(value)
    if len(encoded) > MOST_BYTES:
        return value
    if len(_shared) >= MOST_SHARED:
        _shared.clear()
    known: T = _shared.setdefault((type(value), encoded), value)
    return known


def lean_pod(pod: Pod) -> Pod | None:
    """Return a pod as kept; None if it belongs to no gang and has ended: it is not needed."""
    meta, spec, status = pod.metadata, pod.spec, pod.status
    if not pod.is_lean:
        pod.excess = "" if spec.node_name else excess(pod)
        pod.is_lean = True
    if pod.excess:
        spec = pod.spec = PodSpec(
            scheduler_name=spec.scheduler_name,
            scheduling_gates=spec.scheduling_gates[:MOST_LISTED],
            scheduling_group=spec.scheduling_group,
            priority=spec.priority,
            containers=[_as_one(pod)],
        )
    annotations = _read(meta.annotations)
    read = _read(meta.labels)
    waits = not spec.node_name and not pod.ended
    is_counted_only = not (waits or annotations or read or spec.scheduling_group)
    if is_counted_only and pod.ended:
        return None
    meta.annotations = _share(annotations)
    # what keeps pods off by their labels may be there before them, or come
    meta.labels = meta.labels if waits and len(meta.labels) <= MOST_LISTED else _share(read)
    meta.namespace = _share(meta.namespace)
    owner = meta.controller()
    if owner is not None:
        owner.name, owner.uid = owner.name[:MOST_TEXT], owner.uid[:MOST_TEXT]
        owner.kind, owner.api_version = owner.kind[:MOST_TEXT], owner.api_version[:MOST_TEXT]
    meta.owner_references = _share([owner]) if owner is not None else []
    status.conditions = [one for one in status.conditions if one.type in CONDITIONS]
    for condition in status.conditions:
        condition.message = condition.message[: 4 * MOST_TEXT]
    spec.scheduler_name = _share(spec.scheduler_name[:MOST_TEXT])
    spec.preemption_policy = _share(spec.preemption_policy[:MOST_TEXT])
    if status.phase != "Succeeded":  # else it matters when they ended
        for one in (*status.container_statuses, *status.init_container_statuses):
            one.state = None
    status.container_statuses = _share(status.container_statuses)
    status.init_container_statuses = _share(status.init_container_statuses)
    for container in (*spec.containers, *spec.init_containers):
        _lighten(container)
    spec.containers = _share(spec.containers)
    spec.init_containers = _share(spec.init_containers)
    if is_counted_only:
        pod.spec = PodSpec(
            node_name=_share(spec.node_name),
            scheduler_name=spec.scheduler_name,
            containers=spec.containers,
            init_containers=spec.init_containers,
            resources=_share(spec.resources),
            overhead=_share(spec.overhead),
            affinity=_repelling(spec.affinity),
            resource_claims=_share(spec.resource_claims),
        )
        return pod
    spec.volumes = [
        one for one in spec.volumes if one.persistent_volume_claim or one.ephemeral or one.csi
    ]
    spec.affinity = _share(_required(spec.affinity))
    spec.tolerations = _share(spec.tolerations)
    spec.node_selector = _share(spec.node_selector)
    return pod


def _read(texts: dict[str, str]) -> dict[str, str]:
    return {key: text[:MOST_TEXT] for key, text in texts.items() if key in READ}


def _as_one(pod: Pod) -> Container:
    """Return a container that takes what all of a pod do: kube-scheduler may place it all the same.

    Where that cannot be read it cannot be read of this one either.
    """
    try:
        takes: Quantities = {
            name: f"{min(amount, LARGEST * UNIT)}n"  # a sum may be larger than what may be asked
            for name, amount in pod_requests(pod).items()
            if amount
        }
    except ValueError:
        takes = {"cpu": "what cannot be read"}
    return Container(resources=Resources(requests=takes))


def _lighten(container: Container) -> None:
    if container.env:
        container.env = [one for one in container.env if one.name in VARIABLES]
        for one in container.env:
            one.value = one.value[:MOST_TEXT]
    if container.ports:
        container.ports = [one for one in container.ports if one.host_port]
    has = container.resources
    if max(len(has.requests), len(has.limits)) > MOST_LISTED:
        asked = (has.limits | has.requests).items()
        some = [(name, text) for name, text in asked if nano(text)]  # none fits on any node
        container.resources = Resources(requests=dict(some[:MOST_LISTED]))  # nor so many


def _required(affinity: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an affinity without preferences."""
    if not affinity:
        return affinity
    found: dict[str, Any] = {}
    for kind, terms in affinity.items():
        if isinstance(terms, dict) and _PREFERRED in terms:
            terms = {word: value for word, value in terms.items() if word != _PREFERRED}
        found[kind] = terms
    return found


def _repelling(affinity: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what keeps other pods off; nothing else of a pod with a node is asked."""
    if not affinity or not affinity.get("podAntiAffinity"):
        return None
    return _share(_required({"podAntiAffinity": affinity["podAntiAffinity"]}))


def lean_thing(thing: Thing) -> Thing:
    """Return a job as it is kept: without the templates of its pods.

    Of its annotations only the one that muster writes is kept.
    """
    thing.spec = _without_pods(thing.spec, DEEPEST)
    said = thing.metadata.annotations.get(SUSPENDED)
    thing.metadata.annotations = {} if said is None else {SUSPENDED: said[:MOST_TEXT]}
    return thing


def _without_pods(value: Any, levels: int) -> Any:
    if isinstance(value, list) and levels:
        return [_without_pods(item, levels - 1) for item in value]
    if not isinstance(value, dict) or not levels:
        return value
    return {
        key: _without_pods(item, levels - 1)
        for key, item in value.items()
        if not (key == "template" and _is_of_pods(item))
    }


def _is_of_pods(template: Any) -> bool:
    spec = template.get("spec") if isinstance(template, dict) else None
    return isinstance(spec, dict) and "containers" in spec
