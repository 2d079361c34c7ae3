"""LeaderWorkerSets whose workers are made once their leader has a node, or runs (0.8.0).

Leader and workers are gangs of their own: as one they would wait for each other for ever.
"""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.kube.objects import Pod
from scheduler.status.status import view
from tests.scheduler.controller.rig import Rig, pod, tried

LWS = "leaderworkerset.sigs.k8s.io"


def member(worker: int, how: str, **more: Any) -> Pod:
    """Return a pod of group 0 of a LeaderWorkerSet of groups of three."""
    labels = {f"{LWS}/name": "l", f"{LWS}/group-index": "0", f"{LWS}/worker-index": str(worker)}
    said = {f"{LWS}/size": "3"}
    if how == "exclusive":
        said[f"{LWS}/exclusive-topology"] = "rack"
    owner = ("StatefulSet", "l-0" if worker else "l", "uid-l-0" if worker else "uid-l")
    name = f"l-0-{worker}" if worker else "l-0"
    return pod(name, labels=labels, annotations=said, owner=owner, **more)


def runs(rig: Rig, *pods: Pod) -> None:
    """Have pods run where they were placed."""
    nodes = rig.placed()
    for one in pods:
        one.spec.node_name, one.spec.scheduling_gates = nodes[one.metadata.name], []
        one.status.phase = "Running"
    rig.see(*pods)


@pytest.mark.parametrize("how", ["exclusive", "LeaderReady", "LeaderReady, seen late"])
def test_a_leader_starts_before_the_workers_that_are_made_for_it(how: str) -> None:
    async def story(rig: Rig) -> None:
        policy = {"startupPolicy": "LeaderReady" if how != "exclusive" else "LeaderCreated"}
        if "late" in how:
            rig.see(member(0, how))
            await rig.settle()
            assert not rig.placed()
        rig.thing("LeaderWorkerSet", "l", policy)
        rig.see(member(0, how))
        await rig.settle()
        assert set(rig.placed()) == {"l-0"}
        runs(rig, member(0, how))
        rig.see(member(1, how))
        await rig.settle()
        assert set(rig.placed()) == {"l-0"}, "its workers start together"
        rig.see(member(2, how))
        await rig.settle()
        assert set(rig.placed()) == {"l-0", "l-0-1", "l-0-2"}
        runs(rig, member(1, how), member(2, how))
        await rig.pass_s(200.0)
        assert rig.evicted() == []
        gangs = rig.control.gangs.values()
        phases = {gang.name: view(gang, rig.ledger, rig.control.now_s()).phase for gang in gangs}
        assert phases == {"n/l-0-leader": "running", "n/l-0": "running"}

    tried(story)


def test_a_leader_whose_workers_are_made_with_it_starts_with_them() -> None:
    async def story(rig: Rig) -> None:
        rig.thing("LeaderWorkerSet", "l", {"startupPolicy": "LeaderCreated"})
        rig.see(member(0, ""), member(1, ""))
        await rig.settle()
        assert not rig.placed()
        rig.see(member(2, ""))
        await rig.settle()
        assert set(rig.placed()) == {"l-0", "l-0-1", "l-0-2"}

    tried(story)
