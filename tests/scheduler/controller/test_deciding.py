"""Many gangs that start at once: others have their turn in between, and hear and tell of facts."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import msgspec
import pytest

from scheduler.controller import controller
from scheduler.controlplane.objects import node as played
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.watch import Change
from tests.scheduler.controller.rig import Rig, pod, tried


def lone(name: str, gpus: int = 8, **more: object) -> Pod:
    """Return the pod of a gang of one."""
    labels = {"muster.dev/group": name, "muster.dev/min-member": "1"}
    return pod(name, labels=labels, gpus=gpus, **more)  # type: ignore[arg-type]


def admitted(rig: Rig) -> list[str]:
    """Return who was admitted, in order, as the journal has it."""
    lines = [msgspec.json.decode(line) for line in rig.lines]
    return [line["v"]["gang"] for line in lines if line["is"] == "Admit"]


def test_no_more_than_one_gang_starts_between_two_turns_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(controller, "TURN_S", -1.0)

    async def story(rig: Rig) -> None:
        names = [f"g{number:03d}" for number in range(100)]
        rig.see(*map(lone, names))
        step = asyncio.create_task(rig.control.step_in_turns())
        seen = [0]
        while not step.done():
            await asyncio.sleep(0)
            seen.append(len(rig.control.slot_of))
        assert max(after - before for before, after in pairwise(seen)) == 1
        assert admitted(rig) == [f"n/{name}" for name in names], "in their order"
        await rig.settle()
        assert set(rig.placed()) == set(names)

    tried(story, nodes=100)


def test_no_more_than_one_gang_is_set_aside_between_two_turns() -> None:
    async def story(rig: Rig) -> None:
        node = played(0, 8) | {"spec": {"unschedulable": True}}
        rig.control.on_node(Change.MODIFIED, msgspec.convert(node, NodeObject))
        here = {"kubernetes.io/hostname": "node-00000"}
        rig.see(*(lone(f"g{number:02d}", nodeSelector=here) for number in range(20)), lone("late"))
        seen = [0, *(len(rig.ledger.standing.aside) for _ in rig.control.turns()), 20]
        assert max(after - before for before, after in pairwise(seen)) == 1
        assert len(rig.ledger.standing.aside) == 20
        await rig.settle()
        assert set(rig.placed()) == {"late"}

    tried(story)


def test_a_gang_is_told_while_others_are_planned() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(lone(f"g{number:02d}") for number in range(20)))
        for _ in rig.control.turns():
            if len(rig.control.slot_of) == 10:
                await rig.control.finish_work(5.0)
                assert len(rig.placed()) >= 9
                break

    tried(story, nodes=20)


def test_pods_that_go_while_others_are_planned_are_waited_for_by_nobody() -> None:
    async def story(rig: Rig) -> None:
        pods = [lone(f"g{number:02d}") for number in range(20)]
        rig.see(*pods)
        gone = pods[10:15]
        for _ in rig.control.turns():
            if len(rig.control.slot_of) == 5 and gone:
                rig.lose(*gone)
                gone = []
        assert not any(gang.problem for gang in rig.control.gangs.values())
        await rig.settle()
        assert set(rig.placed()) == {one.metadata.name for one in pods[:10] + pods[15:]}
        assert not [event for event in rig.events() if event[0] == "NotUnderstood"]

    tried(story, nodes=20)


def test_a_gang_that_grows_asks_for_its_next_pod_after_those_that_wait() -> None:
    """As it is without turns: who came in the same pass comes first."""

    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "grows", {"minMember": 1})
        labels = {"scheduling.x-k8s.io/pod-group": "grows"}
        rig.see(*(pod(f"grows-{number}", labels=labels) for number in range(5)))
        rig.see(*(lone(f"g{number}") for number in range(3)))
        await rig.settle()
        assert admitted(rig) == ["n/grows", "n/g0", "n/g1", "n/g2", *["n/grows"] * 4]

    tried(story, nodes=8)


@pytest.mark.parametrize("discipline", ["strict", "skip", "easy"])
@pytest.mark.parametrize("seed", range(10))
def test_facts_between_any_two_turns_replay_alike(seed: int, discipline: str) -> None:
    draw = random.Random(seed)

    async def story(rig: Rig) -> None:
        number = 0
        for _ in range(4):
            for _ in range(draw.randrange(5, 15)):
                rig.see(lone(f"p{number}", gpus=draw.choice([1, 4, 8])))
                number += 1
            for _ in rig.control.turns():
                if draw.random() < 0.3:
                    _hear(rig, draw, number)
                    number += 1
            rig.replay()
        await rig.settle()
        problems = {gang.problem for gang in rig.control.gangs.values()}
        assert not [said for said in problems if "report this" in said]

    tried(story, nodes=12, policy={"order": "priority", "discipline": discipline})


def _hear(rig: Rig, draw: random.Random, number: int) -> None:
    """Tell of something."""
    match draw.randrange(5):
        case 0:
            rig.see(lone(f"p{number}", gpus=draw.choice([1, 4, 8])))
        case 1:
            if rig.control.pods:
                rig.lose(draw.choice(list(rig.control.pods.values())))
        case 2:
            node = f"node-{draw.randrange(12):05d}"
            rig.see(pod(f"f{number}", annotations={"muster.dev/ignore": "true"}, node=node))
        case 3:
            rig.node(draw.randrange(12, 16))
        case 4:
            rig.node(draw.randrange(12), change=draw.choice([Change.DELETED, Change.MODIFIED]))
