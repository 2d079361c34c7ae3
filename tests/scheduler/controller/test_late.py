"""Pods that are not bound in time, and plans that may not be written. Facts alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.controller.patience import BLINK_S
from scheduler.controller.pins import pin
from scheduler.controller.progress import MOST, Progress
from scheduler.controller.slots import Plan, Slot
from scheduler.extender.verbs import Extender, FilterArgs
from scheduler.kube.api import ApiError
from scheduler.kube.objects import PLAN, NodeObject, Pod, PodCondition
from scheduler.kube.watch import Change
from scheduler.workloads.gangs import Rank
from tests.scheduler.controller.rig import Rig, pod, tried

BIND_S = 30.0
TIMES = {"bind_s": BIND_S, "repair_s": 60.0}
PORTS = "0/4 nodes are available: 1 node(s) didn't have free ports, 3 node(s) didn't match"


def member(rank: int, job: str = "j", **more: Any) -> Pod:
    """Return a pod of a Job of two with a node's GPUs each."""
    said = {"muster.dev/group": job, "muster.dev/min-member": "2", **more.pop("annotations", {})}
    name = f"{job}-{rank}"
    owner = more.pop("owner", ("Job", job, f"uid-{job}"))
    more = {"schedulerName": "default-scheduler", **more}
    return pod(name, annotations=said, owner=owner, **more)


def told(one: Pod, node: str, said: str = "") -> Pod:
    """Return a pod as it is once it was released, with what its scheduler said of it."""
    more = msgspec.to_builtins(one)
    more["metadata"]["annotations"][PLAN] = "n/j/1"
    more["spec"] |= {"schedulingGates": [], "affinity": pin(None, node)}
    found = msgspec.convert(more, Pod)
    condition = PodCondition("PodScheduled", "False", "Unschedulable", said)
    status = msgspec.structs.replace(found.status, conditions=[condition] if said else [])
    return msgspec.structs.replace(found, status=status)


async def released(rig: Rig, *pods: Pod, said: str = "") -> list[Pod]:
    """Have pods released; return them as they are then."""
    rig.see(*pods)
    await rig.settle()
    where = rig.placed()
    found = [told(one, where[one.metadata.name], said) for one in pods]
    rig.see(*found)
    await rig.settle()
    return found


def bound(rig: Rig, one: Pod) -> None:
    """Tell that a pod was bound where it was to be."""
    _, slot = rig.control.slot_of[one.metadata.uid]
    item = msgspec.to_builtins(one)
    item["spec"]["nodeName"] = slot.node
    rig.see(msgspec.convert(item, Pod))


def comes_to(rig: Rig, one: Pod) -> list[str]:
    """Have the scheduler ask where a pod may go; return the nodes it is answered."""
    names = msgspec.Raw(msgspec.json.encode(sorted(rig.ledger.nodes)))
    answer = Extender(rig.control).filter(FilterArgs(one, names))
    return list(answer.node_names)


def untouched(rig: Rig) -> bool:
    """True if muster ended no pod."""
    return rig.deleted() == [] and rig.evicted() == []


def test_those_behind_others_in_the_schedulers_queue_are_not_late() -> None:
    """One pod in 20 s: the last of ten waits for 200 s, and its GPUs are its own all the time."""

    async def story(rig: Rig) -> None:
        pods = []
        for job in "abcde":
            pods += await released(rig, member(0, job), member(1, job))
            await rig.pass_s(0.1)
        for number, one in enumerate(pods):
            bound(rig, one)
            await rig.pass_s(20.0)
            assert len(rig.control.slot_of) == 10, number
        assert untouched(rig)
        assert not any(reason == "Replanned" for reason, _ in rig.events())

    tried(story, nodes=10, timeouts=TIMES)


FULL = "0/4 nodes are available: 1 Insufficient nvidia.com/gpu, 3 node(s) didn't match"


