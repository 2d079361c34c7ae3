"""Several queues with quota: random trees and gangs, and what must hold after every event."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from scheduler.core.audit import validate
from scheduler.core.decisions import Admit, PendingReason
from scheduler.core.events import (
    Admitted,
    CapacityReserved,
    Considered,
    GangCancelled,
    GangFinished,
    GangInterrupted,
    GangResized,
    GangSubmitted,
    MemberLost,
    NodeAdded,
    NodeLost,
    NodeReturned,
    QueuesChanged,
    ReservationReleased,
)
from scheduler.core.model import Gang, Node, Phase, PodShape, Role, Selector
from scheduler.core.placement import place
from scheduler.core.queues import (
    Cohort,
    Flavor,
    Holding,
    Queue,
    Queues,
    Quota,
    Search,
    Serve,
    Sharing,
    checked,
)
from scheduler.core.sentences import never, why
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, ends_us, to_us
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.explain import explain
from scheduler.policies.heads import by_borrowing
from scheduler.policies.queued import QueuedPass
from scheduler.policies.spec import PolicySpec
from tests.scheduler.core.driving import let_pass, nodes

POLICY = catalog.policy(PolicySpec())
SEEDS = range(12)


def two_models() -> list[Node]:
    return [
        *(Node(f"a{i}", PodShape(4, 16_000), "p", "a100") for i in range(3)),
        *(Node(f"h{i}", PodShape(8, 32_000), "p", "h100") for i in range(2)),
    ]


def random_queues(draw: random.Random) -> Queues:
    """Return up to three levels over two flavors, with limits here and there."""
    cohorts = [Cohort("root"), Cohort("left", "root"), Cohort("right", draw.choice(["", "root"]))]

    def quotas(has_parent: bool) -> dict[str, dict[str, Quota]]:
        found: dict[str, dict[str, Quota]] = {}
        for flavor in draw.sample(["a100", "h100"], draw.choice([1, 2, 2])):
            nominal = draw.choice([0, 4, 8, 16])
            borrow = draw.choice([None, None, 0, 4]) if has_parent else None
            lend = draw.choice([None, None, 0, nominal // 2]) if has_parent else None
            found[flavor] = {"gpus": Quota(nominal, borrow, lend)}
            if draw.random() < 0.2:
                found[flavor]["cpu"] = Quota(draw.choice([8_000, 32_000]))
        return found

    queues = []
    for name in "uvwxyz"[: draw.randint(2, 6)]:
        cohort = draw.choice(["", "root", "left", "right"])
        queues.append(
            Queue(
                name,
                cohort,
                quota=quotas(bool(cohort)),
                discipline=draw.choice(list(Holding)),
                when_can_borrow=draw.choice(list(Search)),
            )
        )
    flavors = (Flavor("a100", gpu_model="a100"), Flavor("h100", gpu_model="h100"))
    return checked(Queues(flavors, tuple(cohorts), tuple(queues)), "queues.toml")


def random_gang(draw: random.Random, number: int, file: Queues, now_s: float) -> Gang:
    selector = Selector("", draw.choice(["", "", "a100", "h100"]))
    roles: tuple[Role, ...] = (
        Role(draw.choice([1, 1, 2, 3, 5]), PodShape(draw.choice([1, 2, 4]), 1_000), selector),
    )
    if draw.random() < 0.15:
        other = draw.choice([selector, Selector("", "h100")])
        roles = (Role(1, PodShape(1), other, "master"), *roles)
    return Gang(
        f"g{number}",
        roles,
        to_us(now_s),
        to_us(draw.choice([5.0, 20.0, 100.0])),
        draw.choice([0, 0, 1]),
        draw.choice(file.queues).name,
        ordinal=number,
    )


def drive(state: ClusterState, now_s: float) -> None:
    """Run a pass to its end; no gang starts above what is available to its queue."""
    book = state.book
    assert book is not None
    now_us = to_us(now_s)
    for _ in range(500):
        for decision in decide(state, POLICY, now_us):
            if isinstance(decision, Admit):
                member = state.gangs[decision.gang]
                reservation = state.reservations.get(decision.gang)
                if reservation is None or not reservation.placement:
                    takes = book.amounts_of(member.missing, decision.placement)
                    for cell, amount in takes:
                        left = book.tree.available(member.queue, cell)
                        assert amount <= left, f"{decision.gang} takes {amount} of {left}"
                end_us = ends_us(now_us, member.gang.walltime_us)
                apply(state, Admitted(decision.gang, decision.placement, now_us, end_us))
            else:
                apply(state, decision)  # type: ignore[arg-type]
                if isinstance(decision, Considered):
                    return
    raise AssertionError("the pass does not end")


def check_nobody_is_forgotten(state: ClusterState, now_s: float) -> None:
    """Check that no head with quota and nodes waits, unless one before it may make it wait."""
    assert state.book is not None
    around = QueuedPass(state, state.book, POLICY, to_us(now_s))
    try:
        for head in sorted(around.heads(), key=by_borrowing):
            member = head.member
            found = [
                option
                for option in around.with_quota(member)
                if place(state.capacity, option.narrow(member.missing), POLICY.placer) is not None
            ]
            assert not found, f"head {member.gang.name} could start"
            words = state.book.file.queues[member.queue]
            if words.discipline is not Holding.SKIP:
                return  # it holds nodes, or has the promise
    finally:
        around.end()


def random_event(draw: random.Random, state: ClusterState, file: Queues, at: int) -> None:
    running = [name for name, member in state.gangs.items() if member.held]
    kind = draw.random()
    if kind < 0.5 or not running:
        apply(state, GangSubmitted(random_gang(draw, at, file, float(at))))
    elif kind < 0.78:
        apply(state, GangFinished(draw.choice(running)))
    elif kind < 0.82:
        apply(state, GangInterrupted(draw.choice(running)))
    elif kind < 0.87:
        member = state.gangs[draw.choice(running)]
        piece = draw.choice(member.held)
        node = state.capacity.nodes[piece.lo].name
        apply(state, MemberLost(member.gang.name, piece.role, node))
    elif kind < 0.91:
        apply(state, GangCancelled(draw.choice(list(state.gangs))))
    elif kind < 0.94:
        name = draw.choice(running)
        roles = state.gangs[name].gang.roles
        count = max(1, roles[-1].count + draw.choice([-1, 1]))
        grown = Role(count, roles[-1].pod, roles[-1].selector, roles[-1].name)
        apply(state, GangResized(name, (*roles[:-1], grown)))
    elif kind < 0.97:
        node = draw.choice(state.capacity.nodes).name
        apply(state, NodeLost(node))
        apply(state, NodeReturned(node))
    else:
        waiting = [m for m in state.queue.in_order() if not m.held and len(m.gang.roles) == 1]
        if waiting and not state.reservations:
            member = draw.choice(waiting)
            placement = place(state.capacity, member.missing, POLICY.placer)
            if placement is not None:
                apply(state, CapacityReserved(member.gang.name, placement, to_us(at + 50.0)))
                if draw.random() < 0.7:
                    apply(state, ReservationReleased(member.gang.name))


@pytest.mark.parametrize("seed", SEEDS)
def test_usage_is_what_is_held_and_nobody_starts_above_quota(seed: int) -> None:
    draw = random.Random(seed)
    file = random_queues(draw)
    state = ClusterState(two_models(), POLICY.order, file)
    for at in range(120):
        random_event(draw, state, file, at)
        validate(state)
        reserved = {name for name, each in state.reservations.items() if each.placement}
        if not reserved:
            drive(state, float(at))
            validate(state)
            check_nobody_is_forgotten(state, float(at))
        else:
            for name in reserved:
                apply(state, ReservationReleased(name))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_trial_leaves_no_trace_in_quota_and_lines(seed: int) -> None:
    draw = random.Random(seed)
    file = random_queues(draw)
    state = ClusterState(two_models(), POLICY.order, file)
    for at in range(60):
        random_event(draw, state, file, at)
        for name in list(state.reservations):
            apply(state, ReservationReleased(name))
        drive(state, float(at))
        book = state.book
        assert book is not None
        before = (
            [list(row) for row in book.tree.usage],
            [line.seen for line in state.queue.lines],
            state.queue.head_left,
        )
        with state.trial():
            for more in range(3):
                random_event(draw, state, file, 1000 + 10 * at + more)
            apply(state, NodeAdded(Node(f"new{at}", PodShape(8), "p", "h100")))
            with state.trial():
                random_event(draw, state, file, 9000 + at)
            validate(state)
        after = (
            [list(row) for row in book.tree.usage],
            [line.seen for line in state.queue.lines],
            state.queue.head_left,
        )
        assert after == before
        validate(state)


# -- what a queues file means for the nodes ---------------------------------------------------


def one(quota: int = 8, **words: object) -> Queues:
    queue = Queue("team", quota={"all": {"gpus": Quota(quota)}}, **words)  # type: ignore[arg-type]
    return Queues((Flavor("all"),), (), (queue,))


def gang(name: str, count: int, gpus: int = 1, queue: str = "", at_s: float = 0.0) -> Gang:
    return Gang(name, (Role(count, PodShape(gpus)),), to_us(at_s), queue=queue)


def test_a_node_in_two_flavors_is_refused() -> None:
    file = Queues(
        (Flavor("fast", gpu_model="h100"), Flavor("pool", pool="p")),
        (),
        (Queue("team", quota={"fast": {"gpus": Quota(1)}}),),
    )
    with pytest.raises(ValueError, match=r"node 'h0' .* is in flavors 'fast' and 'pool'"):
        ClusterState(two_models(), queues=file)
    state = ClusterState([Node("h0", PodShape(8), "q", "h100")], queues=file)
    with pytest.raises(ValueError, match="'fast' and 'pool'"):
        apply(state, NodeAdded(Node("h1", PodShape(8), "p", "h100")))
    validate(state)


def test_a_flavor_without_nodes_is_refused_where_somebody_has_quota_for_it() -> None:
    flavors = (Flavor("fast", gpu_model="b200"), Flavor("old", gpu_model="v100"))
    file = Queues(flavors, (), (Queue("team", quota={"fast": {"gpus": Quota(1)}}),))
    with pytest.raises(ValueError, match=r"'team' has quota for flavor 'fast'.*'b200'.*'h100'"):
        ClusterState(two_models(), queues=file)


def test_a_flavor_by_labels_is_refused() -> None:
    file = Queues((Flavor("spot", labels={"spot": "true"}),), (), (Queue("q", quota={"spot": {}}),))
    with pytest.raises(ValueError, match=r"flavor 'spot'.*labels.*pool or gpu_model"):
        ClusterState(nodes(1), queues=file)


def test_words_that_make_no_sense_are_refused() -> None:
    file = Queues((), (Cohort("a", "b"), Cohort("b", "a")), (Queue("q"),))
    with pytest.raises(ValueError, match="are a cycle"):
        ClusterState(nodes(1), queues=file)


def test_an_unknown_queue_is_refused_with_those_there_are() -> None:
    state = ClusterState(nodes(2), queues=one())
    with pytest.raises(ValueError, match="gang 'g': queue 'teem' is unknown; choose one of team"):
        apply(state, GangSubmitted(gang("g", 1, queue="teem")))
    assert not state.gangs
    validate(state)


def test_a_gang_without_a_queue_goes_to_the_only_one_or_to_the_default() -> None:
    state = ClusterState(nodes(2), queues=one())
    apply(state, GangSubmitted(gang("g", 1)))
    assert state.gangs["g"].queue == 0
    quota = {"all": {"gpus": Quota(8)}}
    two = Queues((Flavor("all"),), (), (Queue("x", quota=quota), Queue("default", quota=quota)))
    state = ClusterState(nodes(2), queues=two)
    apply(state, GangSubmitted(gang("g", 1)))
    assert state.gangs["g"].queue == 1
    two.queues[1].name = "y"
    state = ClusterState(nodes(2), queues=two)
    with pytest.raises(ValueError, match="names no queue, and none is called 'default'"):
        apply(state, GangSubmitted(gang("g", 1)))


def test_a_gang_above_what_its_queue_could_have_never_fits() -> None:
    quota = {"all": {"gpus": Quota(8, borrow=2)}}
    lender = Queue("other", "c", quota={"all": {"gpus": Quota(8)}})
    file = Queues((Flavor("all"),), (Cohort("c"),), (Queue("team", "c", quota=quota), lender))
    state = ClusterState(nodes(4), queues=file)
    apply(state, GangSubmitted(gang("g", 11, queue="team")))
    assert state.gangs["g"].phase is Phase.IMPOSSIBLE
    said = explain(state, "g")
    assert said.reason is PendingReason.NEVER_FITS and said.unmet is not None
    assert never(said.unmet) == "exceeds the quota of team: asks 11 GPUs, can have 10 at most"
    apply(state, GangSubmitted(gang("h", 10, queue="team")))
    assert state.gangs["h"].phase is Phase.WAITING
    quota["all"]["gpus"].borrow = None
    apply(state, QueuesChanged(file))
    assert state.gangs["g"].phase is Phase.WAITING
    validate(state)


def test_a_selector_that_no_flavor_of_the_queue_meets_never_fits() -> None:
    flavors = (Flavor("a100", gpu_model="a100"), Flavor("h100", gpu_model="h100"))
    team = Queue("team", quota={"a100": {"gpus": Quota(8)}})
    other = Queue("other", quota={"h100": {"gpus": Quota(8)}})
    state = ClusterState(two_models(), queues=Queues(flavors, (), (team, other)))
    roles = (Role(1, PodShape(1), Selector("", "h100")),)
    apply(state, GangSubmitted(Gang("g", roles, queue="team")))
    said = explain(state, "g").unmet
    assert said is not None
    assert never(said) == "exceeds the quota of team: it has none on nodes that the gang may use"


def test_a_gang_is_placed_inside_one_flavor() -> None:
    """4 GPUs are free of each model: 6 pods fit neither, though 8 GPUs are free in all."""
    flavors = (Flavor("a100", gpu_model="a100"), Flavor("h100", gpu_model="h100"))
    quota = {name: {"gpus": Quota(16)} for name in ("a100", "h100")}
    here = [Node("a", PodShape(4), "", "a100"), Node("h", PodShape(8), "", "h100")]
    state = ClusterState(here, queues=Queues(flavors, (), (Queue("team", quota=quota),)))
    apply(state, GangSubmitted(gang("first", 4, queue="team")))
    let_pass(state, POLICY)
    assert state.node_names(state.gangs["first"].held) == ["a"] * 4
    apply(state, GangSubmitted(gang("second", 4, at_s=1.0)))
    apply(state, GangSubmitted(gang("third", 6, at_s=2.0)))
    let_pass(state, POLICY)
    assert state.node_names(state.gangs["second"].held) == ["h"] * 4
    apply(state, GangFinished("first"))
    let_pass(state, POLICY)
    assert not state.gangs["third"].held
    assert explain(state, "third").reason is PendingReason.CAPACITY
    validate(state)


def test_the_reason_says_whose_quota_is_short_and_who_borrows() -> None:
    quota = {"all": {"gpus": Quota(8)}}
    queues = (Queue("a", "c", quota=quota), Queue("b", "c", quota=quota))
    file = Queues((Flavor("all"),), (Cohort("c"),), queues)
    state = ClusterState(nodes(4), queues=file)
    apply(state, GangSubmitted(gang("big", 12, queue="b")))
    let_pass(state, POLICY)
    apply(state, GangSubmitted(gang("mine", 7, queue="a", at_s=1.0)))
    let_pass(state, POLICY, 1.0)
    said = explain(state, "mine")
    assert said.reason is PendingReason.QUOTA
    assert why(said, present=7) == (
        "needs 7 GPUs, but queue a has quota left for 4: it uses 0, its own quota is 8 "
        "(flavor all); 3 would have to be given back; queues that borrow: b 4"
    )


def test_the_reason_says_when_walltimes_give_enough_quota_back() -> None:
    """2 come back at 60 s and 3 at 600 s; `third`, of which nobody knows the end, is not needed."""
    state = ClusterState(nodes(4), queues=in_root(a=Quota(8), b=Quota(0)))
    for name, count, limit_us in (
        ("first", 2, to_us(60.0)),
        ("second", 3, to_us(600.0)),
        ("third", 1, FOREVER_US),
    ):
        roles = (Role(count, PodShape(1)),)
        apply(state, GangSubmitted(Gang(name, roles, walltime_us=limit_us, queue="b")))
    assert len(started(state, 0.0)) == 3
    apply(state, GangSubmitted(gang("mine", 7, queue="a")))
    assert started(state, 10.0) == []
    said = explain(state, "mine")
    text = why(said, 7, now_us=to_us(10.0))
    assert text.endswith("; by their walltimes, gangs that run give enough back within 10 min")
    apply(state, GangSubmitted(gang("all", 8, queue="a")))
    said = explain(state, "all")
    assert said.quota is not None and said.quota.back_us is None


def test_nobody_is_named_whose_giving_back_would_not_help() -> None:
    """d lends nothing, so that what x borrows of its neighbour never was for a."""
    quota = {"all": {"gpus": Quota(4)}}
    d = Cohort("d", "c", quota={"all": {"gpus": Quota(0, lend=0)}})
    queues = (Queue("a", "c", quota=quota), Queue("b", "c", quota={"all": {"gpus": Quota(0)}}))
    queues += (Queue("x", "d", quota=quota), Queue("y", "d", quota=quota))
    file = Queues((Flavor("all"),), (Cohort("c"), d), queues)
    state = ClusterState(nodes(4), queues=file)
    for name, count, queue in (("x0", 6, "x"), ("b0", 2, "b")):
        apply(state, GangSubmitted(gang(name, count, queue=queue)))
    assert len(started(state, 0.0)) == 2
    apply(state, GangSubmitted(gang("mine", 4, queue="a")))
    assert started(state, 1.0) == []
    said = explain(state, "mine").quota
    assert said is not None and said.borrowers == (("b", 2),)


def test_a_gang_never_fits_by_the_flavor_that_comes_nearest() -> None:
    quota = {"a100": {"gpus": Quota(4)}, "h100": {"gpus": Quota(8)}}
    flavors = (Flavor("a100", gpu_model="a100"), Flavor("h100", gpu_model="h100"))
    state = ClusterState(two_models(), queues=Queues(flavors, (), (Queue("team", quota=quota),)))
    apply(state, GangSubmitted(gang("g", 12)))
    unmet = explain(state, "g").unmet
    assert unmet is not None and never(unmet) == (
        "exceeds the quota of team: asks 12 GPUs, can have 8 at most (flavor h100, the nearest)"
    )


def test_lowering_a_quota_kills_nothing_and_admits_nothing_until_it_is_met() -> None:
    file = one(8)
    state = ClusterState(nodes(4), queues=file)
    for name in ("g", "h"):
        apply(state, GangSubmitted(gang(name, 4)))
    let_pass(state, POLICY)
    apply(state, GangSubmitted(gang("next", 1, at_s=1.0)))
    let_pass(state, POLICY, 1.0)
    lower = one(4)
    apply(state, QueuesChanged(lower))
    validate(state)
    book = state.book
    assert book is not None and book.tree.available(0, 0) == -4
    let_pass(state, POLICY, 2.0)
    assert [name for name, m in state.gangs.items() if m.held] == ["g", "h"]
    said = explain(state, "next")
    assert said.reason is PendingReason.QUOTA
    assert "; 5 would have to be given back" in why(said, 1), "4 too much are used"
    for name, starts in (("g", False), ("h", True)):
        apply(state, GangFinished(name))
        let_pass(state, POLICY, 3.0)
        validate(state)
        assert bool(state.gangs["next"].held) is starts


def test_heads_are_served_by_share_where_the_file_says_so() -> None:
    """Both borrow: y comes from the queue that has less of what is lent, though it is younger."""
    quota = {"all": {"gpus": Quota(4)}}
    names = ("a", "b", "idle")
    queues = tuple(Queue(name, "c", quota=quota) for name in names)
    file = Queues((Flavor("all"),), (Cohort("c"),), queues)
    for word, first in ((Serve.BORROWING, "x"), (Serve.SHARE, "y")):
        state = ClusterState(nodes(4), queues=replace(file, sharing=Sharing(word)))
        for gang_of in (gang("r", 6, queue="a"), gang("s", 4, queue="b")):
            apply(state, GangSubmitted(gang_of))
        let_pass(state, POLICY)
        apply(state, GangSubmitted(gang("x", 2, queue="a", at_s=1.0)))
        apply(state, GangSubmitted(gang("y", 2, queue="b", at_s=2.0)))
        made = let_pass(state, POLICY, 2.0)
        assert [each.gang for each in made if isinstance(each, Admit)] == [first]


def test_queues_do_not_change_inside_a_trial() -> None:
    state = ClusterState(nodes(1), queues=one())
    with state.trial(), pytest.raises(ValueError, match="inside a trial"):
        apply(state, QueuesChanged(one(2)))
    with pytest.raises(ValueError, match="no queues to change"):
        apply(ClusterState(nodes(1)), QueuesChanged(one(2)))


def test_a_blocked_pass_looks_at_newcomers_alone() -> None:
    """A thousand waiting gangs of strict queues cost a pass nothing."""
    state = ClusterState(nodes(1), queues=one(8))
    apply(state, GangSubmitted(gang("runs", 8)))
    let_pass(state, POLICY)
    for at in range(1000):
        apply(state, GangSubmitted(gang(f"w{at}", 1 + at % 4, at_s=1.0 + at)))
    let_pass(state, POLICY, 2000.0)
    apply(state, GangSubmitted(gang("last", 1, at_s=2001.0)))
    (ends,) = decide(state, POLICY, to_us(2001.0))
    assert isinstance(ends, Considered)


# -- what a pass must not forget ---------------------------------------------------------------


def in_root(**words: Quota) -> Queues:
    """Return strict queues of one cohort, with so much quota each."""
    queues = tuple(
        Queue(name, "c", quota={"all": {"gpus": quota}}) for name, quota in words.items()
    )
    return Queues((Flavor("all"),), (Cohort("c"),), queues)


def started(state: ClusterState, now_s: float) -> list[str]:
    return [each.gang for each in let_pass(state, POLICY, now_s) if isinstance(each, Admit)]


def test_a_strict_head_keeps_its_quota_on_other_nodes_of_the_flavor() -> None:
    """`x` waits for pool p; `y` would fit pool q, but takes the quota that x needs."""
    here = [Node("p0", PodShape(8), "p"), Node("q0", PodShape(8), "q")]
    file = in_root(a=Quota(12), b=Quota(0))
    state = ClusterState(here, queues=file)

    apply(state, GangSubmitted(walled("r", "p", 4, "a", 0.0, 10.0)))
    assert started(state, 0.0) == ["r"]
    apply(state, GangSubmitted(walled("x", "p", 8, "a", 1.0, 10.0)))
    apply(state, GangSubmitted(walled("y", "q", 4, "b", 2.0, 5.0)))
    assert started(state, 2.0) == []
    apply(state, GangFinished("r"))
    assert started(state, 4.0) == ["x", "y"]
    validate(state)


def test_who_outlasts_a_promise_leaves_the_quota_for_it() -> None:
    """Queue a is easy. Until `x` starts at 10, others may use its quota, but not beyond."""
    here = [Node("p0", PodShape(8), "p"), Node("q0", PodShape(8), "q")]
    file = in_root(a=Quota(12), b=Quota(0))
    file.queues[0].discipline = Holding.EASY
    for walltime_s, starts in ((5.0, ["y"]), (50.0, [])):
        state = ClusterState(here, queues=file)
        apply(state, GangSubmitted(walled("r", "p", 4, "a", 0.0, 10.0)))
        assert started(state, 0.0) == ["r"]
        apply(state, GangSubmitted(walled("x", "p", 8, "a", 1.0, 10.0)))
        apply(state, GangSubmitted(walled("y", "q", 6, "b", 2.0, walltime_s)))
        assert started(state, 2.0) == starts


def walled(name: str, pool: str, count: int, queue: str, at_s: float, walltime_s: float) -> Gang:
    roles = (Role(count, PodShape(1), Selector(pool)),)
    return Gang(name, roles, to_us(at_s), to_us(walltime_s), queue=queue)


def test_gangs_that_pass_in_one_go_share_the_quota() -> None:
    """Of 4 GPUs that b may still use, two gangs of 3 would take 6."""
    file = in_root(a=Quota(8, borrow=0), b=Quota(8, borrow=0))
    file.queues[1].discipline = Holding.SKIP
    state = ClusterState(nodes(4), queues=file)
    for name, count in (("r", 4), ("x", 8), ("y", 3), ("z", 3)):
        apply(state, GangSubmitted(gang(name, count, queue="b", at_s=float(len(state.gangs)))))
    assert started(state, 9.0) == ["r", "y"]
    book = state.book
    assert book is not None and book.tree.available(1, 0) == 1


def test_a_plan_that_is_not_carried_out_leaves_no_trace() -> None:
    """`z` found no quota beside `y`, which the pass planned; then y is cancelled unstarted."""
    file = in_root(a=Quota(8, borrow=0), b=Quota(8, borrow=0))
    file.queues[1].discipline = Holding.SKIP
    state = ClusterState(nodes(4), queues=file)
    for name, count in (("r", 4), ("x", 8), ("y", 3), ("z", 3)):
        apply(state, GangSubmitted(gang(name, count, queue="b", at_s=float(len(state.gangs)))))
    (first,) = decide(state, POLICY, 0)
    assert isinstance(first, Admit) and first.gang == "r"
    apply(state, Admitted("r", first.placement, 0, to_us(100.0)))
    assert [each.gang for each in decide(state, POLICY, 0) if isinstance(each, Admit)] == ["y"]
    apply(state, GangCancelled("y"))
    assert started(state, 1.0) == ["z"]


def test_a_strict_queue_stays_blocked_while_gangs_of_another_pass() -> None:
    file = in_root(a=Quota(4, borrow=0), b=Quota(4, borrow=0))
    file.queues[1].discipline = Holding.SKIP
    state = ClusterState(nodes(4), queues=file)
    at_s = 0.0
    for queue in ("a", "b"):
        for name, count in (("r", 3), ("x", 2), ("y", 1)):
            at_s += 1.0
            apply(state, GangSubmitted(gang(queue + name, count, queue=queue, at_s=at_s)))
    assert started(state, at_s) == ["ar", "br", "by"]


def test_a_gang_that_was_made_smaller_is_looked_at_again() -> None:
    state = ClusterState(nodes(4), queues=in_root(a=Quota(8, borrow=0), b=Quota(8)))
    for name, count in (("r", 4), ("x", 8)):
        apply(state, GangSubmitted(gang(name, count, queue="a", at_s=float(len(state.gangs)))))
    assert started(state, 1.0) == ["r"]
    apply(state, GangResized("x", (Role(4, PodShape(1)),)))
    assert started(state, 2.0) == ["x"]


def test_others_start_once_the_head_that_held_the_nodes_is_gone() -> None:
    """A cancelled gang frees nothing, but it holds nothing any more."""
    file = in_root(a=Quota(16), b=Quota(16))
    state = ClusterState(nodes(1), queues=file)
    for name, count, queue in (("r", 4, "a"), ("x", 8, "a"), ("y", 4, "b")):
        apply(state, GangSubmitted(gang(name, count, queue=queue, at_s=float(len(state.gangs)))))
    assert started(state, 2.0) == ["r"]
    apply(state, GangCancelled("x"))
    assert started(state, 3.0) == ["y"]


def test_a_quota_seen_short_in_a_trial_is_asked_again_after_it() -> None:
    state = ClusterState(nodes(4), queues=in_root(a=Quota(8, borrow=0), b=Quota(0)))
    apply(state, GangSubmitted(gang("r", 6, queue="a")))
    apply(state, GangSubmitted(gang("x", 8, queue="a", at_s=1.0)))
    assert started(state, 1.0) == ["r"]
    apply(state, GangFinished("r"))
    with state.trial():
        apply(state, GangSubmitted(gang("first", 4, queue="a", at_s=0.5)))
        assert started(state, 2.0) == ["first"]
    assert started(state, 2.0) == ["x"]


def test_newcomers_of_a_skip_queue_start_though_nothing_was_freed() -> None:
    file = in_root(a=Quota(8, borrow=0), b=Quota(8))
    file.queues[0].discipline = Holding.SKIP
    state = ClusterState(nodes(4), queues=file)
    for name, count in (("r", 4), ("x", 8)):
        apply(state, GangSubmitted(gang(name, count, queue="a", at_s=float(len(state.gangs)))))
    assert started(state, 1.0) == ["r"]
    apply(state, GangSubmitted(gang("y", 2, queue="a", at_s=2.0)))
    assert started(state, 2.0) == ["y"]


def two_flavors(**words: object) -> Queues:
    flavors = (Flavor("a100", gpu_model="a100"), Flavor("h100", gpu_model="h100"))
    quota = {"a100": {"gpus": Quota(4)}, "h100": {"gpus": Quota(8)}}
    lender = Queue("lender", "c", quota={"a100": {"gpus": Quota(8)}})
    team = Queue("team", "c", quota=quota, **words)  # type: ignore[arg-type]
    return Queues(flavors, (Cohort("c"),), (team, lender))


@pytest.mark.parametrize(("search", "node"), [(Search.STOP, "a0"), (Search.TRY_NEXT, "h0")])
def test_a_queue_says_whether_it_borrows_before_it_tries_the_next_flavor(
    search: Search, node: str
) -> None:
    here = [Node("a0", PodShape(8), "", "a100"), Node("h0", PodShape(8), "", "h100")]
    state = ClusterState(here, queues=two_flavors(when_can_borrow=search))
    apply(state, GangSubmitted(gang("g", 6, queue="team")))
    assert started(state, 0.0) == ["g"]
    assert set(state.node_names(state.gangs["g"].held)) == {node}


def test_a_gang_that_lost_a_pod_asks_for_it_in_its_flavor() -> None:
    """Only a100 is free of those that its queue may use, but the gang runs on h100."""
    here = [Node("a0", PodShape(8), "", "a100")]
    here += [Node(f"h{i}", PodShape(2), "", "h100") for i in range(2)]
    state = ClusterState(here, queues=two_flavors(flavors=("h100", "a100")))
    apply(state, GangSubmitted(gang("g", 4, queue="team")))
    assert started(state, 0.0) == ["g"]
    apply(state, NodeLost("h1"))
    assert started(state, 1.0) == []
    validate(state)
    apply(state, NodeReturned("h1"))
    assert started(state, 2.0) == ["g"]


def test_a_gang_that_runs_in_part_counts_whole_against_what_its_queue_could_have() -> None:
    state = ClusterState(nodes(4), queues=in_root(a=Quota(8, borrow=0), b=Quota(8)))
    apply(state, GangSubmitted(gang("g", 6, queue="a")))
    assert started(state, 0.0) == ["g"]
    apply(state, GangResized("g", (Role(9, PodShape(1)),)))
    assert state.gangs["g"].phase is Phase.IMPOSSIBLE
    said = explain(state, "g").unmet
    assert said is not None
    assert never(said) == "exceeds the quota of a: asks 9 GPUs, can have 8 at most"
    validate(state)


def test_a_promise_is_for_the_flavor_in_which_the_head_starts_first() -> None:
    """There is quota for a100, which is free at 50, and for h100 once `mine` is done, by 40."""
    here = [Node("a0", PodShape(8), "", "a100"), Node("h0", PodShape(8), "", "h100")]
    flavors = (Flavor("a100", gpu_model="a100"), Flavor("h100", gpu_model="h100"))
    quota = {name: {"gpus": Quota(7)} for name in ("a100", "h100")}
    team = Queue("team", quota=quota, discipline=Holding.EASY, flavors=("a100", "h100"))
    state = ClusterState(here, queues=Queues(flavors, (), (team, Queue("over", quota=quota))))
    for name, count, queue, model, walltime_s in (
        ("mine", 4, "team", "h100", 40.0),
        ("old", 4, "over", "a100", 50.0),
        ("new", 4, "over", "h100", 20.0),
        ("head", 6, "team", "", 10.0),
    ):
        roles = (Role(count, PodShape(1), Selector("", model)),)
        apply(state, GangSubmitted(Gang(name, roles, 0, to_us(walltime_s), queue=queue)))
        let_pass(state, POLICY)
    assert state.reservations["head"].start_us == to_us(40.0)
    apply(state, GangFinished("mine"))
    assert started(state, 3.0) == []
    assert state.reservations["head"].start_us == to_us(20.0)
    validate(state)


def test_a_head_starts_as_soon_as_another_has_to_borrow_more() -> None:
    """`x` uses quota that the older `h`, which holds pool p, would borrow: `g` is served first."""
    here = [Node("p0", PodShape(4), "p"), Node("q0", PodShape(8), "q")]
    cohorts = (
        Cohort("root", quota={"all": {"gpus": Quota(8)}}),
        Cohort("left", "root"),
        Cohort("right", "root"),
    )
    queues = tuple(
        Queue(name, cohort, quota={"all": {"gpus": Quota(gpus)}})
        for name, cohort, gpus in (
            ("a", "left", 0), ("s", "left", 4), ("b", "right", 0), ("t", "right", 8),
        )
    )  # fmt: skip
    state = ClusterState(here, queues=Queues((Flavor("all"),), cohorts, queues))
    apply(state, GangSubmitted(walled("r", "p", 2, "t", 0.0, 10.0)))
    apply(state, GangSubmitted(walled("h", "p", 4, "a", 1.0, 10.0)))
    apply(state, GangSubmitted(walled("g", "p", 2, "b", 2.0, 10.0)))
    assert started(state, 2.0) == ["r"]
    apply(state, GangSubmitted(walled("x", "q", 1, "s", 3.0, 10.0)))
    assert started(state, 3.0) == ["x", "g"]


@pytest.mark.parametrize("discipline", list(Holding))
def test_one_queue_with_all_the_quota_decides_as_no_queues_do(discipline: Holding) -> None:
    """Pass by pass, with quota for just the nodes there are."""
    plain_policy = catalog.policy(PolicySpec(discipline=discipline.value))
    for seed in range(4):
        draw = random.Random(seed)
        plain = ClusterState(nodes(4))
        queued = ClusterState(nodes(4), queues=one(32, discipline=discipline))
        for at in range(80):
            running = [name for name, member in plain.gangs.items() if member.held]
            if running and draw.random() < 0.45:
                gone = draw.choice(running)
                for state in (plain, queued):
                    apply(state, GangFinished(gone))
            else:
                roles = (Role(draw.randint(1, 5), PodShape(draw.choice([1, 2, 4, 8]))),)
                walltime_us = to_us(draw.choice([5.0, 20.0, 100.0]))
                new = Gang(f"g{at}", roles, to_us(at), walltime_us, ordinal=at)
                for state in (plain, queued):
                    apply(state, GangSubmitted(new))
            made = [
                [each for each in let_pass(state, policy, float(at)) if isinstance(each, Admit)]
                for state, policy in ((plain, plain_policy), (queued, POLICY))
            ]
            assert made[0] == made[1]


@pytest.mark.parametrize("discipline", list(Holding))
def test_a_head_whose_reservation_has_all_its_quota_starts_there(discipline: Holding) -> None:
    state = ClusterState(nodes(4), queues=one(8, discipline=discipline))
    apply(state, GangSubmitted(gang("g", 8)))
    placement = place(state.capacity, state.gangs["g"].missing, POLICY.placer)
    assert placement is not None
    apply(state, CapacityReserved("g", placement, to_us(50.0)))
    assert state.book is not None and state.book.tree.available(0, 0) == 0
    assert started(state, 1.0) == ["g"]
    validate(state)
