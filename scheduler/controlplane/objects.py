"""Objects of a local cluster, written through its API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from scheduler.kube.api import Api, ApiError, access

APPLY = "application/apply-patch+yaml"
PLAYED = "muster.dev/played"  #: label of nodes that kwok plays


def documents(*paths: Path) -> list[dict[str, Any]]:
    """Return the objects in YAML files."""
    found: list[dict[str, Any]] = []
    for path in paths:
        found += [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]
    return found


async def apply(api: Api, objects: Iterable[dict[str, Any]]) -> None:
    """Create or update objects in order; a kind that was just defined is waited for.

    Raises:
        ApiError: the API server refuses one.
    """
    plurals: dict[str, dict[str, tuple[str, bool]]] = {}
    for item in objects:
        version, kind, meta = item["apiVersion"], item["kind"], item["metadata"]
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        for _ in range(100):
            known = plurals.setdefault(root, {})
            if kind not in known:
                known.update(await _discover(api, root))
            if kind in known:
                break
            await asyncio.sleep(0.1)
        else:
            raise ApiError(404, f"{kind} of {version} is not served here")
        plural, namespaced = plurals[root][kind]
        where = f"/namespaces/{meta.get('namespace', 'default')}" if namespaced else ""
        path = f"{root}{where}/{plural}/{meta['name']}?fieldManager=muster&force=true"
        await api.persist("PATCH", path, item, content_type=APPLY)


async def _discover(api: Api, root: str) -> dict[str, tuple[str, bool]]:
    try:
        reply = msgspec.json.decode(await api.call("GET", root))
    except ApiError as error:
        if error.code == 404:
            return {}
        raise
    return {
        r["kind"]: (r["name"], r["namespaced"]) for r in reply["resources"] if "/" not in r["name"]
    }


def node(number: int, gpus: int) -> dict[str, Any]:
    """Return a node that kwok simulates."""
    name = f"node-{number:05d}"
    has = {"cpu": "96", "memory": "1Ti", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                PLAYED: "true",
                "muster.dev/pool": "local",
                "muster.dev/block": f"block-{number // 64:03d}",
            },
        },
        "status": {"capacity": has, "allocatable": has},
    }


async def add_nodes(api: Api, count: int, gpus: int, *, ready: bool = True) -> None:
    """Create nodes that are not there yet and wait until all are ready, if they ever are."""

    async def create(number: int) -> None:
        try:
            await api.persist("POST", "/api/v1/nodes", node(number, gpus))
        except ApiError as error:
            if error.code != 409:
                raise

    await asyncio.gather(*(create(number) for number in range(count)))
    while ready and await _num_ready(api) < count:
        await asyncio.sleep(0.3)


async def _num_ready(api: Api) -> int:
    reply = msgspec.json.decode(await api.persist("GET", "/api/v1/nodes?resourceVersion=0"))
    return sum(
        any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in n["status"].get("conditions", ())
        )
        for n in reply["items"]
    )


async def connect(kubeconfig: Path) -> Api:
    """Return a session with the cluster; use it as an async context."""
    return Api(await access(str(kubeconfig)), in_flight=32)
