"""Gangs that come, run and go, and an owner that replaces their lost pods."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from tests.chaos.wire import MERGE, Object, Wire

LANES = ("pinned", "pinned", "direct", "extender", "operator")
GROUP = "scheduling.x-k8s.io/pod-group"
#: the admission policy leaves this namespace alone, so its pods come without a gate
UNGATED, GATED = "kubeflow", "chaos"
#: no quota here: after a refusal the operator waits up to a quarter of an hour
OPERATED = "chaos-operator"
BURSTS = "chaos-bursts"  #: Jobs of the real controller
REMIND_S = 10.0


@dataclass
class Gang:
    """One gang of the load."""

    namespace: str
    name: str
    size: int
    gpus: int
    lane: str
    run_s: int
    finished: set[str] = field(default_factory=set)
    uids: dict[str, str] = field(default_factory=dict)

    def pod_names(self) -> list[str]:
        """Return the names of its pods; the operator chooses its own."""
        if self.lane == "operator":
            return [
                f"{self.name}-master-0",
                *(f"{self.name}-worker-{i}" for i in range(self.size - 1)),
            ]
        return [f"{self.name}-{i}" for i in range(self.size)]

    @property
    def done(self) -> bool:
        """True once every rank succeeded."""
        return len(self.finished) == self.size


class Load:
    """Keeps the cluster busy: about half as much again as it can hold."""

    def __init__(self, wire: Wire, rng: random.Random, num_gpus: int) -> None:
        self._wire, self._rng, self._num_gpus = wire, rng, num_gpus
        self.gangs: dict[tuple[str, str], Gang] = {}
        self.sizes: dict[tuple[str, str], int] = {}
        self.num_done = 0
        self.open = True
        self._number = 0
        self._reminded_s = time.monotonic()

    async def run(self) -> None:
        """Submit, replace and clear away until everything is done and the load is closed."""
        while self.open or self.gangs:
            asked = sum(g.size * g.gpus for g in self.gangs.values())
            if self.open and asked < 1.5 * self._num_gpus:
                await self._submit()
            await self._tend()
            await asyncio.sleep(0.3)

    async def _submit(self) -> None:
        rng = self._rng
        lane = rng.choice(LANES)
        self._number += 1
        gang = Gang(
            {"extender": UNGATED, "operator": OPERATED}.get(lane, GATED),
            f"{lane}-{self._number}",
            rng.choice((2, 2, 3, 4, 6)),
            rng.choice((1, 2, 4, 8)),
            lane,
            rng.randint(3, 15),
        )
        key = (gang.namespace, gang.name)
        self.gangs[key] = gang
        self.sizes[key] = gang.size
        where = f"/namespaces/{gang.namespace}"
        if lane == "operator":
            await self._wire.sure("POST", f"/apis/kubeflow.org/v1{where}/pytorchjobs", job(gang))
            return
        group = {
            "apiVersion": "scheduling.x-k8s.io/v1alpha1",
            "kind": "PodGroup",
            "metadata": {"name": gang.name},
            "spec": {"minMember": gang.size},
        }
        await self._wire.sure("POST", f"/apis/scheduling.x-k8s.io/v1alpha1{where}/podgroups", group)

    async def _tend(self) -> None:
        for namespace in (GATED, UNGATED, OPERATED):
            code, reply = await self._wire.call("GET", f"/api/v1/namespaces/{namespace}/pods")
            if code != 200:
                return
            pods = {pod["metadata"]["name"]: pod for pod in reply["items"]}
            if namespace == OPERATED:
                await self._take_ended_jobs()
            for key, gang in list(self.gangs.items()):
                if gang.namespace == namespace:
                    await self._tend_one(key, gang, pods)

    async def _take_ended_jobs(self) -> None:
        """Take the operator's word for jobs that succeeded: it makes no more pods for them.

        It forgets a job now and then, until something about it changes (1.8.1): no more of them
        would be made once the load consists of such jobs.
        """
        where = f"/apis/kubeflow.org/v1/namespaces/{OPERATED}/pytorchjobs"
        now_s = time.monotonic()
        if now_s > self._reminded_s + REMIND_S:
            self._reminded_s = now_s
            touched = {"metadata": {"annotations": {"tests.muster.dev/reminded": f"{now_s:.0f}"}}}
            for namespace, name in list(self.gangs):
                if namespace == OPERATED:
                    await self._wire.call("PATCH", f"{where}/{name}", touched, MERGE)
        code, reply = await self._wire.call("GET", where)
        for item in reply["items"] if code == 200 else ():
            gang = self.gangs.get((OPERATED, item["metadata"]["name"]))
            told = (item.get("status") or {}).get("conditions") or ()
            if gang and any(c["type"] == "Succeeded" and c["status"] == "True" for c in told):
                gang.finished.update(gang.pod_names())

    async def _tend_one(self, key: tuple[str, str], gang: Gang, pods: dict[str, Object]) -> None:
        base = f"/api/v1/namespaces/{gang.namespace}/pods"
        for name in gang.pod_names():
            pod = pods.get(name)
            if pod is None:
                if gang.lane != "operator":
                    # as controllers do, also for one that had succeeded: the API is all they know
                    gang.finished.discard(name)
                    await self._wire.call("POST", base, member(gang, name))
            elif pod["status"].get("phase") == "Succeeded":
                gang.finished.add(name)
            elif pod["status"].get("phase") == "Failed":
                await self._wire.call("DELETE", f"{base}/{name}", {"gracePeriodSeconds": 0})
        if not gang.done:
            return
        del self.gangs[key]
        self.num_done += 1
        if gang.lane == "operator":
            path = f"/apis/kubeflow.org/v1/namespaces/{gang.namespace}/pytorchjobs/{gang.name}"
            await self._wire.sure("DELETE", path)
            return
        group = f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{gang.namespace}/podgroups"
        for path in [f"{base}/{name}" for name in gang.pod_names()] + [f"{group}/{gang.name}"]:
            await self._wire.sure("DELETE", path, {"gracePeriodSeconds": 0})


def _containers(gang: Gang) -> list[Object]:
    limits = {"nvidia.com/gpu": gang.gpus}
    return [{"name": "pytorch", "image": "train:1", "resources": {"limits": limits}}]


def member(gang: Gang, name: str) -> Object:
    """Return one pod of a gang."""
    spec: Object = {"terminationGracePeriodSeconds": 0, "containers": _containers(gang)}
    if gang.lane == "direct":
        spec["schedulerName"] = "muster-direct"
    annotations = {"muster.dev/run-for": f"{gang.run_s}s"}
    meta = {"name": name, "labels": {GROUP: gang.name}, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def job(gang: Gang) -> Object:
    """Return the gang as a PyTorchJob."""
    meta = {"annotations": {"muster.dev/run-for": f"{gang.run_s}s"}}
    spec = {"terminationGracePeriodSeconds": 0, "containers": _containers(gang)}

    def part(count: int) -> Object:
        template = {"metadata": meta, "spec": spec}
        return {"replicas": count, "restartPolicy": "OnFailure", "template": template}

    parts = {"Master": part(1), "Worker": part(gang.size - 1)}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": gang.name},
        "spec": {"runPolicy": {"cleanPodPolicy": "None"}, "pytorchReplicaSpecs": parts},
    }
