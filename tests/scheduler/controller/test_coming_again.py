"""Ranks that come again: all together while the old ones leave, or under another name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from scheduler.controller.membership import LiveGang
from scheduler.controller.slots import Slot
from scheduler.controller.tables import Tables
from scheduler.controlplane.objects import node as played
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.watch import Change
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.controller.test_heard import Asks, bound, going
from tests.scheduler.controller.test_successes import job

SIZE = 3
INDEX = "batch.kubernetes.io/job-completion-index"
JOBSET = "jobset.sigs.k8s.io/"
GROUP = {"annotations": {"muster.dev/group": "g", "muster.dev/min-member": str(SIZE)}}
KINDS = ("Job", "JobSet", "group")


def member(kind: str, number: int, life: str, **more: Any) -> Pod:
    """Return a rank in one of its lives; as its owner makes them, each has a name of its own."""
    name = f"g-{number}-{life}"
    match kind:
        case "Job":
            return pod(name, labels={INDEX: str(number)}, owner=("Job", "g", "uid-g"), **more)
        case "JobSet":
            said = {"jobset-name": "g", "replicatedjob-name": "w", "job-index": "0"}
            said["restart-attempt"] = str(ord(life) - ord("a"))
            labels = {INDEX: str(number)} | {f"{JOBSET}{key}": text for key, text in said.items()}
            return pod(name, labels=labels, owner=("Job", "g-w-0", f"uid-{life}"), **more)
        case _:
            said = {"muster.dev/group": "g", "muster.dev/min-member": str(SIZE)}
            return pod(name, annotations=said, owner=("ReplicaSet", "g", "uid-g"), **more)


def owner_of(rig: Rig, kind: str) -> None:
    """Tell of the object that makes the pods."""
    job = {"parallelism": SIZE, "completions": SIZE, "backoffLimit": 6}
    rig.thing("Job", "g", job)
    part = {"name": "w", "replicas": 1, "template": {"spec": job}}
    if kind == "JobSet":
        rig.thing("JobSet", "g", {"replicatedJobs": [part]})


async def running(rig: Rig, kind: str, *numbers: int) -> list[Pod]:
    """Return the gang's first life, started and bound."""
    owner_of(rig, kind)
    numbers = numbers or tuple(range(SIZE))
    rig.see(*(member(kind, number, "a") for number in numbers))
    await rig.settle()
    at = rig.placed()
    pods = [member(kind, number, "a", node=at[f"g-{number}-a"]) for number in numbers]
    rig.see(*pods)
    await rig.pass_s(1.0)
    rig.api.requests.clear()
    return pods


def cordon(rig: Rig, *names: str) -> None:
    for name in names:
        item = played(int(name[-5:]), 8)
        item["spec"] = {"unschedulable": True}
        rig.control.on_node(Change.MODIFIED, msgspec.convert(item, NodeObject))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drained", [False, True])
def test_a_gang_that_is_remade_while_its_old_ranks_leave_starts_whole(
    drained: bool, kind: str
) -> None:
    """One node is free: it is not for one rank alone, for none of the others runs."""

    async def story(rig: Rig) -> None:
        old = await running(rig, kind)
        if drained:
            cordon(rig, *(one.spec.node_name for one in old))
        rig.see(*map(going, old))
        await rig.settle()
        for number in range(SIZE):
            rig.see(member(kind, number, "b"))
            await rig.settle()
        await rig.pass_s(100.0)
        assert rig.placed() == {}
        if drained:
            rig.node(SIZE + 1)
            rig.node(SIZE + 2)
        else:
            rig.lose(*old)
        await rig.settle()
        assert len(rig.placed()) == SIZE
        assert rig.evicted() == []

    tried(story, nodes=SIZE + 1)


