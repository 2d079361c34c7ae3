"""Pods, groups and jobs that come, go and change at bad moments. Numbers are failure modes."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from scheduler.controlplane.record import Cluster
from tests.cluster.conftest import NODES, Kube, gang, group, pod, pytorchjob
from tests.cluster.test_failure_extender import (
    HIGH,
    Verbs,
    num_calls,
    planned,
    unschedulable,
    want_priority,
)

pytestmark = [pytest.mark.k8s, pytest.mark.slow]

LABEL = "scheduling.x-k8s.io/pod-group"


def remove(kube: Kube, space: str, *names: str) -> None:
    """Delete pods."""
    for name in names:
        kube.delete(f"/api/v1/namespaces/{space}/pods/{name}")


def fill(kube: Kube, space: str, count: int = NODES) -> list[str]:
    """Take whole nodes with pods of no gang; return the pods."""
    names = [f"filler-{i}" for i in range(count)]
    kube.create(*(pod(space, name) for name in names))
    kube.until("the fillers run", lambda: set(names) <= set(kube.bound(space)))
    return names


def bound(kube: Kube, space: str, name: str) -> dict[str, str]:
    """Return the nodes of one gang's bound pods."""
    return {p: node for p, node in kube.bound(space).items() if p.startswith(f"{name}-")}


def reason(kube: Kube, space: str, name: str, wanted: str) -> None:
    """Wait until a gang waits for this reason."""
    kube.until(
        f"{name} waits for {wanted}",
        lambda: kube.explain(space, name).get("reason") == wanted,
    )


def test_04_a_pod_deleted_while_its_gang_waits(kube: Kube, space: str) -> None:
    fillers = fill(kube, space)
    whole = gang(space, "torn", 3)
    kube.create(*whole)
    reason(kube, space, "torn", "capacity")
    remove(kube, space, "torn-1")
    reason(kube, space, "torn", "members")
    remove(kube, space, *fillers)
    kube.until("all is free", lambda: kube.bound(space) == {})
    kube.create(whole[2])
    kube.until("torn starts whole", lambda: len(bound(kube, space, "torn")) == 3)


def test_06_a_pod_made_anew_takes_the_slot_of_its_rank(
    kube: Kube, space: str, cluster: Cluster
) -> None:
    whole = gang(space, "held", 3, schedulerName="nobody")
    kube.create(*whole)
    before = planned(kube, space, "held", 3)
    old = kube.pods(space)["held-1"]
    remove(kube, space, "held-1")
    kube.create(whole[2])
    kube.until(
        "its successor is planned",
        lambda: "muster.dev/plan" in kube.pods(space)["held-1"]["metadata"].get("annotations", {}),
    )
    assert planned(kube, space, "held", 3) == before
    verbs = Verbs(cluster)
    assert verbs.bind(old, before["held-1"]), "the pod of the old uid is gone"
    for name, one in kube.pods(space).items():
        assert verbs.bind(one, before[name]) == ""
    assert kube.bound(space) == before


def test_07_a_job_deleted_while_planned_gives_its_promise_back(kube: Kube, space: str) -> None:
    job = pytorchjob(space, "gone", NODES - 1, 8)
    for part in job["spec"]["pytorchReplicaSpecs"].values():
        part["template"]["spec"]["schedulerName"] = "nobody"
    kube.create(job)
    planned(kube, space, "gone", NODES)
    kube.create(*gang(space, "next", NODES))
    reason(kube, space, "next", "capacity")
    kube.delete(f"/apis/kubeflow.org/v1/namespaces/{space}/pytorchjobs/gone")
    kube.until("next has the room", lambda: len(bound(kube, space, "next")) == NODES)
    assert kube.explain(space, "gone") == {}


def test_28_29_gangs_that_race_for_the_room_of_one_all_finish(kube: Kube, space: str) -> None:
    names = [f"race{i}" for i in range(6)]
    size = NODES // 2 + 1
    runs = {"muster.dev/run-for": "1s"}
    gangs = {name: gang(space, name, size, annotations=runs) for name in names}
    for members in zip(*gangs.values(), strict=True):  # member by member
        kube.create(*members)

    def finished() -> bool:
        pods = kube.pods(space)
        placed = {
            name: sum(
                bool(one["spec"].get("nodeName"))
                for p, one in pods.items()
                if p.startswith(f"{name}-")
            )
            for name in names
        }
        assert sum(0 < count < size for count in placed.values()) <= 1, placed
        return all(one["status"]["phase"] == "Succeeded" for one in pods.values())

    kube.until("all finish", finished)
    assert len(kube.pods(space)) == size * len(names)


