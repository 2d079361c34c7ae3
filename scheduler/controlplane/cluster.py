"""A real Kubernetes control plane on loopback, with simulated nodes and muster on top."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from scheduler import whole
from scheduler.controlplane import (
    access,
    components,
    network,
    objects,
    real_nodes,
    requirements,
    training_operator,
)
from scheduler.controlplane.nodes import LEASE_S
from scheduler.controlplane.processes import free_ports, stop, sweep
from scheduler.controlplane.record import (
    READY_WITHIN_S,
    Cluster,
    Ports,
    Say,
    await_well,
    demand_own,
    load,
)

HERE = Path(__file__).resolve().parent
DEPLOY = HERE.parents[1] / "deploy"
#: no kubelet mounts tokens on played nodes, and no controller takes the taint of new ones away
PLAYED_API_FLAGS = (
    "--authorization-mode=RBAC",
    "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
)
#: played nodes send no heartbeats
PLAYED_CONTROLLER_FLAGS = ("--controllers=*,-node-lifecycle-controller",)


#: of what the API server keeps an audit log: nothing, muster's requests, or pods and their fate
Audited = Literal["", "muster", "pods"]


def default_dir() -> Path:
    """Return the default folder of the cluster."""
    named = os.environ.get("MUSTER_CLUSTER_DIR")
    return Path(named) if named else Path.home() / ".local" / "state" / "muster" / "cluster"


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """Let one command at a time change the cluster of a folder; give the file that says so."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(folder.name + ".lock")
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    continue  # removed by the previous command, and created again
            except BlockingIOError:
                raise ValueError(
                    f"another command is working on the cluster in {folder}; wait for it"
                ) from None
            except FileNotFoundError:
                continue
            shutil.rmtree(_ended(folder), ignore_errors=True)
            yield path
            return


def _ended(folder: Path) -> Path:
    """Return where an ended cluster lies while it is removed."""
    return folder.with_name(f".{folder.name}.muster-ended")


def up(
    folder: Path,
    *,
    nodes: int = 100,
    gpus: int = 8,
    kubelets: int = 0,
    kubelet_gpus: int = 1,
    with_muster: bool = True,
    with_operator: bool = True,
    muster_settings: dict[str, Any] | None = None,
    bind_verb: bool = True,
    native_gangs: bool = True,
    with_kwok: bool = True,
    audited: Audited = "",
    say: Say = lambda text: None,
) -> Cluster:
    """Start a cluster, or the missing parts of the one in `folder`.

    With `audited`, the API server writes muster's requests, or what becomes of pods, to
    audit.jsonl. Existing parts stay: an `up` that was interrupted, or whose programs were killed,
    continues.

    Raises:
        ValueError: a component ended or does not get ready, the text names its log; another
            cluster, or something else, is in `folder`; or the machine cannot run real nodes, the
            text says what it lacks.
    """
    lacking = requirements.lack() if kubelets else ""
    if lacking:
        raise ValueError(lacking)
    programs = components.build(say, real_nodes=bool(kubelets))
    asked = (nodes, gpus, kubelets, kubelet_gpus, with_muster)
    with _alone(folder):
        cluster = load(folder)
        if cluster is None:
            if folder.exists() and any(folder.iterdir()):
                raise ValueError(
                    f"{folder} is not empty and contains no cluster; give another --dir, or "
                    "empty it"
                )
            folder.mkdir(mode=0o700, exist_ok=True)
            demand_own(folder)
            folder.chmod(0o700)  # it may have been there
            cluster = Cluster(
                str(folder.resolve()),
                nodes,
                gpus,
                with_muster,
                Ports(*free_ports(len(Ports.__struct_fields__))),
                bind_verb=bind_verb,
                kubelets=kubelets,
                kubelet_gpus=kubelet_gpus,
            )
            cluster.save()
        elif cluster.shape != asked:
            where = "" if folder == default_dir() else f" --dir {folder}"
            raise ValueError(
                f"the cluster in {folder} has {cluster.described}; keep using that, or end it "
                f"and lose its contents: muster cluster down{where}"
            )
        elif cluster.complete and all(cluster.healthy(p.name) for p in cluster.processes):
            say("the cluster is already running")
            return cluster
        else:
            say("starting the missing parts of the existing cluster")
        if kubelets and cluster.network is None:
            cluster.network = network.make(network.tag_of(folder))
            cluster.save()
        access.write(cluster)
        access.write_etcd(cluster)
        _start_api(cluster, programs, native_gangs, audited, say)
        if kubelets:
            real_nodes.launch(cluster, programs)
        asyncio.run(_fill(cluster, programs, with_kwok, say))
        _start_rest(cluster, programs, muster_settings or {}, with_operator, say)
        if kubelets:
            asyncio.run(real_nodes.await_ready(cluster))
            say(f"{kubelets} real nodes with {kubelet_gpus} GPUs each are ready")
        cluster.complete = True
        cluster.save()
    return cluster


