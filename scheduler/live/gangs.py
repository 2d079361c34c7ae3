"""Which gang a pod belongs to, and how many pods that gang needs, read from what users have.

Sources stand in order of precedence. Nothing is asked of a manifest: labels, annotations and owners
that the usual controllers write are enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from scheduler.live.objects import Pod, Thing


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
    """A kind of object that says how large gangs are."""

    path: str
    crd: str  #: name of its definition; empty: built in


#: kinds that are watched, by the word used for them below
KINDS: dict[str, Kind] = {
    "native": Kind("/apis/scheduling.k8s.io/v1beta1/podgroups", ""),
    "coscheduling": Kind(
        "/apis/scheduling.x-k8s.io/v1alpha1/podgroups", "podgroups.scheduling.x-k8s.io"
    ),
    "volcano": Kind(
        "/apis/scheduling.volcano.sh/v1beta1/podgroups", "podgroups.scheduling.volcano.sh"
    ),
    "PyTorchJob": Kind("/apis/kubeflow.org/v1/pytorchjobs", "pytorchjobs.kubeflow.org"),
    "JobSet": Kind("/apis/jobset.x-k8s.io/v1alpha2/jobsets", "jobsets.jobset.x-k8s.io"),
    "Job": Kind("/apis/batch/v1/jobs", ""),
    "PriorityClass": Kind("/apis/scheduling.k8s.io/v1/priorityclasses", ""),
}

POD_GROUP = "scheduling.x-k8s.io/pod-group"
VOLCANO_GROUP = "scheduling.k8s.io/group-name"
VOLCANO_ROLE = "volcano.sh/task-spec"
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
KUEUE_COUNT = "kueue.x-k8s.io/pod-group-total-count"
KUBEFLOW_JOB = "training.kubeflow.org/job-name"
KUBEFLOW_TYPE = "training.kubeflow.org/replica-type"
KUBEFLOW_INDEX = "training.kubeflow.org/replica-index"
JOBSET = "jobset.sigs.k8s.io/jobset-name"
JOBSET_ROLE = "jobset.sigs.k8s.io/replicatedjob-name"
JOBSET_INDEX = "jobset.sigs.k8s.io/job-index"
TRAIN_STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
LWS = "leaderworkerset.sigs.k8s.io/name"
LWS_GROUP = "leaderworkerset.sigs.k8s.io/group-index"
LWS_WORKER = "leaderworkerset.sigs.k8s.io/worker-index"
LWS_SIZE = "leaderworkerset.sigs.k8s.io/size"
JOB_INDEX = "batch.kubernetes.io/job-completion-index"
OWN_GROUP = "muster.dev/group"
OWN_MIN = "muster.dev/min-member"
WALLTIME = "muster.dev/walltime"

Find = Callable[[str, str, str], Thing | None]


class GangKey(NamedTuple):
    """Identity of a gang."""

    namespace: str
    name: str
    source: Source
    owner: str = ""  #: uid of the controller, so that a deleted job and its successor differ


class Rank(NamedTuple):
    """Place of a pod in its gang. Sorts in rank order; masters come first."""

    role: str
    number: int
    pod: str  #: breaks ties where nothing says the index


@dataclass(frozen=True, slots=True)
class Size:
    """How many pods a gang has and needs."""

    min_member: int
    total: int
    conflict: str = ""  #: two sources that disagree; the stricter one rules
    by_role: tuple[tuple[str, int], ...] = ()  #: fewest pods of some roles


def key_of(pod: Pod, find: Find) -> GangKey | None:
    """Return the gang of a pod; None if nothing says that it belongs to one."""
    meta, labels = pod.metadata, pod.metadata.labels
    owner = meta.controller()
    uid = owner.uid if owner is not None else ""
    if (group := pod.spec.scheduling_group) is not None and group.pod_group_name:
        return GangKey(meta.namespace, group.pod_group_name, Source.NATIVE)
    if name := labels.get(POD_GROUP):
        step = labels.get(TRAIN_STEP, "")
        if step.endswith("initializer"):
            return GangKey(meta.namespace, f"{name}-{step}", Source.COSCHEDULING)
        return GangKey(meta.namespace, name, Source.COSCHEDULING, _job_uid(pod))
    if name := meta.annotations.get(VOLCANO_GROUP):
        return GangKey(meta.namespace, name, Source.VOLCANO)
    if name := labels.get(KUEUE_GROUP):
        return GangKey(meta.namespace, name, Source.KUEUE)
    if name := labels.get(KUBEFLOW_JOB):
        return GangKey(meta.namespace, name, Source.KUBEFLOW, uid)
    if name := labels.get(JOBSET):
        if _in_order(find("JobSet", meta.namespace, name)):
            name = f"{name}-{labels.get(JOBSET_ROLE, '')}"
        return GangKey(meta.namespace, name, Source.JOBSET)
    if name := labels.get(LWS):
        return GangKey(
            meta.namespace, f"{name}-{labels.get(LWS_GROUP, '0')}", Source.LEADER_WORKER_SET
        )
    if name := labels.get(OWN_GROUP) or meta.annotations.get(OWN_GROUP):
        return GangKey(meta.namespace, name, Source.OWN)
    if owner is not None and owner.kind == "Job" and _index(pod) is not None:
        job = find("Job", meta.namespace, owner.name)
        if job is None or _is_gang_job(job):
            return GangKey(meta.namespace, owner.name, Source.JOB, uid)
    if pod.gated:
        return GangKey(meta.namespace, meta.name, Source.LONE)
    return None


def _job_uid(pod: Pod) -> str:
    owner = pod.metadata.controller()
    return owner.uid if owner is not None and KUBEFLOW_JOB in pod.metadata.labels else ""


def _index(pod: Pod) -> str | None:
    return pod.metadata.labels.get(JOB_INDEX) or pod.metadata.annotations.get(JOB_INDEX)


def _is_gang_job(job: Thing) -> bool:
    """True if all completions of an Indexed Job run at once."""
    parallelism = job.spec.get("parallelism", 1)
    return bool(parallelism > 1 and parallelism == job.spec.get("completions"))


def _in_order(jobset: Thing | None) -> bool:
    """True if the parts of a JobSet start one after the other: then each is a gang of its own."""
    if jobset is None:
        return False
    if (jobset.spec.get("startupPolicy") or {}).get("startupPolicyOrder") == "InOrder":
        return True
    return any(part.get("dependsOn") for part in jobset.spec.get("replicatedJobs", []))


def rank_of(pod: Pod) -> Rank:
    """Return the place of a pod in its gang."""
    labels, name = pod.metadata.labels, pod.metadata.name
    if role := labels.get(KUBEFLOW_TYPE):
        order = role if role not in ("master", "chief", "launcher") else f"!{role}"
        return Rank(order, _number(labels.get(KUBEFLOW_INDEX)), name)
    if role := labels.get(JOBSET_ROLE):
        within = _number(_index(pod))
        return Rank(role, 100_000 * _number(labels.get(JOBSET_INDEX)) + within, name)
    if (worker := labels.get(LWS_WORKER)) is not None:
        return Rank("worker" if _number(worker) else "!leader", _number(worker), name)
    index = _index(pod)
    role = pod.metadata.annotations.get(VOLCANO_ROLE, "worker")
    if index is None:  # names that end in a number say the rank often enough
        index = name.rpartition("-")[2]
    return Rank(role, _number(index), name)


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0


def size_of(key: GangKey, pods: Iterable[Pod], find: Find) -> Size | None:
    """Return how large the gang is; None while the object that says so cannot be read.

    A size of 1 is never guessed for a gang whose owner is not known.
    """
    pods = list(pods)
    one = pods[0]
    sizes = {word: size for word, size in _said(key, one, find) if size is not None}
    if key.source is Source.VOLCANO:
        sizes = {word: _with_roles(size, key, pods, find) for word, size in sizes.items()}
    own = _own_minimum(one)
    if own is not None:
        sizes.setdefault(OWN_MIN, Size(own, own))
    if not sizes:
        return None
    chosen = next(iter(sizes.values()))
    strictest = max(size.min_member for size in sizes.values())
    if strictest == chosen.min_member:
        return chosen
    said = ", ".join(f"{word} says {size.min_member}" for word, size in sizes.items())
    conflict = f"{said}; {strictest} rules"
    return Size(strictest, max(chosen.total, strictest), conflict, chosen.by_role)


def _with_roles(size: Size, key: GangKey, pods: list[Pod], find: Find) -> Size:
    """Return the size with Volcano's minimum per role.

    While a role lacks pods, those of other roles do not make up for them: the gang needs what is
    there and what that role lacks.
    """
    group = find("volcano", key.namespace, key.name)
    minima = (group.spec.get("minTaskMember") or {}) if group is not None else {}
    by_role = tuple(sorted((str(role), int(least)) for role, least in minima.items()))
    if not by_role:
        return size
    present = Counter(rank_of(pod).role for pod in pods)
    lacking = sum(max(0, least - present[role]) for role, least in by_role)
    least = max(size.min_member, sum(least for _, least in by_role))
    if lacking:
        least = max(least, len(pods) + lacking)
    return Size(least, max(size.total, least), size.conflict, by_role)


def _said(key: GangKey, pod: Pod, find: Find) -> Iterable[tuple[str, Size | None]]:
    """Yield what each source that speaks for the gang says."""
    meta = pod.metadata
    where = (key.namespace, key.name)
    owner = meta.controller()
    kubeflow = None
    if name := meta.labels.get(KUBEFLOW_JOB):
        kubeflow = find("PyTorchJob", key.namespace, name)
    match key.source:
        case Source.NATIVE:
            yield "PodGroup", _from(find("native", *where), "schedulingPolicy", "gang", "minCount")
        case Source.COSCHEDULING:
            step = meta.labels.get(TRAIN_STEP, "")
            if step.endswith("initializer"):
                yield step, Size(1, 1)
                return
            group = find("coscheduling", *where)
            if kubeflow is not None and _made_by(group, kubeflow):
                yield "PyTorchJob", kubeflow_size(kubeflow)
                return  # the operator's copy lags behind the job, and forgets elastic minima
            initializers = _num_initializers(find("JobSet", key.namespace, key.name))
            yield "PodGroup", _from(group, "minMember", less=initializers)
        case Source.VOLCANO:
            yield "PodGroup", _from(find("volcano", *where), "minMember")
        case Source.KUEUE:
            count = _number(meta.annotations.get(KUEUE_COUNT))
            yield KUEUE_COUNT, Size(count, count) if count else None
        case Source.KUBEFLOW:
            if kubeflow is not None:
                yield "PyTorchJob", kubeflow_size(kubeflow)
            else:
                yield "WORLD_SIZE", _from_environment(pod)
        case Source.JOBSET:
            jobset = find("JobSet", key.namespace, meta.labels[JOBSET])
            only = meta.labels.get(JOBSET_ROLE) if _in_order(jobset) else None
            yield "JobSet", _jobset_size(jobset, only)
        case Source.LEADER_WORKER_SET:
            count = _number(meta.annotations.get(LWS_SIZE))
            yield LWS_SIZE, Size(count, count) if count else None
        case Source.JOB:
            assert owner is not None
            job = find("Job", key.namespace, owner.name)
            count = int(job.spec.get("parallelism", 1)) if job is not None else 0
            yield "Job", Size(count, count) if count else None
        case Source.LONE:
            yield "Pod", Size(1, 1)
        case Source.OWN:
            return


def _made_by(group: Thing | None, job: Thing) -> bool:
    if group is None:
        return True
    owner = group.metadata.controller()
    return owner is not None and owner.uid == job.metadata.uid


def _own_minimum(pod: Pod) -> int | None:
    text = pod.metadata.labels.get(OWN_MIN) or pod.metadata.annotations.get(OWN_MIN)
    number = _number(text)
    return number if number > 0 else None


def _from(thing: Thing | None, *path: str, less: int = 0) -> Size | None:
    """Return the size that stands at `path` in the object's spec."""
    value: Any = thing.spec if thing is not None else None
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, int) or value < 1:
        return None
    count = max(1, value - less)
    return Size(count, count)


