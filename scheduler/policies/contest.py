"""Gangs that compete for quota, and an attempt to make room for one by taking others away.

What both ways to choose victims share: `victims` by priority and quota, `fair` by share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from scheduler.core.queues import ShareRule, Victims
from scheduler.core.quota import Amounts, QuotaTree


class Contender:
    """A gang as it competes: one that runs and may have to leave, or one that asks for room."""

    __slots__ = (
        "admitted_us",
        "amounts",
        "cost",
        "evicts",
        "gave_way",
        "leaving",
        "name",
        "priority",
        "queue",
        "submit_us",
    )

    def __init__(
        self,
        name: str,
        queue: int,
        priority: int,
        submit_us: int,
        amounts: Amounts = (),
        admitted_us: int = 0,
        cost: int = 0,
        leaving: bool = False,
        evicts: bool = True,
    ) -> None:
        self.name = name
        self.queue = queue  #: its node in the tree
        self.priority = priority
        self.submit_us = submit_us
        self.amounts = amounts  #: what it holds
        self.admitted_us = admitted_us
        self.cost = cost  #: what its eviction would waste, in GPU-seconds
        self.leaving = leaving  #: it was told to go, and still holds all
        self.evicts = evicts  #: False: its class says preemptionPolicy: Never
        #: for whom it was evicted, and for whom those were by then: it evicts none of them
        self.gave_way: frozenset[str] = frozenset()

    def gives_way(self, other: Contender) -> None:
        """Note that it is evicted for `other`, which therefore never leaves for it.

        As what one gave way to is handed on, evictions come to an end however rules, shares and
        priorities lie: of all that evict for ever, the one that gave way to the fewest would have
        to be evicted itself, by one that gave way to fewer.
        """
        self.gave_way |= other.gave_way | {other.name}


#: by what candidates of one kind are sorted: the first to go has the smallest
CandidateOrder = Callable[[Contender], tuple[int | str, ...]]


def by_loss(gang: Contender) -> tuple[int | str, ...]:
    """Lower priority first, then what wastes less, then the youngest."""
    return (gang.priority, gang.cost, -gang.admitted_us, gang.name)


class Why(StrEnum):
    """By which right a gang is evicted."""

    QUEUE = "queue"  #: its own queue prefers the other
    RECLAIM = "reclaim"  #: its queue borrows what the other's has
    BORROW_WITHIN = "borrow-within"  #: both queues borrow, and the other has higher priority
    SHARE = "share"  #: its queue has the larger share


class Victim:
    """A gang to evict."""

    __slots__ = ("gang", "why")

    def __init__(self, gang: Contender, why: Why) -> None:
        self.gang = gang
        self.why = why


class Contest:
    """Who holds what, and by which rules room is made."""

    __slots__ = ("order", "placed", "rules", "running", "spares_own", "tree")

    def __init__(
        self,
        tree: QuotaTree,
        running: Sequence[Sequence[Contender]],
        rules: tuple[ShareRule, ...] = (),
        order: CandidateOrder = by_loss,
        placed: Callable[[list[Victim]], bool] | None = None,
        spares_own: bool = True,
    ) -> None:
        self.tree = tree  #: it counts all that run
        self.running = running  #: by queue; only gangs that may be evicted
        self.rules = rules  #: of fair sharing, the first first; without, quota and priority decide
        self.order = order
        #: True if the gang finds nodes without these; asked only where quota suffices
        self.placed = placed
        #: a gang that borrows evicts nobody who then has the better right to its place
        self.spares_own = spares_own


class Attempt:
    """Victims taken away one by one, until the gang fits.

    A context: what it did to the tree is undone at its end.
    """

    __slots__ = ("_outer", "amounts", "contest", "gang", "may_borrow", "short", "victims")

    def __init__(
        self,
        contest: Contest,
        gang: Contender,
        amounts: Amounts,
        short: Sequence[int],
        may_borrow: bool = True,
    ) -> None:
        self.contest = contest
        self.gang = gang
        self.amounts = amounts  #: that the gang asks for
        self.short = short  #: cells of which there is too little
        self.may_borrow = may_borrow
        self.victims: list[Victim] = []

    def __enter__(self) -> Attempt:
        self._outer = self.contest.tree.begin_trial()
        return self

    def __exit__(self, *_: object) -> None:
        self.contest.tree.undo_trial(self._outer)

    def evict(self, gang: Contender, why: Why) -> None:
        """Take a gang away."""
        self.contest.tree.give_back(gang.queue, gang.amounts)
        self.victims.append(Victim(gang, why))

    def fits(self) -> bool:
        """True if the gang fits now."""
        tree, queue = self.contest.tree, self.gang.queue
        if not self.may_borrow and not within(tree, queue, self.amounts):
            return False
        if not tree.fits(queue, self.amounts):
            return False
        placed = self.contest.placed
        return placed is None or placed(self.victims)

    def filled_back(self) -> list[Victim]:
        """Return the victims without those that may stay after all: a set minimal by inclusion.

        The last one made it fit, so it is not asked; the others return in reverse order. Empty if
        others have more right to what these leave.
        """
        tree = self.contest.tree
        for at in range(len(self.victims) - 2, -1, -1):
            victim = self.victims.pop(at)
            tree.take(victim.gang.queue, victim.gang.amounts)
            if not self.fits():
                tree.give_back(victim.gang.queue, victim.gang.amounts)
                self.victims.insert(at, victim)
        if self.contest.spares_own and self._takes_own():
            return []
        return self.victims

    def _takes_own(self) -> bool:
        """True if a victim could take back what the gang then has."""
        tree, queue = self.contest.tree, self.gang.queue
        tree.take(queue, self.amounts)
        found = any(
            victim.gang.queue != queue and _could_take_back(tree, victim.gang, queue)
            for victim in self.victims
        )
        tree.give_back(queue, self.amounts)
        return found


def _could_take_back(tree: QuotaTree, gang: Contender, queue: int) -> bool:
    """True if a gang fits a subtree's own quota, from which the other queue is borrowing."""
    ours, theirs = tree.sides(queue, gang.queue)
    cells = [cell for cell, _ in gang.amounts]
    node = queue
    while borrows_short(tree, node, cells):
        if node == ours:
            subtrees = [gang.queue, *tree.above(gang.queue)]
            own = subtrees[: subtrees.index(theirs) + 1]
            return all(tree.lowest(gang.queue, cell, n) in own for cell, n in gang.amounts)
        node = tree.parent[node]
    return False


def within(tree: QuotaTree, node: int, amounts: Amounts) -> bool:
    """True if the node, with this much more, uses no more than its own subtree has."""
    return not any(tree.borrows(node, cell, amount) for cell, amount in amounts)


def borrows_short(tree: QuotaTree, node: int, short: Sequence[int]) -> bool:
    """True if the node borrows any of what is short."""
    return any(tree.borrows(node, cell) for cell in short)


def holds_short(gang: Contender, short: Sequence[int]) -> bool:
    """True if the gang holds any of what is short."""
    return any(cell in short for cell, _ in gang.amounts)


def allows(policy: Victims, gang: Contender, other: Contender) -> bool:
    """True if a queue's word lets `other` be evicted for `gang`."""
    if policy is Victims.NEVER or other.name in gang.gave_way:
        return False
    if policy is Victims.ANY or other.priority < gang.priority:
        return True
    return (
        policy is Victims.LOWER_OR_NEWER_EQUAL_PRIORITY
        and other.priority == gang.priority
        and other.submit_us > gang.submit_us
    )
