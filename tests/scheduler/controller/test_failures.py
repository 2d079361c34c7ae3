"""Muster deletes no more pods of a Job than half of what that may count as failed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.kube.objects import Pod, PodCondition, Thing
from scheduler.kube.watch import Change
from scheduler.workloads.gangs import JOB_FAILURES, JOB_INDEX
from scheduler.workloads.lean import lean_thing
from tests.scheduler.controller.rig import Rig, pod, tried

PORTS = (
    "0/4 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, "
    "3 node(s) didn't match Pod's node affinity/selector."
)
OWNER = ("Job", "j", "uid-j")


def says(rig: Rig, size: int, failed: object, **limits: int) -> None:
    """Have the Job say what it counts as failed."""
    counts = {"parallelism": size, "completions": size, "completionMode": "Indexed"}
    meta = {"name": "j", "namespace": "n", "uid": "uid-j"}
    job = {"metadata": meta, "spec": {**counts, **limits}, "status": {"failed": failed}}
    rig.control.on_thing("Job", Change.MODIFIED, lean_thing(msgspec.convert(job, Thing)))


def member(index: int, uid: str, failed: int = 0) -> Pod:
    """Return a pod of the Job."""
    notes = {JOB_FAILURES: str(failed)}
    return pod(
        f"j-{index}", labels={JOB_INDEX: str(index)}, annotations=notes, owner=OWNER, uid=uid
    )


def refused(one: Pod) -> Pod:
    """Return a pod as kube-scheduler refuses it."""
    why = PodCondition("PodScheduled", "False", "Unschedulable", PORTS)
    status = msgspec.structs.replace(one.status, conditions=[why])
    return msgspec.structs.replace(one, status=status)


async def goes_on(rig: Rig, size: int, made: int, failed: int = 0) -> list[str]:
    """Let kube-scheduler refuse the first rank for a while; return which pods of it are deleted."""
    rig.see(member(0, f"made-{made}", failed), *(member(i, f"pod-{i}") for i in range(1, size)))
    await rig.settle()
    before = len(rig.deleted())
    for _ in range(12):
        waits = [one for one in rig.pods_written() if not one.gated and not one.spec.node_name]
        rig.see(*(refused(one) for one in waits if one.metadata.name == "j-0"))
        await rig.settle()
        await rig.pass_s(15.0)
        if len(rig.deleted()) > before:
            break
    return rig.deleted()[before:]


async def gone(rig: Rig) -> None:
    """Have the first rank be gone."""
    rig.lose(*[one for one in rig.control.pods.values() if one.metadata.name == "j-0"])
    await rig.settle()


@pytest.mark.parametrize("size", [1, 3])
def test_what_a_job_lost_is_known_when_its_gang_was_forgotten(size: int) -> None:
    """Also before the Job says it."""

    async def story(rig: Rig) -> None:
        says(rig, size, 0, backoffLimit=6)
        for made in range(6):
            assert await goes_on(rig, size, made) == (["j-0"] if made < 3 else []), made
            await gone(rig)
            assert bool(rig.control.gangs) == (size > 1)

    tried(story, nodes=12)


@pytest.mark.parametrize("size", [1, 3])
def test_what_a_job_lost_is_known_after_a_restart(size: int) -> None:
    async def story(rig: Rig) -> None:
        for made in range(6):
            says(rig, size, min(made, 3), backoffLimit=6)
            assert await goes_on(rig, size, made) == (["j-0"] if made < 3 else []), made
            await gone(rig)
            rig = rig.restarted()
            await rig.settle()

    tried(story, nodes=12)


def test_pods_that_go_during_a_restart_are_counted() -> None:
    async def story(rig: Rig) -> None:
        says(rig, 3, 2, backoffLimit=6)
        said = msgspec.structs.replace(
            member(2, "goes").metadata, deletion_timestamp="2026-01-01T00:01:00Z"
        )
        rig.see(msgspec.structs.replace(member(2, "goes"), metadata=said))
        assert await goes_on(rig, 3, 0) == []

    tried(story, nodes=12)


def test_failures_by_index_are_those_of_the_pods_index() -> None:
    async def story(rig: Rig) -> None:
        limits = {"backoffLimitPerIndex": 4, "backoffLimit": 2**31 - 1}
        says(rig, 1, 700, **limits)
        for made in range(4):
            anew = rig.restarted()
            assert await goes_on(anew, 1, made, made) == (["j-0"] if made < 2 else []), made

    tried(story, nodes=12)


@pytest.mark.parametrize("failed", [None, "many", {"a": 1}])
def test_an_object_that_means_something_else_by_failed_is_read(failed: Any) -> None:
    async def story(rig: Rig) -> None:
        says(rig, 1, failed)
        assert await goes_on(rig, 1, 0) == ["j-0"]

    tried(story, nodes=12)
