"""A policy: the functions that together decide. `catalog` has the named ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.core.ordering import Order
from scheduler.core.placement import Placer
from scheduler.core.queueing import GangState
from scheduler.core.quota import Amounts, QuotaTree
from scheduler.core.quotabook import Option
from scheduler.policies import heads as heads_of
from scheduler.policies.contest import Contender
from scheduler.policies.passes import Discipline
from scheduler.policies.strict import strict


class Head:
    """The first gang of a queue that has the quota for it."""

    __slots__ = ("amounts", "height", "member", "options")

    def __init__(
        self, member: GangState, options: list[Option], amounts: Amounts, height: int
    ) -> None:
        self.member = member
        self.options = options  #: the ways to place it that its quota allows
        self.amounts = amounts  #: that it would take by the first of them
        self.height = height  #: how far up the tree it borrows; 0 is not at all


#: in which order heads of several queues are served
Serve = Callable[[QuotaTree, list[Head]], Iterable[Head]]


def by_borrowing(tree: QuotaTree, heads: list[Head]) -> Iterable[Head]:
    """Serve who borrows less first, then by priority and submission (Kueue's classical order)."""
    return sorted(heads, key=_standing)


def by_share(tree: QuotaTree, heads: list[Head]) -> Iterable[Head]:
    """Serve heads by the fair shares of their queues with them (Kueue's tournament)."""
    contenders = {}
    for head in heads:
        gang = head.member.gang
        contender = Contender(gang.name, head.member.queue, gang.priority, gang.submit_us)
        contenders[heads_of.Head(contender, head.amounts, head.height)] = head
    while contenders:
        served = heads_of.next_by_share(tree, list(contenders))
        yield contenders.pop(served)


def _standing(head: Head) -> tuple[int | str, ...]:
    member, gang = head.member, head.member.gang
    is_whole = int(not (member.mends and member.held))  # those that run in part come first
    return (is_whole, head.height, -gang.priority, gang.submit_us, gang.ordinal, gang.name)


@dataclass(frozen=True, slots=True)
class Policy:
    """An order, a discipline and a placer; where queues have quota, each has its discipline."""

    name: str
    order: Order
    placer: Placer
    discipline: Discipline = strict
    numbers: dict[str, float] = field(default_factory=dict)  #: that the discipline takes
    serve: Serve = by_borrowing
    restart_s: float = 0.0  #: what a gang that is evicted loses beside its work
