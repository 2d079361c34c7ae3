"""In which order the heads of all queues are served. Each queue has one head.

Heads of gangs that run in part come first: their nodes do nothing without the rest. By borrowing,
who borrows less comes next; by share, a tournament goes up the tree. Both are Kueue's
(`pkg/scheduler`). By past use, who borrows nothing comes next, then whose queue used less of late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from scheduler.core.model import Gang
from scheduler.core.pastuse import PastUse
from scheduler.core.queueing import GangState
from scheduler.core.queues import Serve, Sharing
from scheduler.core.quota import Amounts, QuotaTree
from scheduler.core.quotabook import Option
from scheduler.core.times import to_us
from scheduler.core.usage import age_ratio


class Head:
    """The first gang of a queue, and what it would take."""

    __slots__ = (
        "amounts",
        "height",
        "is_whole",
        "name",
        "ordinal",
        "priority",
        "queue",
        "submit_us",
    )

    def __init__(
        self,
        name: str,
        queue: int,
        priority: float,
        submit_us: int,
        amounts: Amounts,
        height: int,
        ordinal: int = 0,
        is_whole: bool = True,
    ) -> None:
        self.name = name
        self.queue = queue  #: its node in the tree
        self.priority = priority  #: with what its wait adds
        self.submit_us = submit_us
        self.amounts = amounts  #: empty if no flavor would do
        self.height = height  #: how far up the tree it borrows; 0 is not at all
        self.ordinal = ordinal
        self.is_whole = is_whole  #: it does not run in part


class QueueHead(Head):
    """A head as a pass has it."""

    __slots__ = ("member", "options")

    def __init__(
        self,
        member: GangState,
        priority: float,
        options: list[Option],
        amounts: Amounts,
        height: int,
    ) -> None:
        gang = member.gang
        is_whole = not (member.mends and member.held)
        Head.__init__(
            self,
            gang.name,
            member.queue,
            priority,
            gang.submit_us,
            amounts,
            height,
            gang.ordinal,
            is_whole,
        )
        self.member = member
        self.options = options  #: the ways to place it that its quota allows


def by_borrowing(head: Head) -> tuple[float | str, ...]:
    """Sort heads: who borrows less, higher priority, older."""
    return (head.is_whole, head.height, *_standing(head))


def _standing(head: Head) -> tuple[float | str, ...]:
    return (-head.priority, head.submit_us, head.ordinal, head.name)


def aged(words: Sharing, gang: Gang, now_us: int) -> float:
    """Return the priority of a head with what its wait adds, which is bounded."""
    if not words.age_priority or now_us <= gang.submit_us:
        return gang.priority
    ratio = age_ratio(now_us - gang.submit_us, to_us(words.age_s))
    return gang.priority + words.age_priority * ratio


def served(
    tree: QuotaTree, words: Sharing, heads: list[QueueHead], past: PastUse | None, now_us: int
) -> Iterable[QueueHead]:
    """Return heads in the order in which they are served; ask for each once it is its turn.

    `past` is there if the words need it.
    """
    if words.heads is Serve.BORROWING:
        heads.sort(key=by_borrowing)
        return heads
    now = None if past is None else past.as_of(now_us)
    if words.heads is Serve.SHARE:
        return _by_share(tree, heads, tree.weight if now is None else now.weights(tree))
    assert now is not None
    standings = now.standings(tree)
    heads.sort(
        key=lambda one: (one.is_whole, one.height > 0, standings[one.queue], *_standing(one))
    )
    return heads


def _by_share(tree: QuotaTree, heads: list[QueueHead], weights: list[float]) -> Iterator[QueueHead]:
    """Yield the winner of a tournament, again and again; weights hold for that alone."""
    waiting = {head.queue: head for head in heads}
    for head in heads:
        if not head.is_whole:
            yield waiting.pop(head.queue)
    while waiting:
        tree.weight, own = weights, tree.weight
        first = next_by_share(tree, list(waiting.values()))
        tree.weight = own
        yield waiting.pop(first.queue)


def next_by_share(tree: QuotaTree, heads: Sequence[Head]) -> Head:
    """Return the head to be served next; `heads`, of different queues, are not empty.

    At each cohort the child wins that does not borrow what its head asks for, then the one with
    the lower share with the head's gang, then by priority and age. Shares change with what is
    taken, so ask again after each head. Trees are served in the order of their first queues.
    """
    by_queue = {head.queue: head for head in heads}
    root = tree.root(min(by_queue))
    winner = _winner(tree, root, by_queue)
    assert winner is not None
    return winner


def _winner(tree: QuotaTree, node: int, by_queue: Mapping[int, Head]) -> Head | None:
    """Return the head that wins below a node."""
    if node < tree.num_queues:
        return by_queue.get(node)
    best: Head | None = None
    best_key: tuple[bool, tuple[float, float], tuple[float | str, ...]] | None = None
    for child in tree.children[node]:
        head = _winner(tree, child, by_queue)
        if head is None:
            continue
        key = (*_share(tree, child, head), _standing(head))
        if best_key is None or key < best_key:
            best, best_key = head, key
    return best


def _share(tree: QuotaTree, node: int, head: Head) -> tuple[bool, tuple[float, float]]:
    """Return whether a node borrows with a head's gang, and its share then."""
    outer = tree.begin_trial()
    tree.take(head.queue, head.amounts)
    borrows = any(tree.borrows(node, cell) for cell, _ in head.amounts)
    share = tree.share(node)
    tree.undo_trial(outer)
    return borrows, share.rank
