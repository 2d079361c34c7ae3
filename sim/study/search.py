"""Capacity planning: the smallest cluster, or the largest load, that meets targets.

Every replication is one seed of the workload. Within it all sizes face the same jobs (common
random numbers), so that bisection sees the effect of the size and not of another draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from scheduler import whole
from scheduler.core.reasons import TABLE
from scheduler.core.times import DAY_S
from sim.runs.experiment import run
from sim.runs.progress import Callback
from sim.schema.cluster import Cluster
from sim.study import kept, settings
from sim.study.plan import Plan
from sim.study.progress import StudyProgress
from sim.study.settings import WorkloadSettings
from sim.study.sweep import check_executor, run_tasks
from sim.study.targets import Measured, measure
from sim.study.task import Task

#: sizes that the cost curve shows beside those of the search
CURVE_POINTS = 9


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run: a seed at one value of what varies."""

    value: float
    seed: int
    measured: Measured


@dataclass(frozen=True, slots=True)
class Found:
    """Outcome of one replication; indexes count `Plan.sizes`, that is by rising capacity."""

    seed: int
    #: first that meets the targets which more capacity helps; None if the last does not
    first: int | None
    #: last from there on that meets the targets which more capacity hurts; None if `first` fails
    last: int | None


class NotYetRunError(LookupError):
    """An evaluation is not among the stored ones."""


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Run evaluations, or load them from those stored in `folder`."""

    plan: Plan
    folder: Path

    def get(self, seed: int, index: int, progress: Callback | None = None) -> Evaluation:
        """Return an evaluation; run it if necessary."""
        try:
            return self.stored(seed, index)
        except NotYetRunError:
            pass
        value = self.plan.sizes()[index]
        measured = self._run(seed, value, progress)
        path = self._path(seed, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.encode(_with_infinity_as_text(measured))
        whole.write_bytes(path, content, durable=True)
        return Evaluation(value, seed, measured)

    def stored(self, seed: int, index: int) -> Evaluation:
        """Return an evaluation that was run before.

        Raises:
            NotYetRunError: it was not.
            ValueError: its file is damaged.
        """
        value = self.plan.sizes()[index]
        path = self._path(seed, value)
        try:
            measured = msgspec.json.decode(path.read_bytes(), type=Measured, strict=False)
        except OSError:
            raise NotYetRunError(f"seed {seed} at {value}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r}: {error}; remove it") from None
        return Evaluation(value, seed, measured)

    def _workload(self, value: float) -> tuple[WorkloadSettings, Cluster]:
        """Return the workload, and the cluster for which it is made."""
        plan = self.plan
        cluster = plan.cluster_at(value)
        if plan.workload.jobs:
            return plan.workload, cluster
        if plan.vary.what == "load":
            return msgspec.structs.replace(plan.workload, load=value), cluster
        return plan.workload, plan.reference()

    def jobs_at(self, seed: int, value: float, *, progress: bool = False) -> pd.DataFrame:
        """Return the jobs; those of a file are read once and kept."""
        workload, cluster = self._workload(value)
        if workload.jobs:
            return kept.jobs_of(workload, cluster, seed, self.folder, progress=progress)
        return workload.make(cluster, seed).jobs

    def _run(self, seed: int, value: float, progress: Callback | None) -> Measured:
        plan = self.plan
        result = run(
            self.jobs_at(seed, value),
            cluster=plan.cluster_at(value),
            config=plan.arm.config(plan, seed=seed),
            progress=progress or False,
            from_first=False,  # the workload says where its time begins
        )
        return measure(result, plan.target, plan.warmup_days * DAY_S)

    def _path(self, seed: int, value: float) -> Path:
        plan = self.plan
        workload, made_for = self._workload(value)
        key = {
            "jobs": workload.sha256(made_for, seed),
            "cluster": msgspec.to_builtins(plan.cluster_at(value)),
            "config": msgspec.to_builtins(plan.arm.config(plan, seed=seed)),
            "warmup_days": plan.warmup_days,
            "targets": msgspec.to_builtins(plan.target),
            "code": [settings.code_sha256(), settings.file_sha256(measure.__code__.co_filename)],
        }
        name = f"{plan.vary.what}-{value:g}-s{seed}-{settings.digest(key)[:16]}.json"
        return self.folder / "evaluations" / name


def _with_infinity_as_text(measured: Measured) -> dict[str, object]:
    """JSON has no infinity and no NaN; both are written as text and converted when read."""
    content: dict[str, object] = msgspec.to_builtins(measured)
    content["values"] = [value if np.isfinite(value) else str(value) for value in measured.values]
    return content


def search(plan: Plan, seed: int, get: Callable[[int, int], Evaluation]) -> Found:
    """Bisect one replication; `get` gives the evaluation of (seed, index)."""
    last = len(plan.sizes()) - 1

    def meets(index: int, wants_capacity: bool) -> bool:
        measured = get(seed, index).measured
        pairs = zip(plan.target, measured.values, strict=True)
        met = all(t.is_met(value) for t, value in pairs if t.wants_capacity == wants_capacity)
        return met and (measured.num_never_fits == 0 or not wants_capacity)

    first = _bisect(0, last, lambda index: meets(index, True))
    if first is None:
        return Found(seed, None, None)
    if all(target.wants_capacity for target in plan.target):
        return Found(seed, first, last)
    beyond = _bisect(first, last, lambda index: not meets(index, False))
    if beyond is None:
        return Found(seed, first, last)
    return Found(seed, first, beyond - 1 if beyond > first else None)


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """Return the first index from `low` to `high` for which `holds`; None if the last does not."""
    if not holds(high):
        return None
    if holds(low):
        return low
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over replications with its 95 % interval; both ends NaN for one replication."""

    mean: float
    low: float
    high: float