def test_workers_do_not_start_while_the_old_master_leaves() -> None:
    """The job could do with one worker, but not without its master."""

    async def story(rig: Rig) -> None:
        def of(role: str, number: int, life: str, **more: Any) -> Pod:
            said = {"job-name": "g", "replica-type": role, "replica-index": str(number)}
            labels = {f"training.kubeflow.org/{key}": text for key, text in said.items()}
            name, owner = f"g-{role}-{number}", ("PyTorchJob", "g", "uid-g")
            return pod(name, labels=labels, owner=owner, uid=f"{name}-{life}", **more)

        replicas = {"Master": {"replicas": 1}, "Worker": {"replicas": 3}}
        rig.thing(
            "PyTorchJob",
            "g",
            {"pytorchReplicaSpecs": replicas, "elasticPolicy": {"minReplicas": 1}},
        )
        ranks = [("master", 0), *(("worker", number) for number in range(3))]
        rig.see(*(of(*rank, "a") for rank in ranks))
        await rig.settle()
        at = rig.placed()
        old = [of(*rank, "a", node=at[f"g-{rank[0]}-{rank[1]}"]) for rank in ranks]
        rig.see(*old)
        await rig.pass_s(1.0)
        rig.api.requests.clear()
        cordon(rig, *at.values())
        for number in range(4, 8):
            rig.node(number)
        rig.see(*map(going, old))
        rig.lose(*old[1:])
        rig.see(*(of(*rank, "b") for rank in ranks[1:]))
        await rig.settle()
        assert rig.placed() == {}
        rig.lose(old[0])
        rig.see(of("master", 0, "b"))
        await rig.settle()
        assert len(rig.placed()) == 4

    tried(story)


def test_ranks_that_are_done_are_not_waited_for_while_the_old_ones_leave() -> None:
    async def story(rig: Rig) -> None:
        old = await running(rig, "Job")
        rig.lose(old[0])
        job(rig, "g", "0")
        await rig.settle()
        cordon(rig, *(one.spec.node_name for one in old))
        rig.see(*map(going, old[1:]), member("Job", 1, "b"), member("Job", 2, "b"))
        await rig.settle()
        assert len(rig.placed()) == 2

    tried(story, nodes=SIZE + 2)


def test_a_plan_is_not_gone_on_with_in_part_while_the_old_ranks_leave() -> None:
    """The one before ended the gang and was about to tell its successors; two are gone since."""

    async def story(rig: Rig) -> None:
        old = await running(rig, "group")
        rig.lose(old.pop(0))
        await rig.pass_s(1.0)
        await rig.pass_s(61.0)
        assert len(rig.evicted()) == 2
        rig.see(*map(going, old))
        for number in range(3, 6):
            rig.node(number)
        rig.see(*(member("group", number, "b") for number in range(SIZE)))
        rig.control.step()
        await rig.control.plans.write(*rig.control.gangs.values())
        anew = Rig(6)
        anew.see(*map(going, old), member("group", 0, "b"))
        for record in rig.records_there():
            anew.found(record)
        await anew.settle()
        assert anew.placed() == {}

    tried(story)


def test_what_is_left_of_a_plan_is_not_bound_alone_while_the_old_ranks_leave() -> None:
    async def story(rig: Rig) -> None:
        old = await running(rig, "group")
        rig.see(*map(going, old))
        await rig.settle()
        for number in range(3, 6):
            rig.node(number)
        rig.see(*(member("group", number, "b", gated=False) for number in range(SIZE)))
        await rig.settle()
        at = {uid: slot.node for uid, (_, slot) in rig.control.slot_of.items()}
        rig.node(int(at["g-2-b"][-5:]), change=Change.DELETED)
        await rig.settle()
        ask = Asks(rig)
        first = asyncio.create_task(ask("g-0-b", at["g-0-b"]))
        await asyncio.sleep(0)
        assert await ask("g-1-b", at["g-1-b"]) and await first
        assert bound(rig) == []

    tried(story, nodes=SIZE)


