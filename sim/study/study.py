"""A study: cluster sizes x workloads x arms, each point a pure function of its settings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from scheduler import whole
from scheduler.core.times import DAY_S
from sim.runs import owned
from sim.runs.experiment import check_jobs_of_queues, run
from sim.runs.folder import read_manifest
from sim.runs.progress import Callback
from sim.schema.config import RunConfig
from sim.study import kept, settings, sizes
from sim.study.progress import StudyProgress
from sim.study.settings import Arm, Environment, WorkloadSettings
from sim.study.sizes import Size
from sim.study.sweep import Shard, check_executor, run_tasks
from sim.study.task import Task
from traces import windows

#: ms that one GPU-day of offered load takes to simulate, measured at 7,500 nodes; only their ratios
#: matter: they order the points, longest first, and weigh them in the progress bar. Real jobs are
#: smaller, so that a GPU-day holds more of them than a generated workload's
COST_MS = {
    "generated": {"gang": 0.008, "easy": 0.014, "pod": 0.1, "permit": 0.3, "workload": 0.0005},
    "superposed": {"gang": 0.7, "easy": 2.2, "pod": 3.2, "permit": 3.0, "workload": 0.014},
}


#: folder of run folders that are not whole yet
UNFINISHED = "unfinished"


class StudyWorkload(WorkloadSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A workload, and how much of it every arm simulates."""

    #: days that are simulated unless the study is run in full; `days` where it is not given
    window_days: float | None = None

    @property
    def simulated_days(self) -> float | None:
        """The window of every arm; None is until the last job ends."""
        return self.days if self.window_days is None else self.window_days