#: 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom
_T975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
)


def t_interval(values: Sequence[float]) -> Interval:
    """Return mean and 95 % interval of independent values by Student's t."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    degrees = len(values) - 1
    z = 1.959964  # beyond the table: Cornish-Fisher expansion about the normal quantile
    first = (z**3 + z) / (4 * degrees)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    t = _T975[degrees - 1] if degrees <= len(_T975) else z + first + second
    half = t * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the replications found together."""

    found: tuple[Found, ...]
    #: of what varies, over the replications; None if one of them has no value that meets all
    limit: Interval | None
    safe: float | None  #: the value that meets all targets in every replication
    is_edge: bool  #: some replication already met the targets at the end of the range
    binds: dict[str, float]  #: share of pending pod-seconds by what binds, largest first
    evaluations: tuple[Evaluation, ...]  #: all that were run, those of the cost curve too
    curve: tuple[float, ...]  #: values at which every seed was run


def solve(
    plan: Plan,
    out: str | Path,
    *,
    processes: int = 2,
    executor: str = "local",
    progress: bool = True,
) -> Answer:
    """Run the search and the cost curve; evaluations in `out` from earlier are not run again.

    Raises:
        ValueError: the settings make no sense for the jobs, or the executor does not work.
    """
    check_executor(executor)
    folder = Path(out).resolve()
    plan = msgspec.structs.replace(plan.absolute(), workload=plan.workload.absolute())
    with kept.nothing_left_of_failure(folder):
        return _solve(plan, folder, processes, executor, progress)


def reading_lines(plan: Plan, out: str | Path) -> list[str]:
    """Say how the jobs file of a plan was read and what was left out."""
    if not plan.workload.jobs:
        return []
    folder, seed = Path(out).resolve(), plan.seeds[0]
    values = plan.sizes() if plan.vary.what == "cluster" else plan.sizes()[:1]
    found = [kept.place(plan.workload, plan.cluster_at(value), seed, folder) for value in values]
    return kept.said_of(found)