@pytest.mark.parametrize("kind", ["Job", "group"])
@pytest.mark.parametrize("comes", ["a node", "nobody", "its owner late"])
def test_ranks_that_come_again_to_their_nodes_start_with_the_rest(comes: str, kind: str) -> None:
    """All ranks failed, and the node of one is dead; who fits waits for it, but not for long."""

    async def story(rig: Rig) -> None:
        old = await running(rig, kind)
        at = [one.spec.node_name for one in old]
        cordon(rig, at[1])
        rig.lose(*old)
        again = [member(kind, number, "b") for number in range(SIZE)]
        if kind == "group":  # else it is another run, and holds nothing
            again = [pod(one.metadata.name, uid=f"b{i}", **GROUP) for i, one in enumerate(old)]
        late = again.pop(1) if comes == "its owner late" else None
        rig.see(*again)
        await rig.settle()
        rig.see(pod("k-0"), pod("k-1"))
        await rig.pass_s(30.0)
        assert rig.placed() == {}
        if comes == "a node":
            rig.node(SIZE)
            await rig.settle()
            assert sorted(rig.placed().values()) == [at[0], at[2], "node-00003"]
            return
        await rig.pass_s(31.0)
        await rig.pass_s(1.0)
        assert sorted(rig.placed()) == ["k-0", "k-1"]
        if late is not None:
            rig.see(late)
            await rig.settle()
        assert sorted(rig.placed()) == ["k-0", "k-1"]
        assert rig.evicted() == []

    tried(story, nodes=SIZE)


# -- under another name --------------------------------------------------------------------------


async def full(rig: Rig) -> None:
    """Fill the nodes that are free."""
    rig.see(*(pod(f"f-{node}", node=node) for node in rig.ledger.nodes if is_free(rig, node)))
    await rig.settle()


def is_free(rig: Rig, node: str) -> bool:
    room = rig.ledger.room(node)
    return room is not None and room.gpus > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("comes", ["after it", "while it leaves", "in one step"])
@pytest.mark.parametrize("lost", range(SIZE))
def test_a_lost_rank_gets_its_node_back_whatever_it_is_called(
    lost: int, comes: str, kind: str
) -> None:
    """The cluster is full but for that node, and the others would be ended."""

    async def story(rig: Rig) -> None:
        old = await running(rig, kind)
        await full(rig)
        again = member(kind, lost, "a", uid="again")
        meta = msgspec.structs.replace(again.metadata, name=f"g-{lost}-b")
        again = msgspec.structs.replace(again, metadata=meta)
        if comes == "while it leaves":
            rig.see(going(old[lost]), again)
            await rig.pass_s(20.0)
            assert rig.placed() == {}
        rig.lose(old[lost])
        if comes == "after it":
            await rig.pass_s(20.0)
            rig.see(again)
        elif comes == "in one step":
            rig.see(again)
        await rig.settle()
        assert rig.placed() == {f"g-{lost}-b": old[lost].spec.node_name}
        await rig.pass_s(100.0)
        assert rig.evicted() == []

    tried(story, nodes=SIZE + 1)


@pytest.mark.parametrize("other", ["g-24567", "g-1", "exec-7"])
def test_a_rank_may_come_again_under_another_number(other: str) -> None:
    """Ends of names that are drawn at random have digits alone now and then."""

    async def story(rig: Rig) -> None:
        old = await running(rig, "group")
        await full(rig)
        said = {"muster.dev/group": "g", "muster.dev/min-member": str(SIZE)}
        rig.lose(old[2])
        rig.see(pod(other, annotations=said))
        await rig.settle()
        assert rig.placed() == {other: old[2].spec.node_name}

    tried(story)


def test_who_waits_to_join_takes_no_node_of_a_lost_rank_that_comes_again() -> None:
    """Names say the ranks: the third is missed by the others, whoever waits."""

    async def story(rig: Rig) -> None:
        said = {"muster.dev/group": "g", "muster.dev/min-member": "3"}
        rig.see(*(pod(f"g-{number}", annotations=said) for number in range(4)))
        await rig.settle()
        at = rig.placed()
        assert len(at) == 3
        runs = [pod(name, annotations=said, node=node) for name, node in at.items()]
        rig.see(*runs)
        await rig.settle()
        rig.lose(*(one for one in runs if one.metadata.name == "g-2"))
        await rig.settle()
        assert rig.placed() == at
        rig.see(pod("g-2", uid="again", annotations=said))
        await rig.settle()
        assert rig.control.slot_of["again"][1].node == at["g-2"]

    tried(story, nodes=3)


