"""Policies by name: each is an order, a discipline and a placer. Only this module knows the names.

Names come from flags, TOML, live settings and records. All of them are read here, so that every
entry point reports errors in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

from scheduler.core import ordering, placement
from scheduler.policies.easy import easy
from scheduler.policies.passes import Discipline
from scheduler.policies.policy import Policy
from scheduler.policies.skip import skip
from scheduler.policies.spec import WORDS, PolicySpec
from scheduler.policies.strict import strict


class Choice:
    """A discipline, what it does in a few words, and the numbers it takes, with their defaults."""

    __slots__ = ("discipline", "does", "numbers")

    def __init__(self, discipline: Discipline, does: str, **numbers: float) -> None:
        self.discipline = discipline
        self.does = does
        self.numbers = numbers


ORDERS: dict[str, ordering.Order] = {
    "fifo": ordering.fifo,
    "priority": ordering.priority,
    "sjf": ordering.sjf,
    "smallest": ordering.smallest,
}
DISCIPLINES: dict[str, Choice] = {
    "strict": Choice(strict, "a head that does not fit blocks the others"),
    "skip": Choice(skip, "others may pass it"),
    "easy": Choice(easy, "others may pass it if that does not delay it"),
}
PLACERS: dict[str, placement.Placer] = {
    "pack": placement.pack,
    "spread": placement.spread,
    "first-fit": placement.first_fit,
}
#: how earlier versions wrote the discipline "easy": still read, never written
BACKFILLS = ("none", "easy")
#: all that a table with a policy in it may say of the policy
KEYS = (*WORDS, "numbers", "backfill")


def policy(spec: PolicySpec) -> Policy:
    """Compose the policy of a spec.

    Raises:
        ValueError: see `read`.
    """
    spec = read(
        {
            "order": spec.order,
            "discipline": spec.discipline,
            "placement": spec.placement,
            "numbers": spec.numbers,
        }
    )
    return Policy(
        name=f"{spec.order}-{spec.discipline}-{spec.placement}",
        order=ORDERS[spec.order],
        placer=PLACERS[spec.placement],
        discipline=DISCIPLINES[spec.discipline].discipline,
        numbers=spec.numbers,
    )


def read(words: Mapping[str, object], base: PolicySpec | None = None) -> PolicySpec:
    """Return a policy from its settings; missing ones are as in `base`.

    Raises:
        ValueError: a word or number is unknown, or contradicts another; the text names both.
    """
    base = PolicySpec() if base is None else base
    for key in words:
        if key not in KEYS:
            raise ValueError(
                f"{key!r} is not a setting of a policy; choose among {', '.join(KEYS)}"
            )
    order = _known("order", words.get("order", base.order), ORDERS)
    discipline = _discipline(words, base.discipline)
    placer = _known("placement", words.get("placement", base.placement), PLACERS)
    kept = base.numbers if discipline == base.discipline else {}
    return PolicySpec(order, discipline, placer, _numbers(discipline, words.get("numbers"), kept))


def recorded(words: Mapping[str, object]) -> PolicySpec:
    """Return the policy of a record, even one that an earlier version wrote.

    In those, backfill overrides the discipline.

    Raises:
        ValueError: see `read`.
    """
    if words.get("backfill") == "easy":
        words = {**words, "discipline": "easy"}
    return read(words)


def _known(what: str, word: object, known: Iterable[str]) -> str:
    if not isinstance(word, str) or word not in known:
        raise ValueError(f"{what} {word!r} is unknown; choose one of {', '.join(known)}")
    return word


def _discipline(words: Mapping[str, object], base: str) -> str:
    backfill = _known("backfill", words.get("backfill", "none"), BACKFILLS)
    given = words.get("discipline")
    if backfill == "easy":
        if given not in (None, "strict", "easy"):
            raise ValueError(
                f"discipline {given!r} and backfill {backfill!r} both say which gangs may pass a "
                "head that does not fit; leave backfill out, which is the older way to write "
                "discipline 'easy'"
            )
        return "easy"
    if given is None and base == "easy" and "backfill" in words:
        return "strict"
    return _known("discipline", base if given is None else given, DISCIPLINES)


def _numbers(discipline: str, given: object, kept: Mapping[str, float]) -> dict[str, float]:
    """Return every number that the discipline takes: given, kept from before, or its default."""
    takes = DISCIPLINES[discipline].numbers
    found = {**takes, **kept}
    if given is None:
        return found
    if not isinstance(given, Mapping):
        raise ValueError(f"numbers is {given!r}; give a name and a number for each")
    for name, value in given.items():
        if name not in takes:
            owner = next((word for word, one in DISCIPLINES.items() if name in one.numbers), "")
            raise ValueError(
                f"number {name!r} belongs to discipline {owner!r}, not to {discipline!r}; leave "
                "one of them out"
                if owner
                else f"number {name!r} is unknown; discipline {discipline!r} takes "
                f"{', '.join(takes) or 'none'}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            raise ValueError(f"number {name!r} is {value!r}; give a number of 0 or more")
        found[name] = float(value)
    return found
