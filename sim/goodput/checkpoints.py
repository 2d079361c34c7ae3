"""How often to save a checkpoint: by formula, and by simulation to check the formula.

Young's interval is sqrt(2 save mtbf) (CACM 17(9), 1974). Daly's (Future Generation Computer
Systems 22(3), 2006) is exact to a higher order, and comes with the expected run time, equation 20.
Both assume independent failures at a constant rate, and that work stops during a save.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1, isfinite, sqrt
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter
from numpy.typing import NDArray

from scheduler import whole
from sim.engines.costed import CostedSimulation
from sim.engines.workload import Workload
from sim.report.pictures import STYLE
from sim.report.wording import duration, exact, number, percent
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig
from sim.schema.costs import STREAM, Costs, Interrupt, Kind, Quantity

#: intervals simulated: so many, from and to these multiples of the formula's
POINTS, LOW, HIGH = 17, 1 / 4, 4.0
#: round intervals that an axis may show
TICKS_S = tuple(
    n * unit for unit, steps in ((1, (0.1, 0.2, 0.5, 1, 2, 5, 10, 30)), (60, (1, 2, 5, 10, 20, 40)),
                                 (3600, (1, 2, 4, 8)), (86400, (1, 2, 5, 10, 20, 50)))
    for n in steps
)  # fmt: skip
#: the formulas lose their footing where a save takes this part of the time between failures
LONG_SAVE_RATIO = 0.1
AGREES_RATIO = 0.15
#: failures are drawn for so many times the wall time that the formula expects
SLACK = 2.0


@dataclass(frozen=True, slots=True)
class Question:
    """A job and what happens to it."""

    mtbf_s: float  #: mean time between failures of the job
    save_s: float  #: standing still for a checkpoint, which then is safe
    restore_s: float  #: from a failure until steps go on
    work_s: float  #: to do
    seed: int = 0
    #: of the gamma distribution of the times between failures: 1 is memoryless, less is bursts
    shape: float = 1.0

    def check(self) -> None:
        """Raise ValueError if a value is impossible."""
        for name in ("mtbf_s", "save_s", "work_s", "shape"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; give more than 0")
        if not (isfinite(self.restore_s) and 0 <= self.restore_s < self.mtbf_s * 3):
            raise ValueError(
                f"restore_s is {self.restore_s:g}; give 0 or more, and less than three times the "
                f"mean time between failures ({self.mtbf_s:g} s), or hardly any work is done"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give 0 or more")
        if self.work_s < 20 * self.mtbf_s:
            raise ValueError(
                f"work_s is {self.work_s:g}, {self.work_s / self.mtbf_s:.3g} times the mean time "
                "between failures; simulate at least 20 times as much, or the result is mostly "
                "chance"
            )


def young_s(save_s: float, mtbf_s: float) -> float:
    """Return the work between checkpoints by Young."""
    return sqrt(2.0 * save_s * mtbf_s)


def daly_s(save_s: float, mtbf_s: float) -> float:
    """Return the work between checkpoints by Daly, equation 37."""
    if save_s >= 2.0 * mtbf_s:
        return mtbf_s
    ratio = save_s / (2.0 * mtbf_s)
    return young_s(save_s, mtbf_s) * (1.0 + sqrt(ratio) / 3.0 + ratio / 9.0) - save_s


def expected_goodput(interval_s: float, save_s: float, restore_s: float, mtbf_s: float) -> float:
    """Return work over expected wall time by Daly, equation 20, for a long job."""
    lost = exp(restore_s / mtbf_s) * expm1((interval_s + save_s) / mtbf_s)
    return interval_s / (mtbf_s * lost)


@dataclass(frozen=True, slots=True)
class Answer:
    """What formula and simulation say."""

    question: Question
    young_s: float
    daly_s: float
    sweep: pd.DataFrame  #: interval_s, goodput_ratio (simulated), expected_ratio, num_failures
    best_s: float  #: the simulated optimum

    @property
    def off_ratio(self) -> float:
        """How far the simulated optimum is from Daly's."""
        return self.best_s / self.daly_s - 1.0

    def expected(self, interval_s: float) -> float:
        """Return the goodput that the formula expects."""
        asked = self.question
        return expected_goodput(interval_s, asked.save_s, asked.restore_s, asked.mtbf_s)