def test_a_node_is_not_kept_for_a_rank_zero_that_has_another() -> None:
    async def story(rig: Rig) -> None:
        old = await running(rig, "Job")
        rig.see(going(old[0]), member("Job", 0, "b"))
        await rig.settle()
        assert rig.placed() == {"g-0-b": "node-00003"}
        rig.lose(old[0])
        rig.see(pod("k"))
        await rig.settle()
        assert rig.placed()["k"] == old[0].spec.node_name

    tried(story)


def test_a_job_whose_pods_all_come_again_one_by_one_keeps_their_nodes() -> None:
    async def story(rig: Rig) -> None:
        old = await running(rig, "Job")
        rig.see(*(pod(f"k-{i}") for i in range(2)))  # one of them waits
        await rig.settle()
        rig.api.requests.clear()
        rig.lose(*old)
        rig.see(member("Job", 0, "b"))
        await rig.settle()
        rig.see(member("Job", 1, "b"), member("Job", 2, "b"))
        await rig.settle()
        assert rig.placed() == {f"g-{i}-b": one.spec.node_name for i, one in enumerate(old)}

    tried(story)


# -- many at once --------------------------------------------------------------------------------


class Counted(list[Slot]):
    """Slots that count how often somebody goes through them."""

    num_times = 0

    def __iter__(self) -> Iterator[Slot]:
        self.num_times += 1
        return super().__iter__()


@pytest.mark.parametrize("evicted", [False, True])
def test_what_many_lost_ranks_cost_grows_with_their_number(
    evicted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten thousand, five thousand took four seconds."""
    given: list[int] = []
    give_back = Tables.give_back

    def counted(self: Tables, gang: LiveGang, slots: list[Slot], *rest: Any) -> None:
        given.append(len(slots))
        give_back(self, gang, slots, *rest)

    monkeypatch.setattr(Tables, "give_back", counted)

    async def story(rig: Rig) -> None:
        said = {"muster.dev/group": "g", "muster.dev/min-member": "200"}
        pods = [pod(f"g-{i}", gpus=1, annotations=said) for i in range(200)]
        rig.see(*pods)
        await rig.settle()
        at = rig.placed()
        pods = [pod(f"g-{i}", gpus=1, annotations=said, node=at[f"g-{i}"]) for i in range(200)]
        rig.see(*pods)
        await rig.settle()
        (gang,) = rig.control.gangs.values()
        if evicted:
            rig.lose(pods.pop())
            await rig.pass_s(1.0)
            await rig.pass_s(61.0)
            assert len(rig.evicted()) == 199
        gang.slots = slots = Counted(gang.slots)
        given.clear()
        rig.lose(*pods[1:151])
        await rig.settle()
        assert slots.num_times < 50
        assert given == [150] * evicted

    tried(story, nodes=25)


@pytest.mark.parametrize("kind", ["Job", "group"])
@pytest.mark.parametrize("what", ["other", "more"])
def test_a_rank_goes_elsewhere_at_once_whose_kept_node_has_no_room_for_it(
    kind: str, what: str
) -> None:
    """A pod of no gang sits there by now, or the rank asks for more than the one before it."""

    async def story(rig: Rig) -> None:
        gpus = 4 if what == "more" else 8
        owner_of(rig, kind)
        rig.see(*(member(kind, number, "a", gpus=gpus) for number in range(SIZE)))
        await rig.settle()
        at = rig.placed()
        pods = [
            member(kind, n, "a", gpus=gpus, node=at[f"g-{n}-a"], gated=False) for n in range(SIZE)
        ]
        rig.see(*pods)
        await rig.pass_s(1.0)
        kept = at["g-1-a"]
        rig.lose(pods[1])
        await rig.settle()
        if what == "other":  # else another rank is there, and half of the node is kept
            rig.see(pod("other", gpus=1, node=kept))
        rig.see(member(kind, 1, "b", gpus=8))
        await rig.settle()
        assert rig.placed().get("g-1-b", kept) != kept, "another node was free all along"
        assert rig.control.names["n/g"].num_aborts == 0 and rig.evicted() == []

    tried(story)
