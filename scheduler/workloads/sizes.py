"""How many pods a gang needs, read from its owner.

Nothing is guessed: while the defining object cannot be read, the size is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass
from math import inf
from typing import Any

from scheduler.kube.objects import Pod, Thing
from scheduler.workloads.gangs import (
    JOBSET,
    JOBSET_ROLE,
    KUBEFLOW_INDEX,
    KUBEFLOW_JOB,
    KUBEFLOW_TYPE,
    KUEUE_COUNT,
    LWS_SIZE,
    MOST,
    OWN_GROUP,
    OWN_MIN,
    OWN_QUEUE,
    TRAIN_STEP,
    TRAINING_JOBS,
    VOLCANO_GROUP,
    Find,
    GangKey,
    Source,
    goes_first,
    in_order,
    is_name,
    jobs_of,
    leads,
    named,
    number_in,
    ordered,
    rank_of,
    shown,
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many pods a gang has and needs."""

    min_member: int
    total: int
    conflict: str = ""  #: two sources that disagree; the stricter one rules
    by_role: tuple[tuple[str, int], ...] = ()  #: fewest pods of some roles


def size_of(
    key: GangKey, pods: Iterable[Pod], find: Find, unread: Set[str] = frozenset()
) -> Size | None:
    """Return the gang's size; None while the defining object cannot be read.

    A size of 1 is never guessed for a gang whose owner is unknown, nor a size from a kind whose
    objects are `unread`.
    """
    pods = list(pods)
    one = pods[0]
    if unread and not unread.isdisjoint(_kinds_of(key, one)):
        return None
    for where in (VOLCANO_GROUP, OWN_GROUP, OWN_QUEUE):
        if text := one.metadata.annotations.get(where):
            named(text, where)
    sizes = {word: size for word, size in _said(key, one, find) if size is not None}
    if key.source is Source.VOLCANO:
        sizes = {word: _with_roles(size, key, pods, find) for word, size in sizes.items()}
    own = _own_minimum(one)
    if own is not None:
        sizes.setdefault(OWN_MIN, Size(own, own))
    if not sizes:
        return None
    for word, size in sizes.items():
        if size.total > MOST:
            raise ValueError(
                f"{word}: {size.total} pods are more than the {MOST} that a job can have"
            )
    chosen = next(iter(sizes.values()))
    strictest = max(size.min_member for size in sizes.values())
    if strictest != chosen.min_member:
        said = ", ".join(f"{word} says {size.min_member}" for word, size in sizes.items())
        conflict = f"{said}; {strictest} counts"
        chosen = Size(strictest, max(chosen.total, strictest), conflict, chosen.by_role)
    if any(pod.spec.node_name for pod in pods):
        return chosen
    return _until_roles_are_there(chosen, pods)


def _kinds_of(key: GangKey, pod: Pod) -> set[str]:
    """Return the kinds of which an object may say how large a pod's gang is."""
    own = {
        Source.NATIVE: "native",
        Source.COSCHEDULING: "coscheduling",
        Source.VOLCANO: "volcano",
        Source.JOBSET: "JobSet",
        Source.LEADER_WORKER_SET: "LeaderWorkerSet",
        Source.JOB: "Job",
    }
    kinds = {own[key.source]} if key.source in own else set()
    if JOBSET in pod.metadata.labels:
        kinds.add("JobSet")
    if KUBEFLOW_JOB in pod.metadata.labels:
        owner = pod.metadata.controller()
        known = owner is not None and owner.kind in TRAINING_JOBS
        kinds |= {owner.kind} if owner is not None and known else TRAINING_JOBS.keys()
    return kinds


def _until_roles_are_there(size: Size, pods: list[Pod]) -> Size:
    """Return the size at which a gang may start: not with others in place of a role's pods.

    While a role lacks pods the gang needs what is there and what that role lacks: a master may be
    made after its workers.
    """
    if not size.by_role:
        return size
    present = Counter(rank_of(pod).role for pod in pods)
    lacking = sum(max(0, least - present[role]) for role, least in size.by_role)
    if not lacking:
        return size
    least = max(size.min_member, len(pods) + lacking)
    return Size(least, max(size.total, least), size.conflict, size.by_role)


