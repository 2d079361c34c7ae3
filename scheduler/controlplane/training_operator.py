"""The Kubeflow training operator, outside the cluster that it serves."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path

import msgspec

from scheduler import whole
from scheduler.controlplane import images, objects, private_folder
from scheduler.controlplane.record import READY_WITHIN_S, Cluster, Say, await_well

#: where the operator looks for its certificate, a constant in its code
OPERATOR_CERTIFICATES = Path("/tmp/k8s-webhook-server")


def launch(cluster: Cluster, programs: dict[str, Path]) -> None:
    """Start it."""
    ports = cluster.ports
    command = [
        str(programs["training-operator"]),
        f"--kubeconfig={cluster.dir}/training-operator.kubeconfig",
        "--enable-scheme=pytorchjob",
        # jobs that come together are made together, as on busy clusters
        "--controller-threads=4",
        f"--webhook-server-port={ports.operator_webhook}",
        f"--metrics-bind-address=127.0.0.1:{ports.operator_metrics}",
        f"--health-probe-bind-address=127.0.0.1:{ports.operator_health}",
    ]
    if cluster.kubelets:  # what its init container runs in; on played nodes nothing does
        command.append(f"--pytorch-init-container-image={images.TRAIN}")
    if cluster.with_muster:
        command.append("--gang-scheduler-name=muster")
    own = cluster.dir / "operator-certificates"
    command = [*private_folder.seen_at(OPERATOR_CERTIFICATES, own), *command]
    cluster.run("training-operator", command, TMPDIR="/tmp")


def await_ready(cluster: Cluster, say: Say) -> None:
    """Give the operator the certificate that it created, as a mounted Secret would."""
    asyncio.run(_copy_certificate(cluster))
    await_well(cluster, "training-operator", say)


async def _copy_certificate(cluster: Cluster) -> None:
    path = "/api/v1/namespaces/kubeflow/secrets/training-operator-webhook-cert"
    target = cluster.dir / "operator-certificates" / "serving-certs"
    names = ("ca.crt", "ca.key", "tls.key", "tls.crt")
    async with await objects.connect(cluster.kubeconfig) as api:
        end_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < end_s and cluster.process("training-operator").alive():
            data = msgspec.json.decode(await api.persist("GET", path)).get("data") or {}
            if all(data.get(name) for name in names):
                target.mkdir(parents=True, exist_ok=True)
                for name in names:
                    whole.write_bytes(target / name, base64.b64decode(data[name]))
                return
            await asyncio.sleep(0.1)
