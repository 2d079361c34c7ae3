"""What becomes of a pod whose node kube-scheduler refuses it, or another took. Facts alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.controller.pins import pin
from scheduler.controller.refusals import MOST_COUNTED, Refusals
from scheduler.controlplane.objects import node as played
from scheduler.core.decisions import PendingReason
from scheduler.kube.objects import PLAN, ContainerStatus, NodeObject, Pod, PodCondition
from scheduler.kube.watch import Change
from scheduler.status.status import GangView, explain, view
from scheduler.workloads.gangs import JOB_INDEX, Rank
from tests.scheduler.controller.rig import Rig, pod, tried

JOB = ("Job", "j", "uid-j")
PORTS = "0/4 nodes are available: 1 node(s) didn't have free ports, 3 node(s) didn't match"


def member(rank: int, uid: str = "", **more: Any) -> Pod:
    """Return a pod of a job of two, with half a node's GPUs."""
    said = {"muster.dev/group": "j", "muster.dev/min-member": "2", **more.pop("annotations", {})}
    name = f"j-{rank}"
    return pod(name, uid=uid or name, annotations=said, owner=JOB, gpus=4, **more)


def released(rank: int, where: str, uid: str = "", said: str = "", **more: Any) -> Pod:
    """Return such a pod as it is once it was pinned, with what kube-scheduler said of it."""
    plan = {PLAN: f"n/j/1/worker-{rank}"}
    found = member(rank, uid, annotations=plan, affinity=pin(None, where), gated=False, **more)
    condition = PodCondition("PodScheduled", "False", "Unschedulable", said)
    status = msgspec.structs.replace(found.status, conditions=[condition] if said else [])
    return msgspec.structs.replace(found, status=status)


async def half(rig: Rig) -> str:
    """Start a job of which kube-scheduler binds one pod and refuses the other; return the node."""
    rig.see(member(0), member(1))
    await rig.pass_s(1.0)
    (node,) = set(rig.placed().values())
    rig.see(released(0, node, node=node), released(1, node, said=PORTS))
    await rig.settle()
    return node


def test_a_refused_rank_is_planned_elsewhere_once_its_time_is_up() -> None:
    async def story(rig: Rig) -> None:
        node = await half(rig)
        await rig.pass_s(29.0)
        assert rig.deleted() == []
        await rig.pass_s(1.0)
        assert rig.deleted() == ["j-1"]
        assert ("Refused", f"kube-scheduler refused pod j-1 on {node}: {PORTS}") in rig.events()
        rig.lose(released(1, node))
        rig.see(member(1, "anew"))
        await rig.settle()
        assert rig.placed()["j-1"] != node
        assert rig.evicted() == []

    tried(story, timeouts={"repair_s": 60.0, "bind_s": 30.0})


def test_those_that_run_are_not_ended_for_a_rank_that_can_go_elsewhere() -> None:
    """Ending them would free what the other is refused for, and so on for ever."""

    async def story(rig: Rig) -> None:
        node = await half(rig)
        await rig.pass_s(6.0)
        await rig.settle()  # the step after the one that judged
        assert (rig.evicted(), rig.deleted()) == ([], ["j-1"])
        rig.lose(released(1, node))
        rig.see(member(1, "anew"))
        await rig.settle()
        assert rig.placed()["j-1"] != node

    tried(story, timeouts={"repair_s": 6.0, "bind_s": 30.0})


def test_a_gang_whose_pods_are_all_made_anew_remembers_where_it_was_refused() -> None:
    async def story(rig: Rig) -> None:
        rig.see(member(0), member(1))
        await rig.settle()
        (node,) = set(rig.placed().values())
        both = [released(rank, node, said=PORTS) for rank in (0, 1)]
        rig.see(*both)
        await rig.pass_s(30.0)
        rig.lose(*both)
        await rig.settle()
        assert "n/j" not in rig.control.names
        rig.see(member(0, "anew-0"), member(1, "anew-1"))
        await rig.settle()
        assert node not in rig.placed().values()

    tried(story, timeouts={"repair_s": 60.0, "bind_s": 30.0})


