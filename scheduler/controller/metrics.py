"""What Prometheus scrapes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """All metrics of one process; gauges are set when they are scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.pending_pods = Gauge(
            "muster_pending_pods",
            "Pods without a node, by what they wait for",
            ["reason"],
            registry=r,
        )
        self.pending_gangs = Gauge(
            "muster_pending_gangs", "Waiting gangs, by reason", ["reason"], registry=r
        )
        self.short_pods = Gauge(
            "muster_short_pods",
            "Pods of gangs that wait for capacity or fragmentation, by the resource that is short",
            ["resource"],
            registry=r,
        )
        self.queue_length = Gauge("muster_queue_length", "Requests in the queue", registry=r)
        self.queue_position = Gauge(
            "muster_queue_position",
            "Queue position, from 1, of the first requests in the queue",
            ["gang"],
            registry=r,
        )
        self.head_waits = Gauge(
            "muster_head_waits_seconds",
            "Age of the first gang in the queue; 0 if none waits",
            registry=r,
        )
        self.aside = Gauge(
            "muster_aside",
            "Gangs set aside because no node can take them in the present state of the cluster",
            registry=r,
        )
        self.reservations = Gauge(
            "muster_reservations", "Nodes promised to pods that are not bound yet", registry=r
        )
        self.leader = Gauge("muster_leader", "1 on the leader, 0 on a standby", registry=r)
        self.watch_age = Gauge(
            "muster_watch_age_seconds",
            "Time since a watch last received something",
            ["kind"],
            registry=r,
        )
        self.watch_skipped = Gauge(
            "muster_watch_skipped",
            "Objects and changes skipped because they could not be read",
            ["kind"],
            registry=r,
        )
        self.not_understood = Gauge(
            "muster_not_understood",
            "Nodes and slices whose devices muster does not understand and counts as none",
            registry=r,
        )
        self.rebuilds = Gauge("muster_rebuilds", "Rebuilds of the core's state", registry=r)
        self.plan_seconds = Histogram(
            "muster_plan_seconds",
            "Duration of one pass over the queue",
            buckets=_SECONDS,
            registry=r,
        )
        self.release_seconds = Histogram(
            "muster_release_seconds",
            "Duration of a release: plan record and writes to the pods",
            buckets=_SECONDS,
            registry=r,
        )
        self.bind_seconds = Histogram(
            "muster_bind_seconds",
            "Time from admission to the last bind",
            buckets=_SECONDS,
            registry=r,
        )
        self.verb_seconds = Histogram(
            "muster_extender_seconds",
            "Duration of answers to kube-scheduler",
            ["verb"],
            buckets=_SECONDS,
            registry=r,
        )
        self.aborts = Counter(
            "muster_aborts", "Plans, or parts of plans, given up", ["cause"], registry=r
        )
        self.set_aside = Counter(
            "muster_gangs_set_aside",
            "Times a gang was set aside because muster could not read or decide it",
            ["where"],
            registry=r,
        )
        self.failures = Counter(
            "muster_failures",
            "Restarts of permanent loops after a failure",
            ["work"],
            registry=r,
        )
        self.api_requests = Counter(
            "muster_api_requests", "Requests to the API server", ["verb", "code"], registry=r
        )
        self.api_limit = Gauge(
            "muster_api_writes_at_once",
            "Writes to the API server allowed in flight, adapted to its answers",
            ["of"],
            registry=r,
        )
        self.api_waiting = Gauge(
            "muster_api_writes_waiting", "Writes waiting for their turn", ["of"], registry=r
        )
        self.journal_failing = Gauge(
            "muster_journal_failing", "1 while the journal cannot be written", registry=r
        )
        self.journal_lost = Counter(
            "muster_journal_lost_lines", "Lines missing from the journal", registry=r
        )
        self.certificate_expires = Gauge(
            "muster_certificate_expires_unix_seconds",
            "Expiry time of the verbs' certificate",
            ["file"],
            registry=r,
        )
