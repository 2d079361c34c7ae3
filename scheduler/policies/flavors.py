"""Which flavor a gang would take, and at what price: room now, borrowing, or preemption.

The rules are Kueue's (`pkg/scheduler/flavorassigner`). A queue tries its flavors in order; two of
its words say whether the search ends at one that takes borrowing or victims, a third which of the
two is worse. A role of a gang takes all its resources from one flavor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum

from scheduler.core.queues import Preference, Queue, Search, Victims
from scheduler.core.quota import NO_PARENT, Amounts, QuotaTree
from scheduler.policies.contest import Attempt, Contender, Contest
from scheduler.policies.victims import victims


class Mode(IntEnum):
    """How a flavor would serve, from the worst."""

    NEVER_FITS = 0  #: it asks for more than the queue may ever use
    NO_FIT = 1  #: no quota now, and no right to others'
    NO_CANDIDATES = 2  #: it could have victims, and has none
    PREEMPT = 3  #: with victims, some of them in its own queue
    RECLAIM = 4  #: with victims of other queues only
    FIT = 5


class Outlook:
    """How a flavor would serve, and how far up the tree that borrows: 0 is not at all."""

    __slots__ = ("height", "mode")

    def __init__(self, mode: Mode, height: int = 0) -> None:
        self.mode = mode
        self.height = height


class Tried:
    """A flavor that was tried, and how it serves by the worst of what is asked for."""

    __slots__ = ("worst",)

    def __init__(self, worst: Outlook) -> None:
        self.worst = worst


class RoleFlavor(Tried):
    """The flavor of a role."""

    __slots__ = ("by_cell", "flavor", "tried")

    def __init__(self, flavor: str, by_cell: dict[int, Outlook], tried: int = 0) -> None:
        Tried.__init__(self, _worst(by_cell))
        self.flavor = flavor  #: empty: none would do
        self.by_cell = by_cell
        self.tried = tried  #: place of the last flavor tried in the queue's order


class Assignment:
    """The flavors of all roles of a gang."""

    __slots__ = ("amounts", "height", "mode", "roles", "short")

    def __init__(self, roles: list[RoleFlavor], amounts: dict[int, int]) -> None:
        self.roles = roles
        self.mode = min((role.worst.mode for role in roles), default=Mode.FIT)
        self.height = max((role.worst.height for role in roles), default=0)
        self.amounts: Amounts = tuple(sorted(amounts.items()))
        #: cells of which there is too little now
        self.short = tuple(
            sorted({c for role in roles for c, o in role.by_cell.items() if o.mode is not Mode.FIT})
        )


def flavors_of(tree: QuotaTree, queue: int) -> tuple[str, ...]:
    """Return the flavors that the queue's gangs try, in order."""
    words = tree.queues[queue]
    return words.flavors or tuple(name for name in tree.flavors if name in words.quota)


def assign(
    contest: Contest,
    gang: Contender,
    requests: Sequence[Mapping[str, int]],
    first: Sequence[int] = (),
    only: Sequence[str] | None = None,
    has_nodes: Callable[[int, str], bool] | None = None,
) -> Assignment:
    """Return the flavors that a gang would take; `requests` are amounts by resource, role by role.

    The roles before count where they took the same. `first` is, for each role, at which of the
    queue's flavors to begin. `only` restricts the flavors. `has_nodes` tells of a role and a flavor
    whether it would find nodes there, if it is asked to; where it would not, all is short.
    """
    tree = contest.tree
    names = flavors_of(tree, gang.queue)
    taken: dict[int, int] = {}
    roles: list[RoleFlavor] = []
    for role, request in enumerate(requests):
        begin = first[role] if first else 0
        best: RoleFlavor | None = None
        for at in range(begin, len(names)):
            name = names[at]
            if only is not None and name not in only:
                continue
            nodes = has_nodes is None or has_nodes(role, name)
            found = RoleFlavor(name, _outlooks(contest, gang, name, request, taken, nodes), at)
            words = tree.queues[gang.queue]
            done = ends(words, found.worst)
            if best is None or done or is_better(words, found.worst, best.worst):
                best = found
            best.tried = at
            if done:
                break
        if best is None:
            best = RoleFlavor("", {NO_PARENT: Outlook(Mode.NO_FIT)})
        roles.append(best)
        if best.worst.mode <= Mode.NO_FIT:
            return Assignment(roles, {})
        for resource, amount in request.items():
            cell = tree.cells[best.flavor, resource]
            taken[cell] = taken.get(cell, 0) + amount
    return Assignment(roles, taken)


