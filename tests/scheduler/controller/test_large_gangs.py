"""What a look at a gang costs that lost many pods at once: twice the pods, twice the work."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from scheduler.kube.objects import Pod
from tests.scheduler.controller.rig import Rig, pod, tried
from tests.scheduler.core.test_cost import count_lines


def members(first: int, last: int) -> list[Pod]:
    """Return pods of a gang whose names say no rank."""
    labels = {"scheduling.x-k8s.io/pod-group": "g"}
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