def _solve(plan: Plan, folder: Path, processes: int, executor: str, progress: bool) -> Answer:
    evaluator = Evaluator(plan, folder)
    if plan.workload.jobs:  # a file that cannot be read is told at once, and leaves nothing
        for value in plan.sizes() if plan.vary.what == "cluster" else plan.sizes()[:1]:
            evaluator.jobs_at(plan.seeds[0], value, progress=progress)
    searches = [_task(evaluator, seed, None) for seed in plan.replications]
    curves = [_task(evaluator, seed, _curve(plan)) for seed in plan.replications]
    reports = folder / "progress"
    tasks = [*searches, *curves]
    with StudyProgress("muster plan", reports, tasks) if progress else nullcontext():
        for part in (searches, curves):
            run_tasks(part, reports, processes=processes, executor=executor)
    with suppress(OSError):  # not there, or another process is at work in it
        reports.rmdir()
    return _answer(plan, evaluator)


def _curve(plan: Plan) -> list[int]:
    last = len(plan.sizes()) - 1
    return sorted({round(at) for at in np.linspace(0, last, CURVE_POINTS)})


def _task(evaluator: Evaluator, seed: int, indexes: list[int] | None) -> Task:
    """Return the search of one seed, or its part of the cost curve."""
    plan = evaluator.plan
    count = len(indexes) if indexes else 2 + int(np.ceil(np.log2(len(plan.sizes()))))
    return Task(
        name=f"{'curve' if indexes else 'search'}-s{seed}",
        weight=float(count),
        span_s=count * (plan.workload.days or 30.0) * DAY_S,
        work=partial(_perform, evaluator, seed, indexes),
        is_done=partial(_is_done, evaluator, seed, indexes),
    )


def _perform(
    evaluator: Evaluator, seed: int, indexes: list[int] | None, progress: Callback
) -> None:
    span_s = (evaluator.plan.workload.days or 30.0) * DAY_S
    before_s, before_events, last_events = 0.0, 0, 0

    def report(time_s: float, num_events: int) -> None:
        nonlocal last_events
        last_events = num_events
        progress(before_s + min(time_s, span_s), before_events + num_events)

    def get(seed: int, index: int) -> Evaluation:
        nonlocal before_s, before_events, last_events
        found = evaluator.get(seed, index, report)
        before_s, before_events, last_events = before_s + span_s, before_events + last_events, 0
        return found

    if indexes is None:
        search(evaluator.plan, seed, get)
    else:
        for index in indexes:
            get(seed, index)


def _is_done(evaluator: Evaluator, seed: int, indexes: list[int] | None) -> bool:
    try:
        if indexes is None:
            search(evaluator.plan, seed, evaluator.stored)
        else:
            for index in indexes:
                evaluator.stored(seed, index)
    except NotYetRunError:
        return False
    return True


def _answer(plan: Plan, evaluator: Evaluator) -> Answer:
    sizes = plan.sizes()
    used: dict[tuple[int, int], Evaluation] = {}

    def get(seed: int, index: int) -> Evaluation:
        used[seed, index] = found = evaluator.stored(seed, index)
        return found

    found = tuple(search(plan, seed, get) for seed in plan.replications)
    for seed in plan.replications:
        for index in _curve(plan):
            get(seed, index)
    firsts = [one.first for one in found if one.first is not None and one.last is not None]
    limit, safe = None, None
    if len(firsts) == len(found):
        limit = t_interval([sizes[first] for first in firsts])
        if all(one.last is not None and one.last >= max(firsts) for one in found):
            safe = sizes[max(firsts)]
    return Answer(
        found=found,
        limit=limit,
        safe=safe,
        is_edge=0 in firsts,
        binds=_binds([_at_limit(plan, used, one) for one in found]),
        evaluations=tuple(used[key] for key in sorted(used)),
        curve=tuple(sorted(sizes[index] for index in _curve(plan))),
    )


def _at_limit(plan: Plan, used: dict[tuple[int, int], Evaluation], one: Found) -> Evaluation:
    """Return the run at which a replication found its limit, or the one with most capacity."""
    return used[one.seed, len(plan.sizes()) - 1 if one.first is None else one.first]


def _binds(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for reason, row in TABLE.items():
        pod_s = sum(one.measured.pending_pod_s.get(reason, 0.0) for one in evaluations)
        totals[row.binds] = totals.get(row.binds, 0.0) + pod_s
    everything = sum(totals.values())
    if not everything:
        return {}
    shares = sorted(totals.items(), key=lambda item: -item[1])
    return {name: total / everything for name, total in shares if total > 0}
