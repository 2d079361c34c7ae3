"""`muster validate`: recognise an input file or run folder, check it, and say what it holds."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from sim.commands.words import of_settings
from sim.report.wording import counted, duration, exact, number
from sim.runs.experiment import check_jobs_of_queues
from sim.runs.folder import RunResult, read_config, read_manifest
from sim.runs.reader import Reader
from sim.runs.steps import allocation_steps, pending_steps
from sim.schema import costs, planes, queues, tables
from sim.schema.cluster import Cluster
from sim.schema.config import ControlPlane, RunConfig
from sim.study.plan import Plan
from sim.study.settings import Arm, WorkloadSettings
from sim.study.study import Study
from traces import LoadedJobs
from traces.description import left_out_text
from traces.schema import total_gpus

Item = TypeVar("Item")
AS_IT_IS = Reader()
KINDS = (
    "a jobs table, a cluster, queues, study, plan, control-plane, costs or interrupts TOML, "
    "or a run folder"
)


def inspect(path: str | Path, reader: Reader = AS_IT_IS) -> str:
    """Check one file or folder; return one line about it. `reader` is for a jobs file.

    Raises:
        ValueError: it is not valid; the text says what is wrong and where.
    """
    place = Path(path)
    if place.is_dir():
        return _run_folder(place) if not _is_study(place) else _study_folder(place)
    if not place.exists():
        raise ValueError(f"{str(path)!r} does not exist; give {KINDS}")
    if place.suffix.lower() == ".toml":
        return _toml(place, reader)
    return _jobs(place, reader)


def _read(path: Path, reader: Reader) -> LoadedJobs:
    loaded = reader.read(path, progress=True)
    if loaded.jobs.empty:
        raise ValueError(f"{str(path)!r} has no rows; a jobs table needs at least one job")
    return loaded


def _jobs(path: Path, reader: Reader) -> str:
    loaded = _read(path, reader)
    jobs = loaded.jobs
    gpus = total_gpus(jobs)
    work = float((gpus * jobs["duration_s"]).sum())
    span_s = float(jobs["submit_s"].max() - jobs["submit_s"].min())
    return (
        f"jobs table: {counted(len(jobs), 'job')}, {counted(int(jobs['num_pods'].sum()), 'pod')}, "
        f"largest {counted(int(gpus.max()), 'GPU')}, {number(work / 3600.0)} GPU-hours "
        f"submitted over {duration(span_s)}"
        + (f"; {left_out}" if (left_out := left_out_text(loaded)) else "")
    )


def _toml(path: Path, reader: Reader) -> str:
    try:
        with path.open("rb") as file:
            keys = set(tomllib.load(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not TOML: {error}") from None
    if "pool" in keys:
        cluster = Cluster.load(path)
        pools = ", ".join(
            f"{pool.name} {exact(pool.nodes)} x {pool.gpus_per_node}" for pool in cluster.pool
        )
        return (
            f"cluster: {counted(cluster.num_nodes, 'node')}, "
            f"{counted(cluster.num_gpus, 'GPU')} ({pools})"
        )
    if keys & {"queue", "cohort", "flavor"}:
        words = queues.load(path)
        counts = ((words.queues, "queue"), (words.cohorts, "cohort"), (words.flavors, "flavor"))
        return f"queues file: {', '.join(counted(len(some), noun) for some, noun in counts)}"
    if "target" in keys or "vary" in keys:
        plan = Plan.load(path)
        _refuse_flags(reader, path, [plan.workload])
        with of_settings(path):
            _check_workload(plan.workload, [plan.arm], plan.cluster_at(plan.sizes()[-1]))
        values = counted(len(plan.sizes()), "value")
        return f"plan: {counted(len(plan.target), 'target')}, {values} of {plan.vary.what}"
    if "arm" in keys or "workload" in keys:
        study = Study.load(path)
        _refuse_flags(reader, path, study.workload)
        with of_settings(path):
            cluster = study.sizes()[-1].cluster
            check = partial(_check_workload, arms=study.arm, cluster=cluster)
            _check_all(check, study.workload)
        return (
            f"study: {counted(len(study.points()), 'point')} "
            f"({counted(len(study.workload), 'workload')}, {counted(len(study.sizes()), 'size')}, "
            f"{counted(len(study.arm), 'arm')}, {counted(len(study.seeds), 'seed')})"
        )
    if keys and keys <= set(ControlPlane.__struct_fields__):
        return f"control plane: {planes.load(path).name!r}"
    if "interrupt" in keys:
        cuts = costs.load_interrupts(path)
        jobs = counted(len({one.job for one in cuts}), "job")
        return f"interrupts: {exact(len(cuts))} of {jobs}"
    if keys & set(costs.Costs.__struct_fields__):
        found_costs = costs.load(path)
        given = [name for name, value in found_costs.quantities().items() if value.mean_s]
        return f"costs: {', '.join(given)}; saves every {duration(found_costs.save_interval_s)}"
    found = ", ".join(sorted(keys)) or "nothing"
    raise ValueError(
        f"{str(path)!r} holds {found}; a cluster has [[pool]], a queues file [[queue]], a study "
        "[[workload]] and [[arm]], a plan [vary] and [[target]], a control plane rates such as "
        "bind_qps, costs quantities such as startup_s, interrupts [[interrupt]]"
    )


def _check_all(check: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Check all items; raise one ValueError that says what is wrong with each."""
    wrong = {}
    for item in items:
        try:
            check(item)
        except ValueError as error:
            wrong[str(error)] = True
    if wrong:
        raise ValueError("; ".join(wrong))


