"""GPUs are held for pods that live, or for a successor for a while; whatever else goes wrong."""

from __future__ import annotations

import pytest

from tests.scheduler.controller.rig import Rig, pod, tried

GROUP = "jobset.sigs.k8s.io/jobset-name"


def member(name: str, labels: dict[str, str], *, gpus: int = 8, node: str = "", **more: object):  # type: ignore[no-untyped-def]
    said = {"muster.dev/min-member": "3"}
    return pod(name, labels=labels, annotations=said, gpus=gpus, node=node, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["label taken off", "owner taken off", "replicas that are none"])
def test_pods_that_are_gone_hold_nothing_of_a_gang_that_cannot_be_read(odd: str) -> None:
    async def story(rig: Rig) -> None:
        match odd:
            case "label taken off":
                labels, owner = {GROUP: "j"}, None
            case "owner taken off":
                labels, owner = {"batch.kubernetes.io/job-completion-index": "0"}, ("Job", "j", "u")
                rig.thing("Job", "j", {"parallelism": 3, "completions": 3}, uid="u")
            case _:
                labels, owner = {"training.kubeflow.org/job-name": "j"}, ("PyTorchJob", "j", "u")
                rig.thing("PyTorchJob", "j", {"pytorchReplicaSpecs": {"Worker": {"replicas": 3}}})
        names = {"a-cpu": 0, "w-0": 8, "w-1": 8}
        rig.see(*(member(name, labels, gpus=gpus, owner=owner) for name, gpus in names.items()))
        await rig.settle()
        where = rig.placed()
        assert {"w-0", "w-1"} <= set(where)
        on = {name: where.get(name, "node-00000") for name in names}
        for name, gpus in names.items():
            rig.see(member(name, labels, gpus=gpus, owner=owner, node=on[name]))
        await rig.settle()
        match odd:
            case "label taken off":
                rig.see(member("a-cpu", {}, gpus=0, node=on["a-cpu"]))
            case "owner taken off":
                rig.see(member("a-cpu", labels, gpus=0, node=on["a-cpu"]))
            case _:
                rig.thing("PyTorchJob", "j", {"pytorchReplicaSpecs": {"Worker": {"replicas": -3}}})
        await rig.settle()
        rig.lose(*(member(name, labels, node=on[name]) for name in ("w-0", "w-1")))
        await rig.settle()
        await rig.pass_s(rig.settings.timeouts.repair_s + 1)
        assert sum(free.gpus for free in rig.ledger.state.capacity.free_on_each()) == 4 * 8

    tried(story)
