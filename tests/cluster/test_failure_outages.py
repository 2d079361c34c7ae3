"""What is lost, away or too much a while: then gangs start, whole. Numbers are failure modes."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import pytest

from tests.cluster.conftest import NODES, Kube, gang, pod
from tests.cluster.test_failure_extender import ALL_NODES
from tests.cluster.test_failure_room import bound, waits
from tests.cluster.test_failures import kill_muster

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


def test_19_a_lease_taken_by_another_replica_ends_the_writes(kube: Kube, space: str) -> None:
    """Who lost the lease plans nothing; who has it next starts the gang, once and whole."""
    path = "/apis/coordination.k8s.io/v1/namespaces/muster-system/leases/muster"
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    spec = {"holderIdentity": "another", "renewTime": now, "leaseDurationSeconds": 15}
    kube.patch(path, {"spec": spec})
    kube.until("muster gave up", lambda: not kube.cluster.healthy("muster"))
    kube.create(*gang(space, "after", 3))
    while not kube.cluster.healthy("muster"):
        held = kube.call("GET", path)["spec"]["holderIdentity"] == "another"
        placed = kube.bound(space)
        if held and kube.call("GET", path)["spec"]["holderIdentity"] == "another":
            assert placed == {}, "bound while another replica held the lease"
        time.sleep(0.1)
    kube.until("after is bound whole", lambda: len(kube.bound(space)) == 3)


def test_40_api_server_away_for_60_s(kube: Kube, space: str) -> None:
    """38: no watch says a word meanwhile. Then gangs start, whole."""
    kube.create(*(pod(space, f"filler-{i}") for i in range(NODES)))
    kube.until("fillers run", lambda: len(kube.bound(space)) == NODES)
    kube.create(*gang(space, "old", 3))
    waits(kube, space, "old", "capacity")
    server = kube.cluster.process("kube-apiserver")
    server.signal(signal.SIGSTOP)
    try:
        time.sleep(60.0)  # the length of the outage is what is tested
    finally:
        server.signal(signal.SIGCONT)
    kube.until("the server is well", lambda: kube.cluster.healthy("kube-apiserver"))
    kube.until("muster is well", lambda: kube.cluster.healthy("muster"), within_s=120)
    for i in range(6):
        kube.delete(f"/api/v1/namespaces/{space}/pods/filler-{i}")
    kube.create(*gang(space, "new", 3))
    kube.until("old is bound whole", lambda: len(bound(kube, space, "old")) == 3, within_s=120)
    kube.until("new is bound whole", lambda: len(bound(kube, space, "new")) == 3)


def are_bound(kube: Kube, space: str, count: int) -> bool:
    """True if so many pods have a node."""
    return len(kube.bound(space)) == count


def test_64_a_storm_of_node_updates(kube: Kube, space: str) -> None:
    """Gangs come and go at their usual pace while every node changes all the time."""
    counts = [0] * 4

    def storm(stop: list[bool], worker: int) -> None:
        while not stop:
            name = ALL_NODES[(worker + 4 * counts[worker]) % NODES]
            labels = {"example.com/tick": str(counts[worker])}
            kube.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": labels}})
            counts[worker] += 1

    stop: list[bool] = []
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(storm, stop, worker) for worker in range(4)]
        try:
            for i in range(3):
                before = sum(counts)
                kube.until("the storm blows", lambda least=before + 40: sum(counts) > least)
                kube.create(*gang(space, f"calm{i}", NODES // 3))
                kube.until("bound whole", partial(are_bound, kube, space, (i + 1) * NODES // 3))
        finally:
            stop.append(True)
    for call in calls:
        call.result()


def test_68_plan_records_of_another_version_are_erased(kube: Kube, space: str) -> None:
    path = "/api/v1/namespaces/muster-system-plans/configmaps"
    record = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "from-another-version",
            "namespace": "muster-system-plans",
            "labels": {"muster.dev/plan": "true"},
        },
        "data": {"plan": '{"version": 99, "what": ["is", "this"]}'},
    }
    kube.create(*(pod(space, f"filler-{i}") for i in range(NODES)))
    kube.until("fillers run", lambda: len(kube.bound(space)) == NODES)
    kube.create(*gang(space, "waits", 2), record)
    waits(kube, space, "waits", "capacity")
    kill_muster(kube)
    kube.until("muster is back", lambda: kube.cluster.healthy("muster"))
    names = {item["metadata"]["name"] for item in kube.call("GET", path)["items"]}
    assert "from-another-version" not in names
    for i in range(2):
        kube.delete(f"/api/v1/namespaces/{space}/pods/filler-{i}")
    kube.until("waits is bound whole", lambda: len(bound(kube, space, "waits")) == 2)
