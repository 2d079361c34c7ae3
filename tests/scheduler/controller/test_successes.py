"""Ranks that ended well count, whoever saw it; nobody is ended for what muster does not know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.controller.membership import MOST_SUCCEEDED
from scheduler.kube.objects import Pod, Thing
from scheduler.kube.watch import Change
from scheduler.status.status import view
from scheduler.workloads.completed import completed
from scheduler.workloads.gangs import GangKey, Source
from scheduler.workloads.lean import lean_thing
from scheduler.workloads.sizes import Size
from tests.scheduler.controller.rig import Rig, pod, tried

REPAIR_S = 60.0
SIZE = 3
INDEX = "batch.kubernetes.io/job-completion-index"


def job(rig: Rig, name: str, done: str | None, **labels: str) -> None:
    """Tell of an Indexed Job with these indexes completed."""
    item = {
        "metadata": {"name": name, "namespace": "n", "uid": f"uid-{name}", "labels": labels},
        "spec": {"parallelism": SIZE, "completions": SIZE, "completionMode": "Indexed"},
        "status": {"completedIndexes": done} if done is not None else {},
    }
    rig.control.on_thing("Job", Change.MODIFIED, lean_thing(msgspec.convert(item, Thing)))


def jobset(rig: Rig) -> None:
    template = {"spec": {"parallelism": SIZE, "completions": SIZE}}
    part = {"name": "w", "replicas": 1, "template": template}
    rig.thing("JobSet", "s", {"replicatedJobs": [part]})


def member(kind: str, number: int, **more: Any) -> Pod:
    """Return one rank of a gang of three."""
    match kind:
        case "Job":
            more.setdefault("owner", ("Job", "j", "uid-j"))
            return pod(f"j-{number}", labels={INDEX: str(number)}, **more)
        case "JobSet":
            labels = {
                "jobset.sigs.k8s.io/jobset-name": "s",
                "jobset.sigs.k8s.io/replicatedjob-name": "w",
                "jobset.sigs.k8s.io/job-index": "0",
                INDEX: str(number),
            }
            more.setdefault("owner", ("Job", "s-w-0", "uid-s-w-0"))
            return pod(f"s-w-0-{number}", labels=labels, **more)
        case _:
            said = {"muster.dev/group": "g", "muster.dev/min-member": str(SIZE)}
            return pod(f"g-{number}", annotations=said, labels={INDEX: str(number)}, **more)


async def running(rig: Rig, kind: str) -> list[Pod]:
    """Return a gang that was started by muster."""
    if kind == "Job":
        job(rig, "j", None)
    elif kind == "JobSet":
        jobset(rig)
        job(rig, "s-w-0", None)
    rig.see(*(member(kind, i) for i in range(SIZE)))
    await rig.settle()
    nodes = rig.placed()
    pods = [member(kind, i) for i in range(SIZE)]
    pods = [member(kind, i, node=nodes[one.metadata.name]) for i, one in enumerate(pods)]
    rig.see(*pods)
    await rig.pass_s(1.0)
    return pods


async def without_the_first(rig: Rig, kind: str) -> tuple[Rig, list[Pod]]:
    """Let rank 0 end well and its pod be removed; return the next muster."""
    pods = await running(rig, kind)
    done = member(kind, 0, node=pods[0].spec.node_name, phase="Succeeded")
    rig.see(done)
    if kind == "Job":
        job(rig, "j", "0")
    elif kind == "JobSet":
        job(rig, "s-w-0", "0")
    await rig.settle()
    rig.lose(done)
    await rig.settle()
    return rig.restarted(), pods


@pytest.mark.parametrize("kind", ["Job", "JobSet", "labelled"])
def test_a_success_whose_pod_is_gone_outlives_a_restart(kind: str) -> None:
    async def story(rig: Rig) -> None:
        anew, pods = await without_the_first(rig, kind)
        await anew.settle()
        for _ in range(3):
            await anew.pass_s(REPAIR_S + 1.0)
        assert anew.evicted() == []
        (gang,) = anew.control.gangs.values()
        assert view(gang, anew.ledger, anew.control.now_s()).phase == "running"
        # and it goes on: a rank that is lost comes back, on another node if it must
        anew.lose(pods[1])
        await anew.settle()
        for _ in range(2):
            anew.see(member(kind, 2, node=pods[2].spec.node_name))
            await anew.settle()
        anew.see(member(kind, 1, uid="again"))
        await anew.settle()
        assert anew.placed() == {pods[1].metadata.name: pods[1].spec.node_name}

    tried(story)


@pytest.mark.parametrize("kind", ["Job", "JobSet", "labelled"])
@pytest.mark.parametrize("removed", [False, True], ids=["kept", "removed"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=str)
def test_a_gang_whose_ranks_end_well_one_by_one_is_never_in_part(
    kind: str, removed: bool, order: tuple[int, ...]
) -> None:
    """Also not in the moment before its end is looked at."""

    async def story(rig: Rig) -> None:
        pods = await running(rig, kind)
        (gang,) = rig.control.gangs.values()

        def seen() -> tuple[str, str]:
            found = view(gang, rig.ledger, rig.control.now_s())
            return found.phase, found.text

        for ended, number in enumerate(order, 1):
            left = SIZE - ended
            done = member(kind, number, node=pods[number].spec.node_name, phase="Succeeded")
            said = "pod runs" if left == 1 else "pods run"
            wanted = ("running", f"{left} {said}, {ended} ended well")
            wanted = wanted if left else ("ending", "its pods have ended")
            rig.see(done)
            assert seen() == wanted
            if removed:
                rig.lose(done)
                assert seen() == wanted
            await rig.settle()
            assert seen() == wanted or not gang.pods

    tried(story)


def test_a_gang_of_which_muster_never_saw_more_is_not_in_part() -> None:
    """Its other ranks may have ended before muster began; it ends nobody for that either."""

    async def story(rig: Rig) -> None:
        rig.see(member("labelled", 1, node="node-00001", gated=False))
        await rig.settle()
        (gang,) = rig.control.gangs.values()
        found = view(gang, rig.ledger, rig.control.now_s())
        assert (found.phase, found.reason) == ("running", "")
        assert found.text == "1 of 3 pods run; muster never saw the others"

    tried(story)


@pytest.mark.parametrize("kind", ["Job", "JobSet"])
def test_ranks_that_come_again_start_beside_those_that_their_job_calls_done(kind: str) -> None:
    """None of its pods ran when muster began, and no pod tells of the success."""

    async def story(rig: Rig) -> None:
        if kind == "Job":
            job(rig, "j", "0")
        else:
            jobset(rig)
            job(rig, "s-w-0", "0")
        rig.see(member(kind, 1))
        await rig.settle()
        assert rig.placed() == {}, "not whole yet"
        rig.see(member(kind, 2))
        await rig.settle()
        assert len(rig.placed()) == 2

    tried(story)


@pytest.mark.parametrize("kind", ["Job", "labelled"])
def test_a_rank_that_was_lost_while_muster_was_down_is_waited_for(kind: str) -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig, kind)
        rig.lose(pods[0])
        anew = rig.restarted()
        anew.see(member(kind, 0, uid="again", nodeSelector={"no": "node"}))
        await anew.settle()
        for _ in range(3):
            await anew.pass_s(REPAIR_S + 1.0)
        assert len(anew.evicted()) == 2, "it is there, runs nowhere, and the others wait for it"

    tried(story)


def test_a_rank_that_was_lost_while_its_group_was_gone_is_lost() -> None:
    """This muster saw it run: that nobody says the size for a while is no reason to forget it."""

    async def story(rig: Rig) -> None:
        label = {"scheduling.x-k8s.io/pod-group": "g"}
        rig.thing("coscheduling", "g", {"minMember": SIZE})
        rig.see(*(pod(f"g-{i}", labels=label) for i in range(SIZE)))
        await rig.settle()
        plan = {"muster.dev/plan": "n/g/1/worker-0"}
        nodes = rig.placed()
        runs = [
            pod(f"g-{i}", labels=label, node=nodes[f"g-{i}"], annotations=plan) for i in range(SIZE)
        ]
        rig.see(*runs)
        await rig.settle()
        rig.no_thing("coscheduling", "g")
        rig.lose(runs[0])
        await rig.settle()
        rig.thing("coscheduling", "g", {"minMember": SIZE})
        await rig.settle()
        for _ in range(3):
            await rig.pass_s(REPAIR_S + 1.0)
        assert sorted(rig.evicted()) == ["g-1", "g-2"]

    tried(story)


def test_a_gang_whose_group_is_heard_of_after_its_pods_runs_on() -> None:
    """A predecessor started it; one rank has ended since, and no pod tells of it."""

    async def story(rig: Rig) -> None:
        label = {"scheduling.x-k8s.io/pod-group": "g"}
        plan = {"muster.dev/plan": f"n/g/1/worker-0 of {SIZE}"}
        rig.see(
            *(pod(f"g-{i}", labels=label, node=f"node-0000{i}", annotations=plan) for i in (1, 2))
        )
        await rig.settle()
        rig.thing("coscheduling", "g", {"minMember": SIZE})
        await rig.settle()
        for _ in range(3):
            await rig.pass_s(REPAIR_S + 1.0)
        assert rig.evicted() == []

    tried(story)


@pytest.mark.parametrize("restarts", [False, True])
def test_what_somebody_else_bound_is_judged_once_it_was_seen_whole(restarts: bool) -> None:
    """The others may have ended well: it ran before muster was installed."""

    async def story(rig: Rig) -> None:
        pods = [member("labelled", i, node=f"node-0000{i}") for i in range(SIZE)]
        rig.see(*pods[1:])
        await rig.settle()
        rig = rig.restarted() if restarts else rig
        for _ in range(3):
            await rig.pass_s(REPAIR_S + 1.0)
        assert rig.evicted() == []
        rig.see(pods[0])
        await rig.settle()
        rig.lose(pods[0])
        for _ in range(3):
            await rig.pass_s(REPAIR_S + 1.0)
        assert len(rig.evicted()) == SIZE - 1

    tried(story)


def test_a_size_that_was_guessed_ends_nobody() -> None:
    """The job cannot be read when muster is installed; WORLD_SIZE counts processes, not pods."""

    async def story(rig: Rig) -> None:
        said = {"job-name": "p", "replica-type": "worker"}
        for number in range(2):
            labels = {f"training.kubeflow.org/{key}": value for key, value in said.items()}
            labels["training.kubeflow.org/replica-index"] = str(number)
            more = {"env": {"WORLD_SIZE": "16"}, "node": f"node-0000{number}"}
            rig.see(pod(f"p-{number}", labels=labels, owner=("PyTorchJob", "p", "uid"), **more))
        for _ in range(3):
            await rig.pass_s(REPAIR_S + 1.0)
        assert rig.evicted() == []
        rig.thing("PyTorchJob", "p", {"pytorchReplicaSpecs": {"Worker": {"replicas": 2}}})
        await rig.settle()
        rig.lose(rig.control.pods["p-1"])
        for _ in range(3):
            await rig.pass_s(REPAIR_S + 1.0)
        assert rig.evicted() == ["p-0"]

    tried(story)


def test_a_plan_that_was_carried_out_in_part_is_no_run() -> None:
    """Its record says who was to come; one is gone, and nobody makes it again."""

    async def story(rig: Rig) -> None:
        rig.see(*(member("labelled", i) for i in range(SIZE)))
        await rig.settle()
        nodes = rig.placed()
        rig.see(*(member("labelled", i, node=nodes[f"g-{i}"]) for i in range(2)))
        await rig.settle()
        rig.lose(member("labelled", 2))
        anew = rig.restarted()
        await anew.settle()
        for _ in range(3):
            await anew.pass_s(REPAIR_S + 1.0)
        assert len(anew.evicted()) == 2

    tried(story)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, set()),
        ("", set()),
        ("0", {0}),
        ("0,2-4,7", {0, 2, 3, 4, 7}),
        ("0-2147483647", set(range(11))),
        ("x,-,5-,7,9" + "9" * 5000, {7}),
    ],
)
def test_what_a_job_says_is_read_whatever_it_is(text: str | None, found: set[int]) -> None:
    item = {"metadata": {"uid": "u"}, "status": {"completedIndexes": text}}
    thing = msgspec.convert(item, Thing)
    key = GangKey("n", "j", Source.JOB, "u")
    done = completed(key, member("Job", 0), Size(10, 10), lambda *_: thing)
    assert done is not None
    assert {number for _, _, number in done} == found


def test_no_more_is_kept_of_pods_that_ended_than_a_gang_may_have() -> None:
    """Whoever creates pods may end any number of them in one gang that never ends."""

    async def story(rig: Rig) -> None:
        own = {"muster.dev/group": "g", "muster.dev/min-member": "4"}
        rig.see(pod("stays", annotations=own))
        await rig.settle()
        for number in range(MOST_SUCCEEDED + 50):
            one = pod(f"x{number}", annotations=own, gpus=0, node="node-0", phase="Succeeded")
            rig.see(one)
            rig.lose(one)
        gang = rig.control.names["n/g"]
        assert len(gang.succeeded) == MOST_SUCCEEDED
        assert f"x{MOST_SUCCEEDED + 49}" in gang.succeeded

    tried(story)
