"""The demo on a terminal: one line per job, redrawn in place; elsewhere a line per change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from scheduler.controlplane.demo_job import DemoJob
from scheduler.core.decisions import PendingReason
from scheduler.core.reasons import TABLE, label

BAR, GPU_BAR = 24, 40
GREEN, GREY, BOLD, PLAIN = "\x1b[32m", "\x1b[90m", "\x1b[1m", "\x1b[0m"
#: a piece of a line and its style; an empty style is plain
Piece = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Total:
    """The whole cluster at one look."""

    used_gpus: int
    gpus: int
    now_s: float


class Screen:
    """Where the demo is shown."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._redraws = out.isatty()
        self._colours = self._redraws and not os.environ.get("NO_COLOR")
        self._height = 0  #: lines that the next drawing replaces
        self._told: dict[str, str] = {}
        self._said: list[str] = []

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(text, file=self._out, flush=True)

    def show(self, jobs: Sequence[DemoJob], total: Total) -> None:
        """Draw the present state, or print what changed."""
        if not self._redraws:
            self._tell(jobs, total)
            return
        size = shutil.get_terminal_size()
        shown = sorted(jobs, key=lambda job: job.ended_s >= 0)[: max(1, size.lines - 4)]
        names = {job.name for job in shown}
        rows = [self._job(job) for job in jobs if job.name in names]
        rows.append(_gpus(total))
        self._erase()
        for row in rows:
            print(self._styled(row, size.columns - 1), file=self._out)
        self._height = len(rows)
        self._out.flush()

    def close(self) -> None:
        """Leave the last drawing where it is."""
        self._height = 0

    def _erase(self) -> None:
        if self._height:
            print(f"\x1b[{self._height}F\x1b[J", end="", file=self._out)
            self._height = 0

    def _tell(self, jobs: Sequence[DemoJob], total: Total) -> None:
        for job in jobs:
            what = job.phase if not job.reason else f"{job.phase} ({label(job.reason)})"
            if self._told.get(job.name) == what:
                continue
            self._told[job.name] = what
            pods = f"{job.running + job.done}/{job.pods} pods"
            text = f": {job.text}" if job.text else ""
            print(
                f"{total.now_s:6.1f} s  {job.name:10} {pods:>14}  {what}{text}  "
                f"[{total.used_gpus}/{total.gpus} GPUs]",
                file=self._out,
                flush=True,
            )

    def _job(self, job: DemoJob) -> list[Piece]:
        mark = "^" if job.high else " "
        pieces: list[Piece] = [(f"{job.name:10}{mark}{job.pods:4} x {job.gpus_per_pod} GPUs  ", "")]
        cells = _shares(BAR, job.pods, job.done, job.running, job.placed - job.running)
        holds = job.placed + job.done < job.pods  # its other pods have no node yet
        placed = _ansi(PendingReason.OWN_PARTIAL_HOLD if holds else PendingReason.STARTING)
        styles = (GREY, GREEN, placed, _ansi(job.reason))
        for cell, char, style in zip(cells, "██▒·", styles, strict=True):
            pieces.append((char * cell, style))
        if job.phase == "done":
            text = f"done after {job.ended_s:.1f} s"
        else:
            text = job.text or job.phase
            if job.reason:
                text = f"{label(job.reason)}: {text}"
        pieces.append((f"  {text}", GREY if job.ended_s >= 0 else ""))
        return pieces

    def _styled(self, pieces: Sequence[Piece], width: int) -> str:
        line = ""
        for text, style in pieces:
            kept = text[:width]
            width -= len(kept)
            line += f"{style}{kept}{PLAIN}" if style and kept and self._colours else kept
        return line


def _gpus(total: Total) -> list[Piece]:
    full = round(GPU_BAR * min(total.used_gpus, total.gpus) / total.gpus)
    return [
        ("GPUs  ", BOLD),
        ("█" * full, GREEN),
        ("·" * (GPU_BAR - full), GREY),
        (f"  {total.used_gpus} of {total.gpus} used   {total.now_s:.1f} s", ""),
    ]


def _shares(width: int, whole: int, *parts: int) -> list[int]:
    """Return how many of `width` cells each part takes, and what is left; the sum is exact."""
    cells: list[int] = []
    upto = 0
    for part in parts:
        before = round(width * min(upto, whole) / whole)
        upto += max(part, 0)
        cells.append(round(width * min(upto, whole) / whole) - before)
    return [*cells, width - sum(cells)]


def _ansi(reason: str) -> str:
    """Return the colour of a reason, as reports have it; dark ones as grey, to be seen."""
    try:
        colour = TABLE[PendingReason(reason)].colour
    except ValueError:
        return GREY
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return GREY if red + green + blue < 120 else f"\x1b[38;2;{red};{green};{blue}m"
