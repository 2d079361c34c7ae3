"""Where the wall time of a training run went, from the goodput log of its trainer.

Each attempt of a run covers the time from its start to the start of the next, and that time is
split completely into the parts below. Their names follow Google's ml-goodput-measurement, so
that figures can be compared. Durations inside an attempt come from the monotonic clock of its
rank 0; between attempts there is only the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scheduler import whole
from sim.goodput.log import Event, Life, Log, read
from sim.report.parts import PART_LABELS, PART_STYLE, Part
from sim.report.wording import aligned, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class AttemptSplit:
    """One attempt, with the time until the next one starts."""

    run_id: str
    attempt: int
    reason: str  #: finished, preempted, failed, lost (no rank could say) or running
    begin_unix_s: float
    from_step: int | None  #: None if it never came to a step
    to_step: int
    kept_steps: int
    lost_steps: int
    wall_s: float
    seconds: Mapping[Part, float]  #: adds up to `wall_s`


@dataclass(frozen=True, slots=True)
class Split:
    """All attempts of the logs, and what was odd about them."""

    attempts: tuple[AttemptSplit, ...]
    notes: tuple[str, ...] = ()

    @property
    def wall_s(self) -> float:
        """From the first start to the last end, summed over runs."""
        return sum(attempt.wall_s for attempt in self.attempts)

    @property
    def seconds(self) -> dict[Part, float]:
        """Seconds by part over all attempts."""
        return {part: sum(one.seconds[part] for one in self.attempts) for part in Part}

    @property
    def lost_steps(self) -> int:
        """Steps that were run and rolled back."""
        return sum(attempt.lost_steps for attempt in self.attempts)

    @property
    def goodput_ratio(self) -> float:
        """Productive time over wall time, as if the GPUs were held throughout."""
        return self.seconds[Part.PRODUCTIVE] / self.wall_s if self.wall_s > 0 else np.nan

    def frame(self) -> pd.DataFrame:
        """Return a tidy table: run_id, attempt, reason, part, seconds."""
        return pd.DataFrame(
            [
                (one.run_id, one.attempt, one.reason, part.value, one.seconds[part])
                for one in self.attempts
                for part in Part
            ],
            columns=["run_id", "attempt", "reason", "part", "seconds"],
        )

    def table(self) -> str:
        """Return a text table in seconds, one line per attempt, their sum and its shares."""
        shown = [part for part in PART_STYLE if self.seconds[part] > 0 or part is Part.PRODUCTIVE]
        heads = [PART_LABELS[part] for part in shown]
        rows = [("attempt", "end", "steps", "wall", *heads)]
        several = len({one.run_id for one in self.attempts}) > 1
        for one in self.attempts:
            steps = f"{one.from_step or 0}-{one.to_step}"
            name = f"{one.run_id} {one.attempt}" if several else str(one.attempt)
            cells = (number(one.seconds[part]) for part in shown)
            rows.append((name, one.reason, steps, number(one.wall_s), *cells))
        total = self.seconds
        kept = sum(one.kept_steps for one in self.attempts)
        cells = (number(total[part]) for part in shown)
        rows.append(("all", "", f"{kept} kept", number(self.wall_s), *cells))
        if self.wall_s > 0:
            shares = (percent(total[part] / self.wall_s) for part in shown)
            rows.append(("share", "", f"{self.lost_steps} lost", "100 %", *shares))
        lines = [*aligned(rows, left=(0, 1)), *self.notes]
        return "\n".join(["goodput by attempt, seconds", *lines])


def split(paths: Iterable[str | Path]) -> Split:
    """Split the wall time of goodput logs; see `sim.goodput.log.read` for errors."""
    return split_log(read(paths))


def split_log(log: Log) -> Split:
    """Split the wall time of attempts that were read."""
    notes = [f"{place}: incomplete line, left out; its process was killed" for place in log.torn]
    tellings = [Telling(life) for life in log.lives]
    usual = mean_step(tellings)
    attempts = []
    for at, telling in enumerate(tellings):
        later = [one for one in tellings[at + 1 :] if one.life.run_id == telling.life.run_id]
        telling.settle(usual, is_last=not later)
        attempts.append(_attempt(telling, later, notes))
    return Split(tuple(attempts), tuple(notes))


def _attempt(telling: Telling, later: Sequence[Telling], notes: list[str]) -> AttemptSplit:
    life = telling.life
    seconds = dict(telling.seconds)
    if later:
        gap_s = later[0].begin_unix_s - telling.end_unix_s
        if gap_s < 0:
            notes.append(
                f"run {life.run_id!r}: attempt {later[0].life.attempt} starts {-gap_s:.3g} s "
                f"before attempt {life.attempt} ends: the clock was set between them; the "
                "overlap counts as no time"
            )
        seconds[Part.RECOVERY] += max(0.0, gap_s)
    resumed = [one.from_step for one in later if one.from_step is not None]
    cutoff = float(min(resumed, default=inf))
    if not later and life.reason in ("failed", "preempted"):
        cutoff = telling.committed_step
    lost = 0
    for one in telling.stretches:
        lost_here = int(max(0, one.hi - max(one.lo, cutoff)))
        share = lost_here / (one.hi - one.lo) if one.hi > one.lo else float(one.hi > cutoff)
        seconds[Part.LOST_WORK] += share * one.stepping_s
        seconds[Part.DATA_WAIT] += (1.0 - share) * one.data_wait_s
        seconds[Part.PRODUCTIVE] += (1.0 - share) * (one.stepping_s - one.data_wait_s)
        lost += lost_here
    done = telling.to_step - (telling.from_step or 0)
    return AttemptSplit(
        run_id=life.run_id,
        attempt=life.attempt,
        reason="running" if telling.is_running else life.reason,
        begin_unix_s=telling.begin_unix_s,
        from_step=telling.from_step,
        to_step=telling.to_step,
        kept_steps=done - lost,
        lost_steps=lost,
        wall_s=sum(seconds.values()),
        seconds=seconds,
    )


#: time of a step, and its part that is a wait for data; None if no interval was logged
Step = tuple[float, float] | None


@dataclass(slots=True)
class Stretch:
    """Steps `lo` to `hi` and the time they took."""

    lo: int
    hi: int
    stepping_s: float  #: with waits for data, without stalls
    data_wait_s: float = 0.0
    is_logged: bool = True  #: not if it is only known from an exit


class Telling:
    """One attempt as consecutive intervals on the clock of its rank 0.

    What a step usually takes may only be known from other lives, so the first step and the steps
    after the last logged interval are settled afterwards.
    """

    def __init__(self, life: Life) -> None:
        self.life = life
        self.seconds: dict[Part, float] = dict.fromkeys(Part, 0.0)
        self.stretches: list[Stretch] = []
        self.first: Stretch | None = None  #: also the first of `stretches`
        self.from_step: int | None = None
        self.committed_step = 0
        self.is_running = False
        self.first_extra_s: float | None = None  #: of the first step over others
        self.tail_s = 0.0  #: from the last step to the last word, without saves
        starts = [life.at_s(found[0]) - found[0].before_s for found in life.ranks.values()]
        self.begin_s = self._upto_s = min(starts)
        self._stalled_s = 0.0  #: by saves since `_upto_s`
        self._save_end_s = -inf
        for event in life.teller:
            match event.event:
                case "restore":
                    self._restore(event)
                case "first_step":
                    self._first_step(event)
                case "steps":
                    self._steps(event)
                case "save_staged":
                    self._stall(event, event.stall_s or 0.0)
                case "save_committed":
                    self._commit(event)

    @property
    def begin_unix_s(self) -> float:
        """When its first process started, by the wall clock at that time."""
        first = self.life.teller[0]
        return first.t_unix_s - (first.t_mono_s - self.begin_s)

    @property
    def end_unix_s(self) -> float:
        """Time of the last event, by the wall clock at that time."""
        return self.life.last.t_unix_s

    @property
    def to_step(self) -> int:
        """Steps done when it ended, as far as is known."""
        return self.stretches[-1].hi if self.stretches else self.from_step or 0

    def _restore(self, event: Event) -> None:
        self.from_step = event.from_step
        self.committed_step = event.from_step or 0
        self._add(Part.STARTUP, event.t_mono_s - (event.dur_s or 0.0))
        self._add(Part.RESTORE, event.t_mono_s)

    def _first_step(self, event: Event) -> None:
        self._add(Part.STARTUP, event.t_mono_s - (event.dur_s or 0.0))
        lo = self.from_step = self.from_step or 0
        took_s = max(0.0, event.t_mono_s - self._upto_s)
        self.first = Stretch(lo, lo + 1, took_s)
        self.stretches.append(self.first)
        self._upto_s += took_s

    def _steps(self, event: Event) -> None:
        hi, num_steps, dur_s = event.step or 0, event.num_steps or 0, event.dur_s or 0.0
        if not self.stretches:  # no first_step was written: what came before these is start-up
            self._add(Part.STARTUP, event.t_mono_s - dur_s - self._stalled_s)
            if self.from_step is None:
                self.from_step = hi - num_steps
        lo = min(max(hi - num_steps, self.to_step), hi)
        # `dur_s` may contain the stalls of saves or not: the time since the last mark settles it.
        window_s = max(0.0, event.t_mono_s - self._upto_s)
        stalled_s = self._take_stall(window_s)
        stepping_s = min(dur_s, window_s - stalled_s)
        wait_s = min(event.data_wait_s or 0.0, stepping_s)
        self.stretches.append(Stretch(lo, hi, stepping_s, wait_s))
        self.seconds[Part.OTHER] += window_s - stalled_s - stepping_s
        self._upto_s += window_s

    def _stall(self, event: Event, stall_s: float) -> None:
        begin_s = max(self._upto_s, self._save_end_s, event.t_mono_s - stall_s)
        self._stalled_s += max(0.0, event.t_mono_s - begin_s)
        self._save_end_s = max(self._save_end_s, event.t_mono_s)

    def _take_stall(self, window_s: float) -> float:
        stalled_s = min(self._stalled_s, window_s)
        self.seconds[Part.SAVE_STALL] += stalled_s
        self._stalled_s = 0.0
        return stalled_s

    def _commit(self, event: Event) -> None:
        if event.mode == "sync":  # the loop stood still until then
            self._stall(event, event.dur_s or 0.0)
        self.committed_step = max(self.committed_step, event.step or 0)

    def settle(self, usual: Step, *, is_last: bool) -> None:
        """Tell the first step apart from start-up, and the time after the last logged interval."""
        step_s, wait_s = mean_step([self]) or usual or (nan, nan)
        if self.first is not None and not isnan(step_s):
            took_s = self.first.stepping_s
            self.first.stepping_s = min(took_s, step_s)
            self.first_extra_s = took_s - self.first.stepping_s
            self.seconds[Part.STARTUP] += self.first_extra_s
        life = self.life
        end_s = max(self._upto_s, life.at_s(life.last))
        left_s = end_s - self._upto_s
        left_s -= self._take_stall(left_s)
        done = max((e.step for e in life.exits if e.step is not None), default=0)
        unlogged = done - self.to_step
        if self.stretches and unlogged > 0 and not isnan(step_s):
            # An exit tells how many steps were done since then, not how long they took.
            tail_s = min(left_s, unlogged * step_s)
            waited_s = tail_s * wait_s / step_s if step_s else 0.0
            lo = self.to_step
            self.stretches.append(Stretch(lo, lo + unlogged, tail_s, waited_s, is_logged=False))
            left_s -= tail_s
        committed = [e.committed_step for e in life.exits if e.committed_step is not None]
        self.committed_step = max([self.committed_step, *committed])
        self.tail_s = left_s
        self.is_running = is_last and life.reason == "lost"
        if not self.stretches:
            self.seconds[Part.STARTUP] += left_s
        elif life.reason == "finished" or self.is_running:
            self.seconds[Part.OTHER] += left_s
        else:
            self.seconds[Part.RECOVERY] += left_s

    def _add(self, part: Part, upto_s: float) -> None:
        self.seconds[part] += max(0.0, upto_s - self._upto_s)
        self._upto_s = max(self._upto_s, upto_s)


def mean_step(tellings: Iterable[Telling]) -> Step:
    """Return the mean time of a step within logged intervals, and its wait for data."""
    stretches = [one for told in tellings for one in told.stretches if one is not told.first]
    logged = [one for one in stretches if one.is_logged]
    steps = sum(one.hi - one.lo for one in logged)
    if not steps:
        return None
    took_s = sum(one.stepping_s for one in logged)
    return took_s / steps, sum(one.data_wait_s for one in logged) / steps


def plot_split(table: pd.DataFrame, ax: Axes) -> None:
    """Draw one stacked bar per attempt and one for all; `table` is `Split.frame()`.

    The title is the answer: the goodput, and what took most of the rest.
    """
    wide = table.pivot_table(
        index=["run_id", "attempt"], columns="part", values="seconds", aggfunc="sum", sort=False
    )
    several = wide.index.get_level_values("run_id").nunique() > 1
    names = [f"{run} {n}" if several else f"attempt {n}" for run, n in wide.index]
    total = wide.sum()
    if len(wide) > 1:
        wide = pd.concat([wide, total.to_frame().T])
        names.append("all")
    at = np.arange(len(wide))[::-1]
    left = np.zeros(len(wide))
    longest_s = float(wide.sum(axis=1).max())
    for part, (fill, hatch) in PART_STYLE.items():
        width = wide[part.value].to_numpy(np.float64)
        if width.sum() < 0.002 * float(total.sum()):
            continue
        ax.barh(at, width, left=left, height=0.66, color=fill, hatch=hatch, edgecolor="white",
                linewidth=0.4, label=PART_LABELS[part])  # fmt: skip
        for y, x, w in zip(at, left, width, strict=True):
            if w > 0.06 * longest_s:
                ax.text(x + w / 2, y, number(w), ha="center", va="center", fontsize=8,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        left += width
    ax.set_yticks(at, names)
    ax.set_xlim(0, longest_s * 1.02)
    ax.set_xlabel("wall time, s")
    ax.grid(visible=False, axis="y")
    rest = total.drop(Part.PRODUCTIVE.value).sort_values(ascending=False)
    wall_s = float(total.sum())
    title = f"{percent(float(total[Part.PRODUCTIVE.value]) / wall_s)} of the time was productive"
    if rest.iloc[0] > 0:
        name = PART_LABELS[Part(str(rest.index[0]))]
        title += f"; most of the rest went into {name} ({percent(float(rest.iloc[0]) / wall_s)})"
    ax.set_title(title, loc="left", fontsize=10)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4, frameon=False)


def save_picture(found: Split, path: str | Path) -> None:
    """Write `plot_split` as PNG, SVG or what else the name's ending says."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from sim.report.pictures import STYLE

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.9 + 0.4 * len(found.attempts)), layout="constrained")
        plot_split(found.frame(), figure.add_subplot())
        with whole.replacing(path) as part:
            metadata = {"Date": None} if part.suffix == ".svg" else None  # equal logs, equal bytes
            figure.savefig(part, dpi=150, metadata=metadata)
