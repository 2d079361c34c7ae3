"""Whom preemption may take, and that it takes no more than it must."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, ShareRule, Victims, checked
from scheduler.core.quota import Amounts, QuotaTree
from scheduler.policies.contest import Attempt, Contender, Contest, Victim, Why, within
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
def test_who_borrows_takes_nothing_that_a_victim_could_take_back(drawn: Drawn) -> None:
    """None of its victims would fit its own queue's quota while the gang borrows."""
    tree, queue = drawn.contest.tree, drawn.gang.queue
    found = drawn.victims()
    with Attempt(drawn.contest, drawn.gang, drawn.amounts, drawn.short) as attempt:
        for victim in found:
            attempt.evict(victim.gang, victim.why)
        tree.take(queue, drawn.amounts)
        for victim in found:
            ours, _ = tree.sides(queue, victim.gang.queue) if victim.gang.queue != queue else (0, 0)
            cells = [cell for cell, _ in victim.gang.amounts]
            path = [queue, *tree.above(queue)]
            if victim.gang.queue != queue and all(
                any(tree.borrows(node, cell) for cell in cells)
                for node in path[: path.index(ours) + 1]
            ):
                assert not within(tree, victim.gang.queue, victim.gang.amounts)


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


def test_a_gang_whose_class_never_preempts_evicts_nobody() -> None:
    tree = two_queues(reclaim=Victims.ANY)
    running = running_in_b(tree, 0, 0, 0, 0)
    for rules in RULES:
        gang = Contender("in", 0, 9, 9, evicts=False)
        assert victims(Contest(tree, running, rules), gang, ((0, 4),), (0,)) == []
        gang.evicts = True
        assert victims(Contest(tree, running, rules), gang, ((0, 4),), (0,))


def test_gangs_that_leave_already_go_first() -> None:
    tree = two_queues(reclaim=Victims.ANY)
    running = running_in_b(tree, 0, 0, 0, 0)
    running[1][0].leaving = True
    assert evicted(Contest(tree, running), 4) == ["b0"]


def test_a_borrower_evicts_nobody_who_could_take_it_back_at_once() -> None:
    """`small` goes while its queue borrows, then `large`: then `small` is within its own again."""
    words = {"reclaim": Victims.ANY, "borrow_within": Victims.LOWER_PRIORITY}
    nominal = {"rich": 5, "poor": 0, "idle": 3}
    queues = [Queue(name, "all", quota={"f": {"gpus": Quota(n)}}) for name, n in nominal.items()]
    queues[1] = Queue("poor", "all", quota=queues[1].quota, **words)
    tree = QuotaTree(
        checked(Queues((Flavor("f"),), (Cohort("all"),), tuple(queues)), "queues.toml")
    )
    small = Contender("small", 0, 0, 1, ((0, 2),), 2)
    large = Contender("large", 0, 0, 0, ((0, 6),), 1)
    for gang in (small, large):
        tree.take(0, gang.amounts)
    contest = Contest(tree, [[small, large], [], []])
    asks = Contender("in", 1, 1, 9)
    assert victims(contest, asks, ((0, 8),), (0,)) == []
    assert [v.gang.name for v in victims(contest, asks, ((0, 2),), (0,))] == ["small"]
    contest.spares_own = False
    found = victims(contest, asks, ((0, 8),), (0,))
    assert [v.gang.name for v in found] == ["small", "large"]


def test_two_gangs_never_evict_each_other_in_turn() -> None:
    """Each may by the shares, as `old` returns to its place and counts against its queue again."""
    within_word = Victims.LOWER_OR_NEWER_EQUAL_PRIORITY
    queues = tuple(
        Queue(
            name, "all", weight, {"f": {"gpus": Quota(n)}}, within=within_word, reclaim=Victims.ANY
        )
        for name, weight, n in (("a", 1.0, 3), ("b", 2.0, 3), ("c", 1.0, 2))
    )
    tree = QuotaTree(checked(Queues((Flavor("f"),), (Cohort("all"),), queues), "queues.toml"))
    old = Contender("old", 0, 0, 6, ((0, 1),), 0, 2)
    one, other = Contender("one", 0, 0, 0), Contender("other", 1, 0, 7, ((0, 6),), 1)
    for gang in (old, other):
        tree.take(gang.queue, gang.amounts)
    contest = Contest(tree, [[old], [other], []], (ShareRule.INITIAL,))
    assert [v.gang for v in victims(contest, one, ((0, 4),), (0,))] == [other]
    tree.give_back(1, other.amounts)
    one.amounts = ((0, 4),)
    tree.take(0, one.amounts)
    contest.running = [[old, one], [], []]
    assert [v.gang for v in victims(contest, other, ((0, 6),), (0,))] == [one]
    other.gives_way(one)
    assert victims(contest, other, ((0, 6),), (0,)) == []


@given(contests(), st.data())
def test_evictions_come_to_an_end(drawn: Drawn, data: st.DataObject) -> None:
    """Whatever evicts, starts and returns, with nobody ever done: at last all wait or run."""
    contest = drawn.contest
    tree, running = contest.tree, contest.running
    requests = {gang.name: gang.amounts for gangs in running for gang in gangs} | {
        drawn.gang.name: drawn.amounts
    }
    waiting = [drawn.gang]
    evicted_for: set[tuple[str, str]] = set()
    clock = len(requests)
    for _ in range(500):
        for gang in data.draw(st.permutations(waiting)):
            amounts = requests[gang.name]
            short = tuple(c for c, n in amounts if not tree.fits(gang.queue, ((c, n),)))
            found = victims(contest, gang, amounts, short) if short else []
            if not amounts or (short and not found):
                continue
            for victim in found:
                evicted_for.add((victim.gang.name, gang.name))
                assert (gang.name, victim.gang.name) not in evicted_for
                tree.give_back(victim.gang.queue, victim.gang.amounts)
                running[victim.gang.queue].remove(victim.gang)
                victim.gang.amounts = ()
                victim.gang.gives_way(gang)
                waiting.append(victim.gang)
            clock += 1
            gang.amounts, gang.admitted_us = amounts, clock
            tree.take(gang.queue, amounts)
            running[gang.queue].append(gang)
            waiting.remove(gang)
            break
        else:
            return
    raise AssertionError(f"still evicting: {sorted(evicted_for)}")
