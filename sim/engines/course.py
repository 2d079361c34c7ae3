"""One attempt of a job with costs, from the moment all its ranks run, in closed form.

It starts up, restores what was saved before, runs its first step, and then works with a stall for
each checkpoint, which is committed a while later. Checkpoints are made at multiples of the
interval, counted in work done. So the state after any time follows without looking at each step.
"""

from __future__ import annotations

from math import ceil, floor, inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.core.times import to_s, to_us
from sim.engines.workload import whole_us
from sim.schema.costs import STREAM, Costs

#: stalls of so many checkpoints are drawn per attempt; a longer one goes round them again
DRAWN_STALLS = 64
#: work closer than that to a checkpoint is at it
NEAR_S = 1e-6


class Standing(NamedTuple):
    """Progress of an attempt. The seconds of the five parts add up to the time it ran."""

    work_s: float  #: work done, that of earlier attempts included
    committed_s: float  #: work that a restart would find
    startup_s: float
    restore_s: float
    working_s: float
    save_stall_s: float
    other_s: float


class Course:
    """The future of an attempt that begins with `from_s` of `work_s` done."""

    __slots__ = (
        "_interval_s",
        "_round_s",
        "_sums_s",
        "commit_s",
        "detect_s",
        "final_save_s",
        "first_work_s",
        "from_s",
        "num_saves",
        "recreate_s",
        "restore_s",
        "shutdown_s",
        "startup_s",
        "stop_s",
        "work_s",
    )

    def __init__(
        self, costs: Costs, seed: int, job: int, attempt: int, from_s: float, work_s: float
    ) -> None:
        random = np.random.default_rng(
            np.random.SeedSequence(seed, spawn_key=(STREAM, job, attempt))
        )
        self.from_s = from_s
        self.work_s = work_s
        # The order of draws is fixed, so that one cost does not change another's random numbers.
        self.startup_s = _one(costs.startup_s.draw(random, 1))
        self.startup_s += _one(costs.first_step_extra_s.draw(random, 1))
        restore_s = _one(costs.restore_s.draw(random, 1))
        self.restore_s = restore_s if from_s > 0 else 0.0
        self.commit_s = _one(costs.save_commit_s.draw(random, 1))
        self.final_save_s = _one(costs.final_save_s.draw(random, 1))
        self.shutdown_s = _one(costs.shutdown_s.draw(random, 1))
        self.stop_s = _one(costs.stop_s.draw(random, 1))
        self.detect_s = _one(costs.detect_s.draw(random, 1))
        self.recreate_s = _one(costs.recreate_s.draw(random, 1))
        interval_s = costs.save_interval_s or inf
        done = floor((from_s + NEAR_S) / interval_s)
        self.num_saves = max(0, ceil((work_s - NEAR_S) / interval_s) - 1 - done)
        self.first_work_s = (done + 1) * interval_s - from_s if self.num_saves else inf
        self._interval_s = interval_s
        stalls_s = whole_us(costs.save_stall_s.draw(random, min(self.num_saves, DRAWN_STALLS)))
        # A checkpoint waits for the one before to be committed.
        stalls_s = np.maximum(stalls_s, self.commit_s - interval_s)
        self._sums_s: NDArray[np.float64] = np.concatenate([[0.0], np.cumsum(stalls_s)])
        self._round_s = float(self._sums_s[-1])

    @property
    def setup_s(self) -> float:
        """From running to the first step; what that takes longer than others is in it."""
        return self.startup_s + self.restore_s

    @property
    def total_s(self) -> float:
        """From running to the last rank's exit, if nothing cuts it."""
        stepping_s = self.work_s - self.from_s + self._stalls_s(self.num_saves)
        return self.setup_s + stepping_s + self.final_save_s + self.shutdown_s

    def _stalls_s(self, num_saves: int) -> float:
        """Return the stalls of the first so many checkpoints."""
        drawn = len(self._sums_s) - 1
        if num_saves <= drawn:
            return float(self._sums_s[num_saves])
        rounds, rest = divmod(num_saves, drawn)
        return rounds * self._round_s + float(self._sums_s[rest])

    def _begins_s(self, save: int) -> float:
        """Return when checkpoint 1, 2, ... begins, counted from the first step."""
        return self.first_work_s + (save - 1) * self._interval_s + self._stalls_s(save - 1)

    def save_s(self, save: int) -> tuple[float, float]:
        """Return when checkpoint 1, 2, ... begins and is committed, counted from running."""
        begins_s = self.setup_s + self._begins_s(save)
        stall_s = self._stalls_s(save) - self._stalls_s(save - 1)
        return begins_s, begins_s + max(stall_s, self.commit_s)

    def _begun(self, stepping_s: float) -> int:
        """Return how many checkpoints have begun this long after the first step."""
        low, high = 0, self.num_saves
        while low < high:
            middle = (low + high + 1) // 2
            if self._begins_s(middle) <= stepping_s:
                low = middle
            else:
                high = middle - 1
        return low

    def reaches_s(self, work_s: float) -> float:
        """Return when so much work is done for the first time, counted from running."""
        done_s = work_s - self.from_s
        saves = 0
        if done_s > self.first_work_s + NEAR_S:
            saves = 1 + floor((done_s - self.first_work_s - NEAR_S) / self._interval_s)
        return self.setup_s + done_s + self._stalls_s(min(saves, self.num_saves))

    def at(self, ran_s: float) -> Standing:
        """Return the progress after running for this long."""
        startup_s = min(ran_s, self.startup_s)
        restore_s = min(ran_s - startup_s, self.restore_s)
        stepping_s = ran_s - startup_s - restore_s
        saves = self._begun(stepping_s)
        stalled_s = 0.0
        committed_s = self.from_s
        if saves:
            in_save_s = stepping_s - self._begins_s(saves)
            latest_s = self._stalls_s(saves) - self._stalls_s(saves - 1)
            stalled_s = self._stalls_s(saves - 1) + min(in_save_s, latest_s)
            # the next one waits for the commit, so only the latest can be on its way
            durable = saves if in_save_s >= max(latest_s, self.commit_s) else saves - 1
            if durable:
                committed_s += self.first_work_s + (durable - 1) * self._interval_s
        working_s = min(stepping_s - stalled_s, self.work_s - self.from_s)
        left_s = stepping_s - stalled_s - working_s
        final_s = min(left_s, self.final_save_s)
        if left_s > 0 and left_s >= self.final_save_s:
            committed_s = self.work_s
        return Standing(
            self.from_s + working_s,
            committed_s,
            startup_s,
            restore_s,
            working_s,
            stalled_s + final_s,
            left_s - final_s,
        )


def _one(drawn: NDArray[np.float64]) -> float:
    return to_s(to_us(float(drawn[0])))