@pytest.mark.parametrize("said", [FULL, ""])
def test_a_pod_whose_node_another_scheduler_took_is_planned_elsewhere_in_time(said: str) -> None:
    """Its own scheduler works, and cannot bind it: nothing comes of waiting for longer."""

    async def story(rig: Rig) -> None:
        pods = await released(rig, member(0), member(1))
        node = rig.control.slot_of["j-0"][1].node
        rig.see(pod("intruder", node=node, schedulerName="another"))
        bound(rig, pods[1])
        rig.see(told(member(0), node, said))
        await rig.pass_s(BIND_S - 1.0)
        assert rig.control.slot_of["j-0"][1].node == node, "it may be gone soon"
        await rig.pass_s(1.0)
        assert set(rig.deleted()) == {"j-0"} and rig.evicted() == []
        rig.lose(pods[0])
        rig.see(member(0, uid="anew"))
        await rig.pass_s(15.0)
        assert rig.control.slot_of["anew"][1].node not in (node, rig.control.slot_of["j-1"][1].node)
        assert rig.evicted() == []

    tried(story, timeouts=TIMES)


def test_a_scheduler_that_is_away_makes_nobody_late() -> None:
    async def story(rig: Rig) -> None:
        first = await released(rig, member(0, "a"), member(1, "a"))
        bound(rig, first[0])  # and then it ends
        second = await released(rig, member(0, "b"), member(1, "b"))
        for _ in range(16):
            await rig.pass_s(BIND_S)
        assert len(rig.control.slot_of) == 4
        for one in (first[1], *second):
            bound(rig, one)
        await rig.settle()
        assert untouched(rig)

    tried(story, nodes=4, timeouts=TIMES)


def test_those_that_run_are_not_ended_while_the_rest_waits_for_its_scheduler() -> None:
    async def story(rig: Rig) -> None:
        pods = await released(rig, member(0), member(1))
        bound(rig, pods[0])
        for _ in range(8):
            await rig.pass_s(BIND_S)
        assert untouched(rig)
        bound(rig, pods[1])
        await rig.settle()
        assert rig.control.names["n/j"].is_placed()

    tried(story, timeouts={"bind_s": BIND_S, "repair_s": 6.0})


@pytest.mark.parametrize("comes_back", ["to it", "and passes it", "after a restart"])
def test_those_that_run_are_not_ended_however_long_their_scheduler_is_away(comes_back: str) -> None:
    """Another gang waits for the room; the node of the rank that is not bound yet stays its own."""

    async def story(rig: Rig) -> None:
        pods = await released(rig, member(0), member(1))
        bound(rig, pods[0])
        rig.see(member(0, "k"), member(1, "k"))
        for _ in range(3 * int(MOST)):
            await rig.pass_s(BIND_S)
        assert untouched(rig)
        now = rig
        if comes_back == "after a restart":
            now = rig.restarted(timeouts=TIMES)
            for _ in range(2 * int(MOST)):
                await now.pass_s(BIND_S)
            assert untouched(now)
        if comes_back != "and passes it":
            bound(now, pods[1])
            await now.pass_s(BIND_S)
            assert untouched(now)
            assert now.control.names["n/j"].is_placed()
            return
        now.lose(member(0, "k"), member(1, "k"))
        for number in range(12):
            passing = member(0, f"p{number}", gpus=0, owner=None,
                             annotations={"muster.dev/min-member": "1"})  # fmt: skip
            bound(now, (await released(now, passing))[0])
            await now.pass_s(20.0)
        assert now.evicted() == ["j-0"], "its scheduler is there, and does not take the other one"

    tried(story, nodes=2, timeouts=TIMES)