def test_a_node_that_another_took_before_the_bind_is_given_up_at_once() -> None:
    """In the direct lane muster binds itself: not there, and without asking again and again."""

    async def story(rig: Rig) -> None:
        said = {"muster.dev/group": "d", "muster.dev/min-member": "1"}
        one = pod("d-0", annotations=said, schedulerName="muster-direct", gated=False)
        rig.see(one)
        rig.control.step()  # planned, and nothing written yet
        ((_, slot),) = rig.control.slot_of.values()
        taken = slot.node
        rig.see(pod("intruder", node=taken, owner=None, annotations={"muster.dev/ignore": "yes"}))
        await rig.settle()
        assert rig.placed() == {}
        await rig.pass_s(15.0)
        assert rig.placed()["d-0"] != taken

    tried(story)


def test_a_successor_does_not_lengthen_the_time_of_those_that_wait() -> None:
    async def story(rig: Rig) -> None:
        rig.see(member(0), member(1))
        await rig.settle()
        (node,) = set(rig.placed().values())
        rig.see(released(0, node), released(1, node))
        await rig.pass_s(20.0)
        rig.lose(released(0, node))
        rig.see(member(0, "anew"))
        await rig.pass_s(5.0)
        rig.see(released(0, node, "anew"))
        await rig.pass_s(5.0)
        assert "j-1" not in rig.control.slot_of, "it was told 30 s ago"
        assert rig.deleted() == []

    tried(story, timeouts={"repair_s": 60.0, "bind_s": 30.0})


def look(rig: Rig, gang: str = "n/j") -> GangView:
    return view(rig.control.names[gang], rig.ledger, rig.control.now_s())


async def refused_everywhere(rig: Rig, holders: list[Pod], said: str = PORTS) -> int:
    """Have a job of one pod refused on every node, as each has what it asks for; count plans."""
    rig.see(*holders)
    for number in range(10):
        uid = f"try-{number}"
        rig.see(member(0, uid, annotations={"muster.dev/min-member": "1"}))
        before = len(rig.api.requests)
        await rig.settle()
        if not any(method == "PATCH" for method, _, _ in rig.api.requests[before:]):
            return number
        where = rig.placed()["j-0"]
        at = released(0, where, uid, said)
        rig.see(at)
        await rig.pass_s(30.0)
        rig.lose(at)
        await rig.settle()
    raise AssertionError("it is tried without end")


def holder(number: int) -> Pod:
    """Return a pod of no gang that has the port on a node."""
    return pod(f"holder-{number}", gpus=0, node=f"node-{number:05d}", annotations=IGNORED)


IGNORED = {"muster.dev/ignore": "yes"}


def test_what_is_refused_on_every_node_is_not_called_impossible() -> None:
    async def story(rig: Rig) -> None:
        tries = await refused_everywhere(rig, [holder(n) for n in range(2)])
        assert tries == 2, "each node is tried once"
        seen = look(rig)
        assert seen.reason == PendingReason.CAPACITY and seen.aside
        assert (
            "1 pod, and kube-scheduler refuses that on every node" in seen.text
            and PORTS in seen.text
        )
        more = explain(rig.control.names["n/j"], rig.ledger, rig.control.now_s())
        assert more.aside and more.advice == []
        rig.see(pod("other", gpus=8, annotations={"muster.dev/group": "other"} | ONE))
        await rig.settle()
        assert "other" in rig.placed(), "others pass"

    tried(story, nodes=2)


ONE = {"muster.dev/min-member": "1"}


def test_a_refusal_passes_with_the_pod_that_leaves_its_node() -> None:
    async def story(rig: Rig) -> None:
        holders = [holder(n) for n in range(2)]
        await refused_everywhere(rig, holders)
        before = len(rig.api.requests)
        rig.lose(holders[1])
        await rig.pass_s(10.0)
        written = [body for method, _, body in rig.api.requests[before:] if method == "PATCH"]
        assert "node-00001" in str(written), "10 s, not 600"

    tried(story, nodes=2)


