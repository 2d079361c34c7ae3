"""In which order the heads of all queues are served, and what one that must wait keeps.

Each queue has one head. By quota, who borrows less comes first; by fair share, a tournament goes
up the tree. Both are Kueue's (`pkg/scheduler`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scheduler.core.queues import Victims
from scheduler.core.quota import NO_LIMIT, Amounts, QuotaTree
from scheduler.policies.contest import Contender


class Head:
    """The first gang of a queue, and what it would take."""

    __slots__ = ("amounts", "gang", "height")

    def __init__(self, gang: Contender, amounts: Amounts, height: int) -> None:
        self.gang = gang
        self.amounts = amounts  #: empty if no flavor would do
        self.height = height  #: how far up the tree it borrows; 0 is not at all


def by_quota(head: Head) -> tuple[int | str, ...]:
    """Sort heads: who borrows less, higher priority, older."""
    gang = head.gang
    return (head.height, -gang.priority, gang.submit_us, gang.name)


def next_by_share(tree: QuotaTree, heads: Sequence[Head]) -> Head:
    """Return the head to be served next; `heads`, of different queues, are not empty.

    At each cohort the child wins that does not borrow what its head asks for, then the one with
    the lower share with the head's gang, then by priority and age. Shares change with what is
    taken, so ask again after each head. Trees are served in the order of their first queues.
    """
    by_queue = {head.gang.queue: head for head in heads}
    root = tree.root(min(by_queue))
    winner = _winner(tree, root, by_queue)
    assert winner is not None
    return winner


def _winner(tree: QuotaTree, node: int, by_queue: Mapping[int, Head]) -> Head | None:
    """Return the head that wins below a node."""
    if node < tree.num_queues:
        return by_queue.get(node)
    best: Head | None = None
    best_key: tuple[bool, tuple[float, float], tuple[int | str, ...]] | None = None
    for child in tree.children[node]:
        head = _winner(tree, child, by_queue)
        if head is None:
            continue
        key = (*_standing(tree, child, head), (-head.gang.priority, *_age(head)))
        if best_key is None or key < best_key:
            best, best_key = head, key
    return best


def _standing(tree: QuotaTree, node: int, head: Head) -> tuple[bool, tuple[float, float]]:
    """Return whether a node borrows with a head's gang, and its share then."""
    outer = tree.begin_trial()
    tree.take(head.gang.queue, head.amounts)
    borrows = any(tree.borrows(node, cell) for cell, _ in head.amounts)
    share = tree.share(node)
    tree.undo_trial(outer)
    return borrows, share.rank


def _age(head: Head) -> tuple[int | str, ...]:
    return (head.gang.submit_us, head.gang.name)


def kept(tree: QuotaTree, head: Head) -> Amounts:
    """Return what a head that waits for others to leave keeps from later heads.

    That is up to its queue's own quota, or up to its limit if it borrows; nothing if its queue may
    reclaim from anybody, as it can have that back at any time.
    """
    queue = head.gang.queue
    if tree.queues[queue].reclaim is Victims.ANY:
        return ()
    found = []
    for cell, amount in head.amounts:
        most = tree.nominal[queue][cell]
        if head.height > 0:
            limit = tree.borrow[queue][cell]
            most = most + limit if limit != NO_LIMIT else amount + tree.usage[queue][cell]
        left = min(amount, most - tree.usage[queue][cell])
        if left > 0:
            found.append((cell, left))
    return tuple(found)
