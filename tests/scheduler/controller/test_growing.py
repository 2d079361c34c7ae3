"""Pods beyond what a gang needs rank by themselves, not by the pods that run."""

from __future__ import annotations

import msgspec
import pytest

from scheduler.controller.progress import MOST
from scheduler.kube.objects import Pod
from tests.scheduler.controller.rig import Rig, pod, tried


def member(gang: str, rank: int, *, of: int = 1, made: str = "00:00", **more: object) -> Pod:
    """Return a pod of a gang; `made` is when, in minutes and seconds."""
    said = {"muster.dev/group": gang, "muster.dev/min-member": str(of)}
    item = msgspec.to_builtins(pod(f"{gang}-{rank}", annotations=said, **more))  # type: ignore[arg-type]
    item["metadata"]["creationTimestamp"] = f"2026-01-01T00:{made}Z"
    return msgspec.convert(item, Pod)


async def running(rig: Rig, *pods: Pod) -> list[Pod]:
    """Have pods bound; return them as they are then."""
    rig.see(*pods)
    await rig.settle()
    found = []
    for one in pods:
        item = msgspec.to_builtins(one)
        item["spec"] |= {"schedulingGates": [], "nodeName": rig.placed()[one.metadata.name]}
        item["status"]["phase"] = "Running"
        found.append(msgspec.convert(item, Pod))
    rig.see(*found)
    await rig.settle()
    return found


def test_pods_that_join_a_gang_rank_by_their_own_priority() -> None:
    async def story(rig: Rig) -> None:
        await running(rig, member("a", 0, priority=1000))
        (filler,) = await running(rig, member("f", 0))
        rig.see(member("b", 0, priority=500, made="05:00"))
        rig.see(member("a", 1, priority=1000), member("a", 2, priority=0))
        await rig.settle()
        rig.lose(filler)
        await rig.settle()
        assert "b-0" in rig.placed() and not {"a-1", "a-2"} & set(rig.placed())

    tried(story, nodes=2)


def test_pods_that_join_a_gang_are_no_older_than_they_are() -> None:
    async def story(rig: Rig) -> None:
        await running(rig, member("a", 0))
        fillers = await running(rig, member("f", 0), member("g", 0))
        rig.see(member("b", 0, made="05:00"), member("c", 0, made="15:00"))
        rig.see(member("a", 1, made="10:00"), member("a", 2, made="20:00"))
        await rig.settle()
        order = []
        for filler in fillers:
            before = set(rig.placed())
            rig.lose(filler)
            await rig.settle()
            order.append(set(rig.placed()) - before)
        assert order == [{"b-0"}, {"a-1"}]
        rig.node(7)
        await rig.settle()
        assert "c-0" in rig.placed() and "a-2" not in rig.placed(), "a-2 came after it"

    tried(story, nodes=3)


def test_a_rank_that_comes_again_is_as_old_as_its_gang() -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig, member("a", 0, of=2), member("a", 1, of=2))
        rig.see(member("b", 0, made="05:00"))
        rig.lose(pods[1])
        await rig.settle()
        rig.see(member("a", 1, of=2, made="10:00", uid="again"), member("a", 2, of=2))
        await rig.settle()
        request = rig.control.names["n/a"].request
        assert request is not None
        assert request.submit_s == rig.control.names["n/a"].submit_s

    tried(story, nodes=2)


def test_a_gangs_story_says_once_what_was_planned_in_one_pass() -> None:
    async def story(rig: Rig) -> None:
        await running(rig, *(member("a", rank, of=2) for rank in range(5)))
        told = [one for one in rig.publisher.memory.story("n/a", 0.0) if one.what == "planned"]
        assert [one.text for one in told] == ["2 pods on 2 nodes", "3 pods on 3 nodes"]

    tried(story, nodes=5)


@pytest.mark.parametrize("needed", [False, True])
def test_a_pod_beyond_what_a_gang_needs_holds_its_node_for_so_long(needed: bool) -> None:
    """Its scheduler served once, and is away; one that the others need keeps its node."""

    async def story(rig: Rig) -> None:
        of = 1 + needed
        if needed:
            rig.see(member("g", 0, of=of), member("g", 1, of=of, schedulerName="second"))
            await rig.settle()
        else:
            await running(rig, member("g", 0))
        rig.control.progress.works("second")
        rig.see(member("g", 1, of=of, schedulerName="second"))
        await rig.settle()
        written = rig.pods_written()
        rig.see(*(one for one in written if one.metadata.name == "g-1"))
        if needed:
            item = msgspec.to_builtins(member("g", 0, of=of))
            item["spec"] |= {"schedulingGates": [], "nodeName": rig.placed()["g-0"]}
            rig.see(msgspec.convert(item, Pod))
        rig.see(member("k", 0))
        for _ in range(int(MOST)):
            assert "k-0" not in rig.placed()
            await rig.pass_s(30.0)
        await rig.pass_s(30.0)
        assert ("k-0" in rig.placed()) is not needed
        assert rig.evicted() == rig.deleted() == []

    tried(story, nodes=2, timeouts={"bind_s": 30.0}, schedulers=["default-scheduler", "second"])


