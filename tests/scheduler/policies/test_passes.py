"""What a discipline sees while it works."""

from __future__ import annotations

from dataclasses import replace

from scheduler.core.decisions import Admit
from scheduler.core.queueing import GangState
from scheduler.core.state import ClusterState
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.passes import Pass, place_missing
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import gang, let_pass, nodes, submit


def test_a_gang_placed_after_another_was_admitted_gets_other_nodes() -> None:
    def one_by_one(around: Pass, head: GangState) -> None:
        for name in ("a", "b"):
            member = around.state.gangs[name]
            placement = place_missing(around.state, member, around.placer)
            assert placement is not None
            around.admit(member, placement)

    policy = replace(catalog.policy(PolicySpec()), discipline=one_by_one)
    state = ClusterState(nodes(3, 4))
    submit(state, gang("runs", 1, 4))
    let_pass(state, policy)
    submit(state, gang("head", 3, 4, 1.0), gang("a", 1, 4, 2.0), gang("b", 1, 4, 3.0))
    free = state.capacity.free_on_each()
    placed = [d.placement[0].lo for d in decide(state, policy, 0) if isinstance(d, Admit)]
    assert placed == [1, 2]
    assert state.capacity.free_on_each() == free, "nothing of it outlives the pass"
