"""Stopping together: a signal on one rank stops every rank after the same step."""

from __future__ import annotations

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


class Vote:
    """One step's vote on stopping and saving, collected while the step computes.

    Every rank hands in what it knows when the step begins; after the step all know whether any
    rank wants either.
    """

    def __init__(self, group: Any, *, stop: bool, save: bool) -> None:
        self._flags = torch.tensor([stop, save], dtype=torch.int32)
        self._work = dist.all_reduce(self._flags, dist.ReduceOp.MAX, group=group, async_op=True)

    def result(self) -> tuple[bool, bool]:
        """Return (stop, save); raises where a rank did not answer in time."""
        self._work.wait()
        stop, save = self._flags.tolist()
        return bool(stop), bool(save)
