"""What kube-scheduler, or somebody who is not, may say to the verbs. Numbers are failure modes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import time
import urllib.request
from typing import Any

import pytest

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import NODES, Kube, gang, pod

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

HIGH = "failure-high"
ALL_NODES = [f"node-{number:05d}" for number in range(NODES)]


def client_tls(cluster: Cluster, certificate: str = "kube-scheduler") -> ssl.SSLContext:
    """Return what a client of the verbs needs; without a certificate if the name is empty."""
    keys = cluster.dir / "certificates"
    tls = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    if certificate:
        tls.load_cert_chain(keys / f"{certificate}.crt", keys / f"{certificate}.key")
    return tls


class Verbs:
    """The verbs as kube-scheduler calls them."""

    def __init__(self, cluster: Cluster) -> None:
        self.port = cluster.ports.verbs
        self.tls = client_tls(cluster)

    def connect(self, timeout_s: float = 20.0) -> http.client.HTTPSConnection:
        """Open a connection."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=timeout_s, context=self.tls
        )

    def raw(self, verb: str, body: bytes, method: str = "POST") -> tuple[int, bytes]:
        """Send bytes; return the status and what came back."""
        connection = self.connect()
        try:
            connection.request(method, f"/v1/{verb}", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def call(self, verb: str, arguments: object) -> dict[str, Any]:
        """Call a verb that has to answer."""
        status, body = self.raw(verb, json.dumps(arguments).encode())
        assert status == 200, body
        return json.loads(body)

    def filter(self, one: dict[str, Any], nodes: list[str] | None) -> list[str]:
        """Return the nodes that a pod may use."""
        reply = self.call("filter", {"Pod": one, "NodeNames": nodes})
        assert not reply["Error"], reply
        return reply["NodeNames"]

    def bind(self, one: dict[str, Any], node: str) -> str:
        """Bind a pod; return why not, or nothing."""
        meta = one["metadata"]
        return self.call(
            "bind",
            {
                "PodName": meta["name"],
                "PodNamespace": meta["namespace"],
                "PodUID": meta["uid"],
                "Node": node,
            },
        )["Error"]


def answer_of(connection: http.client.HTTPSConnection) -> int:
    """Return the status of the answer, and hang up."""
    try:
        with connection.getresponse() as reply:
            reply.read()
            return reply.status
    finally:
        connection.close()


def answer_to_50_mb(verbs: Verbs) -> int:
    """Return how a body in pieces that has no end in sight is answered."""
    connection = verbs.connect()
    connection.putrequest("POST", "/v1/filter")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    try:
        for _ in range(800):
            connection.send(b"10000\r\n" + b" " * 65536 + b"\r\n")
        connection.send(b"0\r\n\r\n")
    except OSError:  # hung up on before the end, which is as good
        connection.close()
        return 413
    return answer_of(connection)


@pytest.fixture
def verbs(cluster: Cluster) -> Verbs:
    """Return the verbs of the cluster's muster."""
    return Verbs(cluster)


def num_calls(cluster: Cluster, verb: str) -> int:
    """Return how often a verb was called since muster started."""
    with urllib.request.urlopen(f"{cluster.status_url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    found = re.search(rf'^muster_extender_seconds_count{{verb="{verb}"}} (\S+)$', text, re.M)
    return int(float(found[1])) if found else 0


def planned(kube: Kube, space: str, name: str, size: int) -> dict[str, str]:
    """Wait until all pods of a gang were told their nodes; return them by pod."""

    def told() -> dict[str, str] | None:
        pods = {p: one for p, one in kube.pods(space).items() if p.startswith(f"{name}-")}
        nodes = {one["name"]: one["node"] for one in kube.explain(space, name).get("pods", [])}
        released = [
            p
            for p, one in pods.items()
            if "muster.dev/plan" in one["metadata"].get("annotations", {})
            and not one["spec"].get("schedulingGates")
            and nodes.get(p)
        ]
        return {p: nodes[p] for p in released} if len(released) == size else None

    return kube.until(f"{name} is planned whole", told)


def unschedulable(one: dict[str, Any]) -> str:
    """Return what kube-scheduler said of a pod that it could not place."""
    for condition in one["status"].get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition["message"] if condition["reason"] == "Unschedulable" else ""
    return ""


def want_priority(kube: Kube) -> None:
    """Make the class of important pods, unless it is there."""
    items = kube.call("GET", "/apis/scheduling.k8s.io/v1/priorityclasses")["items"]
    if HIGH not in {item["metadata"]["name"] for item in items}:
        kube.create(
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": HIGH},
                "value": 1000,
            }
        )


def test_22_24_25_26_filter_names_the_planned_node_or_none(
    kube: Kube, space: str, verbs: Verbs
) -> None:
    kube.create(*gang(space, "held", 2, schedulerName="nobody"))
    nodes = planned(kube, space, "held", 2)
    assert len(set(nodes.values())) == 2
    for name, one in kube.pods(space).items():
        others = [node for node in ALL_NODES if node != nodes[name]]
        for _ in range(3):
            assert verbs.filter(one, ALL_NODES) == [nodes[name]]
        assert verbs.filter(one, [nodes[name]]) == [nodes[name]]
        assert verbs.filter(one, others[:1]) == []
        assert verbs.filter(one, others) == []
        assert verbs.filter(one, []) == []
        assert verbs.filter(one, None) == []
        assert verbs.call("filter", {"Pod": one})["NodeNames"] == []
        assert verbs.bind(one, others[0]).startswith(f"planned for node {nodes[name]}")
    assert kube.bound(space) == {}
    for name, one in kube.pods(space).items():
        assert verbs.bind(one, nodes[name]) == ""
    assert kube.bound(space) == nodes


def test_23_filter_and_bind_after_the_bind_change_nothing(
    kube: Kube, space: str, verbs: Verbs
) -> None:
    kube.create(*gang(space, "done", 2))
    kube.until("done is bound", lambda: len(kube.bound(space)) == 2)
    before = kube.bound(space)
    for name, one in kube.pods(space).items():
        assert set(verbs.filter(one, ALL_NODES)) <= {before[name]}
        assert verbs.bind(one, before[name]) == "", "ours already"
        elsewhere = next(node for node in ALL_NODES if node != before[name])
        assert verbs.bind(one, elsewhere)
        stranger = {"metadata": {**one["metadata"], "uid": "00000000-gone"}}
        assert verbs.bind(stranger, elsewhere)
    assert kube.bound(space) == before


def test_34_a_waiting_gang_evicts_nobody(kube: Kube, space: str, verbs: Verbs) -> None:
    want_priority(kube)
    kube.create(*(pod(space, f"low-{i}") for i in range(NODES)))
    kube.until("low pods run", lambda: len(kube.bound(space)) == NODES)
    kube.create(*gang(space, "vip", 2, priorityClassName=HIGH))
    kube.until("vip waits", lambda: kube.explain(space, "vip").get("reason") == "capacity")
    pods = kube.pods(space)
    offered = {
        node: {"Pods": [{"UID": pods[name]["metadata"]["uid"]}], "NumPDBViolations": 0}
        for name, node in kube.bound(space).items()
    }
    for name in ("vip-0", "vip-1"):
        reply = verbs.call("preempt", {"Pod": pods[name], "NodeNameToMetaVictims": offered})
        assert reply["NodeNameToMetaVictims"] == {}
        assert verbs.filter(pods[name], ALL_NODES) == []
        assert verbs.bind(pods[name], ALL_NODES[0])
    assert len(kube.bound(space)) == NODES


def test_34_an_important_lone_pod_evicts_lone_pods_but_none_of_a_gang(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    want_priority(kube)
    kube.create(*gang(space, "works", NODES - 1))
    kube.until("works is bound", lambda: len(kube.bound(space)) == NODES - 1)
    kube.create(pod(space, "low"))
    kube.until("low is bound", lambda: "low" in kube.bound(space))
    calls = num_calls(cluster, "preempt")
    kube.create(pod(space, "vip", priorityClassName=HIGH))
    kube.until("vip has the room of low", lambda: "vip" in kube.bound(space))
    assert "low" not in kube.bound(space)
    assert num_calls(cluster, "preempt") > calls, "muster was asked"
    calls = num_calls(cluster, "preempt")
    kube.create(pod(space, "vip-2", priorityClassName=HIGH))
    kube.until("vip-2 is refused", lambda: unschedulable(kube.pods(space)["vip-2"]))
    kube.until("muster was asked", lambda: num_calls(cluster, "preempt") > calls)
    assert len(kube.bound(space)) == NODES
    deleted = [p for p, one in kube.pods(space).items() if "deletionTimestamp" in one["metadata"]]
    assert deleted == []


@pytest.mark.parametrize("verb", ["filter", "preempt", "bind"])
def test_41_nonsense_is_answered_with_400(kube: Kube, verbs: Verbs, verb: str) -> None:
    nonsense: list[bytes] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe{}",
        b'{"Pod": 3, "PodUID": 3}',
        b'{"Pod": null, "PodName": null}',
        b'{"NodeNames": ["node-00000"]}',
        b'{"Pod": {"metadata": {"uid": 7, "labels": []}}, "PodName": []}',
        b'{"Pod": {"metadata": {"name": "a"}, "spec": {"containers": "x"}}, "Node": 1}',
        b'{"Pod": {"spec": {"affinity": ' + b'{"a":' * 50_000,
        b"[" * 100_000,
    ]
    for body in nonsense:
        status, answer = verbs.raw(verb, body)
        assert status == 400, (body[:80], status, answer[:200])
        assert json.loads(answer)["error"].startswith(f"{verb}: "), answer
    assert verbs.raw(verb, b"", "GET")[0] == 405
    assert verbs.raw(f"{verb}/x", b"{}")[0] == 404


def test_41_a_pod_without_uid_is_nobodys_pod(kube: Kube, space: str, verbs: Verbs) -> None:
    kube.create(*gang(space, "held", 1, schedulerName="nobody"))
    planned(kube, space, "held", 1)
    bare = {"metadata": {"name": "held-0", "namespace": space}}
    status, answer = verbs.raw("filter", json.dumps({"Pod": bare, "NodeNames": []}).encode())
    assert status in (200, 400), answer
    status, answer = verbs.raw(
        "bind", json.dumps({"PodName": "held-0", "PodNamespace": space, "Node": "n"}).encode()
    )
    assert status == 400, answer
    assert kube.bound(space) == {}


def test_42_a_body_of_50_mb_is_refused_unread(kube: Kube, verbs: Verbs) -> None:
    connection = verbs.connect()
    connection.putrequest("POST", "/v1/filter")
    connection.putheader("Content-Length", str(50_000_000))
    connection.endheaders(b'{"Pod": {')
    assert answer_of(connection) == 413

    assert answer_to_50_mb(verbs) == 413


def test_42_ten_thousand_names_are_answered_at_once(kube: Kube, space: str, verbs: Verbs) -> None:
    names = [f"node-{number:05d}" for number in range(10_000)]
    began_s = time.monotonic()
    assert verbs.filter(pod(space, "lone") | {"status": {}}, names) == names
    assert time.monotonic() - began_s < 2


def test_42_a_slow_client_is_cut_off_and_holds_up_nobody(
    kube: Kube, space: str, verbs: Verbs
) -> None:
    slow = [verbs.connect(timeout_s=30) for _ in range(20)]
    for connection in slow:
        connection.putrequest("POST", "/v1/filter")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"{")
    kube.create(*gang(space, "quick", 4))
    kube.until("quick is bound", lambda: len(kube.bound(space)) == 4, within_s=8)
    for connection in slow:
        assert answer_of(connection) == 408


