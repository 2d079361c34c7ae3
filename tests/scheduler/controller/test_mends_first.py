"""A running gang is mended before others start, and one that muster sent away keeps its age."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.kube.objects import Pod
from tests.scheduler.controller.rig import Rig, close, pod, tried

REPAIR_S = 60.0


def rank(group: str, number: int, least: int, second: int = 0, **more: Any) -> Pod:
    """Return one rank of a gang, created in this second; it fills a node."""
    said = {"muster.dev/group": group, "muster.dev/min-member": str(least)}
    labels = {"training.kubeflow.org/replica-index": str(number)}
    found = pod(
        f"{group}-{number}",
        annotations=said,
        labels=labels,
        uid=f"{group}-{number}-{second}",
        **more,
    )
    at = f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z"
    meta = msgspec.structs.replace(found.metadata, creation_timestamp=at)
    return msgspec.structs.replace(found, metadata=meta)


async def running(rig: Rig, group: str, size: int, second: int = 0) -> dict[str, Pod]:
    """Return a gang that runs, by node."""
    rig.see(*(rank(group, i, size, second) for i in range(size)))
    await rig.settle()
    nodes = rig.placed()
    pods = [rank(group, i, size, second, node=nodes[f"{group}-{i}"]) for i in range(size)]
    rig.see(*pods)
    await rig.pass_s(1.0)
    rig.api.requests.clear()
    return {one.spec.node_name: one for one in pods}


async def moves(rig: Rig, where: str, lost: Pod) -> None:
    """Have a rank of a gang of two lose its node: it comes again, and gets another at once."""
    close(rig, where)
    rig.lose(lost)
    await rig.settle()
    again = rank("g", int(lost.metadata.name[-1]), 2, 30)
    rig.see(again)
    await rig.settle()
    assert set(rig.placed()) == {again.metadata.name}


@pytest.mark.parametrize("discipline", ["strict", "skip", "easy"])
@pytest.mark.parametrize("order", ["priority", "fifo", "smallest"])
def test_a_lost_rank_gets_a_node_before_the_head_of_the_queue(order: str, discipline: str) -> None:
    async def story(rig: Rig) -> None:
        runs = await running(rig, "g", 2, 10)
        where, lost = next(iter(runs.items()))
        rig.see(*(rank("h", i, 4, 5, priority=1000) for i in range(4)))  # older and above it
        await rig.settle()
        assert rig.placed() == {}
        await moves(rig, where, lost)
        await rig.pass_s(2 * REPAIR_S)
        assert len(rig.evicted()) <= 1, "not for what was lost"

    policy = {"order": order, "discipline": discipline}
    tried(story, nodes=4, policy=policy)


@pytest.mark.parametrize("opened", ["before it comes again", "after it came again"])
def test_a_node_that_opens_again_is_the_lost_ranks(opened: str) -> None:
    async def story(rig: Rig) -> None:
        runs = await running(rig, "g", 2)
        where, lost = next(iter(runs.items()))
        rig.see(rank("filler", 0, 1, 1))
        close(rig, where)
        rig.lose(lost)
        await rig.settle()
        again = rank("g", int(lost.metadata.name[-1]), 2, 30)
        if opened == "before it comes again":
            close(rig, where, closed=False)
            await rig.settle()
            rig.see(again)
        else:
            rig.see(again)
            await rig.settle()
            close(rig, where, closed=False)
        await rig.settle()
        assert rig.placed() == {again.metadata.name: where}

    tried(story, nodes=2)


@pytest.mark.parametrize("gone", ["at once", "one by one"])
def test_a_gang_that_was_evicted_keeps_its_age(gone: str) -> None:
    async def story(rig: Rig) -> None:
        runs = await running(rig, "g", 2)
        (where, lost), (_, other) = runs.items()
        rig.see(*(rank("h", i, 2, 20) for i in range(2)))
        close(rig, where)
        rig.lose(lost)
        await rig.settle()
        again = rank("g", int(lost.metadata.name[-1]), 2, 30)
        if gone == "one by one":
            rig.see(again)
        await rig.pass_s(REPAIR_S + 1.0)
        await rig.pass_s(REPAIR_S + 1.0)
        assert rig.evicted() == [other.metadata.name]
        rig.lose(other)
        await rig.settle()
        rig.see(again, rank("g", int(other.metadata.name[-1]), 2, 200))
        await rig.settle()
        assert rig.placed() == {}
        close(rig, where, closed=False)
        await rig.settle()
        assert set(rig.placed()) == {"g-0", "g-1"}, "h is younger than its first pods"

    tried(story, nodes=2)


def test_a_gang_that_its_user_makes_anew_is_a_new_one() -> None:
    async def story(rig: Rig) -> None:
        runs = await running(rig, "g", 2)
        rig.see(*(rank("h", i, 2, 20) for i in range(2)))
        await rig.settle()
        rig.lose(*runs.values())
        await rig.settle()
        rig.lose(*(rank("h", i, 2, 20) for i in range(2)))
        rig.see(rank("i", 0, 2, 25), rank("g", 0, 2, 30), rank("g", 1, 2, 30))
        rig.see(rank("i", 1, 2, 25))
        await rig.settle()
        assert {"i-0", "i-1"} <= set(rig.placed())

    tried(story, nodes=2)


def test_pods_beyond_the_minimum_come_before_nobody() -> None:
    async def story(rig: Rig) -> None:
        await running(rig, "g", 2, 10)
        rig.see(*(rank("h", i, 4, 5) for i in range(4)))
        await rig.settle()
        rig.see(rank("g", 2, 2, 30))
        await rig.settle()
        assert rig.placed() == {}, "h stands before it, and blocks"

    tried(story, nodes=4)


def test_a_gang_that_cannot_be_mended_is_first_for_a_while_only() -> None:
    """Its budget forbids to evict it: the others do not wait for it for good."""

    async def story(rig: Rig) -> None:
        await running(rig, "g", 2, 10)
        lost = rank("g", 1, 2, 10)
        rig.lose(lost)
        more = {"nodeSelector": {"no": "node"}}
        rig.see(rank("g", 1, 2, 30, **more))
        rig.see(rank("other", 0, 1, 40))
        await rig.settle()
        await rig.pass_s(REPAIR_S + 1.0)
        await rig.pass_s(REPAIR_S + 1.0)
        assert "other-0" in rig.placed()

    tried(story, nodes=2)


def test_a_gang_that_loses_ranks_again_and_again_does_not_block_the_queue() -> None:
    """Its owner deletes one and makes it anew for a node that is taken, then for any, and so on."""

    async def story(rig: Rig) -> None:
        runs = await running(rig, "g", 2, 10)
        other = await running(rig, "taken", 1, 10)
        lost = next(iter(runs.values()))
        waited = []
        for turn in range(4):
            rig.lose(lost)
            number, second = int(lost.metadata.name[-1]), 20 + 2 * turn
            taken = {"kubernetes.io/hostname": next(iter(other))}
            picky = rank("g", number, 2, second, nodeSelector=taken)
            rig.see(picky)
            await rig.settle()
            head = rank("h", turn, 1, second, priority=1000)
            rig.see(head)
            await rig.settle()
            waited.append(0.0)
            while head.metadata.name not in rig.placed() and waited[-1] < REPAIR_S - 10.0:
                await rig.pass_s(5.0)  # no longer, or it were evicted
                waited[-1] += 5.0
            rig.lose(head, picky)
            lost = rank("g", number, 2, second + 1)
            rig.see(lost)
            await rig.settle()
            lost = rank("g", number, 2, second + 1, node=rig.placed()[lost.metadata.name])
            rig.see(lost)
            await rig.pass_s(1.0)
            assert not rig.evicted()
        assert sum(waited) <= REPAIR_S

    tried(story, nodes=6)


def test_pods_that_were_parked_long_ago_lift_nobody() -> None:
    """A gang is as old as the pod that made it whole; one that grows while it waits, too."""

    async def story(rig: Rig) -> None:
        for name in ("f", "e"):
            await running(rig, name, 1, 1)
        rig.see(rank("t", 0, 2, 10, gpus=0), rank("u", 0, 1, 10))
        await rig.settle()
        rig.see(rank("h", 0, 1, 20))
        rig.see(rank("t", 1, 2, 30), rank("u", 0, 2, 10), rank("u", 1, 2, 31))
        await rig.settle()
        rig.lose(rig.control.pods["f-0-1"])
        await rig.settle()
        assert set(rig.placed()) == {"h-0"}

    tried(story, nodes=2)


def test_that_it_was_hard_to_start_a_gang_costs_it_no_rank_later() -> None:
    """Its plans failed for minutes, then it runs; a lost rank waited for the pause after those."""

    async def story(rig: Rig) -> None:
        runs = await running(rig, "g", 2, 10)
        gang = rig.control.names["n/g"]
        gang.num_aborts, gang.hold_until_s = 8, rig.control.now_s() + 250.0
        where, lost = next(iter(runs.items()))
        await moves(rig, where, lost)

    tried(story, nodes=3)
