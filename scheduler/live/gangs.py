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
JOBSET_UID = "jobset.sigs.k8s.io/jobset-uid"
JOBSET_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
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
        if (step := labels.get(TRAIN_STEP, "")).endswith("initializer"):
            name = f"{name}-{step}"
        return GangKey(meta.namespace, name, Source.VOLCANO)
    if name := labels.get(KUEUE_GROUP):
        return GangKey(meta.namespace, name, Source.KUEUE)
    if name := labels.get(KUBEFLOW_JOB):
        return GangKey(meta.namespace, name, Source.KUBEFLOW, uid)
    if name := labels.get(JOBSET):
        jobset = find("JobSet", meta.namespace, name)
        if _in_order(jobset):
            name = f"{name}-{labels.get(JOBSET_ROLE, '')}"
        made_for = labels.get(JOBSET_UID) or (jobset.metadata.uid if jobset is not None else "")
        return GangKey(meta.namespace, name, Source.JOBSET, made_for)
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
    parallelism = job.spec.get("parallelism")
    return isinstance(parallelism, int) and 1 < parallelism == job.spec.get("completions")


def _in_order(jobset: Thing | None) -> bool:
    """True if the parts of a JobSet start one after the other: then each is a gang of its own."""
    if jobset is None:
        return False
    order = jobset.spec.get("startupPolicy")
    if isinstance(order, dict) and order.get("startupPolicyOrder") == "InOrder":
        return True
    return any(part.get("dependsOn") for part in _jobs_of(jobset))


def _jobs_of(jobset: Thing | None) -> list[dict[str, Any]]:
    parts = jobset.spec.get("replicatedJobs") if jobset is not None else None
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def rank_of(pod: Pod) -> Rank:
    """Return the place of a pod in its gang."""
    labels, name = pod.metadata.labels, pod.metadata.name
    if role := labels.get(KUBEFLOW_TYPE):
        return Rank(_ordered(role), _number(labels.get(KUBEFLOW_INDEX)), name)
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
    by_role = tuple(
        sorted(
            (str(role), _count(least, f"minTaskMember {role}")) for role, least in minima.items()
        )
    )
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
    kind, kubeflow = training_job(pod, find)
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
                yield kind, kubeflow_size(kubeflow)
                return  # the operator's copy lags behind the job, and forgets elastic minima
            initializers = _num_initializers(find("JobSet", key.namespace, key.name))
            yield "PodGroup", _from(group, "minMember", less=initializers)
        case Source.VOLCANO:
            step = meta.labels.get(TRAIN_STEP, "")
            if step.endswith("initializer"):
                yield step, Size(1, 1)
                return
            initializers = _num_initializers(find("JobSet", key.namespace, key.name))
            yield "PodGroup", _from(find("volcano", *where), "minMember", less=initializers)
        case Source.KUEUE:
            count = _number(meta.annotations.get(KUEUE_COUNT))
            yield KUEUE_COUNT, Size(count, count) if count else None
        case Source.KUBEFLOW:
            if kubeflow is not None:
                yield kind, kubeflow_size(kubeflow)
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
            count = _count(job.spec.get("parallelism", 1), "parallelism") if job is not None else 0
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


def training_job(pod: Pod, find: Find) -> tuple[str, Thing | None]:
    """Return kind and object of the training operator's job that a pod is of, if it is of one."""
    name = pod.metadata.labels.get(KUBEFLOW_JOB)
    if not name:
        return "", None
    owner = pod.metadata.controller()
    kinds = [owner.kind] if owner is not None and owner.kind in TRAINING_JOBS else TRAINING_JOBS
    for kind in kinds:
        job = find(kind, pod.metadata.namespace, name)
        if job is not None:
            return kind, job
    return "", None


def replicas_of(job: Thing) -> dict[str, int]:
    """Return how many pods each role of a training job has.

    Raises:
        ValueError: the job says it in a form that is none.
    """
    specs = next((value for key, value in job.spec.items() if key.endswith("ReplicaSpecs")), None)
    if not isinstance(specs or {}, dict):
        raise ValueError(f"job {job.metadata.name!r}: its replica specs are no table of roles")
    found: dict[str, int] = {}
    for role, part in (specs or {}).items():
        if not isinstance(part, dict):
            raise ValueError(f"job {job.metadata.name!r}: replica spec {role} is no object")
        found[role] = _count(part.get("replicas", 1), f"replicas of {role}")
    return found


def _count(value: object, what: str) -> int:
    """Return a count that an object of the API says.

    Raises:
        ValueError: it is no count.
    """
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{what}: {value!r} is no number of pods; correct the object that says it")
    return value


def kubeflow_size(job: Thing) -> Size | None:
    """Return minAvailable, else the elastic minimum, else all replicas of a training job.

    Where fewer than all are needed, a master or chief is among them, as the others look for it.
    """
    replicas = replicas_of(job)
    total = sum(replicas.values())
    if not total:
        return None
    policy = (job.spec.get("runPolicy") or {}).get("schedulingPolicy") or {}
    elastic = (job.spec.get("elasticPolicy") or {}).get("minReplicas")
    least = policy.get("minAvailable")
    if least is None and elastic is not None:
        others = sum(count for role, count in replicas.items() if role != "Worker")
        least = _count(elastic, "elasticPolicy.minReplicas") + others
    least = min(_count(least, "schedulingPolicy.minAvailable"), total) if least else total
    first = tuple((_ordered(r.lower()), n) for r, n in replicas.items() if _leads(r.lower()))
    leads = sum(count for _, count in first)
    return Size(least, total, by_role=first if leads <= least < total else ())


def _leads(role: str) -> bool:
    return role in ("master", "chief", "launcher")


def _ordered(role: str) -> str:
    """Return the role as ranks name it: masters come first."""
    return f"!{role}" if _leads(role) else role


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
    for part in _jobs_of(jobset):
        if only is None or part.get("name") == only:
            job = (part.get("template") or {}).get("spec") or {}
            at_once = _count(job.get("parallelism", 1), "parallelism")
            total += _count(part.get("replicas", 1), "replicas") * min(
                at_once, _count(job.get("completions", at_once), "completions")
            )
    return Size(total, total) if total else None


def _num_initializers(jobset: Thing | None) -> int:
    return sum(1 for part in _jobs_of(jobset) if str(part.get("name", "")).endswith("initializer"))


def environment(pod: Pod, name: str) -> str | None:
    """Return what a variable is in the container that trains: of two, the last one counts."""
    trains = [c for c in pod.spec.containers if c.name in TRAINING_JOBS.values()]
    for container in trains or pod.spec.containers:
        values = [variable.value for variable in container.env if variable.name == name]
        if values:
            return values[-1]
    return None


def _from_environment(pod: Pod) -> Size | None:
    nodes = environment(pod, "PET_NNODES") or environment(pod, "WORLD_SIZE") or ""
    least, _, most = nodes.partition(":")
    if not _number(least):
        return None
    return Size(_number(least), _number(most) or _number(least))
