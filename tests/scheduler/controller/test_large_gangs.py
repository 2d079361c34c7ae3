"""What a look at a gang costs that lost many pods at once: twice the pods, twice the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from scheduler.controller import membership, release
from scheduler.kube.objects import Pod
from scheduler.workloads.gangs import Rank
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.core.test_cost import count_lines

GROUP = "scheduling.x-k8s.io/pod-group"


def members(first: int, last: int) -> list[Pod]:
    """Return pods of a gang whose names say no rank."""
    labels = {GROUP: "g"}
    owner = ("ReplicaSet", "g", "g")
    return [pod(f"g-x{n}", uid=f"u{n}", labels=labels, owner=owner) for n in range(first, last)]


def bound(one: Pod, node: str) -> Pod:
    spec = msgspec.structs.replace(one.spec, node_name=node, scheduling_gates=[])
    return msgspec.structs.replace(one, spec=spec)


def ended(one: Pod, phase: str) -> Pod:
    status = msgspec.structs.replace(one.status, phase=phase)
    return msgspec.structs.replace(one, status=status)


def lost(rig: Rig, pods: list[Pod]) -> None:
    rig.lose(*pods[:-1])


def replaced(rig: Rig, pods: list[Pod]) -> None:
    rig.lose(*pods)
    rig.see(*members(len(pods), 2 * len(pods)))


def replaced_in_part(rig: Rig, pods: list[Pod]) -> None:
    rig.lose(*pods)
    rig.see(*members(len(pods), len(pods) + len(pods) // 2))


def replaced_where_no_node_takes_pods(rig: Rig, pods: list[Pod]) -> None:
    for node in list(rig.ledger.nodes.values()):
        spec = msgspec.structs.replace(node.spec, unschedulable=True)
        rig.ledger.set_node(msgspec.structs.replace(node, spec=spec))
    replaced(rig, pods)


def succeeded(rig: Rig, pods: list[Pod]) -> None:
    rig.see(*(ended(one, "Succeeded") for one in pods[:-1]))


def failed(rig: Rig, pods: list[Pod]) -> None:
    rig.see(*(ended(one, "Failed") for one in pods))
    rig.see(*members(len(pods), 2 * len(pods)))


async def run_and_count(
    rig: Rig, num_pods: int, happens: Callable[[Rig, list[Pod]], None], later_s: float
) -> int:
    """Return the lines that the step after something happened runs, or one so much later."""
    rig.thing("coscheduling", "g", {"minMember": num_pods})
    pods = members(0, num_pods)
    rig.see(*pods)
    await rig.settle()
    placed = rig.placed()
    running = [bound(one, placed[one.metadata.name]) for one in pods]
    rig.see(*running)
    await rig.settle()
    happens(rig, running)
    if later_s:
        rig.control.step()
        rig.clock_s += later_s
        rig.control.work.touch_due(rig.control.now_s())
    return count_lines(rig.control.step)


@pytest.mark.parametrize("later_s", [0.0, 100.0])
@pytest.mark.parametrize(
    "happens",
    [lost, replaced, replaced_in_part, replaced_where_no_node_takes_pods, succeeded, failed],
)
def test_a_gang_that_loses_its_pods_costs_by_their_number(
    happens: Callable[[Rig, list[Pod]], None], later_s: float
) -> None:
    counts: list[int] = []
    for num_pods in (60, 120):

        async def story(rig: Rig, num_pods: int = num_pods) -> None:
            counts.append(await run_and_count(rig, num_pods, happens, later_s))
            await rig.control.finish_work(5.0)

        tried(story, nodes=num_pods)
    few, many = counts
    assert many < 2.5 * few


def test_new_pods_are_looked_at_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "AT_ONCE", 10)
    looks: list[str] = []
    honest = membership.rank_of

    def note(one: Pod) -> Rank:
        looks.append(one.metadata.uid)
        return honest(one)

    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 100})
        rig.see(*members(0, 100))
        monkeypatch.setattr(membership, "rank_of", note)
        most = 0
        for _ in rig.control.turns():
            most = max(most, len(looks))
            looks.clear()
        assert 0 < max(most, len(looks)) <= 10
        await rig.settle()
        assert len(rig.placed()) == 100

    tried(story, nodes=100)


def test_a_pod_that_cannot_be_read_is_told_of_by_the_look_at_its_gang() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*members(0, 3), pod("bad", labels={GROUP: "g"}, gpus="9" * 5000))
        await rig.settle()
        assert "n/g" in rig.control.names and rig.problem("n/g")

    tried(story)


def test_pods_are_told_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "AT_ONCE", 10)

    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 100})
        rig.see(*members(0, 100))
        rig.control.step()
        most = known = 0
        while len(rig.placed()) < 100:
            await asyncio.sleep(0)
            told = len(rig.placed())
            most, known = max(most, told - known), told
        assert 0 < most <= 10

    tried(story, nodes=100)
