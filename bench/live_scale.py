"""What muster keeps and does in a cluster ten times as large: memory, start, a rebuilt state.

225,000 ordinary pods on 7,500 nodes that are each a class of their own, by a label of the admin's,
and 500 gangs that wait; then 2,000 more come, and all of them start. Pages of the API server are
made here; no cluster is behind them. Prints a row for each figure; `--pods` and `--nodes` make it
smaller.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from kubernetes.aio.client import Configuration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rows import show
from scheduler.controller.controller import Controller
from scheduler.controller.settings import LiveSettings
from scheduler.controlplane import objects
from scheduler.kube.api import Api
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.reading import Reader
from scheduler.kube.watch import AT_ONCE, Change
from scheduler.live.service import Service
from scheduler.workloads.lean import lean_pod

PAGE = 500
GANGS = 500
STARTING = 2000
_encode = msgspec.json.Encoder().encode


def ordinary(number: int, nodes: int) -> dict[str, Any]:
    """Return a running pod of a Deployment, as the API server has it."""
    app, node = f"web-{number // 30}", f"node-{number % nodes:05d}"
    name = f"{app}-5d4f9c7b8d-{number:06d}"
    at = "2026-01-01T00:00:00Z"
    env = [{"name": f"SETTING_{n}", "value": f"value of setting {n} of {app}"} for n in range(20)]
    has = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    token = {"name": "kube-api-access-x2f4k", "mountPath": "/var/run/secrets/token"}
    container = {
        "name": "main", "image": f"registry.example/{app}:1.2.3", "env": env, "resources": has,
        "ports": [{"containerPort": 8080}], "volumeMounts": [token],
    }  # fmt: skip
    fields = {f"f:{word}": {} for word in ("image", "name", "resources", "env", "ports", "args")}
    meta = {
        "name": name, "namespace": f"team-{number % 50}", "resourceVersion": str(1000 + number),
        "uid": f"{number:08x}-0000-4000-8000-000000000000", "creationTimestamp": at,
        "labels": {"app": app, "pod-template-hash": "5d4f9c7b8d", "version": "1.2.3"},
        "annotations": {"prometheus.io/scrape": "true", "checksum/config": "0" * 64},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": True,
                             "name": f"{app}-5d4f9c7b8d", "uid": f"rs-{number // 30:033d}"}],
        "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": fields}] * 4,
    }  # fmt: skip
    gone = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute",
         "tolerationSeconds": 300}
        for what in ("not-ready", "unreachable")
    ]  # fmt: skip
    words = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    status = {
        "phase": "Running",
        "conditions": [{"type": t, "status": "True", "lastTransitionTime": at} for t in words],
        "containerStatuses": [{
            "name": "main", "ready": True, "state": {"running": {"startedAt": at}},
            "allocatedResources": has["requests"], "resources": has, "image": container["image"],
        }],
    }  # fmt: skip
    spec = {"nodeName": node, "containers": [container], "tolerations": gone,
            "schedulerName": "default-scheduler", "volumes": [{"name": token["name"]}]}  # fmt: skip
    return {"metadata": meta, "spec": spec, "status": status}


def waiting(number: int) -> Pod:
    """Return a gated pod of a gang of its own; every fifth wants another node."""
    chosen = {"kubernetes.io/hostname": f"node-{7 * number:05d}"} if number % 5 == 0 else {}
    meta = {
        "name": f"w-{number}", "namespace": "train", "uid": f"w-{number}",
        "labels": {"muster.dev/group": f"w-{number}", "muster.dev/min-member": "1"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    limits = {"nvidia.com/gpu": "8", "cpu": "95"}  # beside ordinary pods there is no room for it
    spec = {"containers": [{"resources": {"limits": limits}}], "nodeSelector": chosen,
            "schedulingGates": [{"name": "muster.dev/queued"}]}  # fmt: skip
    return msgspec.convert({"metadata": meta, "spec": spec}, Pod)


def starting(number: int) -> Pod:
    """Return a gated pod of a gang of its own for which there is room."""
    pod = waiting(5 * number + 1)
    pod.metadata.namespace = "serve"  # one namespace may not have as many kinds of pods
    pod.metadata.name = pod.metadata.uid = pod.metadata.labels["muster.dev/group"] = f"s-{number}"
    pod.spec.containers[0].resources.limits.update({"nvidia.com/gpu": "1", "cpu": "1"})
    return pod


def rss_bytes() -> int:
    """Return what the process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def pages(pods: int, nodes: int) -> Iterator[bytes]:
    """Yield the answers to a list of pods."""
    for first in range(0, pods, PAGE):
        items = [ordinary(number, nodes) for number in range(first, min(pods, first + PAGE))]
        yield _encode({"items": items, "metadata": {"resourceVersion": "1"}})