def kubeflow_size(job: Thing) -> Size | None:
    """Return minAvailable, else the elastic minimum, else all replicas of a training job."""
    replicas = job.spec.get("pytorchReplicaSpecs") or {}
    total = sum(int(part.get("replicas", 1)) for part in replicas.values())
    if not total:
        return None
    policy = (job.spec.get("runPolicy") or {}).get("schedulingPolicy") or {}
    elastic = (job.spec.get("elasticPolicy") or {}).get("minReplicas")
    least = policy.get("minAvailable")
    if least is None and elastic is not None:
        least = int(elastic) + sum(
            int(part.get("replicas", 1)) for name, part in replicas.items() if name != "Worker"
        )
    return Size(min(int(least), total) if least else total, total)


def wishes(job: Thing | None, find: Find) -> tuple[str, int]:
    """Return queue and priority of a training job's scheduling policy; its operator drops both."""
    run_policy = (job.spec.get("runPolicy") if job is not None else None) or {}
    policy = run_policy.get("schedulingPolicy") or {}
    named = find("PriorityClass", "", str(policy.get("priorityClass") or ""))
    return str(policy.get("queue") or ""), named.value if named is not None else 0


def _jobset_size(jobset: Thing | None, only: str | None) -> Size | None:
    if jobset is None:
        return None
    total = 0
    for part in jobset.spec.get("replicatedJobs", []):
        if only is None or part.get("name") == only:
            job = (part.get("template") or {}).get("spec") or {}
            at_once = int(job.get("parallelism", 1))
            total += int(part.get("replicas", 1)) * min(
                at_once, int(job.get("completions", at_once))
            )
    return Size(total, total) if total else None


def _num_initializers(jobset: Thing | None) -> int:
    parts = jobset.spec.get("replicatedJobs", []) if jobset is not None else []
    return sum(1 for part in parts if str(part.get("name", "")).endswith("initializer"))


def environment(pod: Pod, name: str) -> str | None:
    """Return the value of an environment variable of the pod's containers."""
    for container in pod.spec.containers:
        for variable in container.env:
            if variable.name == name:
                return variable.value
    return None


def _from_environment(pod: Pod) -> Size | None:
    nodes = environment(pod, "PET_NNODES") or environment(pod, "WORLD_SIZE") or ""
    least, _, most = nodes.partition(":")
    if not _number(least):
        return None
    return Size(_number(least), _number(most) or _number(least))
