"""A real Kubernetes control plane on loopback, with nodes that are played and muster on top."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import secrets
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from scheduler.controlplane import components, objects
from scheduler.controlplane.certificates import Authority, signing_key
from scheduler.controlplane.processes import Process, free_ports, start, stop

HERE = Path(__file__).resolve().parent
DEPLOY = HERE.parents[1] / "deploy"
READY_WITHIN_S = 120.0
Say = Callable[[str], None]

#: where the operator looks for its certificate, a constant in its code
OPERATOR_CERTIFICATES = Path("/tmp/k8s-webhook-server")
#: user and group by kubeconfig; muster has the rights of its manifests and no others
USERS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("kube-controller-manager", "system:masters"),
    "kube-scheduler": ("kube-scheduler", "system:masters"),
    "kwok": ("kwok", "system:masters"),
    "training-operator": ("training-operator", "system:masters"),
    "muster": ("system:serviceaccount:muster-system:muster", "system:serviceaccounts"),
}


def default_dir() -> Path:
    """Return the folder of the cluster, unless another is named."""
    named = os.environ.get("MUSTER_CLUSTER_DIR")
    return Path(named) if named else Path.home() / ".local" / "state" / "muster" / "cluster"


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


class Cluster(msgspec.Struct):
    """What is remembered of a cluster, in cluster.json."""

    folder: str
    nodes: int
    gpus: int
    with_muster: bool
    ports: Ports
    processes: list[Process] = []
    bind_verb: bool = True

    @property
    def dir(self) -> Path:
        """Its folder."""
        return Path(self.folder)

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
        return f"https://127.0.0.1:{self.ports.api}"

    def save(self) -> None:
        """Write it down."""
        path = self.dir / "cluster.json"
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(self))
        partial.replace(path)

    def process(self, name: str) -> Process:
        """Return a started component.

        Raises:
            ValueError: there is none of this name.
        """
        for process in self.processes:
            if process.name == name:
                return process
        names = ", ".join(p.name for p in self.processes)
        raise ValueError(f"component {name!r} is unknown; there are {names}")

    def run(self, name: str, command: list[str], **environment: str) -> None:
        """Start a component."""
        self.processes = [p for p in self.processes if p.name != name]
        self.processes.append(start(name, command, self.dir, environment))
        self.save()

    def restart(self, name: str) -> None:
        """Start a component anew, as it was started before; one that lives is ended first."""
        old = self.process(name)
        stop([old])
        self.run(name, old.command, **old.environment)

    def healthy(self, name: str) -> bool:
        """True if a component answers that it is well."""
        ports = self.ports
        urls = {
            "etcd": f"http://127.0.0.1:{ports.etcd}/health",
            "kube-apiserver": f"{self.api_url}/readyz",
            "kube-controller-manager": f"https://127.0.0.1:{ports.controllers}/healthz",
            "kube-scheduler": f"https://127.0.0.1:{ports.scheduler}/healthz",
            "kwok": f"http://127.0.0.1:{ports.kwok}/healthz",
            "training-operator": f"http://127.0.0.1:{ports.operator_health}/readyz",
            "muster": f"{self.status_url}/readyz",
        }
        return self.process(name).alive() and answers(urls[name])


def answers(url: str) -> bool:
    """True if the address answers 200."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=3, context=tls) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def load(folder: Path) -> Cluster | None:
    """Return the cluster of a folder; None if there is none."""
    try:
        return msgspec.json.decode((folder / "cluster.json").read_bytes(), type=Cluster)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ValueError(f"{folder}/cluster.json: {error}; remove the folder") from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one command at a time change the cluster of a folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another command works on the cluster in {folder}; wait for it"
            ) from None
        yield


def up(
    folder: Path,
    *,
    nodes: int = 100,
    gpus: int = 8,
    with_muster: bool = True,
    with_operator: bool = True,
    muster_settings: dict[str, Any] | None = None,
    bind_verb: bool = True,
    native_gangs: bool = True,
    with_kwok: bool = True,
    say: Say = lambda text: None,
) -> Cluster:
    """Start a cluster, or what is missing of the one in `folder`.

    Raises:
        ValueError: a component ended or does not get ready; the text names its log.
    """
    programs = components.build(say)
    with _alone(folder):
        old = load(folder)
        if old is not None:
            same = (old.nodes, old.gpus, old.with_muster) == (nodes, gpus, with_muster)
            if same and all(old.healthy(p.name) for p in old.processes):
                say("the cluster runs already")
                return old
            say("ending what is left of an earlier cluster")
            _end(old)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        cluster = Cluster(
            str(folder.resolve()),
            nodes,
            gpus,
            with_muster,
            Ports(*free_ports(len(Ports.__struct_fields__))),
            bind_verb=bind_verb,
        )
        _write_access(cluster)
        _start_api(cluster, programs, native_gangs, say)
        asyncio.run(_fill(cluster, programs, with_kwok, say))
        _start_rest(cluster, programs, muster_settings or {}, with_operator, say)
    return cluster


