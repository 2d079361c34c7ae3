"""`decide` where several queues have quota: one pass over their heads.

1. Each queue has one head. Those whose request fits the quota are served in turn.
2. A head that finds nodes inside one flavor is admitted alone; the driver asks again.
3. A head that lacks quota or nodes evicts others, if its queue may and it then starts for sure: it
   leaves the queue, and what they free is claimed for it.
4. A head with quota that finds none does what its queue says: `strict` holds the nodes that it may
   use, so that nobody served after it starts there; `easy` gets the one promise of the pass, which
   nobody may delay; `skip` lets others pass.
5. A head without quota blocks nobody outside its queue, and there only if that is `strict`.
6. In queues that are not strict, later gangs start on what is left.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.decisions import Admit, Decision, Preempt
from scheduler.core.events import Considered
from scheduler.core.model import Placement, Role
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.placement import place
from scheduler.core.queueing import Demand, Entry, Family, GangState
from scheduler.core.queues import Holding, Search
from scheduler.core.quota import Amounts, QuotaTree
from scheduler.core.quota import Undo as QuotaUndo
from scheduler.core.quotabook import Option, QuotaBook
from scheduler.core.shortage import outlook
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US, ends_us, to_us
from scheduler.policies.easy import pass_by, promise
from scheduler.policies.passes import Candidate, First, MayStart, Pass
from scheduler.policies.policy import Head, Policy
from scheduler.policies.preempting import Preempting
from scheduler.policies.shadow import shadow


def decide_queued(state: ClusterState, policy: Policy, now_us: int) -> tuple[Decision, ...]:
    """Return what should happen now; see `decide.decide`."""
    assert state.book is not None
    for claim in state.claims.values():
        if claim.is_met:
            return (Admit(claim.gang, claim.placement),)
    around = QueuedPass(state, state.book, policy, now_us)
    try:
        if not around.is_idle():
            starts = _serve(around, policy)
            if starts is not None:
                return (starts,)
            around.let_pass()
        if not around.ask_again:
            around.state_waits()
            around.made.append(Considered(around.until_us))
    finally:
        around.end()
    return tuple(around.made)


def _serve(around: QueuedPass, policy: Policy) -> Admit | Preempt | None:
    """Serve the heads in turn; return what the first does that finds nodes, or victims."""
    for head in policy.serve(around.book.tree, around.heads()):
        member = head.member
        options = around.still_with_quota(head)
        if not options:  # or heads before it keep what is left
            evicts = around.preempt(member)
            if evicts is not None:
                return evicts
            continue
        placement = around.place_head(member, options)
        if placement is not None:
            if around.promised is None:
                return Admit(member.gang.name, placement)
            around.followers[member.queue] = member
            continue
        evicts = around.preempt(member)
        if evicts is not None:
            return evicts
        discipline = around.book.disciplines[member.queue]
        if discipline is Holding.STRICT:
            around.hold(member, options)
        elif discipline is Holding.EASY and around.promised is None:
            around.promise(member, options)
    return None


class QueuedPass(Pass):
    """The working memory of a pass over the heads of all queues."""

    __slots__ = (
        "_held",
        "_is_settled",
        "_option",
        "_preempting",
        "_quota_log",
        "_spare_pods",
        "_start_us",
        "ask_again",
        "book",
        "followers",
        "promised",
    )

    def __init__(self, state: ClusterState, book: QuotaBook, policy: Policy, now_us: int) -> None:
        queue = state.queue
        blocked = not state.grew and not queue.head_left and now_us < state.until_us
        if blocked:
            for line in queue.open_lines.values():
                if line.head() is not line.seen:
                    blocked = False
                    break
        Pass.__init__(self, state, policy.placer, policy.numbers, now_us, blocked)
        self.book = book
        #: no head can have become possible
        self._is_settled = blocked and not state.shrank
        self._held: dict[NodeGroup, None] = {}  #: whose nodes are kept for heads served before
        self.promised: GangState | None = None  #: the head that has the promise
        self._option: Option | None = None  #: the nodes that it was promised
        self._start_us = FOREVER_US
        self._spare_pods = 0
        #: by queue: heads that fit but may have to wait for the promise
        self.followers: dict[int, GangState] = {}
        #: the head of a strict queue was admitted, so that the next has its turn
        self.ask_again = False
        self._quota_log: list[QuotaUndo] | None = book.tree.begin_trial()
        self._preempting: Preempting | None = None
        if book.evicts:
            restart_us = to_us(policy.restart_s)
            self._preempting = Preempting(state, book, policy.placer, restart_us, now_us)

    def end(self) -> None:
        """Undo what was planned."""
        Pass.end(self)
        self.book.tree.undo_trial(self._quota_log)

    # -- heads -------------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """True if nothing can start since the last pass."""
        if not self._is_settled:
            return False
        queue, disciplines = self.state.queue, self.book.disciplines
        for member in queue.fresh:
            if disciplines[member.queue] is not Holding.STRICT:
                return False
        return not self.book.has_easy or all(
            disciplines[at] is not Holding.EASY for at in queue.open_lines
        )

    def heads(self) -> list[Head]:
        """Return the heads of all queues that have the quota for theirs, or may evict others."""
        found = []
        preempting = self._preempting
        book, tree = self.book, self.book.tree
        for line in self.state.queue.open_lines.values():
            member = line.head()
            assert member is not None
            may_evict = preempting is not None and preempting.may(member)
            if (
                line.short is member
                and line.lack is not None
                and book.still(line.lack)
                and not may_evict
            ):
                continue
            options = self.with_quota(member)
            if options or may_evict:
                first = options[0] if options else member.family.options[0]
                amounts = first.amounts(member.size)
                height = _height(tree, member.queue, amounts)
                found.append(Head(member, options, amounts, height))
            else:
                line.short = member
                line.lack = book.lack(member.queue, member.family.options, member.size)
        return found

    def still_with_quota(self, head: Head) -> list[Option]:
        """Return the same for a head, after what those served before it keep."""
        if not self._held and self.promised is None:
            return head.options
        return self.with_quota(head.member)

    def with_quota(self, member: GangState) -> list[Option]:
        """Return the ways to place a gang for which its queue has quota, the first choice first."""
        found = [
            option
            for option in member.family.options
            if option.max_size >= member.size and self._has_quota(member, option)
        ]
        if len(found) > 1:
            words = self.book.file.queues[member.queue]
            if words.when_can_borrow is Search.TRY_NEXT:
                tree, size = self.book.tree, member.size
                found.sort(key=lambda option: _height(tree, member.queue, option.amounts(size)))
        return found

    def _has_quota(self, member: GangState, option: Option) -> bool:
        amounts = option.amounts(member.size)
        if not self.book.fits(member.queue, amounts):
            return False
        head = self.promised
        if head is None or ends_us(self.now_us, member.gang.walltime_us) <= self._start_us:
            return True
        # who is still there when the head starts must leave it the quota, too
        assert self._option is not None
        tree, kept = self.book.tree, self._option.amounts(head.size)
        tree.take(head.queue, kept)
        fits = self.book.fits(member.queue, amounts)
        tree.give_back(head.queue, kept)
        return fits

    def preempt(self, head: GangState) -> Preempt | None:
        """Return whom a head that lacks quota or nodes evicts, if anybody."""
        preempting = self._preempting
        if preempting is None or self.promised is not None or not preempting.may(head):
            return None
        options = [
            option
            for option in head.family.options
            if option.max_size >= head.size and self._is_open(option)
        ]
        found = preempting.find(head, options)
        if found is None and preempting.until_us < FOREVER_US:
            self.come_back(preempting.until_us)
        return found

    def hold(self, head: GangState, options: list[Option]) -> None:
        """Keep the nodes that a head may use, and the quota, from everybody served after it."""
        for option in options:
            for group in self._groups(option):
                self._held[group] = None
        self.book.tree.take(head.queue, options[0].amounts(head.size))

    def promise(self, head: GangState, options: list[Option]) -> None:
        """Promise a head the start that others must not delay: that in the earliest flavor."""
        found = [option for option in options if self._is_open(option)]
        if len(found) > 1:
            starts_us = [
                shadow(self.state, head, one.roles, self.placer, self.now_us).start_us
                for one in found
            ]
            found = [found[starts_us.index(min(starts_us))]]
        self._option = found[0] if found else None
        if self._option is not None:
            self._start_us, self._spare_pods = promise(self, head)
            self.promised = head

    def _groups(self, option: Option) -> list[NodeGroup]:
        eligible = self.state.capacity.eligible
        return [group for role in option.roles for group in eligible(role.selector)]

    def _is_open(self, option: Option) -> bool:
        """True if nobody served before holds any of these nodes."""
        held = self._held
        return not held or not any(group in held for group in self._groups(option))

    # -- what others work with ---------------------------------------------------------------

    def find(self, member: GangState) -> Placement | None:
        """Return nodes inside one flavor for what a gang misses, if its quota allows them."""
        options = self.with_quota(member)
        if not options and not self.taken and not self._held and self.promised is None:
            demand = member.family.demand_of(member)
            if demand is not None:  # the others of its size need as much
                demand.lack = self.book.lack(member.queue, member.family.options, member.size)
        return self._place(member, options)

    def place_head(self, head: GangState, options: list[Option]) -> Placement | None:
        """Return nodes for a head in one of these flavors."""
        if self._is_settled and self.blocked and self._is_seen(head):
            return None
        return self._place(head, options)

    def _place(self, member: GangState, options: list[Option]) -> Placement | None:
        if self.state.reservations:
            reservation = self.state.reservations.get(member.gang.name)
            if reservation is not None and reservation.placement:
                return reservation.placement
        for option in options:
            if self._is_open(option):
                roles = option.narrow(member.missing)
                placement = place(self.state.capacity, roles, self.placer)
                if placement is not None:
                    return placement
        return None

    def _is_seen(self, member: GangState) -> bool:
        return member is self.state.queue.lines[member.queue].seen

    def wanted(self, head: GangState) -> tuple[Role, ...]:
        """Return the roles of a head's family, on the nodes for which it gets a promise."""
        return head.family.roles if self._option is None else self._option.roles

    def renews(self, head: GangState) -> bool:
        """True if the nodes that were promised may have been others."""
        return len(head.family.options) > 1

    def admit(self, member: GangState, placement: Placement) -> None:
        """Plan that a gang starts on these nodes, with its quota."""
        reservation = self.state.reservations.get(member.gang.name)
        Pass.admit(self, member, placement)
        if reservation is None or not reservation.placement:
            amounts = self.book.amounts_of(member.missing, placement)
            self.book.tree.take(member.queue, amounts)
        if self._is_strict(member.queue):
            self.ask_again = True

    def _is_strict(self, queue: int) -> bool:
        return self.book.disciplines[queue] is Holding.STRICT

    # -- those that pass ---------------------------------------------------------------------

    def let_pass(self) -> None:
        """Start later gangs that may pass the heads that wait."""
        if self.promised is not None:
            pass_by(self, self.promised, self._start_us, self._spare_pods)
        elif self.book.has_others and not all(map(self._is_strict, self.state.queue.open_lines)):
            for member, _, placement in self.fitting():
                self.admit(member, placement)

    def fitting(
        self, first: First | None = None, may_start: MayStart | None = None
    ) -> Iterator[tuple[GangState, Demand | None, Placement]]:
        """Yield gangs that fit, as `Pass.fitting` does: of strict queues only the head."""
        choose: First = self._next_of if first is None else first
        book = self.book

        def first_of(family: Family, demand: Demand) -> Entry | None:
            if demand.lack is not None and book.still(demand.lack):
                return None
            entry = choose(family, demand)
            return entry if entry is not None and self._may_pass(entry[1]) else None

        return Pass.fitting(self, first_of, may_start)

    def _may_pass(self, member: GangState) -> bool:
        return not self._is_strict(member.queue) or self.followers.get(member.queue) is member

    def _newcomers(self, may_start: MayStart | None) -> list[Candidate]:
        return [
            (member.key, member, None, None)
            for member in self.state.queue.fresh
            if member is not self.promised
            and self._may_pass(member)
            and (may_start is None or may_start(member))
        ]

    def _fit_pods(self, family: Family) -> int:
        """Return the largest size of a family that finds nodes now, with quota or without."""
        capacity = self.state.capacity
        most = 0
        for option in family.options:
            roles = option.roles
            if len(roles) == 1:
                most = max(most, capacity.fits_of(roles[0]).pods())
            elif place(capacity, roles, self.placer) is not None:
                most = max(most, 1)
        return most

    def outlook(self, family: Family) -> tuple[int, int, str, str]:
        """Return what a `Wait` says of the gangs of a family: of nodes, whatever their quota."""
        found = [outlook(self.state.capacity, o.roles, self.placer) for o in family.options]
        if len(found) == 1:
            return found[0]
        fit_pods = max([said[0] for said in found])
        _, free_pods, short, apart = max(found, key=lambda said: said[1])
        return fit_pods, free_pods, short, apart


def _height(tree: QuotaTree, queue: int, amounts: Amounts) -> int:
    """Return how far up the tree a gang would borrow."""
    most = 0
    for cell, amount in amounts:
        most = max(most, tree.height(queue, cell, amount))
    return most
