"""What queues used over time, worked out from the attempts once a run is over.

All gangs of one queue and demand are short of quota at the same times, and usage changes only where
attempts begin and end. So nothing of it is logged while the simulation runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from scheduler.core.capacity import GPUS
from scheduler.core.queues import Queues
from scheduler.core.quota import NO_LIMIT, NO_PARENT, Amounts, QuotaTree
from scheduler.core.quotabook import DEFAULT, Option, QuotaBook

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_MOST_NAMED = 10


class UnknownQueueError(ValueError):
    """Jobs are for queues that a queues file lacks."""


def check_queues(queues: Sequence[str], book: QuotaBook) -> None:
    """Check that every job is for a queue that there is; `queues` are those of the jobs.

    Raises:
        UnknownQueueError: some are not; names each, how many jobs it has, and the way out.
    """
    num_jobs = Counter(queues)
    unknown = [name for name in num_jobs if book.queue_named(name) == NO_PARENT]
    if not unknown:
        return
    known = [queue.name for queue in book.file.queues]
    said = []
    for name in sorted(unknown, key=lambda name: (-num_jobs[name], name)):
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        what = f"queue {name!r}" if name else "no queue"
        count = f"{num_jobs[name]:,} job" + ("s" if num_jobs[name] != 1 else "")
        said.append(f"{what} ({count}{hint})")
    rest = f" and {len(said) - _MOST_NAMED} more" if len(said) > _MOST_NAMED else ""
    raise UnknownQueueError(
        f"jobs are for queues that the queues file lacks: {', '.join(said[:_MOST_NAMED])}{rest}; "
        f"its queues are {', '.join(known)}; correct the jobs, or add the queues"
        + (f" ({DEFAULT!r} takes jobs without one)" if "" in unknown else "")
    )


@dataclass
class QueueTotals:
    """What the queues of a run used in all, by queue, in GPU-seconds."""

    file: Queues
    of_job: Ints  #: the queue of each job
    nominal_gpus: list[int]  #: of all flavors
    used_gpu_s: Floats
    borrowed_gpu_s: Floats
    lent_gpu_s: Floats


class UsageOverTime:
    """The usage of every queue and cohort as step functions over the same times [num_times]."""

    def __init__(
        self,
        book: QuotaBook,
        queue: Ints,
        took: Sequence[Amounts],
        from_s: Floats,
        to_s: Floats,
    ) -> None:
        """Take attempts as columns: their queues, what they take, and from when to when."""
        self.book = book
        self._attempts = (queue, from_s, to_s)
        self._all_took = took
        self.time_s: Floats = np.unique(np.concatenate([[-1.0], from_s, to_s]))
        self._began = np.searchsorted(self.time_s, from_s)
        self._ended = np.searchsorted(self.time_s, to_s)
        self._queue = queue
        self._took: dict[int, tuple[Ints, Ints]] = {}  #: by cell: rows and their amounts
        rows: dict[int, tuple[list[int], list[int]]] = {}
        for row, amounts in enumerate(took):
            for cell, amount in amounts:
                of, much = rows.setdefault(cell, ([], []))
                of.append(row)
                much.append(amount)
        for cell, (of, much) in rows.items():
            self._took[cell] = (np.array(of, np.int64), np.array(much, np.int64))
        self._usage: dict[tuple[int, int], Ints] = {}
        self._available: dict[tuple[int, int], Ints] = {}

    def with_claims(
        self, queue: Ints, took: Sequence[Amounts], from_s: Floats, to_s: Floats
    ) -> UsageOverTime:
        """Return the same with claims: they count beside those that have not left for them yet."""
        if not len(queue):
            return self
        columns = zip(self._attempts, (queue, from_s, to_s), strict=True)
        of, begins_s, ends_s = (np.concatenate(pair) for pair in columns)
        return UsageOverTime(self.book, of, [*self._all_took, *took], begins_s, ends_s)

    def usage(self, node: int, cell: int) -> Ints:
        """Return what a queue or cohort uses of a cell, at each time."""
        known = self._usage.get((node, cell))
        if known is not None:
            return known
        tree = self.book.tree
        found = np.zeros(len(self.time_s), np.int64)
        if node < tree.num_queues:
            of, much = self._took.get(cell, (np.empty(0, np.int64), np.empty(0, np.int64)))
            mine = self._queue[of] == node
            np.add.at(found, self._began[of[mine]], much[mine])
            np.subtract.at(found, self._ended[of[mine]], much[mine])
            found = np.cumsum(found)
        for child in tree.children[node]:
            found += np.maximum(0, self.usage(child, cell) - tree.local[child][cell])
        self._usage[node, cell] = found
        return found

    def available(self, node: int, cell: int) -> Ints:
        """Return how much more it may use, at each time; see `QuotaTree.available`."""
        known = self._available.get((node, cell))
        if known is not None:
            return known
        tree = self.book.tree
        usage, subtree, above = self.usage(node, cell), tree.subtree[node][cell], tree.parent[node]
        if above == NO_PARENT:
            found: Ints = subtree - usage
        else:
            local, limit = tree.local[node][cell], tree.borrow[node][cell]
            beyond = self.available(above, cell)
            if limit != NO_LIMIT:
                own = subtree - local + limit - np.maximum(0, usage - local)
                beyond = np.minimum(beyond, own)
            found = np.maximum(0, local - usage) + beyond
        self._available[node, cell] = found
        return found

    def is_short(self, queue: int, options: Sequence[Option], size: int) -> NDArray[np.bool_]:
        """Return at which times a queue lacks the quota for a gang, by every way to place it.

        Ways for which there are too few nodes do not count.
        """
        short = np.ones(len(self.time_s), np.bool_)
        for option in options:
            if option.max_size < size:
                continue
            lacks = np.zeros(len(self.time_s), np.bool_)
            for cell, amount in option.amounts(size):
                if not self.book.spans(queue, cell):
                    lacks |= self.available(queue, cell) < amount
            short &= lacks
        return short

    def totals(self, of_job: Ints, until_s: float) -> QueueTotals:
        """Return what each queue used, borrowed and lent of GPUs; `of_job` is of which each job is.

        What the queues of a tree borrow is lent by those that leave some of their own unused, each
        in proportion to that.
        """
        tree = self.book.tree
        lasts_s = np.diff(np.minimum(np.append(self.time_s, until_s), until_s))
        used, borrowed, lent = (np.zeros(tree.num_queues) for _ in range(3))
        roots = [tree.root(queue) for queue in range(tree.num_queues)]
        cells = tree.cells_by_resource.get(GPUS, [])
        for cell in cells:
            for root in sorted(set(roots)):
                queues = [queue for queue, above in enumerate(roots) if above == root]
                over = {}
                for queue in queues:
                    usage = self.usage(queue, cell)
                    over[queue] = np.maximum(0, usage - tree.nominal[queue][cell])
                    used[queue] += float(np.dot(lasts_s, usage))
                    borrowed[queue] += float(np.dot(lasts_s, over[queue]))
                idle = {node: self._idle(node, cell) for node in (root, *_below(tree, root))}
                taken = np.sum(list(over.values()), axis=0)
                ratio = np.minimum(1.0, taken / np.maximum(1, np.sum(list(idle.values()), axis=0)))
                for queue in queues:
                    lent[queue] += float(np.dot(lasts_s, idle[queue] * ratio))
        nominal = [sum(tree.nominal[at][cell] for cell in cells) for at in range(tree.num_queues)]
        return QueueTotals(self.book.file, of_job, nominal, used, borrowed, lent)

    def _idle(self, node: int, cell: int) -> Ints:
        """Return how much a queue or cohort lends of what is its own, used or not."""
        tree = self.book.tree
        nominal = tree.nominal[node][cell]
        if node < tree.num_queues:
            lendable = nominal - tree.local[node][cell]
            idle: Ints = np.minimum(lendable, np.maximum(0, nominal - self.usage(node, cell)))
            return idle
        return np.full(len(self.time_s), nominal, np.int64)


def _below(tree: QuotaTree, node: int) -> list[int]:
    found = list(tree.children[node])
    for child in tree.children[node]:
        found += _below(tree, child)
    return found
