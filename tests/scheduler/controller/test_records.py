"""Whoever may change the namespace of the plan records may remove them while muster runs."""

from __future__ import annotations

import pytest

from scheduler.controller.plans import AGES
from scheduler.kube.api import ApiError
from scheduler.kube.objects import Pod
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
