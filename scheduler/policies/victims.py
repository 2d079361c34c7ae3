"""Whole-gang preemption: whom to evict so that a gang fits. One function for priority and reclaim.

Candidates are those that the words of the gang's queue allow. They go one by one, in order, until
the gang fits; then whoever may stay after all does. The rules are Kueue's (`pkg/scheduler/
preemption`): walking up from the gang's queue, as soon as the gang fits in the own quota of a
subtree it has the *advantage* over what borrows from there, and only `reclaim` counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scheduler.core.queues import Victims
from scheduler.core.quota import NO_PARENT, Amounts, QuotaTree
from scheduler.policies.contest import (
    Attempt,
    Contender,
    Contest,
    Victim,
    Why,
    allows,
    borrows_short,
    holds_short,
    within,
)
from scheduler.policies.fair import victims_by_share


def victims(
    contest: Contest, gang: Contender, amounts: Amounts, short: Sequence[int]
) -> list[Victim]:
    """Return whom to evict so that the gang fits, in the order in which they were taken.

    `amounts` is all that it asks for, and `short` the cells of which there is too little, be it of
    quota or of nodes. Empty: nobody may be evicted, or it would not help. Leaves no trace.
    """
    if not gang.evicts:
        return []
    if contest.rules:
        return victims_by_share(contest, gang, amounts, short)
    candidates = Candidates(contest, gang, amounts, short)
    for may_borrow in _tries(candidates):
        found = _by_quota(candidates, Attempt(contest, gang, amounts, short, may_borrow))
        if found:
            return found
    return []


def _by_quota(candidates: Candidates, around: Attempt) -> list[Victim]:
    """Return the victims of one try."""
    with around as attempt:
        for candidate in candidates.in_order(attempt.may_borrow):
            attempt.evict(candidate.gang, candidate.why)
            if attempt.fits():
                return attempt.filled_back()
    return []


class Candidate:
    """A gang that may be evicted, and by which right."""

    __slots__ = ("between", "gang", "while_borrowing", "why")

    def __init__(
        self, gang: Contender, why: Why, while_borrowing: bool, between: list[int]
    ) -> None:
        self.gang = gang
        self.why = why
        self.while_borrowing = while_borrowing  #: also if the other ends up borrowing
        #: its queue and the cohorts up to where it was found: all must borrow when its turn comes
        self.between = between


class Candidates:
    """All gangs that may be evicted for one gang."""

    __slots__ = ("_contest", "_gang", "_short", "advantage", "others", "own", "words")

    def __init__(
        self, contest: Contest, gang: Contender, amounts: Amounts, short: Sequence[int]
    ) -> None:
        self._contest = contest
        self._gang = gang
        self._short = short
        self.words = contest.tree.queues[gang.queue]
        self.advantage: list[Candidate] = []  #: found where the gang fits in a subtree's own quota
        self.others: list[Candidate] = []  #: of other queues, without that
        self.own = [
            Candidate(other, Why.QUEUE, True, [])
            for other in contest.running[gang.queue]
            if allows(self.words.within, gang, other) and holds_short(other, short)
        ]
        if self.words.reclaim is not Victims.NEVER:
            self._walk(amounts)
        for found in (self.advantage, self.others, self.own):
            found.sort(key=lambda candidate: contest.order(candidate.gang))

    def _walk(self, amounts: Amounts) -> None:
        """Collect candidates of other queues, from the gang's own queue upwards."""
        tree = self._contest.tree
        below, advantage = self._gang.queue, False
        above = tree.parent[below]
        while above != NO_PARENT:
            advantage = advantage or within(tree, below, amounts)
            amounts = _beyond(tree, below, amounts)
            for child in tree.children[above]:
                if child != below:
                    self._descend(child, advantage, [])
            below, above = above, tree.parent[above]

    def _descend(self, node: int, advantage: bool, between: list[int]) -> None:
        tree, gang, words = self._contest.tree, self._gang, self.words
        if not borrows_short(tree, node, self._short):
            return
        between = [*between, node]
        for child in tree.children[node]:
            self._descend(child, advantage, between)
        if node >= tree.num_queues:
            return
        for other in self._contest.running[node]:
            if not allows(words.reclaim, gang, other) or not holds_short(other, self._short):
                continue
            if advantage:
                self.advantage.append(Candidate(other, Why.RECLAIM, True, between))
            elif self._while_borrowing(other):
                self.others.append(Candidate(other, Why.BORROW_WITHIN, True, between))
            else:
                self.others.append(Candidate(other, Why.RECLAIM, False, between))

    def _while_borrowing(self, other: Contender) -> bool:
        """True if `borrow_within` lets the gang have this one's place and borrow."""
        words = self.words
        most = words.max_priority
        return (
            words.borrow_within is not Victims.NEVER
            and other.priority < self._gang.priority
            and (most is None or other.priority <= most)
        )

    def in_order(self, may_borrow: bool) -> Iterator[Candidate]:
        """Yield candidates whose turn it is; those that leave already come first.

        Other queues are looked at again each time: one that does not borrow any more loses nobody.
        """
        tree, short = self._contest.tree, self._short
        for leaving in (True, False):
            for found in (self.advantage, self.others, self.own):
                for candidate in found:
                    if candidate.gang.leaving is not leaving:
                        continue
                    if may_borrow and not candidate.while_borrowing:
                        continue
                    if all(borrows_short(tree, node, short) for node in candidate.between):
                        yield candidate

    def below_nominal(self) -> bool:
        """True if the gang's queue uses less than its own of everything that is short."""
        tree, queue = self._contest.tree, self._gang.queue
        return all(tree.usage[queue][cell] < tree.nominal[queue][cell] for cell in self._short)


def _tries(found: Candidates) -> tuple[bool, ...]:
    """Return in which order to try whether the gang may borrow."""
    forbidden = found.words.borrow_within is Victims.NEVER
    if not (found.advantage or found.others) or (forbidden and not found.below_nominal()):
        return (True,)
    if forbidden and not found.advantage:
        return (False, True)
    if all(candidate.while_borrowing for candidate in found.others):
        return (True,)  # without, the same ones would go, and it fits less often
    return (True, False)


def _beyond(tree: QuotaTree, node: int, amounts: Amounts) -> Amounts:
    """Return what is left of the amounts once the node gave what it lends to nobody."""
    return tuple(
        (cell, amount - tree.local_free(node, cell))
        for cell, amount in amounts
        if amount > tree.local_free(node, cell)
    )