def test_nobody_is_late_with_what_the_api_server_was_not_there_for() -> None:
    """A rank is lost, then the API server: its successor has `repair_s` from the return on."""

    async def story(rig: Rig) -> None:
        pods = await released(rig, member(0), member(1))
        for one in pods:
            bound(rig, one)
        await rig.settle()
        rig.lose(pods[0])
        await rig.pass_s(1.0)
        kept = rig.control.names["n/j"].slots[0].node
        rig.clock_s += 300.0
        back_s = rig.clock_s
        rig.control.work.served_since_s = lambda: back_s
        await rig.pass_s(0.0)
        await rig.pass_s(59.0)
        assert untouched(rig)
        rig.see(member(0, uid="anew"))
        await rig.settle()
        assert rig.placed()["j-0"] == kept
        rig.lose(member(0, uid="anew"))
        await rig.settle()
        await rig.pass_s(61.0)
        assert rig.evicted() == ["j-1"]

    tried(story, timeouts=TIMES)


@pytest.mark.parametrize("how", ["nobody serves it", "it is passed over", "it is never taken"])
def test_a_pod_that_its_scheduler_does_not_take_is_set_aside_within_a_bound(how: str) -> None:
    """Its GPUs are others' then, and it lives: its Job would count it as failed."""

    async def story(rig: Rig) -> None:
        name = "mistyped" if how == "nobody serves it" else "default-scheduler"
        rig.see(pod("other", node="node-00003", schedulerName="default-scheduler", gpus=1))
        pods = await released(rig, *(member(i, schedulerName=name) for i in range(2)))
        bound_s = BIND_S * {"nobody serves it": 1, "it is passed over": 4}.get(how, MOST + 1)
        for number in range(int(bound_s // 10)):
            if how == "it is passed over":
                rig.see(passing := member(0, f"p{number}", gpus=0, owner=None,
                                          annotations={"muster.dev/min-member": "1"}))  # fmt: skip
                await rig.settle()
                bound(rig, passing)
            await rig.pass_s(10.0)
        assert not any(one.metadata.uid in rig.control.slot_of for one in pods)
        assert untouched(rig)
        assert repr(name) in rig.problem("n/j")
        reasons = [reason for reason, _ in rig.events()]
        assert "Replanned" in reasons and "SetAside" in reasons
        await released(rig, member(0, "next"), member(1, "next"))

    tried(story, nodes=3, timeouts=TIMES, schedulers=["default-scheduler", "mistyped"])


def test_a_pod_that_was_set_aside_starts_once_its_scheduler_comes_to_it() -> None:
    async def story(rig: Rig) -> None:
        pods = await released(rig, member(0), member(1))
        where = {u: slot.node for u, (_, slot) in rig.control.slot_of.items()}
        await rig.pass_s(BIND_S)
        assert not rig.control.slot_of, "no scheduler of this name was ever seen"
        waits = [told(one, where[one.metadata.uid], "waiting for room for the whole gang")
                 for one in pods]  # fmt: skip
        assert [comes_to(rig, one) for one in pods] == [[], []]
        rig.see(*waits)
        await rig.settle()
        assert {u: slot.node for u, (_, slot) in rig.control.slot_of.items()} == where
        poked = [p for m, p, b in rig.api.requests if m == "PATCH" and "spec" not in b]
        assert len(poked) == 2, "it was told to wait, and would not ask again by itself"
        assert [comes_to(rig, one) for one in waits] == [[where["j-0"]], [where["j-1"]]]
        for one in waits:
            bound(rig, one)
        await rig.settle()
        assert untouched(rig)

    tried(story, timeouts=TIMES)


@pytest.mark.parametrize(
    ("limits", "deleted"),
    [({"backoffLimit": 0}, 0), ({}, 2), ({"backoffLimit": 3}, 0), ({"backoffLimit": 4}, 2),
     ({"backoffLimit": 9, "backoffLimitPerIndex": 1}, 0)],
)  # fmt: skip
def test_a_job_is_not_brought_to_its_end_by_what_muster_deletes(
    limits: dict[str, int], deleted: int
) -> None:
    """Two pods are refused: a Job that may not fail so often waits, and its GPUs are others'."""

    async def story(rig: Rig) -> None:
        rig.thing("Job", "j", limits)
        await released(rig, member(0), member(1), said=PORTS)
        await rig.pass_s(BIND_S)
        await rig.pass_s(BIND_S)
        assert len(set(rig.deleted())) == deleted
        if not deleted:
            assert "didn't have free ports" in rig.problem("n/j")
            assert not rig.control.slot_of

    tried(story, timeouts=TIMES)


WAYS = ["cordoned", "not ready", "tainted", "without its label", "without GPUs", "gone"]


def closes(rig: Rig, name: str, how: str) -> NodeObject:
    """Have a node take no pods; return it as it was."""
    node = rig.ledger.nodes[name]
    said = msgspec.to_builtins(node)
    match how:
        case "cordoned":
            said["spec"]["unschedulable"] = True
        case "not ready":
            said["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
        case "tainted":
            said["spec"]["taints"] = [{"key": "memory", "effect": "NoSchedule"}]
        case "without its label":
            said["metadata"]["labels"].pop("zone")
        case "without GPUs":
            said["status"]["allocatable"]["nvidia.com/gpu"] = "0"
    change = Change.DELETED if how == "gone" else Change.MODIFIED
    rig.control.on_node(change, msgspec.convert(said, NodeObject))
    return node


def labelled(rig: Rig) -> None:
    """Give all nodes a label that pods may ask for."""
    for node in list(rig.ledger.nodes.values()):
        meta = msgspec.structs.replace(node.metadata, labels={**node.metadata.labels, "zone": "a"})
        rig.control.on_node(Change.MODIFIED, msgspec.structs.replace(node, metadata=meta))


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("restarts", [False, True])
def test_pods_wait_while_their_nodes_blink(how: str, restarts: bool) -> None:
    """Also all at once, again and again, and of an owner that counts no pods as failed."""

    async def story(rig: Rig) -> None:
        labelled(rig)
        owner = ("PyTorchJob", "l", "uid-l")
        pods = [member(0), member(1), *(member(rank, "l", owner=owner) for rank in range(2))]
        for one in pods:
            one.spec.node_selector = {"zone": "a"}
        pods = await released(rig, *pods)
        where = {one.metadata.uid: rig.control.slot_of[one.metadata.uid][1].node for one in pods}
        first = rig
        for _ in range(8):
            nodes = [closes(rig, name, how) for name in where.values()]
            await rig.settle()
            if restarts:
                rig = rig.restarted(timeouts=TIMES)
                await rig.settle()
            await rig.pass_s(BIND_S - 1.0)
            for node in nodes:
                rig.control.on_node(Change.MODIFIED, node)
            others = [member(rank, "k") for rank in range(2)]
            rig.see(*others)
            await rig.pass_s(1.0)
            assert untouched(rig) and untouched(first)
            assert {uid: slot.node for uid, (_, slot) in rig.control.slot_of.items()} == where
            rig.lose(*others)

    tried(story, timeouts=TIMES)


@pytest.mark.parametrize("how", WAYS)
def test_pods_of_a_node_that_stays_closed_are_made_anew_as_their_job_allows(how: str) -> None:
    async def story(rig: Rig) -> None:
        labelled(rig)
        rig.thing("Job", "l", {"backoffLimit": 0})
        pods = [member(rank, job) for job in "jl" for rank in range(2)]
        for one in pods:
            one.spec.node_selector = {"zone": "a"}
        pods = await released(rig, *pods)
        bound(rig, pods[1])
        bound(rig, pods[3])
        for uid in ("j-0", "l-0"):
            closes(rig, rig.control.slot_of[uid][1].node, how)
        await rig.settle()
        assert untouched(rig)
        for _ in range(9):
            await rig.pass_s(BIND_S / 6)
        assert set(rig.deleted()) == {"j-0"}
        assert "gone or closed" in rig.problem("n/l")
        assert any("node lost" in text or "node taken" in text for _, text in rig.events())

    tried(story, timeouts=TIMES)


def test_pods_of_a_closed_node_wait_where_their_job_may_not_fail() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("Job", "j", {"backoffLimit": 0})
        await released(rig, member(0), member(1))
        node = rig.ledger.nodes[rig.control.slot_of["j-0"][1].node]
        closed = msgspec.structs.replace(node.spec, unschedulable=True)
        rig.control.on_node(Change.MODIFIED, msgspec.structs.replace(node, spec=closed))
        await rig.settle()
        await rig.pass_s(BIND_S)
        assert untouched(rig)
        assert "gone or closed" in rig.problem("n/j")
        rig.control.on_node(Change.MODIFIED, node)
        await rig.pass_s(60.0)
        assert rig.control.slot_of["j-0"][1].node == node.metadata.name

    tried(story, timeouts=TIMES)


def test_a_node_that_is_gone_is_waited_for_no_longer_than_nodes_blink() -> None:
    """Binds may take long where a scheduler has much to do; nodes come back at once, or not."""

    async def story(rig: Rig) -> None:
        await released(rig, member(0), member(1))
        closes(rig, rig.control.slot_of["j-0"][1].node, "gone")
        await rig.settle()
        await rig.pass_s(BLINK_S - 1.0)
        assert untouched(rig)
        await rig.pass_s(1.0)
        assert rig.deleted() == ["j-0"]

    tried(story, timeouts=TIMES | {"bind_s": 10 * BLINK_S})


async def passed(rig: Rig, priority: int) -> tuple[list[Pod], list[Pod]]:
    """Have a scheduler go on for long to pods of other jobs; return those it did not come to.

    The other pods returned wait for the nodes of these.
    """
    waits = await released(rig, member(0), member(1))
    for number in range(3):
        await rig.pass_s(BIND_S / 2)
        job = f"k{number}"
        later = (member(rank, job, priority=priority) for rank in range(2))
        for one in await released(rig, *later):
            bound(rig, one)
        await rig.settle()
    others = [member(rank, "l", priority=priority) for rank in range(2)]
    rig.see(*others)
    for _ in range(3):
        await rig.pass_s(BIND_S / 2)
        for one in rig.control.gangs.values():
            if one.key.name == "l" and one.slots:
                return waits, others
        _, slot = rig.control.slot_of["k2-0"]
        slot.queued_s = rig.control.now_s()  # another that it has come to
        rig.control.progress.reached("default-scheduler", slot, slot.queued_s, priority)
    return waits, others


def test_a_pod_is_not_late_while_its_scheduler_has_pods_of_a_higher_priority() -> None:
    async def story(rig: Rig) -> None:
        waits, _ = await passed(rig, priority=1000)
        places = {one.metadata.uid: rig.control.slot_of[one.metadata.uid] for one in waits}
        assert all(slot.is_told for _, slot in places.values())
        assert [comes_to(rig, one) for one in waits] == [
            [places[one.metadata.uid][1].node] for one in waits
        ]
        assert untouched(rig)

    tried(story, nodes=8, timeouts=TIMES)


def test_a_pod_is_not_deleted_because_others_were_taken_before_it() -> None:
    """Nor once its scheduler comes to it, when others have its node by then."""

    async def story(rig: Rig) -> None:
        waits, others = await passed(rig, priority=0)
        assert not any(one.metadata.uid in rig.control.slot_of for one in waits)
        assert all(one.metadata.uid in rig.control.slot_of for one in others)
        for _ in range(3):
            assert [comes_to(rig, one) for one in waits] == [[], []]
            await rig.settle()
            await rig.pass_s(100.0)
        assert untouched(rig)
        assert "has no room" in rig.problem("n/j")
        rig.lose(*others)
        await rig.settle()
        await rig.pass_s(100.0)
        assert all(one.metadata.uid in rig.control.slot_of for one in waits), "there is room again"

    tried(story, nodes=8, timeouts=TIMES)


def test_a_scheduler_of_the_settings_is_known_at_work_whatever_names_pods_carry() -> None:
    async def story(rig: Rig) -> None:
        node = sorted(rig.ledger.nodes)[0]
        for number in range(300):
            rig.see(pod(f"f-{number}", gpus=0, node=node, schedulerName=f"x{number}"))
        rig.see(pod("real", gpus=0, node=node, schedulerName="default-scheduler"))
        waits = await released(rig, member(0), member(1))
        for _ in range(3):
            await rig.pass_s(BIND_S + 1.0)
        assert all(rig.control.slot_of[one.metadata.uid][1].is_told for one in waits)

    tried(story, timeouts=TIMES)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.1, 100.0), st.integers(0, 9), st.booleans()), min_size=1, max_size=60
    )
)
def test_nobody_waits_without_end_and_nobody_is_late_in_a_queue(
    steps: list[tuple[float, int, bool]],
) -> None:
    """Pods are told one after the other; a scheduler comes to some, in whatever order and time."""
    progress, now_s, last_s = Progress(BIND_S), 0.0, -1e9
    progress.works("s")
    slots = [Slot(Rank("r", i, ""), "n", str(i), Plan(1, 1), float(i)) for i in range(10)]
    for slot in slots:
        slot.deadline_s = slot.told_s + BIND_S
    front = -1
    for wait_s, which, comes in steps:
        now_s += wait_s
        if comes:
            progress.reached("s", slots[which], now_s)
            front, last_s = max(front, which), now_s
        for number, slot in enumerate(slots):
            if 0 < slot.deadline_s <= now_s:
                if progress.is_late("s", slot, now_s):
                    old = now_s - slot.told_s >= MOST * BIND_S
                    assert old or (number < front and now_s - last_s < 100.0 + BIND_S)
                    slot.deadline_s = 0.0
                else:
                    assert now_s < slot.deadline_s <= now_s + BIND_S
                    assert now_s - slot.told_s < MOST * BIND_S


