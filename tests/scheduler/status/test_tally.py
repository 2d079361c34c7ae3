"""Headline, curve and list agree at every moment, whatever happens to the cluster."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.controlplane.objects import node as played
from scheduler.core.reasons import TABLE
from scheduler.kube.objects import NodeObject, Pod
from scheduler.kube.watch import Change
from scheduler.status.pages import Breath
from scheduler.status.status import view
from tests.scheduler.controller.rig import close, pod
from tests.scheduler.status.watched import Watched

NODES = 3


def member(gang: int, rank: int, size: int, gpus: int, **more: Any) -> Pod:
    """Return a pod of a gang."""
    labels = {"muster.dev/group": f"g{gang}", "training.kubeflow.org/replica-index": str(rank)}
    said = {"muster.dev/min-member": str(size)}
    return pod(f"g{gang}-{rank}", labels=labels, annotations=said, gpus=gpus, **more)


@dataclass
class Cluster:
    """What the API server has, as far as the test makes it up."""

    rig: Watched
    pods: dict[tuple[int, int], Pod] = field(default_factory=dict)
    shape: dict[int, tuple[int, int]] = field(default_factory=dict)  #: size and GPUs by gang

    def bound(self, key: tuple[int, int]) -> None:
        """Have a pod run where it was placed, or leave it."""
        where = self.rig.placed().get(self.pods[key].metadata.name)
        if where and not self.pods[key].spec.node_name:
            self.put(key, node=where)

    def put(self, key: tuple[int, int], **more: Any) -> None:
        """Tell of a pod as it is now."""
        self.pods[key] = member(*key, *self.shape[key[0]], **more)
        self.rig.see(self.pods[key])

    async def act(self, what: str, gang: int, rank: int, number: int) -> None:
        """Do one thing that may happen in a cluster."""
        key, rig = (gang, rank), self.rig
        if what == "submit":
            if not any(g == gang for g, _ in self.pods):
                self.shape[gang] = (1 + number % 4, (1, 4, 8, 9)[number // 4 % 4])
            for missing in range(self.shape[gang][0] - (number % 5 == 0)):
                if (gang, missing) not in self.pods:
                    self.put((gang, missing))
            if number % 3:
                await rig.settle()
        elif what == "node":
            change = Change.DELETED if number % 2 else Change.ADDED
            item = played(number % (2 * NODES), 8)
            rig.control.on_node(change, msgspec.convert(item, NodeObject))
        elif what == "cordon":
            if f"node-{number % NODES:05d}" in rig.ledger.nodes:
                close(rig, f"node-{number % NODES:05d}", closed=bool(number // NODES % 2))
        elif what == "step":
            for _ in rig.control.turns():  # a state that is made anew takes many
                await rig.tally.settle(Breath())
        elif what == "settle":
            await rig.settle()
        elif what == "later":
            await rig.pass_s(float(number))
        elif key in self.pods:
            known = self.pods[key]
            if what == "bind":
                for other in [other for other in self.pods if number % 4 or other == key]:
                    self.bound(other)
            elif what == "delete":
                rig.lose(self.pods.pop(key))
            elif what == "end" and known.spec.node_name:
                phase = "Failed" if number % 3 == 0 else "Succeeded"
                self.put(key, node=known.spec.node_name, phase=phase)
                if number % 2:
                    rig.lose(self.pods.pop(key))
            elif what == "going":
                going = {"deletion_timestamp": "2026-01-01T01:00:00Z"}
                meta = msgspec.structs.replace(known.metadata, **going)
                self.pods[key] = msgspec.structs.replace(known, metadata=meta)
                rig.see(self.pods[key])


ACTS = st.tuples(
    st.sampled_from(
        ["submit"] * 3 + ["bind"] * 4 + ["settle"] * 3
        + ["step", "later", "node", "cordon", "delete", "end", "going"]
    ),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 60),
)  # fmt: skip


def counted(rig: Watched) -> tuple[Counter[str], Counter[str]]:
    """Return pods and gangs that wait, by reason, gang by gang."""
    pods: Counter[str] = Counter()
    gangs: Counter[str] = Counter()
    for gang in rig.control.gangs.values():
        if gang.live_pods():
            seen = view(gang, rig.ledger, rig.control.now_s())
            if seen.reason:
                gangs[seen.reason] += 1
                pods[seen.reason] += seen.pods_present - seen.pods_bound
    return pods, gangs


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(script=st.lists(ACTS, min_size=20, max_size=50))
def test_all_that_a_page_says_agrees_at_every_moment(
    script: list[tuple[str, int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])

    async def story() -> None:
        rig = Watched(NODES)
        cluster = Cluster(rig)
        was: list[tuple[float, Counter[str]]] = []
        for number, act in enumerate(script, 1):
            wall[0] += 1.0
            await cluster.act(*act)
            pods, gangs = counted(rig)
            await rig.tally.settle(Breath())
            # what changed was told: no look at all gangs was needed
            assert (+rig.tally.pods(), rig.tally.gangs()) == (+pods, gangs), act
            was.append((wall[0], +pods))
            page = await rig.now()
            assert page["number"] == number
            rows = [dict(zip(page["fields"], row, strict=True)) for row in page["gangs"]]
            assert Counter(row["reason"] for row in rows if row["reason"]) == gangs
            assert Counter(page["waiting"]) == gangs
            assert +Counter(page["pods"]) == +pods, "the headline"
            last = dict(zip(page["reasons"], page["curve"][-1][2:], strict=True))
            assert page["curve"][-1][0] == 0 and +Counter(last) == +pods, "the curve, now"
            assert set(page["reasons"]) <= set(TABLE)
        points = rig.memory.points
        for at_s, pods in was:  # and all of it is still there
            held = [point for point in points if point["unix_s"] <= at_s]
            assert (
                not held or +Counter({k: n for k, n in held[-1].items() if k != "unix_s"}) == pods
            )

    asyncio.run(story())


def test_what_waits_is_counted_in_the_state_that_is_and_not_in_the_one_before() -> None:
    """A state that is made anew takes many turns; until it is whole all see the one before it."""

    async def story() -> None:
        rig = Watched(2)
        for gang in range(2):
            rig.see(member(gang, 0, 1, 8, node=f"node-{gang:05d}"))
        await rig.settle()
        rig.see(member(2, 0, 2, 8), member(2, 1, 2, 8))
        await rig.settle()
        rig.see(member(3, 0, 1, 8))
        await rig.settle()
        await rig.tally.settle(Breath())
        assert rig.tally.pods() == {"capacity": 3}
        rig.ledger.begin_anew()
        for _ in rig.control.turns():
            await rig.tally.settle(Breath())
        await rig.settle()
        await rig.tally.settle(Breath())
        rig.lose(member(0, 0, 1, 8))  # the last gang would fit now, and its reason is another
        await rig.settle()
        await rig.tally.settle(Breath())
        assert rig.tally.pods() == {"capacity": 2, "behind_head": 1}

    asyncio.run(story())


def test_what_is_to_be_looked_at_is_bounded_where_nobody_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A replica that does not lead draws no curve."""
    monkeypatch.setattr("scheduler.status.tally.MOST_GONE", 10)
    rig = Watched(1)
    rig.see(member(1000, 0, 2, 8))
    for number in range(100):
        rig.see(member(number, 0, 2, 8))
        rig.lose(member(number, 0, 2, 8))
        rig.control.step()
    assert len(rig.tally._stale) <= 2 * 1 + 10
    asyncio.run(rig.tally.settle(Breath()))
    assert rig.tally.gangs().total() == 1


def test_a_thousand_gangs_of_one_shape_cost_a_look_each_once() -> None:
    """A pass that changes what they all wait for looks at none of them."""

    async def story() -> None:
        rig = Watched(2)
        looks: list[str] = []
        look = rig.tally._look_at

        def counting(key: Any) -> None:
            looks.append(key.name)
            look(key)

        rig.tally._look_at = counting  # type: ignore[method-assign]
        for gang in range(1000):
            rig.see(member(gang, 0, 1, 8))
        await rig.settle()
        await rig.tally.settle(Breath())
        assert rig.tally.pods()["capacity"] == 998
        looks.clear()
        runs = next(pod for key, pod in rig.control.pods.items() if key in rig.placed())
        rig.lose(runs)  # the next one starts, and all others are behind another head
        await rig.settle()
        await rig.tally.settle(Breath())
        assert rig.tally.pods()["capacity"] == 997
        assert len(set(looks)) < 10

    asyncio.run(story())
