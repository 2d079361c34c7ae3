"""Who gains and who loses: the waits of the same queues in two runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

from sim.report.wording import bounded, counted, duration, exact, listed
from sim.runs.metrics import Quantile

#: waits that differ by less are called equal: so many seconds, and such a part of the shorter one
LEAST_S, LEAST_RATIO = 60.0, 0.1
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Change:
    """The wait of one queue in two runs."""

    queue: str
    before: Quantile
    after: Quantile

    @property
    def longer_s(self) -> float:
        """How much longer it waits in the second: 0 if about as long, NaN if bounds hide it."""
        before, after = self.before, self.after
        if isnan(before.value) or isnan(after.value):
            return float("nan")
        by_s = after.value - before.value
        if abs(by_s) <= max(LEAST_S, LEAST_RATIO * min(before.value, after.value)):
            return 0.0 if not (before.is_lower_bound or after.is_lower_bound) else float("nan")
        # a bound can only rise: it hides a difference unless it is on the side that is higher
        is_hidden = before.is_lower_bound if by_s > 0 else after.is_lower_bound
        return float("nan") if is_hidden else by_s

    def __str__(self) -> str:
        before, after = bounded(self.before, duration), bounded(self.after, duration)
        return f"{self.queue} ({before} to {after})"


def sentences(changes: Sequence[Change], first: str, second: str) -> Iterator[str]:
    """Say which queues wait shorter and which longer in the second run than in the first."""
    known = [one for one in changes if not isnan(one.before.value + one.after.value)]
    longer = sorted((one for one in known if one.longer_s > 0), key=lambda one: -one.longer_s)
    less = sorted((one for one in known if one.longer_s < 0), key=lambda one: one.longer_s)
    hidden = [one.queue for one in known if isnan(one.longer_s)]
    for some, word in ((less, "less"), (longer, "longer")):
        if some:
            named = listed([str(one) for one in some[:MOST_NAMED]])
            yield (
                f"{counted(len(some), 'queue')} wait{'s' if len(some) == 1 else ''} {word} at p95 "
                f"under {second} than under {first}"
                f"{', most of all' if len(some) > MOST_NAMED else ':'} {named}."
            )
    equal = len(known) - len(longer) - len(less) - len(hidden)
    if equal and not (longer or less):
        yield f"No queue waits noticeably longer or less at p95 under {second} than under {first}."
    elif equal:
        yield f"{exact(equal)} wait{'s' if equal == 1 else ''} about as long."
    if hidden:
        rest = len(hidden) - MOST_NAMED
        more = [f"{exact(rest)} more"] if rest > 0 else []
        yield (
            f"Not known for {listed([*hidden[:MOST_NAMED], *more])}: too many of their jobs still "
            "waited at the end."
        )
