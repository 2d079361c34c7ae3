"""Pods that somebody watched, put together to gangs: one job each.

Which pods make a gang is read as muster reads it live (`scheduler.workloads.gangs`). A pod of no
gang is a job of its own. A rank whose pod was replaced counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import pandas as pd

from scheduler.kube.objects import Pod, Thing
from scheduler.workloads import gangs
from scheduler.workloads.requests import UNIT, nano, pod_requests
from traces.formats.outcomes import (
    CANCELLED,
    COMPLETED,
    FAILED,
    NEVER_WHOLE,
    UNFINISHED,
    UNKNOWN,
    still_ran,
)
from traces.schema import INT_MAX

GIB = 1 << 30
#: resources that stand for whole GPUs, or what takes their place
GPU_RESOURCES = (
    "nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "habana.ai/gaudi",
    "google.com/tpu", "aws.amazon.com/neuron", "huawei.com/Ascend910",
)  # fmt: skip
MIG = "nvidia.com/mig-"  #: begins the resources of slices, which count as GPUs
#: labels of nodes that name a GPU model, as pods ask for them
MODEL_LABELS = (
    "nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "gpu.nvidia.com/model",
    "amd.com/gpu.product-name",
)  # fmt: skip


@dataclass(slots=True)
class Life:
    """One pod, as far as it was seen. Times are Unix seconds; inf: not yet."""

    pod: Pod
    created_s: float
    bound_s: float = inf
    runs_s: float = inf
    end_s: float = inf
    outcome: str = UNKNOWN

    @property
    def from_s(self) -> float:
        """When it began to run; where nobody saw that, when it got its node."""
        return self.runs_s if self.runs_s < inf else self.bound_s


def gpus_of(pod: Pod) -> int:
    """Return the GPUs that a pod asks for; a part of one counts as a whole one.

    Raises:
        ValueError: a quantity cannot be read.
    """
    gpus = -(-_gpu_nano(pod) // UNIT)
    if not 0 <= gpus <= INT_MAX:
        raise ValueError(f"it asks for {gpus:,} GPUs; give 0 to {INT_MAX:,}")
    return gpus


def _gpu_nano(pod: Pod) -> int:
    """Return the GPUs that a pod asks for, in billionths."""
    try:
        amounts = pod_requests(pod)
    except ValueError as error:
        raise ValueError(f"{_unreadable(pod)}{error}") from None
    is_gpu = {name: name in GPU_RESOURCES or name.startswith(MIG) for name in amounts}
    return sum(amount for name, amount in amounts.items() if is_gpu[name])


def _unreadable(pod: Pod) -> str:
    """Return which resource has a quantity that cannot be read, for the begin of a message."""
    for one in (*pod.spec.init_containers, *pod.spec.containers):
        for name, amount in (*one.resources.limits.items(), *one.resources.requests.items()):
            try:
                nano(amount)
            except ValueError:
                return f"{name} is {amount!r}: "
    return ""


def _nobody(kind: str, namespace: str, name: str) -> Thing | None:
    return None  # a list of pods does not hold their owners


@dataclass(frozen=True, slots=True)
class Gathered:
    """Jobs made of pods, and what was left out."""

    jobs: pd.DataFrame
    left_out: dict[str, int]
    notes: tuple[str, ...]


def gathered(lives: Iterable[Life], seen_until_s: float) -> Gathered:
    """Return one job per gang that had all its ranks run; `seen_until_s` is when watching ended.

    `submit_s` is when its first pod was created, in Unix seconds. `duration_s` is how long all its
    ranks ran at once, ranks that ended well included.
    """
    of_gang: dict[tuple[str, str, str], list[Life]] = {}
    for life in lives:
        key = gangs.key_of(life.pod, _nobody)
        meta = life.pod.metadata
        named = (meta.namespace, key.name, key.owner) if key else (*_pod_name(life.pod), meta.uid)
        of_gang.setdefault(named, []).append(life)
    rows, never_ran, unfinished, uneven, helpers = [], 0, 0, 0, 0
    times: Counter[str] = Counter()
    for (namespace, name, _), members in sorted(
        of_gang.items(), key=lambda item: min(one.created_s for one in item[1])
    ):
        ranks: dict[object, list[Life]] = {}
        for life in members:
            ranks.setdefault(gangs.rank_of(life.pod).place, []).append(life)
        whole_s, is_open = _whole_s(list(ranks.values()), seen_until_s)
        if not whole_s > 0:
            never_ran += 1
            continue
        unfinished += is_open
        latest = [max(pods, key=lambda one: one.created_s) for pods in ranks.values()]
        gpus = sorted((gpus_of(one.pod) for one in latest), reverse=True)
        if gpus[0] and not gpus[-1]:
            helpers += 1
            latest = [one for one in latest if gpus_of(one.pod)]
            gpus = [one for one in gpus if one]
        uneven += len(set(gpus[:-1])) > 1
        amounts = [pod_requests(one.pod) for one in latest]
        title = f"{namespace}/{name}"
        times[title] += 1
        first = latest[0].pod
        rows.append(
            {
                "job": title if times[title] == 1 else f"{title} (run {times[title]})",
                "submit_s": min(one.created_s for one in members),
                "duration_s": whole_s,
                "num_pods": len(gpus),
                "gpus_per_pod": gpus[0],
                "last_pod_gpus": gpus[-1] if len(set(gpus[:-1])) < 2 else gpus[0],
                "priority": max(one.pod.spec.priority for one in latest),
                "evicts": all(one.pod.spec.preemption_policy != "Never" for one in latest),
                "queue": _queue(first),
                "gpu_model": next(
                    (m for at in MODEL_LABELS if (m := first.spec.node_selector.get(at))), ""
                ),
                "cpu_per_pod": max(one.get("cpu", 0) for one in amounts) / UNIT,
                "mem_gib_per_pod": max(one.get("memory", 0) for one in amounts) / UNIT / GIB,
                "outcome": UNFINISHED if is_open else _outcome(latest),
            }
        )
    notes = list(still_ran(unfinished))
    if parts := [one.pod for members in of_gang.values() for one in members
                 if _gpu_nano(one.pod) % UNIT]:  # fmt: skip
        notes.append(
            f"pods that ask for a part of a GPU: {len(parts):,}, such as {parts[0].where}; each "
            "counts with the next whole number (Kubernetes takes only whole GPUs)"
        )
    if helpers:
        notes.append(f"gangs of GPU pods with pods without GPUs, which are left out: {helpers:,}")
    if uneven:
        notes.append(
            f"gangs with pods of several sizes: {uneven:,}; each counts with its largest pod"
        )
    left_out = {NEVER_WHOLE: never_ran} if never_ran else {}
    return Gathered(pd.DataFrame(rows), left_out, tuple(notes))


def _pod_name(pod: Pod) -> tuple[str, str]:
    return pod.metadata.namespace, pod.metadata.name


def _queue(pod: Pod) -> str:
    """Return the queue that a pod names, or its namespace, which is its team.

    A LocalQueue of Kueue is one of its namespace: others may have one of the same name.
    """
    meta = pod.metadata
    for name, of in ((gangs.KUEUE_QUEUE, f"{meta.namespace}/"), (gangs.OWN_QUEUE, "")):
        if found := meta.labels.get(name) or meta.annotations.get(name):
            return f"{of}{found}"
    return meta.namespace


def _whole_s(ranks: list[list[Life]], seen_until_s: float) -> tuple[float, bool]:
    """Return how long all ranks ran at once, and whether they still did at the end."""
    changes: list[tuple[float, int, int]] = []  #: when, filled ranks, running ones
    for pods in ranks:
        pods.sort(key=lambda one: one.created_s)
        for place, one in enumerate(pods):
            if one.from_s == inf:
                continue
            end_s = min(one.end_s, seen_until_s)
            changes.append((one.from_s, 1, 1))
            is_last = place == len(pods) - 1
            if one.outcome == COMPLETED and is_last:  # its place stays filled
                changes.append((end_s, 0, -1))
            else:
                changes.append((end_s, -1, -1))
    changes.sort()
    whole_s, filled, run, is_open = 0.0, 0, 0, False
    for (now_s, fills, runs), (next_s, _, _) in pairwise([*changes, (inf, 0, 0)]):
        filled, run = filled + fills, run + runs
        if filled >= len(ranks) and run > 0 and next_s < inf:
            whole_s += next_s - now_s
    is_open = all(pods[-1].from_s < inf and pods[-1].end_s == inf for pods in ranks)
    return whole_s, is_open


def _outcome(latest: list[Life]) -> str:
    """Return how a gang ended: badly if a rank did."""
    outcomes = {one.outcome for one in latest}
    for word in (FAILED, CANCELLED, UNKNOWN):
        if word in outcomes:
            return word
    return COMPLETED
