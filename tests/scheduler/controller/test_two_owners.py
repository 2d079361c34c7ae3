"""Gangs of the pods of two owners: each counts its own from zero."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import JOB_INDEX
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.controller.test_heard import going

JOBSET = "jobset.sigs.k8s.io/"
RANKS = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
SIZE = len(RANKS)
KINDS = ("own", "kueue", "coscheduling", "StatefulSet", "JobSet", "not indexed")


def member(kind: str, by: str, number: int, life: str, **more: Any) -> Pod:
    """Return a rank of one of the owners, in one of its lives."""
    name, uid = f"{by}-{number}-{life}", f"{by}-{number}-{life}"
    labels, notes, owner = {JOB_INDEX: str(number)}, {}, ("Job", by, f"uid-{by}")
    match kind:
        case "own":
            notes = {"muster.dev/group": "g", "muster.dev/min-member": str(SIZE)}
        case "kueue":
            labels |= {"kueue.x-k8s.io/pod-group-name": "g"}
            notes = {"kueue.x-k8s.io/pod-group-total-count": str(SIZE)}
        case "coscheduling":
            labels |= {"scheduling.x-k8s.io/pod-group": "g"}
        case "StatefulSet":
            name, labels = f"{by}-{number}", {}
            notes = {"muster.dev/group": "g", "muster.dev/min-member": str(SIZE)}
            owner = ("StatefulSet", by, f"uid-{by}")
        case _:
            said = {"jobset-name": "g", "replicatedjob-name": "w"}
            said |= {"job-index": str("ab".index(by)), "restart-attempt": "0"}
            labels = labels if kind == "JobSet" else {}
            labels |= {f"{JOBSET}{key}": text for key, text in said.items()}
    return pod(name, uid=uid, labels=labels, annotations=notes, owner=owner, **more)


async def running(rig: Rig, kind: str) -> dict[tuple[str, int], Pod]:
    """Return the gang's pods, started and bound; the cluster is full, and another gang waits."""
    job = {"parallelism": 2, "completions": 2, "completionMode": "Indexed"}
    if kind == "not indexed":
        del job["completionMode"]
    if kind != "StatefulSet":
        rig.thing("Job", "a", job)
        rig.thing("Job", "b", job)
    rig.thing("coscheduling", "g", {"minMember": SIZE})
    part = {"name": "w", "replicas": 2, "template": {"spec": job}}
    rig.thing("JobSet", "g", {"replicatedJobs": [part]})
    first = {rank: member(kind, *rank, "a") for rank in RANKS}
    rig.see(*first.values())
    await rig.settle()
    at = rig.placed()
    runs = {
        rank: member(kind, *rank, "a", node=at[one.metadata.name]) for rank, one in first.items()
    }
    rig.see(*runs.values())
    await rig.pass_s(1.0)
    rig.see(pod("x"))
    await rig.settle()
    rig.api.requests.clear()
    return runs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", RANKS)
@pytest.mark.parametrize("leaves", [False, True])
def test_a_lost_rank_gets_its_node_back_beside_the_other_owners(
    leaves: bool, lost: tuple[str, int], kind: str
) -> None:
    """A Job makes the next pod while the old one still leaves, however long that takes."""

    async def story(rig: Rig) -> None:
        old = await running(rig, kind)
        again = member(kind, *lost, "b")
        if leaves and kind != "StatefulSet":
            rig.see(going(old[lost]), again)
            await rig.pass_s(50.0)
            rig.lose(old[lost])
        else:
            rig.lose(old[lost])
            await rig.pass_s(5.0)
            rig.see(again)
        await rig.settle()
        assert rig.placed() == {again.metadata.name: old[lost].spec.node_name}
        await rig.pass_s(100.0)
        assert rig.evicted() == []

    tried(story, nodes=SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_lost_ranks_of_two_owners_get_their_own_nodes_back(kind: str) -> None:
    """Whichever of them comes first."""

    async def story(rig: Rig) -> None:
        old = await running(rig, kind)
        rig.lose(old["a", 1], old["b", 1])
        await rig.pass_s(5.0)
        again = {by: member(kind, by, 1, "b") for by in "ba"}
        for one in again.values():
            rig.see(one)
            await rig.settle()
        own = {one.metadata.name: old[by, 1].spec.node_name for by, one in again.items()}
        if kind == "not indexed":  # nothing tells them apart
            assert set(rig.placed().values()) == set(own.values())
        else:
            assert rig.placed() == own

    tried(story, nodes=SIZE)


def test_a_job_that_is_made_anew_under_another_name_gets_its_nodes_back() -> None:
    """As long as none of the old one is there."""

    async def story(rig: Rig) -> None:
        old = await running(rig, "own")
        rig.lose(old["a", 0], old["a", 1])
        await rig.pass_s(5.0)
        rig.see(*(member("own", "c", number, "a") for number in range(2)))
        await rig.settle()
        assert set(rig.placed()) == {"c-0-a", "c-1-a"}
        assert set(rig.placed().values()) == {old["a", i].spec.node_name for i in range(2)}

    tried(story, nodes=SIZE)


def test_a_rank_that_never_ran_is_missed_after_a_restart_beside_the_other_owners() -> None:
    """Else its gang would hold its GPUs for good: nobody knew that it was not whole."""

    async def story(rig: Rig) -> None:
        pods = {rank: member("own", *rank, "a") for rank in RANKS}
        rig.see(*pods.values())
        await rig.settle()
        told = {one.metadata.name: one for one in rig.pods_written()}
        for name, node in rig.placed().items():
            if name != "a-1-a":
                told[name].spec.node_name = node
                rig.see(told[name])
        await rig.settle()
        rig.lose(pods["a", 1])
        anew = rig.restarted()
        await anew.settle()
        for _ in range(4):
            await anew.pass_s(40.0)
        assert anew.evicted() == ["a-0-a", "b-0-a", "b-1-a"]

    tried(story, nodes=SIZE)
