"""The faults, each for a while, each undone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from scheduler.controlplane.objects import node
from scheduler.controlplane.record import Cluster
from tests.chaos.load import BURSTS, GATED, OPERATED
from tests.chaos.proxy import Proxy
from tests.chaos.wire import MERGE, Object, Wire


def job_of(name: str, size: int, gpus: int) -> Object:
    """Return an Indexed Job whose pods succeed after a few seconds."""
    container = {"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    pods = {
        "metadata": {"annotations": {"muster.dev/run-for": "3s"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
    spec = {"completionMode": "Indexed", "completions": size, "parallelism": size}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {**spec, "backoffLimit": 100, "template": pods},
    }


class Faults:
    """Does harm to one cluster. Every method returns once the harm is undone."""

    def __init__(
        self,
        cluster: Cluster,
        wire: Wire,
        proxy: Proxy,
        rng: random.Random,
        clock_file: Path | None,
    ) -> None:
        self._cluster, self._wire, self._proxy, self._rng = cluster, wire, proxy, rng
        self._clock_file = clock_file
        self._jump_s = 0
        self.jobs: list[str] = []  #: addresses of the Jobs of bursts: each must complete
        self._restarting = asyncio.Lock()  # two at once would write the same record of the cluster
        self.kinds: dict[str, Callable[[], Awaitable[str]]] = {
            "muster killed": self.kill_muster,
            "muster stopped for a while": self.stop_muster,
            "kube-scheduler killed": self.kill_scheduler,
            "API server killed": self.kill_api,
            "node lost": self.lose_node,
            "node cordoned": self.cordon,
            "pod deleted": self.delete_pods,
            "quota lowered": self.quota,
            "watches expired": self.expire,
            "429": self.busy,
            "500": self.broken,
            "answers lost": self.lost,
            "burst of Jobs": self.burst,
        }
        if clock_file is not None:
            self.kinds["wall clock jumped"] = self.jump

    def _muster(self) -> list[int]:
        pid = self._cluster.process("muster").pid
        try:
            return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    async def kill_muster(self) -> str:
        """As a crash; its supervisor starts it again."""
        for pid in self._muster():
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(1)
        return ""

    async def stop_muster(self) -> str:
        """As a machine that swaps, or a process that is moved."""
        pids, length_s = self._muster(), self._rng.uniform(2, 12)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(length_s)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                os.kill(pid, signal.SIGCONT)
        return f"{length_s:.0f} s"

    async def _again(self, name: str) -> str:
        pause_s = self._rng.uniform(0, 4)
        self._cluster.process(name).signal(signal.SIGKILL)
        await asyncio.sleep(pause_s)
        await self._restart(name)
        while not await asyncio.to_thread(self._cluster.healthy, name):
            await asyncio.sleep(0.2)
        return f"away for {pause_s:.1f} s"

    async def kill_scheduler(self) -> str:
        """Kill and start again."""
        return await self._again("kube-scheduler")

    async def kill_api(self) -> str:
        """Kill and start again, with two that do not recover from it by themselves.

        kwok forgets whose time is up; the operator's watch of PodGroups can stay broken, and it
        then tries for ever to create those that are there.
        """
        text = await self._again("kube-apiserver")
        for name in ("kwok", "training-operator"):
            await self._restart(name)
        return text

    async def _restart(self, name: str) -> None:
        async with self._restarting:
            await asyncio.to_thread(self._cluster.restart, name)

    async def _pick_node(self) -> str:
        reply = await self._wire.sure("GET", "/api/v1/nodes")
        return str(self._rng.choice(sorted(n["metadata"]["name"] for n in reply["items"])))

    async def lose_node(self) -> str:
        """Delete a node with what runs on it; it comes back empty, as after a repair."""
        name, length_s = await self._pick_node(), self._rng.uniform(3, 15)
        await self._wire.sure("DELETE", f"/api/v1/nodes/{name}")
        path = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{name}"
        for pod in (await self._wire.sure("GET", path))["items"]:
            await self._delete(pod)
        await asyncio.sleep(length_s)
        body = node(int(name.split("-")[1]), 8)
        await self._wire.sure("POST", "/api/v1/nodes", body)
        return f"{name}, {length_s:.0f} s"

    async def cordon(self) -> str:
        """Cordon a node, uncordon it later."""
        name, length_s = await self._pick_node(), self._rng.uniform(2, 10)
        path = f"/api/v1/nodes/{name}"
        await self._wire.sure("PATCH", path, {"spec": {"unschedulable": True}}, MERGE)
        await asyncio.sleep(length_s)
        await self._wire.sure("PATCH", path, {"spec": {"unschedulable": None}}, MERGE)
        return f"{name}, {length_s:.0f} s"

    async def _delete(self, pod: dict[str, dict[str, str]]) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await self._wire.sure("DELETE", path, body)

    async def delete_pods(self) -> str:
        """Delete one to three pods, waiting or running."""
        found = []
        for namespace in (GATED, OPERATED):
            reply = await self._wire.sure("GET", f"/api/v1/namespaces/{namespace}/pods")
            found += reply["items"]
        pods = sorted(found, key=lambda pod: str(pod["metadata"]["name"]))
        chosen = self._rng.sample(pods, min(len(pods), self._rng.randint(1, 3)))
        for pod in chosen:
            await self._delete(pod)
        return ", ".join(pod["metadata"]["name"] for pod in chosen)

    async def quota(self) -> str:
        """Forbid new pods for a while: gangs come in part."""
        length_s, path = self._rng.uniform(2, 10), f"/api/v1/namespaces/{GATED}/resourcequotas"
        reply = await self._wire.sure("GET", f"/api/v1/namespaces/{GATED}/pods")
        count = len(reply["items"]) + 1
        body = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "tight"},
            "spec": {"hard": {"pods": str(count)}},
        }
        await self._wire.sure("POST", path, body)
        await asyncio.sleep(length_s)
        await self._wire.sure("DELETE", f"{path}/tight")
        return f"{count} pods, {length_s:.0f} s"

    async def burst(self) -> str:
        """Create Jobs at once, whose pods are made by the real controller; they come and go."""
        number, size, gpus = (
            self._rng.randint(4, 10),
            self._rng.randint(2, 6),
            self._rng.choice((1, 2)),
        )
        path = f"/apis/batch/v1/namespaces/{BURSTS}/jobs"
        tag = f"burst-{len(self.jobs)}"
        for index in range(number):
            await self._wire.sure("POST", path, job_of(f"{tag}-{index}", size, gpus))
            self.jobs.append(f"{path}/{tag}-{index}")
        return f"{number} x {size} pods of {gpus} GPUs"

    async def expire(self) -> str:
        """End muster's watches with 410."""
        self._proxy.expire()
        return ""

    async def _spoil(self, what: str) -> str:
        length_s, share = self._rng.uniform(2, 8), self._rng.uniform(0.2, 0.9)
        self._proxy.fault, self._proxy.share = what, share
        await asyncio.sleep(length_s)
        self._proxy.fault = ""
        return f"{share:.0%} of muster's requests for {length_s:.0f} s"

    async def busy(self) -> str:
        """Answer 429."""
        return await self._spoil("429")

    async def broken(self) -> str:
        """Answer 500."""
        return await self._spoil("500")

    async def lost(self) -> str:
        """Carry requests out and throw the answers away."""
        return await self._spoil("lost")

    async def jump(self) -> str:
        """Set muster's wall clock forward or back by up to two hours."""
        assert self._clock_file is not None
        self._jump_s = self._rng.randint(-7200, 7200)
        self._clock_file.write_text(f"{self._jump_s:+d}s\n")
        return f"to {self._jump_s:+d} s"
