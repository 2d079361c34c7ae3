"""Which flavor a gang takes: the words of its queue, roles that share, and nodes that lack."""

from __future__ import annotations

import pytest

from scheduler.core.queues import (
    Cohort,
    Flavor,
    Preference,
    Queue,
    Queues,
    Quota,
    Search,
    Victims,
    checked,
)
from scheduler.core.quota import QuotaTree
from scheduler.policies.contest import Contender, Contest
from scheduler.policies.flavors import Assignment, Mode, assign

GANG = Contender("in", 0, 1, 9)


def contest(*, lent: int = 8, **words: object) -> Contest:
    """A queue with 4 GPUs each of h100 and a100, and another that lends `lent` h100."""
    own = {"h100": {"gpus": Quota(4)}, "a100": {"gpus": Quota(4)}}
    queue = Queue("ours", "all", quota=own)
    for word, value in words.items():
        setattr(queue, word, value)
    other = Queue("theirs", "all", quota={"h100": {"gpus": Quota(lent)}})
    file = Queues((Flavor("h100"), Flavor("a100")), (Cohort("all"),), (queue, other))
    return Contest(QuotaTree(checked(file, "queues.toml")), [[], []])


def taken(found: Assignment) -> list[str]:
    return [role.flavor for role in found.roles]


def test_roles_of_a_gang_add_up() -> None:
    of = contest(lent=0)
    found = assign(of, GANG, [{"gpus": 3}, {"gpus": 3}])
    assert (taken(found), found.mode) == (["h100", "a100"], Mode.FIT)
    assert found.amounts == ((0, 3), (1, 3))
    found = assign(of, GANG, [{"gpus": 3}, {"gpus": 1}])
    assert (taken(found), found.amounts) == (["h100", "h100"], ((0, 4),))
    found = assign(of, GANG, [{"gpus": 3}, {"gpus": 3}, {"gpus": 3}])
    assert (found.mode, found.amounts) == (Mode.NEVER_FITS, ())


@pytest.mark.parametrize(
    ("words", "flavor", "height"),
    [({}, "h100", 1), ({"when_can_borrow": Search.TRY_NEXT}, "a100", 0)],
)
def test_a_word_of_the_queue_says_whether_it_rather_borrows(
    words: dict[str, object], flavor: str, height: int
) -> None:
    of = contest(**words)
    of.tree.take(0, ((0, 4),))
    found = assign(of, GANG, [{"gpus": 2}])
    assert (taken(found), found.mode, found.height) == ([flavor], Mode.FIT, height)


@pytest.mark.parametrize(
    ("preference", "flavor"),
    [
        (Preference.BORROWING_OVER_PREEMPTION, "h100"),
        (Preference.PREEMPTION_OVER_BORROWING, "a100"),
    ],
)
def test_a_word_of_the_queue_says_whether_it_rather_borrows_or_evicts(
    preference: Preference, flavor: str
) -> None:
    """On h100 it would borrow, on a100 evict one of its own."""
    of = contest(
        preference=preference, when_can_borrow=Search.TRY_NEXT, within=Victims.LOWER_PRIORITY
    )
    of.tree.take(0, ((0, 4),))
    mine = Contender("mine", 0, 0, 0, ((1, 4),))
    of.tree.take(0, mine.amounts)
    of.running = [[mine], []]
    assert taken(assign(of, GANG, [{"gpus": 2}])) == [flavor]


def test_a_flavor_without_nodes_is_short_whatever_its_quota() -> None:
    of = contest()
    assert taken(assign(of, GANG, [{"gpus": 2}])) == ["h100"]
    found = assign(of, GANG, [{"gpus": 2}], has_nodes=lambda _, flavor: flavor != "h100")
    assert (taken(found), found.mode) == (["a100"], Mode.FIT)
    found = assign(of, GANG, [{"gpus": 2}], has_nodes=lambda *_: False)
    assert (taken(found), found.mode, found.short) == (["h100"], Mode.NO_CANDIDATES, (0,))


def test_a_resource_without_quota_never_fits_and_one_lent_out_waits() -> None:
    of = contest()
    assert assign(of, GANG, [{"gpus": 2, "cpu": 1}]).mode is Mode.NEVER_FITS
    of.tree.take(0, ((1, 4),))
    of.tree.take(1, ((0, 12),))
    found = assign(of, GANG, [{"gpus": 5}])
    assert (found.mode, found.short, found.height) == (Mode.NO_FIT, (0,), 0)


def test_a_search_goes_on_where_it_is_told_to() -> None:
    of = contest()
    found = assign(of, GANG, [{"gpus": 2}], first=[1])
    assert (taken(found), found.roles[0].tried) == (["a100"], 1)
    assert taken(assign(of, GANG, [{"gpus": 2}], only=["a100"])) == ["a100"]