# -- plan records that are refused ---------------------------------------------------------------


def refusing(rig: Rig, code: int, text: str = "no") -> list[float]:
    """Have plan records refused; return when, by the rig's clock."""
    tries: list[float] = []
    plain = rig.api.call

    async def persist(method: str, path: str, body: Any = None, **more: Any) -> bytes:
        if path.endswith("/configmaps") and method == "POST":
            tries.append(rig.clock_s)
            raise ApiError(code, text)
        return await plain(method, path, body, **more)

    rig.api.persist = persist  # type: ignore[method-assign]
    return tries


@pytest.mark.parametrize("code", [422, 403, 413, 400, 409])
def test_a_refused_record_is_tried_less_and_less_and_holds_nothing(code: int) -> None:
    async def story(rig: Rig) -> None:
        tries = refusing(rig, code, "Too long: may not be more than 1048576 bytes")
        rig.see(member(0), member(1))
        await rig.settle()
        assert len(tries) == 1
        assert not rig.control.slot_of, "its nodes are others' meanwhile"
        assert "cannot write its plan record" in rig.problem("n/j")
        assert "Too long" in rig.problem("n/j")
        assert [text for reason, text in rig.events() if reason == "PlanRefused"]
        for _ in range(3600):
            await rig.pass_s(1.0)
        assert 10 < len(tries) < 25, "at last every 300 s"
        rig.api.persist = rig.api.call  # type: ignore[method-assign]
        await rig.pass_s(301.0)
        assert len(rig.placed()) == 2
        assert rig.problem("n/j") == ""

    tried(story, timeouts=TIMES)


