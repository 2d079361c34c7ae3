"""Detects ranks that hang, and ranks that are slow."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

#: how much later than a collective's timeout a rank ends that hangs outside of one
GRACE_S = 5.0


def prepare_nccl() -> None:
    """Make NCCL keep its last collectives and write them out when one times out."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")


class Watchdog:
    """Ends this process, with the stacks of its threads on stderr, if it makes no step in time.

    Collectives have the same timeout, so the others fail by themselves; this is for a rank that is
    stuck elsewhere. The timer is a thread outside of Python's lock.
    """

    def __init__(self, groups: Iterable[Any]) -> None:
        self._groups = list(groups)
        self._timeout_s = 0.0
        self._armed_s = 0.0

    def allow(self, timeout_s: float) -> None:
        """Set the timeout of collectives, and of this rank from one step to the next."""
        for group in self._groups:
            dist.set_timeout(timedelta(seconds=timeout_s), group)
        self._timeout_s = timeout_s
        self._arm()

    def alive(self) -> None:
        """Restart the timer; cheap enough for every step."""
        if time.monotonic() - self._armed_s > min(1.0, 0.05 * self._timeout_s):
            self._arm()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._timeout_s + GRACE_S, exit=True, file=sys.stderr)
        self._armed_s = time.monotonic()

    def end(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()


class Heartbeat:
    """A file `<pid> <steps done>`, rewritten in place at every step, for probes and tests."""

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / f"rank_{rank:05d}", os.O_WRONLY | os.O_CREAT, 0o644)

    def beat(self, step: int) -> None:
        """Report that this many steps are done."""
        os.pwrite(self._file, f"{os.getpid():>10} {step:>12}\n".encode(), 0)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._file)


def straggler_scores(own_s: float, world_size: int, group: Any) -> list[float]:
    """Gather every rank's own time; return the fastest rank's over each one's, 1.0 for the best."""
    rows = [torch.zeros(1, dtype=torch.float64) for _ in range(world_size)]
    dist.all_gather(rows, torch.tensor([own_s], dtype=torch.float64), group=group)
    return scores([float(row) for row in rows])


def scores(own_s: list[float]) -> list[float]:
    """Return the least of some times over each of them, as in NVIDIA's resiliency extension."""
    best_s = min(own_s)
    return [best_s / one if one > 0 else 1.0 for one in own_s]
