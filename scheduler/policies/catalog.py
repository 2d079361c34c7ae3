"""Named policies: each is an order, a discipline and a placer, composed."""

from __future__ import annotations

from scheduler.core import ordering, placement
from scheduler.policies.easy import easy
from scheduler.policies.passes import Discipline
from scheduler.policies.policy import Policy
from scheduler.policies.skip import skip
from scheduler.policies.strict import strict

ORDERS: dict[str, ordering.Order] = {
    "fifo": ordering.fifo,
    "priority": ordering.priority,
    "sjf": ordering.sjf,
    "smallest": ordering.smallest,
}
DISCIPLINES: dict[str, Discipline] = {"strict": strict, "skip": skip, "easy": easy}
PLACERS: dict[str, placement.Placer] = {
    "pack": placement.pack,
    "spread": placement.spread,
    "first-fit": placement.first_fit,
}


def policy(
    order: str = "fifo",
    discipline: str = "strict",
    backfill: str = "none",
    placer: str = "pack",
) -> Policy:
    """Compose a policy from names; `backfill="easy"` takes the place of the discipline.

    Raises:
        ValueError: a name is not in the catalog.
    """
    for what, name, known in (
        ("order", order, list(ORDERS)),
        ("discipline", discipline, ["strict", "skip"]),
        ("backfill", backfill, ["none", "easy"]),
        ("placement", placer, list(PLACERS)),
    ):
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown; choose one of {', '.join(known)}")
    chosen = "easy" if backfill == "easy" else discipline
    return Policy(
        name=f"{order}-{chosen}-{placer}",
        order=ORDERS[order],
        placer=PLACERS[placer],
        discipline=DISCIPLINES[chosen],
    )
