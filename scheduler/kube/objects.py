"""The parts of Kubernetes objects that muster reads. What it does not name, it does not decode."""

from __future__ import annotations

import math
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from kubernetes.utils.quantity import parse_quantity

from scheduler.core.model import PodShape

GATE = "muster.dev/queued"
IGNORE = "muster.dev/ignore"
PLAN = "muster.dev/plan"  #: annotation of a released pod: unit, generation
PLAN_LABEL = "muster.dev/plan"


class _Object(msgspec.Struct, rename="camel", gc=False):
    pass


class Owner(_Object):
    kind: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    controller: bool | None = None


class Meta(_Object):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: list[Owner] = []
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None

    def controller(self) -> Owner | None:
        """Return the owner that recreates the object."""
        return next((o for o in self.owner_references if o.controller), None)


class Resources(_Object):
    requests: dict[str, str | int] = {}
    limits: dict[str, str | int] = {}


class EnvVar(_Object):
    name: str
    value: str = ""


class Port(_Object):
    host_port: int = 0


class Container(_Object):
    name: str = ""
    ports: list[Port] = []
    resources: Resources = msgspec.field(default_factory=Resources)
    restart_policy: str = ""
    env: list[EnvVar] = []


class Gate(_Object):
    name: str


class SchedulingGroup(_Object):
    pod_group_name: str = ""


class Toleration(_Object):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class Volume(_Object):
    """What may tie a pod to a node; other kinds of volumes do not."""

    name: str = ""
    persistent_volume_claim: Any = None
    ephemeral: Any = None
    csi: Any = None


class PodSpec(_Object):
    node_name: str = ""
    scheduler_name: str = ""
    containers: list[Container] = []
    init_containers: list[Container] = []
    scheduling_gates: list[Gate] = []
    scheduling_group: SchedulingGroup | None = None
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] | None = None
    tolerations: list[Toleration] = []
    overhead: dict[str, str | int] = {}
    volumes: list[Volume] = []
    topology_spread_constraints: list[Any] = []
    resource_claims: list[Any] = []
    priority: int = 0


class PodCondition(_Object):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class PodStatus(_Object):
    phase: str = ""
    nominated_node_name: str = ""
    conditions: list[PodCondition] = []


class Pod(_Object):
    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def gated(self) -> bool:
        """True while muster's gate keeps the pod from the scheduler."""
        return any(gate.name == GATE for gate in self.spec.scheduling_gates)

    @property
    def ended(self) -> bool:
        """True once the pod holds nothing any more."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def where(self) -> str:
        """Namespace and name."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def refusal(self) -> str:
        """Why kube-scheduler last found no node for the pod; empty if it did not say so."""
        for one in self.status.conditions:
            if one.type == "PodScheduled" and one.status == "False":
                return one.message if one.reason == "Unschedulable" else ""
        return ""

    @property
    def claims_volumes(self) -> bool:
        """True if volumes may tie the pod to a part of the cluster."""
        return any(v.persistent_volume_claim or v.ephemeral for v in self.spec.volumes)


class Taint(_Object):
    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(_Object):
    unschedulable: bool = False
    taints: list[Taint] = []


class Condition(_Object):
    type: str
    status: str = ""


class NodeObjectStatus(_Object):
    allocatable: dict[str, str | int] = {}
    conditions: list[Condition] = []


class NodeObject(_Object):
    metadata: Meta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeObjectStatus = msgspec.field(default_factory=NodeObjectStatus)


class Thing(_Object):
    """An object of which the owner's numbers are read: PodGroups, jobs and the like."""

    metadata: Meta
    kind: str = ""
    spec: dict[str, Any] = {}
    data: dict[str, str] = {}
    value: int = 0  #: of a PriorityClass


@lru_cache(maxsize=4096)
def quantity(text: str | int) -> float:
    """Return the number that a Kubernetes quantity stands for, in its base unit."""
    return float(parse_quantity(text))  # type: ignore[no-untyped-call]


def _amount(resources: Resources, name: str) -> float:
    value = resources.requests.get(name)
    if value is None:
        value = resources.limits.get(name)
    return 0.0 if value is None else quantity(value)


def pod_shape(pod: Pod, resource: str) -> PodShape:
    """Return what the pod requests, counted as the scheduler does: init containers, sidecars."""
    return PodShape(
        int(_pod_amount(pod.spec, resource)),
        round(1000 * _pod_amount(pod.spec, "cpu")),
        math.ceil(_pod_amount(pod.spec, "memory")),
        1,
    )


def _pod_amount(spec: PodSpec, name: str) -> float:
    total = 0.0
    for container in spec.containers:
        total += _amount(container.resources, name)
    sidecars = peak = 0.0
    for container in spec.init_containers:
        amount = _amount(container.resources, name)
        if container.restart_policy == "Always":
            sidecars += amount
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + amount)
    total = max(total + sidecars, peak)
    if spec.overhead:
        total += quantity(spec.overhead.get(name, 0))
    return total


def asks_for(pod: Pod, resource: str) -> bool:
    """True if a container names the resource, even with 0: then the extender is asked."""
    return any(
        resource in c.resources.requests or resource in c.resources.limits
        for c in (*pod.spec.containers, *pod.spec.init_containers)
    )


def node_shape(node: NodeObject, resource: str) -> PodShape:
    """Return what pods may use of the node."""
    free = node.status.allocatable
    return PodShape(
        int(quantity(free.get(resource, 0))),
        int(1000 * quantity(free.get("cpu", 0))),
        int(quantity(free.get("memory", 0))),
        int(quantity(free.get("pods", 0))),
    )


def node_ready(node: NodeObject) -> bool:
    """True unless the node says that it is not ready."""
    return all(c.status == "True" for c in node.status.conditions if c.type == "Ready")


def unix_s(timestamp: str | None) -> float:
    """Return seconds since 1970 of an API timestamp; 0 if there is none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0