def test_43_a_client_without_certificate_is_refused(cluster: Cluster, kube: Kube) -> None:
    def ask(tls: ssl.SSLContext) -> int:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", cluster.ports.verbs, timeout=10, context=tls
        )
        try:
            connection.request("POST", "/v1/filter", b"{}")
            return answer_of(connection)
        finally:
            connection.close()

    assert ask(client_tls(cluster)) == 400, "with a certificate it is read"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(client_tls(cluster, ""))
    with socket.create_connection(("127.0.0.1", cluster.ports.verbs), timeout=10) as plain:
        plain.sendall(b"POST /v1/filter HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        try:
            answer = plain.recv(4096)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP"), answer


def test_58_a_lone_pod_keeps_off_promised_nodes(kube: Kube, space: str) -> None:
    kube.create(*gang(space, "held", NODES - 1, schedulerName="nobody"))
    promised = set(planned(kube, space, "held", NODES - 1).values())
    kube.create(pod(space, "lone-0"), pod(space, "lone-1"))

    def settled() -> bool:
        pods = kube.pods(space)
        return len(kube.bound(space)) == 1 and any(
            unschedulable(pods[name]) for name in ("lone-0", "lone-1")
        )

    kube.until("one lone pod runs, the other is refused", settled)
    assert not promised.intersection(kube.bound(space).values())
    for i in range(NODES - 1):
        kube.delete(f"/api/v1/namespaces/{space}/pods/held-{i}")
    kube.until("the promise is over", lambda: len(kube.bound(space)) == 2)
