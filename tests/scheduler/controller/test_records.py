"""What plan records say: also those that somebody removes, and of nodes kept for lost ranks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.controller.plans import AGES, record_name
from scheduler.kube.api import ApiError
from scheduler.kube.objects import PLAN, Meta, Pod
from tests.scheduler.controller.rig import Rig, pod, tried

SIZE = 3


def rank(number: int, life: int = 0, node: str = "") -> Pod:
    """Return one rank of the gang in one of its lives."""
    return pod(
        f"g-{number}",
        labels={"muster.dev/group": "g", "training.kubeflow.org/replica-index": str(number)},
        annotations={"muster.dev/min-member": str(SIZE)},
        uid=f"g-{number}-{life}",
        node=node,
    )


def test_a_lost_rank_is_placed_though_the_record_of_its_gang_was_removed() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(rank(i) for i in range(SIZE)))
        await rig.settle()
        nodes = rig.placed()
        rig.api.records.clear()
        rig.see(*(rank(i, node=nodes[f"g-{i}"]) for i in range(SIZE - 1)))  # the last is not bound
        await rig.settle()
        rig.lose(rank(SIZE - 1))
        rig.api.requests.clear()
        rig.see(rank(SIZE - 1, 1))
        await rig.settle()
        assert rig.placed() == {f"g-{SIZE - 1}": nodes[f"g-{SIZE - 1}"]}
        assert [len(plan.slots) for plan in rig.records_there()] == [SIZE]

    tried(story)


def test_a_plan_whose_record_was_removed_before_its_commit_is_written_anew() -> None:
    """Nobody knows whether another leader has taken the record away: this plan must not pass."""

    async def story(rig: Rig) -> None:
        rig.see(*(rank(i) for i in range(SIZE)))
        await rig.settle()
        gang = rig.control.names["n/g"]
        rig.api.records.clear()
        for _ in range(2):
            with pytest.raises(ApiError) as refused:
                await rig.control.plans.commit(gang, gang.generation)
            assert refused.value.code == 404
        await rig.control.plans.write(gang)
        await rig.control.plans.commit(gang, gang.generation)

    tried(story)


def test_ages_that_were_removed_are_written_anew() -> None:
    async def story(rig: Rig) -> None:
        for text in ("[1]", "[2]"):
            await rig.control.plans.write_ages(text)
            assert rig.api.records.pop(AGES)["data"] == {"ages": text}

    tried(story)


async def running(rig: Rig) -> list[Pod]:
    """Return the gang, bound as planned."""
    rig.see(*(rank(i) for i in range(SIZE)))
    await rig.settle()
    nodes = rig.placed()
    pods = [rank(i, node=nodes[f"g-{i}"]) for i in range(SIZE)]
    rig.see(*(msgspec.structs.replace(p, metadata=_told(p)) for p in pods))
    await rig.pass_s(1.0)
    assert rig.records_there() == [], "pods say what runs"
    return pods


def _told(one: Pod) -> Meta:
    """Return what a pod has once it was told of its node."""
    return msgspec.structs.replace(
        one.metadata, annotations={**one.metadata.annotations, PLAN: f"n/g 1 of {SIZE}"}
    )


def _led_by_the_next(rig: Rig) -> Rig:
    """Return the next muster, which finds the records as they are."""
    there, plans = rig.api.records, rig.records_there()
    anew = rig.restarted()
    anew.api.records.update(there)
    anew.control.old_plans.clear()
    for plan in plans:
        anew.found(plan)
        version = there[record_name(plan.unit)]["metadata"]["resourceVersion"]
        anew.control.plans._versions[plan.unit] = version
    return anew


def rival(number: int) -> Pod:
    """Return a pod that waits for any node."""
    alone = {"muster.dev/min-member": "1"}
    return pod(f"r-{number}", labels={"muster.dev/group": f"r-{number}"}, annotations=alone)


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("num_restarts", [1, 2])
def test_the_next_leader_keeps_the_nodes_of_lost_ranks(lost: int, num_restarts: int) -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        rig.lose(*pods[:lost])
        await rig.settle()
        rig.see(*(rival(i) for i in range(lost)))
        for _ in range(num_restarts):
            rig = _led_by_the_next(rig)
            await rig.settle()
            await rig.pass_s(20.0)
            assert rig.placed() == {}
        rig.see(*(rank(i, 1) for i in range(lost)))
        await rig.settle()
        assert rig.placed() == {f"g-{i}": pods[i].spec.node_name for i in range(lost)}
        rig.see(*(rank(i, 1, node=pods[i].spec.node_name) for i in range(lost)))
        await rig.pass_s(200.0)
        assert rig.evicted() == [] and rig.records_there() == []

    tried(story, nodes=SIZE)


def test_the_next_leader_keeps_them_no_longer_than_the_first() -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        rig.lose(pods[0])
        await rig.settle()
        rig.see(rival(0))
        anew = _led_by_the_next(rig)
        await anew.settle()
        await anew.pass_s(61.0)
        assert anew.placed() == {"r-0": pods[0].spec.node_name}

    tried(story, nodes=SIZE)


def test_a_record_of_a_kept_node_goes_with_it() -> None:
    async def story(rig: Rig) -> None:
        pods = await running(rig)
        rig.lose(pods[0])
        await rig.settle()
        assert [slot.uid for plan in rig.records_there() for slot in plan.slots].count("") == 1
        rig.see(rival(0))
        await rig.pass_s(61.0)
        assert "r-0" in rig.placed()
        assert [plan.unit for plan in rig.records_there()] == ["n/r-0"]

    tried(story, nodes=SIZE)


@pytest.mark.parametrize("odd", [{"binaryData": {"k": None}}, {"data": {"plan": "[" * 5000}}])
def test_what_somebody_wrote_into_a_record_ends_nothing(odd: dict[str, Any]) -> None:
    """It is another's then: the gang goes on without it."""

    async def story(rig: Rig) -> None:
        rig.see(*(rank(i) for i in range(SIZE)))
        await rig.settle()
        record = rig.api.records[record_name("n/g")]
        record |= odd
        record["metadata"]["resourceVersion"] = "another's"
        assert await rig.control.plans._mine("n/g") is None

    tried(story)
