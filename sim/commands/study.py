"""`muster study` and `muster plan`: many runs, and what they say together."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.commands.options import (
    WORDS,
    JobsOption,
    check_sizes,
    node_options,
    reader_options,
    target_options,
    with_options,
)
from sim.commands.report import build_report
from sim.commands.words import of_settings

if TYPE_CHECKING:
    from sim.runs.reader import Reader
    from sim.schema.cluster import NodeShape
    from sim.study.from_jobs import Given
    from sim.study.study import Study
    from sim.study.targets import Target

ClusterOption = Annotated[
    str | None, typer.Option(metavar="A.TOML,...", help="Cluster files, instead of --nodes.")
]
DaysOption = Annotated[
    float | None, typer.Option(help="Take the first days of --jobs.", show_default="all")
]
PlaneOption = Annotated[
    str | None,
    typer.Option(help="With --jobs: a name or TOML file.", show_default="kubernetes"),
]
ProcessesOption = Annotated[
    int | None, typer.Option(help="Local processes.", show_default="one per core, at most 8")
]
ExecutorOption = Annotated[str, typer.Option(help="local or dask:ADDRESS.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog="Example: muster study --jobs jobs.txt --nodes 40,60,80 --gpus-per-node 4; "
        "or, with all settings in a file: muster study --settings study.toml --out runs/study"
    )(study)
    app.command(
        epilog="Example: muster plan --jobs jobs.txt --gpus-per-node 4 --delay-p95 30m; "
        "or, with all settings in a file: muster plan plan.toml --out runs/plan"
    )(plan)


@with_options(shape=node_options, reader=reader_options)
def study(
    *,
    jobs: JobsOption = None,
    nodes: Annotated[
        str | None, typer.Option(metavar="N,...", help="With --jobs: sizes of the cluster.")
    ] = None,
    shape: NodeShape,
    cluster: ClusterOption = None,
    days: DaysOption = None,
    arms: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="With --jobs: among gang-fifo, gang-easy, pod and permit.",
            show_default="all; pod and permit if jobs have several pods",
        ),
    ] = None,
    control_plane: PlaneOption = None,
    settings: Annotated[
        Path | None,
        typer.Option(help="Settings of the study, instead of --jobs.", show_default="study.toml"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for runs and report.", show_default="runs/study"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small form: the sizes of [quick].")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Every arm for all days of its workload; takes hours.")
    ] = False,
    processes: ProcessesOption = None,
    executor: ExecutorOption = "local",
    shard: Annotated[str | None, typer.Option(help="i/n: run only this share of points.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Run nothing; build the report of finished points.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Build the report at the end.")
    ] = True,
    reader: Reader,
) -> None:
    """Simulate cluster sizes x workloads x arms and write a report; finished points stay."""
    if quick and full:
        raise ValueError("--quick and --full exclude each other; give one of them")
    form = "quick" if quick else "full" if full else ""
    _refuse_mixed(
        jobs,
        settings,
        "study.toml",
        {"quick": quick, "full": full},
        {"nodes": nodes, "cluster": cluster, "days": days, "arms": arms,
         "control_plane": control_plane},
        shape,
        reader,
    )  # fmt: skip
    from sim.runs import owned
    from sim.study import from_jobs, kept
    from sim.study.study import Study, run_study
    from sim.study.sweep import Shard, available_cores

    if jobs is None:
        settings = settings or Path("study.toml")
        out = out or Path(f"runs/study-{form}" if form else "runs/study")
        chosen = Study.load(settings)
        chosen = chosen.shortened() if quick else chosen.full() if full else chosen
        again = ["--settings", str(settings), *([f"--{form}"] if form else [])]
    else:
        check_sizes(nodes, cluster, shape)
        given = _given(jobs, reader, shape, cluster, days, control_plane, _counts(nodes))
        out = out or Path(f"runs/study-{given.name}")
    if report:  # before hours of simulation, not after them
        owned.refuse_foreign(out, owned.PAGES)
    at_once = _positive(processes, "--processes") or min(available_cores(), 8)
    share = None if shard is None else Shard.parse(shard)
    failing = nullcontext() if share else kept.nothing_left_of_failure(out.resolve())
    with of_settings(settings), failing:
        if jobs is not None:
            chosen = from_jobs.study(given, _names(arms), out.resolve())
            again = ["the options of this one"]
        if not merge:
            run_study(chosen, out, processes=at_once, executor=executor, shard=share)
        _finish_study(chosen, out, again, merge=merge, report=report, is_of_jobs=jobs is not None)


def _finish_study(
    study: Study, out: Path, again: list[str], *, merge: bool, report: bool, is_of_jobs: bool
) -> None:
    """Print what a study found, or what of it is missing."""
    from sim.report.headlines import study_lines
    from sim.study import from_jobs
    from sim.study.study import outcome, reading_lines

    status = outcome(study, out)
    if status.missing:
        total = len(status.done) + len(status.missing)
        text = f"{len(status.done)} of {total} points are done; missing: " + ", ".join(
            [*status.missing[:3], *(["..."] if len(status.missing) > 3 else [])]
        )
        if merge:
            raise ValueError(f"{text}; run muster study with the same settings first")
        if is_of_jobs:
            print(f"{text}. The other shards make them; then the same command with --merge")
        else:
            same = shlex.join([*again, "--out", str(out)])
            print(f"{text}. The other shards make them; then: muster study --merge {same}")
        return
    for line in [*reading_lines(study, out), *study_lines(status.done)]:
        print(line)
    if is_of_jobs and (written := from_jobs.write_settings(study, out)):
        print(f"settings  {written}")
    if report:
        page = build_report(status.done, out, title=study.title or None, study=WORDS.get())
        print(f"report  {page}")


@with_options(shape=node_options, targets=target_options, reader=reader_options)
def plan(
    *,
    settings: Annotated[
        Path | None,
        typer.Argument(help="Settings of the plan, instead of --jobs.", show_default="plan.toml"),
    ] = None,
    jobs: JobsOption = None,
    nodes: Annotated[
        str | None,
        typer.Option(
            metavar="LOW-HIGH",
            help="With --jobs: sizes to search.",
            show_default="from the largest job to where no job waits",
        ),
    ] = None,
    shape: NodeShape,
    cluster: ClusterOption = None,
    days: DaysOption = None,
    arm: Annotated[
        str | None,
        typer.Option(
            help="With --jobs: gang-fifo, gang-easy, pod or permit.", show_default="gang-easy"
        ),
    ] = None,
    control_plane: PlaneOption = None,
    targets: tuple[Target, ...],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for answer and picture.", show_default="runs/plan"),
    ] = None,
    processes: ProcessesOption = None,
    executor: ExecutorOption = "local",
    reader: Reader,
) -> None:
    """Find the smallest cluster, or the largest load, that meets targets."""
    _refuse_mixed(
        jobs,
        settings,
        "plan.toml",
        {},
        {"nodes": nodes, "cluster": cluster, "days": days, "arm": arm,
         "control_plane": control_plane, "targets": targets},
        shape,
        reader,
    )  # fmt: skip
    from sim.study import costcurve, from_jobs, kept
    from sim.study.plan import Plan
    from sim.study.search import reading_lines, solve
    from sim.study.sweep import available_cores

    cores = _positive(processes, "--processes") or min(available_cores(), 8)
    if jobs is None:
        out = out or Path("runs/plan")
        settings = settings or Path("plan.toml")
        chosen = Plan.load(settings)
    else:
        check_sizes(nodes, cluster, shape, needed=False)
        given = _given(jobs, reader, shape, cluster, days, control_plane, ())
        out = out or Path(f"runs/plan-{given.name}")
    with of_settings(settings), kept.nothing_left_of_failure(out.resolve()):
        if jobs is not None:
            bounds = None if nodes is None else _bounds(nodes)
            chosen = from_jobs.plan(given, arm or "gang-easy", targets, bounds, out.resolve())
        answer = solve(chosen, out, processes=cores, executor=executor)
    searched: costcurve.Bounds = "vary" if jobs is None else "jobs" if nodes is None else "--nodes"
    paths = costcurve.write(chosen, answer, out, searched)
    for line in reading_lines(chosen, out):
        print(line)
    for target in chosen.target:
        print(f"target   {target.sentence()}")
    print(costcurve.headline(chosen, answer, searched))
    if answer.limit is None:
        print(f"curve    {paths['cost_curve.png']}")
        raise typer.Exit(1)
    print(costcurve.binding(answer))
    print(f"curve    {paths['cost_curve.png']}")


def _refuse_mixed(
    jobs: Path | None,
    settings: Path | None,
    usual: str,
    with_settings: dict[str, Any],
    of_jobs: dict[str, Any],
    shape: NodeShape,
    reader: Reader,
) -> None:
    """Raise ValueError if flags for a jobs file and a settings file are given together."""
    if jobs is not None:
        if settings is not None:
            raise ValueError(
                f"--jobs and the settings {str(settings)!r} both say what to simulate; give one: "
                "a [[workload]] of a settings file may have jobs as well"
            )
        for name, value in with_settings.items():
            if value:
                raise ValueError(f"--{name} is for a settings file; with --jobs give --days")
        return
    given = [name for name, value in of_jobs.items() if value not in (None, ())]
    if given := [*given, *shape.given(), *reader.given()]:
        flag = "a target" if given[0] == "targets" else f"--{given[0].replace('_', '-')}"
        raise ValueError(
            f"{flag} goes with --jobs FILE; without it the settings of "
            f"{str(settings or usual)!r} apply (docs/study.md): change them there"
        )


def _given(
    jobs: Path,
    reader: Reader,
    shape: NodeShape,
    cluster: str | None,
    days: float | None,
    control_plane: str | None,
    nodes: tuple[int, ...],
) -> Given:
    from sim.study.from_jobs import Given

    return Given(
        jobs,
        reader,
        nodes,
        shape,
        tuple(_names(cluster)),
        days,
        control_plane or "kubernetes",
    )


def _names(text: str | None) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()] if text else []


def _counts(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in _names(text))
    except ValueError:
        raise ValueError(
            f"--nodes is {text!r}; give whole numbers with commas, such as 40,60,80"
        ) from None


def _bounds(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        return int(low), int(high)
    except ValueError:
        raise ValueError(f"--nodes is {text!r}; give LOW-HIGH, such as 40-200") from None


def _positive(value: int | None, option: str) -> int | None:
    if value is not None and value < 1:
        raise ValueError(f"{option} is {value}; give at least 1")
    return value
