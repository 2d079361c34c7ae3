"""The record of a local cluster between commands, and the health of its components."""

from __future__ import annotations

import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec

from scheduler import whole
from scheduler.controlplane import nodes
from scheduler.controlplane.network import Network
from scheduler.controlplane.processes import Process, start, stop

READY_WITHIN_S = 120.0
Say = Callable[[str], None]


class Ports(msgspec.Struct):
    """Loopback ports."""

    etcd: int
    etcd_peers: int
    api: int
    scheduler: int
    controllers: int
    kwok: int
    operator_webhook: int
    operator_metrics: int
    operator_health: int
    verbs: int
    status: int
    dns_health: int = 0


class Cluster(msgspec.Struct):
    """The record of a cluster, in cluster.json."""

    folder: str
    nodes: int
    gpus: int
    with_muster: bool
    ports: Ports
    processes: list[Process] = []
    bind_verb: bool = True
    kubelets: int = 0
    kubelet_gpus: int = 0
    network: Network | None = None  #: of real nodes
    complete: bool = False  #: `up` came to its end

    @property
    def dir(self) -> Path:
        """Its folder."""
        return Path(self.folder)

    @property
    def shape(self) -> tuple[int, int, int, int, bool]:
        """What it was asked for as; all else is the same for every cluster of the command line."""
        return self.nodes, self.gpus, self.kubelets, self.kubelet_gpus, self.with_muster

    @property
    def described(self) -> str:
        """The same for people."""
        real = f"{self.kubelets} real nodes of {self.kubelet_gpus} GPUs" if self.kubelets else ""
        played = f"{self.nodes} nodes of {self.gpus} GPUs" if self.nodes else ""
        text = " and ".join(filter(None, (played, real)))
        return text if self.with_muster else f"{text}, without muster"

    @property
    def kubeconfig(self) -> Path:
        """Access as an administrator."""
        return self.dir / "admin.kubeconfig"

    @property
    def status_url(self) -> str:
        """Where muster's status is read."""
        return f"http://127.0.0.1:{self.ports.status}"

    @property
    def api_url(self) -> str:
        """Where the API server listens."""
        return f"https://{self.host}:{self.ports.api}"

    @property
    def host(self) -> str:
        """Address at which every node reaches this machine."""
        return self.network.host if self.network else "127.0.0.1"

    def save(self) -> None:
        """Write the record."""
        # the record is whole after a power cut, the old or the new
        whole.write_bytes(self.dir / "cluster.json", msgspec.json.encode(self), durable=True)

    def process(self, name: str) -> Process:
        """Return a started component.

        Raises:
            ValueError: there is none of this name.
        """
        for process in self.processes:
            if process.name == name:
                return process
        names = ", ".join(p.name for p in self.processes)
        raise ValueError(f"component {name!r} is unknown; known: {names}")

    def run(self, name: str, command: list[str], **environment: str) -> None:
        """Start a component, unless it is healthy; remains of it are ended first.

        A restarted component keeps its place among the others.
        """
        names = [process.name for process in self.processes]
        at = names.index(name) if name in names else len(names)
        old = self.processes[at : at + 1]
        if old and self.healthy(name):
            return
        stop(old)
        self.processes[at : at + 1] = [start(name, command, self.dir, environment)]
        self.save()

    def restart(self, name: str) -> None:
        """Restart a component as it was started before; a live one is ended first."""
        old = self.process(name)
        stop([old])
        self.run(name, old.command, **old.environment)

    def healthy(self, name: str) -> bool:
        """True if a component answers that it is healthy."""
        ports = self.ports
        urls = {
            "etcd": f"https://127.0.0.1:{ports.etcd}/health",
            "kube-apiserver": f"{self.api_url}/readyz",
            "kube-controller-manager": f"https://127.0.0.1:{ports.controllers}/healthz",
            "kube-scheduler": f"https://127.0.0.1:{ports.scheduler}/healthz",
            "kwok": f"http://127.0.0.1:{ports.kwok}/healthz",
            "training-operator": f"http://127.0.0.1:{ports.operator_health}/readyz",
            "muster": f"{self.status_url}/readyz",
            "coredns": f"http://127.0.0.1:{ports.dns_health}/ready",
        }
        if self.network:
            for index in range(self.kubelets):
                where = f"{self.network.node(index)}:{nodes.HEALTH_PORT}"
                urls[nodes.name_of(index)] = f"http://{where}/healthz"
        keys = self.dir / "certificates" / "etcd" if name == "etcd" else None
        return self.process(name).alive() and answers(urls[name], keys)


def _any_certificate() -> ssl.SSLContext:
    """Return TLS settings for health checks."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return tls


def answers(url: str, keys: Path | None = None) -> bool:
    """True if the address answers 200 to a client with the key of a folder."""
    tls = _any_certificate()
    try:
        if keys is not None:
            tls.load_cert_chain(keys / "client.crt", keys / "client.key")
        with urllib.request.urlopen(url, timeout=3, context=tls) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def demand_own(folder: Path) -> None:
    """Raise ValueError for a folder of another user.

    Its owner could change what is run from it, and read the keys that are written into it.
    """
    uid = folder.stat().st_uid
    if uid != os.geteuid():
        raise ValueError(
            f"{folder} belongs to user {uid}, and you are user {os.geteuid()}: run the command "
            "as that user, or give another --dir"
        )


def load(folder: Path) -> Cluster | None:
    """Return the cluster of a folder; None if there is none.

    Raises:
        ValueError: its record cannot be read, or the folder is another user's.
    """
    try:
        demand_own(folder)
        return msgspec.json.decode((folder / "cluster.json").read_bytes(), type=Cluster)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{folder}/cluster.json: {error}; remove the folder") from None


def await_well(cluster: Cluster, name: str, say: Say) -> None:
    """Wait until a component is healthy."""
    end_s = time.monotonic() + READY_WITHIN_S
    while not cluster.healthy(name):
        process = cluster.process(name)
        if not process.alive() or time.monotonic() > end_s:
            what = "is not ready" if process.alive() else "ended"
            last = Path(process.log).read_text(errors="replace").strip().splitlines()[-1:]
            raise ValueError(f"{name} {what}; see {process.log}: {' '.join(last)[:300]}")
        time.sleep(0.1)
    say(f"{name} is ready")
