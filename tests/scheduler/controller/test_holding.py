"""GPUs are held for pods that live, or for a successor for a while; whatever else goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.controller import mending
from scheduler.kube.objects import Pod
from tests.scheduler.controller.rig import Rig, pod, tried

GROUP = "jobset.sigs.k8s.io/jobset-name"
INDEXES = {"a-cpu": "0", "w-0": "1", "w-1": "2"}


def member(name: str, labels: dict[str, str], *, gpus: int = 8, node: str = "", **more: object):  # type: ignore[no-untyped-def]
    said = {"muster.dev/min-member": "3"}
    labels = {key: text or INDEXES[name] for key, text in labels.items()}
    return pod(name, labels=labels, annotations=said, gpus=gpus, node=node, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["label taken off", "owner taken off", "replicas that are none"])
def test_pods_that_are_gone_hold_nothing_of_a_gang_that_cannot_be_read(odd: str) -> None:
    async def story(rig: Rig) -> None:
        match odd:
            case "label taken off":
                labels, owner = {GROUP: "j"}, None
            case "owner taken off":
                labels, owner = {"batch.kubernetes.io/job-completion-index": ""}, ("Job", "j", "u")
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


def held(rig: Rig, nodes: int) -> int:
    """Return the GPUs that nobody else may have."""
    return 8 * nodes - sum(free.gpus for free in rig.ledger.state.capacity.free_on_each())


def of(group: str, name: str, **more: Any) -> Pod:
    """Return a pod of a gang of any size."""
    said = {"muster.dev/group": group, "muster.dev/min-member": "1"}
    return pod(name, annotations=said, uid=more.pop("uid", name), **more)


def test_what_fails_while_a_gang_is_mended_keeps_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: an honest gang starts where the pods were."""

    async def story(rig: Rig) -> None:
        rig.see(of("g", "g-cpu", gpus=0), *(of("g", f"g-{i}") for i in range(4)))
        await rig.settle()
        where = rig.placed()
        rig.see(*(of("g", name, node=node) for name, node in where.items() if name != "g-cpu"))
        rig.see(of("g", "g-cpu", gpus=0, node=where["g-cpu"]))
        await rig.settle()
        assert held(rig, 4) == 4 * 8

        def fails(key: Any, *more: Any) -> Any:
            if key.name == "g":
                raise ZeroDivisionError("as if by a pod that nobody thought of")
            return size_of(key, *more)

        size_of = mending.size_of
        monkeypatch.setattr(mending, "size_of", fails)
        rig.see(of("honest", "honest"))
        rig.lose(*(of("g", f"g-{i}") for i in range(4)))
        await rig.settle()
        await rig.pass_s(rig.settings.timeouts.repair_s + 1)
        assert "honest" in rig.placed()
        assert held(rig, 4) == 8

    tried(story)


def test_giving_back_may_fail_and_the_others_are_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(rig: Rig) -> None:
        def fails(*_: Any) -> None:
            raise ZeroDivisionError("as if by a gang that breaks a rule")

        monkeypatch.setattr(rig.control.mending, "let_go", fails)
        rig.see(pod("bad", annotations={"muster.dev/group": "b", "muster.dev/min-member": "x"}))
        rig.see(of("good", "good"))
        await rig.settle()
        assert set(rig.placed()) == {"good"}

    tried(story)


def test_a_pod_that_cannot_be_read_any_more_holds_nothing_once_it_ended() -> None:
    async def story(rig: Rig) -> None:
        rig.see(of("g", "g-cpu", gpus=0), of("g", "g-0"))
        await rig.settle()
        where = rig.placed()
        rig.see(of("g", "g-cpu", gpus=0, node=where["g-cpu"]), of("g", "g-0", node=where["g-0"]))
        await rig.settle()
        with pytest.raises(ValueError, match="abc"):
            rig.see(of("g", "g-0", node=where["g-0"], gpus="abc", phase="Failed"))
        await rig.settle()
        await rig.pass_s(rig.settings.timeouts.repair_s + 1)
        assert held(rig, 4) == 0

    tried(story)