def _write_access(cluster: Cluster) -> None:
    authority = Authority(cluster.dir / "certificates")
    for name in ("kube-apiserver", "kube-scheduler", "muster"):
        authority.issue(name)
    signing_key(cluster.dir / "certificates" / "service-accounts.key")
    ca = base64.b64encode(authority.path.read_bytes()).decode()
    tokens = []
    for name, (user, group) in USERS.items():
        token = secrets.token_urlsafe(24)
        tokens.append(f'{token},{user},{user},"{group}"')
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "muster",
                    "cluster": {"server": cluster.api_url, "certificate-authority-data": ca},
                }
            ],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "muster", "context": {"cluster": "muster", "user": name}}],
            "current-context": "muster",
        }
        path = cluster.dir / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
    path = cluster.dir / "tokens.csv"
    path.touch(mode=0o600)
    path.write_text("\n".join(tokens) + "\n")


def _await(cluster: Cluster, name: str, say: Say) -> None:
    """Wait until a component is well."""
    end_s = time.monotonic() + READY_WITHIN_S
    while not cluster.healthy(name):
        process = cluster.process(name)
        if not process.alive() or time.monotonic() > end_s:
            what = "is not ready" if process.alive() else "ended"
            last = Path(process.log).read_text(errors="replace").strip().splitlines()[-1:]
            raise ValueError(f"{name} {what}; see {process.log}: {' '.join(last)[:300]}")
        time.sleep(0.1)
    say(f"{name} is ready")


def _start_api(cluster: Cluster, programs: dict[str, Path], native_gangs: bool, say: Say) -> None:
    ports, keys = cluster.ports, cluster.dir / "certificates"
    client, peers = (f"http://127.0.0.1:{port}" for port in (ports.etcd, ports.etcd_peers))
    cluster.run(
        "etcd",
        [
            str(programs["etcd"]),
            f"--data-dir={cluster.dir}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=8000000000",
            "--log-level=warn",
        ],
    )
    _await(cluster, "etcd", say)
    gates = ["--feature-gates=GenericWorkload=true"] if native_gangs else []
    served = ["--runtime-config=scheduling.k8s.io/v1beta1=true"] if native_gangs else []
    cluster.run(
        "kube-apiserver",
        [
            str(programs["kube-apiserver"]),
            f"--etcd-servers={client}",
            f"--secure-port={ports.api}",
            "--bind-address=127.0.0.1",
            f"--tls-cert-file={keys}/kube-apiserver.crt",
            f"--tls-private-key-file={keys}/kube-apiserver.key",
            f"--client-ca-file={keys}/ca.crt",
            f"--service-account-key-file={keys}/service-accounts.key",
            f"--service-account-signing-key-file={keys}/service-accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={cluster.dir}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/16",
            # no kubelet mounts tokens here, and no controller takes the taint of new nodes away
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
            "--event-ttl=30m",
            *gates,
            *served,
        ],
    )
    _await(cluster, "kube-apiserver", say)


async def _fill(cluster: Cluster, programs: dict[str, Path], with_kwok: bool, say: Say) -> None:
    async with await objects.connect(cluster.kubeconfig) as api:
        await objects.apply(api, objects.documents(HERE / "base.yaml", programs["crd"]))
        if cluster.with_muster:
            for name in ("rbac.yaml", "admission.yaml"):
                await objects.apply(api, objects.documents(DEPLOY / "base" / name))
        if not with_kwok:  # nodes that nobody plays: pods are bound and never run
            await objects.add_nodes(api, cluster.nodes, cluster.gpus, ready=False)
            return
        cluster.run(
            "kwok",
            [
                str(programs["kwok"]),
                f"--kubeconfig={cluster.dir}/kwok.kubeconfig",
                "--manage-all-nodes=true",
                "--node-lease-duration-seconds=0",
                f"--server-address=127.0.0.1:{cluster.ports.kwok}",
                f"--config={HERE}/stages.yaml",
            ],
        )
        try:
            async with asyncio.timeout(READY_WITHIN_S + cluster.nodes / 50):
                await objects.add_nodes(api, cluster.nodes, cluster.gpus)
        except TimeoutError:
            log = cluster.process("kwok").log
            raise ValueError(f"the nodes do not get ready; see {log}") from None
        say(f"{cluster.nodes} nodes with {cluster.gpus} GPUs each are ready")


