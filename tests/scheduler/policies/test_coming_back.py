"""A policy whose decisions change with time alone: `Considered` says when to decide again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from math import inf
from pathlib import Path

import pandas as pd
import pytest

from scheduler.core import ordering, placement
from scheduler.core.decisions import Decision
from scheduler.core.events import Considered
from scheduler.core.queueing import GangState
from scheduler.core.state import ClusterState
from scheduler.core.times import to_s, to_us
from scheduler.journal.lines import encode, snapshot
from scheduler.journal.replay import replay
from scheduler.kube.objects import Pod
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.passes import Pass
from scheduler.policies.policy import Policy
from scheduler.policies.skip import skip
from scheduler.policies.spec import PolicySpec
from sim import run
from sim.schema.costs import Costs
from tests.scheduler.controller.rig import Rig, pod
from tests.scheduler.core.driving import admitted, gang, let_pass, nodes, submit

OPENS_US = to_us(60.0)


def courteous(around: Pass, head: GangState) -> None:
    """Let others pass a head after the first minute."""
    if around.now_us < OPENS_US:
        around.come_back(OPENS_US)
    else:
        skip(around, head)


POLICY = Policy("courteous", ordering.fifo, placement.pack, courteous)


def crowded() -> ClusterState:
    """`head` does not fit beside `a`; `small`, behind it, does."""
    state = ClusterState(nodes(3))
    submit(state, gang("a", 2, 8, 0.0), gang("head", 2, 8, 1.0), gang("small", 1, 8, 2.0))
    return state


def until_s(decisions: list[Decision]) -> float:
    (considered,) = [one for one in decisions if isinstance(one, Considered)]
    return to_s(considered.until_us)


def test_a_pass_says_when_to_come_back_and_then_decides_anew() -> None:
    state = crowded()
    made = let_pass(state, POLICY, 2.0)
    assert admitted(made) == ["a"]
    assert until_s(made) == 60.0
    made = let_pass(state, POLICY, 30.0)  # somebody looked too early
    assert (admitted(made), until_s(made)) == ([], 60.0)
    made = let_pass(state, POLICY, 60.0)
    assert (admitted(made), until_s(made)) == (["small"], inf)


def test_the_earliest_of_several_times_counts() -> None:
    def two(around: Pass, head: GangState) -> None:
        for at_s in (50.0, 20.0, 30.0):
            around.come_back(to_us(at_s))

    made = let_pass(crowded(), Policy("two", ordering.fifo, placement.pack, two), 2.0)
    assert until_s(made) == 20.0


def test_coming_back_at_once_would_never_end() -> None:
    def restless(around: Pass, head: GangState) -> None:
        around.come_back(around.now_us)

    state = crowded()
    policy = Policy("restless", ordering.fifo, placement.pack, restless)
    with pytest.raises(ValueError, match=r"a pass at 2000000 us cannot come back at 2000000 us"):
        let_pass(state, policy, 2.0)
    with pytest.raises(ValueError, match="cannot come back"):
        decide(state, policy, to_us(2.0))


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> PolicySpec:
    """The policy by name, in the order that a live muster and a run can share."""
    monkeypatch.setitem(catalog.DISCIPLINES, "courteous", catalog.Choice(courteous, "a minute"))
    return PolicySpec("priority", "courteous")


@pytest.mark.parametrize("costs", [None, Costs()])
def test_the_simulator_comes_back_without_an_event(named: PolicySpec, costs: Costs | None) -> None:
    jobs = pd.DataFrame(
        [("a", 0.0, 500.0, 2), ("head", 1.0, 100.0, 2), ("small", 2.0, 10.0, 1)],
        columns=["job", "submit_s", "duration_s", "num_pods"],
    ).assign(gpus_per_pod=8)
    result = run(jobs, nodes=3, policy=named, audit=True, costs=costs)
    start_s = result.jobs.set_index("job")["start_s"]
    assert start_s.to_dict() == {"a": 0.0, "head": 500.0, "small": 60.0}
    assert result.manifest["end_s"] == 600.0


def test_a_run_ends_with_its_last_job_and_not_with_a_time_to_come_back(named: PolicySpec) -> None:
    jobs = pd.DataFrame(
        [("a", 0.0, 20.0, 2), ("head", 1.0, 5.0, 2)],
        columns=["job", "submit_s", "duration_s", "num_pods"],
    ).assign(gpus_per_pod=8)
    result = run(jobs, nodes=3, policy=named)
    assert result.manifest["end_s"] == 25.0, "nobody waits at 60 s"


def test_a_live_muster_comes_back_without_an_event_and_replay_agrees(
    named: PolicySpec, tmp_path: Path
) -> None:
    written: list[bytes] = []

    async def story(rig: Rig) -> None:
        rig.see(*ours("a", 2), *ours("head", 2))
        await rig.settle()
        rig.see(*ours("small", 1))
        await rig.settle()
        assert set(rig.placed()) == {"a-0", "a-1"}
        assert rig.control.work.step_at_s == 60.0
        with suppress(TimeoutError):  # what was heard before is no reason any more
            await asyncio.wait_for(rig.control.work.something(), 0.2)
        rig.clock_s += 60.5  # and nothing more is heard
        await asyncio.wait_for(rig.control.work.something(), 5.0)
        rig.control.step()
        await rig.control.finish_work(5.0)
        assert set(rig.placed()) == {"a-0", "a-1", "small-0"}
        assert rig.control.work.step_at_s == inf

    def record(now_s: float, item: object) -> None:
        written.append(encode(now_s, item))

    def rebuilt(now_s: float, state: ClusterState) -> None:
        written[:] = [snapshot(now_s, state, named)]

    async def tell() -> None:
        rig = Rig(nodes=3, policy=asdict(named))
        rig.ledger.record, rig.ledger.rebuilt = record, rebuilt
        rig.ledger.begin_anew()
        await story(rig)

    asyncio.run(tell())
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b"".join(line + b"\n" for line in written))
    found = replay(journal)
    assert not found.difference
    assert found.num_decisions > 4


def ours(group: str, count: int) -> list[Pod]:
    """Return the pods of a gang; each fills a node."""
    said = {"muster.dev/group": group, "muster.dev/min-member": str(count)}
    return [pod(f"{group}-{i}", annotations=said) for i in range(count)]