def _with_roles(size: Size, key: GangKey, pods: list[Pod], find: Find) -> Size:
    """Return the size with Volcano's minimum per role."""
    group = find("volcano", key.namespace, key.name)
    minima = (group.spec.get("minTaskMember") or {}) if group is not None else {}
    by_role = tuple(
        sorted(
            (str(role), _count(least, f"minTaskMember {role}")) for role, least in minima.items()
        )
    )
    if not by_role:
        return size
    least = max(size.min_member, sum(least for _, least in by_role))
    whole = Size(least, max(size.total, least), size.conflict, by_role)
    return _until_roles_are_there(whole, pods)


def _said(key: GangKey, pod: Pod, find: Find) -> Iterable[tuple[str, Size | None]]:
    """Yield what each source that speaks for the gang says."""
    meta = pod.metadata
    where = (key.namespace, key.name)
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
            yield KUEUE_COUNT, _annotated(pod, KUEUE_COUNT)
        case Source.KUBEFLOW:
            if kubeflow is not None:
                yield kind, kubeflow_size(kubeflow)
            else:
                yield "WORLD_SIZE", _from_environment(pod)
        case Source.JOBSET:
            jobset = find("JobSet", key.namespace, meta.labels.get(JOBSET, key.name))
            only = meta.labels.get(JOBSET_ROLE) if in_order(jobset) else None
            yield "JobSet", _jobset_size(jobset, only)
        case Source.LEADER_WORKER_SET:
            size, first = _annotated(pod, LWS_SIZE), goes_first(pod, find)
            if size is not None and first is not None:
                count = 1 if first else max(1, size.total - 1)
                size = Size(count, count)
            yield LWS_SIZE, size
        case Source.JOB:
            job = find("Job", key.namespace, key.name)
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
    text = pod.metadata.labels.get(OWN_MIN)
    if text is None:
        text = pod.metadata.annotations.get(OWN_MIN)
    return None if text is None else _written(text, OWN_MIN)


def _annotated(pod: Pod, name: str) -> Size | None:
    text = pod.metadata.annotations.get(name)
    if text is None:
        return None
    count = _written(text, name)
    return Size(count, count)


