"""A policy: the functions that together decide. `catalog` has the named ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.core.ordering import Order
from scheduler.core.placement import Placer
from scheduler.policies.passes import Discipline
from scheduler.policies.strict import strict


@dataclass(frozen=True, slots=True)
class Policy:
    """An order, a discipline and a placer; where queues have quota, each has its discipline."""

    name: str
    order: Order
    placer: Placer
    discipline: Discipline = strict
    numbers: dict[str, float] = field(default_factory=dict)  #: that the discipline takes
    restart_s: float = 0.0  #: what a gang that is evicted loses beside its work
