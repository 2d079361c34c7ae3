"""The rows about queues measure what they say. Nothing here takes a time."""

from __future__ import annotations

from itertools import product

import pytest

from bench import flood, preemption, queues
from bench.company import NUM_DEPARTMENTS, NUM_TEAMS, company
from bench.processes import QUICK
from scheduler.core.audit import validate
from scheduler.core.decisions import Preempt
from scheduler.core.events import GangCancelled
from scheduler.core.queues import checked
from scheduler.core.quota import QuotaTree
from scheduler.core.state import apply


def test_teams_have_all_of_the_cluster_in_three_levels() -> None:
    tree = QuotaTree(checked(company(6_001, "skip"), "company"))
    assert tree.num_queues == NUM_TEAMS
    assert sum(nominal[0] for nominal in tree.nominal) == 6_001
    assert max(tree.heights) == 2
    assert len(set(tree.parent[:NUM_TEAMS])) == NUM_DEPARTMENTS


@pytest.mark.parametrize("discipline", queues.DISCIPLINES)
def test_the_month_has_evictions(discipline: str) -> None:
    found = queues.measure_company("60", "1", discipline)
    assert 0 < found["evictions"] < found["jobs"]


@pytest.mark.parametrize("discipline", ["strict", "easy"])
def test_one_queue_with_all_the_quota_starts_jobs_when_none_does(discipline: str) -> None:
    with_one, without = (
        queues.measure_one_queue("40", "2", discipline, file) for file in ("one", "none")
    )
    assert with_one["digest"] == without["digest"]
    other = "easy" if discipline == "strict" else "strict"
    assert queues.measure_one_queue("40", "2", other, "none")["digest"] != without["digest"]


@pytest.mark.parametrize("world", preemption.WORLDS)
def test_heads_of_a_full_cluster_evict_or_wait_and_leave_no_trace(world: preemption.World) -> None:
    state = preemption.filled(world, 60, 40)
    validate(state)
    evicted = 0
    for at, (whose, ask, priority) in enumerate(preemption.heads(60)):
        name = preemption.submit(state, at, whose, ask, priority)
        found = [decision for _, decision in zip(range(1), _decisions(state), strict=False)]
        evicted += isinstance(found[0], Preempt)
        apply(state, GangCancelled(name))
    validate(state)
    assert evicted


def _decisions(state):  # type: ignore[no-untyped-def]
    return (decision for _, decision in preemption.calls(state))


def test_the_file_against_a_flood_gives_each_team_a_third() -> None:
    file = checked(flood.thirds(90), "flood.toml")
    assert [queue.name for queue in file.queues] == list(flood.LOADS)
    assert {one["gpus"].nominal for queue in file.queues for one in queue.quota.values()} == {240}


def test_a_flood_fills_what_others_leave_and_gives_it_back() -> None:
    found = flood.measure_flood("90", "3")
    assert found["flood_preemptions"] > 0
    assert found["flood_s"] > max(found["alpha_s"], found["beta_s"])


def test_quick_measurements_have_every_head_that_fits() -> None:
    assert preemption.asks(QUICK.nodes) and preemption.asks(7_500) == list(preemption.ASKS)
    assert len(list(product(preemption.WORLDS, preemption.heads(QUICK.nodes)))) > 200
