"""One piece of a study's work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.runs.progress import Callback

#: what a worker calls; the argument is for reports of progress
Work = Callable[[Callback], object]


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work that leaves its result on disk."""

    name: str
    weight: float  #: expected work, in any unit
    span_s: float  #: simulated seconds; 0 if it simulates nothing
    work: Work
    is_done: Callable[[], bool]
