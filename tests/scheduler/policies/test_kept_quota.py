"""What a head keeps of quota that it lacks: borrowers cannot pass it for ever."""

from __future__ import annotations

import pytest

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, Preempt
from scheduler.core.events import Admitted, Considered, GangFinished, GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role
from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Preference,
    Queue,
    Queues,
    Quota,
    Search,
    Victims,
)
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import ends_us, to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import nodes
from tests.scheduler.policies.test_preempting import told

POLICY = catalog.policy(PolicySpec())
ALL = Flavor("all")


def of(gpus: int) -> dict[str, dict[str, Quota]]:
    return {"all": {"gpus": Quota(gpus)}}


def submit(
    state: ClusterState, name: str, queue: str, gpus: int, at_s: float, walltime_s: float
) -> None:
    roles = (Role(gpus, PodShape(1)),)
    ordinal = len(state.gangs)
    gang = Gang(name, roles, to_us(at_s), to_us(walltime_s), queue=queue, ordinal=ordinal)
    apply(state, GangSubmitted(gang))


def starts(state: ClusterState, now_s: float) -> list[str]:
    """Run a pass to its end and return who starts, until its walltime."""
    found = []
    while True:
        decided = decide(state, POLICY, to_us(now_s))
        assert decide(state, POLICY, to_us(now_s)) == decided, "to decide changes nothing"
        for decision in decided:
            if isinstance(decision, Admit):
                found.append(decision.gang)
                end_us = ends_us(to_us(now_s), state.gangs[decision.gang].gang.walltime_us)
                apply(state, Admitted(decision.gang, decision.placement, to_us(now_s), end_us))
            else:
                apply(state, decision)  # type: ignore[arg-type]
            if isinstance(decision, Considered):
                validate(state)
                return found


def lent_out(discipline: Holding, *cohorts: Cohort, own: int = 8) -> ClusterState:
    """Return x and y of b on 4 GPUs each, all of them of a, and z, which waits for more."""
    cohorts = cohorts or (Cohort("root"),)
    a = Queue("a", cohorts[-1].name, quota=of(own), discipline=discipline)
    b = Queue("b", "root", quota=of(0), discipline=Holding.SKIP)
    state = ClusterState(nodes(2, 8), POLICY.order, Queues((ALL,), cohorts, (a, b)))
    for name in "xyz":
        submit(state, name, "b", 4, 0.0, 100.0)
    assert starts(state, 0.0) == ["x", "y"]
    return state


def test_a_strict_head_gets_what_borrowers_give_back() -> None:
    state = lent_out(Holding.STRICT)
    submit(state, "p", "a", 8, 1.0, 10.0)
    assert starts(state, 1.0) == []
    apply(state, GangFinished("x"))
    assert starts(state, 2.0) == [], "z is older, but it would borrow what p keeps"
    apply(state, GangFinished("y"))
    assert starts(state, 3.0) == ["p"]


def test_others_pass_the_head_of_a_skip_queue() -> None:
    state = lent_out(Holding.SKIP)
    submit(state, "p", "a", 8, 1.0, 10.0)
    apply(state, GangFinished("x"))
    assert starts(state, 2.0) == ["z"]


@pytest.mark.parametrize(("walltime_s", "passes"), [(90.0, ["w"]), (99.0, [])])
def test_an_easy_head_is_promised_the_quota(walltime_s: float, passes: list[str]) -> None:
    """It is due at 100, when y ends: who ends before that may borrow, and nobody else."""
    state = lent_out(Holding.EASY)
    submit(state, "p", "a", 8, 1.0, 10.0)
    assert starts(state, 1.0) == []
    assert state.reservations["p"].start_us == to_us(100.0)
    apply(state, GangFinished("x"))
    submit(state, "w", "b", 4, 2.0, walltime_s)
    assert starts(state, 2.0) == passes
    apply(state, GangFinished("y"))
    for name in passes:
        apply(state, GangFinished(name))
    assert starts(state, 92.0)[0] == "p"


def test_who_outlasts_a_promise_of_quota_uses_what_is_left_of_it() -> None:
    """At 100 p takes 8 of the 12 that a and c have; w, which outlasts that, may have 4 of them."""
    a = Queue("a", "root", quota=of(8), discipline=Holding.EASY)
    others = [Queue(name, "root", quota=of(gpus)) for name, gpus in (("b", 0), ("c", 4))]
    file = Queues((ALL,), (Cohort("root"),), (a, *others))
    state = ClusterState(nodes(3, 8), POLICY.order, file)
    submit(state, "x", "b", 8, 0.0, 100.0)
    assert starts(state, 0.0) == ["x"]
    submit(state, "p", "a", 8, 1.0, 10.0)
    assert starts(state, 1.0) == []
    submit(state, "v", "c", 5, 2.0, 500.0)
    assert starts(state, 2.0) == []
    submit(state, "w", "b", 4, 3.0, 500.0)
    assert starts(state, 3.0) == ["w"]


@pytest.mark.parametrize("discipline", [Holding.STRICT, Holding.EASY])
def test_the_quota_of_a_cohort_is_kept_for_its_queues(discipline: Holding) -> None:
    org = Cohort("org", "root", quota=of(8))
    state = lent_out(discipline, Cohort("root"), org, own=0)
    submit(state, "p", "a", 8, 1.0, 10.0)
    assert starts(state, 1.0) == []
    apply(state, GangFinished("x"))
    submit(state, "w", "b", 4, 2.0, 500.0)
    assert starts(state, 2.0) == []
    apply(state, GangFinished("y"))
    assert starts(state, 3.0)[0] == "p"


