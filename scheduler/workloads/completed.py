"""Which ranks of a gang its owner counts as done, even if their pods are long gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from scheduler.kube.objects import Pod, Thing
from scheduler.workloads.gangs import (
    JOBSET,
    JOBSET_ROLE,
    PER_JOB,
    Find,
    GangKey,
    Source,
    in_order,
    jobs_of,
    rank_of,
)
from scheduler.workloads.sizes import Size

#: ranks that are done: the uid of the Job that ran each, its role and number
Completed = frozenset[tuple[str, str, int]]
_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", re.ASCII)
MOST_JOBS = 10_000  #: of one JobSet that are asked


def completed(key: GangKey, pod: Pod, size: Size, find: Find) -> Completed | None:
    """Return the ranks that a gang's Jobs report as done; None if they do not report it.

    Other owners need no check: they recreate a pod that is gone.
    """
    match key.source:
        case Source.JOB:
            job = find("Job", key.namespace, key.name)
            if job is None or job.metadata.uid != key.owner:
                return None
            return frozenset(_done(job, rank_of(pod).role, 0, size.total))
        case Source.JOBSET:
            return _of_jobset(key, pod, size, find)
        case _:
            return None


def _of_jobset(key: GangKey, pod: Pod, size: Size, find: Find) -> Completed | None:
    jobset = find("JobSet", key.namespace, pod.metadata.labels.get(JOBSET, key.name))
    if jobset is None:
        return None
    only = pod.metadata.labels.get(JOBSET_ROLE) if in_order(jobset) else None
    found: set[tuple[str, str, int]] = set()
    for name, number in islice(_jobs(jobset, only), MOST_JOBS):
        job = find("Job", key.namespace, f"{jobset.metadata.name}-{name}-{number}")
        if job is None:
            return None
        found.update(_done(job, name, PER_JOB * number, size.total))
    return frozenset(found)


def _jobs(jobset: Thing, only: str | None) -> Iterator[tuple[str, int]]:
    for part in jobs_of(jobset):
        name, replicas = str(part.get("name", "")), part.get("replicas", 1)
        if only in (None, name) and isinstance(replicas, int):
            yield from ((name, number) for number in range(replicas))


def _done(job: Thing, role: str, first: int, most: int) -> Iterator[tuple[str, str, int]]:
    """Yield the ranks of a Job's completed indexes, such as "1,3-5"; not more than there are."""
    text = (job.status.completed_indexes if job.status is not None else None) or ""
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece)
        begin = int(match[1]) if match is not None else 0
        end = int(match[2] or begin) if match is not None else -1
        for index in range(begin, min(end, begin + most) + 1):
            yield job.metadata.uid, role, first + index
