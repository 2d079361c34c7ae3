"""Process 1 of a real node, in separate namespaces: when it ends, the whole node is off.

Started by `nodes.start` through `unshare`. Every node has the default paths of kubelet and
containerd for itself, and shows kubelet files in place of the machine's settings that it would set.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

SOCKET = "/run/containerd/containerd.sock"
_HIDDEN = ("/run", "/var/lib")  #: replaced by empty folders in memory
#: what kubelet demands of the machine, shown to it without changing the machine
_SETTINGS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
_PAUSE_S = 0.3  #: before a program that ended is started again


def run(*command: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(command, check=True)


def mount_all(folder: Path, keep: list[str]) -> None:
    """Give the node its own view of the machine's folders."""
    run("mount", "--make-rprivate", "/")
    opened = {
        path: os.open(path, os.O_PATH)
        for path in (str(folder), *keep)
        if any(path.startswith(f"{hidden}/") for hidden in _HIDDEN)
    }
    for hidden in _HIDDEN:
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", hidden)
    for path, number in opened.items():  # a cluster may lie in one of them
        os.makedirs(path, exist_ok=True)
        run("mount", "--rbind", f"/proc/{os.getpid()}/fd/{number}", path)
        os.close(number)
    for name, target in (
        ("kubelet", "/var/lib/kubelet"),
        ("containerd", "/var/lib/containerd"),
        ("log", "/var/log"),
    ):
        (folder / name).mkdir(exist_ok=True)
        os.makedirs(target, exist_ok=True)
        run("mount", "--bind", str(folder / name), target)
    for name, value in _SETTINGS.items():
        setting = Path("/proc/sys", name)
        if setting.exists():
            shown = folder / "settings" / name.replace("/", ".")
            shown.parent.mkdir(exist_ok=True)
            shown.write_text(f"{value}\n")
            run("mount", "--bind", str(shown), str(setting))


def has_link(name: str) -> bool:
    """True if this node has a link; /sys shows those of the machine, which may be called alike."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def join_network(config: dict[str, Any]) -> None:
    """Configure the link that the machine puts into this node."""
    while not has_link("eth0"):
        time.sleep(0.005)
    run("ip", "link", "set", "lo", "up")
    run("ip", "addr", "add", f"{config['address']}/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")
    run("ip", "route", "add", "default", "via", config["host"])
    for pods, address in config["routes"]:
        run("ip", "route", "add", pods, "via", address)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


class Service:
    """A program that is started again whenever it ends."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.command, self.log = command, log
        self.child: subprocess.Popen[bytes] | None = None
        self.start_at_s = 0.0

    def tend(self, now_s: float) -> None:
        """Start it if it is not running and its pause is over."""
        if self.child is None and now_s >= self.start_at_s:
            with self.log.open("ab") as out:
                self.child = subprocess.Popen(self.command, stdout=out, stderr=out)

    def ended(self, pid: int) -> None:
        """Note that a process ended; it may be this one."""
        if self.child is not None and self.child.pid == pid:
            self.child.returncode = 0
            self.child = None
            self.start_at_s = time.monotonic() + _PAUSE_S


def load_images(config: dict[str, Any], containerd: Service) -> None:
    """Bring the images in; containerd is asked until it answers."""
    for archive in config["images"]:
        command = [config["ctr"], "--namespace", "k8s.io", "images", "import", archive]
        while subprocess.run(command, capture_output=True).returncode:
            if containerd.child is None or containerd.child.poll() is not None:
                sys.exit(f"containerd exited; see {containerd.log}")
            time.sleep(0.05)


def main(path: str) -> None:
    """Run the node that a file describes until SIGTERM, or until it is killed."""
    config = json.loads(Path(path).read_text())
    folder = Path(config["folder"])

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    socket.sethostname(config["name"])
    mount_all(folder, config["keep"])
    join_network(config)
    containerd = Service(config["containerd"], folder / "containerd.log")
    containerd.tend(0.0)
    load_images(config, containerd)
    services = [containerd, Service(config["kubelet"], folder / "kubelet.log")]
    while True:
        for service in services:
            service.tend(time.monotonic())
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)  # process 1 inherits every orphan
        except ChildProcessError:
            pid = 0
        if pid:
            for service in services:
                service.ended(pid)
        else:
            time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1])
