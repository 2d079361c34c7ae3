"""Bad input at the verbs: whatever comes, a fitting status, steady memory, and no pod the worse.

`corpus/` holds bodies, each named VERB-STATUS-WHAT.json; one that ever broke muster is added there.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import Kube, gang, pod
from tests.cluster.test_failure_extender import ALL_NODES, Verbs, answer_to_50_mb
from tests.cluster.test_failures import muster_pids

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.json"))
VERBS = ("filter", "preempt", "bind")
STEADY_MIB = 48.0  #: less than one body that is refused for its length
slow_start = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def resident_mib(kube: Kube) -> float:
    """Return the memory that muster has in use."""
    text = "".join(Path(f"/proc/{pid}/status").read_text() for pid in muster_pids(kube))
    return sum(int(kib) for kib in re.findall(r"VmRSS:\s+(\d+) kB", text)) / 1024


class Line:
    """One connection to the verbs, opened anew when the server ends it."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._connection: http.client.HTTPSConnection | None = None

    def send(self, verb: str, body: bytes, method: str = "POST") -> tuple[int, bytes]:
        """Return status and content."""
        for fresh in (False, True):
            if self._connection is None or fresh:
                self.close()
                self._connection = self._verbs.connect()
            try:
                head = {"Content-Type": "application/json"}
                self._connection.request(method, f"/v1/{verb}", body, head)
                with self._connection.getresponse() as reply:
                    return reply.status, reply.read()
            except (http.client.HTTPException, OSError):
                if fresh:
                    raise
        raise AssertionError

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@pytest.fixture
def line(cluster: Cluster) -> Iterator[Line]:
    """Return a connection to the verbs."""
    found = Line(Verbs(cluster))
    yield found
    found.close()


@pytest.fixture
def unharmed(kube: Kube, space: str) -> Iterator[None]:
    """Muster is the same process afterwards, as large as before, logged no error, starts gangs."""
    log = Path(kube.cluster.process("muster").log)
    pids, length, before_mib = muster_pids(kube), log.stat().st_size, resident_mib(kube)
    yield
    assert muster_pids(kube) == pids
    grown_mib = resident_mib(kube) - before_mib
    assert grown_mib < STEADY_MIB, f"{grown_mib:.0f} MiB more are in use"
    with log.open("rb") as file:
        file.seek(length)
        assert b"Traceback" not in file.read()
    kube.create(*gang(space, "well", 4))
    kube.until("gangs start", lambda: len(kube.bound(space)) == 4, within_s=20)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_41_corpus(kube: Kube, line: Line, path: Path) -> None:
    verb, status, _ = path.stem.split("-", 2)
    code, answer = line.send(verb, path.read_bytes())
    assert code == int(status), answer[:300]
    told = json.loads(answer)
    assert code == 200 or told["error"].startswith(f"{verb}: ")


VALID: dict[str, dict[str, Any]] = {
    "filter": {"Pod": {}, "Nodes": None, "NodeNames": ALL_NODES[:3]},
    "preempt": {
        "Pod": {},
        "NodeNameToVictims": None,
        "NodeNameToMetaVictims": {"node-00001": {"Pods": [{"UID": "x"}], "NumPDBViolations": 0}},
    },
    "bind": {"PodName": "p", "PodNamespace": "n", "PodUID": "u", "Node": ALL_NODES[0]},
}
POD = pod(
    "default",
    "p",
    labels={"a": "b"},
    affinity={"nodeAffinity": {}},
    tolerations=[{"key": "k", "operator": "Exists"}],
    initContainers=[{"name": "i", "image": "i", "resources": {"requests": {"cpu": "1"}}}],
    nodeSelector={"k": "v"},
    overhead={"cpu": "1m"},
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["nvidia.com/gpu", "1e999", "-1", "9" * 40, "0x1", "node-00000"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items if isinstance(value, (dict, list)) else ():
        yield (*at, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*at, key))


@st.composite
def bent(draw: st.DrawFn, verb: str) -> bytes:
    """Return a body as kube-scheduler sends it, with some values changed or gone."""
    body: dict[str, Any] = json.loads(json.dumps(VALID[verb]))
    if "Pod" in body:
        body["Pod"] = json.loads(json.dumps(POD))
    for _ in range(draw(st.integers(1, 4))):
        ways = list(places(body))
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        parent: Any = body
        for key in way:
            parent = parent[key]
        if draw(st.booleans()):
            parent[last] = draw(anything)
        else:
            del parent[last]
    return json.dumps(body).encode()


@pytest.mark.parametrize("verb", VERBS)
@settings(max_examples=150, deadline=None, suppress_health_check=slow_start)
@given(data=st.data())
def test_41_bent_bodies_are_answered_or_refused(
    kube: Kube, line: Line, unharmed: None, verb: str, data: st.DataObject
) -> None:
    body = data.draw(bent(verb))
    code, answer = line.send(verb, body)
    told = json.loads(answer)
    if code == 200 and verb == "filter":
        asked = json.loads(body).get("NodeNames") or []
        assert all(name in asked for name in told["NodeNames"] or ())
    elif code == 200 and verb == "bind":
        assert told["Error"], "there is no such pod"
    elif code != 200:
        assert (code, told["error"][: len(verb)]) == (400, verb)


@settings(max_examples=50, deadline=None, suppress_health_check=slow_start)
@given(
    verb=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20),
    method=st.sampled_from(["POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"]),
)
def test_41_unknown_verbs_and_methods(kube: Kube, line: Line, verb: str, method: str) -> None:
    assert line.send(verb, b"{}", method)[0] == (404 if verb not in VERBS else 405)
    if method != "POST":
        assert line.send("filter", b"{}", method)[0] == 405


def test_42_ten_bodies_of_50_mb_leave_no_trace(
    kube: Kube, cluster: Cluster, unharmed: None
) -> None:
    def flood(_: int) -> int:
        return answer_to_50_mb(Verbs(cluster))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(flood, range(10))) == {413}


def test_42_clients_that_never_finish_their_request(
    kube: Kube, space: str, cluster: Cluster, unharmed: None
) -> None:
    """Half a request line, and connections on which nothing is ever said: gangs start meanwhile."""
    verbs = Verbs(cluster)
    half = [verbs.connect() for _ in range(60)]
    for connection in half:
        connection.connect()
        connection.sock.sendall(b"POST /v1/filter HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    mute = [socket.create_connection(("127.0.0.1", cluster.ports.verbs)) for _ in range(200)]
    try:
        kube.create(*gang(space, "quick", 4))
        kube.until("quick is bound", lambda: len(kube.bound(space)) == 4, within_s=20)
        for name in list(kube.pods(space)):
            kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")
        kube.until("it is gone", lambda: kube.pods(space) == {})
    finally:
        for one in (*half, *mute):
            one.close()


def test_43_clients_without_a_certificate_cost_nothing(
    kube: Kube, cluster: Cluster, unharmed: None
) -> None:
    tls = Verbs(cluster).tls
    bare = type(tls)(tls.protocol)
    bare.load_verify_locations(cluster.dir / "certificates" / "ca.crt")

    def knock(_: int) -> bool:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", cluster.ports.verbs, timeout=10, context=bare
        )
        try:
            connection.request("POST", "/v1/filter", b"{}")
            connection.getresponse()
        except OSError:
            return True
        finally:
            connection.close()
        return False

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(knock, range(100)))