class Quick(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `--quick` puts in place of the study's own sizes and windows."""

    nodes: tuple[int, ...] = (32, 64, 96)
    days: float = 2.0  #: longest window of any arm


class Study(Environment, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of study.toml."""

    nodes: tuple[int, ...] = ()  #: sizes of the cluster, where no cluster files are
    workload: tuple[StudyWorkload, ...]
    arm: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0,)
    quick: Quick = Quick()

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read and check study.toml; paths in it are relative to it.

        Raises:
            ValueError: something in the file makes no sense; the text says what.
        """
        study = settings.read_settings(path, cls, what="study settings")
        file = Path(path)
        study = msgspec.structs.replace(
            study,
            control_plane=settings.plane_beside(study.control_plane, file),
            cluster=tuple(settings.beside(one, file) for one in study.cluster),
            workload=tuple(
                msgspec.structs.replace(one, jobs=settings.beside(one.jobs, file))
                for one in study.workload
            ),
        )
        study.check(str(path))
        return study

    def check(self, place: str) -> None:
        """Raise ValueError if something makes no sense; `place` is the file it stands in."""
        Environment.check(self, place)
        for nodes in (*self.nodes, *self.quick.nodes):
            if nodes < 1:
                raise ValueError(f"{place}: nodes has {nodes}; give counts of at least 1")
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"{place}: seeds has {seed}; give 0 or more")
        if not self.quick.days > 0:
            raise ValueError(f"{place}: quick.days is {self.quick.days}; give more than 0")
        if self.nodes and self.cluster:
            raise ValueError(f"{place}: nodes and cluster both say the sizes; give one of them")
        settings.check_unique([size.name for size in self.sizes()], "nodes", place)
        settings.check_unique([str(seed) for seed in self.seeds], "seeds", place)
        settings.check_unique([arm.name for arm in self.arm], "arm", place)
        settings.check_unique([one.name for one in self.workload], "workload", place)
        for arm in self.arm:
            arm.check(place)
        for workload in self.workload:
            workload.check(place)
            window = workload.window_days
            if window is not None and not 0 < window <= (workload.days or window):
                raise ValueError(
                    f"{place}: window_days of workload {workload.name!r} is {window}; give more "
                    f"than 0 and at most days ({workload.days})"
                )

    def shortened(self) -> Study:
        """Return the small form of the study that `--quick` runs."""
        days = self.quick.days
        workloads = tuple(
            msgspec.structs.replace(
                one,
                days=min(one.simulated_days or days, days),
                window_days=None,
            )
            for one in self.workload
        )
        title = f"{self.title} (quick form)" if self.title else ""
        nodes = () if self.cluster else self.quick.nodes
        return msgspec.structs.replace(
            self, nodes=nodes, seeds=self.seeds[:1], workload=workloads, title=title
        )

    def full(self) -> Study:
        """Return the study with every workload simulated for all its days: `--full`."""
        workloads = tuple(msgspec.structs.replace(one, window_days=None) for one in self.workload)
        return msgspec.structs.replace(self, workload=workloads)

    def sizes(self) -> tuple[Size, ...]:
        """Return the clusters, in the order of the settings."""
        return sizes.of_files(self.cluster) or sizes.of_nodes(self.nodes, self.shape)

    def points(self) -> list[Point]:
        """Return all points."""
        return [
            Point(self, workload, size, arm, seed)
            for workload in self.workload
            for size in self.sizes()
            for arm in self.arm
            for seed in self.seeds
        ]


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a study."""

    study: Study
    workload: StudyWorkload
    size: Size
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return f"{self.workload.name}-{self.size.name}-{self.arm.name}-s{self.seed}"

    @property
    def window_days(self) -> float | None:
        """Simulated days; None runs until the last job ends."""
        return self.workload.simulated_days

    @property
    def config(self) -> RunConfig:
        """Settings of the run. It ends with its window: what still waits then is unfinished."""
        days = self.window_days
        return self.arm.config(
            self.study, seed=self.seed, until_s=None if days is None else days * DAY_S
        )

    @property
    def weight(self) -> float:
        """Expected work, in no particular unit."""
        return self._work(self.window_days, self.arm.admission, self.arm.policy.discipline)

    @property
    def workload_weight(self) -> float:
        """Expected work to make the jobs, in the same unit."""
        days = (self.workload.days or 30.0) + self.workload.carry_in_days
        return self._work(days, "workload")

    def _work(self, days: float | None, kind: str, discipline: str = "") -> float:
        costs = COST_MS["superposed" if self.workload.superpose else "generated"]
        cost = costs.get(discipline, costs[kind]) * (self.workload.load or 1.0)
        return (self.size.num_gpus or self.size.num_nodes) * (days or 30.0) * cost

    def jobs_file(self, out: Path) -> Path:
        """Return where the jobs of this point are kept; arms share them."""
        return kept.place(self.workload, self.size.cluster, self.seed, out)

    def folder(self, out: Path) -> Path:
        """Return the run folder of this point."""
        return out / "points" / self.name

    def identity(self) -> dict[str, Any]:
        """Return what the manifest says about this point; `sha256` is all that decides its rows."""
        resolved = {
            "jobs": self.workload.sha256(self.size.cluster, self.seed),
            "cluster": msgspec.to_builtins(self.size.cluster),
            "config": msgspec.to_builtins(self.config),
            "window_days": self.window_days,
        }
        code = settings.code_sha256()
        return {
            "workload": self.workload.name,
            "nodes": self.size.num_nodes,
            "cluster": self.size.name if self.size.is_file else None,
            "arm": self.arm.name,
            "seed": self.seed,
            "load": self.workload.load,
            "window_days": self.window_days,
            "full_days": self.workload.days,
            "jobs_sha256": resolved["jobs"],
            "code_sha256": code,
            "sha256": settings.digest({**resolved, "code": code}),
        }

    def is_done(self, out: Path) -> bool:
        """True if a finished run of exactly these settings and this code stands in `out`."""
        try:
            manifest = read_manifest(self.folder(out))
        except ValueError:
            return False
        return bool(manifest.get("point", {}).get("sha256") == self.identity()["sha256"])


def make_jobs(point: Point, out: Path, *, progress: bool = False) -> pd.DataFrame:
    """Return the jobs of a point's workload from its file, which is written if it is missing."""
    return kept.jobs_of(point.workload, point.size.cluster, point.seed, out, progress=progress)


def run_point(point: Point, out: Path, progress: Callback | None = None) -> Path:
    """Simulate a point and put its run folder in place, whole; return the folder."""
    jobs = make_jobs(point, out)
    if point.window_days is not None:
        jobs = windows.before(jobs, point.window_days)
    try:
        result = run(
            jobs,
            cluster=point.size.cluster,
            config=point.config,
            progress=progress or False,
            from_first=False,  # the workload says where its time begins
        )
    except ValueError as error:
        raise ValueError(f"point {point.name}: {error}") from None
    if reading := kept.reading_of(point.jobs_file(out)):
        result.manifest |= msgspec.to_builtins(reading)
    # Two processes may be at the same point, for instance after one was killed and its worker
    # lives on: each writes its own folder, and what appears under the final name is whole.
    whole.put_folder(
        folder := point.folder(out),
        partial(owned.refuse_strangers, form=owned.RUN),
        partial(result.fill, point=point.identity()),
        within=out / UNFINISHED,
    )
    return folder


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which points of a study are finished."""

    done: list[Path]  #: run folders, in the order of the settings
    missing: list[str]  #: names of points without a finished run


def run_study(
    study: Study,
    out: str | Path,
    *,
    processes: int = 2,
    executor: str = "local",
    shard: Shard | None = None,
    progress: bool = True,
) -> Outcome:
    """Run the points that are not finished yet, those that take longest first.

    With `shard` only its share of the points is run; other processes run the others.

    Raises:
        ValueError: a point makes no sense, or the executor does not work.
    """
    check_executor(executor)
    folder = Path(out).resolve()
    study = msgspec.structs.replace(
        study.absolute(), workload=tuple(one.absolute() for one in study.workload)
    )
    with kept.nothing_left_of_failure(folder) if shard is None else nullcontext():
        return _run_study(study, folder, processes, executor, shard, progress)


def _run_study(
    study: Study, folder: Path, processes: int, executor: str, shard: Shard | None, progress: bool
) -> Outcome:
    mine = sorted(study.points(), key=lambda point: (-point.weight, point.name))
    if shard is not None:
        mine = mine[shard.index :: shard.count]
    _clear(mine, folder)
    missing = [point for point in mine if not point.is_done(folder)]
    for point in missing:
        if point.workload.jobs:  # a file that cannot be read is told at once, and leaves nothing
            make_jobs(point, folder, progress=progress)
    # of jobs that are yet to be generated once they are, and all before the first run
    _check_queues([point for point in missing if point.workload.jobs], folder)
    workloads = _workload_tasks(missing, folder)
    points = [_point_task(point, folder) for point in mine]
    reports = folder / "progress"
    is_shown = progress and not all(task.is_done() for task in points)
    shown = (
        StudyProgress("muster study", reports, [*workloads, *points]) if is_shown else nullcontext()
    )
    try:
        with shown:
            run_tasks(workloads, reports, processes=processes, executor=executor)
            _check_queues([point for point in missing if not point.workload.jobs], folder)
            run_tasks(points, reports, processes=processes, executor=executor)
    finally:
        _clear(mine, folder)
    return outcome(study, folder)


def _check_queues(points: Sequence[Point], out: Path) -> None:
    """Raise ValueError, naming the arm, if its queues do not take the jobs of a point."""
    for point in points:
        if point.arm.queues is None:
            continue
        jobs = make_jobs(point, out)
        reading = kept.reading_of(point.jobs_file(out))
        kind = "" if reading is None else reading.format
        try:
            check_jobs_of_queues(jobs, point.size.cluster, point.config, kind)
        except ValueError as error:
            raise ValueError(
                f"arm {point.arm.name!r} (queues file {point.arm.queues_file!r}) on workload "
                f"{point.workload.name!r}: {error}"
            ) from None


def outcome(study: Study, out: str | Path) -> Outcome:
    """Return which points of the study have a finished run in `out`."""
    folder = Path(out).resolve()
    points = study.points()
    done = [point for point in points if point.is_done(folder)]
    return Outcome(
        [point.folder(folder) for point in done],
        [point.name for point in points if point not in done],
    )


def reading_lines(study: Study, out: str | Path) -> list[str]:
    """Say of each jobs file of a study how it was read and what was left out."""
    folder = Path(out).resolve()
    points = [point for point in study.points() if point.workload.jobs]
    return kept.said_of(point.jobs_file(folder) for point in points)


def _point_task(point: Point, out: Path) -> Task:
    return Task(
        name=point.name,
        weight=point.weight,
        span_s=(point.window_days or 30.0) * DAY_S,
        work=partial(_run_point, point, out),
        is_done=partial(point.is_done, out),
    )


def _run_point(point: Point, out: Path, progress: Callback) -> None:
    run_point(point, out, progress)


def _workload_tasks(points: Sequence[Point], out: Path) -> list[Task]:
    """Return one task for each jobs table that is needed and not there."""
    found: dict[Path, Task] = {}
    for point in points:
        path = point.jobs_file(out)
        if path in found or path.is_file():
            continue
        found[path] = Task(
            name=f"workload-{path.stem}",
            weight=point.workload_weight,
            span_s=0.0,
            work=partial(_make_jobs, point, out),
            is_done=path.is_file,
        )
    return sorted(found.values(), key=lambda task: (-task.weight, task.name))


def _make_jobs(point: Point, out: Path, _: Callback) -> None:
    make_jobs(point, out)


def _clear(points: Sequence[Point], out: Path) -> None:
    """Remove what killed processes left of these points."""
    for point in points:
        for part in whole.parts_of(out / UNFINISHED / point.name):
            shutil.rmtree(part, ignore_errors=True)
        (out / "progress" / point.name).unlink(missing_ok=True)
        path = point.jobs_file(out)
        if path.is_file():
            for part in whole.parts_of(path):
                part.unlink(missing_ok=True)
    for name in (UNFINISHED, "progress"):
        with suppress(OSError):  # not there, or another process is at work in it
            (out / name).rmdir()
