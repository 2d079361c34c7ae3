"""Uninstalling: leaves no pod behind muster's gate, and no job suspended."""

from __future__ import annotations

import asyncio
from typing import TypeVar
from urllib.parse import urlencode

from scheduler.controller.lanes import Lanes
from scheduler.controller.suspending import Job
from scheduler.kube.api import Api, ApiError, access
from scheduler.kube.kubeconfig import chosen
from scheduler.kube.objects import SUSPENDED, Meta, Pod, Thing
from scheduler.kube.reading import Reader
from scheduler.kube.watch import PAGE
from scheduler.workloads.gangs import KINDS, TRAINING_JOBS

T = TypeVar("T", Pod, Thing)
ROUNDS = 4  #: pods come and change meanwhile


async def ungate(kubeconfig: str = "", context: str = "", namespace: str = "") -> tuple[int, int]:
    """Remove muster's gate from all pods, of one namespace or of all.

    Returns how many had it, and how many pods without a node name a scheduler that goes away with
    muster, such as muster-direct.

    Raises:
        ValueError: no cluster is given, see `kubeconfig.chosen`; or some pods keep the gate.
    """
    configuration = await access(chosen(kubeconfig), context)
    async with Api(configuration) as api:
        path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        reader = Reader(Pod, path)
        lanes = Lanes(api)
        count, problem = 0, ""
        for _ in range(ROUNDS):
            pods = await _all(api, path, reader)
            gated = [pod for pod in pods if pod.gated]
            if not gated:
                pending = [pod for pod in pods if not (pod.spec.node_name or pod.ended)]
                return count, sum(p.spec.scheduler_name.startswith("muster") for p in pending)
            tries = (lanes.ungate(pod) for pod in gated)
            for pod, error in zip(
                gated, await asyncio.gather(*tries, return_exceptions=True), strict=True
            ):
                if error is None:
                    count += 1
                elif isinstance(error, ApiError):
                    problem = f"pod {pod.where}: {error}"
                else:
                    raise error
    raise ValueError(
        f"{count} pods ungated, but some are still gated after {ROUNDS} rounds; "
        f"{problem or 'new ones keep arriving: remove the admission policy muster-gate first'}"
    )


async def resume(kubeconfig: str = "", context: str = "", namespace: str = "") -> int:
    """Resume the jobs that muster suspended, of one namespace or of all; return how many.

    Raises:
        ValueError: no cluster is given, see `kubeconfig.chosen`; or some jobs stay suspended.
    """
    configuration = await access(chosen(kubeconfig), context)
    count, problems = 0, []
    async with Api(configuration) as api:
        for kind in ("Job", *TRAINING_JOBS):
            root, _, plural = KINDS[kind].path.rpartition("/")
            path = f"{root}/namespaces/{namespace}/{plural}" if namespace else KINDS[kind].path
            try:
                things = await _all(api, path, Reader(Thing, path))
            except ApiError as error:
                if error.code != 404:  # else the cluster knows no such jobs
                    problems.append(f"{plural}: {error}")
                continue
            jobs = [job for thing in things if (job := Job(kind, thing)).is_noted]
            tries = (_resume(Lanes(api), job) for job in jobs)
            for problem in await asyncio.gather(*tries):
                count += not problem
                problems += [problem] if problem else []
    if problems:
        raise ValueError(
            f"{count} jobs resumed, but {len(problems)} may stay suspended: {problems[0]}; set "
            f"spec.suspend (runPolicy.suspend) to false where the annotation {SUSPENDED} is set"
        )
    return count


async def _resume(lanes: Lanes, job: Job) -> str:
    """Resume a job; return why it stays suspended, or nothing."""
    meta = job.thing.metadata
    try:
        # whatever changed since it was read, the note is muster's
        await lanes.suspend(job.path, Meta(uid=meta.uid), None, job.spec(suspend=False))
    except ApiError as error:
        if error.code != 404:
            return f"{job.kind} {meta.namespace}/{meta.name}: {error}"
    return ""


async def _all(api: Api, path: str, reader: Reader[T]) -> list[T]:
    """Return all objects, page by page, without those that cannot be read."""
    items: list[T] = []
    more = ""
    while True:
        query = urlencode({"limit": PAGE, **({"continue": more} if more else {})})
        page = reader.page(await api.persist("GET", f"{path}?{query}"))
        items += page.items
        more = page.more
        if not more:
            return items