def test_a_node_that_refuses_again_and_again_is_not_tried_at_each_pod_that_leaves_it() -> None:
    async def story(rig: Rig) -> None:
        tries = 0
        for number in range(40):
            uid = f"try-{number}"
            if number == 0 or "j-0" not in {p.metadata.name for p in rig.control.pods.values()}:
                rig.see(member(0, uid, annotations=ONE))
            before = len(rig.api.requests)
            passing = pod(f"cron-{number}", gpus=0, node="node-00000", annotations=IGNORED)
            rig.see(passing)
            rig.lose(passing)
            await rig.pass_s(30.0)
            if any(m == "PATCH" and p.endswith("/j-0") for m, p, _ in rig.api.requests[before:]):
                tries += 1
                (now,) = [p for p in rig.control.pods.values() if p.metadata.name == "j-0"]
                at = released(0, "node-00000", now.metadata.uid, PORTS)
                rig.see(at)
                await rig.pass_s(30.0)
                rig.lose(at)
                await rig.settle()
        assert 2 <= tries <= 9, "a pod left the node 40 times"

    tried(story, nodes=1)


CLAIMS = "0/6 nodes are available: 1 cannot allocate all claims, 5 node(s) didn't match"


def test_a_claim_that_half_of_the_nodes_serve_is_named_and_each_node_is_tried_once() -> None:
    """Ranks of one role are alike: what refuses one refuses the others."""

    async def story(rig: Rig) -> None:
        claim = {"resourceClaims": [{"name": "fast", "resourceClaimTemplateName": "nic"}]}
        serve = {f"node-{number:05d}" for number in (4, 5)}
        begun_s = rig.clock_s
        banned: list[str] = []
        for number in range(10):
            both = [f"{rank}-{number}" for rank in (0, 1)]
            rig.see(*(pod_of(rank, uid, **claim) for rank, uid in enumerate(both)))
            await rig.pass_s(1.0)
            where = [rig.placed()[f"j-{rank}"] for rank in (0, 1)]
            if set(where) <= serve:
                break
            assert not set(where) & set(banned), "no node is tried twice"
            banned += [node for node in where if node not in serve]
            at = [
                released(rank, node, uid, "" if node in serve else CLAIMS, **claim)
                for rank, (node, uid) in enumerate(zip(where, both, strict=True))
            ]
            rig.see(*at)
            await rig.pass_s(30.0)
            rig.lose(*at)
            await rig.settle()
        else:
            raise AssertionError("it never starts")
        assert rig.clock_s - begun_s < 200.0
        said = " ".join(text for reason, text in rig.events() if reason == "Refused")
        assert "resource claim nic" in said

    tried(story, nodes=6, gpus=4)


def pod_of(rank: int, uid: str, **more: Any) -> Pod:
    return member(rank, uid, **more)


VOLUME = '0/4 nodes are available: persistentvolumeclaim "data" not found. not found'


def test_what_a_pod_lacks_itself_bans_no_node_and_is_tried_later_and_later() -> None:
    async def story(rig: Rig) -> None:
        tries, begun_s = 0, rig.clock_s
        for number in range(60):
            uid = f"try-{number}"
            if not [p for p in rig.control.pods.values() if p.metadata.name == "j-0"]:
                rig.see(member(0, uid, annotations=ONE))
            before = len(rig.api.requests)
            await rig.pass_s(10.0)
            if any(m == "PATCH" and p.endswith("/j-0") for m, p, _ in rig.api.requests[before:]):
                tries += 1
                (now,) = [p for p in rig.control.pods.values() if p.metadata.name == "j-0"]
                at = released(0, rig.placed()["j-0"], now.metadata.uid, VOLUME)
                rig.see(at)
                await rig.pass_s(30.0)
                rig.lose(at)
                await rig.settle()
        if "n/j" not in rig.control.names:  # the last try was in the last round
            rig.see(member(0, "last", annotations=ONE))
            await rig.settle()
        assert rig.clock_s - begun_s > 600.0
        assert 2 <= tries <= 7
        assert not rig.control.names["n/j"].refusals
        assert VOLUME in look(rig).text

    tried(story)


def test_a_scheduler_that_nobody_runs_gets_no_node() -> None:
    """A pod keeps the name of its scheduler for life: it would keep its node for as long."""

    async def story(rig: Rig) -> None:
        wrong = {"schedulerName": "defualt-scheduler"}
        said = {"muster.dev/group": "bare", "muster.dev/min-member": "2"}
        rig.see(*(pod(f"bare-{n}", annotations=said, **wrong) for n in range(2)))
        await rig.settle()
        right = {"schedulerName": "default-scheduler"}
        rig.see(pod("other", annotations={"muster.dev/group": "other"} | ONE, **right))
        await rig.settle()
        assert set(rig.placed()) == {"other"}
        ((reason, text),) = [event for event in rig.events() if event[0] != "Started"]
        assert reason == "NotServed" and "'defualt-scheduler'" in text
        assert look(rig, "n/bare").text == text

    tried(story, nodes=2)


