"""Whom preemption may take, and that it takes no more than it must."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, Victims, checked
from scheduler.core.quota import Amounts, QuotaTree
from scheduler.policies.contest import Attempt, Contender, Contest, ShareRule, Victim, Why
from scheduler.policies.victims import victims
from tests.scheduler.core.drawn_trees import used

RULES = ((), (ShareRule.FINAL,), (ShareRule.INITIAL,), (ShareRule.FINAL, ShareRule.INITIAL))


class Drawn:
    """A contest, and a gang that does not fit."""

    def __init__(self, contest: Contest, gang: Contender, amounts: Amounts) -> None:
        self.contest, self.gang, self.amounts = contest, gang, amounts
        tree = contest.tree
        self.short = tuple(c for c, n in amounts if not tree.fits(gang.queue, ((c, n),)))

    def victims(self) -> list[Victim]:
        return victims(self.contest, self.gang, self.amounts, self.short)

    def fits_without(self, gone: list[Victim]) -> bool:
        with Attempt(self.contest, self.gang, self.amounts, self.short) as attempt:
            for victim in gone:
                attempt.evict(victim.gang, victim.why)
            return attempt.fits()


@st.composite
def contests(draw: st.DrawFn) -> Drawn:
    tree, takes = draw(used())
    running: list[list[Contender]] = [[] for _ in tree.queues]
    for number, (queue, amounts) in enumerate(takes):
        priority, submit_us = draw(st.integers(0, 2)), draw(st.integers(0, 5))
        cost, leaving = draw(st.integers(0, 3)), draw(st.booleans())
        running[queue].append(
            Contender(f"g{number}", queue, priority, submit_us, amounts, number, cost, leaving)
        )
    gang = Contender("in", draw(st.integers(0, tree.num_queues - 1)), draw(st.integers(0, 2)), 3)
    cells = draw(st.sets(st.integers(0, len(tree.cells) - 1), max_size=2)) if tree.cells else ()
    amounts = tuple((cell, draw(st.integers(1, 10))) for cell in sorted(cells))
    return Drawn(Contest(tree, running, draw(st.sampled_from(RULES))), gang, amounts)


@given(contests())
def test_victims_make_it_fit_and_none_of_them_could_stay(drawn: Drawn) -> None:
    before = [list(row) for row in drawn.contest.tree.usage]
    found = drawn.victims()
    assert drawn.contest.tree.usage == before
    if found:
        assert drawn.fits_without(found)
        for spared in found:
            assert not drawn.fits_without([one for one in found if one is not spared])


@given(contests())
def test_a_queue_within_its_nominal_loses_no_gang_to_others(drawn: Drawn) -> None:
    """Before the last one that a queue loses, it uses more than it has of what is short."""
    contest = drawn.contest
    found = drawn.victims()
    for last, victim in enumerate(found):
        if victim.gang.queue == drawn.gang.queue:
            continue
        with Attempt(contest, drawn.gang, drawn.amounts, drawn.short) as attempt:
            for one in found[:last]:
                attempt.evict(one.gang, one.why)
            assert any(contest.tree.borrows(victim.gang.queue, cell) for cell in drawn.short)


@given(contests())
def test_victims_are_those_that_the_words_of_the_queue_allow(drawn: Drawn) -> None:
    words = drawn.contest.tree.queues[drawn.gang.queue]
    for victim in drawn.victims():
        own = victim.gang.queue == drawn.gang.queue
        word = words.within if own else words.reclaim
        assert word is not Victims.NEVER
        assert (victim.why is Why.QUEUE) is own
        if word is not Victims.ANY:
            assert victim.gang.priority <= drawn.gang.priority
        if victim.why is Why.BORROW_WITHIN:
            assert words.borrow_within is Victims.LOWER_PRIORITY
            assert victim.gang.priority < drawn.gang.priority
        assert (victim.why is Why.SHARE) <= bool(drawn.contest.rules)


def two_queues(**words: Victims) -> QuotaTree:
    """Two queues of 8 GPUs each in one cohort; the first has these words."""
    own = {"f": {"gpus": Quota(8)}}
    file = Queues(
        (Flavor("f"),),
        (Cohort("all"),),
        (Queue("a", "all", quota=own, **words), Queue("b", "all", quota=own)),
    )
    return QuotaTree(checked(file, "queues.toml"))


def running_in_b(tree: QuotaTree, *costs: int, gpus: int = 4) -> list[list[Contender]]:
    """Gangs of the second queue, named by their age."""
    gangs = [
        Contender(f"b{number}", 1, 0, number, ((0, gpus),), number, cost)
        for number, cost in enumerate(costs)
    ]
    for gang in gangs:
        tree.take(gang.queue, gang.amounts)
    return [[], gangs]


def evicted(contest: Contest, gpus: int, priority: int = 0) -> list[str]:
    found = victims(contest, Contender("in", 0, priority, 9), ((0, gpus),), (0,))
    return [victim.gang.name for victim in found]


def test_what_wastes_less_goes_first_then_the_youngest() -> None:
    tree = two_queues(reclaim=Victims.ANY)
    contest = Contest(tree, running_in_b(tree, 50, 10, 10, 90))
    assert evicted(contest, 4) == ["b2"]
    assert evicted(contest, 8) == ["b2", "b1"]
    contest.order = lambda gang: (gang.submit_us,)
    assert evicted(contest, 8) == ["b0", "b1"]


def test_short_of_nodes_within_quota_it_may_reclaim_from_borrowers_alone() -> None:
    """Quotas may add up to more than the nodes: nobody within its own leaves for that."""
    tree = two_queues(reclaim=Victims.ANY)
    asked: list[str] = []

    def placed(gone: list[Victim]) -> bool:
        asked.append(" ".join(victim.gang.name for victim in gone))
        return "b1" in asked[-1]

    contest = Contest(tree, running_in_b(tree, 0, 0, 0), placed=placed)
    assert tree.fits(0, ((0, 4),))  # quota is not what is short
    assert evicted(contest, 4) == []  # b borrows 4: after b2 it is within its own
    assert asked == ["b2"]
    tree.take(1, ((0, 4),))  # it borrows more
    assert evicted(contest, 4) == ["b1"]
    assert asked[1:] == ["b2", "b2 b1", "b1"]


def test_gangs_that_leave_already_go_first() -> None:
    tree = two_queues(reclaim=Victims.ANY)
    running = running_in_b(tree, 0, 0, 0, 0)
    running[1][0].leaving = True
    assert evicted(Contest(tree, running), 4) == ["b0"]
