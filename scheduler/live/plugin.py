"""`kubectl muster`: why a pod waits, the queue, the gangs, the nodes.

Reads muster's status through the API server's service proxy, so that whoever may do that needs
nothing else; `--url` or MUSTER_URL names another address.
"""

from __future__ import annotations

import asyncio
import os
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from scheduler.live.status import GangView

PROXY = "/api/v1/namespaces/{}/services/muster-status:http/proxy"
app = typer.Typer(
    name="kubectl-muster",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Why pods wait for their gang, and for how long.",
)
Url = Annotated[str, typer.Option(envvar="MUSTER_URL", help="Of muster's status; empty: by proxy.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Of the pod or gang.")]


def _get(url: str, path: str) -> bytes:
    """Return an answer of muster's.

    Raises:
        ValueError: it does not answer, or does not know the thing.
    """
    if url:
        try:
            with urllib.request.urlopen(url.rstrip("/") + path, timeout=10) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            raise ValueError(_message(error.read())) from None
        except (urllib.error.URLError, OSError) as error:
            raise ValueError(f"{url}: {error}; set MUSTER_URL to muster's status port") from None
    return asyncio.run(_by_proxy(path))


async def _by_proxy(path: str) -> bytes:
    from scheduler.live.api import Api, ApiError, access

    kubeconfig = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    prefix = PROXY.format(os.environ.get("MUSTER_NAMESPACE", "muster-system"))
    async with Api(await access(kubeconfig)) as api:
        try:
            return await api.call("GET", prefix + path)
        except ApiError as error:
            raise ValueError(f"muster does not answer by the API server: {error}") from None


def _message(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:200].decode(errors="replace")


def _gangs(url: str) -> list[GangView]:
    return msgspec.json.decode(_get(url, "/queue"), type=list[GangView])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(head: list[str], rows: list[list[object]]) -> None:
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


@app.command()
def why(
    name: Annotated[str, typer.Argument(help="A pod or gang, with or without NAMESPACE/.")],
    namespace: Namespace = "default",
    url: Url = "",
) -> None:
    """Say why a pod or gang is pending. Example: kubectl muster why bert-7"""
    where = name if "/" in name else f"{namespace}/{name}"
    space, _, short = where.partition("/")
    path = f"/explain/{quote(space)}/{quote(short)}"
    gang = msgspec.json.decode(_get(url, path), type=GangView)
    print(f"gang {gang.gang} ({gang.source}) {_state(gang)}")
    print(f"  {gang.text}")
    print(
        f"  pods: {gang.pods_bound} bound, {gang.pods_present} exist, "
        f"{gang.pods_needed} needed to start, {gang.pods_total} in all; {gang.gpus} GPUs"
    )
    if gang.position is not None:
        before = f", after {gang.ahead}" if gang.ahead else ""
        print(f"  place in the queue: {gang.position}{before}; priority {gang.priority}")
    if gang.starts_in_s is not None:
        print(
            f"  starts within {_duration(gang.starts_in_s)}, if running gangs keep their walltime"
        )
    hint = _hint(gang, url)
    if hint:
        print(f"  {hint}")


def _state(gang: GangView) -> str:
    if gang.phase == "running":
        return "runs"
    return f"is {gang.phase} since {_duration(gang.waited_s)}: {gang.reason.replace('_', ' ')}"


def _hint(gang: GangView, url: str) -> str:
    """Say what would have to happen, if anybody can make it happen."""
    if gang.reason not in ("capacity", "fragmentation"):
        return ""
    nodes = _nodes(url)
    closed = [node for node in nodes if not node["usable"]]
    free = sum(node["free_gpus"] for node in closed)
    if closed and free:
        return (
            f"{len(closed)} nodes with {free} free GPUs take no pods; "
            "kubectl uncordon those that are well"
        )
    missing = gang.gpus - (gang.free_gpus or 0)
    return f"{missing} more GPUs would have to come free" if missing > 0 else ""


def _nodes(url: str) -> list[dict[str, Any]]:
    return msgspec.json.decode(_get(url, "/nodes"), type=list[dict[str, Any]])


@app.command()
def queue(url: Url = "") -> None:
    """List what waits, in order. Example: kubectl muster queue"""
    waiting = [gang for gang in _gangs(url) if gang.phase != "running"]
    if not waiting:
        print("nothing waits")
        return
    _table(
        ["#", "GANG", "STATE", "PODS", "GPUS", "WAITED", "WHY"],
        [
            [
                gang.position or "",
                gang.gang,
                gang.phase,
                f"{gang.pods_bound}/{gang.pods_total}",
                gang.gpus,
                _duration(gang.waited_s),
                gang.text,
            ]
            for gang in waiting
        ],
    )


@app.command()
def gangs(url: Url = "") -> None:
    """List all gangs. Example: kubectl muster gangs"""
    _table(
        ["GANG", "SOURCE", "STATE", "REASON", "PODS", "GPUS", "PRIORITY"],
        [
            [
                gang.gang,
                gang.source,
                gang.phase,
                gang.reason,
                f"{gang.pods_bound}/{gang.pods_total}",
                gang.gpus,
                gang.priority,
            ]
            for gang in _gangs(url)
        ],
    )


@app.command()
def nodes(url: Url = "") -> None:
    """Show free shapes and fragmentation. Example: kubectl muster nodes"""
    seen = _nodes(url)
    shapes = Counter((n["gpus"], n["free_gpus"]) for n in seen if n["usable"])
    _table(
        ["NODES", "GPUS", "FREE"],
        [[count, gpus, free] for (gpus, free), count in sorted(shapes.items(), reverse=True)],
    )
    free = sum(n["free_gpus"] for n in seen if n["usable"])
    whole = sum(n["free_gpus"] for n in seen if n["usable"] and n["free_gpus"] == n["gpus"])
    if free:
        print(
            f"{free} GPUs are free; {1 - whole / free:.0%} of them not on nodes that are free whole"
        )
    closed = sum(not n["usable"] for n in seen)
    if closed:
        print(f"{closed} nodes take no pods (cordoned or not ready)")


def main() -> None:
    """Run the plugin; the exit code is 0 done, 2 for what users can mend."""
    try:
        app()
    except ValueError as error:
        print(f"kubectl muster: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
