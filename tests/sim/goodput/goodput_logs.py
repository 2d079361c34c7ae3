"""Goodput logs of a made-up trainer whose every second is known."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from sim.report.parts import Part

Seconds = dict[Part, float]


@dataclass
class Job:
    """A job on a made-up clock; `wall_s` is the truth, `mono_s` and `unix_s` are what is logged."""

    path: Path
    run_id: str = "run"
    ranks: int = 2
    log_every: int = 10
    save_every: int = 25
    step_s: float = 0.5
    data_wait_s: float = 0.02
    stall_s: float = 0.3
    commit_s: float = 0.7
    stall_inside: bool = False  #: the time of steps that is logged contains stalls of saves
    now_s: float = 1e9
    attempt: int = 0
    committed: int = 0
    truth: Seconds = field(default_factory=lambda: dict.fromkeys(Part, 0.0))
    ran: list[tuple[int, float, float]] = field(default_factory=list)  #: step, stepping, wait
    jump_s: float = 0.0  #: how far the wall clock was set forward
    mono_zero_s: float = 0.0
    lost_steps: int = 0

    def write(self, event: str, rank: int = 0, **fields: object) -> None:
        line = {
            "v": 1,
            "run_id": self.run_id,
            "attempt": self.attempt,
            "rank": rank,
            "t_unix_s": self.now_s + self.jump_s,
            # each process has a zero of its own, as on nodes that booted at different times
            "t_mono_s": self.now_s - self.mono_zero_s + 1000.0 * rank,
            "event": event,
            **fields,
        }
        with self.file(rank).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def file(self, rank: int = 0) -> Path:
        return self.path / f"{self.run_id}-{self.attempt}-{rank}.jsonl"

    def spend(self, part: Part, seconds: float) -> None:
        self.truth[part] += seconds
        self.now_s += seconds

    def start(self, startup_s: float = 2.0, restore_s: float = 0.4, compile_s: float = 1.0) -> None:
        """Begin an attempt and run its first step."""
        self.mono_zero_s = self.now_s - 50.0
        launch_s, rest_s = 0.25 * startup_s, 0.75 * startup_s
        self.spend(Part.STARTUP, launch_s)
        for rank in range(self.ranks):
            self.write("process_start", rank, dur_s=0.6 * launch_s, launcher_s=0.4 * launch_s)
        self.spend(Part.STARTUP, rest_s)
        for rank in range(self.ranks):
            self.write("pg_ready", rank, dur_s=rest_s, world_size=self.ranks, backend="gloo")
        if self.committed:
            self.spend(Part.RESTORE, restore_s)
            self.write("restore", from_step=self.committed, bytes=1000, dur_s=restore_s)
        self._roll_back()
        self.step = self.committed
        self.since, self.since_dur_s, self.since_wait_s = 0, 0.0, 0.0
        self.spend(Part.STARTUP, compile_s)
        self._one_step(wait_s=0.0)
        self.write("first_step", step=self.step, dur_s=compile_s + self.step_s)
        self.since, self.since_dur_s, self.since_wait_s = 0, 0.0, 0.0

    def _roll_back(self) -> None:
        for step, stepping_s, _ in self.ran:
            if step > self.committed:
                self.truth[Part.LOST_WORK] += stepping_s
                self.lost_steps += 1
        self.ran = [row for row in self.ran if row[0] <= self.committed]

    def _one_step(self, wait_s: float) -> None:
        self.step += 1
        self.now_s += self.step_s
        self.ran.append((self.step, self.step_s, wait_s))
        self.since += 1
        self.since_dur_s += self.step_s
        self.since_wait_s += wait_s

    def train(self, until: int) -> None:
        """Run steps, log and save on the way."""
        while self.step < until:
            self._one_step(self.data_wait_s)
            if self.step % self.save_every == 0:
                self.save(self.step)
            if self.step % self.log_every == 0:
                self.flush()

    def save(self, step: int) -> None:
        self.spend(Part.SAVE_STALL, self.stall_s)
        if self.stall_inside:
            self.since_dur_s += self.stall_s
        self.write("save_staged", step=step, stall_s=self.stall_s, bytes=1000, mode="async")
        self.write("save_committed", step=step, dur_s=self.commit_s, bytes=1000, mode="async")
        self.committed = step

    def flush(self) -> None:
        """Log the steps since the last time."""
        if self.since:
            self.write(
                "steps",
                step=self.step,
                num_steps=self.since,
                dur_s=self.since_dur_s,
                max_step_s=self.step_s,
                data_wait_s=self.since_wait_s,
                collective_wait_s=0.0,
                tokens=1,
            )
        self.since, self.since_dur_s, self.since_wait_s = 0, 0.0, 0.0

    def preempt(self, drain_s: float = 1.5, gap_s: float = 3.0) -> None:
        """All ranks agree to stop, save and leave; the next attempt may begin after the gap."""
        self.write("stop_signal", signum=15, step=self.step)
        self.flush()
        self.write("stop_agreed", step=self.step)
        self.save(self.step)
        self.spend(Part.RECOVERY, drain_s)
        self._exit("preempted")
        self._gap(gap_s)

    def kill(self, detect_s: float = 2.0, gap_s: float = 3.0, *, everyone: bool = False) -> None:
        """The last rank dies between steps; the others notice after `detect_s`."""
        self.spend(Part.RECOVERY, detect_s)
        if not everyone:
            self._exit("failed", ranks=self.ranks - 1)
        self._gap(gap_s)

    def finish(self, shutdown_s: float = 0.6) -> None:
        self.flush()
        self.save(self.step)
        self.spend(Part.OTHER, shutdown_s)
        self._exit("finished")
        for _, stepping_s, wait_s in self.ran:
            self.truth[Part.PRODUCTIVE] += stepping_s - wait_s
            self.truth[Part.DATA_WAIT] += wait_s

    def _exit(self, reason: str, ranks: int | None = None) -> None:
        for rank in range(self.ranks if ranks is None else ranks):
            self.write("exit", rank, step=self.step, reason=reason, committed_step=self.committed)

    def _gap(self, gap_s: float) -> None:
        self.spend(Part.RECOVERY, gap_s)
        self.attempt += 1