def _outlooks(
    contest: Contest,
    gang: Contender,
    flavor: str,
    request: Mapping[str, int],
    taken: Mapping[int, int],
    has_nodes: bool,
) -> dict[int, Outlook]:
    """Return how a flavor would serve a role, for each resource."""
    tree = contest.tree
    quota = tree.queues[gang.queue].quota.get(flavor, {})
    wanted: dict[int, int] = {}
    for resource, amount in request.items():
        if resource not in quota:
            return {NO_PARENT: Outlook(Mode.NEVER_FITS)}
        cell = tree.cells[flavor, resource]
        wanted[cell] = amount + taken.get(cell, 0)
        if wanted[cell] > tree.potential[gang.queue][cell]:
            return {cell: Outlook(Mode.NEVER_FITS)}
    found: dict[int, Outlook] = {}
    for cell, amount in wanted.items():
        found[cell] = outlook(contest, gang, cell, amount, has_nodes)
        if found[cell].mode <= Mode.NO_FIT:
            break
    return found


def outlook(
    contest: Contest, gang: Contender, cell: int, amount: int, has_nodes: bool = True
) -> Outlook:
    """Return how a gang would get this much of one cell."""
    tree, queue = contest.tree, gang.queue
    if amount > tree.potential[queue][cell]:
        return Outlook(Mode.NEVER_FITS)
    height = tree.height(queue, cell, amount)
    amounts: Amounts = ((cell, amount),)
    if has_nodes and tree.fits(queue, amounts):
        return Outlook(Mode.FIT, height)
    if not _may_look_for_victims(contest, queue, cell, amount):
        return Outlook(Mode.NO_FIT)
    found = victims(contest, gang, amounts, (cell,))
    if not found:
        return Outlook(Mode.NO_CANDIDATES, height)
    own = any(victim.gang.queue == queue for victim in found)
    with Attempt(contest, gang, amounts, (cell,)) as attempt:
        for victim in found:
            attempt.evict(victim.gang, victim.why)
        height = tree.height(queue, cell, amount)
    return Outlook(Mode.PREEMPT if own else Mode.RECLAIM, height)


def _may_look_for_victims(contest: Contest, queue: int, cell: int, amount: int) -> bool:
    """True if a gang may evict at all: what it asks for is its queue's or a subtree's own."""
    tree = contest.tree
    words = tree.queues[queue]
    if amount <= tree.nominal[queue][cell]:
        return True
    if tree.fits_below_root(queue, cell, amount):
        return True
    if words.borrow_within is not Victims.NEVER:
        return True
    return bool(contest.rules) and words.reclaim is not Victims.NEVER


def _worst(by_cell: Mapping[int, Outlook]) -> Outlook:
    """Return the worst mode and the largest height; what does not fit borrows nothing."""
    mode = min((one.mode for one in by_cell.values()), default=Mode.FIT)
    if mode <= Mode.NO_FIT:
        return Outlook(mode)
    return Outlook(mode, max((one.height for one in by_cell.values()), default=0))


def ends(words: Queue, found: Outlook) -> bool:
    """True if the search for a flavor ends here."""
    if found.mode <= Mode.NO_CANDIDATES:
        return False
    if found.mode is not Mode.FIT and words.when_can_preempt is Search.TRY_NEXT:
        return False
    return not (found.height > 0 and words.when_can_borrow is Search.TRY_NEXT)


def is_better(words: Queue, one: Outlook, other: Outlook) -> bool:
    """True if one flavor serves better than another; those that do not serve are worst."""
    if min(one.mode, other.mode) <= Mode.NO_CANDIDATES:
        return one.mode > other.mode
    if words.preference is Preference.BORROWING_OVER_PREEMPTION:
        return (one.mode, -one.height) > (other.mode, -other.height)
    return (-one.height, one.mode) > (-other.height, other.mode)
