"""Real nodes of a local cluster: started, switched off and on, and removed without a trace."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import msgspec

from scheduler import whole
from scheduler.controlplane import cgroups, network, nodes, objects
from scheduler.controlplane.processes import stop
from scheduler.controlplane.record import READY_WITHIN_S, Cluster
from scheduler.kube.api import MERGE, Api, ApiError

#: A node that is off is found out in seconds, not in a minute, and its pods go soon after.
GRACE_S, LOOK_S, TOLERATION_S = 8, 1, 2


def api_flags(cluster: Cluster) -> list[str]:
    """Return what kube-apiserver needs for kubelets."""
    keys = cluster.dir / "certificates"
    return [
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={keys}/kube-apiserver.crt",
        f"--kubelet-client-key={keys}/kube-apiserver.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--default-not-ready-toleration-seconds={TOLERATION_S}",
        f"--default-unreachable-toleration-seconds={TOLERATION_S}",
    ]


def controller_flags(cluster: Cluster) -> list[str]:
    """Return what kube-controller-manager needs for kubelets."""
    return [
        f"--root-ca-file={cluster.dir}/certificates/ca.crt",
        f"--node-monitor-period={LOOK_S}s",
        f"--node-monitor-grace-period={GRACE_S}s",
    ]


def launch(cluster: Cluster, programs: dict[str, Path]) -> None:
    """Start the cluster's DNS and its real nodes, unless they are healthy."""
    net = cluster.network
    assert net is not None
    _start_dns(cluster, net, programs["coredns"])
    folder = cluster.dir / "nodes"
    nodes.prepare(folder, programs)
    authority = cluster.dir / "certificates" / "ca.crt"
    for index in range(cluster.kubelets):
        name = nodes.name_of(index)
        left = [p for p in cluster.processes if p.name == name]
        if left and cluster.healthy(name):
            continue
        for process in left:  # with the disk that it had
            process.signal(signal.SIGKILL)
        stop(left)
        access = cluster.dir / f"{name}.kubeconfig"
        command = nodes.write(
            folder / name, net, index, cluster.kubelets, programs, authority, access
        )
        _start(cluster, net, index, command)
    cgroups.weigh(net.bridge, cluster.kubelets)  # pods of one node as much as one process


def _start_dns(cluster: Cluster, net: network.Network, program: Path) -> None:
    path = cluster.dir / "Corefile"
    whole.write_text(
        path,
        "cluster.local:53 {\n"
        f"  bind {net.host}\n"
        "  errors\n"
        f"  ready 127.0.0.1:{cluster.ports.dns_health}\n"
        "  kubernetes cluster.local {\n"
        f"    kubeconfig {cluster.dir}/coredns.kubeconfig muster\n"
        "    ttl 1\n"
        "  }\n"
        "}\n",
    )
    cluster.run("coredns", [str(program), f"-conf={path}"])


def _start(cluster: Cluster, net: network.Network, index: int, command: list[str]) -> None:
    name = nodes.name_of(index)
    cgroups.remove(f"{net.bridge}/{name}")  # kubelet would wait for what died in them
    cgroups.make(f"{net.bridge}/{name}")
    cluster.run(name, command)
    network.attach(net, index, cluster.process(name).pid)


async def await_ready(cluster: Cluster) -> None:
    """Wait until all real nodes are ready, with their GPUs.

    Raises:
        ValueError: one ended or does not get ready; the text names its log.
    """
    async with await objects.connect(cluster.kubeconfig) as api:
        waits = (_await_node(cluster, api, index) for index in range(cluster.kubelets))
        await asyncio.gather(*waits)


async def _await_node(cluster: Cluster, api: Api, index: int) -> None:
    name = nodes.name_of(index)
    path = f"/api/v1/nodes/{name}"
    log = cluster.dir / "nodes" / name / "kubelet.log"
    end_s = time.monotonic() + READY_WITHIN_S
    has = {"nvidia.com/gpu": str(cluster.kubelet_gpus)}
    while True:
        if not cluster.process(name).alive():
            raise ValueError(f"{name} exited; see {cluster.process(name).log}")
        if time.monotonic() > end_s:
            raise ValueError(f"{name} does not become ready; see {log}")
        try:
            found = msgspec.json.decode(await api.persist("GET", path))
            conditions = {c["type"]: c["status"] for c in found["status"].get("conditions", ())}
            if conditions.get("Ready") == "True":
                break
        except ApiError as error:
            if error.code != 404:
                raise
        await asyncio.sleep(0.1)
    status = {"status": {"capacity": has, "allocatable": has}}
    await api.persist("PATCH", f"{path}/status", status, content_type=MERGE)


def _numbered(cluster: Cluster, name: str) -> int:
    names = [nodes.name_of(index) for index in range(cluster.kubelets)]
    if name not in names:
        known = ", ".join(names) or "none; `muster cluster up --kubelets 4` starts some"
        raise ValueError(f"real node {name!r} is unknown; known: {known}")
    return names.index(name)


def power_off(cluster: Cluster, name: str) -> None:
    """Kill all processes of a node at once, like a power cut.

    Raises:
        ValueError: there is no such real node.
    """
    _numbered(cluster, name)
    cluster.process(name).signal(signal.SIGKILL)


def power_on(cluster: Cluster, name: str) -> None:
    """Start a node that is off, with the disk that it had.

    Raises:
        ValueError: there is no such real node, or it runs.
    """
    index = _numbered(cluster, name)
    old = cluster.process(name)
    if old.alive():
        raise ValueError(f"real node {name!r} is on already")
    assert cluster.network is not None
    _start(cluster, cluster.network, index, old.command)


def end(cluster: Cluster) -> None:
    """End all real nodes and remove what they left on the machine."""
    net = cluster.network
    if net is None:
        return
    names = {nodes.name_of(index) for index in range(cluster.kubelets)}
    for process in cluster.processes:
        if process.name in names:
            process.signal(signal.SIGKILL)
    stop([p for p in cluster.processes if p.name in names])
    cluster.processes = [p for p in cluster.processes if p.name not in names]
    cgroups.remove(net.bridge)
    network.remove(net)
