"""The order of heads of several queues."""

from __future__ import annotations

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, checked
from scheduler.core.quota import QuotaTree
from scheduler.policies.heads import Head, Tournament, by_borrowing


def tree(*queues: Queue) -> QuotaTree:
    cohorts = (Cohort("all"), Cohort("org", "all"))
    return QuotaTree(checked(Queues((Flavor("f"),), cohorts, queues), "queues.toml"))


def queue(name: str, nominal: int, cohort: str = "all", **words: object) -> Queue:
    limits = {word: words.pop(word) for word in ("borrow", "lend") if word in words}
    quota = {"f": {"gpus": Quota(nominal, **limits)}}
    return Queue(name, cohort, quota=quota, **words)


def head(at: int, gpus: int, *, priority: int = 0, submit_us: int = 0, height: int = 0) -> Head:
    return Head(f"h{at}", at, priority, submit_us, ((0, gpus),), height)


def test_who_borrows_less_comes_first_then_priority_then_age() -> None:
    heads = [
        head(0, 1, height=1, priority=9),
        head(1, 1, submit_us=5),
        head(2, 1, submit_us=4),
        head(3, 1, priority=1, submit_us=6),
    ]
    assert [one.name for one in sorted(heads, key=by_borrowing)] == ["h3", "h2", "h1", "h0"]


def test_by_share_a_tournament_goes_up_the_tree() -> None:
    """Within org the second borrows less; org as a whole borrows more than the third."""
    of = tree(queue("a", 0, "org"), queue("b", 2, "org"), queue("c", 2), queue("d", 20))
    heads = [head(0, 4), head(1, 4), head(2, 3), head(3, 1, submit_us=9)]
    tournament, order = Tournament(of, heads), []
    for _ in heads:
        first = tournament.next()
        order.append(first.name)
        of.take(first.queue, first.amounts)
    assert order == ["h3", "h2", "h1", "h0"]


def test_by_share_equal_shares_go_by_priority_then_age() -> None:
    of = tree(queue("a", 4), queue("b", 4), queue("c", 4))
    heads = [head(0, 1, submit_us=2), head(1, 1, submit_us=1), head(2, 1, priority=1, submit_us=3)]
    assert Tournament(of, heads).next().name == "h2"
    assert Tournament(of, heads[:2]).next().name == "h1"