def _refuse_flags(reader: Reader, path: Path, workloads: Iterable[WorkloadSettings]) -> None:
    """Raise ValueError if flags say how to read a jobs file that settings name."""
    of_files = [one.name for one in workloads if one.jobs]
    if of_files and (given := [*reader.given()]):
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for a jobs file; {str(path)!r} says itself how "
            f"jobs are read: set {given[0]} in its workload {of_files[0]!r}"
        )


def _check_workload(workload: WorkloadSettings, arms: Sequence[Arm], cluster: Cluster) -> None:
    """Check that the jobs file of a study or plan can be read, and that its arms take the jobs.

    Raises:
        ValueError: it cannot, or the queues of an arm lack those of jobs.
    """
    if not workload.jobs:
        return
    loaded = _read(Path(workload.jobs), workload.reader)
    for arm in arms:
        config = RunConfig(queues=arm.queues)
        try:
            check_jobs_of_queues(loaded.jobs, cluster, config, loaded.kind)
        except ValueError as error:
            raise ValueError(f"arm {arm.name!r}: {error}") from None


def _run_folder(folder: Path) -> str:
    manifest = read_manifest(folder)
    config = read_config(folder)
    has_goodput = config.costs is not None
    for name, schema in tables.schemas(
        has_goodput=has_goodput, num_queues=config.num_queues
    ).items():
        file = folder / f"{name}.parquet"
        if not file.is_file():
            raise ValueError(f"run {str(folder)!r}: {file.name} is missing; run it again")
        found = pq.read_schema(file)
        for field in schema:
            if field.name not in found.names or found.field(field.name).type != field.type:
                has = (
                    found.field(field.name).type if field.name in found.names else "no such column"
                )
                raise ValueError(
                    f"run {str(folder)!r}: {file.name} column {field.name!r} should be "
                    f"{field.type}, it has {has}; run it again with this version"
                )
    result = RunResult.load(folder)
    if not result.jobs["job"].is_unique:
        raise ValueError(f"run {str(folder)!r}: jobs.parquet has two rows for one job")
    strange = set(result.attempts["job"]) - set(result.jobs["job"])
    if strange:
        raise ValueError(f"run {str(folder)!r}: attempts of unknown job {min(strange)!r}")
    _check_accounts(result, folder)
    return (
        f"run {manifest.get('label', '')!r}: {counted(len(result.jobs), 'job')} on "
        f"{counted(result.cluster.num_nodes, 'node')}, "
        f"{counted(len(result.attempts), 'attempt')}, "
        f"{duration(float(manifest['end_s']))} simulated"
    )


def _check_accounts(result: RunResult, folder: Path) -> None:
    """Raise ValueError if curves and jobs disagree: by reason, and in GPU-seconds held."""
    end_s = float(result.manifest["end_s"])
    curves = pending_steps(result.pending, end_s)
    pods = result.jobs["num_pods"].to_numpy(np.float64)
    for reason, of_curve in zip(curves.columns, curves.integral(), strict=True):
        of_jobs = float(result.jobs[f"pending_{reason}_s"].to_numpy() @ pods)
        _check_equal(f"pod-seconds pending for {reason}", of_jobs, float(of_curve), folder)
    held = float(allocation_steps(result.allocation, end_s).integral()[0])
    _check_equal("GPU-seconds held", float(result.jobs["held_gpu_s"].sum()), held, folder)


def _check_equal(what: str, of_jobs: float, of_curve: float, folder: Path) -> None:
    if abs(of_jobs - of_curve) > 1e-6 * max(abs(of_jobs), abs(of_curve), 1.0):
        raise ValueError(
            f"run {str(folder)!r}: {what} are {of_jobs:.9g} over the jobs and {of_curve:.9g} under "
            "the curve; a table was changed, run it again"
        )


def _is_study(folder: Path) -> bool:
    return not (folder / "manifest.json").is_file() and (folder / "points").is_dir()


def _study_folder(folder: Path) -> str:
    points = sorted(point for point in (folder / "points").iterdir() if point.is_dir())
    _check_all(_run_folder, points)
    return f"study folder: {counted(len(points), 'finished point')}, all valid"
