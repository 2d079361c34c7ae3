"""A pin holds a node only if muster wrote it: others may write what looks like one."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from scheduler.controller.pins import pin
from scheduler.extender.binds import BindArgs, Binds
from scheduler.extender.verbs import Extender, FilterArgs
from scheduler.kube.objects import PLAN, Pod
from tests.scheduler.controller.rig import Rig, pod, tried

GROUP = {"scheduling.x-k8s.io/pod-group": "g"}
BARRIER = {"timeouts": {"barrier_s": 0.2}}


def forged(number: int, node: str, **more: Any) -> Pod:
    """Return a pod as muster leaves one behind, made so by its owner."""
    return pod(
        f"g-{number}",
        labels=GROUP,
        annotations={PLAN: f"n/g/1/g-{number}"},
        gated=False,
        affinity=pin(None, node),
        **more,
    )


def bind(rig: Rig, name: str, node: str) -> Any:
    """Ask for a pod on a node, as kube-scheduler does."""
    gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    now_s = asyncio.get_running_loop().time()
    return Binds(rig.control).bind(BindArgs(name, "n", name, node), now_s, gone)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_forged_pin_takes_no_node_while_its_gang_waits(restarted: bool) -> None:
    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 4})
        others = [pod(f"g-{i}", labels=GROUP) for i in range(1, 4)]
        rig.see(pod("other", node="node-00003"), forged(0, "node-00000"), *others)
        await rig.settle()
        if restarted:
            rig = rig.restarted()
            await rig.settle()
        assert not rig.control.slot_of, "four do not fit beside the other"
        asked = FilterArgs(rig.control.pods["g-0"], msgspec.Raw(b'["node-00000"]'))
        assert Extender(rig.control).filter(asked).node_names == []
        assert (await bind(rig, "g-0", "node-00000")).error
        assert not any(path.endswith("/binding") for _, path, _ in rig.api.requests)

    tried(story)


def test_a_forged_pin_does_not_pass_the_barrier() -> None:
    """The gang is planned, and its first pod comes alone: it waits for the others."""

    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 4})
        rig.see(*(forged(i, f"node-0000{i}") for i in range(4)))
        await rig.settle()
        where = {uid: slot.node for uid, (_, slot) in rig.control.slot_of.items()}
        assert where == {f"g-{i}": f"node-0000{i}" for i in range(4)}, "as their owner wants it"
        alone = await bind(rig, "g-0", "node-00000")
        assert "not all pods of the gang arrived in time" in alone.error
        assert not any(path.endswith("/binding") for _, path, _ in rig.api.requests)

    tried(story, **BARRIER)


def test_pods_that_musters_own_pins_name_pass_one_by_one() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 4})
        rig.see(*(pod(f"g-{i}", labels=GROUP) for i in range(4)))
        await rig.settle()
        rig.see(*rig.pods_written())
        await rig.settle()
        anew = rig.restarted()
        await anew.settle()
        for muster in (rig, anew):
            assert not (await bind(muster, "g-0", rig.placed()["g-0"])).error
        assert not anew.deleted() and not anew.evicted()

    tried(story, **BARRIER)


def test_a_record_speaks_for_the_pod_that_it_names_alone() -> None:
    """A pod of the same rank that came later is told anew, with the rest of its gang."""

    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 4})
        rig.see(*(pod(f"g-{i}", labels=GROUP) for i in range(4)))
        await rig.settle()
        where = rig.placed()
        anew = Rig(4, **BARRIER)
        anew.control.active = False
        anew.thing("coscheduling", "g", {"minMember": 4})
        for number in range(4):
            anew.see(forged(number, where[f"g-{number}"], uid=f"later-{number}"))
        for plan in rig.records_written():
            anew.found(plan)
        anew.control.active = True
        await anew.settle()
        gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        args = BindArgs("g-0", "n", "later-0", where["g-0"])
        now_s = asyncio.get_running_loop().time()
        alone = await Binds(anew.control).bind(args, now_s, gone)
        assert "not all pods of the gang arrived in time" in alone.error

    tried(story, **BARRIER)


def test_pods_with_forged_pins_are_no_more_work_than_those_of_any_owner() -> None:
    """Each wants another node: none is planned where another of them wants to be."""

    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 4})
        rig.see(*(forged(i, f"node-0000{3 - i}") for i in range(4)))
        await rig.settle()
        where = {uid: slot.node for uid, (_, slot) in rig.control.slot_of.items()}
        assert where == {f"g-{i}": f"node-0000{3 - i}" for i in range(4)}
        assert rig.control.names["n/g"].num_aborts == 0

    tried(story)


def test_a_gate_that_its_owner_takes_off_starts_nothing() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("coscheduling", "g", {"minMember": 4})
        rig.see(pod("other", node="node-00003"), *(pod(f"g-{i}", labels=GROUP) for i in range(4)))
        await rig.settle()
        rig.see(*(forged(i, f"node-0000{i}") for i in range(4)))
        await rig.settle()
        assert not rig.control.slot_of
        assert (await bind(rig, "g-1", "node-00001")).error

    tried(story)


def test_pods_of_kube_system_are_left_alone() -> None:
    async def story(rig: Rig) -> None:
        one = pod("one", labels=GROUP, gated=False)
        one.metadata.namespace = "kube-system"
        rig.see(one)
        await rig.settle()
        assert not rig.control.gangs and not rig.api.requests

    tried(story)
