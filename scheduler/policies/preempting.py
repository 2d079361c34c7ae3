"""Whom to evict so that the head of a queue finds quota and nodes, proven before anybody leaves.

`victims` says who would have to go; here the gangs that run become contenders, and every set of
victims is tried on the nodes. Whoever was told to leave counts as gone, and claims as taken, so
that what leaves already is used before anybody else is evicted.
"""

from __future__ import annotations

from scheduler.core.capacity import GPUS, Trial
from scheduler.core.claims import take
from scheduler.core.decisions import Preempt
from scheduler.core.model import Gang, Placement, Slice
from scheduler.core.placement import Placer, place
from scheduler.core.queueing import GangState
from scheduler.core.queues import Queue, Victims
from scheduler.core.quota import Amounts, QuotaTree
from scheduler.core.quotabook import Option, QuotaBook
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US, to_us
from scheduler.policies.contest import Attempt, Contender, Contest, Victim, borrows_short
from scheduler.policies.heads import QueueHead
from scheduler.policies.victims import victims

#: a gang whose claims came to nothing so often evicts nobody more before it has run
MOST_LOST_CLAIMS = 3
#: after so many steps of search a pass is cut, so that a live loop is never held for long
MOST_STEPS = 500
#: to look for nodes takes as long as so many steps, of which each looks at one gang
_STEPS_TO_PLACE = 20


class Found:
    """A decision that starts a head, and what it costs others."""

    __slots__ = ("decision", "height", "own")

    def __init__(self, decision: Preempt, own: bool, height: int) -> None:
        self.decision = decision
        self.own = own  #: somebody of its own queue has to go
        self.height = height  #: how far up the tree it borrows then


