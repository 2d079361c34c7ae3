"""What a gang's pods without a node ask for: as one request, or as several."""

from __future__ import annotations

import re
from math import inf

from scheduler.controller.membership import LiveGang
from scheduler.controller.mirror import Request
from scheduler.kube.objects import Pod, unix_s
from scheduler.workloads.gangs import WALLTIME, Find
from scheduler.workloads.sizes import training_job, wishes

#: nine digits at most: what is longer is no duration, and no float either
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


def duration_s(text: str) -> float:
    """Return the seconds of a text such as 90s, 2h30m or 1d; infinity if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def groups(gang: LiveGang, free: list[Pod]) -> list[tuple[list[Pod], int]]:
    """Split pods into requests: what the minimum needs together, the others one by one.

    Returns pods with how many the request asks for: pods of a gang may not all exist yet.
    """
    if not free or gang.size is None:
        return []
    lacking = gang.size.min_member - gang.num_placed()
    if lacking > 0:
        together, alone = free[:lacking], free[lacking:]
        if len(together) < lacking:
            return [(together, lacking)]
        wanted = [(together, lacking)]
        if not gang.started_min:
            return wanted
        return wanted + [([pod], 1) for pod in alone]
    return [([pod], 1) for pod in free]


def request_for(
    gang: LiveGang, name: str, pods: list[Pod], num_pods: int, find: Find, zero_unix_s: float
) -> Request:
    """Return the request of some pods, as large as if `num_pods` of them existed."""
    parts = gang.parts(pods)
    if num_pods > len(pods):
        largest = max(parts, key=lambda part: part.count)
        largest.count += num_pods - len(pods)
    meta = pods[0].metadata
    queue, priority = wishes(training_job(pods[0], find)[1], find)
    return Request(
        name=name,
        parts=parts,
        submit_s=min(unix_s(p.metadata.creation_timestamp) for p in pods) - zero_unix_s,
        priority=max(p.spec.priority for p in pods) or priority,
        queue=meta.labels.get("kueue.x-k8s.io/queue-name")
        or meta.annotations.get("muster.dev/queue")
        or queue,
        walltime_s=duration_s(meta.annotations.get(WALLTIME, "")),
        present=len(pods),
    )