def scheduler_configuration(cluster: Cluster) -> dict[str, Any]:
    """Return the configuration of the stock kube-scheduler, with muster as its extender."""
    keys = cluster.dir / "certificates"
    extender = {
        "urlPrefix": f"https://127.0.0.1:{cluster.ports.verbs}/v1",
        "filterVerb": "filter",
        "preemptVerb": "preempt",
        "nodeCacheCapable": True,
        "ignorable": False,
        "httpTimeout": "10s",
        "enableHTTPS": True,
        "tlsConfig": {
            "caFile": f"{keys}/ca.crt",
            "certFile": f"{keys}/kube-scheduler.crt",
            "keyFile": f"{keys}/kube-scheduler.key",
        },
        "managedResources": [{"name": "nvidia.com/gpu", "ignoredByScheduler": False}],
    }
    if cluster.bind_verb:
        extender["bindVerb"] = "bind"
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {
            "kubeconfig": f"{cluster.dir}/kube-scheduler.kubeconfig",
            "qps": 5000,  # the default of 50 caps every cluster at 50 pods a second
            "burst": 10000,
        },
        "leaderElection": {"leaderElect": False},
        "profiles": [{"schedulerName": "default-scheduler"}, {"schedulerName": "muster"}],
        "extenders": [extender] if cluster.with_muster else [],
    }


def _start_rest(
    cluster: Cluster,
    programs: dict[str, Path],
    settings: dict[str, Any],
    with_operator: bool,
    say: Say,
) -> None:
    ports, keys = cluster.ports, cluster.dir / "certificates"
    if cluster.with_muster:
        path = cluster.dir / "muster.toml"
        path.write_bytes(msgspec.toml.encode({**muster_toml(cluster), **settings}))
        command = [sys.executable, "-m", "sim.cli", "live", "--config", str(path)]
        supervised = [sys.executable, "-m", "scheduler.controlplane.supervisor", *command]
        cluster.run("muster", supervised, PYTHONPATH=str(HERE.parents[1]))
    cluster.run(
        "kube-controller-manager",
        [
            str(programs["kube-controller-manager"]),
            f"--kubeconfig={cluster.dir}/kube-controller-manager.kubeconfig",
            f"--service-account-private-key-file={keys}/service-accounts.key",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={ports.controllers}",
            # played nodes send no heartbeats
            "--controllers=*,-node-lifecycle-controller",
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        ],
    )
    path = cluster.dir / "scheduler.json"
    path.write_text(json.dumps(scheduler_configuration(cluster)))
    gates = ["--feature-gates=GenericWorkload=true"]
    cluster.run(
        "kube-scheduler",
        [
            str(programs["kube-scheduler"]),
            f"--config={path}",
            "--bind-address=127.0.0.1",
            f"--secure-port={ports.scheduler}",
            *(gates if not cluster.with_muster else []),
        ],
    )
    if with_operator:
        _start_operator(cluster, programs)
    for process in list(cluster.processes):
        if process.name == "training-operator":
            _await_operator(cluster, say)
        elif process.name not in ("etcd", "kube-apiserver", "kwok"):
            _await(cluster, process.name, say)


def muster_toml(cluster: Cluster) -> dict[str, Any]:
    """Return muster's settings on this cluster."""
    keys = cluster.dir / "certificates"
    return {
        "kubeconfig": f"{cluster.dir}/muster.kubeconfig",
        "journal": f"{cluster.dir}/journal.jsonl",
        "serve": {
            "port": cluster.ports.verbs,
            "cert": f"{keys}/muster.crt",
            "key": f"{keys}/muster.key",
            "client_ca": f"{keys}/ca.crt",
        },
        "status": {"port": cluster.ports.status},
    }


def _start_operator(cluster: Cluster, programs: dict[str, Path]) -> None:
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
    if cluster.with_muster:
        command.append("--gang-scheduler-name=muster")
    OPERATOR_CERTIFICATES.mkdir(exist_ok=True)
    own = cluster.dir / "operator-certificates"
    own.mkdir()
    if os.geteuid() == 0 and shutil.which("unshare"):
        # its own view of that folder, so that several clusters do not share it
        mount = f'mount --bind "{own}" "{OPERATOR_CERTIFICATES}" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", mount, "operator", *command]
    else:
        shutil.rmtree(own)
        own.symlink_to(OPERATOR_CERTIFICATES)
    cluster.run("training-operator", command, TMPDIR="/tmp")


def _await_operator(cluster: Cluster, say: Say) -> None:
    """Hand the operator the certificate that it made, as a mounted Secret would."""
    asyncio.run(_copy_certificate(cluster))
    _await(cluster, "training-operator", say)


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
                    (target / f".{name}").write_bytes(base64.b64decode(data[name]))
                    (target / f".{name}").replace(target / name)
                return
            await asyncio.sleep(0.1)


def _end(cluster: Cluster) -> None:
    order = ["muster", "training-operator", "kube-scheduler", "kube-controller-manager"]
    order += ["kwok", "kube-apiserver", "etcd"]
    stop(sorted(cluster.processes, key=lambda process: order.index(process.name)))
    cluster.processes = []


def down(folder: Path) -> bool:
    """End the cluster of a folder and remove it; True if there was one."""
    with _alone(folder):
        cluster = load(folder)
        if cluster is None:
            return False
        _end(cluster)
        shutil.rmtree(folder)
    folder.with_name(folder.name + ".lock").unlink(missing_ok=True)
    return True
