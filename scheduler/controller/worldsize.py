"""Pods of one training job that were created for different sizes: they could never join.

When a job is scaled, its operator creates new pods for the new size and leaves the old ones as they
are. Waiting pods can be recreated; beside running pods, new ones are held.
"""

from __future__ import annotations

from typing import NamedTuple

from scheduler.controller.membership import LiveGang, Remade
from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import Find, shown
from scheduler.workloads.sizes import environment, replicas_of, training_job

WORLD = "WORLD_SIZE"
MOST_LISTED = 5  #: sizes that a message names
MAX_REMADE = 2  #: an owner that makes the same pod again and again means it
#: and not before this long: right after a change an owner may still see the job as it was
OWNER_SEES_S = 5.0


class Misfits(NamedTuple):
    """What is wrong with a gang's pods, and which of them to recreate."""

    problem: str = ""
    event: str = ""  #: reason of an Event with the problem's text; empty: none is needed
    remake: tuple[Pod, ...] = ()
    look_s: float = 0.0  #: when more is known; 0: when something happens


def misfits(gang: LiveGang, free: list[Pod], find: Find, now_s: float) -> Misfits:
    """Return what keeps the pods without a node from joining the others."""
    _, job = training_job(free[0], find) if free else ("", None)
    if job is None or job.spec.get("elasticPolicy"):
        return Misfits()
    per_node = str(job.spec.get("nprocPerNode") or "")
    world = str(sum(replicas_of(job).values()) * (int(per_node) if per_node.isdecimal() else 1))
    planned = {slot.uid for slot in gang.slots}
    placed = [p for p in gang.live_pods() if p.spec.node_name or p.metadata.uid in planned]
    works = gang.started_min or gang.begun_min or any(gang.facts(pod).shape.gpus for pod in placed)
    running = {size for pod in placed if (size := environment(pod, WORLD))} if works else set()
    if running:
        return _beside(gang, job.metadata.name, running, free)
    stale = [pod for pod in (*free, *placed) if (environment(pod, WORLD) or world) != world]
    if not stale:
        return Misfits()
    remake = tuple(pod for pod in stale if _may_remake(gang, pod, world, now_s))
    look_s = max(_remade(gang, pod, world).last_s for pod in stale) + OWNER_SEES_S
    if remake or now_s < look_s:
        return Misfits(
            f"{len(stale)} pods were created for a {WORLD} other than {world} and could never "
            "join the others; waiting for their owner to recreate them",
            remake=remake,
            look_s=max(look_s, now_s + OWNER_SEES_S) if remake else look_s,
        )
    sizes = {environment(pod, WORLD) or world for pod in (*free, *placed)}
    if len(sizes) == 1:
        return Misfits()  # not what the job says, but they agree
    return Misfits(
        f"its pods disagree on {WORLD} ({_listed(sizes)}) and their owner keeps creating them "
        f"so; remove {WORLD} from the pod templates of the job",
        "WorldSizesDisagree",
    )


def _beside(gang: LiveGang, job: str, running: set[str], free: list[Pod]) -> Misfits:
    other = {size for pod in free if (size := environment(pod, WORLD)) and size not in running}
    if not other:
        return Misfits()
    return Misfits(
        f"scaled while it runs: new pods were created for {WORLD} {_listed(other)}, the running "
        f"ones for {_listed(running)}; they could never join, so muster holds the new ones. Set "
        "the replicas back, or recreate the running pods to start all together: kubectl -n "
        f"{gang.key.namespace} delete pod --field-selector=status.phase=Running -l "
        f"training.kubeflow.org/job-name={job}",
        "ScaledWhileRunning",
    )


def _listed(sizes: set[str]) -> str:
    """Return sizes as pods have them, of which their owners may write anything."""
    named = [size if size.isdecimal() and len(size) < 10 else shown(size) for size in sizes]
    return ", ".join(sorted(named)[:MOST_LISTED])


def _remade(gang: LiveGang, pod: Pod, world: str) -> Remade:
    rank = gang.facts(pod).rank
    return gang.remade.setdefault((world, rank.role, rank.number), Remade())


def _may_remake(gang: LiveGang, pod: Pod, world: str, now_s: float) -> bool:
    """Note that a pod is made anew for a size; False if its rank was too often or just now."""
    made = _remade(gang, pod, world)
    if pod.metadata.uid not in made.uids:
        if len(made.uids) >= MAX_REMADE or pod.metadata.controller() is None:
            return False
        if now_s < made.last_s + OWNER_SEES_S:
            return False
        made.uids.add(pod.metadata.uid)
        made.last_s = now_s
    return True
