"""What people are told of gangs that end, are in part, share a name, or are none. Facts alone."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from scheduler.controlplane.objects import node as played
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.watch import Change
from scheduler.live.service import Service
from scheduler.status.status import GangView, explain, view
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.status.test_pages import service

JOB = ("Job", "j", "uid-j")


def rank(number: int, life: int = 0, size: int = 2, **more: Any) -> Pod:
    """Return one rank of a gang in one of its lives."""
    labels = {"muster.dev/group": "g", "training.kubeflow.org/replica-index": str(number)}
    said = {"muster.dev/min-member": str(size)}
    return pod(f"g-{number}", labels=labels, annotations=said, uid=f"g-{number}-{life}", **more)


def going(one: Pod) -> Pod:
    """Return the pod as it is while it is being deleted."""
    meta = msgspec.structs.replace(one.metadata, deletion_timestamp="2026-01-01T01:00:00Z")
    return msgspec.structs.replace(one, metadata=meta)


def look(rig: Rig, gang: str = "n/g") -> GangView:
    return view(rig.control.names[gang], rig.ledger, rig.control.now_s())


async def runs(rig: Rig, size: int = 2) -> list[Pod]:
    """Return the pods of a gang that runs."""
    rig.see(*(rank(n, size=size) for n in range(size)))
    await rig.settle()
    where = rig.placed()
    pods = [rank(n, size=size, node=where[f"g-{n}"]) for n in range(size)]
    rig.see(*pods)
    await rig.settle()
    rig.events()
    return pods


async def told(rig: Rig, at_s: float) -> list[tuple[str, str]]:
    gangs = list(rig.control.gangs.values())
    await rig.publisher.look(gangs, lambda g: view(g, rig.ledger, rig.control.now_s()), at_s)
    return rig.events()


def test_a_gang_that_ends_waits_for_nothing() -> None:
    async def story(rig: Rig) -> None:
        pods = await runs(rig)
        rig.see(going(pods[0]), going(pods[1]))
        rig.lose(going(pods[0]))
        await rig.pass_s(10.0)
        seen = look(rig)
        assert (seen.phase, seen.reason) == ("ending", "")
        assert seen.text == "its last pod is being deleted"
        assert await told(rig, 100.0) == []

    tried(story)


def test_a_gang_whose_pods_have_ended_says_so() -> None:
    async def story(rig: Rig) -> None:
        pods = await runs(rig)
        rig.see(*(rank(n, node=p.spec.node_name, phase="Succeeded") for n, p in enumerate(pods)))
        await rig.settle()
        seen = look(rig)
        assert (seen.phase, seen.reason, seen.text) == ("ending", "", "its pods have ended")
        assert await told(rig, 100.0) == []

    tried(story)


def test_a_gang_in_part_is_so_since_it_lost_a_rank() -> None:
    async def story(rig: Rig) -> None:
        pods = await runs(rig)
        await rig.pass_s(5000.0)
        rig.lose(pods[1])
        await rig.settle()
        await rig.pass_s(7.0)
        seen = look(rig)
        assert (seen.phase, seen.waited_s) == ("degraded", 7.0)

    tried(story)


def test_a_node_that_fails_under_a_gang_is_named() -> None:
    async def story(rig: Rig) -> None:
        pods = await runs(rig)
        item = played(int(pods[0].spec.node_name[-1]), 8)
        item["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
        rig.control.on_node(Change.MODIFIED, msgspec.convert(item, NodeObject))
        await rig.settle()
        assert look(rig).text == f"all pods run (node {pods[0].spec.node_name} is not ready)"
        rig.control.on_node(Change.DELETED, msgspec.convert(item, NodeObject))
        await rig.settle()
        assert f"node {pods[0].spec.node_name} is gone" in look(rig).text

    tried(story)


def test_what_was_asked_for_later_does_not_make_a_gang_one_in_part() -> None:
    async def story(rig: Rig) -> None:
        await runs(rig)
        rig.see(pod("filler", gpus=1, node="node-00002", gated=False))
        rig.see(rank(2))
        await rig.settle()
        seen = look(rig)
        assert (seen.phase, seen.lacks_pods, seen.reason) == ("running", 1, "capacity")
        assert seen.text.startswith("2 pods run; another needs 8 GPUs for 1 pod")
        found = explain(rig.control.names["n/g"], rig.ledger, rig.control.now_s())
        assert not [line for line in found.advice if "n/g" in line], "it does not wait for itself"

    tried(story, nodes=3)


def test_extras_that_start_are_told_of() -> None:
    async def story(rig: Rig) -> None:
        await runs(rig)
        rig.see(rank(2))
        await rig.settle()
        rig.see(rank(2, node=rig.placed()["g-2"]))
        await rig.settle()
        ((reason, text),) = rig.events()
        assert reason == "Started" and text == "all 3 pods are bound, on 3 nodes"

    tried(story)


def test_a_part_is_not_called_the_whole() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(rank(n, size=4, gpus=2) for n in range(4)))
        await rig.settle()
        where = rig.placed()
        rig.see(*(rank(n, size=4, gpus=2, node=where[f"g-{n}"]) for n in range(2)))
        await rig.settle()
        rig.lose(rank(2, size=4), rank(3, size=4))
        await rig.settle()
        await rig.pass_s(60.0)
        assert [text for reason, text in rig.events() if reason == "Started"] == []

    tried(story)


def test_gangs_of_one_name_keep_theirs() -> None:
    """Sorted by the names of their pods, as they are listed, they would change with each start."""

    async def story(rig: Rig) -> None:
        def made(source: int, number: int) -> Pod:
            label = [
                {"scheduling.x-k8s.io/pod-group": "g"},
                {"kueue.x-k8s.io/pod-group-name": "g"},
                {"muster.dev/group": "g"},
            ][source]
            said = {"muster.dev/min-member": "1", "kueue.x-k8s.io/pod-group-total-count": "1"}
            one = pod(f"{9 - source}-{number}", labels=label, annotations=said)
            one.metadata.creation_timestamp = f"2026-01-01T00:00:0{source}Z"
            return one

        rig.thing("coscheduling", "g", {"minMember": 1})
        for source in range(3):
            rig.see(made(source, 0))
            await rig.settle()
        before = {name: gang.key for name, gang in rig.control.names.items()}
        assert len(before) == 3
        anew = Rig(0)
        anew.see(*(made(source, 0) for source in (2, 1, 0)))
        anew.control.tables.name_anew()
        assert {name: gang.key for name, gang in anew.control.names.items()} == before

    tried(story)


def test_a_rank_that_came_again_elsewhere_leaves_its_old_node_to_others() -> None:
    """Its owner makes another before the old one is gone."""

    async def story(rig: Rig) -> None:
        pods = await runs(rig)
        rig.see(going(pods[1]), rank(1, life=1))
        await rig.settle()
        rig.see(rank(1, life=1, node=rig.placed()["g-1"]))
        rig.lose(going(pods[1]))
        await rig.settle()
        assert sorted(s.uid for s in rig.control.names["n/g"].slots) == ["g-0-0", "g-1-1"]

    tried(story)


async def seen_by(found: Service, name: str) -> str:
    assert not await found.facts.explain(name)
    return await found.facts.unknown(name)


def test_a_pod_of_no_gang_is_known_for_one() -> None:
    found = service()
    lone = pod("plain", gpus=1, gated=False, schedulerName="default-scheduler")
    found.controller.on_pod(Change.ADDED, lone)
    said = "pod n/plain belongs to no gang: scheduler 'default-scheduler' places it"
    told = asyncio.run(seen_by(found, "n/plain"))
    assert said in told and "it has no node yet" in told
    assert asyncio.run(seen_by(found, "n/other")) == "no gang or pod 'n/other'"


def test_a_job_that_is_no_gang_says_why() -> None:
    async def story(rig: Rig) -> None:
        found = service()
        spec = {"parallelism": 2, "completions": 4, "completionMode": "Indexed"}
        rig.thing("Job", "j", spec)
        found.controller.tables.things.update(rig.control.tables.things)
        assert "it runs 2 of its 4 pods at a time" in await seen_by(found, "n/j")

    tried(story)


QUOTA = "exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: 32, limited: 32"


def test_a_quota_that_keeps_pods_from_being_made_is_named() -> None:
    """The Job says it in Events alone, of which each names another pod that was not made."""

    async def story(rig: Rig) -> None:
        asked: list[str] = []
        answer = rig.api.call

        async def call(method: str, path: str, *rest: Any, **more: Any) -> bytes:
            if method != "GET":
                return await answer(method, path, *rest, **more)
            asked.append(path)
            note = f'Error creating: pods "j-1-{len(asked)}" is forbidden: {QUOTA}'
            return msgspec.json.encode({"items": [{"reason": "FailedCreate", "note": note}]})

        rig.api.call = call  # type: ignore[method-assign]
        spec = {"parallelism": 2, "completions": 2, "completionMode": "Indexed"}
        rig.thing("Job", "j", spec)
        rig.see(pod("j-0", labels={"batch.kubernetes.io/job-completion-index": "0"}, owner=JOB))
        await rig.settle()
        for at_s in (110.0, 111.0, 140.0):
            events = await told(rig, at_s)
            if at_s == 110.0:
                ((reason, text),) = events
        assert len(asked) == 1 and "regarding.uid%3Duid-j" in asked[0]
        assert reason == "Members" and f"Job j cannot create more pods: {QUOTA}" in text
        assert QUOTA in look(rig, "n/j").text

    tried(story)
