"""The network of one cluster's real nodes: a bridge on the machine, a link to each node.

A node is 10.B.0.(10+i), its pods are 10.B.(i+1).0/24, the machine is 10.B.0.1. Nodes reach each
other's pods by routes through the bridge: nothing is translated and the machine forwards nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

MAX_NODES = 64
_BLOCKS = range(64, 250)  #: the second bytes that are tried


class Network(msgspec.Struct, frozen=True):
    """Names and addresses; `tag` sets a cluster apart from others on this machine."""

    tag: str
    block: int

    @property
    def bridge(self) -> str:
        """Name of the bridge."""
        return f"muster-{self.tag}"

    def link(self, index: int) -> str:
        """Name of the machine's end of the link to a node."""
        return f"mu-{self.tag}-{index}"

    @property
    def host(self) -> str:
        """Address of the machine: API server and DNS."""
        return f"10.{self.block}.0.1"

    def node(self, index: int) -> str:
        """Address of a node."""
        return f"10.{self.block}.0.{10 + index}"

    def pods(self, index: int) -> str:
        """Addresses of a node's pods."""
        return f"10.{self.block}.{index + 1}.0/24"


def tag_of(folder: Path) -> str:
    """Return what sets the cluster of a folder apart in names of links and control groups."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _exists(link: str) -> bool:
    return Path("/sys/class/net", link).exists()


def _drop(link: str) -> None:
    """Take a link away; it may go by itself meanwhile, with the node that has its other end."""
    try:
        if _exists(link):
            _ip("link", "del", link)
    except ValueError:
        if _exists(link):
            raise


@contextmanager
def _alone() -> Iterator[None]:
    """Let one cluster of this machine at a time choose its addresses; leaves no file behind."""
    folder = os.open("/sys/class/net", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _used() -> list[ipaddress.IPv4Network]:
    """Return what this machine has routes to, and its name servers."""
    routes = json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
    found = [
        ipaddress.IPv4Network(route["dst"], strict=False)
        for route in routes
        if route["dst"] != "default"
    ]
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
            found.append(ipaddress.IPv4Network(words[1]))
    return found


def make(tag: str) -> Network:
    """Create the bridge, with addresses that this machine does not use.

    Raises:
        ValueError: there are none.
    """
    with _alone():
        remove(Network(tag, 0))  # of a cluster of this folder that was removed by hand
        used = _used()
        for block in _BLOCKS:
            whole = ipaddress.IPv4Network(f"10.{block}.0.0/16")
            if not any(whole.overlaps(net) for net in used):
                break
        else:
            raise ValueError(
                f"no free 10.x.0.0/16 from 10.{_BLOCKS[0]} to 10.{_BLOCKS[-1]} for nodes; "
                "see `ip route`"
            )
        network = Network(tag, block)
        _ip("link", "add", network.bridge, "type", "bridge")
        _ip("addr", "add", f"{network.host}/24", "dev", network.bridge)
        _ip("link", "set", network.bridge, "up")
    return network


def attach(network: Network, index: int, pid: int, within_s: float = 10.0) -> None:
    """Link the node whose first process is `pid` to the bridge.

    Raises:
        ValueError: the process ended, or stays in this network namespace.
    """
    end_s = time.monotonic() + within_s
    own = os.readlink("/proc/self/ns/net")
    try:
        while os.readlink(f"/proc/{pid}/ns/net") == own:
            if time.monotonic() > end_s:
                raise ValueError(f"node {index}: process {pid} creates no network namespace")
            time.sleep(0.005)
    except FileNotFoundError:
        raise ValueError(f"node {index}: its first process exited; see its log") from None
    link = network.link(index)
    _drop(link)  # of the node's last life
    peer = ("peer", "name", "eth0", "netns", str(pid))
    _ip("link", "add", link, "type", "veth", *peer)
    _ip("link", "set", link, "master", network.bridge, "up")
    _ip("route", "replace", network.pods(index), "via", network.node(index), "dev", network.bridge)


def remove(network: Network) -> None:
    """Remove links and bridge; routes and addresses go with them."""
    for link in (*map(network.link, range(MAX_NODES)), network.bridge):
        _drop(link)
