"""Costs from goodput logs: what `muster run --costs` needs to know, as distributions.

The runs should have had the cluster to themselves: `recreate_s` is taken from the end of one
attempt to the start of the next, so a wait for capacity in between would be counted twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

from sim.goodput.log import Event, Log, read
from sim.goodput.split import Telling, mean_step
from sim.report.wording import aligned, number
from sim.schema.costs import Costs, Quantity

#: what each cost is, as it stands in the file
HOW = {
    "step_s": "mean over each logged interval of steps, waits for data included",
    "startup_s": "start of the first process to begin of the first step, without the restore",
    "restore_s": "reading the checkpoint that an attempt resumes from",
    "first_step_extra_s": "first step of an attempt, less the mean of its others",
    "save_stall_s": "time that steps paused for a periodic checkpoint",
    "save_commit_s": "begin of a periodic checkpoint to its commit",
    "final_save_s": "time that steps paused for the last checkpoint, at the end or after a stop "
    "signal",
    "shutdown_s": "last checkpoint of a finished attempt to the exit of its last rank",
    "stop_s": "first stop signal to the exit of the last rank, checkpoint included",
    "detect_s": "last step of an attempt that failed to the exit of its last rank",
    "recreate_s": "exit of the last rank to the start of the next attempt's first process",
}


def calibrate(paths: Iterable[str | Path]) -> Costs:
    """Return the costs that goodput logs show.

    Raises:
        ValueError: a log is missing or malformed, or has no step.
    """
    return calibrate_log(read(paths))


def calibrate_log(log: Log) -> Costs:
    """Return the costs of attempts that were read."""
    tellings = [Telling(life) for life in log.lives]
    usual = mean_step(tellings)
    if usual is None:
        raise ValueError(
            "the goodput logs have no interval of steps; give "
            "the log of rank 0 of a run that trained for longer than its log interval"
        )
    samples: dict[str, list[float]] = {name: [] for name in HOW}
    for at, telling in enumerate(tellings):
        later = [one for one in tellings[at + 1 :] if one.life.run_id == telling.life.run_id]
        telling.settle(usual, is_last=not later)
        for name, value in _samples(telling, later[0] if later else None):
            samples[name].append(max(0.0, value))
    runs = len({life.run_id for life in log.lives})
    ranks = sorted({len(life.ranks) for life in log.lives})
    return Costs(
        measured=f"{runs} run{'s' * (runs > 1)}, {len(log.lives)} attempts, "
        f"{', '.join(map(str, ranks))} ranks",
        save_interval_s=round(_save_interval(tellings) * usual[0], 4),
        **{name: Quantity.of(found, HOW[name]) for name, found in samples.items()},
    )


def _samples(telling: Telling, following: Telling | None) -> Iterator[tuple[str, float]]:
    """Yield name and value of every cost that one attempt shows."""
    life = telling.life
    for one in telling.stretches:
        if one is not telling.first and one.hi > one.lo and one.is_logged:
            yield "step_s", one.stepping_s / (one.hi - one.lo)
    for event in life.events("restore"):
        if event.from_step:
            yield "restore_s", event.dur_s or 0.0
    if telling.first is not None and telling.first_extra_s is not None:
        restore_s = sum(event.dur_s or 0.0 for event in life.events("restore"))
        began_s = life.events("first_step")[0].t_mono_s - (life.events("first_step")[0].dur_s or 0)
        yield "startup_s", began_s - telling.begin_s - restore_s
        yield "first_step_extra_s", telling.first_extra_s
    yield from _saves(telling)
    end_s = life.at_s(life.last)
    if life.reason == "finished":
        yield "shutdown_s", telling.tail_s
    if life.reason == "preempted":
        told = [e for found in life.ranks.values() for e in found if e.event == "stop_signal"]
        told = told or life.events("stop_agreed")
        if told:
            yield "stop_s", end_s - min(map(life.at_s, told))
    if life.reason == "failed" and telling.stretches:
        yield "detect_s", telling.tail_s
    if following is not None and life.reason in ("failed", "preempted"):
        yield "recreate_s", following.begin_unix_s - telling.end_unix_s


def _saves(telling: Telling) -> Iterator[tuple[str, float]]:
    periodic, last = _staged(telling)
    for event in periodic:
        yield "save_stall_s", event.stall_s or 0.0
    if last is not None:
        yield "final_save_s", last.stall_s or 0.0
    for event in telling.life.events("save_committed"):
        if last is None or event.step != last.step:
            yield "save_commit_s", event.dur_s or 0.0


def _staged(telling: Telling) -> tuple[list[Event], Event | None]:
    """Return the periodic checkpoints of an attempt, and the one made at its end."""
    staged = telling.life.events("save_staged")
    ends_well = telling.life.reason in ("finished", "preempted")
    if staged and ends_well and staged[-1].step == telling.to_step:
        return staged[:-1], staged[-1]
    return staged, None


def _save_interval(tellings: Iterable[Telling]) -> float:
    """Return the steps between periodic checkpoints, 0 if there were fewer than two."""
    apart: list[int] = []
    for telling in tellings:
        steps = [event.step for event in _staged(telling)[0] if event.step is not None]
        begin = [0] if not telling.from_step else []
        apart += [b - a for a, b in pairwise([*begin, *steps])]
    return float(median(apart)) if apart else 0.0


def table(costs: Costs) -> str:
    """Return a text table of costs in seconds."""
    rows: list[tuple[str, ...]] = [("cost", "samples", "p10", "p50", "p90", "p99")]
    for name, quantity in costs.quantities().items():
        knots = [number(value) for value in quantity.knots()[1:-1]]
        shown = knots if quantity.num_samples or quantity.p50 else ["–"] * 4
        rows.append((name, str(quantity.num_samples), *shown))
    rows.append(("save_interval_s", "", "", number(costs.save_interval_s), "", ""))
    return "\n".join(aligned(rows))
