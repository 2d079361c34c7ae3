"""Leaving a cluster: no pod stays behind muster's gate."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from scheduler.controller.lanes import Lanes
from scheduler.kube.api import Api, ApiError, access
from scheduler.kube.kubeconfig import chosen
from scheduler.kube.objects import Pod
from scheduler.kube.reading import Reader
from scheduler.kube.watch import PAGE

ROUNDS = 4  #: pods come and change meanwhile


async def ungate(kubeconfig: str = "", context: str = "", namespace: str = "") -> tuple[int, int]:
    """Take muster's gate off all pods, of one namespace or of all.

    Returns how many had it, and how many pods without a node name a scheduler that leaves with
    muster, such as muster-direct.

    Raises:
        ValueError: no cluster is named, see `kubeconfig.chosen`; or some pods keep the gate.
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
        f"{count} pods ungated, but there still are gated ones after {ROUNDS} rounds; "
        f"{problem or 'new ones keep coming: remove the admission policy muster-gate first'}"
    )


async def _all(api: Api, path: str, reader: Reader[Pod]) -> list[Pod]:
    """Return all pods, page by page, without those that cannot be read."""
    pods: list[Pod] = []
    more = ""
    while True:
        query = urlencode({"limit": PAGE, **({"continue": more} if more else {})})
        page = reader.page(await api.persist("GET", f"{path}?{query}"))
        pods += page.items
        more = page.more
        if not more:
            return pods