@pytest.mark.parametrize("discipline", list(Holding))
def test_a_gang_that_needs_the_whole_tree_keeps_nothing(discipline: Holding) -> None:
    """p would borrow itself, so it has no better right than z."""
    state = lent_out(discipline, Cohort("root", quota=of(1)), own=7)
    submit(state, "p", "a", 8, 1.0, 10.0)
    apply(state, GangFinished("x"))
    assert starts(state, 2.0) == ["z"]


# -- the words that order flavors ------------------------------------------------------------


def two_flavors(**words: object) -> ClusterState:
    """Return a cluster where `old` fills the quota of team for a100; h100 it may borrow."""
    flavors = (Flavor("a100", gpu_model="a100"), Flavor("h100", gpu_model="h100"))
    quota = {"a100": {"gpus": Quota(8)}, "h100": {"gpus": Quota(0)}}
    team = Queue("team", "c", quota=quota, within=Victims.LOWER_PRIORITY, **words)  # type: ignore[arg-type]
    lender = Queue("lender", "c", quota={"h100": {"gpus": Quota(8)}})
    here = [Node("a0", PodShape(8), "", "a100"), Node("h0", PodShape(8), "", "h100")]
    state = ClusterState(here, POLICY.order, Queues(flavors, (Cohort("c"),), (team, lender)))
    for name, priority in (("old", 0), ("new", 1)):
        roles = (Role(8, PodShape(1)),)
        apply(state, GangSubmitted(Gang(name, roles, 0, to_us(9.0), priority, "team")))
        if name == "old":
            assert starts(state, 0.0) == ["old"]
            assert state.node_names(state.gangs["old"].held)[0] == "a0"
    return state


@pytest.mark.parametrize(
    ("words", "evicts"),
    [
        ({}, False),
        ({"when_can_preempt": Search.STOP}, True),
        ({"preference": Preference.PREEMPTION_OVER_BORROWING}, False),
        (
            {
                "preference": Preference.PREEMPTION_OVER_BORROWING,
                "when_can_borrow": Search.TRY_NEXT,
            },
            True,
        ),
        ({"when_can_borrow": Search.TRY_NEXT}, False),
    ],
)
def test_a_queue_says_whether_it_evicts_before_it_tries_the_next_flavor(
    words: dict[str, object], evicts: bool
) -> None:
    """It would evict `old` in its own quota of a100, or borrow h100."""
    state = two_flavors(**words)
    (made,) = told(state, 1.0)
    assert isinstance(made, Preempt) is evicts
    assert made.gang == "new"  # type: ignore[union-attr]


# -- passes that are asked for again ----------------------------------------------------------


def test_a_pass_in_which_nothing_can_start_keeps_the_time_to_come_back() -> None:
    """`run` may be evicted from 5 on; what comes at 2 changes nothing for the head."""
    quota = {"all": {"gpus": Quota(8)}}
    team = Queue("a", quota=quota, within=Victims.LOWER_PRIORITY, min_runtime_s=5.0)
    state = ClusterState(nodes(1, 8), POLICY.order, Queues((ALL,), (), (team,)))
    for name, priority in (("run", 0), ("head", 1)):
        roles = (Role(8, PodShape(1)),)
        apply(state, GangSubmitted(Gang(name, roles, 0, to_us(99.0), priority, "a")))
        assert starts(state, 0.0) == (["run"] if name == "run" else [])
    assert state.until_us == to_us(5.0)
    submit(state, "never", "a", 99, 2.0, 1.0)
    assert starts(state, 2.0) == []
    assert state.until_us == to_us(5.0)
    (made,) = told(state, 5.0)
    assert isinstance(made, Preempt) and made.victims == ("run",)


def test_a_promise_that_lapsed_makes_nobody_wait() -> None:
    """j0 has the promise until j12 takes the quota that it would borrow; j11 waits for no one."""
    flavors = (Flavor("a", gpu_model="a"), Flavor("h", gpu_model="h"))
    of_u = {"a": {"gpus": Quota(8)}, "h": {"gpus": Quota(4, 4)}}
    u = Queue("u", "root", quota=of_u, discipline=Holding.EASY)
    v = Queue("v", "root", quota={"a": {"gpus": Quota(16, 4)}})
    here = [Node(name, PodShape(8), "", name[0]) for name in ("a0", "a1", "h0")]
    state = ClusterState(here, POLICY.order, Queues(flavors, (Cohort("root"),), (u, v)))

    def come(name: str, queue: str, pods: int, gpus: int, at_s: float) -> list[str]:
        roles = (Role(pods, PodShape(gpus)),)
        gang = Gang(name, roles, to_us(at_s), to_us(100.0), queue=queue, ordinal=len(state.gangs))
        apply(state, GangSubmitted(gang))
        return starts(state, at_s)

    assert come("j7", "v", 4, 1, 4.0) == ["j7"]
    assert come("j0", "u", 2, 8, 5.0) == []
    assert state.reservations["j0"].start_us == to_us(104.0)
    assert come("j11", "u", 1, 1, 12.0) == []
    assert come("j12", "v", 2, 2, 15.0) == ["j12", "j11"]