def test_a_scheduler_that_binds_pods_serves() -> None:
    async def story(rig: Rig) -> None:
        own = {"schedulerName": "own"}
        rig.see(pod("gang", annotations={"muster.dev/group": "g"} | ONE, **own))
        await rig.settle()
        assert rig.placed() == {}
        rig.see(pod("made there", gpus=0, node="node-00000", annotations=IGNORED, **own))
        await rig.pass_s(60.0)
        assert rig.placed() == {}, "who made the pod chose its node, and wrote any name"
        rig.see(pod("any", gpus=1, gated=False, annotations=IGNORED, **own))
        await rig.settle()
        rig.see(pod("any", gpus=1, node="node-00000", annotations=IGNORED, **own))
        await rig.pass_s(60.0)
        assert set(rig.placed()) == {"gang"}

    tried(story)


def test_a_pod_that_would_be_no_better_off_anew_is_not_deleted() -> None:
    """A Job counts a pod that is deleted as one that failed; it starts once the volume is there."""

    async def story(rig: Rig) -> None:
        rig.see(member(0, annotations=ONE))
        await rig.settle()
        where = rig.placed()["j-0"]
        rig.see(released(0, where, said=VOLUME))
        await rig.pass_s(30.0)
        for _ in range(10):
            await rig.pass_s(60.0)
        assert rig.deleted() == []
        assert f"refuses it on every node: {VOLUME}" in look(rig).text
        rig.see(
            *(pod(f"other-{n}", annotations={"muster.dev/group": f"o{n}"} | ONE) for n in (0, 1))
        )
        await rig.settle()
        assert {"other-0", "other-1"} <= set(rig.placed()), "it holds nothing"

    tried(story, nodes=2)


def test_what_kube_scheduler_says_of_a_released_pod_is_shown_at_once() -> None:
    async def story(rig: Rig) -> None:
        rig.see(member(0, annotations=ONE))
        await rig.settle()
        rig.see(
            released(0, rig.placed()["j-0"], said="0/2 nodes are available: 1 Insufficient cpu")
        )
        await rig.settle()
        seen = look(rig)
        assert (seen.phase, seen.reason) == ("starting", "control_plane")
        assert seen.text.endswith(
            "kube-scheduler on pod j-0: 0/2 nodes are available: 1 Insufficient cpu"
        )

    tried(story, nodes=2)


def test_a_bare_pod_that_was_refused_has_its_node_as_soon_as_its_scheduler_would_bind_it() -> None:
    async def story(rig: Rig) -> None:
        bare = {"muster.dev/group": "bare"} | ONE
        rig.see(pod("bare", annotations=bare))
        await rig.settle()
        where = rig.placed()["bare"]
        plan = bare | {PLAN: "n/bare/1/worker-0"}
        at = pod("bare", annotations=plan, affinity=pin(None, where), gated=False)
        at.status.conditions = [PodCondition("PodScheduled", "False", "Unschedulable", PORTS)]
        rig.see(at)
        await rig.pass_s(30.0)
        assert not rig.control.names["n/bare"].slots
        assert PORTS in look(rig, "n/bare").text
        rig.control.release.is_wanted("bare")  # kube-scheduler asked: what it checks is met
        await rig.settle()
        assert [slot.node for slot in rig.control.names["n/bare"].slots] == [where]

    tried(story, nodes=2)


