"""A driver without a clock or a cluster: it carries out what the core decides."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.decisions import Admit, Decision, Wait
from scheduler.core.events import Admitted, Considered, GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role, Selector
from scheduler.core.shortage import outlook
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import ends_us, to_us
from scheduler.policies.decide import decide
from scheduler.policies.policy import Policy


def nodes(count: int, gpus: int = 8, **fields: object) -> list[Node]:
    """Return equal nodes n0, n1, ..."""
    return [Node(f"n{i}", PodShape(gpus), **fields) for i in range(count)]  # type: ignore[arg-type]


def gang(
    name: str,
    count: int,
    gpus: int,
    submit_s: float = 0.0,
    walltime_s: float = 100.0,
    **fields: object,
) -> Gang:
    """Return a gang of equal pods that may go anywhere."""
    roles = (Role(count, PodShape(gpus), Selector()),)
    return Gang(name, roles, to_us(submit_s), to_us(walltime_s), **fields)  # type: ignore[arg-type]


def submit(state: ClusterState, *gangs: Gang) -> None:
    for each in gangs:
        apply(state, GangSubmitted(each))


def let_pass(state: ClusterState, policy: Policy, now_s: float = 0.0) -> list[Decision]:
    """Run one pass to its end, carry its decisions out and return them."""
    made: list[Decision] = []
    now_us = to_us(now_s)
    while True:
        for decision in decide(state, policy, now_us):
            made.append(decision)
            if isinstance(decision, Admit):
                end_us = ends_us(now_us, state.gangs[decision.gang].gang.walltime_us)
                apply(state, Admitted(decision.gang, decision.placement, now_us, end_us))
            elif isinstance(decision, Considered):
                apply(state, decision)
                return made
            else:
                apply(state, decision)  # type: ignore[arg-type]


def admitted(decisions: Iterable[Decision]) -> list[str]:
    return [each.gang for each in decisions if isinstance(each, Admit)]


def waits(decisions: Iterable[Decision]) -> list[Wait]:
    return [each for each in decisions if isinstance(each, Wait)]


def check_reasons(state: ClusterState, policy: Policy) -> None:
    """Check after a pass that what was said last of every waiting gang is true."""
    for family in state.queue.families.values():
        said = (family.fit_pods, family.free_pods, family.short, family.apart)
        assert said == outlook(state.capacity, family.roles, policy.placer), family.key