class Tenant:
    """Makes and deletes pods in one namespace, whose quota counts those that are there."""

    def __init__(self, rig: Rig, quota: int, *, says_index: bool = True) -> None:
        self._rig, self._quota, self._made = rig, quota, 0
        self._says_index = says_index  #: each pod one of its own: none comes instead of another
        self.pods: dict[str, Pod] = {}

    async def bind(self) -> None:
        """Let whatever was placed run."""
        await self._rig.settle()
        placed = self._rig.placed()
        for name, one in self.pods.items():
            if not one.spec.node_name and name in placed:
                spec = msgspec.structs.replace(one.spec, node_name=placed[name])
                self.pods[name] = msgspec.structs.replace(one, spec=spec)
                self._rig.see(self.pods[name])
        await self._rig.settle()

    def make(self, gang: int, gpus: int) -> None:
        """Make a pod, if the quota lets it."""
        taken = sum(int(one.metadata.labels["gpus"]) for one in self.pods.values())
        if taken + gpus <= self._quota:
            self._made += 1
            name = f"g{gang}-{self._made}"
            said = {"muster.dev/group": f"g{gang}", "muster.dev/min-member": "1"}
            labels = {"gpus": str(gpus)}
            if self._says_index:
                labels["training.kubeflow.org/replica-index"] = str(self._made)
            self.pods[name] = pod(name, annotations=said, labels=labels, gpus=gpus)
            self._rig.see(self.pods[name])

    def delete(self, gang: int, most: int) -> None:
        """Delete pods of a gang that have GPUs."""
        of_it = [name for name in self.pods if name.startswith(f"g{gang}-")]
        with_gpus = [n for n in of_it if self.pods[n].metadata.labels["gpus"] != "0"]
        for name in with_gpus[:most]:
            self._rig.lose(self.pods.pop(name))


NODES, QUOTA = 16, 16
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 2), st.sampled_from([0, 2, 8])),
        st.tuples(st.just("delete"), st.integers(0, 2), st.integers(1, 8)),
        st.tuples(st.just("pass"), st.just(0), st.sampled_from([1, 3, 20])),
    ),
    min_size=20,
    max_size=60,
)


@given(deeds=DEEDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_tenant_holds_no_more_than_twice_its_quota(deeds: list[tuple[str, int, int]]) -> None:
    """Pods without GPUs keep gangs alive whose ranks are deleted and made anew, as others."""

    async def story() -> None:
        rig = Rig(nodes=NODES)
        tenant = Tenant(rig, QUOTA)
        for gang in range(3):
            tenant.make(gang, 0)
        await tenant.bind()
        for what, first, second in deeds:
            if what == "make":
                tenant.make(first, second)
            elif what == "delete":
                tenant.delete(first, second)
            else:
                await rig.pass_s(float(second))
            await tenant.bind()
            assert held(rig, NODES) <= 2 * QUOTA
        for gang in range(3):
            tenant.delete(gang, 99)
        await rig.settle()
        await rig.pass_s(rig.settings.timeouts.repair_s + 1)
        assert held(rig, NODES) == 0

    asyncio.run(story())


@pytest.mark.parametrize("says_index", [True, False])
def test_rounds_of_three_seconds_hold_no_more_than_twice_the_quota(says_index: bool) -> None:
    """Twenty rounds fit into the time for which a lost rank's node is kept."""

    async def story(rig: Rig) -> None:
        tenant = Tenant(rig, QUOTA, says_index=says_index)
        tenant.make(0, 0)
        await tenant.bind()
        most = 0
        for _ in range(40):
            for _ in range(2):
                tenant.make(0, 8)
            await tenant.bind()
            most = max(most, held(rig, NODES))
            tenant.delete(0, 2)
            await rig.pass_s(3.0)
            most = max(most, held(rig, NODES))
        assert most == (2 * QUOTA if says_index else QUOTA)

    tried(story, nodes=NODES)


def test_a_gang_that_loses_most_of_its_ranks_at_once_keeps_their_nodes() -> None:
    async def story(rig: Rig) -> None:
        rig.see(*(of("g", f"g-{i}") for i in range(4)))
        await rig.settle()
        where = rig.placed()
        runs = [of("g", name, node=node) for name, node in where.items()]
        rig.see(*runs)
        await rig.settle()
        for one in runs[1:]:  # one step after the other
            rig.lose(one)
            await rig.pass_s(1.0)
        assert held(rig, 4) == 4 * 8
        rig.see(*(of("g", f"g-{i}", uid=f"anew-{i}") for i in (1, 2, 3)))
        await rig.settle()
        assert rig.placed() == where

    tried(story)
