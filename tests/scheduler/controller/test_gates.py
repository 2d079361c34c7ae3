"""Pods that others hold, too, and that may ask for another place while they are gated."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.kube.objects import GATE, Pod
from scheduler.workloads.gangs import JOB_INDEX
from tests.scheduler.controller.rig import Rig, pod, tried

OTHERS = "kueue.x-k8s.io/admission"
HOST = "kubernetes.io/hostname"


def member(number: int, *, of: int = 2, held: bool = True, **more: Any) -> Pod:
    """Return a pod of a Kueue pod group, which Kueue has not admitted yet if it is `held`."""
    labels = {"kueue.x-k8s.io/pod-group-name": "g", "kueue.x-k8s.io/queue-name": "q"}
    notes = {"kueue.x-k8s.io/pod-group-total-count": str(of)}
    gates = [{"name": OTHERS}, {"name": GATE}] if held else [{"name": GATE}]
    return pod(f"g-{number}", labels=labels, annotations=notes, schedulingGates=gates, **more)


def changed(one: Pod, **spec: Any) -> Pod:
    """Return a pod whose spec was changed."""
    item = msgspec.to_builtins(one)
    item["spec"] |= spec
    return msgspec.convert(item, Pod)


def test_pods_are_planned_once_others_let_them_go() -> None:
    """Their nodes would be kept for nothing, and their pins could not be changed any more."""

    async def story(rig: Rig) -> None:
        rig.see(member(0), member(1))
        await rig.settle()
        assert not rig.control.slot_of
        assert OTHERS in rig.problem("n/g")
        assert [reason for reason, _ in rig.events()] == ["HeldByOthers"]
        for _ in range(4):
            await rig.pass_s(30.0)
        rig.see(pod("k"), pod("l"))
        await rig.settle()
        assert rig.placed().keys() == {"k", "l"}, "they hold up nobody"
        rig.see(member(0, held=False))
        await rig.settle()
        assert "g-0" not in rig.placed()
        rig.see(member(1, held=False))
        await rig.settle()
        assert rig.placed().keys() == {"k", "l", "g-0", "g-1"}

    tried(story)


def test_a_gang_starts_without_pods_of_others_that_it_does_not_need() -> None:
    async def story(rig: Rig) -> None:
        labels = {"muster.dev/group": "h"}
        notes = {"muster.dev/min-member": "2"}
        gates = [{"name": OTHERS}, {"name": GATE}]
        rig.see(*(pod(f"h-{i}", labels=labels, annotations=notes) for i in range(2)))
        held = pod("h-2", labels=labels, annotations=notes, schedulingGates=gates)
        rig.see(held)
        await rig.settle()
        assert rig.placed().keys() == {"h-0", "h-1"}
        rig.see(changed(held, schedulingGates=[{"name": GATE}]))
        await rig.settle()
        assert rig.placed().keys() == {"h-0", "h-1", "h-2"}

    tried(story)


@pytest.mark.parametrize("held", [False, True])
def test_where_a_pod_may_go_can_change_while_it_is_gated(held: bool) -> None:
    """Kueue takes its gate off and names a rack in one write; others just name one."""

    async def story(rig: Rig) -> None:
        filler = pod("k")
        rig.see(filler)
        await rig.settle()
        rig.see(member(0, held=held), member(1, held=held))
        await rig.settle()
        assert rig.placed().keys() == {"k"}
        taken = rig.placed()["k"]
        (other,) = set(rig.ledger.nodes) - {taken}
        rig.see(changed(member(0, held=False), nodeSelector={HOST: other}))
        rig.see(changed(member(1, held=False), nodeSelector={HOST: taken}))
        await rig.settle()
        rig.lose(filler)
        await rig.settle()
        assert rig.placed() == {"k": taken, "g-0": other, "g-1": taken}

    tried(story, nodes=2)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_rank_that_comes_again_is_told_once_others_let_it_go(indexed: bool) -> None:
    """Its node is kept until then; a pin beside what its gate's owner names could not be met."""

    def rank(number: int, life: str, **more: Any) -> Pod:
        notes = {"muster.dev/group": "g", "muster.dev/min-member": "2"}
        labels = {JOB_INDEX: str(number)} if indexed else {}
        owner = ("Job" if indexed else "ReplicaSet", "g", "uid-g")
        name = f"g-{number}-{life}"
        return pod(name, labels=labels, annotations=notes, owner=owner, **more)

    async def story(rig: Rig) -> None:
        rig.see(rank(0, "a"), rank(1, "a"))
        await rig.settle()
        at = rig.placed()
        rig.see(*(rank(i, "a", node=at[f"g-{i}-a"]) for i in range(2)))
        rig.lose(rank(1, "a"))
        held = rank(1, "b", schedulingGates=[{"name": OTHERS}, {"name": GATE}])
        rig.see(held, pod("x"))
        await rig.settle()
        await rig.pass_s(5.0)
        placed = rig.placed()
        assert "g-1-b" not in placed
        assert placed["x"] != at["g-1-a"], "the first that is free"
        (other,) = set(rig.ledger.nodes) - {*at.values(), placed["x"]}
        selector = {HOST: other}
        rig.see(changed(held, schedulingGates=[{"name": GATE}], nodeSelector=selector))
        await rig.settle()
        assert rig.placed()["g-1-b"] == other

    tried(story, nodes=4)
