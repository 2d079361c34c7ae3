"""In which order the heads of all queues are served. Each queue has one head.

Heads of gangs that run in part come first: their nodes do nothing without the rest. By borrowing,
who borrows less comes next; by share, a tournament goes up the tree. Both are Kueue's
(`pkg/scheduler`). By past use, who borrows nothing comes next, then whose queue used less of late.
By Slurm's fair tree, its rank comes next, but after heads that would reclaim their own quota.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from scheduler.core.model import Gang
from scheduler.core.pastuse import PERIOD_US, PastUse
from scheduler.core.queueing import GangState
from scheduler.core.queues import Serve, Sharing, Victims
from scheduler.core.quota import NO_PARENT, Amounts, QuotaTree
from scheduler.core.times import FOREVER_US, to_us
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
        "standing",
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
        self.standing = (-priority, submit_us, ordinal, name)  #: among equals, the first first


class QueueHead(Head):
    """A head as passes have it: kept from pass to pass, with its `height` as of now."""

    __slots__ = (
        "_branch",
        "_enough",
        "_leaving",
        "_others",
        "_reclaims",
        "_version",
        "family",
        "gang",
        "is_plain",
        "is_vain",
        "keeps",
        "member",
        "own_node",
        "size",
    )

    def __init__(self, member: GangState, tree: QuotaTree) -> None:
        gang = member.gang
        options = member.family.options
        Head.__init__(
            self,
            gang.name,
            member.queue,
            gang.priority,
            gang.submit_us,
            options[0].amounts(member.size),
            0,
            gang.ordinal,
            not (member.mends and member.held),
        )
        # Where it was of no use to serve it, and as of then; see `note_useless`.
        self._version = self._branch = -1
        self._enough = self._leaving = 0
        self._reclaims = self._others = False
        self.member = member
        self.gang = gang
        self.family = member.family
        self.size = member.size
        self.keeps = False  #: it lacks quota of its own, which others have borrowed
        self.is_vain = False  #: it has no quota, and would find nobody to evict
        #: one flavor and one resource, and it could ever fit: its quota is quickly looked up
        self.is_plain = (
            len(options) == 1 and len(self.amounts) == 1 and options[0].max_size >= member.size
        )

        #: the smallest subtree below the root whose own quota could hold it; NO_PARENT if none
        self.own_node = NO_PARENT
        if self.is_plain:
            self.own_node = tree.smallest(member.queue, *self.amounts[0])

    def is_of(self, member: GangState) -> bool:
        """True if it is still what it was worked out for."""
        return (
            member is self.member
            and member.family is self.family
            and member.size == self.size
            and self.is_whole is not (member.mends and bool(member.held))
            and member.gang is self.gang
        )

    def note_useless(self, tree: QuotaTree, leaving: int, own: int, may_reclaim: bool) -> None:
        """Note that it found no quota, and would find nobody to evict.

        So many GPUs are held by gangs that leave, and `own` by those of its queue that it might
        evict. `may_reclaim`: it may evict those of others, too, once they borrow.
        """
        self._version, self._branch = tree.version, tree.branch(self.queue)
        self._leaving = leaving
        self._reclaims = may_reclaim
        if self.is_plain:
            cell, amount = self.amounts[0]
            lacks = amount - tree.available(self.queue, cell)
            self._enough = tree.free_at_root(self.queue, cell) + lacks - own
            self._others = tree.others_borrow(self.queue, cell)

    def forget_useless(self) -> None:
        """Forget that: it is looked at anew, and `keeps` and `height` are those of now."""
        self._version = self._branch = -1

    def is_useless(self, tree: QuotaTree, leaving: int) -> bool:
        """True if nothing has changed since then that can be of use to it."""
        if self._version == tree.version:
            return leaving <= self._leaving
        if not self.is_plain or self._branch != tree.branch(self.queue):
            return False
        cell = self.amounts[0][0]
        if tree.free_at_root(self.queue, cell) + leaving >= self._enough:
            return False
        if not self._reclaims:
            return True
        if leaving > self._leaving:
            return False
        return self._others or not tree.others_borrow(self.queue, cell)  # as before

    def age(self, words: Sharing, now_us: int) -> None:
        """Let its wait count."""
        self.priority = aged(words, self.gang, now_us)
        self.standing = (-self.priority, *self.standing[1:])


def by_borrowing(head: Head) -> tuple[bool, int, tuple[float | str, ...]]:
    """Sort heads: who borrows less, higher priority, older."""
    return (head.is_whole, head.height, head.standing)


def aged(words: Sharing, gang: Gang, now_us: int) -> float:
    """Return the priority of a head with what its wait adds, which is bounded."""
    if not words.age_priority or now_us <= gang.submit_us:
        return gang.priority
    ratio = age_ratio(now_us - gang.submit_us, to_us(words.age_s))
    return gang.priority + words.age_priority * ratio


def next_look_us(words: Sharing, now_us: int) -> int:
    """Return when heads may come in another order though nothing happens: FOREVER_US if never."""
    return now_us + PERIOD_US if words.age_priority or words.uses_past else FOREVER_US


def served(
    tree: QuotaTree, words: Sharing, heads: list[QueueHead], past: PastUse | None, now_us: int
) -> Iterable[QueueHead]:
    """Return heads in the order in which they are served; ask for each once it is its turn.

    `past` is there if the words need it. Between two heads no usage may change but that of the
    queue of the first.
    """
    if len(heads) < 2:
        return heads
    if words.heads is Serve.BORROWING:
        return _first_of_all(heads)
    now = None if past is None else past.as_of(now_us)
    if words.heads is Serve.SHARE:
        return _by_share(tree, heads, tree.weight if now is None else now.weights(tree))
    assert now is not None
    standing = {head.queue: now.standing(tree, head.queue) for head in heads}
    by_tree = words.heads is Serve.FAIR_TREE

    def key(head: QueueHead) -> tuple[float | str, ...]:
        takes_own = head.height == 0
        if by_tree:  # limits of Slurm promise nothing; but who could evict for its own is first
            takes_own = takes_own and tree.queues[head.queue].reclaim is not Victims.NEVER
        return (head.is_whole, not takes_own, standing[head.queue], *head.standing)

    heads.sort(key=key)
    return heads


def _first_of_all(heads: list[QueueHead]) -> Iterator[QueueHead]:
    """Yield heads by borrowing; most passes end after the first, so that the rest is not sorted."""
    if heads:
        first = min(heads, key=by_borrowing)
        yield first
        for head in sorted(heads, key=by_borrowing):
            if head is not first:
                yield head


def _by_share(tree: QuotaTree, heads: list[QueueHead], weights: list[float]) -> Iterator[QueueHead]:
    """Yield the heads that run in part, those that keep quota, and the tournament's winners."""
    whole: dict[int, QueueHead] = {}
    for head in sorted(heads, key=by_borrowing):
        if head.is_whole and not head.keeps:
            whole[head.queue] = head
        else:
            yield head
    tournament = Tournament(tree, list(whole.values()), weights)
    while whole:
        yield whole.pop(tournament.next().queue)