def _written(text: str, where: str) -> int:
    """Return the count of pods that a user wrote as a text.

    Raises:
        ValueError: it is none.
    """
    count = number_in(text)
    if count < 1:
        raise ValueError(
            f"{where}: {shown(text)} is not a number of pods; write a whole number from 1 to {MOST}"
        )
    return count


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
    """Return kind and object of the training operator's job of a pod, if it has one."""
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
        ValueError: the job states it in an invalid form.
    """
    specs = next((value for key, value in job.spec.items() if key.endswith("ReplicaSpecs")), None)
    if not isinstance(specs or {}, dict):
        raise ValueError(f"job {job.metadata.name!r}: its replica specs are not a table of roles")
    found: dict[str, int] = {}
    for role, part in (specs or {}).items():
        if not isinstance(part, dict):
            raise ValueError(f"job {job.metadata.name!r}: replica spec {role} is not an object")
        found[role] = _count(part.get("replicas", 1), f"replicas of {role}")
    return found


def asked_of(pod: Pod, find: Find) -> dict[str, int]:
    """Return how many pods the training job of a pod asks for now, by role as ranks name it.

    Raises:
        ValueError: the job states it in an invalid form.
    """
    _, job = training_job(pod, find)
    replicas = replicas_of(job) if job is not None else {}
    return {ordered(role.lower()): count for role, count in replicas.items()}


def without_surplus(pods: list[Pod], find: Find) -> list[Pod]:
    """Skip pods of a training job whose index is beyond what the job asks for now.

    Its operator removes them sooner or later. All pods are of one gang.

    Raises:
        ValueError: the job states its replicas in an invalid form.
    """
    asked = asked_of(pods[0], find) if pods else {}
    if not asked:
        return pods
    kept = []
    for pod in pods:
        labels = pod.metadata.labels
        most = asked.get(ordered(labels.get(KUBEFLOW_TYPE, "").lower()), inf)
        if KUBEFLOW_INDEX not in labels or number_in(labels[KUBEFLOW_INDEX]) < most:
            kept.append(pod)
    return kept


def _count(value: object, what: str) -> int:
    """Return a count that an object of the API says.

    Raises:
        ValueError: it is no count.
    """
    if not isinstance(value, int) or not 0 <= value <= MOST:
        said = shown(str(value)) if isinstance(value, str) else shown(repr(value)[:100])
        raise ValueError(
            f"{what}: {said} is not a number of pods; correct the object that states it"
        )
    return value


def kubeflow_size(job: Thing) -> Size | None:
    """Return minAvailable, else the elastic minimum, else all replicas of a training job.

    If fewer than all are needed, a master or chief is among them: the others connect to it.
    """
    replicas = replicas_of(job)
    total = sum(replicas.values())
    if not total:
        return None
    policy = (job.spec.get("runPolicy") or {}).get("schedulingPolicy") or {}
    elastic = (job.spec.get("elasticPolicy") or {}).get("minReplicas")
    if queue := policy.get("queue"):
        named(str(queue), "schedulingPolicy.queue")
    least = policy.get("minAvailable")
    if least is None and elastic is not None:
        others = sum(count for role, count in replicas.items() if role != "Worker")
        least = _count(elastic, "elasticPolicy.minReplicas") + others
    least = min(_count(least, "schedulingPolicy.minAvailable"), total) if least else total
    first = tuple((ordered(r.lower()), n) for r, n in replicas.items() if leads(r.lower()))
    num_first = sum(count for _, count in first)
    return Size(least, total, by_role=first if num_first <= least < total else ())


def _policy_of(job: Thing | None) -> dict[str, Any]:
    """Return the scheduling policy of a training job; its operator drops queue and priority."""
    run_policy = (job.spec.get("runPolicy") if job is not None else None) or {}
    return run_policy.get("schedulingPolicy") or {}


def queue_of(job: Thing | None) -> str:
    """Return the queue of a training job's scheduling policy, if it is a name."""
    queue = str(_policy_of(job).get("queue") or "")
    return queue if is_name(queue) else ""


def priority_of(job: Thing | None, find: Find) -> int:
    """Return the priority that a training job's scheduling policy names; 0 if it names none."""
    known = find("PriorityClass", "", str(_policy_of(job).get("priorityClass") or ""))
    return known.value if known is not None else 0


def _jobset_size(jobset: Thing | None, only: str | None) -> Size | None:
    if jobset is None:
        return None
    total = 0
    for part in jobs_of(jobset):
        if only is None or part.get("name") == only:
            job = (part.get("template") or {}).get("spec") or {}
            at_once = _count(job.get("parallelism", 1), "parallelism")
            total += _count(part.get("replicas", 1), "replicas") * min(
                at_once, _count(job.get("completions", at_once), "completions")
            )
    return Size(total, total) if total else None


def _num_initializers(jobset: Thing | None) -> int:
    return sum(1 for part in jobs_of(jobset) if str(part.get("name", "")).endswith("initializer"))


def environment(pod: Pod, name: str) -> str | None:
    """Return a variable of the training container: of two equal names, the last one counts."""
    trains = [c for c in pod.spec.containers if c.name in TRAINING_JOBS.values()]
    for container in trains or pod.spec.containers:
        values = [variable.value for variable in container.env if variable.name == name]
        if values:
            return values[-1]
    return None


def _from_environment(pod: Pod) -> Size | None:
    nodes = environment(pod, "PET_NNODES") or environment(pod, "WORLD_SIZE") or ""
    least, _, most = nodes.partition(":")
    if not number_in(least):
        return None
    return Size(number_in(least), number_in(most) or number_in(least))