class Turns:
    """CPU seconds of work, and the longest of it without a turn for others."""

    def __init__(self) -> None:
        self.total_s = self.longest_s = 0.0
        self._began_s = time.process_time()

    def add(self, other: Turns) -> None:
        """Count what comes after this, too."""
        self.total_s += other.total_s
        self.longest_s = max(self.longest_s, other.longest_s)

    def begin(self) -> None:
        """Begin work: what came before is not counted."""
        self._began_s = time.process_time()

    def end(self) -> None:
        """Note that others get their turn now, or that the work is done."""
        took_s = time.process_time() - self._began_s
        self.total_s += took_s
        self.longest_s = max(self.longest_s, took_s)
        self._began_s = time.process_time()


async def measured(pods: int, nodes: int) -> dict[str, float]:
    """Return the figures, by words with their unit."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    before = rss_bytes()
    service = Service(LiveSettings(), Api(Configuration()))
    control, reader = service.controller, Reader(Pod, "/api/v1/pods")
    for number in range(nodes):
        made = objects.node(number, 8)
        made["metadata"]["labels"]["muster.dev/pool"] = f"pool-{number}"
        control.on_node(Change.ADDED, msgspec.convert(made, NodeObject))
    start = Turns()
    known: dict[str, Pod] = {}
    length = 0
    for content in pages(pods, nodes):
        length += len(content)
        start.begin()
        for number, pod in enumerate(reader.page(content).items):
            kept = lean_pod(pod)
            assert kept is not None
            known[kept.metadata.uid] = kept
            control.on_pod(Change.ADDED, kept)
            if number % AT_ONCE == 0:
                start.end()
        start.end()
    control.active = True
    first = await steps(control)
    gc.collect()
    gc.freeze()
    kept_bytes = rss_bytes() - before
    for number in range(GANGS):
        control.on_pod(Change.ADDED, waiting(number))
    burst = await steps(control)
    service.ledger.begin_anew()
    anew = await steps(control)
    assert service.ledger.classes.num_classes == nodes
    control.release.tell = lambda gang: None  # type: ignore[method-assign]  # nobody takes writes
    num_starting = min(STARTING, 4 * nodes)  # half of the GPUs
    for number in range(num_starting):
        control.on_pod(Change.ADDED, starting(number))
    started = Turns()
    while len(control.slot_of) < num_starting:  # those that wait are set aside some at a time
        started.add(await steps(control))
    return {
        f"{pods:,} pods and {nodes:,} nodes in memory, MiB": kept_bytes / 2**20,
        "the same per pod, bytes": kept_bytes / pods,
        "a pod as the API server sends it, bytes": length / pods,
        "the whole process, MiB": rss_bytes() / 2**20,
        "start: pods read and counted, CPU s": start.total_s,
        "longest turn while reading, ms": 1e3 * start.longest_s,
        f"first state, {nodes:,} classes, CPU s": first.total_s,
        f"{GANGS} gangs arrive, CPU s": burst.total_s,
        "longest turn of the arrival, ms": 1e3 * burst.longest_s,
        f"state rebuilt, {GANGS} gangs waiting, CPU s": anew.total_s,
        "longest turn of the rebuild, ms": 1e3 * anew.longest_s,
        f"{num_starting:,} gangs of one pod start at once, CPU s": started.total_s,
        "longest turn of these starts, ms": 1e3 * started.longest_s,
    }


async def steps(control: Controller) -> Turns:
    """Make a step as muster does, in turns."""
    found = Turns()
    done = asyncio.Event()

    async def others() -> None:
        while not done.is_set():
            found.end()
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    found.begin()
    await control.step_in_turns()
    found.end()
    done.set()
    await beside
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pods", type=int, default=225_000)
    parser.add_argument("--nodes", type=int, default=7500)
    parser.add_argument("--write-docs", action="store_true", help="update docs/benchmarks.md")
    given = parser.parse_args()
    figures = asyncio.run(measured(given.pods, given.nodes))
    show(figures, "scale" if given.write_docs else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