#: whether a node borrows with a head's gang, its share then, and how the head compares
_Key = tuple[bool, tuple[float, float], tuple[float | str, ...]]


class Tournament:
    """Heads of different queues in the order of Kueue's fair sharing.

    At each cohort the child wins that does not borrow what its head asks for, then the one with
    the lower share with the head's gang, then by priority and age. Trees are served in the order of
    their first queues. Shares change with what is taken, so a head is found once it is asked for;
    until the next no usage may change but that of its queue.
    """

    def __init__(
        self, tree: QuotaTree, heads: Sequence[Head], weights: list[float] | None = None
    ) -> None:
        self._tree = tree
        self._weights = tree.weight if weights is None else weights  #: hold for this alone
        self._queues = sorted([head.queue for head in heads])
        self._winners = {head.queue: head for head in heads}  #: below each node that has a head
        self._keys: dict[int, _Key] = {}  #: how they compare with those of siblings
        self._last = NO_PARENT  #: the queue of the head that was returned last
        cohorts = {above for queue in self._queues for above in tree.above(queue)}
        for queue in self._queues:
            self._compare(queue)
        for cohort in sorted(cohorts, key=lambda node: (tree.heights[node], node)):
            self._play(cohort)

    def next(self) -> Head:
        """Return the next head; one must be left."""
        tree, last = self._tree, self._last
        if last != NO_PARENT:
            self._queues.remove(last)
            del self._winners[last]
            for cohort in tree.above(last):
                self._play(cohort)
        found = self._winners[tree.root(self._queues[0])]
        self._last = found.queue
        return found

    def _play(self, cohort: int) -> None:
        """Find who wins below a cohort."""
        winners, keys = self._winners, self._keys
        best = NO_PARENT
        for child in self._tree.children[cohort]:
            if child in winners and (best == NO_PARENT or keys[child] < keys[best]):
                best = child
        if best == NO_PARENT:
            del winners[cohort]
        else:
            winners[cohort] = winners[best]
            self._compare(cohort)

    def _compare(self, node: int) -> None:
        """Work out how the head that wins below a node compares with those of its siblings."""
        tree, head = self._tree, self._winners[node]
        if tree.parent[node] != NO_PARENT:
            tree.weight, own = self._weights, tree.weight
            self._keys[node] = (*_share(tree, node, head), head.standing)
            tree.weight = own


def _share(tree: QuotaTree, node: int, head: Head) -> tuple[bool, tuple[float, float]]:
    """Return whether a node borrows with a head's gang, and its share then."""
    outer = tree.begin_trial()
    tree.take(head.queue, head.amounts)
    borrows = any(tree.borrows(node, cell) for cell, _ in head.amounts)
    share = tree.share(node)
    tree.undo_trial(outer)
    return borrows, share.rank
