"""Room that others take, or that nobody uses, is counted. Numbers are failure modes."""

from __future__ import annotations

import signal
import time

import pytest

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import NODES, Kube, gang, group, pod, pytorchjob
from tests.cluster.test_failure_extender import ALL_NODES, HIGH, Verbs, planned, want_priority
from tests.cluster.test_failures import owned

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


def test_27_it_is_given_up_in_time_where_nothing_else_happens(kube: Kube, space: str) -> None:
    job = pytorchjob(space, "idle", 1, 8)
    for part in job["spec"]["pytorchReplicaSpecs"].values():
        part["template"]["spec"]["schedulerName"] = "absent"
    kube.create(job)
    planned(kube, space, "idle", 2)
    told_s = time.monotonic()
    before = {one["metadata"]["uid"] for one in kube.pods(space).values()}
    kube.create(*gang(space, "next", NODES))
    kube.until("its nodes are others'", lambda: len(bound(kube, space, "next")) == NODES)
    assert time.monotonic() - told_s < 20, "they were to be bound within 10 s"
    pods = kube.pods(space)
    assert before <= {one["metadata"]["uid"] for one in pods.values()}, "they live"
    assert "'absent', does not bind it" in kube.explain(space, "idle")["text"]


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
