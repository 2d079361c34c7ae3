"""Stopping together: a signal on one rank stops every rank after the same step."""

from __future__ import annotations

import math
import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

#: what a stopped rank exits with. With 0, launchers of other pods would wait five minutes for
#: a pod that is gone; a failure ends them all at once.
STOPPED = 128 + signal.SIGTERM


class StopFlag:
    """Remembers SIGTERM.

    Installed after the restore: before, the default action ends a process at once, which a handler
    would turn into a wait, and there is nothing to save yet.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.at: dict[str, float] = {}  #: `t_unix_s` and `t_mono_s` of the first signal

    def install(self) -> None:
        """Catch SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._catch)

    def _catch(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.at = {"t_unix_s": time.time(), "t_mono_s": time.monotonic()}
        self.signum = signum

    @property
    def is_set(self) -> bool:
        """Whether this rank was asked to stop."""
        return self.signum is not None


#: ranks vote about this often. A vote keeps a core busy for some 0.3 ms, which steps of 30 ms feel.
VOTE_EVERY_S = 0.25
MAX_STEPS_APART = 10  #: or where steps get much slower all at once, a stop would wait for long


class Votes:
    """Votes on stopping and saving, each collected while a step computes.

    Every rank hands in what it knows when such a step begins; after the step all know whether any
    rank wants either. Each vote also settles which step votes next, as the rank with the longest
    steps wishes. Where nobody knows yet how long steps take, or they take `VOTE_EVERY_S` and more,
    every step votes.
    """

    def __init__(self, group: Any) -> None:
        self.step_s = math.inf  #: what a step takes, by a clock that has waited for the device
        self._group = group
        self._steps_left = 0  #: before the next vote
        self._flags: torch.Tensor | None = None
        self._work: Any = None

    def begin(self, *, stop: bool, save: bool) -> None:
        """Start a step, and a vote if it is time for one."""
        if self._steps_left:
            self._steps_left -= 1
            return
        apart = MAX_STEPS_APART
        if self.step_s * MAX_STEPS_APART > VOTE_EVERY_S:
            apart = max(1, int(VOTE_EVERY_S / self.step_s))
        self._flags = torch.tensor([stop, save, -apart], dtype=torch.int32)
        self._work = dist.all_reduce(
            self._flags, dist.ReduceOp.MAX, group=self._group, async_op=True
        )

    def end(self) -> tuple[bool, bool]:
        """End a step; return (stop, save), which only a vote makes true.

        Raises:
            RuntimeError: a rank did not answer in time.
        """
        if self._flags is None:
            return False, False
        self._work.wait()
        stop, save, fewest = self._flags.tolist()
        self._flags, self._steps_left = None, -fewest - 1
        return bool(stop), bool(save)