def test_44_48_a_group_that_comes_late_or_goes(kube: Kube, space: str) -> None:
    whole = gang(space, "late", 2)
    kube.create(*whole[1:])
    seen = kube.until("it is known", lambda: kube.explain(space, "late"))
    assert seen["text"] == "the object that says how many pods it needs cannot be read yet"
    kube.create(whole[0])
    kube.until("late starts", lambda: len(bound(kube, space, "late")) == 2)
    kube.delete(f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{space}/podgroups/late")

    fillers = fill(kube, space, NODES - 2)
    kube.create(*gang(space, "waits", 2))
    reason(kube, space, "waits", "capacity")
    path = f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{space}/podgroups/waits"
    kube.delete(path)
    reason(kube, space, "waits", "members")
    remove(kube, space, *fillers)
    kube.until("only late runs", lambda: set(kube.bound(space)) == {"late-0", "late-1"})
    kube.create(group(space, "waits", 2))
    kube.until("waits starts", lambda: len(bound(kube, space, "waits")) == 2)
    assert len(bound(kube, space, "late")) == 2


def test_45_47_a_minimum_beyond_the_pods_is_lowered(kube: Kube, space: str) -> None:
    kube.create(*gang(space, "many", 3))
    kube.until("many runs", lambda: len(bound(kube, space, "many")) == 3)
    label = {LABEL: "few"}
    kube.create(group(space, "few", 5), *(pod(space, f"few-{i}", labels=label) for i in range(3)))
    reason(kube, space, "few", "members")
    text = "needs 40 GPUs for 5 pods; 3 of 5 pods exist, waiting for the others to be created"
    kube.until("all three are seen", lambda: kube.explain(space, "few")["text"] == text)
    groups = f"/apis/scheduling.x-k8s.io/v1alpha1/namespaces/{space}/podgroups"
    kube.patch(f"{groups}/many", {"spec": {"minMember": 5}})  # while it runs
    kube.patch(f"{groups}/few", {"spec": {"minMember": 3}})
    kube.until("few starts", lambda: len(bound(kube, space, "few")) == 3)
    assert len(bound(kube, space, "many")) == 3


def test_46_pods_beyond_the_minimum_wait_for_room(kube: Kube, space: str) -> None:
    fillers = fill(kube, space, NODES - 3)
    label = {LABEL: "more"}
    kube.create(group(space, "more", 3), *(pod(space, f"more-{i}", labels=label) for i in range(5)))
    kube.until("the minimum runs", lambda: len(bound(kube, space, "more")) == 3)
    reason(kube, space, "more", "capacity")
    remove(kube, space, fillers[0])
    kube.until("one more runs", lambda: len(bound(kube, space, "more")) == 4)
    remove(kube, space, fillers[1])
    kube.until("all run", lambda: len(bound(kube, space, "more")) == 5)


def test_49_the_strictest_of_two_sizes_rules(kube: Kube, space: str) -> None:
    label, own = {LABEL: "split"}, {"muster.dev/min-member": "3"}
    kube.create(group(space, "split", 2))
    kube.create(*(pod(space, f"split-{i}", labels=label, annotations=own) for i in range(2)))
    said = "PodGroup says 2, muster.dev/min-member says 3; 3 counts"
    # the group may come to muster after the pods: then the gang waits for that first
    kube.until("it says so", lambda: said in kube.explain(space, "split").get("text", ""))
    assert kube.explain(space, "split")["reason"] == "members"
    kube.create(pod(space, "split-2", labels=label, annotations=own))
    kube.until("split starts", lambda: len(bound(kube, space, "split")) == 3)


def test_50_one_name_in_two_namespaces_is_two_gangs(kube: Kube, space: str) -> None:
    other = f"{space[:50]}-b"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    here, there = gang(space, "twin", 2), gang(other, "twin", 2)
    kube.create(*here[:-1], *there[:-1])
    reason(kube, space, "twin", "members")
    reason(kube, other, "twin", "members")
    kube.create(there[-1])
    kube.until("the whole one starts", lambda: len(kube.bound(other)) == 2)
    assert kube.bound(space) == {}
    kube.create(here[-1])
    kube.until("the other one too", lambda: len(kube.bound(space)) == 2)
    kube.delete(f"/api/v1/namespaces/{other}")
    kube.until("its pods are gone", lambda: kube.pods(other) == {})
    kube.until("muster forgot it", lambda: kube.explain(other, "twin") == {})


def test_51_an_elastic_job_starts_at_its_minimum_and_grows(kube: Kube, space: str) -> None:
    fillers = fill(kube, space, NODES - 2)
    job = pytorchjob(space, "elastic", 4, 8)
    del job["spec"]["pytorchReplicaSpecs"]["Master"]
    job["spec"]["elasticPolicy"] = {"minReplicas": 2, "maxReplicas": 4, "rdzvBackend": "c10d"}
    kube.create(job)
    kube.until("two workers run", lambda: len(bound(kube, space, "elastic")) == 2)
    reason(kube, space, "elastic", "capacity")
    remove(kube, space, *fillers[:2])
    kube.until("four workers run", lambda: len(bound(kube, space, "elastic")) == 4)


def test_52_a_replacement_has_the_slot_of_its_rank(kube: Kube, space: str, patient: None) -> None:
    kube.create(pytorchjob(space, "whole", NODES - 1, 8))
    kube.until("whole runs", lambda: len(bound(kube, space, "whole")) == NODES)
    before = bound(kube, space, "whole")
    kube.create(pod(space, "lone"))
    kube.until("lone is refused", lambda: unschedulable(kube.pods(space)["lone"]))
    remove(kube, space, "whole-worker-3")
    kube.until("lone or a new worker has the slot", lambda: len(kube.bound(space)) == NODES)
    assert bound(kube, space, "whole") == before


def test_53_a_first_rank_that_completes_ends_nobody(kube: Kube, space: str) -> None:
    whole = gang(space, "early", 3)
    whole[1]["metadata"]["annotations"]["muster.dev/run-for"] = "1s"
    kube.create(*whole)
    kube.until(
        "rank 0 succeeded",
        lambda: kube.pods(space)["early-0"]["status"]["phase"] == "Succeeded",
    )
    repaired_s = time.monotonic() + 7.0  # longer than a lost rank is waited for
    kube.until("a repair would be over", lambda: time.monotonic() > repaired_s)
    assert set(kube.bound(space)) == {"early-1", "early-2"}
    assert kube.explain(space, "early")["phase"] == "running"


def test_34_61_63_ungated_pods_are_held_and_bound_whole(
    kube: Kube, space: str, cluster: Cluster, ungated: None
) -> None:
    want_priority(kube)
    fillers = fill(kube, space, NODES - 1)
    kube.create(*gang(space, "open", 3, priorityClassName=HIGH))
    reason(kube, space, "open", "capacity")
    kube.until(
        "kube-scheduler was refused all three",
        lambda: all(unschedulable(kube.pods(space)[f"open-{i}"]) for i in range(3)),
    )
    assert not any(one["spec"].get("schedulingGates") for one in kube.pods(space).values())
    began_s, calls = time.monotonic(), num_calls(cluster, "filter")
    kube.until("it stays so", lambda: time.monotonic() > began_s + 5.0)
    assert num_calls(cluster, "filter") - calls <= 3 * 3, "asked at most every other second"
    assert set(kube.bound(space)) == set(fillers), "no pod started, and no filler was evicted"
    remove(kube, space, *fillers[:2])
    kube.until("open starts whole", lambda: len(bound(kube, space, "open")) == 3)
    assert set(kube.bound(space)) == {*fillers[2:], "open-0", "open-1", "open-2"}


def test_28_61_ungated_gangs_race_and_start_whole(kube: Kube, space: str, ungated: None) -> None:
    size = NODES // 2 + 1
    runs = {"muster.dev/run-for": "1s"}
    gangs = [gang(space, f"race{i}", size, annotations=runs) for i in range(2)]
    for members in zip(*gangs, strict=True):
        kube.create(*members)
    kube.until(
        "both finish",
        lambda: all(one["status"]["phase"] == "Succeeded" for one in kube.pods(space).values()),
    )


def test_62_ungate_gives_every_pod_back(kube: Kube, space: str, cluster: Cluster) -> None:
    fillers = fill(kube, space)
    kube.create(*gang(space, "left", 2))
    reason(kube, space, "left", "capacity")
    command = [sys.executable, "-m", "sim.commands.main", "ungate", "--all"]
    done = subprocess.run(
        [*command, "--kubeconfig", str(cluster.kubeconfig)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "2 pods ungated\n", json.dumps([done.stdout, done.stderr])
    assert not any(one["spec"].get("schedulingGates") for one in kube.pods(space).values())
    remove(kube, space, *fillers)
    kube.until("left starts whole", lambda: len(bound(kube, space, "left")) == 2)
