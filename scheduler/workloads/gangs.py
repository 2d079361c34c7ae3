"""Which gang a pod belongs to, and its place there, read from what users have.

Sources are in order of precedence. Manifests need no change: the labels, annotations and owners
that the usual controllers write are enough.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from scheduler.kube.objects import Pod, Thing


class Source(StrEnum):
    """What names a gang."""

    NATIVE = "PodGroup.scheduling.k8s.io"
    COSCHEDULING = "PodGroup.scheduling.x-k8s.io"
    VOLCANO = "PodGroup.scheduling.volcano.sh"
    KUEUE = "Kueue pod group"
    KUBEFLOW = "Kubeflow job"
    JOBSET = "JobSet"
    LEADER_WORKER_SET = "LeaderWorkerSet"
    JOB = "Job"
    OWN = "muster.dev/group"
    LONE = "Pod"


class Kind(NamedTuple):
    """A kind of object that defines the size of gangs."""

    path: str
    crd: str  #: name of its definition; empty: built in


#: jobs of the training operator, and the container that trains; all say their sizes alike
TRAINING_JOBS = {
    "PyTorchJob": "pytorch",
    "TFJob": "tensorflow",
    "MPIJob": "mpi",
    "XGBoostJob": "xgboost",
    "PaddleJob": "paddle",
    "JAXJob": "jax",
}
#: kinds that are watched, by the word used for them below
KINDS: dict[str, Kind] = {
    "native": Kind("/apis/scheduling.k8s.io/v1beta1/podgroups", ""),
    "coscheduling": Kind(
        "/apis/scheduling.x-k8s.io/v1alpha1/podgroups", "podgroups.scheduling.x-k8s.io"
    ),
    "volcano": Kind(
        "/apis/scheduling.volcano.sh/v1beta1/podgroups", "podgroups.scheduling.volcano.sh"
    ),
    **{
        kind: Kind(f"/apis/kubeflow.org/v1/{kind.lower()}s", f"{kind.lower()}s.kubeflow.org")
        for kind in TRAINING_JOBS
    },
    "JobSet": Kind("/apis/jobset.x-k8s.io/v1alpha2/jobsets", "jobsets.jobset.x-k8s.io"),
    "LeaderWorkerSet": Kind(
        "/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets",
        "leaderworkersets.leaderworkerset.x-k8s.io",
    ),
    "Job": Kind("/apis/batch/v1/jobs", ""),
    "PriorityClass": Kind("/apis/scheduling.k8s.io/v1/priorityclasses", ""),
}

POD_GROUP = "scheduling.x-k8s.io/pod-group"
VOLCANO_GROUP = "scheduling.k8s.io/group-name"
VOLCANO_ROLE = "volcano.sh/task-spec"
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_COUNT = "kueue.x-k8s.io/pod-group-total-count"
KUBEFLOW_JOB = "training.kubeflow.org/job-name"
KUBEFLOW_TYPE = "training.kubeflow.org/replica-type"
KUBEFLOW_INDEX = "training.kubeflow.org/replica-index"
JOBSET = "jobset.sigs.k8s.io/jobset-name"
JOBSET_UID = "jobset.sigs.k8s.io/jobset-uid"
JOBSET_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
JOBSET_ROLE = "jobset.sigs.k8s.io/replicatedjob-name"
JOBSET_INDEX = "jobset.sigs.k8s.io/job-index"
TRAIN_STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
LWS = "leaderworkerset.sigs.k8s.io/name"
LWS_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
LWS_WORKER = "leaderworkerset.sigs.k8s.io/worker-index"
LWS_SIZE = "leaderworkerset.sigs.k8s.io/size"
LWS_EXCLUSIVE = "leaderworkerset.sigs.k8s.io/exclusive-topology"
JOB_INDEX = "batch.kubernetes.io/job-completion-index"
JOB_FAILURES = "batch.kubernetes.io/job-index-failure-count"
OWN_GROUP = "muster.dev/group"
OWN_MIN = "muster.dev/min-member"
OWN_QUEUE = "muster.dev/queue"
WALLTIME = "muster.dev/walltime"

MOST = 2**31 - 1  #: the largest count that objects of Kubernetes have
MOST_SHOWN = 40  #: characters of what a user wrote that messages repeat
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)

Find = Callable[[str, str, str], Thing | None]


def has_done_its_work(pod: Pod, find: Find) -> bool:
    """True if no controller will run the rank of a pod again.

    A Job that replaces only failed pods counts an index as completed that exited with 0, even if
    its pod was asked to stop.
    """
    if pod.ended_well or pod.status.phase != "Succeeded":
        return pod.ended_well
    owner = pod.metadata.controller()
    if owner is None or owner.kind != "Job":
        return False
    job = find("Job", pod.metadata.namespace, owner.name)
    return job is not None and job.spec.get("podReplacementPolicy") == "Failed"


class GangKey(NamedTuple):
    """Identity of a gang."""

    namespace: str
    name: str
    source: Source
    owner: str = ""  #: uid of the controller, so that a deleted job and its successor differ


NOBODY = "/"  #: made a pod that says its index
PER_JOB = 100_000  #: ranks of a JobSet are counted on from there in each Job


class Rank(NamedTuple):
    """Place of a pod in its gang. Sorts in rank order; masters come first."""

    role: str
    number: int
    pod: str  #: breaks ties where nothing says the index
    by: str = ""  #: kind and name of whoever makes its pods, if these say their index

    @property
    def place(self) -> Rank:
        """What a pod and its successor share, but no two pods that run together."""
        return self._replace(pod="") if self.by else self

    @property
    def within(self) -> int:
        """Its number in its Job, of a JobSet that has several; 0, too, where nothing says it."""
        return self.number % PER_JOB


SYSTEM = "kube-system"  #: where muster changes no pod, as deploy/base/fence.yaml has it


def key_of(pod: Pod, find: Find) -> GangKey | None:
    """Return the gang of a pod; None if it belongs to none, or may not here."""
    meta, labels = pod.metadata, pod.metadata.labels
    if meta.namespace == SYSTEM:
        return None
    owner = meta.controller()
    uid = owner.uid if owner is not None else ""
    if (group := pod.spec.scheduling_group) is not None and group.pod_group_name:
        return GangKey(meta.namespace, group.pod_group_name, Source.NATIVE)
    if name := labels.get(POD_GROUP):
        step = labels.get(TRAIN_STEP, "")
        if step.endswith("initializer"):
            return GangKey(meta.namespace, f"{name}-{step}", Source.COSCHEDULING)
        made_by = uid if KUBEFLOW_JOB in labels else ""
        return GangKey(meta.namespace, name, Source.COSCHEDULING, made_by)
    if name := meta.annotations.get(VOLCANO_GROUP):
        if (step := labels.get(TRAIN_STEP, "")).endswith("initializer"):
            name = f"{name}-{step}"
        return GangKey(meta.namespace, _identity(name), Source.VOLCANO)
    if name := labels.get(KUEUE_GROUP):
        return GangKey(meta.namespace, name, Source.KUEUE)
    if name := labels.get(KUBEFLOW_JOB):
        return GangKey(meta.namespace, name, Source.KUBEFLOW, uid)
    if name := labels.get(JOBSET):
        jobset = find("JobSet", meta.namespace, name)
        if in_order(jobset):
            name = f"{name}-{labels.get(JOBSET_ROLE, '')}"
        made_for = labels.get(JOBSET_UID) or (jobset.metadata.uid if jobset is not None else "")
        return GangKey(meta.namespace, name, Source.JOBSET, made_for)
    if name := labels.get(LWS):
        name = f"{name}-{labels.get(LWS_GROUP, '0')}"
        if goes_first(pod, find):
            name = f"{name}-leader"
        return GangKey(meta.namespace, name, Source.LEADER_WORKER_SET)
    if name := labels.get(OWN_GROUP) or meta.annotations.get(OWN_GROUP):
        return GangKey(meta.namespace, _identity(name), Source.OWN)
    if name := indexed_job(pod):
        job = find("Job", meta.namespace, name)
        if job is None or _is_gang_job(job):
            return GangKey(meta.namespace, name, Source.JOB, uid)
    if pod.gated:
        return GangKey(meta.namespace, meta.name, Source.LONE)
    return None


def indexed_job(pod: Pod) -> str:
    """Return the Indexed Job that a pod is a rank of; empty if none."""
    owner = pod.metadata.controller()
    is_rank = owner is not None and owner.kind == "Job" and _index(pod) is not None
    return owner.name if owner is not None and is_rank else ""


def _index(pod: Pod) -> str | None:
    return pod.metadata.labels.get(JOB_INDEX) or pod.metadata.annotations.get(JOB_INDEX)


def _is_gang_job(job: Thing) -> bool:
    """True if all completions of an Indexed Job run at once."""
    parallelism = job.spec.get("parallelism")
    return isinstance(parallelism, int) and 1 < parallelism == job.spec.get("completions")


def in_order(jobset: Thing | None) -> bool:
    """True if the parts of a JobSet start one after the other: each is then a separate gang."""
    if jobset is None:
        return False
    order = jobset.spec.get("startupPolicy")
    if isinstance(order, dict) and order.get("startupPolicyOrder") == "InOrder":
        return True
    return any(part.get("dependsOn") for part in jobs_of(jobset))


def goes_first(pod: Pod, find: Find) -> bool | None:
    """True for a leader whose workers are created once it has a node or runs; False for those.

    Leader and workers are separate gangs, because they would otherwise wait for each other. None
    where the controller of a LeaderWorkerSet creates all pods at once.
    """
    labels = pod.metadata.labels
    lws = find("LeaderWorkerSet", pod.metadata.namespace, labels.get(LWS, ""))
    is_late = lws is not None and lws.spec.get("startupPolicy") == "LeaderReady"
    if not is_late and LWS_EXCLUSIVE not in pod.metadata.annotations:
        return None
    return number_in(labels.get(LWS_WORKER)) == 0


def jobs_of(jobset: Thing | None) -> list[dict[str, Any]]:
    """Return the replicated jobs of a JobSet, those that can be read."""
    parts = jobset.spec.get("replicatedJobs") if jobset is not None else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def rank_of(pod: Pod) -> Rank:
    """Return the place of a pod in its gang."""
    labels, name = pod.metadata.labels, pod.metadata.name
    owner = pod.metadata.controller()
    by = f"{owner.kind}/{owner.name}" if owner is not None else NOBODY
    by = by if says_index(pod) else ""
    if role := labels.get(KUBEFLOW_TYPE):
        return Rank(ordered(role), number_in(labels.get(KUBEFLOW_INDEX)), name, by)
    if role := labels.get(JOBSET_ROLE):
        within = number_in(_index(pod))
        return Rank(role, PER_JOB * number_in(labels.get(JOBSET_INDEX)) + within, name, by)
    if (worker := labels.get(LWS_WORKER)) is not None:
        return Rank("worker" if number_in(worker) else "!leader", number_in(worker), name, by)
    index = _index(pod)
    said = pod.metadata.annotations.get(VOLCANO_ROLE)
    role = _identity(said) if said else "worker"
    if index is None:  # names that end in a number say the rank often enough
        index = name.rpartition("-")[2]
    return Rank(role, number_in(index), name, by)


def says_index(pod: Pod) -> bool:
    """True if a pod states its index in its role, whatever its name."""
    labels = pod.metadata.labels
    return KUBEFLOW_INDEX in labels or LWS_WORKER in labels or _index(pod) is not None


def number_in(text: str | None) -> int:
    """Return the number in a label; 0 if it is not a number that Kubernetes accepts."""
    if not text or _NUMBER.fullmatch(text) is None:
        return 0
    number = int(text)
    return number if abs(number) <= MOST else 0


def is_name(text: str) -> bool:
    """True for what an object of Kubernetes, or a label, may be called."""
    return _NAME.fullmatch(text) is not None


def named(text: str, where: str) -> str:
    """Return a name that a user wrote, after a check.

    Raises:
        ValueError: no object of Kubernetes and no label could have it.
    """
    if not is_name(text):
        raise ValueError(
            f"{where}: {shown(text)} is not a valid name; use at most 253 letters, digits, "
            "'-', '_' and '.'"
        )
    return text


def shown(text: str) -> str:
    """Return what a user wrote so that it fits into a message and a terminal."""
    return ascii(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}...")


def _identity(text: str) -> str:
    """Return a name by which a gang is told from others, whatever its pods call it."""
    if is_name(text):
        return text
    return f"misnamed-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:10]}"


def leads(role: str) -> bool:
    """True for a role that the others connect to."""
    return role in ("master", "chief", "launcher")


def ordered(role: str) -> str:
    """Return the role as ranks name it: masters come first."""
    return f"!{role}" if leads(role) else role
