"""The words of a queues file: flavors, cohorts and queues, checked once.

The model is Kueue's: a queue takes gangs; a cohort joins queues, or other cohorts, that may borrow
from each other. A *flavor* is a named set of nodes. Quota is counted per flavor and resource, and
resources are named as `PodShape.amounts` names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Final

from scheduler.core.times import to_us


class Holding(StrEnum):
    """What a head that does not fit does to the gangs behind it."""

    STRICT = "strict"  #: it blocks its queue
    SKIP = "skip"  #: they may pass it
    EASY = "easy"  #: they may pass it if that does not delay it


class Victims(StrEnum):
    """Which gangs may be evicted for another."""

    NEVER = "never"
    LOWER_PRIORITY = "lower-priority"
    #: in the same queue only: as well those of equal priority that were submitted later
    LOWER_OR_NEWER_EQUAL_PRIORITY = "lower-or-newer-equal-priority"
    ANY = "any"  #: in other queues only


class Search(StrEnum):
    """Whether the search for a flavor ends at one that would do."""

    STOP = "stop"
    TRY_NEXT = "try-next"


class Preference(StrEnum):
    """What decides first between two flavors of which each has its price."""

    BORROWING_OVER_PREEMPTION = "borrowing-over-preemption"
    PREEMPTION_OVER_BORROWING = "preemption-over-borrowing"


class Serve(StrEnum):
    """Whose head is served first."""

    BORROWING = "borrowing"  #: that of the queue which borrows less with it
    SHARE = "share"  #: that of the queue with the smaller dominant share with it
    USAGE = "usage"  #: that of the queue which used less of late, by its weight
    FAIR_TREE = "fair-tree"  #: the same, level by level of the tree, as Slurm ranks accounts


class ShareRule(StrEnum):
    """When a gang may be evicted for one of another queue, by the shares of both."""

    #: the other's share, with its gang, is at most what this queue's is without the victim
    FINAL = "less-than-or-equal-to-final-share"
    INITIAL = "less-than-initial-share"  #: it is smaller than this queue's is with the victim


@dataclass(slots=True)
class Sharing:
    """How queues share: whose head is first, and who loses gangs."""

    heads: Serve = Serve.BORROWING
    half_life_s: float = 604800.0  #: of past use, where that counts
    k: float = 0.0  #: by `share`: how far past use changes weights (KAI); 0 is not at all
    #: the rules by which queues lose gangs to queues with smaller shares, in the order in which
    #: they are tried; empty: quota and priority decide
    victims: tuple[ShareRule, ...] = ()
    age_s: float = 604800.0  #: a head that waited for so long has
    age_priority: int = 0  #: so much more priority among heads, and before that in proportion

    @property
    def uses_past(self) -> bool:
        """True if the order of heads depends on what queues used before."""
        return self.heads in (Serve.USAGE, Serve.FAIR_TREE) or self.k > 0


@dataclass(slots=True)
class Quota:
    """How much of one resource of one flavor a queue or cohort has."""

    nominal: int = 0  #: its own
    borrow: int | None = None  #: most that it takes from its cohort; None: no limit
    lend: int | None = None  #: most that others may take of its own; None: all


#: by flavor, then by resource
Quotas = dict[str, dict[str, Quota]]


@dataclass(slots=True)
class Flavor:
    """A named set of nodes: those with all of these; an empty word allows any."""

    name: str
    pool: str = ""
    gpu_model: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Cohort:
    """Queues and cohorts that lend to each other."""

    name: str
    parent: str = ""  #: another cohort; none is a root
    weight: float = 1.0  #: of its fair share among its siblings
    quota: Quotas = field(default_factory=dict)


@dataclass(slots=True)
class Queue:
    """Where gangs wait, and the words by which its gangs take room from others."""

    name: str
    cohort: str = ""
    weight: float = 1.0
    quota: Quotas = field(default_factory=dict)
    #: in which order its gangs try them; empty: those of the file that it has quota for
    flavors: tuple[str, ...] = ()
    discipline: Holding = Holding.STRICT
    within: Victims = Victims.NEVER  #: victims in its own queue
    reclaim: Victims = Victims.NEVER  #: victims in queues of its cohort that borrow
    borrow_within: Victims = Victims.NEVER  #: the same, while it borrows itself
    max_priority: int | None = None  #: of victims by `borrow_within`; None: no bound
    when_can_borrow: Search = Search.STOP
    when_can_preempt: Search = Search.TRY_NEXT
    preference: Preference = Preference.BORROWING_OVER_PREEMPTION
    min_runtime_s: float = 0.0  #: none of its gangs is evicted that has run for less
    #: so much work of a gang counts at most where victims are chosen by what they lose, so that
    #: one that never saves is not spared for that
    max_lost_s: float = 14400.0


@dataclass(slots=True)
class Queues:
    """All of a queues file."""

    flavors: tuple[Flavor, ...] = ()
    cohorts: tuple[Cohort, ...] = ()
    queues: tuple[Queue, ...] = ()
    #: other names of queues, as jobs may have them: that of a Kueue LocalQueue, for example
    aliases: dict[str, str] = field(default_factory=dict)
    sharing: Sharing = field(default_factory=Sharing)


#: the only flavor of a file that names none: all nodes
DEFAULT_FLAVOR: Final = "default"
#: more than any cluster has: 72 petabytes of memory, for one; sums of it still fit 64 bits
MOST_AMOUNT: Final = 1 << 56


def checked(file: Queues, place: str) -> Queues:
    """Return the same words if they make sense; `place` is the file that has them.

    Raises:
        ValueError: they do not; a line for each fault, with the way out.
    """
    found = list(_faults(file))
    if found:
        raise ValueError("\n".join(f"{place}: {fault}" for fault in found))
    return file


def _faults(file: Queues) -> Iterator[str]:
    flavors = [flavor.name for flavor in file.flavors]
    cohorts = [cohort.name for cohort in file.cohorts]
    yield from _duplicates("flavor", flavors)
    # a queue and a cohort of one name could not be told apart where usage is shown
    yield from _duplicates("queue or cohort", [*cohorts, *(queue.name for queue in file.queues)])
    if not file.queues:
        yield "there is no queue; add one, for example [[queue]] with name = 'default'"
    parents = {cohort.name: cohort.parent for cohort in file.cohorts}
    for cohort in file.cohorts:
        yield from _faults_of_node("cohort", cohort, cohort.parent, cohorts, flavors)
        cycle = _cycle(cohort.name, parents)
        if cycle and cohort.name == min(cycle):
            yield (
                f"cohorts {' -> '.join((*cycle, cycle[0]))} are a cycle; leave out the parent of "
                "one of them, which becomes the root"
            )
    for queue in file.queues:
        yield from _faults_of_node("queue", queue, queue.cohort, cohorts, flavors)
        yield from _faults_of_queue(queue, flavors)
    yield from _faults_of_sharing(file.sharing)
    yield from _faults_of_use(file)
    queues = [queue.name for queue in file.queues]
    for name in [*flavors, *cohorts, *queues, *file.aliases]:
        if not name.isprintable():
            yield f"the name {name!r} has a character that cannot be printed; leave it out"
    for alias, name in file.aliases.items():
        if name not in queues:
            yield f"alias {alias!r} of queue {name!r}, which is unknown; {_choose(queues, 'queue')}"
        if alias in queues and alias != name:
            yield f"alias {alias!r} of queue {name!r} is itself a queue; leave the alias out"


def _duplicates(what: str, names: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if not name:
            yield f"a {what} has no name; give it one"
        elif name in seen:
            yield f"{what} {name!r} is there more than once; rename one of them"
        seen.add(name)


def _faults_of_node(
    kind: str, node: Cohort | Queue, parent: str, cohorts: Sequence[str], flavors: Sequence[str]
) -> Iterator[str]:
    """Yield what is wrong with the quota, weight and parent of a queue or cohort."""
    name = f"{kind} {node.name!r}"
    word = "parent" if kind == "cohort" else "cohort"
    if parent and parent not in cohorts:
        yield f"{name}: {word} {parent!r} is unknown; {_choose(cohorts, 'cohort')}"
    if not (isfinite(node.weight) and node.weight >= 0):
        yield f"{name}: weight is {node.weight}; give a number of 0 or more"
    for flavor, resources in node.quota.items():
        if flavor not in flavors:
            yield f"{name}: quota for flavor {flavor!r}, which is unknown; " + _choose(
                flavors, "flavor"
            )
        for resource, quota in resources.items():
            what = f"{name}: quota of {resource!r}"
            if list(flavors) != [DEFAULT_FLAVOR]:
                what += f" of flavor {flavor!r}"
            for limit, amount in (
                ("nominal", quota.nominal),
                ("borrow", quota.borrow),
                ("lend", quota.lend),
            ):
                if amount is not None and amount < 0:
                    yield f"{what}: {limit} is {amount}; give a number of 0 or more"
                if amount is not None and amount > MOST_AMOUNT:
                    yield f"{what}: {limit} is {amount:.3g}; give at most {MOST_AMOUNT:.3g}"
                if amount is not None and limit != "nominal" and not parent:
                    yield (
                        f"{what}: {limit} is {amount}, but it is in no {word} that it could "
                        f"{limit} in; give it a {word}, or leave {limit} out"
                    )
            if kind == "queue" and quota.lend is not None and quota.lend > quota.nominal:
                yield (
                    f"{what}: lend is {quota.lend}, more than its nominal {quota.nominal}; "
                    "lower lend, or leave it out to lend all"
                )


def _faults_of_queue(queue: Queue, flavors: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the words that only a queue has."""
    name = f"queue {queue.name!r}"
    yield from (f"{name}: {fault}" for fault in _duplicates("flavor", queue.flavors))
    for flavor in queue.flavors:
        if flavor not in flavors:
            yield f"{name}: flavor {flavor!r} is unknown; {_choose(flavors, 'flavor')}"
        elif flavor not in queue.quota:
            yield (
                f"{name}: flavor {flavor!r} is in its order, but it has no quota for it; give it "
                "some (0 is enough to borrow), or leave the flavor out"
            )
    missing = [flavor for flavor in queue.quota if queue.flavors and flavor not in queue.flavors]
    if missing:
        yield (
            f"{name}: it has quota for flavor {missing[0]!r}, but its flavors leave that out; add "
            "it to flavors, or leave flavors out to try all in the order of the file"
        )
    for word, value in (("min_runtime_s", queue.min_runtime_s), ("max_lost_s", queue.max_lost_s)):
        if not (isfinite(value) and value >= 0):
            yield f"{name}: {word} is {value}; give a number of seconds, 0 or more"
    if queue.within is Victims.ANY:
        yield (
            f"{name}: within is 'any'; choose never, lower-priority or "
            "lower-or-newer-equal-priority: equals that evict each other never end"
        )
    if queue.reclaim is Victims.LOWER_OR_NEWER_EQUAL_PRIORITY:
        yield f"{name}: reclaim is {queue.reclaim.value!r}; choose never, lower-priority or any"
    if queue.borrow_within not in (Victims.NEVER, Victims.LOWER_PRIORITY):
        yield (
            f"{name}: borrow_within is {queue.borrow_within.value!r}; choose never or "
            "lower-priority"
        )
    if queue.borrow_within is Victims.LOWER_PRIORITY and queue.reclaim is Victims.NEVER:
        yield (
            f"{name}: borrow_within is 'lower-priority', but reclaim is 'never', so it has no "
            "victims in other queues; set reclaim, or leave borrow_within out"
        )
    if queue.max_priority is not None and queue.borrow_within is Victims.NEVER:
        yield (
            f"{name}: max_priority is {queue.max_priority}, but borrow_within is 'never'; set "
            "borrow_within = 'lower-priority', or leave max_priority out"
        )