def _start_api(
    cluster: Cluster, programs: dict[str, Path], native_gangs: bool, audited: Audited, say: Say
) -> None:
    ports, keys = cluster.ports, cluster.dir / "certificates"
    client, peers = (f"https://127.0.0.1:{port}" for port in (ports.etcd, ports.etcd_peers))
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
            *_etcd_keys(keys / "etcd"),
            "--unsafe-no-fsync",
            "--quota-backend-bytes=8000000000",
            "--log-level=warn",
        ],
    )
    await_well(cluster, "etcd", say)
    gates = ["--feature-gates=GenericWorkload=true"] if native_gangs else []
    served = ["--runtime-config=scheduling.k8s.io/v1beta1=true"] if native_gangs else []
    cluster.run(
        "kube-apiserver",
        [
            str(programs["kube-apiserver"]),
            f"--etcd-servers={client}",
            f"--etcd-cafile={keys}/etcd/ca.crt",
            f"--etcd-certfile={keys}/etcd/client.crt",
            f"--etcd-keyfile={keys}/etcd/client.key",
            f"--secure-port={ports.api}",
            f"--bind-address={cluster.host}",
            f"--tls-cert-file={keys}/kube-apiserver.crt",
            f"--tls-private-key-file={keys}/kube-apiserver.key",
            f"--client-ca-file={keys}/ca.crt",
            f"--service-account-key-file={keys}/service-accounts.key",
            f"--service-account-signing-key-file={keys}/service-accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={cluster.dir}/tokens.csv",
            "--service-cluster-ip-range=10.0.0.0/16",
            *(real_nodes.api_flags(cluster) if cluster.kubelets else PLAYED_API_FLAGS),
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
            "--event-ttl=30m",
            *gates,
            *served,
            *(_audit_flags(cluster, audited) if audited else ()),
        ],
    )
    await_well(cluster, "kube-apiserver", say)


def _etcd_keys(folder: Path) -> list[str]:
    """Have etcd talk to nobody without a key of its own authority: others use this machine, too."""
    return [
        flag
        for kind in ("", "peer-")
        for flag in (
            f"--{kind}cert-file={folder}/etcd.crt",
            f"--{kind}key-file={folder}/etcd.key",
            f"--{kind}trusted-ca-file={folder}/ca.crt",
            f"--{kind}client-cert-auth",
        )
    ]


def _audit_flags(cluster: Cluster, audited: Audited) -> list[str]:
    """Have what was asked for written to audit.jsonl, and nothing else."""
    wanted: dict[str, object] = {"level": "Metadata", "users": [access.USERS["muster"][0]]}
    if audited == "pods":
        wanted = {
            "level": "RequestResponse",
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
            "resources": [{"group": "", "resources": ["pods", "pods/binding", "pods/status"]}],
        }
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [wanted, {"level": "None"}],
    }
    path = cluster.dir / "audit-policy.json"
    whole.write_text(path, json.dumps(policy))
    return [f"--audit-policy-file={path}", f"--audit-log-path={cluster.dir}/audit.jsonl"]


