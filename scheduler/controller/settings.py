"""The settings of a live muster: one TOML file."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import msgspec

from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec

#: what a live muster does where its settings say nothing else
POLICY = PolicySpec(order="priority")


class ServeSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The extender's socket. Without a certificate it speaks plain HTTP, for loopback only."""

    host: str = "127.0.0.1"
    port: int = 8443
    cert: str = ""
    key: str = ""
    client_ca: str = ""  #: clients must show a certificate of this authority
    max_body_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        """Refuse to serve verbs, which are believed blindly, to whoever reaches the port."""
        if bool(self.cert) != bool(self.key):
            raise ValueError("[serve] has one of cert and key; give both, or neither")
        if self.client_ca and not self.cert:
            raise ValueError("[serve] has client_ca, but neither cert nor key; give all three")
        if not self.client_ca and not _is_loopback(self.host):
            raise ValueError(
                f"[serve] host {self.host!r} is not a loopback address; without cert, key and "
                "client_ca, anyone who reaches the port could bind pods; give all three"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class StatusSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The read-only socket: health, metrics, queue, status page."""

    host: str = "127.0.0.1"
    port: int = 8080
    #: whoever is on this machine, or in this pod, may read all; `kubectl port-forward` comes so
    trust_loopback: bool = True


class LeaderSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which of several replicas leads."""

    elect: bool = True
    lease_s: float = 30.0
    renew_s: float = 12.0


class TimeoutSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How long muster waits for others before it acts."""

    bind_s: float = 30.0  #: release to bind of one pod; then its pin is given up
    http_s: float = 10.0  #: httpTimeout of muster's extender entry in kube-scheduler
    barrier_s: float = 6.0  #: a bind call waits for the rest of the gang
    repair_s: float = 60.0  #: a lost rank's slot is kept for its replacement
    stalled_watch_s: float = 90.0  #: a watch without a bookmark for this long is reopened

    def __post_init__(self) -> None:
        """Leave time to bind between the end of the wait and kube-scheduler's patience."""
        if not 0 < self.barrier_s <= self.http_s - 3:
            raise ValueError(
                f"[timeouts] barrier_s is {self.barrier_s:g} and http_s {self.http_s:g}; "
                "barrier_s must be at least 3 s below http_s, the httpTimeout in "
                "kube-scheduler's configuration"
            )


class LiveSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """All settings of `muster live`."""

    kubeconfig: str = ""  #: empty: the service account of the pod muster runs in
    namespace: str = "muster-system"  #: of the lease
    plans_namespace: str = ""  #: of plan records; empty: that of the lease, and "-plans"
    identity: str = ""  #: of this replica; empty: host name and port, of which only one can run
    resource: str = "nvidia.com/gpu"
    journal: str = ""  #: file for events and decisions; empty: none
    journal_max_bytes: int = 64 << 20
    #: whose pods muster binds itself, where it can check all that they ask for
    direct_schedulers: tuple[str, ...] = ("muster-direct",)
    #: that ask muster's extender; others serve gangs once they were seen to bind a pod
    schedulers: tuple[str, ...] = ("default-scheduler", "muster")
    direct_queues: tuple[str, ...] = ()  #: the same, by the queue of the gang
    #: where pods have no priority, the class counts that their training job names; nothing but
    #: muster looks at that field, so that whoever may create jobs may name any class
    job_priority: bool = False
    requests_in_flight: int = 64
    policy: PolicySpec = POLICY
    serve: ServeSettings = ServeSettings()
    status: StatusSettings = StatusSettings()
    leader: LeaderSettings = LeaderSettings()
    timeouts: TimeoutSettings = TimeoutSettings()

    def plans_in(self) -> str:
        """Return the namespace of plan records."""
        return self.plans_namespace or f"{self.namespace}-plans"

    def who(self) -> str:
        """Return this replica's name: a process that replaces a dead one takes over its lease."""
        return self.identity or f"{socket.gethostname()}-{self.serve.port}"


def load(path: Path) -> LiveSettings:
    """Read a settings file.

    Raises:
        ValueError: the file is not TOML, or a setting is unknown, of the wrong type, or contradicts
            another.
    """
    try:
        fields = msgspec.toml.decode(path.read_bytes())
        if isinstance(words := fields.get("policy", {}), dict):
            fields["policy"] = catalog.read(words, POLICY)
        return msgspec.convert(fields, LiveSettings)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; see docs/live.md for the settings") from None