def test_a_refused_record_of_a_rank_that_comes_again_is_not_tried_all_the_time() -> None:
    async def story(rig: Rig) -> None:
        pods = await released(rig, member(0), member(1))
        for one in pods:
            bound(rig, one)
        await rig.settle()
        tries = refusing(rig, 403)
        rig.lose(pods[0])
        rig.see(member(0, uid="anew"))
        await rig.settle()
        for _ in range(50):
            await rig.pass_s(1.0)
        assert 1 <= len(tries) <= 4
        rig.api.persist = rig.api.call  # type: ignore[method-assign]
        await rig.pass_s(300.0)
        assert rig.evicted() == [] or rig.evicted() == ["j-1"]

    tried(story, timeouts={"bind_s": BIND_S, "repair_s": 200.0})


def test_a_record_of_8300_ranks_with_long_names_fits() -> None:
    """A ConfigMap holds 1 MiB; the next muster reads it."""

    async def story(rig: Rig) -> None:
        rig.see(*(member(i, uid=f"{i:08x}-5e0f-4c1b-9d59-{i * 7919 % 16**8:012x}")
                  for i in range(2)))  # fmt: skip
        await rig.settle()
        gang, plans = rig.control.names["n/j"], rig.control.plans
        rank = Rank("worker", 0, "a" * 200)
        many = [
            Slot(
                rank._replace(number=i, pod=f"{'long-name-of-a-job-' * 9}worker-{i}"),
                f"gke-{'pool-of-gpus-' * 4}{i * 2654435761 % 2**32:08x}-{i % 997:04x}",
                f"{i * 40503 % 16**8:08x}-{i % 65521:04x}-4c1b-9d59-{i * 7919 % 16**12:012x}",
                Plan(1, 8300),
                0.0,
            )
            for i in range(8300)
        ]  # fmt: skip
        gang.slots, kept = many, gang.slots
        await plans.write(gang)
        gang.slots = kept
        _, _, body = rig.api.requests[-1]
        assert len(str(body)) < 1_000_000
        for record in rig.api.records.values():
            assert not record["data"], "it is not there twice"

        async def listed(*_: Any, **__: Any) -> bytes:
            return msgspec.json.encode({"items": list(rig.api.records.values())})

        rig.api.persist = listed  # type: ignore[method-assign]
        (found,), unreadable = await plans.read_all()
        assert unreadable == []
        assert [(s.number, s.pod, s.node, s.uid) for s in found.slots] == [
            (s.rank.number, s.rank.pod, s.node, s.uid) for s in many
        ]
        rig.api.persist = rig.api.call  # type: ignore[method-assign]
        await plans.write(gang)
        (record,) = rig.api.records.values()
        assert record["data"] and not record["binaryData"]

    tried(story, timeouts=TIMES)


