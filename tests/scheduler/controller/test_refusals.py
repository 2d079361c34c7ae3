"""What becomes of a pod whose node kube-scheduler refuses it, or another took. Facts alone."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.controller.pins import pin
from scheduler.kube.objects import PLAN, Pod, PodCondition
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
        assert "j-1" in rig.deleted(), "it was told 30 s ago"

    tried(story, timeouts={"repair_s": 60.0, "bind_s": 30.0})
