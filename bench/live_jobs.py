"""Bursts of batch Jobs that may not fail once, with the settings that ship: how many survive.

The real controllers make the pods, on played nodes where they run; stock scheduling has the same
bursts in turns, every other time. `bench/live.py` starts the control planes and prints the rows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
import pandas as pd

from scheduler.controlplane import objects
from scheduler.controlplane.record import Cluster
from scheduler.kube.api import Turn
from scheduler.kube.objects import Pod, scheduled_unix_s

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"
NODES = 3200
WITHIN_S = 240.0
LOOK_S = 1.0
_numbers = itertools.count()


class _Pods(msgspec.Struct):
    items: list[Pod]


_pods = msgspec.json.Decoder(_Pods)


def job(name: str, of: str, size: int) -> dict[str, Any]:
    """Return an Indexed Job of pods of eight GPUs that ends with its first failure."""
    has = {"limits": {"nvidia.com/gpu": "8"}, "requests": {"cpu": "1"}}
    container = {"name": "main", "image": "train:1", "resources": has}
    labels = {"app": of}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": size,
            "parallelism": size,
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


def is_dead(job: dict[str, Any]) -> bool:
    """True if a Job ended Failed."""
    said = job["status"].get("conditions", ())
    return any(one["type"] == "Failed" and one["status"] == "True" for one in said)


async def burst(
    cluster: Cluster, jobs: int, size: int, cpu_s: Callable[[Cluster], dict[str, float]]
) -> dict[str, float]:
    """Create all Jobs at once; wait until each runs or is dead, remove them, say what it took."""
    of = f"burst-{next(_numbers)}"
    chosen = urlencode({"labelSelector": f"app={of}"})
    async with await objects.connect(cluster.kubeconfig) as api:
        before, began_unix_s = cpu_s(cluster), time.time()
        names = [f"{of}-{number}" for number in range(jobs)]
        await asyncio.gather(
            *(api.persist("POST", JOBS, job(name, of, size), turn=Turn.NOW) for name in names)
        )
        dead = ready = 0
        while dead + ready < jobs and time.time() < began_unix_s + WITHIN_S:
            await asyncio.sleep(LOOK_S)
            found = json.loads(await api.persist("GET", f"{JOBS}?{chosen}"))["items"]
            dead = sum(is_dead(one) for one in found)
            ready = sum(one["status"].get("ready", 0) >= size for one in found)
        after = cpu_s(cluster)
        pods = _pods.decode(await api.persist("GET", f"{PODS}?{chosen}")).items
        bound_unix_s = [at for one in pods if (at := scheduled_unix_s(one))]
        await api.persist("DELETE", f"{JOBS}?{chosen}&propagationPolicy=Background")
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
            figures = asyncio.run(burst(cluster, jobs, size, cpu_s))
            found.append({"lane": lane, **figures})
            said = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
            say(f"Jobs, {lane}: {said}")
    return pd.DataFrame(found)
