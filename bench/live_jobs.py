"""Bursts of jobs that may not fail once, with the settings that ship: how many survive.

The real controllers make the pods, on played nodes where they run; stock scheduling has the same
bursts in turns, every other time. `bench/live.py` starts the control planes and prints the rows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import pandas as pd

from scheduler.controlplane import objects
from scheduler.controlplane.record import Cluster
from scheduler.kube.api import Turn
from scheduler.kube.objects import Pod, scheduled_unix_s

PODS = "/api/v1/namespaces/default/pods"
NODES = 3200
WITHIN_S = 240.0
LOOK_S = 1.0
_numbers = itertools.count()


class _Pods(msgspec.Struct):
    items: list[Pod]


_pods = msgspec.json.Decoder(_Pods)


def template(of: str, container: str) -> dict[str, Any]:
    """Return the template of pods of eight GPUs."""
    has = {"limits": {"nvidia.com/gpu": "8"}, "requests": {"cpu": "1"}}
    containers = [{"name": container, "image": "train:1", "resources": has}]
    return {"metadata": {"labels": {"app": of}}, "spec": {"containers": containers}}


def job(of: str, size: int) -> dict[str, Any]:
    """Return the spec of an Indexed Job that ends with its first failure."""
    pods = template(of, "main")
    pods["spec"]["restartPolicy"] = "Never"
    count = {"completions": size, "parallelism": size}
    return {"completionMode": "Indexed", **count, "backoffLimit": 0, "template": pods}


def pytorchjob(of: str, size: int) -> dict[str, Any]:
    """Return the spec of a PyTorchJob that ends with its first failure."""
    ends = {"restartPolicy": "Never", "template": template(of, "pytorch")}
    parts = {"Master": {"replicas": 1, **ends}, "Worker": {"replicas": size - 1, **ends}}
    return {"runPolicy": {"backoffLimit": 0}, "pytorchReplicaSpecs": parts}


class Kind(NamedTuple):
    """What a burst consists of."""

    version: str
    plural: str
    spec: Callable[[str, int], dict[str, Any]]
    most: tuple[int, int]  #: jobs at once, and pods of each


KINDS = {
    "Job": Kind("batch/v1", "jobs", job, (30, 100)),
    "PyTorchJob": Kind("kubeflow.org/v1", "pytorchjobs", pytorchjob, (10, 50)),
}


def is_dead(job: dict[str, Any]) -> bool:
    """True if a job ended Failed."""
    said = job.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Failed" and one["status"] == "True" for one in said)


def num_running(job: dict[str, Any]) -> int:
    """Return how many pods of a job run, by its own status."""
    status = job.get("status", {})
    parts = (status.get("replicaStatuses") or {}).values()
    return int(status.get("ready", 0)) + sum(part.get("active", 0) for part in parts)


async def burst(
    cluster: Cluster,
    kind: str,
    jobs: int,
    size: int,
    cpu_s: Callable[[Cluster], dict[str, float]],
) -> dict[str, float]:
    """Create all jobs at once; wait until each runs or is dead, remove them, say what it took."""
    version, plural, spec, *_ = KINDS[kind]
    where = f"/apis/{version}/namespaces/default/{plural}"
    of = f"burst-{next(_numbers)}"
    body = {"apiVersion": version, "kind": kind, "spec": spec(of, size)}
    chosen = urlencode({"labelSelector": f"app={of}"})
    async with await objects.connect(cluster.kubeconfig) as api:
        before, began_unix_s = cpu_s(cluster), time.time()
        metas = [{"name": f"{of}-{n}", "labels": {"app": of}} for n in range(jobs)]
        await asyncio.gather(
            *(api.persist("POST", where, {**body, "metadata": m}, turn=Turn.NOW) for m in metas)
        )
        dead = ready = 0
        while dead + ready < jobs and time.time() < began_unix_s + WITHIN_S:
            await asyncio.sleep(LOOK_S)
            found = json.loads(await api.persist("GET", f"{where}?{chosen}"))["items"]
            dead = sum(is_dead(one) for one in found)
            ready = sum(num_running(one) >= size for one in found)
        after = cpu_s(cluster)
        pods = _pods.decode(await api.persist("GET", f"{PODS}?{chosen}")).items
        bound_unix_s = [at for one in pods if (at := scheduled_unix_s(one))]
        await api.persist("DELETE", f"{where}?{chosen}&propagationPolicy=Background")
        while json.loads(await api.persist("GET", f"{PODS}?{chosen}&limit=1"))["items"]:
            await asyncio.sleep(LOOK_S)
    took_s = max(bound_unix_s, default=began_unix_s) - began_unix_s
    return {
        "dead": dead + (jobs - dead - ready),  # who does not start in minutes is no better off
        "pods_per_s": len(bound_unix_s) / max(took_s, LOOK_S),
        "last_bound_s": took_s,
        **{f"{name}_s": after[name] - before[name] for name in after},
    }


def measure(
    clusters: Mapping[str, Cluster],
    kind: str,
    jobs: int,
    size: int,
    rounds: int,
    cpu_s: Callable[[Cluster], dict[str, float]],
    say: Callable[[str], None],
) -> pd.DataFrame:
    """Return the figures of `rounds` bursts under muster, and of half as many under stock."""
    found = []
    for number in range(rounds):
        for lane, cluster in clusters.items():
            if lane == "stock" and number % 2:
                continue
            figures = asyncio.run(burst(cluster, kind, jobs, size, cpu_s))
            found.append({"lane": lane, **figures})
            said = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
            say(f"{kind}s, {lane}: {said}")
    return pd.DataFrame(found)
