"""A policy in words and numbers, as users write it and as records keep it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What a policy is composed of; `catalog` knows the words, and `catalog.read` checks them.

    It is written unchanged to config.toml, to the settings of a live muster and to a journal's
    snapshots.
    """

    order: str = "fifo"
    discipline: str = "strict"
    placement: str = "pack"
    #: those that the discipline takes, by name; none is missing in a spec that was read
    numbers: dict[str, float] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type[PolicySpec], tuple[object, ...]]:
        """Return how it is made anew in another process; compiled, nobody may set its fields."""
        return PolicySpec, (self.order, self.discipline, self.placement, self.numbers)


#: a spec has a word for each of these
WORDS = ("order", "discipline", "placement")