@pytest.mark.parametrize("code", [403, 422])
def test_a_refused_release_is_said_and_backs_off(code: int) -> None:
    async def story(rig: Rig) -> None:
        tries, plain = [], rig.api.call

        async def persist(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if method == "PATCH" and "/pods/" in path:
                tries.append(rig.clock_s)
                raise ApiError(code, "denied the request: no")
            return await plain(method, path, body, **more)

        rig.api.persist = persist  # type: ignore[method-assign]
        rig.see(member(0), member(1))
        for _ in range(600):
            await rig.pass_s(1.0)
        assert 6 <= len(tries) <= 40
        assert [text for reason, text in rig.events() if reason == "NotReleased"]
        assert untouched(rig)
        rig.api.persist = rig.api.call  # type: ignore[method-assign]
        await rig.pass_s(400.0)
        assert len(rig.placed()) == 2

    tried(story, timeouts=TIMES)


def test_a_refused_deletion_is_tried_less_and_less() -> None:
    async def story(rig: Rig) -> None:
        tries, plain = [], rig.api.call

        async def persist(method: str, path: str, body: Any = None, **more: Any) -> bytes:
            if method == "DELETE" and "/pods/" in path:
                tries.append(rig.clock_s)
                raise ApiError(403, "denied the request: no")
            return await plain(method, path, body, **more)

        rig.api.persist = persist  # type: ignore[method-assign]
        await released(rig, member(0), member(1))
        rig.node(int(rig.control.slot_of["j-0"][1].node[-5:]), change=Change.DELETED)
        for _ in range(600):
            await rig.pass_s(1.0)
        assert 5 <= len(tries) <= 12

    tried(story, timeouts=TIMES)
