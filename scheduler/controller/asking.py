"""What a gang asks for, and how it is reported to the core."""

from __future__ import annotations

import re
from dataclasses import replace
from math import inf

from scheduler.controller.membership import LiveGang
from scheduler.controller.parts import Part, Request, Wanted
from scheduler.kube.objects import Pod, unix_s
from scheduler.workloads.gangs import (
    KUEUE_QUEUE,
    NOBODY,
    OWN_QUEUE,
    WALLTIME,
    Find,
    is_name,
)
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
    free = _one_of_each_rank(gang, free)
    lacking = gang.size.min_member - gang.num_placed()
    if lacking <= 0:
        return Wanted(free[:1], 0, tuple(free[1:]))
    later = tuple(free[lacking:]) if gang.started_min else ()
    return Wanted(free[:lacking], max(0, lacking - len(free)), later)


def _one_of_each_rank(gang: LiveGang, free: list[Pod]) -> list[Pod]:
    """Leave pods out of whose rank another is there: who made both ends one of them.

    A Job that has lost sight of its pods makes an index twice, while another has no pod yet.
    """
    ranks = {gang.rank(pod)[:2] for pod in free}
    if len(ranks) == len(free) and ranks.isdisjoint([slot.rank[:2] for slot in gang.slots]):
        return free
    held = (slot for slot in gang.slots if slot.is_held and not gang.is_going(slot))
    seen = {gang.rank(pod).place for slot in held if (pod := gang.pods.get(slot.uid)) is not None}
    found = []
    for pod in free:
        rank = gang.rank(pod)
        if rank.by == NOBODY or rank.place not in seen:
            found.append(pod)
            seen.add(rank.place)
    return found


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
        if asks.pods and known.nodes:
            said = replace(known, submit_s=_asked_s(gang, asks.pods[0], zero_unix_s))
            pods = [*asks.pods, *asks.later]
            said.priority = _priority(gang, pods, find, jobs_rank=jobs_rank)
    else:
        said = _said(gang, asks.pods or gang.live_pods(), find, zero_unix_s)
        pods = [pod for pod in gang.pods.values() if not pod.ended]
        said.priority = _priority(gang, pods, find, jobs_rank=jobs_rank)
    said = replace(said, parts=sorted(parts.values(), key=_in_order))
    said.admitted_s, said.saved_s = gang.admitted_s, gang.saved_s
    said.mends = gang.mends and bool(said.nodes) and bool(asks.pods)
    return said


def _in_order(part: Part) -> tuple[str, int]:
    role, _, number = part.name.partition("#")
    return role, int(number or 0)


def note_age(gang: LiveGang, pods: list[Pod], zero_unix_s: float) -> float:
    """Set a gang's age to that of the pod that completed it; return that pod's creation time.

    Pods created long before the others do not count. Until the gang is whole, its latest pod does.
    """
    need = gang.size.min_member if gang.size is not None else 1
    created_s = sorted(unix_s(pod.metadata.creation_timestamp) - zero_unix_s for pod in pods)
    if len(pods) < need:
        return min(gang.submit_s, created_s[-1])
    since_s = created_s[max(need, 1) - 1]
    # of a gang that needs more by now it counts since when they all were there
    oldest = max if 0 < gang.aged_with < need else min
    gang.submit_s, gang.aged_with = oldest(gang.submit_s, since_s), max(gang.aged_with, need)
    return gang.submit_s


def _said(gang: LiveGang, pods: list[Pod], find: Find, zero_unix_s: float) -> Request:
    """Return what pods say of their gang beside their requests."""
    submit_s = note_age(gang, pods, zero_unix_s)
    meta = pods[0].metadata
    queue = queue_of(training_job(pods[0], find)[1])
    own = meta.annotations.get(OWN_QUEUE, "")
    return Request(
        name=gang.name,
        parts=[],
        submit_s=submit_s,
        ordinal=gang.ordinal,
        queue=meta.labels.get(KUEUE_QUEUE) or (own if is_name(own) else queue),
        walltime_s=duration_s(meta.annotations.get(WALLTIME, "")),
    )


def grows(gang: LiveGang) -> bool:
    """True if what a gang asks for is beyond what it needs to run."""
    return gang.size is not None and gang.num_placed() >= gang.least()


def _asked_s(gang: LiveGang, pod: Pod, zero_unix_s: float) -> float:
    """Return since when a gang that holds nodes asks: one that grows, for no longer than a pod."""
    if not grows(gang):
        return gang.submit_s
    return max(gang.submit_s, unix_s(pod.metadata.creation_timestamp) - zero_unix_s)


def _priority(gang: LiveGang, pods: list[Pod], find: Find, *, jobs_rank: bool) -> int:
    """Return the priority of pods: the lowest of those with GPUs, which admission and quotas saw.

    A pod of a high class, perhaps without a GPU, or with a node already, does not lift the others.
    """
    found = {pod.spec.priority for pod in pods}
    if len(found) > 1:
        found = {p.spec.priority for p in pods if gang.facts(p).shape.gpus} or found
    own = min(found, default=0)
    if own or not jobs_rank:
        return own
    return priority_of(training_job(pods[0], find)[1], find)
