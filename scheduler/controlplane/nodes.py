"""Real nodes on one machine: kubelet, containerd and runc, each node in separate namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scheduler import whole
from scheduler.controlplane import images, network
from scheduler.controlplane.network import Network

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
MAX_NODES = network.MAX_NODES
HEALTH_PORT = 10248
LEASE_S = 4  #: kubelet renews it four times as often


def name_of(index: int) -> str:
    """Name a node."""
    return f"kubelet-{index}"


def shown_folders() -> list[str]:
    """Return what of the machine every container sees, read-only: programs, Python, checkout."""
    found = ["/usr", *(d for d in ("/bin", "/lib", "/lib64") if _is_folder(d))]
    for path in (str(CHECKOUT), sys.base_prefix, sys.prefix):
        if not any(path == d or path.startswith(f"{d}/") for d in found):
            found.append(path)
    return found


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def runtime_spec(ctr: Path) -> dict[str, Any]:
    """Return what containerd makes every container from: its default, and the shown folders."""
    done = subprocess.run([str(ctr), "oci", "spec"], check=True, capture_output=True)
    spec: dict[str, Any] = json.loads(done.stdout)
    del spec["process"]["rlimits"]  # 1024 open files are too few for torch
    spec["linux"].pop("cgroupsPath", None)
    options = ["rbind", "ro", "nosuid"]
    spec["mounts"] += [
        {"destination": path, "type": "bind", "source": path, "options": options}
        for path in shown_folders()
    ]
    return spec


def _containerd_toml(folder: Path, programs: dict[str, Path]) -> str:
    return f"""version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'native'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{images.PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    base_runtime_spec = '{folder.parent}/runtime-spec.json'
    snapshotter = 'native'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '{programs["runc"]}'
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{programs["bridge"].parent}']
    conf_dir = '{folder}/cni'
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.internal.v1.opt']
  path = '/var/lib/containerd/opt'
"""


def _pod_network(net: Network, index: int) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": net.pods(index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    return {
        "cniVersion": "1.0.0",
        "name": "muster",
        "plugins": [{**bridge, "ipMasq": False, "ipam": addresses}],
    }


def _kubelet_configuration(
    folder: Path, net: Network, index: int, authority: Path
) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{net.bridge}/{name_of(index)}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "healthzBindAddress": net.node(index),
        "healthzPort": HEALTH_PORT,
        "clusterDNS": [net.host],
        "clusterDomain": "cluster.local",
        "resolvConf": str(folder / "resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "nodeLeaseDurationSeconds": LEASE_S,
        "nodeStatusUpdateFrequency": "2s",
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def prepare(folder: Path, programs: dict[str, Path]) -> None:
    """Write into FOLDER what all nodes of a cluster share: images and the containers' origin."""
    folder.mkdir(exist_ok=True)
    whole.write_bytes(folder / "pause.tar", images.pause(programs["pause"]))
    whole.write_bytes(folder / "train.tar", images.train())
    whole.write_text(folder / "runtime-spec.json", json.dumps(runtime_spec(programs["ctr"])))


def write(
    folder: Path,
    net: Network,
    index: int,
    count: int,
    programs: dict[str, Path],
    authority: Path,
    kubeconfig: Path,
) -> list[str]:
    """Write the files of one node into FOLDER; return the command that runs it."""
    name = name_of(index)
    (folder / "cni").mkdir(parents=True, exist_ok=True)
    whole.write_text(folder / "containerd.toml", _containerd_toml(folder, programs))
    whole.write_text(folder / "cni" / "10-muster.conflist", json.dumps(_pod_network(net, index)))
    (folder / "resolv.conf").touch()  # pods ask the cluster's DNS and nobody else
    configuration = _kubelet_configuration(folder, net, index, authority)
    whole.write_text(folder / "kubelet.json", json.dumps(configuration))
    others = [i for i in range(count) if i != index]
    described = {
        "name": name,
        "folder": str(folder),
        "keep": [*shown_folders(), str(programs["kubelet"].parents[1]), str(folder.parents[1])],
        "address": net.node(index),
        "host": net.host,
        "routes": [(net.pods(i), net.node(i)) for i in others],
        "images": [str(folder.parent / "pause.tar"), str(folder.parent / "train.tar")],
        "ctr": str(programs["ctr"]),
        "containerd": [str(programs["containerd"]), f"--config={folder}/containerd.toml"],
        "kubelet": [
            str(programs["kubelet"]),
            f"--config={folder}/kubelet.json",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={name}",
            f"--node-ip={net.node(index)}",
            f"--node-labels=muster.dev/pool=local,muster.dev/block=block-{index // 64:03d}",
            "--v=1",
        ],
    }
    whole.write_text(folder / "node.json", json.dumps(described))
    namespaces = ["--pid", "--mount-proc", "--mount", "--net", "--uts", "--ipc"]
    init = [sys.executable, "-I", str(HERE / "node_init.py"), str(folder / "node.json")]
    return ["unshare", "--fork", "--kill-child", *namespaces, *init]
