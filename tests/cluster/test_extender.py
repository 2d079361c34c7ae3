"""The face that kube-scheduler sees: what it is told of gangs, and how little it has to ask."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster.conftest import NODES, Kube, gang, pod

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


def connection(kube: Kube, *, certificate: bool = True) -> ssl.SSLSocket:
    """Return a connection as kube-scheduler makes it."""
    keys = kube.cluster.dir / "certificates"
    tls = ssl.create_default_context(cafile=str(keys / "ca.crt"))
    if certificate:
        tls.load_cert_chain(keys / "kube-scheduler.crt", keys / "kube-scheduler.key")
    raw = socket.create_connection(("127.0.0.1", kube.cluster.ports.verbs), timeout=20)
    return tls.wrap_socket(raw, server_hostname="localhost")


def send(
    kube: Kube, verb: str, body: bytes | dict[str, Any], method: str = "POST"
) -> tuple[int, Any]:
    """Return status and content of one call."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with connection(kube) as tls:
        head = f"{method} /v1/{verb} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        tls.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        reply = b""
        while chunk := tls.recv(65536):
            reply += chunk
    status, _, rest = reply.partition(b"\r\n")
    text = rest.partition(b"\r\n\r\n")[2]
    return int(status.split()[1]), json.loads(text) if text else None


@pytest.fixture
def waiting(kube: Kube, space: str) -> str:
    """Return a namespace in which a gang holds all nodes and another waits."""
    kube.create(*gang(space, "holds", NODES), *gang(space, "waits", 2))
    kube.until("holds is bound", lambda: len(kube.bound(space)) == NODES)
    kube.until("waits", lambda: kube.explain(space, "waits").get("reason") == "capacity")
    return space


def test_34_preemption_for_a_gang_or_of_a_gang_is_vetoed(kube: Kube, waiting: str) -> None:
    pods = kube.pods(waiting)
    victim = pods["holds-0"]
    offer = {
        victim["spec"]["nodeName"]: {
            "Pods": [{"UID": victim["metadata"]["uid"]}],
            "NumPDBViolations": 0,
        }
    }
    for preemptor in (pods["waits-0"], pod(waiting, "lone")):
        question = {"Pod": preemptor, "NodeNameToVictims": None, "NodeNameToMetaVictims": offer}
        assert send(kube, "preempt", question) == (200, {"NodeNameToMetaVictims": {}})


def test_preemption_among_others_is_left_to_kube_scheduler(kube: Kube, space: str) -> None:
    offer = {"node-00001": {"Pods": [{"UID": "somebody"}], "NumPDBViolations": 1}}
    question = {"Pod": pod(space, "lone"), "NodeNameToMetaVictims": offer}
    assert send(kube, "preempt", question) == (200, {"NodeNameToMetaVictims": offer})


def test_bind_of_a_waiting_pod_is_refused(kube: Kube, waiting: str) -> None:
    one = kube.pods(waiting)["waits-0"]["metadata"]
    question = {
        "PodName": one["name"],
        "PodNamespace": waiting,
        "PodUID": one["uid"],
        "Node": "node-00000",
    }
    code, answer = send(kube, "bind", question)
    assert (code, answer) == (200, {"Error": "the gang of this pod is not admitted"})


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(verb=st.sampled_from(["filter", "preempt", "bind"]), body=st.binary(max_size=200))
def test_41_any_bytes_get_an_answer(kube: Kube, verb: str, body: bytes) -> None:
    assert send(kube, verb, body)[0] == 400


def test_unknown_verbs_and_methods(kube: Kube) -> None:
    assert send(kube, "prioritize", b"{}")[0] == 404
    assert send(kube, "filter", b"", method="GET")[0] == 405


def test_63_waiting_gangs_cost_no_filter_calls(kube: Kube, waiting: str) -> None:
    def calls(num_waiting: int) -> float:
        """Return the calls up to now: pages are kept for a while, but not this one's queue."""
        found = {}

        def current() -> bool:
            with urllib.request.urlopen(kube.cluster.status_url + "/metrics", timeout=10) as reply:
                lines = reply.read().decode().splitlines()
            found.update(line.rsplit(" ", 1) for line in lines if line[:1] != "#")
            length = float(found["muster_queue_length"])
            return (length, float(found["muster_reservations"])) == (num_waiting, 0.0)

        kube.until("the metrics are of now", current)
        return float(found.get('muster_extender_seconds_count{verb="filter"}', 0.0))

    before = calls(1)
    for i in range(30):  # events that wake every pod that the scheduler set aside
        kube.patch("/api/v1/nodes/node-00003", {"metadata": {"labels": {"beat": str(i)}}})
    kube.create(*gang(waiting, "later", 1))
    kube.until("muster saw all of it", lambda: kube.explain(waiting, "later").get("position"))
    assert calls(2) == before
