"""Each function of quota and preemption that is broken makes scenarios fail: they do test it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from scheduler import compiled
from scheduler.core import quota
from scheduler.core.quota import Amounts, QuotaTree, Share
from scheduler.policies import contest, fair, flavors, heads, victims
from scheduler.policies.contest import Attempt, Victim
from scheduler.policies.fair import ByShare
from scheduler.policies.flavors import Outlook
from scheduler.policies.victims import Candidate, Candidates
from tests.golden import kueue_cycles, test_kueue_cycles, test_kueue_quota, test_kueue_victims
from tests.golden.conftest import CHOSEN
from tests.golden.scenarios import scenarios

TESTS: tuple[ModuleType, ...] = (test_kueue_quota, test_kueue_victims, test_kueue_cycles)
available, evict, in_order = QuotaTree.available, Attempt.evict, Candidates.in_order
first_rule, is_better, next_queue = fair._first_rule, flavors.is_better, ByShare._next
outlook, share, kept = flavors.outlook, heads._share, kueue_cycles.kept
rank = Share.rank.__get__


def all_bubbles(tree: QuotaTree, queue: int, amounts: Amounts) -> None:
    for node in (queue, *tree.above(queue)):
        for cell, amount in amounts:
            tree._use(node, cell, amount)


def clamped(tree: QuotaTree, node: int, cell: int) -> int:
    return max(0, available(tree, node, cell))


def of_the_whole_tree(tree: QuotaTree, node: int) -> Share:
    parent = tree.parent[node]
    if parent == quota.NO_PARENT:
        return tree_share(tree, node)
    own = tree.potential[parent]
    tree.potential[parent] = tree.potential[tree.root(node)]
    found = tree_share(tree, node)
    tree.potential[parent] = own
    return found


tree_share = QuotaTree.share


def nobody_stays(attempt: Attempt) -> list[Victim]:
    return attempt.victims


def from_the_first(attempt: Attempt) -> list[Victim]:
    attempt.victims = [*reversed(attempt.victims[:-1]), attempt.victims[-1]]
    return filled_back(attempt)


filled_back = Attempt.filled_back


def never_looked_at_again(found: Candidates, may_borrow: bool) -> Iterator[Candidate]:
    return iter(list(in_order(found, may_borrow)))


def leaving_ones_wait(found: Candidates, may_borrow: bool) -> Iterator[Candidate]:
    one_by_one = list(in_order(found, may_borrow))
    return iter(sorted(one_by_one, key=lambda candidate: candidate.gang.leaving))


def as_before_the_victims(*args: object) -> Outlook:
    found = outlook(*args)
    of, gang, cell, amount, *_ = args
    if found.mode in (flavors.Mode.PREEMPT, flavors.Mode.RECLAIM):
        found.height = of.tree.height(gang.queue, cell, amount)
    return found


Broken = dict[str, tuple[object, str, object]]
TREE: Broken = {
    "all is lent": (QuotaTree, "local_free", lambda *_: 0),
    "all bubbles": (QuotaTree, "take", all_bubbles),
    "clamped between levels": (QuotaTree, "available", clamped),
    "no limit to borrow": (quota, "NO_LIMIT", 0),
    "lendable of the whole tree": (QuotaTree, "share", of_the_whole_tree),
}
VICTIMS: Broken = {
    "weights do not count": (Share, "rank", property(lambda s: (s.unweighted, 0))),
    "one height": (QuotaTree, "height", lambda *_: 0),
    "everybody may be evicted": (victims, "allows", lambda *_: True),
    "and by share": (fair, "allows", lambda *_: True),
    "whatever they hold": (victims, "holds_short", lambda *_: True),
    "borrowing or not": (victims, "borrows_short", lambda *_: True),
    "never an advantage": (victims, "within", lambda *_: False),
    "always an advantage": (victims, "within", lambda *_: True),
    "nothing is left of it on the way": (victims, "_beyond", lambda _, __, amounts: amounts),
    "no second try": (victims, "_tries", lambda _: (True,)),
    "tries the other way": (victims, "_tries", lambda _: (False, True)),
    "turns are not checked": (Candidates, "in_order", never_looked_at_again),
    "leaving ones wait": (Candidates, "in_order", leaving_ones_wait),
    "may always borrow": (contest, "within", lambda *_: True),
    "nobody stays": (Attempt, "filled_back", nobody_stays),
    "the first stays first": (Attempt, "filled_back", from_the_first),
    "every share passes": (fair, "_passes", lambda *_: True),
    "no share passes": (fair, "_passes", lambda *_: False),
    "no second rule": (fair, "_second_rule", lambda *_: False),
    "queues are compared": (QuotaTree, "sides", lambda _, own, other: (own, other)),
    "smallest share first": (
        Share,
        "rank",
        property(lambda share: (-rank(share)[0], rank(share)[1])),
    ),
    "the search never ends": (flavors, "ends", lambda *_: False),
    "the search ends at once": (flavors, "ends", lambda *_: True),
    "the last flavor is best": (flavors, "is_better", lambda *_: True),
    "the first flavor is best": (flavors, "is_better", lambda *_: False),
    "victims for all": (flavors, "_may_look_for_victims", lambda *_: True),
    "victims for none": (flavors, "_may_look_for_victims", lambda *_: False),
    "height with the victims": (flavors, "outlook", as_before_the_victims),
}
HEADS: Broken = {
    "infinite shares are equal": (Share, "rank", property(lambda s: (rank(s)[0], 0))),
    "heads by priority": (kueue_cycles, "by_borrowing", lambda head: head.standing),
    "heads by age": (kueue_cycles, "by_borrowing", lambda head: head.standing[1:]),
    "heads by share alone": (heads, "_share", lambda *args: (False, share(*args)[1])),
    "heads whatever their share": (heads, "_share", lambda *args: (share(*args)[0], 0)),
    "nothing is kept": (kueue_cycles, "kept", lambda *_: ()),
    "all is kept": (kueue_cycles, "kept", lambda _, head: head.amounts),
}
#: what is broken, by the tests that must see it
BROKEN = {test_kueue_quota: TREE, test_kueue_victims: VICTIMS, test_kueue_cycles: HEADS}


def first_failing(golden: Path, test: ModuleType) -> str:
    for one in scenarios(golden):
        if one.kind in test.KINDS:
            try:
                if test.told(one.fields) != one.fields["expect"]:
                    return one.name
            except (KeyError, IndexError, RecursionError):
                return one.name
    return ""


@pytest.mark.skipif(compiled.which() == "compiled", reason="compiled functions cannot be replaced")
@pytest.mark.skipif(bool(CHOSEN), reason="another folder need not test every rule")
@pytest.mark.parametrize(
    ("test", "name"), [(test, name) for test in TESTS for name in BROKEN[test]]
)
def test_a_broken_function_is_seen(
    test: ModuleType, name: str, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*BROKEN[test][name])
    assert first_failing(golden, test)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
def test_whole_functions_fail_nowhere(test: ModuleType, golden: Path) -> None:
    assert first_failing(golden, test) == ""
