"""`muster cluster demo`: a mixed set of PyTorchJobs goes through the local cluster.

The ranks of a job do nothing until all of them run, as in a real rendezvous: with muster they start
together, and with stock scheduling half-placed jobs hold GPUs and wait for each other.
"""

from __future__ import annotations

import asyncio
import random
import time
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

import msgspec

from scheduler.controlplane import objects
from scheduler.controlplane.demo_job import DemoJob
from scheduler.controlplane.demo_view import Screen, Total
from scheduler.controlplane.record import Cluster
from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import label
from scheduler.kube.api import MERGE, Api, ApiError

NAMESPACE = "muster-demo"
PRIORITY = "muster-demo-high"
JOB_LABEL = "training.kubeflow.org/job-name"
RUN_FOR = "muster.dev/run-for"
PERIOD_S = 0.4  #: between looks
REMIND_S = 10.0  #: the operator is reminded of a job whose pods are missing for so long
EXPLAINED_S = 3.0  #: a job that never fits is shown at least so long
GONE_WITHIN_S = 60.0
MOST_PODS = 64  #: of one job
SMALL_NODES = 128  #: up to so many, a job of one node more can be created as a whole

JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SPACE = f"/api/v1/namespaces/{NAMESPACE}"
CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"


def mixed(nodes: int, gpus: int, count: int, seed: int) -> list[DemoJob]:
    """Return jobs that together ask for more than the cluster has, and one that never fits."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        per_pod = draw.choice([gpus, gpus, gpus, max(1, gpus // 2), 1])
        share = draw.choice([0.05, 0.1, 0.25, 0.4, 0.6])
        pods = round(share * nodes * gpus / per_pod)
        pods = min(max(pods, 2), MOST_PODS, nodes * (gpus // per_pod))
        run_s = draw.randint(4, 12)
        found.append(DemoJob(f"train-{number:02d}", pods, per_pod, run_s, draw.random() < 0.25))
    if nodes <= SMALL_NODES:
        found.append(DemoJob("too-large", nodes + 1, gpus, 10, never=True))
    else:
        found.append(DemoJob("too-large", 2, gpus + 1, 10, never=True))
    return found


def manifest(job: DemoJob, annotated: bool) -> dict[str, Any]:
    """Return the PyTorchJob: a master and workers, with no mention of muster but the run time."""

    def part(replicas: int) -> dict[str, Any]:
        limits = {"nvidia.com/gpu": job.gpus_per_pod}
        spec: dict[str, Any] = {
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "pytorch", "image": "train:1", "resources": {"limits": limits}}
            ],
        }
        if job.high:
            spec["priorityClassName"] = PRIORITY
        template: dict[str, Any] = {"spec": spec}
        if annotated:
            template["metadata"] = {"annotations": {RUN_FOR: f"{job.run_s}s"}}
        return {"replicas": replicas, "restartPolicy": "OnFailure", "template": template}

    parts = {"Master": part(1)}
    if job.pods > 1:
        parts["Worker"] = part(job.pods - 1)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": job.name, "namespace": NAMESPACE},
        "spec": {"pytorchReplicaSpecs": parts},
    }


def check(cluster: Cluster | None) -> Cluster:
    """Return the cluster if it can take jobs.

    Raises:
        ValueError: there is none, it does not answer, or it has no GPUs.
    """
    if cluster is None:
        raise ValueError("no cluster is running; start one with: muster cluster up")
    needed = ["kube-apiserver", "kube-scheduler", "kwok", "training-operator"]
    needed += ["muster"] if cluster.with_muster else []
    for name in needed:
        if not cluster.healthy(name):
            raise ValueError(
                f"{name} of the cluster in {cluster.folder} is not healthy; see muster cluster "
                "status, or restart it with muster cluster up"
            )
    if cluster.gpus < 1:
        raise ValueError(
            f"the nodes of the cluster in {cluster.folder} have no GPUs; start it with up --gpus 8"
        )
    return cluster


class Demo:
    """One run of the demo: its jobs, their observed states and times."""

    def __init__(
        self, cluster: Cluster, api: Api, jobs: list[DemoJob], limit_s: float, screen: Screen
    ) -> None:
        self.cluster = cluster
        self.jobs = jobs
        self._api = api
        self._limit_s = limit_s
        self._screen = screen
        self._zero_s = time.monotonic()
        self._pending: dict[str, float] = {}  #: pod-seconds, by reason
        self._never_s = -1.0  #: the job that never fits was explained first

    def _now_s(self) -> float:
        return time.monotonic() - self._zero_s

    async def run(self) -> None:
        """Submit, show, sum up; whatever happens, leave nothing behind."""
        try:
            await self._clear("an earlier demo left its namespace; removing it")
            await self._submit()
            last_s = self._now_s()
            while await self._look() and self._now_s() < self._limit_s:
                await asyncio.sleep(PERIOD_S)
                now_s = self._now_s()
                self._count(now_s - last_s)
                last_s = now_s
        finally:
            self._screen.close()
            await self._clear("")
        self._sum_up()

    # -- writing -----------------------------------------------------------------------------

    async def _submit(self) -> None:
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        high = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": PRIORITY},
            "value": 1000,
        }
        await self._api.persist("POST", "/api/v1/namespaces", space)
        try:
            await self._api.persist("POST", CLASSES, high)
        except ApiError as error:
            if error.code != 409:
                raise
        self._zero_s = time.monotonic()
        annotated = self.cluster.with_muster
        await asyncio.gather(
            *(self._api.persist("POST", JOBS, manifest(job, annotated)) for job in self.jobs)
        )

    async def _delete(self, path: str) -> None:
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        try:
            await self._api.persist("DELETE", path, body)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def _clear(self, say: str) -> None:
        """Remove the namespace with all that is in it, and wait until it is gone."""
        end_s = time.monotonic() + GONE_WITHIN_S
        while time.monotonic() < end_s:
            try:
                await self._api.persist("GET", SPACE)
            except ApiError as error:
                if error.code != 404:
                    raise
                await self._delete(f"{CLASSES}/{PRIORITY}")
                return
            if say:
                self._screen.say(say)
                say = ""
            await self._delete(JOBS)
            await self._delete(PODS)
            await self._delete(SPACE)
            await asyncio.sleep(PERIOD_S)
        self._screen.say(f"namespace {NAMESPACE} is still being removed by the cluster")

    # -- looking -----------------------------------------------------------------------------

    async def _look(self) -> bool:
        """Read how far the jobs are and show it; True while there is more to come."""
        reply = msgspec.json.decode(await self._api.persist("GET", PODS))
        now_s = self._now_s()
        by_job: dict[str, list[dict[str, Any]]] = {job.name: [] for job in self.jobs}
        for pod in reply["items"]:
            by_job.get(pod["metadata"]["labels"].get(JOB_LABEL, ""), []).append(pod)
        for job in self.jobs:
            if job.ended_s < 0:
                self._take(job, by_job[job.name], now_s)
                await self._remind(job, len(by_job[job.name]), now_s)
        if self.cluster.with_muster:
            await self._read_reasons()
        else:
            self._guess_reasons(by_job)
            await self._meet(by_job)
        over = all(job.ended_s >= 0 for job in self.jobs if not job.never)
        await self._explain_never(now_s, over)
        used = sum(job.placed * job.gpus_per_pod for job in self.jobs)
        total = Total(used, self.cluster.nodes * self.cluster.gpus, now_s)
        self._screen.show(self.jobs, total)
        return not (over and all(job.ended_s >= 0 for job in self.jobs))

    def _take(self, job: DemoJob, pods: list[dict[str, Any]], now_s: float) -> None:
        phases = Counter(pod["status"].get("phase", "") for pod in pods)
        job.running, job.done = phases["Running"], phases["Succeeded"]
        job.placed = job.running + sum(
            1
            for pod in pods
            if pod["spec"].get("nodeName") and pod["status"].get("phase") == "Pending"
        )
        if job.started_s < 0 and job.running + job.done >= job.pods:
            job.started_s = now_s
        if job.done >= job.pods:
            job.ended_s = now_s

    async def _remind(self, job: DemoJob, num_pods: int, now_s: float) -> None:
        """Have the operator look again at a job that it forgot (docs/live.md says when it does)."""
        if job.started_s >= 0 or num_pods >= job.pods:
            job.reminded_s = now_s
        elif now_s - job.reminded_s >= REMIND_S:
            job.reminded_s = now_s
            patch = {"metadata": {"annotations": {"muster.dev/reminded": f"{now_s:.0f}"}}}
            path = f"{JOBS}/{job.name}"
            await self._api.persist("PATCH", path, patch, content_type=MERGE)

    async def _read_reasons(self) -> None:
        """Ask muster why jobs wait."""
        try:
            views = await asyncio.to_thread(_get, f"{self.cluster.status_url}/queue")
        except (urllib.error.URLError, OSError, msgspec.DecodeError):
            return  # muster is restarting; its last answer still holds
        by_gang = {view["gang"]: view for view in views}
        for job in self.jobs:
            view = by_gang.get(f"{NAMESPACE}/{job.name}")
            job.reason = view["reason"] if view else ""
            job.text = view["text"] if view and job.phase in ("waiting", "starting") else ""

    def _guess_reasons(self, by_job: dict[str, list[dict[str, Any]]]) -> None:
        """Say what can be seen without muster."""
        for job in self.jobs:
            job.reason = job.text = ""
            if job.phase not in ("waiting", "starting"):
                continue
            if job.placed:
                job.reason = PendingReason.OWN_PARTIAL_HOLD
                job.text = (
                    f"half placed: {job.placed} of {job.pods} pods hold "
                    f"{job.placed * job.gpus_per_pod} GPUs and wait for the others"
                )
                continue
            said = (
                condition.get("message", "")
                for pod in by_job[job.name]
                for condition in pod["status"].get("conditions", ())
                if condition["type"] == "PodScheduled"
            )
            text = next(said, "its pods are being created")
            job.reason, job.text = PendingReason.CAPACITY, text.split(". ")[0]

    async def _meet(self, by_job: dict[str, list[dict[str, Any]]]) -> None:
        """Let jobs whose ranks all run do their work, as the rendezvous would."""
        for job in self.jobs:
            if job.started_s < 0 or len(job.told) >= job.pods:
                continue
            patch = {"metadata": {"annotations": {RUN_FOR: f"{job.run_s}s"}}}
            names = {pod["metadata"]["name"] for pod in by_job[job.name]} - job.told
            await asyncio.gather(
                *(
                    self._api.persist(
                        "PATCH",
                        f"{PODS}/{name}",
                        patch,
                        content_type=MERGE,
                    )
                    for name in names
                )
            )
            job.told |= names

    async def _explain_never(self, now_s: float, over: bool) -> None:
        """Once its reason was shown, take back what can never run."""
        if not self.cluster.with_muster:
            return
        for job in self.jobs:
            if not job.never or job.ended_s >= 0 or job.reason != PendingReason.NEVER_FITS:
                continue
            if self._never_s < 0:
                self._never_s = now_s
                self._screen.say(f"{job.name}: {job.text}")
            if over and now_s - self._never_s >= EXPLAINED_S:
                await self._delete(f"{JOBS}/{job.name}")
                job.ended_s, job.reason, job.text = now_s, "", ""

    def _count(self, seconds: float) -> None:
        """Add what pods waited since the last look."""
        for job in self.jobs:
            if job.phase not in ("waiting", "starting"):
                continue
            holds = job.placed  # they have nodes and wait for the others of their job
            reason = job.reason or PendingReason.CONTROL_PLANE
            if reason == PendingReason.OWN_PARTIAL_HOLD:
                waits = {reason: holds, PendingReason.CAPACITY: job.pods - holds}
            elif self.cluster.with_muster:
                waits = {reason: job.pods - job.running - job.done}
            else:
                waits = {PendingReason.OWN_PARTIAL_HOLD: holds, reason: job.pods - holds}
            for word, pods in waits.items():
                self._pending[word] = self._pending.get(word, 0.0) + pods * seconds

    # -- the end -----------------------------------------------------------------------------

    def _sum_up(self) -> None:
        done = [job for job in self.jobs if job.ended_s >= 0 and not job.never]
        stuck = [job for job in self.jobs if job.ended_s < 0]
        say = self._screen.say
        pods = sum(job.pods for job in done)
        if not stuck:
            makespan_s = max((job.ended_s for job in done), default=0.0)
            say(f"{len(done)} jobs, {pods} pods, all done after {makespan_s:.1f} s")
        else:
            say(f"{len(done)} jobs, {pods} pods done; stuck after {self._limit_s:.0f} s:")
            for job in stuck:
                say(f"  {job.name}, {job.pods} pods: {job.text or job.phase}")
            held = sum(job.placed * job.gpus_per_pod for job in stuck if job.phase == "waiting")
            total = self.cluster.nodes * self.cluster.gpus
            say(f"  {held} of {total} GPUs are held by jobs that cannot start")
        waits = [job.started_s for job in done if job.started_s >= 0]
        if waits:
            say(f"mean wait until all ranks of a job run: {sum(waits) / len(waits):.1f} s")
        for reason, pod_s in sorted(self._pending.items(), key=lambda item: -item[1]):
            if pod_s >= 1:
                say(f"  pods pending for {label(reason)}: {pod_s:,.0f} pod-seconds")
        never = next(job for job in self.jobs if job.never)
        if self._never_s >= 0:
            say(f"{never.name} ({never.gpus} GPUs) could never fit and was removed")


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return msgspec.json.decode(reply.read())


async def show(cluster: Cluster, *, count: int, seed: int, limit_s: float, screen: Screen) -> bool:
    """Run the demo; True if every job that fits went through."""
    jobs = mixed(cluster.nodes, cluster.gpus, count, seed)
    async with await objects.connect(cluster.kubeconfig) as api:
        await Demo(cluster, api, jobs, limit_s, screen).run()
    return all(job.ended_s >= 0 for job in jobs if not job.never)
