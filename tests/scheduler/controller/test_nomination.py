"""Pods without a gate: their planned node is nominated, again if need be, and taken back."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.controller.refusals import WAITS
from scheduler.controller.release import MOST_TOLD
from scheduler.extender.verbs import Extender, FilterArgs
from scheduler.kube.objects import Pod
from scheduler.kube.watch import Change
from tests.scheduler.controller.rig import Rig, pod, tried

ELSEWHERE = ["node-00009"]


def member(rank: int, node: str = "", **more: Any) -> Pod:
    """Return a pod of a gang of two as it comes without the admission policy."""
    said = {"muster.dev/group": "j", "muster.dev/min-member": "2"}
    return pod(f"j-{rank}", annotations=said, gpus=8, gated=False, node=node, **more)


def on(one: Pod, node: str) -> Pod:
    """Return the pod with a nominated node."""
    status = msgspec.structs.replace(one.status, nominated_node_name=node)
    return msgspec.structs.replace(one, status=status)


def asked(rig: Rig, one: Pod, names: list[str]) -> tuple[list[str], str]:
    """Return what filter answers: nodes, and why not the others."""
    found = Extender(rig.control).filter(FilterArgs(one, msgspec.Raw(msgspec.json.encode(names))))
    assert isinstance(found.node_names, list) and isinstance(found.failed_nodes, dict)
    return found.node_names, found.failed_nodes.get("muster", "")


async def planned(rig: Rig) -> dict[str, str]:
    """Plan the gang; return the node of each pod."""
    rig.see(member(0), member(1))
    await rig.settle()
    first = rig.nominated()
    assert [name for name, _ in first] == ["j-0", "j-1"]
    return {name: node for name, node in first if node}


def test_a_planned_node_that_is_offered_is_the_answer() -> None:
    async def story(rig: Rig) -> None:
        node = await planned(rig)
        assert asked(rig, member(0), [*ELSEWHERE, node["j-0"]]) == ([node["j-0"]], "")
        await rig.settle()
        assert len(rig.nominated()) == 2

    tried(story)


def test_a_nomination_that_was_forgotten_is_made_again_a_few_times() -> None:
    async def story(rig: Rig) -> None:
        node = await planned(rig)
        for _ in range(5):
            assert asked(rig, member(0), ELSEWHERE) == ([], WAITS)
            await rig.settle()
        assert rig.nominated()[2:] == [("j-0", node["j-0"])] * (MOST_TOLD - 1)

    tried(story)


def test_a_nominated_node_that_is_not_offered_was_refused_by_kube_scheduler() -> None:
    async def story(rig: Rig) -> None:
        node = await planned(rig)
        nodes, why = asked(rig, on(member(0), node["j-0"]), ELSEWHERE)
        assert not nodes and why and why != WAITS
        await rig.settle()
        assert len(rig.nominated()) == 2

    tried(story)


def test_a_nomination_is_taken_back_with_the_slot() -> None:
    """Else kube-scheduler keeps room for a pod that may not go there."""

    async def story(rig: Rig) -> None:
        await planned(rig)
        await rig.pass_s(31.0)
        assert sorted(rig.nominated()[2:4]) == [("j-0", None), ("j-1", None)]
        assert asked(rig, member(0), ELSEWHERE) == ([], WAITS)

    tried(story, timeouts={"bind_s": 30.0})


def test_a_pod_that_is_planned_anew_at_once_keeps_the_new_nomination() -> None:
    async def story(rig: Rig) -> None:
        node = await planned(rig)
        rig.node(int(node["j-0"].rpartition("-")[2]), change=Change.DELETED)
        await rig.settle()
        last = dict(rig.nominated())
        assert None not in last.values() and last["j-0"] != node["j-0"]

    tried(story)
