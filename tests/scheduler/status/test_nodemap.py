"""Nodes by pool and rack, as labels of any cloud have them, and what is on a node."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from scheduler.controlplane.objects import node as played
from scheduler.kube.objects import NodeObject
from scheduler.kube.watch import Change
from scheduler.status.nodemap import POOLS, RACKS, NodeView, Pool, node_map, place_of
from scheduler.status.pages import Breath
from tests.scheduler.controller.rig import close, pod
from tests.scheduler.status.watched import Watched


def tell(rig: Watched, number: int, labels: dict[str, str]) -> None:
    item = played(number, 8)
    item["metadata"]["labels"] = labels
    rig.control.on_node(Change.ADDED, msgspec.convert(item, NodeObject))


async def mapped(rig: Watched) -> list[Pool]:
    await rig.settle()
    return await node_map(rig.ledger, Breath())


def drawn(pools: list[Pool]) -> dict[str, dict[str, list[str]]]:
    """Return the names of nodes by pool and rack."""
    return {p.pool: {r.rack: [node[0] for node in r.nodes] for r in p.racks} for p in pools}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("rack", RACKS)
def test_each_label_that_names_a_pool_or_a_rack_does_so(pool: str, rack: str) -> None:
    rig = Watched(0)
    for number in range(4):
        tell(rig, number, {pool: "p", rack: f"r{number // 2}"})
    assert drawn(asyncio.run(mapped(rig))) == {
        "p": {"r0": ["node-00000", "node-00001"], "r1": ["node-00002", "node-00003"]}
    }


def test_the_docs_list_the_labels_in_their_order(repository: Path) -> None:
    text = (repository / "docs" / "live.md").read_text("utf-8")
    for name, keys in (("pool", POOLS), ("rack", RACKS)):
        assert f"| {name} | {', '.join(f'`{key}`' for key in keys)} |" in text


def test_the_nearest_label_counts() -> None:
    labels = dict.fromkeys(POOLS, "far") | dict.fromkeys(RACKS, "far")
    labels |= {POOLS[0]: "own", RACKS[0]: "near"}
    assert place_of(labels) == ("own", "near")
    assert place_of(labels | {POOLS[0]: "", RACKS[0]: ""}) == ("far", "far")
    assert place_of({}) == ("", "")


def test_without_racks_there_are_pools_alone() -> None:
    rig = Watched(0)
    for number in range(4):
        tell(rig, number, {"muster.dev/pool": f"p{number % 2}"})
    found = drawn(asyncio.run(mapped(rig)))
    assert found == {
        "p0": {"": ["node-00000", "node-00002"]},
        "p1": {"": ["node-00001", "node-00003"]},
    }


def test_labels_that_divide_a_pool_into_single_nodes_name_no_racks() -> None:
    rig = Watched(0)
    for number in range(6):
        tell(rig, number, {"muster.dev/pool": "p", RACKS[1]: f"r{number}"})
    (pool,) = asyncio.run(mapped(rig))
    assert [(rack.rack, len(rack.nodes)) for rack in pool.racks] == [("", 6)]


def test_a_node_is_free_in_use_cordoned_or_not_ready() -> None:
    async def story() -> None:
        rig = Watched(4)
        rig.see(pod("g-0", gpus=6, node="node-00001", labels={"muster.dev/group": "g"}))
        close(rig, "node-00002")
        item = played(3, 8)
        item["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
        rig.control.on_node(Change.MODIFIED, msgspec.convert(item, NodeObject))
        ((pool,),) = ((p.racks for p in await mapped(rig)),)
        (rack,) = pool
        assert rack.nodes == [
            ("node-00000", 8, 8, ""),
            ("node-00001", 8, 2, ""),
            ("node-00002", 8, 8, "cordoned"),
            ("node-00003", 8, 8, "not ready"),
        ]

    asyncio.run(story())


def test_a_node_says_what_is_on_it_and_what_is_to_come() -> None:
    async def story() -> None:
        rig = Watched(1)
        said = {"muster.dev/min-member": "2"}
        for rank in range(2):
            made = pod(f"g-{rank}", gpus=2, labels={"muster.dev/group": "g"}, annotations=said)
            rig.see(made)
        rig.see(pod("alone", gpus=1, node="node-00000", gated=False))
        rig.see(pod("agent", gpus=0, node="node-00000", gated=False))
        await rig.settle()
        content = await rig.facts.node("node-00000")
        seen = msgspec.json.decode(content, type=NodeView)
        assert (seen.pool, seen.rack, seen.closed) == ("local", "block-000", "")
        assert (seen.gpus, seen.free_gpus) == (8, 3)
        (gang,) = seen.gangs
        assert (gang.gang, gang.phase, gang.gpus) == ("n/g", "starting", 4)
        assert sorted(gang.pods) == ["g-0", "g-1"]
        assert (seen.others, seen.num_others) == (["n/alone"], 2)
        assert not await rig.facts.node("nowhere")

    asyncio.run(story())