class Preempting:
    """The gangs that run, as heads of one pass may evict them."""

    __slots__ = (
        "_book",
        "_contenders",
        "_leaving",
        "_lines",
        "_now_us",
        "_placer",
        "_restart_us",
        "_state",
        "kept",
        "leaving_gpus",
        "searched",
        "steps",
        "until_us",
    )

    def __init__(
        self, state: ClusterState, book: QuotaBook, placer: Placer, restart_us: int, now_us: int
    ) -> None:
        self._state = state
        self._book = book
        self._placer = placer
        self._restart_us = restart_us  #: what each eviction costs beside the work that is lost
        self._now_us = now_us
        self.until_us = FOREVER_US  #: when somebody has run for long enough to be evicted
        #: heads that found nobody, and when that may be different, in this pass and its slices
        self.searched = dict(state.searched)
        self.steps = 0  #: of this pass
        #: by queue, what heads of this pass keep: it counts as used, but nobody runs there
        self.kept: list[tuple[int, Amounts]] = []
        for until_us in self.searched.values():
            self.until_us = min(self.until_us, until_us)
        self._lines = state.queue.lines
        self._leaving = list(state.queue.leaving)
        self.leaving_gpus = sum([member.gang.gpus for member in self._leaving])
        self._contenders: dict[int, list[Contender]] = {}  #: by queue

    def may(self, member: GangState) -> bool:
        """True if the head of a queue may evict anybody at all."""
        words = self._book.file.queues[member.queue]
        if words.within is Victims.NEVER and words.reclaim is Victims.NEVER:
            return False
        if not member.gang.evicts or member.held or member.lost_claims >= MOST_LOST_CLAIMS:
            return False
        if member.gang.name in self._state.searched:
            return False
        return member.gang.name not in self._state.reservations or (
            not self._state.reservations[member.gang.name].placement
        )

    def has_hope(self, head: QueueHead) -> bool:
        """False if a search would surely find nobody to evict for a head.

        A quick look at sums: most heads of a full cluster wait in vain in every pass.
        """
        member = head.member
        if not self.may(member):
            return False
        book, tree, queue = self._book, self._book.tree, member.queue
        cell, amount = head.amounts[0] if head.amounts else (0, 0)
        if not head.is_plain or cell not in tree.cells_by_resource.get(GPUS, []):
            ways = [option.amounts(member.size) for option in member.family.options]
            return any(
                self._has_candidates(member, amounts, [cell for cell, _ in amounts])
                for amounts in ways
                if book.could_fit(queue, amounts)
            )
        words = book.file.queues[queue]
        own = self.leaving_gpus + self.own_gpus(member)
        left = tree.available(queue, cell)
        if own and amount <= left + own:
            return True
        if words.reclaim is Victims.NEVER or not tree.others_borrow(queue, cell):
            return False
        if words.borrow_within is not Victims.NEVER or book.file.sharing.victims:
            return True
        if amount + tree.usage[queue][cell] - own <= tree.subtree[queue][cell]:
            return True
        return tree.fits_below_root(queue, cell, amount)

    def own_gpus(self, member: GangState) -> int:
        """Return the GPUs of gangs of its own queue that a gang might evict."""
        words = self._book.file.queues[member.queue]
        if words.within is Victims.NEVER:
            return 0
        return self._lines[member.queue].gpus_below(_beyond(member.gang, words))

    def may_reclaim(self, queue: int) -> bool:
        """True if the words of a queue let its gangs evict those of others."""
        return self._book.file.queues[queue].reclaim is not Victims.NEVER

    def reclaimable(self, queue: int) -> int:
        """Return the most GPUs that a gang of a queue may ask for to reclaim them from borrowers.

        That is what is unused of its quota, or of that of a cohort below the root.
        """
        book, tree = self._book, self._book.tree
        if book.file.queues[queue].reclaim is Victims.NEVER:
            return 0
        most = 0
        for cell in tree.cells_by_resource.get(GPUS, []):
            left = tree.own_left(queue, cell)
            if left > 0 and tree.others_borrow(queue, cell):
                most += left
        return most

    def find(self, member: GangState, option: Option) -> Found | None:
        """Return whom to evict so that a head starts in these flavors."""
        amounts = option.amounts(member.size)
        if not amounts or not self._book.could_fit(member.queue, amounts):
            return None
        tree, queue = self._book.tree, member.queue
        leaving = self._leaving
        takes = [(other, other.quota_taken(self._book)) for other in leaving]
        with _Room(self._state, tree, takes, member, option, self._placer) as room:
            short = [cell for cell, amount in amounts if amount > tree.available(queue, cell)]
            if leaving and not short and room.holds([]):
                return Found(self._decided(member, amounts, room, []), False, 0)
            if not short:
                short = [cell for cell, _ in amounts]
            room.forget_kept(self.kept, amounts)
            if not self._has_candidates(member, amounts, short):
                return None
            name = member.gang.name
            gang = Contender(name, queue, member.gang.priority, member.gang.submit_us)
            gang.gave_way = self._state.gave_way.get(name, gang.gave_way)
            rivals = self._running_for(member, short)
            self.steps += sum(map(len, rivals))
            contest = Contest(tree, rivals, self._book.file.sharing.victims, placed=room.holds)
            found = victims(contest, gang, amounts, short)
            self.steps += _STEPS_TO_PLACE * room.num_tries
            if not found:
                self.searched[name] = self.until_us
                return None
            room.find_nodes(found)  # the last question may have been about fewer
            decided = self._decided(member, amounts, room, [v.gang.name for v in found])
            own = any(victim.gang.queue == queue for victim in found)
            with Attempt(contest, gang, amounts, short) as attempt:
                for victim in found:
                    attempt.evict(victim.gang, victim.why)
                height = tree.height_of(queue, amounts)
            return Found(decided, own, height)

    def _decided(
        self, member: GangState, amounts: Amounts, room: _Room, evicted: list[str]
    ) -> Preempt:
        """Return the decision, with those that leave already as far as it waits for them.

        That is for those that hold its nodes, and for as many of the others as its quota needs,
        first those that were told first; so it waits for no more gangs than it must.
        """
        placement = room.placement
        assert placement is not None
        before = [other for other in self._leaving if _meet(other.held, placement)]
        rest = [other for other in self._leaving if other not in before]
        book, tree = self._book, self._book.tree
        outer = tree.begin_trial()  # in the room where all that leave are gone
        for other in rest:
            tree.take(other.queue, other.quota_taken(book))
        for name in evicted:
            one = self._state.gangs[name]
            tree.give_back(one.queue, one.quota_taken(book))
        for other in rest:
            if tree.fits(member.queue, amounts):
                break
            tree.give_back(other.queue, other.quota_taken(book))
            before.append(other)
        tree.undo_trial(outer)
        names = [other.gang.name for other in before]
        return Preempt(member.gang.name, (*evicted, *names), placement)

    # -- who runs ----------------------------------------------------------------------------

    def _has_candidates(
        self,
        member: GangState,
        amounts: Amounts,
        short: list[int],
    ) -> bool:
        """True if anybody runs whose eviction might help the gang, and be allowed."""
        words, tree = self._book.file.queues[member.queue], self._book.tree
        if words.within is not Victims.NEVER:
            below = _beyond(member.gang, words)
            if any(other.gang.priority < below for other in self._lines[member.queue].running):
                return True
        others = any(tree.others_borrow(member.queue, cell) for cell in short)
        if words.reclaim is Victims.NEVER or not others:
            return False
        if words.borrow_within is not Victims.NEVER or self._book.file.sharing.victims:
            return True
        return all(tree.fits_below_root(member.queue, cell, amount) for cell, amount in amounts)

    def _others(self, member: GangState, short: list[int]) -> list[int]:
        """Return the other queues of the same tree that borrow any of what is short."""
        tree, root = self._book.tree, self._book.tree.root(member.queue)
        return [
            queue
            for queue in range(tree.num_queues)
            if queue != member.queue
            and tree.root(queue) == root
            and borrows_short(tree, queue, short)
        ]

    def _running_for(self, member: GangState, short: list[int]) -> list[list[Contender]]:
        """Return, by queue, whom the contest for what is short is about."""
        found: list[list[Contender]] = [[] for _ in self._book.file.queues]
        words = self._book.file.queues[member.queue]
        if words.within is not Victims.NEVER:
            found[member.queue] = self._contending(member.queue)
        if words.reclaim is not Victims.NEVER:
            for queue in self._others(member, short):
                found[queue] = self._contending(queue)
        return found

    def _contending(self, queue: int) -> list[Contender]:
        """Return the gangs of a queue that have run for long enough to be evicted."""
        known = self._contenders.get(queue)
        if known is not None:
            return known
        words, now_us = self._book.file.queues[queue], self._now_us
        found = self._contenders[queue] = []
        min_runtime_us, max_lost_us = to_us(words.min_runtime_s), to_us(words.max_lost_s)
        for member in self._lines[queue].running:
            gang = member.gang
            if not gang.evictable:
                continue
            at_us = member.admitted_us + min_runtime_us
            if at_us > now_us:
                self.until_us = min(self.until_us, at_us)
                continue
            lost_us = min(now_us - max(member.saved_us, member.admitted_us), max_lost_us)
            found.append(
                Contender(
                    gang.name,
                    queue,
                    gang.priority,
                    gang.submit_us,
                    member.quota_taken(self._book),
                    member.admitted_us,
                    (max(0, lost_us) + self._restart_us) * gang.gpus // 1_000_000,
                )
            )
        return found


