"""More failure modes on the real control plane; numbers are those of docs/failure-modes.md."""

from __future__ import annotations

import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import NODES, Kube, gang, group, pod, pytorchjob
from tests.cluster.test_failure_extender import ALL_NODES, HIGH, Verbs, planned, want_priority
from tests.cluster.test_failures import kill_muster, owned

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

LABEL = "scheduling.x-k8s.io/pod-group"


def bind_by_hand(kube: Kube, space: str, name: str, node: str) -> None:
    """Bind a pod as another scheduler would."""
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": space},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    kube.call("POST", f"/api/v1/namespaces/{space}/pods/{name}/binding", body)


def waits(kube: Kube, space: str, name: str, reason: str) -> None:
    """Wait until a gang waits for this reason."""
    kube.until(
        f"{name} waits for {reason}", lambda: kube.explain(space, name).get("reason") == reason
    )


def bound(kube: Kube, space: str, name: str) -> dict[str, str]:
    """Return the nodes of one gang's bound pods."""
    return {p: node for p, node in kube.bound(space).items() if p.startswith(f"{name}-")}


def test_05_pod_deleted_while_binds_are_parked(
    kube: Kube, space: str, cluster: Cluster, ungated: None
) -> None:
    """The first of two binds is parked for the second, whose pod goes: neither is bound."""
    kube.create(*gang(space, "parked", 2, schedulerName="nobody"))
    nodes = planned(kube, space, "parked", 2)
    one = kube.pods(space)["parked-0"]
    with ThreadPoolExecutor(1) as pool:
        call: Future[str] = pool.submit(Verbs(cluster).bind, one, nodes["parked-0"])
        kube.delete(f"/api/v1/namespaces/{space}/pods/parked-1")
        assert call.result(timeout=20), "refused, with the reason"
    assert kube.bound(space) == {}


def test_08_bound_by_another_scheduler_elsewhere(kube: Kube, space: str, cluster: Cluster) -> None:
    kube.create(*gang(space, "taken", 2, schedulerName="nobody"))
    nodes = planned(kube, space, "taken", 2)
    pods = kube.pods(space)
    elsewhere = next(node for node in ALL_NODES if node not in nodes.values())
    bind_by_hand(kube, space, "taken-0", elsewhere)
    verbs = Verbs(cluster)
    assert verbs.bind(pods["taken-0"], nodes["taken-0"]), "409 is told, not hidden"
    assert verbs.bind(pods["taken-1"], nodes["taken-1"]) == ""
    assert kube.bound(space) == {"taken-0": elsewhere, "taken-1": nodes["taken-1"]}
    kube.create(*gang(space, "rest", NODES - 2))
    kube.until("what was promised is free", lambda: len(bound(kube, space, "rest")) == NODES - 2)
    assert len(set(kube.bound(space).values())) == NODES


def test_09_bind_of_a_pod_that_another_gate_holds(kube: Kube, space: str, cluster: Cluster) -> None:
    kube.create(group(space, "quota", 1))
    gates = [{"name": "example.com/quota"}]
    kube.create(pod(space, "quota-0", labels={LABEL: "quota"}, schedulingGates=gates))
    one = kube.pods(space)["quota-0"]
    assert Verbs(cluster).bind(one, ALL_NODES[0])
    assert kube.bound(space) == {}
    kube.until(
        "only the other gate is left",
        lambda: kube.pods(space)["quota-0"]["spec"].get("schedulingGates") == gates,
    )
    assert Verbs(cluster).bind(kube.pods(space)["quota-0"], ALL_NODES[0])
    assert kube.bound(space) == {}


def test_10_bind_of_a_pod_that_is_gone(kube: Kube, space: str, cluster: Cluster) -> None:
    kube.create(*gang(space, "gone", 1, schedulerName="nobody"))
    nodes = planned(kube, space, "gone", 1)
    one = kube.pods(space)["gone-0"]
    kube.delete(f"/api/v1/namespaces/{space}/pods/gone-0")
    assert Verbs(cluster).bind(one, nodes["gone-0"])
    kube.create(*gang(space, "all", NODES))
    kube.until("its node is free", lambda: len(bound(kube, space, "all")) == NODES)


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


def test_27_35_a_plan_that_nobody_binds_is_given_up(
    kube: Kube, space: str, cluster: Cluster, ungated: None
) -> None:
    """And the bind that comes after that is refused."""
    kube.create(*gang(space, "idle", NODES, schedulerName="nobody"))
    nodes = planned(kube, space, "idle", NODES)
    pods = kube.pods(space)
    kube.create(*gang(space, "next", NODES))
    kube.until("its promise is over", lambda: len(bound(kube, space, "next")) == NODES)
    verbs = Verbs(cluster)
    for name, node in nodes.items():
        assert verbs.bind(pods[name], node), "a late bind would double-book the node"
    assert bound(kube, space, "idle") == {}


def test_27_it_is_given_up_in_time_where_nothing_else_happens(kube: Kube, space: str) -> None:
    job = pytorchjob(space, "idle", 1, 8)
    for part in job["spec"]["pytorchReplicaSpecs"].values():
        part["template"]["spec"]["schedulerName"] = "nobody"
    kube.create(job)
    planned(kube, space, "idle", 2)
    told_s = time.monotonic()
    before = {one["metadata"]["uid"] for one in kube.pods(space).values()}

    def anew() -> bool:
        return before.isdisjoint(one["metadata"]["uid"] for one in kube.pods(space).values())

    kube.until("its pods are made anew", anew)
    assert time.monotonic() - told_s < 20, "they were to be bound within 10 s"


