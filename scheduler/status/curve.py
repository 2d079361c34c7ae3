"""The curve of pending pods: a step function over the last day, in bounded memory.

The newest steps are kept as they were. Of older ones each minute keeps its highest step, its lowest
and its last, each at its own time: what is left out is only what came and went in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from scheduler.core.times import DAY_S

MOST_EXACT = 500  #: steps that are kept as they were, at least; at most twice as many
ENVELOPE_S = 60.0  #: older ones are kept as three for each such stretch of time
GAP_S = 180.0  #: nobody looked for so long: what held in between is not known


@dataclass(slots=True, eq=False)
class Step:
    """So many pods wait from then on, until the next step."""

    unix_s: float
    pods: dict[str, float]  #: by reason
    until_unix_s: float | None = None  #: where nobody looked after that, until the next step

    @property
    def total(self) -> float:
        """Return the pods of all reasons."""
        return sum(self.pods.values())

    def as_point(self) -> dict[str, float]:
        """Return it as the page has it."""
        point = {"unix_s": self.unix_s, **self.pods}
        if self.until_unix_s is not None:
            point["until_unix_s"] = self.until_unix_s
        return point


class Curve:
    """Takes what holds at ascending times."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._num_thin = 0  #: of the oldest, those that are what is left of more
        self._seen_unix_s = 0.0  #: until then the last step is known to hold

    def add(self, unix_s: float, pods: Mapping[str, float]) -> bool:
        """Note how many pods wait at a time, by reason; return whether that is a step.

        A clock that was set back forgets what it now has before it.
        """
        steps = self._steps
        while steps and steps[-1].unix_s > unix_s:
            steps.pop()
        self._num_thin = min(self._num_thin, len(steps))
        if steps and unix_s - self._seen_unix_s > GAP_S:
            steps[-1].until_unix_s = self._seen_unix_s
        self._seen_unix_s = unix_s
        last = steps[-1] if steps else None
        if last is not None and last.until_unix_s is None:
            if _same(last.pods, pods):
                return False
            if last.unix_s == unix_s:
                last.pods = dict(pods)
                return True
        steps.append(Step(unix_s, dict(pods)))
        self._bound(unix_s - DAY_S)
        return True

    def points(self) -> list[dict[str, float]]:
        """Return the steps, oldest first."""
        return [step.as_point() for step in self._steps]

    def until(self, unix_s: float, pods: Mapping[str, float]) -> list[dict[str, float]]:
        """Return the steps of the day before a time, and what holds at that time as the last."""
        steps = [step for step in self._steps if step.unix_s <= unix_s]
        oldest = unix_s - DAY_S
        points = [step.as_point() for step in steps[_num_over(steps, oldest) :]]
        if points and points[0]["unix_s"] < oldest:
            points[0]["unix_s"] = oldest
        if points and unix_s - self._seen_unix_s > GAP_S and "until_unix_s" not in points[-1]:
            points[-1]["until_unix_s"] = self._seen_unix_s
        return [*points, {"unix_s": unix_s, **pods}]

    def _bound(self, oldest: float) -> None:
        """Forget what was over a day ago, and thin what is not among the newest."""
        steps = self._steps
        if steps[0].unix_s < oldest:
            num_over = _num_over(steps, oldest)
            del steps[:num_over]
            self._num_thin = max(0, self._num_thin - num_over)
        if len(steps) - self._num_thin >= 2 * MOST_EXACT:
            begin, end = self._num_thin, len(steps) - MOST_EXACT
            while begin and _stretch(steps[begin - 1]) == _stretch(steps[self._num_thin]):
                begin -= 1  # its last part was among the newest
            steps[begin:end] = thinned(steps[begin:end])
            self._num_thin = len(steps) - MOST_EXACT


def _same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """True if as many pods wait for each reason; none of a reason is as good as no word of it."""
    return {k: n for k, n in one.items() if n} == {k: n for k, n in other.items() if n}


def _num_over(steps: list[Step], unix_s: float) -> int:
    """Return how many of the oldest steps no longer held at a time."""
    for number, step in enumerate(steps):
        ends = step.until_unix_s
        if ends is None:
            ends = steps[number + 1].unix_s if number + 1 < len(steps) else unix_s + 1
        if ends > unix_s:
            return number
    return len(steps)


def _stretch(step: Step) -> float:
    return step.unix_s // ENVELOPE_S


def thinned(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield of each stretch of time the highest step, the lowest and the last, in their order.

    Steps after which nobody looked are kept, too.
    """
    for _, stretch in groupby(steps, key=_stretch):
        all_of_it = list(stretch)
        kept = (
            max(all_of_it, key=lambda step: step.total),
            min(all_of_it, key=lambda step: step.total),
            all_of_it[-1],
        )
        yield from (s for s in all_of_it if s in kept or s.until_unix_s is not None)
