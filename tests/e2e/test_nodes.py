"""Real nodes: what they run, what they refuse, and that nothing stays of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.controlplane import cgroups, network, nodes
from scheduler.controlplane import cluster as clusters
from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import Kube
from tests.cluster.typed import typing_on
from tests.e2e.conftest import NODES, lack, pod, until_account

pytestmark = [pytest.mark.k8s, pytest.mark.slow, pytest.mark.timeout(1200)]

PODS = "/api/v1/namespaces/default/pods"


def phase(kube: Kube, name: str) -> str:
    """Return a pod's phase."""
    return str(kube.call("GET", f"{PODS}/{name}")["status"].get("phase"))


def log(kube: Kube, name: str) -> str:
    """Return what a pod said, as its kubelet tells it."""
    return kube.call_raw("GET", f"{PODS}/{name}/log").decode()


def test_a_pod_with_a_gpu_runs_speaks_and_ends(kube: Kube) -> None:
    until_account(kube, "default")
    program = (
        "import os, socket; print(socket.gethostbyname('kubernetes.default'), os.getpid(), "
        "os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token'))"
    )
    kube.create(pod("speaker", "python3", "-c", program))
    kube.until("it succeeded", lambda: phase(kube, "speaker") == "Succeeded")
    assert log(kube, "speaker").split() == ["10.0.0.1", "1", "True"]
    kube.delete(f"{PODS}/speaker")


def test_a_second_pod_on_a_node_of_one_gpu_is_refused_by_kubelet(kube: Kube) -> None:
    until_account(kube, "default")
    for name in ("first", "second"):
        kube.create(pod(name, "sleep", "1000", nodeName="kubelet-0"))
        if name == "first":
            kube.until("it runs", lambda: phase(kube, "first") == "Running")
    kube.until("it is refused", lambda: phase(kube, "second") == "Failed")
    assert kube.call("GET", f"{PODS}/second")["status"]["reason"] == "OutOfnvidia.com/gpu"
    for name in ("first", "second"):
        kube.delete(f"{PODS}/{name}")


def test_status_lists_the_nodes(rig: Cluster, kube: Kube) -> None:
    command = [sys.executable, "-m", "sim.commands.main", "cluster", "status", "--dir", rig.folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert [[nodes.name_of(i), "well"] for i in range(NODES)] == [
        line for line in lines if line[0].startswith("kubelet-")
    ]


def traces(folder: Path) -> dict[str, object]:
    """Return everything that nodes could change on the machine."""
    tag = network.tag_of(folder)
    settings = {}
    for top in ("vm", "net/ipv4", "net/bridge", "kernel/keys"):
        for path in Path("/proc/sys", top).rglob("*"):
            if path.is_file() and os.access(path, os.R_OK) and os.access(path, os.W_OK):
                settings[str(path)] = path.read_bytes()
    groups = [str(p) for root in cgroups.hierarchies() for p in root.rglob("muster-*")]
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                where = (entry / "cgroup").read_text()
            except OSError:
                continue
            if str(folder) in command or tag in where:
                processes.append(command)
    return {
        "links": sorted(os.listdir("/sys/class/net")),
        "routes": routes,
        "mounts": Path("/proc/mounts").read_text(),
        "groups": sorted(groups),
        "settings": settings,
        "panic": [Path("/proc/sys/kernel", n).read_text() for n in ("panic", "panic_on_oops")],
        "processes": processes,
        "folders": {
            top: sorted(os.listdir(top))
            for top in ("/", "/etc", "/opt", "/run", "/usr/libexec", "/var/lib", "/var/log")
        },
    }


def test_nothing_stays_even_after_everything_was_killed(tmp_path: Path) -> None:
    if lacking := lack():
        pytest.skip(lacking)
    folder = tmp_path / "cluster"
    before = traces(folder)
    try:
        first = clusters.up(folder, nodes=0, kubelets=1, with_muster=False, with_operator=False)
        during = traces(folder)
        assert during["links"] != before["links"] and during["groups"] != before["groups"]
        for process in first.processes:
            process.signal(signal.SIGKILL)
        second = clusters.up(folder, nodes=0, kubelets=1, with_muster=False, with_operator=False)
        kube = Kube(second)
        until_account(kube, "default")
        kube.create(pod("sleeper", "sleep", "1000"))
        kube.until("a pod runs", lambda: phase(kube, "sleeper") == "Running")
        assert clusters.down(folder)
    finally:
        clusters.down(folder)
    after = traces(folder)
    for what, value in before.items():
        assert after[what] == value, f"{what} changed"
    assert not folder.exists()


def test_real_nodes_go_on_after_everything_was_killed(tmp_path: Path) -> None:
    if lacking := lack():
        pytest.skip(lacking)
    with typing_on(tmp_path / "cluster") as typed:
        typed.run("up --kubelets 2")
        before = typed.status()
        assert "has 2 real nodes of 1 GPUs" in typed.run("up --kubelets 1", 2).stderr
        typed.kill_all()
        typed.run("up --kubelets 2")
        rows = typed.status()
        assert rows.keys() == before.keys() and all(row["healthy"] for row in rows.values())


def test_a_lack_is_said_in_one_line() -> None:
    """To a user without rights, on a machine that has all else."""
    if lacking := lack():
        pytest.skip(lacking)
    program = (
        "from scheduler.controlplane.requirements import lack\n"
        "import os\n"
        "os.setuid(65534)\n"
        "print(lack())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("real nodes need root"), done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_node_waits_for_a_link_of_its_own_not_for_one_of_the_machine() -> None:
    if lacking := lack():
        pytest.skip(lacking)
    code = "import sys; from scheduler.controlplane.node_init import has_link; "
    code += "print(*map(has_link, sys.argv[1:]))"
    theirs = next(name for name in os.listdir("/sys/class/net") if name != "lo")
    ask = [sys.executable, "-c", code, "lo", theirs]
    assert subprocess.check_output(ask, text=True).split() == ["True", "True"]
    inside = subprocess.check_output(["unshare", "--net", *ask], text=True).split()
    assert inside == ["True", "False"]
