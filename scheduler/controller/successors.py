"""Which pod comes after one that is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scheduler.controller.membership import LiveGang
from scheduler.controller.slots import Slot
from scheduler.kube.objects import Pod, unix_s
from scheduler.workloads.gangs import rank_of, says_index


def is_of_rank(slot: Slot, pod: Pod) -> bool:
    """True if a pod is of the rank of a slot; names tell those apart that nothing else does."""
    rank = rank_of(pod)
    return slot.rank[:2] == rank[:2] and (
        slot.rank.pod == rank.pod or bool(rank.number) or says_index(pod)
    )


def has_successor(gang: LiveGang, slot: Slot) -> bool:
    """True if a pod that comes after the one of a slot has another node."""
    for one in gang.slots:
        if one is not slot and one.rank[:2] == slot.rank[:2] and one.is_held:
            pod = gang.pods.get(one.uid)
            if pod is not None and is_of_rank(slot, pod):
                return True
    return False


def in_place_of(
    gang: LiveGang,
    vacant: list[Slot],
    free: list[Pod],
    takes: Callable[[str, Pod], bool],
    since_unix_s: Callable[[Slot], float],
) -> Iterator[tuple[Slot, Pod, bool]]:
    """Yield empty slots, each with a pod that came instead of its own, and whether that fits there.

    Owners such as a ReplicaSet give no pod the name of the one that it comes after. Where names say
    a number, a pod that asked already, and before `since_unix_s`, is of a rank beyond those that
    ran: who is missed comes again under the old name.
    """
    if not vacant:
        return
    left = list(vacant)
    asked = {pod.metadata.uid for pod in (*gang.asks().pods, *gang.pods_later())}
    for pod in free:
        if not left:
            return
        if pod.spec.node_name or says_index(pod):
            continue
        rank, shape = gang.facts(pod).rank, gang.facts(pod).shape
        is_new = pod.metadata.uid not in asked
        created_s = unix_s(pod.metadata.creation_timestamp)
        unfit = [
            (slot.shape != shape or not takes(slot.node, pod), at)
            for at, slot in enumerate(left)
            if slot.rank.role == rank.role
            and (is_new or not (slot.rank.number or rank.number) or created_s >= since_unix_s(slot))
        ]
        if unfit:
            is_unfit, at = min(unfit)
            yield left.pop(at), pod, not is_unfit