def test_30_a_more_important_gang_takes_no_promise(kube: Kube, space: str) -> None:
    want_priority(kube)
    kube.create(*gang(space, "first", NODES, schedulerName="nobody"))
    nodes = planned(kube, space, "first", NODES)
    kube.create(*gang(space, "vip", 2, priorityClassName=HIGH))
    waits(kube, space, "vip", "capacity")
    for name, node in nodes.items():
        bind_by_hand(kube, space, name, node)
    kube.until("first runs as planned", lambda: bound(kube, space, "first") == nodes)
    assert bound(kube, space, "vip") == {}


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


def test_56_ranks_of_different_shapes(kube: Kube, space: str) -> None:
    label = {LABEL: "mixed"}
    kube.create(*(pod(space, f"filler-{i}") for i in range(NODES - 2)))
    kube.until("two nodes are left", lambda: len(kube.bound(space)) == NODES - 2)
    shapes = [8, 4, 2, 2]
    kube.create(group(space, "mixed", 4))
    kube.create(*(pod(space, f"mixed-{i}", gpus, labels=label) for i, gpus in enumerate(shapes)))
    kube.until("mixed is bound whole", lambda: len(bound(kube, space, "mixed")) == 4)
    nodes = bound(kube, space, "mixed")
    assert len({nodes[f"mixed-{i}"] for i in (1, 2, 3)}) == 1
    assert len(set(nodes.values())) == 2


def intrude(kube: Kube, space: str, node: str) -> None:
    """Let a pod of another scheduler take a node; muster has seen it when this returns."""
    kube.create(pod(space, "intruder", schedulerName="another"))
    bind_by_hand(kube, space, "intruder", node)
    kube.create(group(space, "seen", 9), pod(space, "seen-0", labels={LABEL: "seen"}))
    kube.until("muster saw a pod made later", lambda: kube.explain(space, "seen"))


def test_59_a_node_that_another_scheduler_took_is_not_bound_to(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    kube.create(*gang(space, "held", 2, schedulerName="nobody"))
    nodes = planned(kube, space, "held", 2)
    intrude(kube, space, nodes["held-0"])
    verbs, pods = Verbs(cluster), kube.pods(space)
    assert verbs.bind(pods["held-0"], nodes["held-0"]), "its GPUs are the intruder's"
    assert set(kube.bound(space)) == {"intruder"}


def test_59_a_gang_whose_node_was_taken_starts_elsewhere(kube: Kube, space: str) -> None:
    """Pinned and not bound yet: kube-scheduler has no room there, and the owner makes a new pod."""
    scheduler = kube.cluster.process("kube-scheduler")
    scheduler.signal(signal.SIGSTOP)
    try:
        kube.create(owned(space, "moved", 3))
        kube.until("planned", lambda: len(kube.explain(space, "moved").get("pods", [])) == 3)
        taken = kube.until("released", lambda: told(kube, space, 3))[0]
        intrude(kube, space, taken)
    finally:
        scheduler.signal(signal.SIGCONT)

    def whole() -> bool:
        nodes = list(kube.bound(space).values())
        assert len(nodes) == len(set(nodes)), "two pods with 8 GPUs each on a node with 8"
        return len(bound(kube, space, "moved")) == 3

    kube.until("moved is bound whole", whole, within_s=120)
    assert kube.bound(space)["intruder"] == taken


def told(kube: Kube, space: str, size: int) -> list[str]:
    """Return the nodes that pods are pinned to, once all are."""
    affinities = [one["spec"].get("affinity") for one in kube.pods(space).values()]
    if len(affinities) != size or not all(affinities):
        return []
    terms = [
        affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        for affinity in affinities
    ]
    return [term["nodeSelectorTerms"][0]["matchFields"][0]["values"][0] for term in terms]


def test_60_a_static_pod_is_counted(kube: Kube, space: str) -> None:
    mirror = pod(space, "static", 1, annotations={"kubernetes.io/config.mirror": "abc"})
    mirror["spec"]["nodeName"] = ALL_NODES[0]
    kube.create(mirror)
    kube.until("it runs", lambda: "static" in kube.bound(space))
    kube.create(*gang(space, "all", NODES))
    waits(kube, space, "all", "capacity")
    assert set(kube.bound(space)) == {"static"}
    kube.delete(f"/api/v1/namespaces/{space}/pods/static")
    kube.until("all is bound", lambda: len(bound(kube, space, "all")) == NODES)


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


def test_66_a_node_that_is_not_there_is_never_bound_to(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    kube.create(*gang(space, "held", 1, schedulerName="nobody"))
    planned(kube, space, "held", 1)
    verbs = Verbs(cluster)
    lone = kube.call("POST", f"/api/v1/namespaces/{space}/pods", alone(space))
    for one in (kube.pods(space)["held-0"], lone):
        assert verbs.bind(one, "node-99999")
    assert kube.bound(space) == {}


def alone(space: str) -> dict[str, Any]:
    """Return a pod of no gang that no scheduler looks at."""
    return pod(space, "alone", schedulerName="nobody")


def test_68_plan_records_of_another_version_are_erased(kube: Kube, space: str) -> None:
    path = "/api/v1/namespaces/muster-system/configmaps"
    record = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "from-another-version",
            "namespace": "muster-system",
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
