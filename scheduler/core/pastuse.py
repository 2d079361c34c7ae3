"""What each queue used of late, as the words of its file count it: it orders heads, no more.

What counts is GPUs of all flavors, claims included. Between two passes that is what ran after the
first.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.core.capacity import GPUS
from scheduler.core.events import UseSoFar
from scheduler.core.queues import Queues, Serve, Sharing
from scheduler.core.quota import NO_PARENT, QuotaTree
from scheduler.core.times import to_us
from scheduler.core.usage import (
    Association,
    Billed,
    Decayed,
    Smoothed,
    fair_tree,
    weights_by_usage,
)

#: after so long a moving average has a new value (Kueue's usual `usageSamplingInterval`), and use
#: is billed (Slurm's usual `PriorityCalcPeriod`)
PERIOD_US = to_us(300.0)


class PastUse:
    """Counters of all queues, of the kind that the words need."""

    __slots__ = (
        "_ahead",
        "_billed",
        "_cluster",
        "_decayed",
        "_gpus",
        "_now_us",
        "_ranks",
        "_running",
        "_sampled_us",
        "_smoothed",
        "_started",
        "_weights",
        "_words",
    )

    def __init__(self, words: Sharing, num_queues: int) -> None:
        half_life_us = to_us(words.half_life_s)
        self._words = words
        self._smoothed: list[Smoothed] = []
        self._billed: list[Billed] = []
        self._decayed: list[Decayed] = []
        if words.heads is Serve.USAGE:
            self._smoothed = [Smoothed(half_life_us) for _ in range(num_queues)]
        elif words.heads is Serve.FAIR_TREE:
            self._billed = [Billed(half_life_us) for _ in range(num_queues)]
        else:
            self._decayed = [Decayed(half_life_us) for _ in range(num_queues)]
        self._cluster = Decayed(half_life_us)  #: what all nodes could have given
        self._running = [0] * num_queues  #: GPUs, since `_now_us`
        self._gpus = 0  #: of all nodes
        self._now_us = 0
        self._sampled_us = 0
        #: queues and GPUs of starts since the last pass, of which no sample knows
        self._started: list[tuple[int, int]] = []
        # worked out once for a pass
        self._ahead: PastUse | None = None
        self._ranks: dict[str, float] = {}
        self._weights: list[float] = []

    def copied(self) -> PastUse:
        """Return equal counters, on which changes of these do not tell."""
        copy = PastUse(self._words, 0)
        copy._smoothed = [
            Smoothed(one.half_life_us, dict(one.consumed), dict(one.penalty))
            for one in self._smoothed
        ]
        copy._billed = [Billed(one.half_life_us, one.amount_s) for one in self._billed]
        copy._decayed = [Decayed(one.half_life_us, one.amount_us) for one in self._decayed]
        copy._cluster = Decayed(self._cluster.half_life_us, self._cluster.amount_us)
        copy._running, copy._gpus = self._running, self._gpus
        copy._now_us, copy._sampled_us = self._now_us, self._sampled_us
        copy._started = list(self._started)
        return copy

    def kept_for(self, old: Queues, new: Queues) -> PastUse:
        """Return counters for other queues: those of the same name go on, if they count alike."""
        found = PastUse(new.sharing, len(new.queues))
        found._now_us, found._sampled_us = self._now_us, self._sampled_us
        mine = (self._words.heads, self._words.half_life_s)
        if mine != (new.sharing.heads, new.sharing.half_life_s):
            return found
        copy = self.copied()
        found._cluster, found._gpus = copy._cluster, copy._gpus
        before = {queue.name: at for at, queue in enumerate(old.queues)}
        now_at: dict[int, int] = {}
        for at, queue in enumerate(new.queues):
            was = before.get(queue.name)
            if was is None:
                continue
            now_at[was] = at
            found._running[at] = self._running[was]
            if self._smoothed:
                found._smoothed[at] = copy._smoothed[was]
            elif self._billed:
                found._billed[at] = copy._billed[was]
            else:
                found._decayed[at] = copy._decayed[was]
        found._started = [(now_at[was], gpus) for was, gpus in self._started if was in now_at]
        return found

    def told(self, names: Sequence[str]) -> UseSoFar:
        """Return the counters of these queues, which are all, as an event that restores them."""
        counters: list[tuple[int | float, ...]]
        if self._smoothed:
            counters = [
                (one.consumed.get(GPUS, 0), one.penalty.get(GPUS, 0)) for one in self._smoothed
            ]
        elif self._billed:
            counters = [(one.amount_s,) for one in self._billed]
        else:
            counters = [(one.amount_us,) for one in self._decayed]
        queues = tuple(zip(names, self._running, counters, strict=True))
        started = tuple([(names[at], gpus) for at, gpus in self._started])
        return UseSoFar(
            self._now_us, self._sampled_us, self._gpus, self._cluster.amount_us, queues, started
        )

    def recall(self, told: UseSoFar, names: Sequence[str]) -> None:
        """Go on from these counters; queues that they leave out have used nothing."""
        self._now_us, self._sampled_us = told.now_us, told.sampled_us
        self._gpus, self._cluster.amount_us = told.gpus, told.cluster_us
        self._started = [(names.index(name), gpus) for name, gpus in told.started]
        self._ahead, self._ranks, self._weights = None, {}, []
        self._running = [0] * len(names)
        for name, running, counters in told.queues:
            at = names.index(name)
            self._running[at] = running
            if self._smoothed:
                consumed, penalty = counters
                self._smoothed[at].consumed = {GPUS: int(consumed)} if consumed else {}
                self._smoothed[at].penalty = {GPUS: int(penalty)} if penalty else {}
            elif self._billed:
                self._billed[at].amount_s = float(counters[0])
            else:
                self._decayed[at].amount_us = float(counters[0])

    def note(self, now_us: int, tree: QuotaTree, gpus: int) -> None:
        """End a pass: count what ran until now, and remember what runs on, of so many GPUs."""
        self._advance(now_us)
        cells = tree.cells_by_resource.get(GPUS, [])
        usage = tree.usage
        self._running = [sum([usage[at][c] for c in cells]) for at in range(tree.num_queues)]
        self._gpus = gpus
        self._started = []
        self._ahead = None

    def note_start(self, queue: int, gpus: int) -> None:
        """Count a start at once, so that a queue does not start all it has before it counts."""
        if self._smoothed:
            self._smoothed[queue].start(PERIOD_US, {GPUS: gpus})
            self._started.append((queue, gpus))
            if self._ahead is not None:
                self._ahead.note_start(queue, gpus)

    def as_of(self, now_us: int) -> PastUse:
        """Return the counters as they are by now, to look at."""
        if now_us <= self._now_us:
            return self
        ahead = self._ahead
        if ahead is None or ahead._now_us != now_us:
            ahead = self._ahead = self.copied()
            ahead._advance(now_us)
        return ahead

    def _advance(self, now_us: int) -> None:
        dt_us = now_us - self._now_us
        if dt_us <= 0:
            return
        self._now_us = now_us
        self._ranks, self._weights = {}, []
        for at, running in enumerate(self._running):
            if self._billed:
                self._billed[at].advance(dt_us, running, PERIOD_US)
            elif self._decayed:
                self._decayed[at].advance(dt_us, running)
        self._cluster.advance(dt_us, self._gpus)
        if self._smoothed and now_us - self._sampled_us >= PERIOD_US:
            for one, running in zip(self._smoothed, self._running, strict=True):
                one.sample(now_us - self._sampled_us, {GPUS: running})
            self._sampled_us = now_us
            for queue, gpus in self._started:  # what runs since now is in no sample
                self._smoothed[queue].start(PERIOD_US, {GPUS: gpus})

    # -- what it says ------------------------------------------------------------------------

    def standing(self, tree: QuotaTree, queue: int) -> float:
        """Return when the head of a queue comes: smaller is earlier."""
        if self._smoothed:
            return self._smoothed[queue].key({}, tree.weight[queue])
        if not self._ranks:
            roots = [node for node, above in enumerate(tree.parent) if above == NO_PARENT]
            below = [self._association(tree, node) for node in roots]
            self._ranks = fair_tree(_account("", 1.0, below))
        return -self._ranks[tree.names[queue]]

    def _association(self, tree: QuotaTree, node: int) -> Association:
        name, weight = tree.names[node], tree.weight[node]
        if node < tree.num_queues:
            return Association(name, weight, self._billed[node].amount_s)
        below = [self._association(tree, child) for child in tree.children[node]]
        return _account(name, weight, below)

    def weights(self, tree: QuotaTree) -> list[float]:
        """Return the weights of all nodes, less for those that used much (KAI's k)."""
        if self._weights:
            return self._weights
        found, k = list(tree.weight), self._words.k
        used = [one.ratio_of(self._cluster) for one in self._decayed]
        used += [0.0] * (len(tree.names) - len(used))
        for node in range(tree.num_queues):
            for above in tree.above(node):
                used[above] += used[node]
        for children in tree.children:
            parts = [tree.weight[child] for child in children]
            reduced = weights_by_usage(parts, [used[child] for child in children], k)
            for child, weight in zip(children, reduced, strict=True):
                found[child] = weight
        self._weights = found
        return found


def _account(name: str, shares: float, below: list[Association]) -> Association:
    return Association(name, shares, sum([one.used for one in below]), False, below)
