"""Leaving a cluster: no pod stays behind muster's gate."""

from __future__ import annotations

import asyncio

import msgspec

from scheduler.live.api import Api, access
from scheduler.live.kubeconfig import chosen
from scheduler.live.lanes import Lanes
from scheduler.live.objects import Pod


class _Pods(msgspec.Struct):
    items: list[Pod]


async def ungate(kubeconfig: str = "", context: str = "", namespace: str = "") -> tuple[int, int]:
    """Take muster's gate off all pods, of one namespace or of all.

    Returns how many had it, and how many pods without a node name a scheduler that leaves with
    muster, such as muster-direct.

    Raises:
        ValueError: no cluster is named, see `kubeconfig.chosen`.
    """
    configuration = await access(chosen(kubeconfig), context)
    async with Api(configuration) as api:
        path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        reply = await api.persist("GET", path)
        pods = msgspec.json.decode(reply, type=_Pods).items
        gated = [pod for pod in pods if pod.gated]
        lanes = Lanes(api)
        await asyncio.gather(*(lanes.ungate(pod) for pod in gated))
        pending = [pod for pod in pods if not (pod.spec.node_name or pod.ended)]
        return len(gated), sum(pod.spec.scheduler_name.startswith("muster") for pod in pending)
