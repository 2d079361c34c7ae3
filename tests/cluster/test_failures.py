"""Failure modes on the real control plane; numbers are those of docs/failure-modes.md."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane.objects import node
from tests.cluster.conftest import (
    NODES,
    Kube,
    counted,
    gang,
    group,
    missing,
    pytorchjob,
    ungating,
)

pytestmark = [pytest.mark.k8s, pytest.mark.slow]


def muster_pids(kube: Kube) -> list[int]:
    """Return the processes of muster below their supervisor."""
    pid = kube.cluster.process("muster").pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_muster(kube: Kube) -> None:
    """End the muster process as a crash would; its supervisor starts it again."""
    for pid in muster_pids(kube):
        os.kill(pid, signal.SIGKILL)
    kube.until("muster noticed", lambda: not kube.cluster.healthy("muster"))


def whole_or_absent(kube: Kube, space: str, sizes: dict[str, int]) -> bool:
    """True if every gang is bound whole or not at all."""
    bound = kube.bound(space)
    counts = {name: sum(p.startswith(f"{name}-") for p in bound) for name in sizes}
    return all(count in (0, sizes[name]) for name, count in counts.items())


@pytest.fixture
def full(kube: Kube, space: str) -> str:
    """Return a namespace whose gang `blocker` holds every node."""
    kube.create(*gang(space, "blocker", NODES))
    kube.until("blocker is bound", lambda: len(kube.bound(space)) == NODES)
    return space


def free_all(kube: Kube, space: str) -> None:
    for i in range(NODES):
        kube.delete(f"/api/v1/namespaces/{space}/pods/blocker-{i}")


def owned(space: str, name: str, size: int) -> dict[str, Any]:
    """Return an Indexed Job whose pods are one gang."""
    container = {
        "name": "main",
        "image": "train:1",
        "resources": {"limits": {"nvidia.com/gpu": "8"}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "completionMode": "Indexed",
            "parallelism": size,
            "completions": size,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 0,
                    "containers": [container],
                }
            },
        },
    }


def test_01_node_deleted_while_the_gang_waits_to_bind(kube: Kube, space: str) -> None:
    """With kube-scheduler away, pods stay pinned and unbound; one of their nodes then goes."""
    kube.cluster.process("kube-scheduler").signal(signal.SIGSTOP)
    try:
        kube.create(owned(space, "lost", 3))
        kube.until(
            "all three are pinned",
            lambda: (
                (pods := kube.pods(space))
                and len(pods) == 3
                and not any(p["spec"].get("schedulingGates") for p in pods.values())
            ),
        )
        story = kube.until("planned", lambda: (e := kube.explain(space, "lost")).get("pods") and e)
        gone = story["pods"][0]["node"]
        doomed = {pod["name"] for pod in story["pods"] if pod["node"] == gone}
        kube.delete(f"/api/v1/nodes/{gone}")
        # kube-scheduler, once awake, would bind to the node that it has not seen go
        kube.until("its pod is given up", lambda: doomed.isdisjoint(kube.pods(space)))
    finally:
        kube.cluster.process("kube-scheduler").signal(signal.SIGCONT)
    try:
        kube.until("bound on other nodes", lambda: len(kube.bound(space)) == 3)
        assert gone not in kube.bound(space).values()
    finally:
        kube.create(node(int(gone.split("-")[1]), 8))


def test_02_cordoned_node_takes_no_gang(kube: Kube, space: str) -> None:
    name = "node-00000"
    kube.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
    try:
        kube.until("known", lambda: usable(kube) == NODES - 1)
        kube.create(*gang(space, "most", NODES))
        kube.until("waits", lambda: kube.explain(space, "most").get("reason") == "capacity")
        assert kube.bound(space) == {}
    finally:
        kube.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})
    kube.until("bound once it is back", lambda: len(kube.bound(space)) == NODES)


def usable(kube: Kube) -> int:
    import json
    import urllib.request

    with urllib.request.urlopen(kube.cluster.status_url + "/nodes", timeout=10) as reply:
        return sum(n["usable"] for n in json.loads(reply.read()))


def test_03_allocatable_shrinks_below_what_runs(kube: Kube, space: str) -> None:
    kube.create(*gang(space, "runs", 1))
    name = kube.until("bound", lambda: kube.bound(space).get("runs-0"))
    less = {"status": {"allocatable": {"nvidia.com/gpu": "6"}}}
    more = {"status": {"allocatable": {"nvidia.com/gpu": "8"}}}
    try:
        kube.patch(f"/api/v1/nodes/{name}/status", less)
        kube.create(*gang(space, "all", NODES))
        kube.until(
            "a gang for every node never fits while one has 6 GPUs",
            lambda: kube.explain(space, "all").get("reason") in ("never_fits", "capacity"),
        )
        assert set(kube.bound(space)) == {"runs-0"}
    finally:
        kube.patch(f"/api/v1/nodes/{name}/status", more)
    kube.delete(f"/api/v1/namespaces/{space}/pods/runs-0")
    kube.until("bound once all have 8", lambda: len(kube.bound(space)) == NODES)


def test_04_pod_deleted_while_its_gang_waits(kube: Kube, full: str) -> None:
    kube.create(*gang(full, "waits", 2))
    kube.until("waits", lambda: kube.explain(full, "waits").get("reason") == "capacity")
    kube.delete(f"/api/v1/namespaces/{full}/pods/waits-1")
    kube.until("incomplete", lambda: kube.explain(full, "waits")["reason"] == "members")
    free_all(kube, full)
    kube.until("the others are gone", lambda: not kube.bound(full))
    kube.create(gang(full, "waits", 2)[2])
    kube.until("whole again", lambda: len(kube.bound(full)) == 2)


def test_06_pod_made_again_takes_the_slot(kube: Kube, space: str) -> None:
    kube.create(owned(space, "slots", NODES))
    kube.until("bound", lambda: len(kube.bound(space)) == NODES)
    name, where = sorted(kube.bound(space).items())[3]
    kube.create(*gang(space, "rival", 1))
    kube.until("rival waits", lambda: kube.explain(space, "rival").get("reason") == "capacity")
    kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")

    def succeeded() -> bool:
        now = kube.bound(space)
        return name not in now and where in now.values()

    kube.until("its successor is there", succeeded)
    assert "rival-0" not in kube.bound(space), "the slot was kept for the gang that lost the pod"


def test_07_job_deleted_while_it_runs(kube: Kube, space: str) -> None:
    kube.create(owned(space, "first", NODES))
    kube.until("bound", lambda: len(kube.bound(space)) == NODES)
    kube.create(*gang(space, "next", NODES))
    kube.delete(f"/apis/batch/v1/namespaces/{space}/jobs/first")
    kube.until(
        "next is bound", lambda: sum(p.startswith("next") for p in kube.bound(space)) == NODES
    )


def test_16_killed_muster_goes_on_where_it_was(kube: Kube, full: str) -> None:
    kube.create(*gang(full, "after", 3))
    kube.until("waits", lambda: kube.explain(full, "after").get("reason") == "capacity")
    kill_muster(kube)
    free_all(kube, full)
    kube.until(
        "bound by the next one", lambda: sum(p.startswith("after") for p in kube.bound(full)) == 3
    )


def test_18_killed_again_and_again_while_gangs_start(kube: Kube, space: str) -> None:
    sizes = {f"g{i}": 4 for i in range(6)}
    for name, size in sizes.items():
        kube.create(*gang(space, name, size, annotations={"muster.dev/run-for": "1s"}))
    for _ in range(3):
        kill_muster(kube)
        kube.until("back", lambda: kube.cluster.healthy("muster"))
    kube.until(
        "every gang ran",
        lambda: sum(p["status"]["phase"] == "Succeeded" for p in kube.pods(space).values()) == 24,
    )


def test_20_killed_scheduler_and_pinned_pods(kube: Kube, space: str) -> None:
    kube.cluster.process("kube-scheduler").signal(signal.SIGKILL)
    kube.create(*gang(space, "pinned", 3))
    kube.until(
        "released",
        lambda: (
            len(kube.pods(space)) == 3
            and not any(p["spec"].get("schedulingGates") for p in kube.pods(space).values())
        ),
    )
    kube.cluster.restart("kube-scheduler")
    kube.until("bound", lambda: len(kube.bound(space)) == 3)


def test_29_many_gangs_race_for_room_for_one(kube: Kube, space: str) -> None:
    sizes = {f"race{i}": NODES - 3 for i in range(4)}
    whole = [gang(space, n, s, annotations={"muster.dev/run-for": "1s"}) for n, s in sizes.items()]
    for member in range(NODES - 2):  # interleaved member by member, group objects first
        kube.create(*(one[member] for one in whole))
    total = sum(sizes.values())
    halves = []

    def all_ran() -> bool:
        pods = kube.pods(space)
        by_gang = {n: [p for k, p in pods.items() if k.startswith(f"{n}-")] for n in sizes}
        # a gang that ends frees its nodes one by one, for the next
        running = [
            n
            for n, ps in by_gang.items()
            if any(p["spec"].get("nodeName") for p in ps)
            and not any(p["status"]["phase"] == "Succeeded" for p in ps)
        ]
        if len(running) > 1:
            halves.append(running)
        return sum(p["status"]["phase"] == "Succeeded" for p in pods.values()) == total

    kube.until("all ran", all_ran)
    assert not halves, "two gangs for which there is no room together held nodes at once"


def test_34_a_waiting_gang_preempts_nobody(kube: Kube, space: str) -> None:
    high = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "high"},
        "value": 1000,
    }
    kube.create(high)
    try:
        kube.create(*gang(space, "low", NODES))
        kube.until("low is bound", lambda: len(kube.bound(space)) == NODES)
        kube.create(*gang(space, "urgent", 2, priorityClassName="high"))
        kube.until(
            "urgent waits", lambda: kube.explain(space, "urgent").get("reason") == "capacity"
        )
        before = {n: p["metadata"]["uid"] for n, p in kube.pods(space).items()}
        kube.create(*gang(space, "later", 1))
        kube.until("a pass was made", lambda: kube.explain(space, "later").get("position") == 2)
        after = {n: p["metadata"]["uid"] for n, p in kube.pods(space).items()}
        assert before.items() <= after.items()
        assert len(kube.bound(space)) == NODES
    finally:
        kube.delete("/apis/scheduling.k8s.io/v1/priorityclasses/high")


def test_47_minimum_changed_while_it_waits(kube: Kube, space: str) -> None:
    whole = gang(space, "shrinks", 4)
    kube.create(group(space, "shrinks", 9), *whole[1:])
    kube.until("waits", lambda: kube.explain(space, "shrinks").get("reason") == "members")
    path = f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{space}/podgroups/shrinks"
    kube.patch(path, {"spec": {"minMember": 4}})
    kube.until("bound", lambda: len(kube.bound(space)) == 4)


def test_48_group_made_after_its_pods(kube: Kube, space: str) -> None:
    whole = gang(space, "late", 2)
    kube.create(*whole[1:])
    kube.until("no size yet", lambda: kube.explain(space, "late").get("reason") == "members")
    assert kube.bound(space) == {}
    kube.create(whole[0])
    kube.until("bound", lambda: len(kube.bound(space)) == 2)


def test_50_same_name_in_two_namespaces(kube: Kube, space: str) -> None:
    other = f"{space}-b"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    kube.create(*gang(space, "twin", 2), *gang(other, "twin", 3))
    kube.until("both bound", lambda: (len(kube.bound(space)), len(kube.bound(other))) == (2, 3))
    for name in kube.pods(other):
        kube.delete(f"/api/v1/namespaces/{other}/pods/{name}")


def test_53_a_rank_that_ends_first_frees_its_node(kube: Kube, space: str) -> None:
    whole = gang(space, "uneven", NODES)
    whole[1]["metadata"]["annotations"] = {"muster.dev/run-for": "1s"}
    kube.create(*whole)
    kube.until("one ended", lambda: len(kube.bound(space)) == NODES - 1)
    kube.create(*gang(space, "filler", 1))
    kube.until("its node is used", lambda: "filler-0" in kube.bound(space))
    assert len(kube.bound(space)) == NODES, "the others were left alone"


def test_55_a_member_without_gpus_waits_with_the_others(kube: Kube, full: str) -> None:
    whole = gang(full, "mixed", 2)
    whole[1]["spec"]["containers"][0]["resources"] = {}
    kube.create(*whole)
    kube.until("waits", lambda: kube.explain(full, "mixed").get("reason") == "capacity")
    assert not any(p.startswith("mixed") for p in kube.bound(full))
    free_all(kube, full)
    kube.until("both bound", lambda: sum(p.startswith("mixed") for p in kube.bound(full)) == 2)


def test_61_without_the_policy_the_extender_holds_gangs(
    kube: Kube, space: str, ungated: None
) -> None:
    kube.create(*gang(space, "first", NODES - 2))
    kube.until("bound whole", lambda: len(kube.bound(space)) == NODES - 2)
    kube.create(*gang(space, "second", 4))
    kube.until("second waits", lambda: kube.explain(space, "second").get("reason") == "capacity")
    assert len(kube.bound(space)) == NODES - 2
    for i in range(NODES - 2):
        kube.delete(f"/api/v1/namespaces/{space}/pods/first-{i}")
    kube.until("second is bound whole", lambda: len(kube.bound(space)) == 4)


def test_61_on_many_nodes_the_planned_ones_are_nominated(tmp_path: Path) -> None:
    """kube-scheduler offers an extender a part of many nodes, here a tenth."""
    if lack := missing():
        pytest.skip(f"the control plane cannot be built: {lack}")
    size, nodes = 50, 1000
    folder = tmp_path / "cluster"
    try:
        many = clusters.up(folder, nodes=nodes, with_operator=False, with_kwok=False)
        file = many.dir / "scheduler.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "percentageOfNodesToScore": 1}))
        many.restart("kube-scheduler")
        kube = Kube(many)
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "many"}})
        with ungating(kube):
            for one in range(4):
                kube.create(*gang("many", f"gang{one}", size))
            kube.until("all are bound", lambda: len(kube.bound("many")) == 4 * size)
            num_asked = counted(many, "muster_extender_seconds_count{", 'verb="filter"')
            assert 0 < num_asked <= 10 * 4 * size
    finally:
        clusters.down(folder)


def test_62_ungate_leaves_no_pod_behind(kube: Kube, full: str) -> None:
    kube.create(*gang(full, "left", 3))
    kube.until("waits", lambda: kube.explain(full, "left").get("reason") == "capacity")
    command = [sys.executable, "-m", "sim.commands.main", "ungate", "--namespace", full]
    done = subprocess.run(
        [*command, "--kubeconfig", str(kube.cluster.kubeconfig)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "3 pods ungated\n"
    assert not any(p["spec"].get("schedulingGates") for p in kube.pods(full).values())


def test_67_namespace_deleted(kube: Kube, space: str) -> None:
    other = f"{space}-gone"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    kube.create(*gang(other, "doomed", NODES))
    kube.until("bound", lambda: len(kube.bound(other)) == NODES)
    kube.delete(f"/api/v1/namespaces/{other}")
    kube.create(*gang(space, "heir", NODES))
    kube.until("the nodes are free again", lambda: len(kube.bound(space)) == NODES)


def test_51_elastic_job_starts_with_its_minimum(kube: Kube, space: str) -> None:
    """The operator's PodGroup says all replicas; the job says two are enough."""
    job = pytorchjob(space, "elastic", NODES + 2, 8)
    del job["spec"]["pytorchReplicaSpecs"]["Master"]
    job["spec"]["elasticPolicy"] = {
        "minReplicas": 2,
        "maxReplicas": NODES + 2,
        "rdzvBackend": "c10d",
    }
    kube.create(job)
    kube.until("as many as fit", lambda: len(kube.bound(space)) == NODES)