def check(question: Question) -> Answer:
    """Simulate a sweep of intervals against the same failures, and find the best."""
    best_s = daly_s(question.save_s, question.mtbf_s)
    failures_s = _failures(question)
    rows = []
    for interval_s in (best_s * np.geomspace(LOW, HIGH, POINTS)).tolist():
        expected = expected_goodput(
            interval_s, question.save_s, question.restore_s, question.mtbf_s
        )
        soon = failures_s < SLACK * question.work_s / expected
        wall_s, num_failures = _simulate(question, interval_s, failures_s[soon])
        rows.append((interval_s, question.work_s / wall_s, expected, num_failures))
    sweep = pd.DataFrame(
        rows, columns=["interval_s", "goodput_ratio", "expected_ratio", "num_failures"]
    )
    return Answer(
        question=question,
        young_s=young_s(question.save_s, question.mtbf_s),
        daly_s=best_s,
        sweep=sweep,
        best_s=_optimum(sweep),
    )


def _failures(question: Question) -> NDArray[np.float64]:
    """Return times of failure, the same for every interval."""
    random = np.random.default_rng(np.random.SeedSequence(question.seed, spawn_key=(STREAM,)))
    mean, shape = question.mtbf_s, question.shape
    best_s = daly_s(question.save_s, mean)
    worst = min(
        expected_goodput(best_s * at, question.save_s, question.restore_s, mean)
        for at in (LOW, HIGH)
    )
    number_of = int(2 * SLACK * question.work_s / worst / mean) + 1
    times_s: NDArray[np.float64] = np.cumsum(random.gamma(shape, mean / shape, number_of))
    return times_s


def _simulate(
    question: Question, interval_s: float, failures_s: NDArray[np.float64]
) -> tuple[float, int]:
    """Return wall time and failures of one job on a node of its own."""
    job = pd.DataFrame(
        {"job": ["job"], "submit_s": [0.0], "duration_s": [question.work_s], "gpus": [1]}
    )
    costs = Costs(
        save_interval_s=interval_s,
        save_stall_s=Quantity(p50=question.save_s),
        startup_s=Quantity(p50=question.restore_s),
    )
    cuts = tuple(Interrupt(job="job", kind=Kind.KILL, at_s=at_s) for at_s in failures_s.tolist())
    config = RunConfig(costs=costs, interrupt=cuts, seed=question.seed)
    simulation = CostedSimulation(Workload(job), Cluster.uniform(1, 1).build(), config, [])
    simulation.simulate()
    end_s = simulation.attempts.columns().end_s
    # the first start restores nothing
    return float(end_s[-1]) - question.restore_s, len(end_s) - 1


def _optimum(sweep: pd.DataFrame) -> float:
    """Return where a cubic through the logarithms of interval and of time lost is lowest."""
    x = np.log(sweep["interval_s"].to_numpy(np.float64))
    lost = np.log(1.0 / sweep["goodput_ratio"].to_numpy(np.float64) - 1.0)
    centre = float(x.mean())
    fitted = np.polynomial.Polynomial.fit(x - centre, lost, 3)
    grid = np.linspace(x[0], x[-1], 4001) - centre
    return exp(float(grid[int(np.argmin(fitted(grid)))]) + centre)


def answer_lines(found: Answer) -> list[str]:
    """Return the answer in a few lines."""
    asked = found.question
    simulated = float(np.interp(found.daly_s, found.sweep["interval_s"],
                                found.sweep["goodput_ratio"]))  # fmt: skip
    failures = int(found.sweep["num_failures"].min())
    lines = [
        f"save every   {duration(found.daly_s)} of work (Daly); Young's formula says "
        f"{duration(found.young_s)}",
        f"goodput      {percent(found.expected(found.daly_s))} expected by formula, "
        f"{percent(simulated)} simulated over {exact(failures)} failures",
        f"simulated    the best interval is {duration(found.best_s)}, "
        f"{100 * found.off_ratio:+.1f} % from Daly's",
    ]
    if asked.save_s > LONG_SAVE_RATIO * asked.mtbf_s:
        lines.append(
            f"note         a save of {duration(asked.save_s)} is long against "
            f"{duration(asked.mtbf_s)} between failures: Young's formula does not hold there"
        )
    if abs(found.off_ratio) > AGREES_RATIO:
        lines.append(
            "note         simulation and formula disagree: failures do not follow the formula's "
            "assumptions, or too few were simulated (--days)"
        )
    return lines


