"""`decide` where several queues have quota: one pass over their heads.

1. Each queue has one head. They are served in turn, and try their flavors in the queue's order.
2. A head that finds quota and nodes inside one flavor is admitted alone; the driver asks again.
3. A head that lacks quota or nodes evicts others, if its queue may and it then starts for sure: it
   leaves the queue, and what they free is claimed for it.
4. A head that finds no nodes does what its queue says: `strict` holds the nodes that it may use,
   so that nobody served after it starts there; `easy` gets the one promise of the pass, which
   nobody may delay; `skip` lets others pass.
5. A head that finds no quota, though it asks for no more than its queue has, or a cohort below the
   root: `strict` keeps what comes free of that quota, and `easy` gets the promise. Others block
   nobody outside their queue.
6. In queues that are not strict, later gangs start on what is left.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.decisions import Admit, Decision, Preempt
from scheduler.core.events import Considered
from scheduler.core.model import Placement
from scheduler.core.nodegroup import NodeGroup
from scheduler.core.placement import place
from scheduler.core.queueing import Demand, Entry, Family, GangState, Restraint
from scheduler.core.queues import Holding, Search
from scheduler.core.quota import NO_PARENT, Amounts
from scheduler.core.quota import Undo as QuotaUndo
from scheduler.core.quotabook import Option, QuotaBook
from scheduler.core.shortage import outlook
from scheduler.core.state import ClusterState
from scheduler.core.times import FOREVER_US, ends_us, to_us
from scheduler.policies.easy import Room, pass_by, promise
from scheduler.policies.flavors import Mode, Outlook, Tried, ends, is_better
from scheduler.policies.heads import QueueHead, next_look_us, served
from scheduler.policies.passes import Candidate, First, MayStart, Pass
from scheduler.policies.policy import Policy
from scheduler.policies.preempting import MOST_STEPS, Preempting
from scheduler.policies.shadow import Shadow, quota_comes_us, shadow


def decide_queued(state: ClusterState, policy: Policy, now_us: int) -> tuple[Decision, ...]:
    """Return what should happen now; see `decide.decide`."""
    assert state.book is not None
    for claim in state.claims.values():
        if claim.is_met:
            return (Admit(claim.gang, claim.placement),)
    around = QueuedPass(state, state.book, policy, now_us)
    try:
        if not around.is_idle():
            made = _serve(around)
            if made is not None:
                return (made,)
            around.let_pass()
            evicts = around.reclaim_past_heads()
            if evicts is not None:
                return (*around.made, evicts)
        if not around.ask_again:
            around.state_waits()
            around.made.append(around.considered(around.comes_back_us()))
    finally:
        around.end()
    return tuple(around.made)


def _serve(around: QueuedPass) -> Admit | Preempt | Considered | None:
    """Serve the heads in turn; return what the first does that finds nodes, or victims.

    `Considered` ends a slice of a pass that takes long.
    """
    state, book = around.state, around.book
    heads = around.heads()
    for head in served(book.tree, book.file.sharing, heads, state.past, around.now_us):
        member = head.member
        way = _NO_WAY if head.is_vain else around.best(head)
        if way.evicts is not None:
            return way.evicts
        if way.placement is not None:
            if around.promised is None:
                return Admit(member.gang.name, way.placement)
            around.follow(member, way.placement)
            continue
        discipline = book.disciplines[member.queue]
        if discipline is Holding.STRICT:
            around.hold(head)
        elif discipline is Holding.EASY:
            if around.promised is None:
                around.promise(member)
            else:
                around.keep_own(member)
        if around.is_long():
            return around.considered(around.now_us, around.searched())
    return None


class Way(Tried):
    """A flavor for each role of a head, and what comes of it."""

    __slots__ = ("evicts", "placement")

    def __init__(
        self, worst: Outlook, placement: Placement | None = None, evicts: Preempt | None = None
    ) -> None:
        Tried.__init__(self, worst)
        self.placement = placement  #: where it starts
        self.evicts = evicts  #: whom it evicts for that


#: so many searches for gangs past their heads in one pass
MOST_PAST_HEADS = 4
_NO_WAY = Way(Outlook(Mode.NO_FIT))
#: instead of a height, of heads that wait for quota which is not their queue's own
NO_RIGHT = -1


class QueuedPass(Pass):
    """The working memory of a pass over the heads of all queues."""

    __slots__ = (
        "_held",
        "_is_settled",
        "_keeps_quota",
        "_option",
        "_preempting",
        "_quota_log",
        "_restraints",
        "_room",
        "_start_us",
        "_then",
        "_told",
        "ask_again",
        "book",
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
        self._keeps_quota = False  #: some is counted as used that heads keep
        self.promised: GangState | None = None  #: the head that has the promise
        self._option: Option | None = None  #: the nodes that it was promised
        self._start_us = FOREVER_US
        self._room: Room | None = None  #: what others must leave of them
        #: the usage of quota at that start; worked out once somebody asks
        self._then: list[list[int]] | None = None
        #: by head: what it keeps from others in this pass
        self._restraints: dict[str, Restraint] = {}
        self._told = queue.restraints  #: those that the pass ends with
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

    def is_long(self) -> bool:
        """True if so many victims were searched that the rest is left to the next slice."""
        preempting = self._preempting
        return preempting is not None and preempting.steps > MOST_STEPS

    def searched(self) -> tuple[tuple[str, int], ...]:
        """Return which heads found nobody to evict, in this slice and those before."""
        assert self._preempting is not None
        return tuple(self._preempting.searched.items())

    def considered(self, until_us: int, searched: tuple[tuple[str, int], ...] = ()) -> Considered:
        """Return what ends the pass; it says when that is only where past use counts."""
        now_us = 0 if self.state.past is None else self.now_us
        told = tuple([(head, *kept) for head, kept in self._told.items()])
        return Considered(until_us, searched, now_us, told)

    def comes_back_us(self) -> int:
        """Return when time alone may change what is decided here."""
        found, preempting = self.until_us, self._preempting
        if preempting is not None:
            found = min(found, preempting.until_us)
        if self.blocked:  # what the last pass waits for may still come
            found = min(found, self.state.until_us)
        keeps = bool(self._held) or self._keeps_quota or self.promised is not None
        if keeps and len(self.state.queue.open_lines) > 1 and self.state.ends:
            found = min(found, next_look_us(self.book.file.sharing, self.now_us))
        return found

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

    def heads(self) -> list[QueueHead]:
        """Return the heads of all queues that may start now, evict others, or keep quota."""
        found = []
        book, tree, sharing = self.book, self.book.tree, self.book.file.sharing
        preempting, may_note = self._preempting, not self.state.searched
        leaving = 0 if preempting is None else preempting.leaving_gpus
        for queue, line in self.state.queue.open_lines.items():
            member = line.head()
            assert member is not None
            head: QueueHead | None = line.known
            if head is None or not head.is_of(member):
                head = line.known = QueueHead(member, tree)
            if head.is_useless(tree, leaving):
                if head.keeps:
                    found.append(head)
                continue
            if head.is_plain:
                cell, amount = head.amounts[0]
                has_quota = amount <= tree.available(queue, cell) or book.spans(queue, cell)
            else:
                options = self.with_quota(member)
                has_quota = bool(options)
                head.amounts = (options or self._least_borrowing(member))[0].amounts(member.size)
            if not has_quota and self.state.reservations:  # its own may be what has it all
                has_quota = self._held_placement(member) is not None
            right = NO_RIGHT if has_quota else self._right(head)
            head.keeps = right != NO_RIGHT
            head.is_vain = not has_quota and not (
                preempting is not None and preempting.has_hope(head)
            )
            if not head.is_vain:
                head.forget_useless()
            elif may_note:
                own = 0 if preempting is None else preempting.own_gpus(member)
                may_reclaim = preempting is not None and preempting.may_reclaim(queue)
                head.note_useless(tree, leaving, own, may_reclaim)
            if head.keeps:
                head.height = right
            elif head.is_vain:
                continue
            else:
                head.height = tree.height_of(queue, head.amounts)
            found.append(head)
        if sharing.age_priority > 0:
            for head in found:
                head.age(sharing, self.now_us)
        return found

    def _least_borrowing(self, member: GangState) -> list[Option]:
        """Return the way to place a gang that lacks quota in all, in which it borrows least."""
        tree, queue, size = self.book.tree, member.queue, member.size
        options = [o for o in member.family.options if o.max_size >= size]
        options.sort(key=lambda option: tree.height_of(queue, option.amounts(size)))
        return options or [member.family.options[0]]

    def _right(self, head: QueueHead) -> int:
        """Return how far up the tree the quota is that a head lacks and keeps, or is promised.

        It is served before those that borrow of that quota, even if its queue borrows until gangs
        of its own end: it takes nothing yet. With nothing to keep, an easy one comes with those
        that borrow. NO_RIGHT if others have as good a right.
        """
        discipline, tree = self.book.disciplines[head.queue], self.book.tree
        if discipline is Holding.SKIP:
            return NO_RIGHT
        is_easy, own_node = discipline is Holding.EASY, head.own_node
        if head.is_plain:
            if own_node == NO_PARENT:
                return NO_RIGHT
            if not tree.borrows(own_node, head.amounts[0][0], 1):
                return tree.heights[own_node]
            return tree.height_of(head.queue, head.amounts) if is_easy else NO_RIGHT
        for option in head.family.options:
            own = self._own(head.member, option)
            if own:
                amounts = option.amounts(head.size)
                return max([tree.heights[tree.smallest(head.queue, c, n)] for c, n in amounts])
            if own is not None and is_easy:
                return tree.height_of(head.queue, option.amounts(head.size))
        return NO_RIGHT

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
                found.sort(key=lambda option: tree.height_of(member.queue, option.amounts(size)))
        return found

    def _has_quota(self, member: GangState, option: Option) -> bool:
        amounts = option.amounts(member.size)
        if not self.book.fits(member.queue, amounts):
            return False
        return self._leaves_quota(member, amounts)

    def _leaves_quota(self, member: GangState, amounts: Amounts) -> bool:
        """True if the promised head has its quota, too, when a gang that starts now still runs."""
        if self.promised is None or self._ends_by_then(member):
            return True
        return self.book.fits_in(self._usage_then(), member.queue, amounts)

    def _ends_by_then(self, member: GangState) -> bool:
        """True if a gang that starts now ends before the promised start."""
        return ends_us(self.now_us, member.gang.walltime_us) <= self._start_us

    def _usage_then(self) -> list[list[int]]:
        """Return the usage of every quota at the promised start, with the head in its queue."""
        found = self._then
        if found is None:
            head, option, tree = self.promised, self._option, self.book.tree
            assert head is not None and option is not None
            found = self._then = tree.copied_usage()
            ended: dict[tuple[int, int], int] = {}  # by queue and cell; one gang each is slow
            for end_us, _, _, member in self.state.ends:
                if end_us > self._start_us:
                    break
                for cell, amount in member.quota_taken(self.book):
                    key = (member.queue, cell)
                    ended[key] = ended.get(key, 0) + amount
            for (queue, cell), amount in ended.items():
                tree.give_back_in(found, queue, ((cell, amount),))
            tree.take_in(found, head.queue, option.amounts(head.size))
        return found

    def best(self, one: QueueHead) -> Way:
        """Return the way in which a head starts, by the words of its queue on flavors."""
        head = one.member
        held = self._held_placement(head)
        if held is not None:
            return Way(Outlook(Mode.FIT), held)
        words = self.book.file.queues[head.queue]
        best: Way | None = None
        for option in head.family.options:
            way = self._way(one, option)
            done = ends(words, way.worst)
            if best is None or done or is_better(words, way.worst, best.worst):
                best = way
            if done:
                break
        assert best is not None, "a gang that has nowhere to go does not wait in a queue"
        return best

    def _way(self, one: QueueHead, option: Option) -> Way:
        """Return what would come of one flavor for each role."""
        head = one.member
        if option.max_size < head.size or not self._is_open(option):
            return _NO_WAY
        amounts = option.amounts(head.size)
        if self._has_quota(head, option) and not self._is_known(head):
            roles = option.narrow(head.missing)
            placement = place(self.state.capacity, roles, self.placer)
            if placement is not None:
                height = self.book.tree.height_of(head.queue, amounts)
                return Way(Outlook(Mode.FIT, height), placement)
        preempting = self._preempting
        if preempting is None or not self._outranks_promise(head) or not preempting.has_hope(one):
            return _NO_WAY
        found = preempting.find(head, option)
        if found is None:
            return _NO_WAY
        mode = Mode.PREEMPT if found.own else Mode.RECLAIM
        return Way(Outlook(mode, found.height), None, found.decision)

    def _outranks_promise(self, member: GangState) -> bool:
        """True if no promise keeps a gang from evicting others.

        One to a head that borrows gives way to a gang of another queue whose own quota holds it.
        """
        if self.promised is None:
            return True
        if self.promised.queue == member.queue:
            return False
        assert self._option is not None
        tree = self.book.tree
        borrowed = self._option.amounts(self.promised.size)
        own = member.family.options[0].amounts(member.size)
        is_own = tree.height_of(member.queue, own) == 0
        return is_own and tree.height_of(self.promised.queue, borrowed) > 0

    def hold(self, one: QueueHead) -> None:
        """Keep what a head may use from everybody served after it: nodes and quota, or quota."""
        head = one.member
        options = [] if one.is_vain else self.with_quota(head)
        if not options:
            self.keep_own(head)
            return
        for option in options:
            for group in self._groups(option):
                self._held[group] = None
        self._keep(head, options, options[0].amounts(head.size))
        if self.promised is not None and self._ends_by_then(head) and self._start_us < FOREVER_US:
            # from then on it would outlast the promise, and may have to let these nodes go
            too_late_us = self._start_us - head.gang.walltime_us + 1
            self.until_us = min(self.until_us, too_late_us)

    def keep_own(self, head: GangState) -> None:
        """Keep what comes free of quota that others can only have borrowed."""
        for option in head.family.options:
            own = self._own(head, option)
            if own:
                self._keep(head, [], own)
                return

    def _keep(self, head: GangState, nodes: list[Option], amounts: Amounts) -> None:
        self.book.tree.take(head.queue, amounts)
        self._keeps_quota = True
        if self._preempting is not None:
            self._preempting.kept.append((head.queue, amounts))
        flavors = tuple([option.flavors for option in nodes])
        self._restraints[head.gang.name] = (flavors, amounts)

    def _own(self, head: GangState, option: Option) -> Amounts | None:
        """Return what is unused of quota that others than the head can only have borrowed.

        That is the quota of its queue, or of the smallest cohort that could give it all. None if
        only the whole tree could.
        """
        if option.max_size < head.size:
            return None
        tree, found = self.book.tree, []
        for cell, amount in option.amounts(head.size):
            own = tree.own_part(head.queue, cell, amount)
            if own is None:
                return None
            if own:
                found.append((cell, own))
        return tuple(found)

    def promise(self, head: GangState) -> None:
        """Promise a head the start that others must not delay: that in the earliest flavor."""
        options = [
            option
            for option in head.family.options
            if option.max_size >= head.size
            and self._is_open(option)
            and (self._has_quota(head, option) or self._own(head, option) is not None)
        ]
        if len(options) > 1:
            options.sort(key=lambda option: self._shadow_in(head, option).start_us)
        if options:
            option = self._option = options[0]
            self._start_us, spare_pods = promise(self, head)
            self.promised = head
            self._room = Room(self.state, head, option.roles, self._start_us, spare_pods)
            amounts = option.amounts(head.size)
            self._restraints[head.gang.name] = ((option.flavors,), amounts)

    def follow(self, head: GangState, placement: Placement) -> None:
        """Start a head that fits, unless it would delay the promise."""
        room = self._room
        assert room is not None
        if self._ends_by_then(head):
            self.admit(head, placement)
            room.lend(head.missing, placement)
        elif room.give(head.missing, placement):
            self.admit(head, placement)

    def shadow(self, head: GangState) -> Shadow:
        """Return when a head can start at the latest on the nodes for which it gets a promise."""
        assert self._option is not None
        return self._shadow_in(head, self._option)

    def _shadow_in(self, head: GangState, option: Option) -> Shadow:
        """Return when a head finds quota and nodes in a flavor."""
        amounts, book, from_us = option.amounts(head.size), self.book, 0
        if not book.fits(head.queue, amounts):
            from_us = quota_comes_us(self.state, book, head.queue, amounts)
        return shadow(self.state, head, option.roles, self.placer, self.now_us, from_us)

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
        if not options and not self.taken and not self._keeps_quota and self.promised is None:
            demand = member.family.demand_of(member)
            if demand is not None:  # the others of its size need as much
                demand.lack = self.book.lack(member.queue, member.family.options, member.size)
        return self._place(member, options)

    def _place(self, member: GangState, options: list[Option]) -> Placement | None:
        held = self._held_placement(member)
        if held is not None:
            return held
        for option in options:
            if self._is_open(option):
                roles = option.narrow(member.missing)
                placement = place(self.state.capacity, roles, self.placer)
                if placement is not None:
                    return placement
        return None

    def _held_placement(self, member: GangState) -> Placement | None:
        """Return the nodes that a gang holds as a reservation, if it does."""
        reservations = self.state.reservations
        held = reservations.get(member.gang.name) if reservations else None
        return held.placement if held is not None and held.placement else None

    def _is_known(self, head: GangState) -> bool:
        """True if the last pass found no nodes for a head, and nothing grew since then.

        Where another has the promise, it may have found some that it must leave to that one.
        """
        known = self._is_settled and self.blocked and self.promised is None
        return known and head is self.state.queue.lines[head.queue].seen

    def renews(self, head: GangState) -> bool:
        """True if the nodes that were promised may have been others."""
        return len(head.family.options) > 1

    def admit(self, member: GangState, placement: Placement) -> None:
        """Plan that a gang starts on these nodes, with its quota."""
        reservation = self.state.reservations.get(member.gang.name)
        Pass.admit(self, member, placement)
        if reservation is None or not reservation.placement:
            amounts = self.book.amounts_of(member.missing, placement)
            tree = self.book.tree
            tree.take(member.queue, amounts)
            if self._then is not None and not self._ends_by_then(member):
                tree.take_in(self._then, member.queue, amounts)
        if self._is_strict(member.queue):
            self.ask_again = True

    def _is_strict(self, queue: int) -> bool:
        return self.book.disciplines[queue] is Holding.STRICT

    # -- those that pass ---------------------------------------------------------------------

    def let_pass(self) -> None:
        """Start later gangs that may pass the heads that wait."""
        for head, kept in self._told.items():
            if self._restraints.get(head) != kept:
                self.blocked = False  # what it kept from others, it keeps no longer
        self._told = self._restraints
        if self._room is not None:
            pass_by(self, self._room)
        elif self.book.has_others and not all(map(self._is_strict, self.state.queue.open_lines)):
            for member, _, placement in self.fitting():
                self.admit(member, placement)

    def reclaim_past_heads(self) -> Preempt | None:
        """Return whom a later gang evicts that its queue's own quota holds, where it may pass.

        Else a head that waits for more than that would keep its queue from what others borrow.
        Those that were just let pass are carried out before.
        """
        preempting = self._preempting
        if preempting is None:
            return None
        if self.taken:  # those that were let pass may have borrowed what others evict them for
            self.ask_again = True
            return None
        left = {
            queue: preempting.reclaimable(queue)
            for queue in self.state.queue.open_lines
            if not self._is_strict(queue)
        }
        left = {queue: gpus for queue, gpus in left.items() if gpus > 0}
        if not left:
            return None
        tree, found = self.book.tree, 0
        for _, member in sorted(self._within(left)):
            if not self._may_leave_promise(member):
                continue
            head = QueueHead(member, tree)
            if not preempting.has_hope(head):
                continue
            for option in member.family.options:
                if self._is_open(option):
                    found += 1
                    if not self._may_leave_quota(member, option):
                        continue
                    evicts = preempting.find(member, option)
                    if evicts is not None and self._leaves_nodes(member, evicts.decision):
                        return evicts.decision
            if found >= MOST_PAST_HEADS:
                break
        return None

    def _within(self, left: dict[int, int]) -> Iterator[Entry]:
        """Yield the first gang of each demand that asks for no more than its queue may reclaim."""
        queue = self.state.queue
        entries = [(member.key, member) for member in queue.fresh]
        if not self.blocked or self.state.shrank:  # who started may have borrowed
            queue.index_demands()
            firsts = [each.first(self.taken) for at in left for each in queue.lines[at].demands]
            entries = [entry for entry in firsts if entry is not None]
        for entry in entries:
            member = entry[1]
            is_head = member is queue.lines[member.queue].head()
            if not is_head and member.gang.gpus <= left.get(member.queue, 0):
                yield entry

    def _outlasted(self, member: GangState) -> Room | None:
        """Return what a gang that reclaims leaves for the promise, if it is in its way."""
        is_free = self._outranks_promise(member) or self._ends_by_then(member)
        return None if is_free else self._room

    def _may_leave_promise(self, member: GangState) -> bool:
        """True if a gang ends by the promised start, or is small enough to outlast it."""
        room = self._outlasted(member)
        return room is None or room.may_outlast(member.family.roles, member.size)

    def _may_leave_quota(self, member: GangState, option: Option) -> bool:
        """True if the promised head has its quota although a gang reclaims and starts now."""
        is_free = self._outlasted(member) is None
        return is_free or self._leaves_quota(member, option.amounts(member.size))

    def _leaves_nodes(self, member: GangState, decision: Preempt) -> bool:
        """True if the promised head has its nodes although a gang starts where others leave."""
        room = self._outlasted(member)
        return room is None or room.give(member.missing, decision.placement)

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
            if entry is not None and not self._leave_quota(entry[1]):  # nor does any as long
                entry = demand.first_within(self._start_us - self.now_us, self.taken)
            return entry if entry is not None and self._may_pass(entry[1]) else None

        return Pass.fitting(self, first_of, may_start)

    def _leave_quota(self, member: GangState) -> bool:
        """True if gangs like this one leave the promised head its quota in any flavor."""
        if self.promised is None:
            return True
        options, size = member.family.options, member.size
        return any(self._leaves_quota(member, option.amounts(size)) for option in options)

    def shorter(self, member: GangState, demand: Demand) -> Entry | None:
        """Return a gang of the demand that ends by the promised start, if this one does not."""
        if self.promised is None or self._ends_by_then(member):
            return None
        return demand.first_within(self._start_us - self.now_us, self.taken)

    def _may_pass(self, member: GangState) -> bool:
        return not self._is_strict(member.queue)

    def _newcomers(self, may_start: MayStart | None) -> list[Candidate]:
        return [
            (member.key, member, None, None)
            for member in self.state.queue.fresh
            if member is not self.promised
            and member not in self.taken
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
