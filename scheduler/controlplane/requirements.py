"""What a machine must have to run real nodes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from scheduler.controlplane import cgroups, components


def lack() -> str:
    """Say in one line what this machine lacks for real nodes; empty if nothing."""
    if sys.platform != "linux":
        return f"real nodes need Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "real nodes need root (namespaces, mounts, control groups); run the command as root"
    packages = {"ip": "iproute2", "unshare": "util-linux", "mount": "mount"}
    if not all(components.cached(c).exists() for c in components.NODE_COMPONENTS if c.needs_c):
        packages |= {"gcc": "gcc libc6-dev", "pkg-config": "pkg-config"}
    wanted = [package for program, package in packages.items() if not shutil.which(program)]
    if "gcc" in packages and not Path("/usr/include/seccomp.h").exists():
        wanted.append("libseccomp-dev")
    if wanted:
        return f"real nodes need programs; on Debian: apt-get install {' '.join(wanted)}"
    try:
        namespaces = ["--pid", "--mount-proc", "--net", "--uts", "--ipc"]
        mount = ["mount", "-t", "tmpfs", "tmpfs", "/run"]
        subprocess.run(
            ["unshare", "--fork", *namespaces, *mount], check=True, capture_output=True, text=True
        )
        cgroups.make(f"muster-try-{os.getpid()}")
        cgroups.remove(f"muster-try-{os.getpid()}")
    except subprocess.CalledProcessError as error:
        return f"real nodes need the right to create namespaces and mounts: {error.stderr.strip()}"
    except (OSError, ValueError) as error:
        return f"real nodes need the right to create control groups: {error}"
    if not cgroups.hierarchies():
        return "real nodes need control groups mounted below /sys/fs/cgroup"
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists() and bridged.read_text().strip() == "1" and _forward_dropped():
        return (
            "this machine drops packets between nodes (FORWARD policy, as Docker sets it); "
            "allow them: iptables -I FORWARD -i muster-+ -o muster-+ -j ACCEPT"
        )
    return ""


def _forward_dropped() -> bool:
    if not shutil.which("iptables"):
        return False
    done = subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True)
    return done.stdout.startswith("-P FORWARD DROP") and "muster-+" not in done.stdout
