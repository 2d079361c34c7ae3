"""The quota tree: its sums, what is left, and what a queues file may not say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, Victims, checked
from scheduler.core.quota import NO_LIMIT, NO_PARENT, Amounts, QuotaTree
from tests.scheduler.core.drawn_trees import used


@given(used())
def test_the_usage_of_a_cohort_is_what_its_children_use_beyond_their_own(
    drawn: tuple[QuotaTree, list[tuple[int, Amounts]]],
) -> None:
    tree, takes = drawn
    for node in range(len(tree.names)):
        for cell in range(len(tree.cells)):
            if node < tree.num_queues:
                expected = sum(
                    dict(amounts).get(cell, 0) for queue, amounts in takes if queue == node
                )
            else:
                expected = sum(
                    max(0, tree.usage[child][cell] - tree.local[child][cell])
                    for child in tree.children[node]
                )
            assert tree.usage[node][cell] == expected


@given(used())
def test_never_more_is_available_than_could_be(
    drawn: tuple[QuotaTree, list[tuple[int, Amounts]]],
) -> None:
    tree, _ = drawn
    for node in range(len(tree.names)):
        for cell in range(len(tree.cells)):
            assert tree.available(node, cell) <= tree.potential[node][cell]


@given(used(), st.data())
def test_giving_back_and_undoing_restore_every_number(
    drawn: tuple[QuotaTree, list[tuple[int, Amounts]]], data: st.DataObject
) -> None:
    tree, takes = drawn
    before = [list(row) for row in tree.usage]
    outer = tree.begin_trial()
    for queue, amounts in takes[: data.draw(st.integers(0, len(takes)))]:
        tree.give_back(queue, amounts)
    between = [list(row) for row in tree.usage]
    inner = tree.begin_trial()
    for queue, amounts in takes:
        tree.take(queue, amounts)
    tree.undo_trial(inner)
    assert tree.usage == between
    tree.undo_trial(outer)
    assert tree.usage == before
    for queue, amounts in data.draw(st.permutations(takes)):
        tree.give_back(queue, amounts)
    assert not any(any(row) for row in tree.usage)


@given(used(), st.integers(1, 10))
def test_what_fits_leaves_nobody_overdrawn(
    drawn: tuple[QuotaTree, list[tuple[int, Amounts]]], amount: int
) -> None:
    """A queue that takes only what fits never goes beyond its limits, nor does a cohort."""
    tree, takes = drawn
    for queue, amounts in takes:
        tree.give_back(queue, amounts)
    for queue, amounts in takes:
        if tree.fits(queue, amounts):
            tree.take(queue, amounts)
    for node in range(len(tree.names)):
        for cell in range(len(tree.cells)):
            used_here, limit = tree.usage[node][cell], tree.borrow[node][cell]
            if tree.parent[node] == NO_PARENT:
                assert used_here <= tree.subtree[node][cell]
            elif limit != NO_LIMIT:
                assert used_here <= tree.subtree[node][cell] + limit


def test_a_subtree_has_what_its_children_lend() -> None:
    """Two levels by hand: org1 may not borrow, so t3 can have all, and t1 only what org1 has."""
    own = {"f": {"gpus": Quota(4)}}
    file = Queues(
        (Flavor("f"),),
        (
            Cohort("root"),
            Cohort("org1", "root", quota={"f": {"gpus": Quota(4, borrow=0)}}),
            Cohort("org2", "root"),
        ),
        (
            Queue("t1", "org1", quota=own),
            Queue("t2", "org1", quota=own),
            Queue("t3", "org2", quota={"f": {"gpus": Quota(8)}}),
        ),
    )
    tree = QuotaTree(checked(file, "queues.toml"))
    t1, t2, t3 = (tree.index_of[name] for name in ("t1", "t2", "t3"))
    assert [tree.available(queue, 0) for queue in (t1, t2, t3)] == [12, 12, 20]
    assert [tree.height(t1, 0, amount) for amount in (4, 5, 13)] == [0, 1, 2]
    tree.take(t3, ((0, 12),))
    assert [tree.available(queue, 0) for queue in (t1, t2, t3)] == [8, 8, 8]
    # both borrow 4: t3 beyond its own 8, and org2 beyond the 8 of t3
    shares = [tree.share(tree.index_of[name]).weighted for name in ("t3", "org2", "t1", "root")]
    assert shares == [4 * 1000 / 20, 4 * 1000 / 20, 0, 0]


def change(**words: object) -> Callable[[Queues], None]:
    """Return a change of the first queue."""

    def changed(file: Queues) -> None:
        for word, value in words.items():
            setattr(file.queues[0], word, value)

    return changed


def cohort(at: int, **words: object) -> Callable[[Queues], None]:
    """Return a change of a cohort."""

    def changed(file: Queues) -> None:
        for word, value in words.items():
            setattr(file.cohorts[at], word, value)

    return changed


FAULTS = {
    "cohorts all -> org -> all are a cycle; leave out": cohort(0, parent="org"),
    "queue 'ml': cohort 'orgg' is unknown; choose one of all, org": change(cohort="orgg"),
    "cohort 'org': parent 'al' is unknown; choose one of all, org": cohort(1, parent="al"),
    "queue 'ml': quota for flavor 'h200', which is unknown; choose one of h100, a100": change(
        quota={"h200": {"gpus": Quota(1)}}
    ),
    "queue 'ml': weight is -1.0; give a number of 0 or more": change(weight=-1.0),
    "cohort 'org': weight is nan; give a number": cohort(1, weight=float("nan")),
    "'gpus' of flavor 'h100': nominal is -4; give a number of 0 or more": change(
        quota={"h100": {"gpus": Quota(-4)}}
    ),
    "'gpus' of flavor 'h100': borrow is 2, but it is in no cohort that it could borrow in": change(
        cohort="", quota={"h100": {"gpus": Quota(4, borrow=2)}}
    ),
    "cohort 'all': quota of 'gpus' of flavor 'h100': lend is 1, but it is in no parent": cohort(
        0, quota={"h100": {"gpus": Quota(4, lend=1)}}
    ),
    "lend is 5, more than its nominal 4; lower lend": change(
        quota={"h100": {"gpus": Quota(4, lend=5)}}
    ),
    "queue or cohort 'vision' is there more than once; rename one": change(name="vision"),
    "queue or cohort 'org' is there more than once; rename one": change(name="org"),
    "a queue or cohort has no name": change(name=""),
    "queue 'ml': flavor 'a100' is in its order, but it has no quota for it": change(
        flavors=("h100", "a100")
    ),
    "queue 'ml': flavor 'b200' is unknown; choose one of h100, a100": change(flavors=("b200",)),
    "queue 'ml': it has quota for flavor 'a100', but its flavors leave that out": change(
        flavors=("h100",), quota={"h100": {}, "a100": {"gpus": Quota(1)}}
    ),
    "queue 'ml': within is 'any'; choose never": change(within=Victims.ANY),
    "queue 'ml': reclaim is 'lower-or-newer-equal-priority'; choose": change(
        reclaim=Victims.LOWER_OR_NEWER_EQUAL_PRIORITY
    ),
    "queue 'ml': borrow_within is 'any'; choose never or lower-priority": change(
        borrow_within=Victims.ANY
    ),
    "queue 'ml': borrow_within is 'lower-priority', but reclaim is 'never'": change(
        borrow_within=Victims.LOWER_PRIORITY
    ),
    "queue 'ml': max_priority is 3, but borrow_within is 'never'": change(max_priority=3),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_of_a_queues_file_is_named_with_the_way_out(message: str) -> None:
    file = Queues(
        (Flavor("h100"), Flavor("a100")),
        (Cohort("all"), Cohort("org", "all")),
        (Queue("ml", "org", quota={"h100": {"gpus": Quota(4)}}), Queue("vision", "org")),
    )
    checked(file, "queues.toml")
    FAULTS[message](file)
    with pytest.raises(ValueError, match=r"^queues\.toml: ") as raised:
        checked(file, "queues.toml")
    assert message in str(raised.value)


def test_all_faults_are_named_at_once() -> None:
    file = Queues((), (Cohort("a", "b"), Cohort("b", "a"), Cohort("c", "c")), ())
    with pytest.raises(ValueError, match="there is no queue") as raised:
        checked(file, "queues.toml")
    assert len(str(raised.value).splitlines()) == 3
