"""Targets of capacity planning: a figure of a run and its limit."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
import numpy as np
import pandas as pd

from scheduler.core.times import DAY_S
from sim.report.omissions import never_lines
from sim.report.wording import duration, exact, number, percent
from sim.runs import metrics
from sim.runs.folder import RunResult
from sim.runs.left_out import unmet_requests
from sim.runs.metrics import Window, censored_quantiles, in_window
from sim.runs.steps import allocation_steps, count_quantiles, pending_steps

#: figures of the jobs that a target's `min_gpus` and `max_gpus` choose
_OF_JOBS = re.compile(r"(queueing_delay|jct)_p(\d{1,2})_s|(bounded_slowdown)_p(\d{1,2})")
_OF_PODS = re.compile(r"pending_pods_(?:p(\d{1,2})|(max)|(mean))")
_OF_GPUS = ("allocation_ratio", "useful_ratio")

KNOWN = (
    "queueing_delay_p<q>_s, jct_p<q>_s, bounded_slowdown_p<q>, pending_pods_p<q>, "
    "pending_pods_max, pending_pods_mean, allocation_ratio, useful_ratio (q from 1 to 99)"
)


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One figure and its limit: exactly one of `at_most` and `at_least`."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None
    min_gpus: int | None = None  #: only jobs of at least so many GPUs
    max_gpus: int | None = None  #: only jobs of at most so many GPUs

    def check(self, place: str) -> None:
        """Raise ValueError if the target makes no sense; `place` is the file it stands in."""
        what = f"target {self.metric!r} in {place}"
        of_jobs = _OF_JOBS.fullmatch(self.metric)
        of_gpus = self.metric in _OF_GPUS
        if not (of_jobs or of_gpus or _OF_PODS.fullmatch(self.metric)):
            raise ValueError(f"{what}: no such metric; choose among {KNOWN}")
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"{what}: give one of at_most and at_least")
        if self.at_least is not None and not of_gpus:
            raise ValueError(f"{what}: more of it is never better; give at_most")
        if not of_jobs and (self.min_gpus, self.max_gpus) != (None, None):
            raise ValueError(
                f"{what}: min_gpus and max_gpus choose jobs; this figure is not about jobs"
            )
        if (self.min_gpus or 0) > (self.max_gpus or np.inf):
            raise ValueError(f"{what}: min_gpus {self.min_gpus} is above max_gpus {self.max_gpus}")
        if not np.isfinite(self.limit):
            raise ValueError(f"{what}: the limit is {self.limit}; give a number")
        if of_gpus and not 0 <= self.limit <= 1:
            meant = f", such as {self.limit / 100:g} for {self.limit:g} %"
            raise ValueError(
                f"{what}: the limit is {self.limit:g}; it is a ratio: give 0 to 1"
                + (meant if 1 < self.limit <= 100 else "")
            )

    @property
    def limit(self) -> float:
        """The value that must not be exceeded."""
        limit = self.at_most if self.at_most is not None else self.at_least
        assert limit is not None
        return limit

    @property
    def wants_capacity(self) -> bool:
        """True if more capacity for the same jobs brings the figure nearer to its limit."""
        return self.at_most is not None

    def is_met(self, value: float) -> bool:
        """True if `value` meets the limit; a figure without any jobs to measure meets it."""
        if np.isnan(value):
            return True
        return value <= self.limit if self.at_most is not None else value >= self.limit

    def label(self) -> str:
        """Return the target's figure as text: p95 queueing delay of gangs up to 512 GPUs."""
        gangs = ""
        if self.min_gpus is not None and self.max_gpus is not None:
            gangs = f" of gangs of {exact(self.min_gpus)} to {exact(self.max_gpus)} GPUs"
        elif self.max_gpus is not None:
            gangs = f" of gangs up to {exact(self.max_gpus)} GPUs"
        elif self.min_gpus is not None:
            gangs = f" of gangs from {exact(self.min_gpus)} GPUs"
        match = re.fullmatch(r"(.*?)_(p\d+|max|mean)(?:_s)?", self.metric)
        if match:
            name = match[1].replace("_", " ").replace("jct", "JCT")
            return f"{match[2]} {name}{gangs}"
        return self.metric.removesuffix("_ratio")

    def show(self, value: float) -> str:
        """Return a value of this figure with its unit."""
        if np.isnan(value):
            return "–"
        if self.metric.endswith("_s"):
            return duration(value) if np.isfinite(value) else "never"
        if self.metric.endswith("_ratio"):
            return percent(value)
        return exact(value) if self.metric.startswith("pending") else number(value)

    def sentence(self) -> str:
        """Return the whole target: allocation at least 80 %."""
        return f"{self.label()} {'at most' if self.wants_capacity else 'at least'} " + self.show(
            self.limit
        )

    def choose(self, jobs: pd.DataFrame) -> pd.DataFrame:
        """Return the jobs that the target is about."""
        gpus = jobs["gpus"]
        return jobs[(gpus >= (self.min_gpus or 0)) & (gpus <= (self.max_gpus or np.inf))]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run says about the targets."""

    values: tuple[float, ...]  #: one for each target
    pending_pod_s: dict[str, float]  #: by reason, of the jobs that the targets are about
    num_never_fits: int
    never_fits: str = ""  #: which request of most of them no node offers


def measure(result: RunResult, targets: tuple[Target, ...], warmup_s: float) -> Measured:
    """Return the figures of a run that went to its end, without the first `warmup_s`.

    Curves count from the end of the warm-up to the last submission, jobs if they were submitted
    in that time. Raises ValueError if the warm-up leaves nothing to measure.
    """
    last_s = float(result.jobs["submit_s"].max())
    if warmup_s and not warmup_s < last_s:
        raise ValueError(
            f"warmup_days is {warmup_s / DAY_S:g} and the last job comes on day "
            f"{last_s / DAY_S:.3g}; nothing is left to measure"
        )
    end_s = float(result.manifest["end_s"])
    # where all is submitted at one instant, curves are those of the whole run
    window = Window(warmup_s, float(np.nextafter(last_s, np.inf)) if last_s else end_s, end_s)
    about = [target for target in targets if _OF_JOBS.fullmatch(target.metric)] or targets
    submitted = result.jobs[result.jobs["submit_s"].between(window.start_s, window.end_s)]
    chosen = pd.concat([target.choose(submitted) for target in about])
    chosen = chosen[~chosen.index.duplicated()]
    pods = chosen["num_pods"].to_numpy(np.float64)
    waited = {
        column.removeprefix("pending_").removesuffix("_s"): float(chosen[column].to_numpy() @ pods)
        for column in chosen.columns
        if column.startswith("pending_")
    }
    never = result.jobs[result.jobs["outcome"] == "never_fits"]
    return Measured(
        values=tuple(_value(target, result, window) for target in targets),
        pending_pod_s={reason: pod_s for reason, pod_s in waited.items() if pod_s > 0},
        num_never_fits=len(never),
        never_fits=next(iter(never_lines(unmet_requests(never))), ""),
    )


def _value(target: Target, result: RunResult, window: Window) -> float:
    of_jobs = _OF_JOBS.fullmatch(target.metric)
    if of_jobs:
        figure, quantile = of_jobs[1] or of_jobs[3], int(of_jobs[2] or of_jobs[4]) / 100
        return _job_figure(figure, quantile, in_window(target.choose(result.jobs), window), window)
    if target.metric in _OF_GPUS:
        curves = allocation_steps(result.allocation, window.horizon_s)
        use = metrics.use(curves.clip(window.start_s, window.end_s), result.cluster.num_gpus)
        return float(getattr(use, target.metric))
    of_pods = _OF_PODS.fullmatch(target.metric)
    assert of_pods
    steps = pending_steps(result.pending, window.horizon_s).clip(window.start_s, window.end_s)
    total = steps.total()
    if of_pods[2]:
        return float(total.max(initial=0))
    if of_pods[3]:
        return float(steps.widths_s @ total / steps.widths_s.sum())
    return float(count_quantiles(total, steps.widths_s, (int(of_pods[1]) / 100,))[0])


def _job_figure(figure: str, quantile: float, jobs: pd.DataFrame, window: Window) -> float:
    submit_s = jobs["submit_s"].to_numpy(np.float64)
    until = "start_s" if figure == "queueing_delay" else "end_s"
    values = jobs[until].to_numpy(np.float64) - submit_s
    at_least = np.maximum(window.horizon_s - submit_s, 0.0)
    if figure == "bounded_slowdown":
        ideal_s = np.maximum(jobs["duration_s"].to_numpy(np.float64), metrics.TAU_S)
        values = np.maximum(values / ideal_s, 1.0)
        at_least = np.maximum(at_least / ideal_s, 1.0)
    return censored_quantiles(values, at_least, (quantile,))[0].value
