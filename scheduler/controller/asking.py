"""What a gang asks for, and how the core is told of it."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf

from scheduler.controller.membership import LiveGang
from scheduler.controller.parts import Part, Request, Wanted
from scheduler.kube.objects import Pod, unix_s
from scheduler.workloads.gangs import KUEUE_QUEUE, OWN_QUEUE, WALLTIME, Find, is_name
from scheduler.workloads.sizes import priority_of, queue_of, training_job

#: nine digits at most: what is longer is no duration, and no float either
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?")


def duration_s(text: str) -> float:
    """Return the seconds of a text such as 90s, 2h30m or 1d; infinity if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    # 0 would let a gang past every promise, as if it ended at once
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds) or inf


def wanted(gang: LiveGang, free: list[Pod]) -> Wanted:
    """Return what pods without a node ask for: all that the minimum needs, then one by one."""
    if not free or gang.size is None:
        return Wanted([])
    lacking = gang.size.min_member - gang.num_placed()
    if lacking <= 0:
        return Wanted(free[:1], 0, tuple(free[1:]))
    later = tuple(free[lacking:]) if gang.started_min else ()
    return Wanted(free[:lacking], max(0, lacking - len(free)), later)


def request_of(
    gang: LiveGang, asks: Wanted, find: Find, zero_unix_s: float, *, jobs_rank: bool = False
) -> Request | None:
    """Return what a gang holds, by its slots, and what it asks for; None if neither.

    With `jobs_rank` the priority class that a training job names counts, too.
    """
    parts: dict[str, Part] = {}
    for slot in gang.slots:
        if slot.is_held:
            part = parts.get(slot.part)
            if part is None:
                part = parts[slot.part] = Part(slot.part, slot.shape)
            part.nodes.append(slot.node)
    for pod in asks.pods:
        facts = gang.facts(pod)
        name, avoid = gang.part_of(facts)
        part = parts.get(name)
        if part is None:
            part = parts[name] = Part(name, facts.shape)
        if part.pod is None:
            part.pod, part.avoid = pod, avoid
        part.uids.append(pod.metadata.uid)
    if asks.to_come:
        max(parts.values(), key=lambda part: len(part.uids)).to_come = asks.to_come
    if not parts:
        return None
    known = gang.request
    if known is not None and (known.nodes or not asks.pods):
        said = known  # a gang that was admitted keeps its place
    else:
        said = _said(gang, asks.pods or gang.live_pods(), find, zero_unix_s)
        said.priority = _priority(gang, find, jobs_rank=jobs_rank)
    said = replace(said, parts=sorted(parts.values(), key=_in_order))
    said.admitted_s, said.saved_s = gang.admitted_s, gang.saved_s
    said.mends = gang.mends and bool(said.nodes) and bool(asks.pods)
    return said


def _in_order(part: Part) -> tuple[str, int]:
    role, _, number = part.name.partition("#")
    return role, int(number or 0)


def _said(gang: LiveGang, pods: list[Pod], find: Find, zero_unix_s: float) -> Request:
    """Return what pods say of their gang beside their requests."""
    created_s = min(unix_s(p.metadata.creation_timestamp) for p in pods) - zero_unix_s
    gang.submit_s = min(gang.submit_s, created_s)
    meta = pods[0].metadata
    queue = queue_of(training_job(pods[0], find)[1])
    own = meta.annotations.get(OWN_QUEUE, "")
    return Request(
        name=gang.name,
        parts=[],
        submit_s=gang.submit_s,
        ordinal=gang.ordinal,
        queue=meta.labels.get(KUEUE_QUEUE) or (own if is_name(own) else queue),
        walltime_s=duration_s(meta.annotations.get(WALLTIME, "")),
    )


def _priority(gang: LiveGang, find: Find, *, jobs_rank: bool) -> int:
    """Return a gang's priority: the lowest of its pods with GPUs, which admission and quotas saw.

    A pod of a high class, perhaps without a GPU, does not lift the others.
    """
    pods = [pod for pod in gang.pods.values() if not pod.ended]
    with_gpus = [pod for pod in pods if gang.facts(pod).shape.gpus]
    own = min((pod.spec.priority for pod in with_gpus or pods), default=0)
    if own or not jobs_rank:
        return own
    return priority_of(training_job(pods[0], find)[1], find)