INDEX = "batch.kubernetes.io/job-completion-index"


class Elastic:
    """An Indexed Job whose size its user changes."""

    def __init__(self, rig: Rig, completions: int = 0) -> None:
        self.rig, self.completions = rig, completions

    def says(self, size: int) -> None:
        """Tell of the Job with so many pods at once."""
        completions = self.completions or size
        self.rig.thing("Job", "g", {"parallelism": size, "completions": completions})

    def ranks(self, *numbers: int, **more: object) -> list[Pod]:
        """Return ranks of the Job."""
        said = {"owner": ("Job", "g", "uid-g"), **more}
        return [pod(f"g-{n}", labels={INDEX: str(n)}, **said) for n in numbers]  # type: ignore[arg-type]

    async def settle(self) -> None:
        """Let some minutes go by."""
        for _ in range(5):
            await self.rig.pass_s(61.0)
        assert self.rig.evicted() == []
        assert not self.rig.ledger.foreign


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("completions", [0, 4], ids=["elastic", "throttled"])
def test_pods_of_a_job_that_becomes_a_gang_are_of_it_though_they_run(
    restarted: bool, completions: int
) -> None:
    """Each was a gang by itself, or of none after a restart; the new ones waited for them."""

    async def story(rig: Rig) -> None:
        job, num_first = Elastic(rig, completions), 2 if completions else 1
        job.says(num_first)
        await running(rig, *job.ranks(*range(num_first)))
        if restarted:
            job.rig = rig = rig.restarted()
            await rig.settle()
        job.says(4)
        rig.see(*job.ranks(*range(num_first, 4)))
        await job.settle()
        (gang,) = rig.control.gangs.values()
        assert len(gang.slots) == 4 and len({slot.node for slot in gang.slots}) == 4
        assert not rig.control.tables.single

    tried(story)


@pytest.mark.parametrize("first", ["told", "ran"])
def test_a_job_that_becomes_a_gang_while_its_pod_is_not_a_gangs_grows(first: str) -> None:
    """Its only pod was just told of its node, or ran before anybody gated pods."""

    async def story(rig: Rig) -> None:
        job = Elastic(rig)
        job.says(1)
        ran = first == "ran"
        rig.see(*job.ranks(0, node="node-00003" if ran else ""))
        await rig.settle()
        job.says(3)
        rig.see(*job.ranks(1, 2))
        await rig.settle()
        if not ran:
            assert rig.placed().keys() == {"g-0"}
            (told,) = (one for one in rig.pods_written() if one.metadata.name == "g-0")
            item = msgspec.to_builtins(told)
            item["spec"]["nodeName"] = rig.placed()["g-0"]
            rig.see(msgspec.convert(item, Pod))
        await job.settle()
        assert {"g-1", "g-2"} <= rig.placed().keys() and len(rig.control.gangs) == 1

    tried(story)


def test_a_pod_of_a_job_that_is_no_gang_stays_where_it_is_counted() -> None:
    """Whoever writes its Job anew, or another owner into it, keeps nothing in muster by that."""

    async def story(rig: Rig) -> None:
        job = Elastic(rig)
        job.says(1)
        (lone,) = await running(rig, *job.ranks(0))
        (slot,) = next(iter(rig.control.gangs.values())).slots
        rig.thing("Job", "g", {"parallelism": 1, "completions": 1, "suspend": False})
        await rig.settle()
        assert rig.control.slot_of["g-0"][1] is slot
        rig = rig.restarted()
        assert len(rig.control.tables.single) == 1
        item = msgspec.to_builtins(lone)
        item["metadata"]["ownerReferences"] = []
        rig.see(msgspec.convert(item, Pod))
        assert not rig.control.tables.single and "g-0" in rig.ledger.foreign
        rig.see(*job.ranks(0, node="node-00000"))
        rig.lose(rig.control.pods["g-0"])
        assert not rig.control.tables.single

    tried(story)
