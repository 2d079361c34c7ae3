"""Leaving a cluster: no pod stays behind muster's gate."""

from __future__ import annotations

import asyncio

import msgspec

from scheduler.live.api import Api, access
from scheduler.live.lanes import Lanes
from scheduler.live.objects import Pod


class _Pods(msgspec.Struct):
    items: list[Pod]


async def ungate(kubeconfig: str, namespace: str = "") -> int:
    """Take muster's gate off all pods, of one namespace or of all; return how many had it."""
    configuration = await access(kubeconfig)
    async with Api(configuration) as api:
        path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        reply = await api.persist("GET", path)
        gated = [pod for pod in msgspec.json.decode(reply, type=_Pods).items if pod.gated]
        lanes = Lanes(api)
        await asyncio.gather(*(lanes.ungate(pod) for pod in gated))
        return len(gated)