def _faults_of_sharing(words: Sharing) -> Iterator[str]:
    for word, value in (("half_life_s", words.half_life_s), ("age_s", words.age_s)):
        if not (isfinite(value) and to_us(value) > 0):
            yield f"sharing: {word} is {value}; give a number of seconds above 0, 1e-6 at least"
    if not (isfinite(words.k) and words.k >= 0):
        yield f"sharing: k is {words.k}; give a number of 0 or more"
    if words.k and words.heads is not Serve.SHARE:
        yield (
            f"sharing: k is {words.k}, but heads is {words.heads.value!r}; set heads = 'share', or "
            "leave k out"
        )
    if words.age_priority < 0:
        yield f"sharing: age_priority is {words.age_priority}; give a whole number of 0 or more"
    if len(set(words.victims)) < len(words.victims):
        yield "sharing: victims has a rule more than once; leave one of them out"


def _faults_of_use(file: Queues) -> Iterator[str]:
    """Yield a fault if past use shall count, but none of it would be seen."""
    words = file.sharing
    owners: list[Queue | Cohort] = [*file.queues, *file.cohorts]
    if words.uses_past and not any(
        "gpus" in resources for owner in owners for resources in owner.quota.values()
    ):
        told = f"heads is {words.heads.value!r}" if not words.k else f"k is {words.k}"
        yield (
            f"sharing: {told}, so past use counts, which is that of GPUs; but there is no quota of "
            "gpus, without which it is not known. Give quota.gpus to the queues, or set heads = "
            "'borrowing' or heads = 'share' without k"
        )


def _choose(names: Sequence[str], what: str) -> str:
    return f"choose one of {', '.join(names)}" if names else f"add a {what} of that name"


def _cycle(name: str, parents: dict[str, str]) -> list[str]:
    """Return the cohorts of the cycle that this one is in, from itself upwards, if it is in one."""
    path = [name]
    above = parents[name]
    while above in parents and above not in path:
        path.append(above)
        above = parents[above]
    return path if above == name else []
