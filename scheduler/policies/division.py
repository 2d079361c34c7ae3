"""Weighted division of one resource among queues: quotas first, then what is left, by weight.

As KAI divides fair shares (KAI, plugins/proportion/resource_division.go): the surplus goes to the
highest priority first, in whole units, and queues that used much lately may get less of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import floor, inf

from scheduler.core.usage import weights_by_usage


@dataclass(slots=True)
class Claim:
    """What one queue may claim of one resource, and the share that it got."""

    name: str
    quota: float  #: its own before any division; inf: all that there is
    request: float  #: what its jobs hold and wait for
    limit: float = inf  #: it never gets more
    weight: float = 1.0  #: of a surplus; 0: none
    priority: int = 0  #: larger ones get of a surplus first
    created_s: float = 0.0  #: older ones get a remainder first
    used: float = 0.0  #: lately, as a share of the cluster
    share: float = 0.0
    below: list[Claim] = field(default_factory=list)  #: they divide its share

    @property
    def open(self) -> float:
        """Return how much it still wants."""
        return max(0.0, min(self.request, self.limit) - self.share)

    @property
    def allocatable(self) -> float:
        """Return what it may hold: its quota, even if it asks for less, up to its limit."""
        return min(self.limit, max(self.quota, self.share))


def divide(total: float, claims: Sequence[Claim], k: float = 0.0) -> None:
    """Set the shares of claims on `total` units, and of all below them on theirs.

    Each gets its quota, as far as it asks for it; quotas above the total are not scaled down. The
    rest is divided by weight, and by use with strength `k` (`weights_by_usage`), in whole units and
    in rounds, as long as somebody wants less than its part. The fractions that this leaves go one
    unit each to the largest of them, then to the older queue, then by name.
    """
    for claim in claims:
        quota = total if claim.quota == inf else claim.quota
        claim.share = min(quota, claim.request, claim.limit)
    rest = max(0.0, total - sum(claim.share for claim in claims))
    ranked = sorted(claims, key=_urgency)
    fractions: list[list[tuple[float, Claim]]] = []
    for _, equals in groupby(ranked, key=_urgency):
        rest, left = _rounds(rest, list(equals), k)
        fractions.append(left)
    for left in fractions:
        for _, claim in sorted(left, key=_largest_fraction):
            given = max(0.0, min(1.0, rest))
            claim.share += given
            rest -= given
    for claim in claims:
        if claim.below:
            divide(claim.share, claim.below, k)


def _rounds(
    rest: float, claims: Sequence[Claim], k: float
) -> tuple[float, list[tuple[float, Claim]]]:
    """Give whole units by weight to claims of one priority.

    Returns what is left, and the fraction of a unit that flooring took from each.
    """
    fractions: dict[str, tuple[float, Claim]] = {}
    again = rest > 0
    while again:
        again = False
        unmet = [claim for claim in claims if claim.open > 0]
        weights = weights_by_usage(
            [claim.weight for claim in unmet], [claim.used for claim in unmet], k
        )
        amount, total = rest, sum(weights)
        if total == 0:
            break
        for claim, weight in zip(unmet, weights, strict=True):
            part, wanted = amount * (weight / total), claim.open
            if claim.weight == 0 or rest == 0:
                continue
            if wanted <= part:
                given = wanted
                fractions.pop(claim.name, None)
            else:
                given = float(floor(part))
                if part > given:
                    fractions[claim.name] = (part - given, claim)
            claim.share += given
            rest -= given
            again = again or wanted < part
        again = again and rest != 0
    return rest, list(fractions.values())


def _urgency(claim: Claim) -> int:
    return -claim.priority


def _largest_fraction(left: tuple[float, Claim]) -> tuple[float, float, str]:
    fraction, claim = left
    return (-fraction, claim.created_s, claim.name)
