"""What the deletion or eviction of pods costs the Jobs that recreate them.

A Job counts a deleted pod as a failed one, even if it never ran, and gives up once it has counted
`backoffLimit`. Muster stops at half of that, whatever caused the failures. The Job keeps its count
when muster restarts, and when a gang is forgotten between two pods.
"""

from __future__ import annotations

from math import inf

from scheduler.controller.membership import LiveGang, attempt_of
from scheduler.kube.objects import Owner, Pod
from scheduler.workloads.gangs import JOB_FAILURES, Find

USUAL_LIMIT = 6  #: of failures, where a Job names none
MOST_JOBS = 4096  #: of which deleted pods are known that they may not have counted yet


class Failures:
    """Counts with the Jobs."""

    def __init__(self, find: Find) -> None:
        self._find = find
        #: by uid of a Job, the latest: what it lost, and the pods that go beside that
        self._deleted: dict[str, tuple[int, frozenset[str]]] = {}

    def may_cost(self, gang: LiveGang, pods: list[Pod]) -> bool:
        """Return whether all these pods may be deleted; if so, count them as deleted."""
        by_job: dict[str, list[Pod]] = {}
        for pod in pods:
            owner = pod.metadata.controller()
            if owner is None:
                return False  # nobody recreates it
            if owner.kind != "Job":
                continue
            if "." in owner.api_version:  # another group's; what that counts is not known
                return False
            by_job.setdefault(owner.uid, []).append(pod)
        found = {}
        for uid, own in by_job.items():
            after = self._after(gang, uid, own)
            if after is None:
                return False
            found[uid] = after
        for uid, after in found.items():
            self._deleted.pop(uid, None)
            self._deleted[uid] = after
        while len(self._deleted) > MOST_JOBS:
            del self._deleted[next(iter(self._deleted))]
        return True

    def may_be_evicted(self, gang: LiveGang, pods: list[Pod]) -> bool:
        """Return whether Jobs continue when these pods are evicted; if so, count them as deleted.

        Other owners recreate their pods.
        """
        by_jobs = [
            pod
            for pod in pods
            if (owner := pod.metadata.controller()) is not None
            and owner.kind == "Job"
            and "." not in owner.api_version
            and not self._forgives_evictions(pod, owner)
        ]
        return self.may_cost(gang, by_jobs)

    def _forgives_evictions(self, pod: Pod, owner: Owner) -> bool:
        """True if a Job counts no pod that was evicted, or its JobSet starts again all the same.

        Of the restarts that a JobSet has, muster takes from the first half alone.
        """
        namespace = pod.metadata.namespace
        job = self._find("Job", namespace, owner.name)
        made_by = job.metadata.controller() if job is not None else None
        if made_by is not None and made_by.kind == "JobSet":
            jobset = self._find("JobSet", namespace, made_by.name)
            match jobset.spec if jobset is not None else None:
                case {"failurePolicy": {"maxRestarts": int(most), **more}} if "rules" not in more:
                    if attempt_of(pod) < _half(most):
                        return True
        match job.spec if job is not None else None:
            case {"suspend": True}:
                return True
            case {
                "podFailurePolicy": {
                    "rules": [{"action": "Ignore", "onPodConditions": [*conditions]}, *_]
                }
            }:
                return any(
                    isinstance(one, dict)
                    and (one.get("type"), one.get("status", "True")) == ("DisruptionTarget", "True")
                    for one in conditions
                )
        return False

    def _after(
        self, gang: LiveGang, uid: str, pods: list[Pod]
    ) -> tuple[int, frozenset[str]] | None:
        """Return what a Job is known to have lost with these pods; None if it is too much."""
        owner = pods[0].metadata.controller()
        assert owner is not None
        most, by_index, failed = self._limits(owner, gang.key.namespace)
        before, known = self._deleted.get(uid, (failed, frozenset()))
        before += len(known - gang.pods.keys())
        known &= gang.pods.keys()
        new = {pod.metadata.uid for pod in pods} - known
        deleted = known | new
        going = sum(  # the Job counts them once they are gone
            pod.metadata.deletion_timestamp is not None and not pod.ended and of == uid
            for one, pod in gang.pods.items()
            if one not in deleted and (of := _run_by(pod))
        )
        total = max(before + len(deleted), failed + len(new)) + going
        if total > most or any(_failed_before(pod) >= by_index for pod in pods):
            return None
        return before, deleted

    def _limits(self, owner: Owner, namespace: str) -> tuple[float, float, int]:
        """Return half of what a Job may count as failed, in all and by index, and what it did."""
        job = self._find("Job", namespace, owner.name)
        if job is None or job.metadata.uid != owner.uid:
            return USUAL_LIMIT // 2, inf, 0
        by_index = job.spec.get("backoffLimitPerIndex")
        in_all = job.spec.get("backoffLimit", inf if by_index is not None else USUAL_LIMIT)
        failed = job.status.failed if job.status is not None else 0
        return _half(in_all), _half(inf if by_index is None else by_index), _whole(failed)


def _run_by(pod: Pod) -> str:
    owner = pod.metadata.controller()
    return owner.uid if owner is not None else ""


def _half(limit: object) -> float:
    if limit == inf:
        return inf
    return _whole(limit, USUAL_LIMIT) // 2


def _whole(number: object, otherwise: int = 0) -> int:
    return number if isinstance(number, int) else otherwise


def _failed_before(pod: Pod) -> int:
    """Return how many pods of the same index a Job has counted as failed."""
    text = pod.metadata.annotations.get(JOB_FAILURES, "")
    return int(text) if text.isdecimal() and len(text) < 10 else 0