def _beyond(gang: Gang, words: Queue) -> int:
    """Return the priority below which gangs of its own queue may be evicted for one."""
    return gang.priority + (words.within is Victims.LOWER_OR_NEWER_EQUAL_PRIORITY)


class _Room:
    """What is free once all that leave are gone and claims are met, with victims taken away.

    A context: what it did to nodes and quota is undone at its end.
    """

    __slots__ = (
        "_amounts",
        "_gone",
        "_kept",
        "_leaving",
        "_member",
        "_nodes",
        "_option",
        "_outer",
        "_placer",
        "_state",
        "_tree",
        "num_tries",
        "placement",
    )

    def __init__(
        self,
        state: ClusterState,
        tree: QuotaTree,
        leaving: list[tuple[GangState, Amounts]],
        member: GangState,
        option: Option,
        placer: Placer,
    ) -> None:
        self._state = state
        self._tree = tree
        self._leaving = leaving  #: with what they take of quota
        self._member = member
        self._option = option
        self._placer = placer
        self._nodes: Trial | None = None  #: open once somebody asked for nodes
        self._gone: list[Victim] = []  #: the victims whose nodes are free
        self._kept: list[tuple[int, Amounts]] = []
        self._amounts: Amounts = ()
        self.placement: Placement | None = None  #: that the last question found
        self.num_tries = 0  #: how often nodes were looked for

    def __enter__(self) -> _Room:
        tree = self._tree
        self._outer = tree.begin_trial()
        for member, takes in self._leaving:
            tree.give_back(member.queue, takes)
        return self

    def __exit__(self, *_: object) -> None:
        if self._nodes is not None:
            self._nodes.__exit__()
        self._tree.undo_trial(self._outer)

    def _open(self) -> None:
        """Let those be gone that leave; most gangs are short of quota and never ask for nodes."""
        capacity = self._state.capacity
        self._nodes = capacity.trial()
        self._nodes.__enter__()
        for member, _ in self._leaving:
            capacity.give_back(member.gang.roles, member.held)
        for claim in self._state.claims.values():
            take(capacity, claim.rest)

    def forget_kept(self, kept: list[tuple[int, Amounts]], amounts: Amounts) -> None:
        """Count no more what heads keep, so that their queues do not seem to borrow it.

        The gang, which asks for these amounts, has to leave it to them all the same.
        """
        self._kept, self._amounts = kept, amounts
        for queue, some in kept:
            self._tree.give_back(queue, some)

    def _leaves_kept(self) -> bool:
        """True if the gang fits its quota beside what heads keep."""
        tree = self._tree
        for queue, some in self._kept:
            tree.take(queue, some)
        fits = tree.fits(self._member.queue, self._amounts)
        for queue, some in reversed(self._kept):
            tree.give_back(queue, some)
        return fits

    def holds(self, found: list[Victim]) -> bool:
        """True if the gang finds nodes without these victims."""
        if self._kept and not self._leaves_kept():
            return False
        self.find_nodes(found)
        return self.placement is not None

    def find_nodes(self, found: list[Victim]) -> None:
        """Look for nodes without these victims, whatever the quota is now."""
        if self._nodes is None:
            self._open()
        self._free(found)
        self.num_tries += 1
        roles = self._option.narrow(self._member.missing)
        self.placement = place(self._state.capacity, roles, self._placer)

    def _free(self, found: list[Victim]) -> None:
        """Let just these victims be gone. Most questions are about one more, or one less."""
        gone, num = self._gone, len(self._gone)
        if len(found) > num and (not num or (found[0] is gone[0] and found[num - 1] is gone[-1])):
            more = found[num:]
        else:
            names = {victim.gang.name for victim in found}
            for victim in gone:
                if victim.gang.name not in names:
                    member = self._state.gangs[victim.gang.name]
                    self._state.capacity.take(member.gang.roles, member.held)
            names = {victim.gang.name for victim in gone}
            more = [victim for victim in found if victim.gang.name not in names]
        for victim in more:
            member = self._state.gangs[victim.gang.name]
            self._state.capacity.give_back(member.gang.roles, member.held)
        self._gone = list(found)


def _meet(held: Placement, other: Placement) -> bool:
    """True if two placements have a node in common."""
    return any(_overlap(one, two) for one in held for two in other)


def _overlap(one: Slice, two: Slice) -> bool:
    return one.lo < two.hi and two.lo < one.hi