def test_no_more_is_kept_of_refusals_than_of_so_many_places() -> None:
    refusals = Refusals()
    for number in range(3 * MOST_COUNTED):
        what = frozenset({("metadata.name", f"node-{number}")})
        refusals.keep_off(Rank("worker", 0, "p"), what, 0.0, alone=True)
        refusals.forget_past(1e6)
    first = frozenset({("metadata.name", "node-first")})
    for _ in range(4):
        refusals.keep_off(Rank("worker", 0, "p"), first, 0.0, alone=True)
    assert len(refusals._times) == MOST_COUNTED
    assert refusals._times[first] == 4


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("ran", [False, True])
def test_a_rank_that_a_nodes_kubelet_refuses_again_goes_elsewhere(ran: bool, removed: bool) -> None:
    """One whose containers ran failed for what it does: its node stays its own."""

    def made(index: int, uid: str, **more: Any) -> Pod:
        labels = {JOB_INDEX: str(index)}
        return pod(f"j-{index}-{uid}", uid=uid, labels=labels, owner=JOB, **more)

    async def story(rig: Rig) -> None:
        rig.thing("Job", "j", {"parallelism": 2, "completions": 2, "completionMode": "Indexed"})
        rig.see(made(0, "first"), made(1, "0"))
        await rig.settle()
        where = rig.placed()
        rig.see(made(0, "first", node=where["j-0-first"]))
        old, nodes = "0", [where["j-1-0"]]
        for again in range(1, 5):
            failed = made(1, old, node=nodes[-1], phase="Failed")
            if ran:
                failed.status.container_statuses = [ContainerStatus("main")]
            rig.see(failed)
            if removed:  # at once, by its owner
                rig.lose(failed)
            await rig.settle()
            old = str(again)
            rig.see(made(1, old))
            await rig.settle()
            nodes.append(rig.placed()[f"j-1-{old}"])
            rig.see(made(1, old, node=nodes[-1]))
            await rig.pass_s(1.0)
        first, third = nodes[0], nodes[2]
        assert nodes == [first, first, third, third, nodes[4]]
        assert (third == first) == ran
        said = [text for reason, text in rig.events() if reason == "Refused"]
        assert len(said) == (0 if ran else 2)
        assert all("failed on" in text for text in said)

    tried(story)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("elsewhere", ["none", "too small", "closed", "not its own"])
def test_a_rank_that_a_kubelet_refuses_keeps_its_node_where_there_is_no_other(
    elsewhere: str, indexed: bool
) -> None:
    """A node that starts again refuses pods until its devices are known, for a minute or so."""

    def made(index: int, uid: str, **more: Any) -> Pod:
        labels = {JOB_INDEX: str(index)} if indexed else {}
        said = {"muster.dev/group": "j", "muster.dev/min-member": "2"}
        owner = ("Job" if indexed else "ReplicaSet", "j", "uid-j")
        name, pool = f"j-{index}-{uid}", {"pool": "own"}
        return pod(
            name, uid=uid, labels=labels, annotations=said, owner=owner, nodeSelector=pool, **more
        )

    def node(rig: Rig, number: int, pool: str = "own", gpus: int = 8, **spec: Any) -> None:
        item = played(number, gpus)
        item["metadata"]["labels"]["pool"] = pool
        item["spec"] = spec
        rig.control.on_node(Change.ADDED, msgspec.convert(item, NodeObject))

    async def story(rig: Rig) -> None:
        node(rig, 0)
        node(rig, 1)
        match elsewhere:
            case "too small":
                node(rig, 2, gpus=4)
            case "closed":
                node(rig, 2, unschedulable=True)
            case "not its own":
                node(rig, 2, pool="another")
        rig.see(made(0, "first"), made(1, "0"))
        await rig.settle()
        where = rig.placed()
        rig.see(made(0, "first", node=where["j-0-first"]))
        own = where["j-1-0"]
        rig.see(made(1, "0", node=own))
        waits = pod("waits", nodeSelector={"pool": "own"})
        rig.see(waits)
        for again in range(1, 5):
            rig.see(made(1, str(again - 1), node=own, phase="Failed"))
            await rig.settle()
            await rig.pass_s(10.0)
            rig.see(made(1, str(again)))
            await rig.settle()
            assert rig.placed()[f"j-1-{again}"] == own
            rig.see(made(1, str(again), node=own))
            await rig.settle()
        await rig.pass_s(100.0)
        assert rig.evicted() == []
        assert "waits" not in rig.placed()
        assert "Refused" not in [reason for reason, _ in rig.events()]
        rig.lose(waits)
        rig.see(made(1, "4", node=own, phase="Failed"))
        node(rig, 3)
        await rig.settle()
        rig.see(made(1, "5"))
        await rig.settle()
        assert rig.placed()["j-1-5"] == "node-00003", "once there is another"

    tried(story, nodes=0)