async def _fill(cluster: Cluster, programs: dict[str, Path], with_kwok: bool, say: Say) -> None:
    async with await objects.connect(cluster.kubeconfig) as api:
        await objects.apply(api, objects.documents(HERE / "base.yaml", programs["crd"]))
        if cluster.with_muster:
            for name in ("rbac.yaml", "admission.yaml", "tenants.yaml", "fence.yaml", "flow.yaml"):
                await objects.apply(api, objects.documents(DEPLOY / "base" / name))
        if cluster.kubelets:
            await objects.apply(api, objects.documents(HERE / "nodes.yaml"))
        if not cluster.nodes:
            return
        if not with_kwok:  # nodes that nobody plays: pods are bound and never run
            await objects.add_nodes(api, cluster.nodes, cluster.gpus, ready=False)
            return
        cluster.run(
            "kwok",
            [
                str(programs["kwok"]),
                f"--kubeconfig={cluster.dir}/kwok.kubeconfig",
                # among real nodes, only its own; and there a node is well if its lease is renewed
                *(
                    [f"--manage-nodes-with-label-selector={objects.PLAYED}=true"]
                    if cluster.kubelets
                    else ["--manage-all-nodes=true"]
                ),
                f"--node-lease-duration-seconds={LEASE_S if cluster.kubelets else 0}",
                f"--server-address=127.0.0.1:{cluster.ports.kwok}",
                f"--config={HERE}/stages.yaml",
            ],
        )
        try:
            async with asyncio.timeout(READY_WITHIN_S + cluster.nodes / 50):
                await objects.add_nodes(api, cluster.nodes, cluster.gpus)
        except TimeoutError:
            log = cluster.process("kwok").log
            raise ValueError(f"the nodes do not become ready; see {log}") from None
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
        whole.write_bytes(path, msgspec.toml.encode({**muster_toml(cluster), **settings}))
        command = [sys.executable, "-m", "sim.commands.main", "live", "--config", str(path)]
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
            *(
                real_nodes.controller_flags(cluster)
                if cluster.kubelets
                else PLAYED_CONTROLLER_FLAGS
            ),
            "--kube-api-qps=1000",
            "--kube-api-burst=2000",
        ],
    )
    path = cluster.dir / "scheduler.json"
    whole.write_text(path, json.dumps(scheduler_configuration(cluster)))
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
        training_operator.launch(cluster, programs)
    for process in list(cluster.processes):
        if process.name == "training-operator":
            training_operator.await_ready(cluster, say)
        elif process.name not in ("etcd", "kube-apiserver", "kwok"):
            await_well(cluster, process.name, say)


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


def _end(cluster: Cluster) -> None:
    real_nodes.end(cluster)
    order = ["muster", "training-operator", "coredns", "kube-scheduler"]
    order += ["kube-controller-manager", "kwok", "kube-apiserver", "etcd"]
    by_order = sorted(cluster.processes, key=lambda process: order.index(process.name))
    # the API server would wait for answers from kubelets that are no more
    patience_s = {"kube-apiserver": 1.0} if cluster.network else {}
    for process in by_order:
        stop([process], patience_s.get(process.name, 10.0))
    cluster.processes = []


def power(folder: Path, name: str, *, on: bool) -> None:
    """Switch a real node of the cluster in `folder` on or off.

    Raises:
        ValueError: there is no cluster or no such node, or it is on already.
    """
    with _alone(folder):
        cluster = load(folder)
        if cluster is None:
            raise ValueError(
                "no cluster is running; start one with: muster cluster up --kubelets 4"
            )
        if on:
            real_nodes.power_on(cluster, name)
        else:
            real_nodes.power_off(cluster, name)


def down(folder: Path) -> bool:
    """End the cluster of a folder and remove it; True if there was one."""
    with _alone(folder) as lock:
        cluster = load(folder)
        if cluster is not None:
            _end(cluster)
            sweep(cluster.dir)
            folder.rename(_ended(folder))
            shutil.rmtree(_ended(folder))
        lock.unlink()
    return cluster is not None