def write(found: Answer, out: Path) -> Path:
    """Write `checkpoint.png`, `.svg` and the table of the sweep; return the picture's path."""
    out.mkdir(parents=True, exist_ok=True)
    with whole.replacing(out / "checkpoint.csv") as part:
        found.sweep.to_csv(part, index=False)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        plot(found, figure.add_subplot())
        with whole.replacing(out / "checkpoint.png") as part:
            figure.savefig(part, dpi=150, metadata={"Software": None})
        with whole.replacing(out / "checkpoint.svg") as part:
            figure.savefig(part, metadata={"Date": None, "Creator": None})
    return out / "checkpoint.png"


def plot(found: Answer, ax: Axes) -> None:
    """Draw goodput against the interval, with the optimum of formula and simulation."""
    sweep = found.sweep
    grid = np.geomspace(sweep["interval_s"].iloc[0], sweep["interval_s"].iloc[-1], 200)
    expected = [found.expected(float(at)) for at in grid]
    ax.plot(grid, expected, color="#0b3c6f", linewidth=1.4)
    ax.plot(sweep["interval_s"], sweep["goodput_ratio"], "o", color="#b3440e", markersize=5)
    ax.set_xscale("log")
    low = min(float(sweep["goodput_ratio"].min()), min(expected))
    high = max(float(sweep["goodput_ratio"].max()), max(expected))
    room = (high - low) or 0.01
    ax.set_ylim(low - 0.05 * room, high + 0.28 * room)
    marks = [
        (found.young_s, "Young", "#4b4b4b", (0, (1, 1.5))),
        (found.daly_s, "Daly", "#0b3c6f", "-"),
        (found.best_s, "simulated", "#b3440e", (0, (4, 1.5))),
    ]
    # right of the optimum the curves leave room for one label below the other
    for line, (at_s, label, color, dashes) in enumerate(sorted(marks)):
        ax.axvline(at_s, color=color, linestyle=dashes, linewidth=1.2)
        ax.annotate(f"{label} {duration(at_s)}", (at_s, high + (0.22 - 0.075 * line) * room),
                    (found.daly_s * 1.45, high + (0.22 - 0.075 * line) * room), color=color,
                    va="center", fontsize=9,
                    arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6})  # fmt: skip
    at = len(grid) // 9
    ax.annotate("formula", (float(grid[at]), expected[at]), xytext=(8, -12),
                textcoords="offset points", color="#0b3c6f")  # fmt: skip
    last = sweep.iloc[-3]
    ax.annotate("simulated", (last["interval_s"], last["goodput_ratio"]), xytext=(6, 6),
                textcoords="offset points", color="#b3440e")  # fmt: skip
    ticks_s = [at for at in TICKS_S if grid[0] * 0.9 <= at <= grid[-1] * 1.1]
    ax.set_xticks(ticks_s, [_round(at) for at in ticks_s])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1 if room < 0.05 else 0))
    ax.set_xlabel("work between two checkpoints (logarithmic)")
    ax.set_ylabel("goodput")
    ax.set_title(_title(found), loc="left", fontsize=10)


def _round(seconds: float) -> str:
    """Return a round duration: 10 s, 5 min, 2 h."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _title(found: Answer) -> str:
    asked = found.question
    bursts = "" if asked.shape == 1.0 else f" (in bursts, shape {number(asked.shape)})"
    return (
        f"Saving every {duration(found.daly_s)} gives {percent(found.expected(found.daly_s))} "
        f"goodput when one save takes {duration(asked.save_s)}\nand failures come every "
        f"{duration(asked.mtbf_s)}{bursts}; the simulated optimum is "
        f"{100 * abs(found.off_ratio):.0f} % {'longer' if found.off_ratio > 0 else 'shorter'}"
    )
