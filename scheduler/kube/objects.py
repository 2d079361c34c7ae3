"""The parts of Kubernetes objects that muster reads. What it does not name, it does not decode."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from math import inf
from typing import Any

import msgspec

GATE = "muster.dev/queued"
IGNORE = "muster.dev/ignore"
PLAN = "muster.dev/plan"  #: annotation of a released pod: gang, generation, rank, how many start
#: annotation of a pod: until when the work of its gang is saved, a time of RFC 3339
SAVED = "muster.dev/saved"
PLAN_LABEL = "muster.dev/plan"
#: annotation of a job that muster suspended until its pods are gone: the job's uid
SUSPENDED = "muster.dev/suspended"


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
    deletion_timestamp: str | None = None  #: when it is gone at the latest
    deletion_grace_period_seconds: int | None = None  #: from the call that deletes it until then

    def controller(self) -> Owner | None:
        """Return the owner that recreates the object."""
        for owner in self.owner_references:
            if owner.controller:
                return owner
        return None


#: by resource, as Kubernetes writes them: "500m", "4Gi", 8
Quantities = dict[str, str | int]


class Resources(_Object):
    requests: Quantities = {}
    limits: Quantities = {}


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
    resources: Resources | None = None  #: of the pod as a whole
    overhead: Quantities = {}
    volumes: list[Volume] = []
    topology_spread_constraints: list[Any] = []
    resource_claims: list[Any] = []
    priority: int = 0
    preemption_policy: str = ""


class PodCondition(_Object):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class StatusResources(_Object):
    """What a container or pod has; None where the kubelet did not say so."""

    requests: Quantities | None = None


class Terminated(_Object):
    finished_at: str | None = None


class ContainerState(_Object):
    terminated: Terminated | None = None


class ContainerStatus(_Object):
    name: str = ""
    state: ContainerState | None = None
    allocated_resources: Quantities | None = None
    resources: StatusResources | None = None


class PodStatus(_Object):
    phase: str = ""
    nominated_node_name: str = ""
    conditions: list[PodCondition] = []
    container_statuses: list[ContainerStatus] = []
    init_container_statuses: list[ContainerStatus] = []
    allocated_resources: Quantities | None = None
    resources: StatusResources | None = None

    @property
    def resize_is_infeasible(self) -> bool:
        """True if its node can never give the pod what its resize asks for."""
        for one in self.conditions:
            if one.type == "PodResizePending":
                return one.reason == "Infeasible"
        return False


class Pod(_Object):
    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)
    # no fields of the API
    excess: str = ""  #: what it had too much of, where that is not kept
    is_lean: bool = False  #: it is kept with what is read of it alone

    @property
    def saved_unix_s(self) -> float:
        """Until when the pod says that its gang's work is saved; -inf if it gives no time."""
        text = self.metadata.annotations.get(SAVED)
        if not text:
            return -inf
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return -inf
        return at.timestamp() if at.tzinfo is not None else -inf

    @property
    def gated(self) -> bool:
        """True while muster's gate keeps the pod from the scheduler."""
        return any(gate.name == GATE for gate in self.spec.scheduling_gates)

    @property
    def held_by(self) -> str:
        """Return a gate of somebody else that keeps the pod from the scheduler; empty if none."""
        return next((gate.name for gate in self.spec.scheduling_gates if gate.name != GATE), "")

    @property
    def ended(self) -> bool:
        """True once the pod holds nothing."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def never_started(self) -> bool:
        """True if its node's kubelet refused it: it failed, and no container was ever made."""
        return self.status.phase == "Failed" and not self.status.container_statuses

    @property
    def ended_well(self) -> bool:
        """True if it succeeded of its own accord.

        A rank that exits with 0 because it was asked to stop leaves its work to its successor.
        """
        if self.status.phase != "Succeeded":
            return False
        if self.metadata.deletion_timestamp is None:
            return True
        grace_s = self.metadata.deletion_grace_period_seconds or 0
        told_s = unix_s(self.metadata.deletion_timestamp) - grace_s
        ends = [
            one.state.terminated.finished_at
            for one in self.status.container_statuses
            if one.state is not None and one.state.terminated is not None
        ]
        return bool(ends) and all(end is not None and unix_s(end) < told_s for end in ends)

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
    allocatable: Quantities = {}
    conditions: list[Condition] = []


class NodeObject(_Object):
    metadata: Meta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeObjectStatus = msgspec.field(default_factory=NodeObjectStatus)


class ThingStatus(_Object):
    completed_indexes: str | None = None  #: of a Job: "1,3-5"
    failed: Any = None  #: of a Job: pods that it counts as failed; others mean something else by it


class Thing(_Object):
    """An object that defines the size of gangs: a PodGroup, a job and so on."""

    metadata: Meta
    kind: str = ""
    spec: dict[str, Any] = {}
    status: ThingStatus | None = None
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    value: int = 0  #: of a PriorityClass


def node_ready(node: NodeObject) -> bool:
    """True unless the node says that it is not ready."""
    return all(c.status == "True" for c in node.status.conditions if c.type == "Ready")


def scheduled_unix_s(pod: Pod) -> float:
    """Return when a pod was bound, in whole seconds since 1970; 0 if nobody says so."""
    conditions = pod.status.conditions
    bound = (c for c in conditions if c.type == "PodScheduled" and c.status == "True")
    return max((unix_s(c.last_transition_time) for c in bound), default=0.0)


@lru_cache(maxsize=4096)  # pods of a gang are made within seconds, and asked again and again
def unix_s(timestamp: str | None) -> float:
    """Return seconds since 1970 of an API timestamp; 0 if there is none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0
