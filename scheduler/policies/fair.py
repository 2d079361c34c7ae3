"""Victims by fair share: queues with the largest share lose gangs first.

The rules are Kueue's (`pkg/scheduler/preemption/fairsharing`). The gang counts in its queue while
shares are compared. A queue that stays within its own quota with it needs no comparison; else the
shares of both sides are compared just below the lowest cohort that they have in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scheduler.core.queues import ShareRule
from scheduler.core.quota import NO_PARENT, Amounts, QuotaTree, Share
from scheduler.policies.contest import (
    Attempt,
    Contender,
    Contest,
    Victim,
    Why,
    allows,
    borrows_short,
    holds_short,
)


def victims_by_share(
    contest: Contest, gang: Contender, amounts: Amounts, short: Sequence[int]
) -> list[Victim]:
    """Return whom to evict so that the gang fits, as `victims` does."""
    candidates = _candidates(contest, gang, short)
    if not candidates:
        return []
    with Attempt(contest, gang, amounts, short) as attempt:
        contest.tree.take(gang.queue, amounts)
        kept: list[Contender] = []
        fits = _first_rule(attempt, candidates, kept)
        if not fits and len(contest.rules) > 1:
            refused = set(kept)
            fits = _second_rule(attempt, [other for other in candidates if other in refused])
        contest.tree.give_back(gang.queue, amounts)
        return attempt.filled_back() if fits else []


def _candidates(contest: Contest, gang: Contender, short: Sequence[int]) -> list[Contender]:
    """Return who may be evicted, in order: those that leave already, other queues, the own."""
    tree = contest.tree
    words = tree.queues[gang.queue]
    root = tree.root(gang.queue)
    found = []
    for queue, running in enumerate(contest.running):
        own = queue == gang.queue
        if own or (tree.root(queue) == root and borrows_short(tree, queue, short)):
            policy = words.within if own else words.reclaim
            found += [
                ((not other.leaving, own, *contest.order(other)), other)
                for other in running
                if allows(policy, gang, other) and holds_short(other, short)
            ]
    found.sort(key=lambda entry: entry[0])
    return [other for _, other in found]


def _first_rule(attempt: Attempt, candidates: list[Contender], kept: list[Contender]) -> bool:
    """Evict by the first rule until the gang fits; put those that it refuses into `kept`."""
    tree, own = attempt.contest.tree, attempt.gang.queue
    rule = attempt.contest.rules[0]
    entitled = not borrows_short(tree, own, attempt.short)  # before anybody leaves
    by_queue = ByShare(tree, own, candidates)
    for queue in by_queue:
        waiting = by_queue.of[queue]
        if queue == own:
            attempt.evict(waiting.pop(0), Why.QUEUE)
        elif entitled:
            attempt.evict(waiting.pop(0), Why.RECLAIM)
        else:
            ours, theirs = tree.sides(own, queue)
            our_share, their_share = tree.share(ours), tree.share(theirs)
            passed = False
            while waiting and not passed:
                other = waiting.pop(0)
                passed = _passes(rule, tree, our_share, their_share, theirs, other)
                if passed:
                    attempt.evict(other, Why.SHARE)
                else:
                    kept.append(other)
            if not passed:
                continue
        if _fits(attempt):
            return True
    return False


def _second_rule(attempt: Attempt, kept: list[Contender]) -> bool:
    """Go on by the second rule: each queue once, and only its first gang."""
    tree, own = attempt.contest.tree, attempt.gang.queue
    rule = attempt.contest.rules[1]
    by_queue = ByShare(tree, own, kept)
    for queue in by_queue:
        ours, theirs = tree.sides(own, queue)
        other = by_queue.of[queue][0]
        if _passes(rule, tree, tree.share(ours), tree.share(theirs), theirs, other):
            attempt.evict(other, Why.SHARE)
            if _fits(attempt):
                return True
        by_queue.of[queue].clear()
    return False


def _passes(
    rule: ShareRule, tree: QuotaTree, ours: Share, theirs: Share, node: int, other: Contender
) -> bool:
    """True if the shares allow to evict `other`, whose side of the tree is `node`."""
    if rule is ShareRule.INITIAL:
        return ours.rank < theirs.rank
    outer = tree.begin_trial()
    tree.give_back(other.queue, other.amounts)
    without = tree.share(node)
    tree.undo_trial(outer)
    return ours.rank <= without.rank


def _fits(attempt: Attempt) -> bool:
    """True if the gang, which counts in the tree already, fits."""
    tree, queue = attempt.contest.tree, attempt.gang.queue
    tree.give_back(queue, attempt.amounts)
    fits = attempt.fits()
    tree.take(queue, attempt.amounts)
    return fits


class ByShare:
    """Queues with candidates: again and again, from the root into the child of the largest share.

    At equal shares a cohort comes before a queue, and queues by their next candidate. Whoever does
    not borrow is left out, but for the gang's own queue and the cohorts above it.
    """

    __slots__ = ("_above", "_done", "_own", "_place", "_tree", "of")

    def __init__(self, tree: QuotaTree, own: int, candidates: list[Contender]) -> None:
        self._tree = tree
        self._own = own
        self._above = tree.above(own)
        self._done: set[int] = set()  #: nodes that have nobody left
        self._place = {other.name: at for at, other in enumerate(candidates)}
        self.of: dict[int, list[Contender]] = {}  #: candidates by queue, in order
        for other in candidates:
            self.of.setdefault(other.queue, []).append(other)

    def __iter__(self) -> Iterator[int]:
        root = self._tree.root(self._own)
        while root not in self._done:
            queue = self._next(root)
            if queue != NO_PARENT:
                yield queue

    def _next(self, node: int) -> int:
        """Return the queue below a node whose turn it is, or note that there is none."""
        tree = self._tree
        if node < tree.num_queues:
            if self.of.get(node):
                return node
            self._done.add(node)
            return NO_PARENT
        best, best_key = NO_PARENT, (-1.0, 0.0, 0, 0)
        for child in tree.children[node]:
            if child in self._done:
                continue
            is_queue = child < tree.num_queues
            share = tree.share(child)
            spared = not share.unweighted and child != self._own and child not in self._above
            if spared or (is_queue and not self.of.get(child)):
                self._done.add(child)
                continue
            first = self._place[self.of[child][0].name] if is_queue else 0
            key = (*share.rank, 0 if is_queue else 1, -first)
            if best == NO_PARENT or key > best_key:
                best, best_key = child, key
        if best == NO_PARENT:
            self._done.add(node)
            return NO_PARENT
        return self._next(best)
