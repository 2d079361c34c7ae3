"""The goodput log: one JSON object per line, one file per rank, appended to by every attempt.

Rank 0 logs everything; the others log their start, stop and exit. Every line has `v`, `run_id`,
`attempt`, `rank`, `t_unix_s`, `t_mono_s`, `event` and `step`, the number of steps done. Durations
come from the monotonic clock; an event is written at the end of what it describes:

    process_start    dur_s since the system started the process; launcher_s before that
    rendezvous_done  dur_s since process_start: all ranks have met
    pg_ready         dur_s since rendezvous_done; world_size, backend
    restore          from_step, bytes, dur_s
    first_step       dur_s, with what only a first step does
    steps            num_steps, dur_s (without stalls of saves), max_step_s, data_wait_s,
                     collective_wait_s, tokens; loss (rank 0's), grad_norm, mfu where known
    save_staged      stall_s: the loop stood still; bytes, mode
    save_committed   dur_s since the save began; bytes, mode
    save_failed      error
    stop_signal      signum; stop_agreed: after `step` all ranks stop
    straggler        slow_rank, score
    exit             reason (finished, preempted, failed), committed_step; error, state_sha256
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

VERSION = 1
#: what ranks other than 0 tell
PRESENCE = ("process_start", "pg_ready", "stop_signal", "exit")


class _Numbered(msgspec.Struct):
    """What a log's next attempt has to know of its lines."""

    attempt: int

    @classmethod
    def of(cls, line: bytes, path: Path) -> _Numbered:
        try:
            return msgspec.json.decode(line, type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(
                f"{str(path)!r} has a line that is not an event: {line[:60]!r}... ({error}); "
                "remove that line, or give another folder"
            ) from None


class GoodputLog:
    """Writes events of one rank; a full disk loses events but does not stop training.

    A line is one write, so a killed process tears at most the last.

    The attempt's number is known only once the ranks have met; until `agree`, lines are buffered.
    """

    def __init__(self, folder: Path, run_id: str, rank: int) -> None:
        self.path = folder / f"rank_{rank:05d}.jsonl"
        self.step = 0  #: steps done; goes into every line that does not say otherwise
        self.attempt: int | None = None
        self._head = {"v": VERSION, "run_id": run_id}
        self._rank = rank
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._has_failed = False
        folder.mkdir(parents=True, exist_ok=True)
        self.own_attempt = self._count_attempts()
        self._mark_s = time.monotonic()
        self._file: int | None = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _count_attempts(self) -> int:
        """Return the number after the highest attempt in this rank's file, from 1 on."""
        if not self.path.exists():
            return 1
        lines = self.path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # its process was killed; end the torn line
            os.truncate(self.path, sum(map(len, lines[:-1])))
            lines = lines[:-1]
        return 1 + max((_Numbered.of(line, self.path).attempt for line in lines), default=0)

    def agree(self, attempt: int) -> None:
        """Number this attempt and write the buffered lines."""
        with self._lock:
            self.attempt = attempt
            for line in self._waiting:
                self._append(line)
            self._waiting.clear()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; safe to call from any thread, nothing once closed.

        Given times take precedence over now.
        """
        if self._rank and event not in PRESENCE:
            return
        line = {"t_unix_s": time.time(), "t_mono_s": time.monotonic(), "event": event}
        line |= {"step": self.step, **fields}
        with self._lock:
            if self.attempt is None:
                self._waiting.append(line)
            elif self._file is not None:
                self._append(line)

    def mark(self, event: str, **fields: Any) -> None:
        """Append one event with `dur_s` since the previous mark."""
        now_s = time.monotonic()
        self.write(event, dur_s=now_s - self._mark_s, **fields)
        self._mark_s = now_s

    def start(self, **fields: Any) -> None:
        """Append `process_start`; the time since the system made this process counts, too."""
        age_s = process_age_s("self") or 0.0
        launcher_s = process_age_s(str(os.getppid()))
        if launcher_s is not None:
            fields["launcher_s"] = max(0.0, launcher_s - age_s)
        self._mark_s = time.monotonic() - age_s
        self.mark("process_start", pid=os.getpid(), **fields)

    def _append(self, line: dict[str, Any]) -> None:
        known = self._head | {"attempt": self.attempt, "rank": self._rank}
        assert self._file is not None
        text = msgspec.json.encode(known | line) + b"\n"
        size = os.fstat(self._file).st_size
        error: OSError | str = "it is full"
        try:
            if os.write(self._file, text) == len(text):
                return
        except OSError as failed:
            error = failed
        os.ftruncate(self._file, size)  # half a line would spoil the next one
        if not self._has_failed:
            self._has_failed = True
            print(
                f"trainer: {str(self.path)!r} misses events, {line['event']} first: {error}; "
                "training continues",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Write the buffered lines, with this rank's own count of attempts."""
        if self.attempt is None:
            self.agree(self.own_attempt)
        with self._lock:  # a save in flight may still want to write
            if self._file is not None:
                os.close(self._file)
            self._file = None


def process_age_s(pid: str) -> float | None:
    """Return how long ago the system started a process; None where it does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    started_ticks = int(stat.rpartition(")")[2].split()[19])
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, since_boot_s - started_ticks / os.sysconf("SC_CLK_TCK"))
