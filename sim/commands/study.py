"""`muster study` and `muster plan`: many runs, and what they say together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.commands.report import build_report


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog="Example: muster study --settings study.toml --out runs/study --processes 4"
    )(study)
    app.command(epilog="Example: muster plan plan.toml --out runs/plan")(plan)


def study(
    settings: Annotated[Path, typer.Option(help="Settings of the study.")] = Path("study.toml"),
    out: Annotated[Path, typer.Option(help="Folder for runs and report.")] = Path("runs/study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Small form: the sizes of [quick].")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Every arm for all days of its workload; takes hours.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(help="Local processes.", show_default="one per core, at most 8")
    ] = None,
    executor: Annotated[str, typer.Option(help="local or dask:ADDRESS.")] = "local",
    shard: Annotated[str | None, typer.Option(help="i/n: run only this share of points.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Run nothing; build the report of finished points.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Build the report at the end.")
    ] = True,
) -> None:
    """Simulate cluster sizes x workloads x arms and write a report; finished points stay."""
    from sim.runs import owned
    from sim.study.study import Study, outcome, run_study
    from sim.study.sweep import Shard, available_cores

    if quick and full:
        raise ValueError("--quick and --full say opposite things; give one of them")
    form = "quick" if quick else "full" if full else ""
    if form and out == Path("runs/study"):
        out = Path(f"runs/study-{form}")
    chosen = Study.load(settings)
    chosen = chosen.shortened() if quick else chosen.full() if full else chosen
    if report:  # before hours of simulation, not after them
        owned.refuse_foreign(out, owned.PAGES)
    if merge:
        status = outcome(chosen, out)
    else:
        status = run_study(
            chosen,
            out,
            processes=_positive(processes, "--processes") or min(available_cores(), 8),
            executor=executor,
            shard=None if shard is None else Shard.parse(shard),
        )
    if status.missing:
        total = len(status.done) + len(status.missing)
        text = f"{len(status.done)} of {total} points are done; missing: " + ", ".join(
            [*status.missing[:3], *(["..."] if len(status.missing) > 3 else [])]
        )
        if merge:
            raise ValueError(f"{text}; run muster study with the same settings first")
        same = f"--settings {settings} --out {out}{f' --{form}' if form else ''}"
        print(f"{text}. The other shards make them; then: muster study --merge {same}")
        return
    from sim.report.headlines import study_lines

    for line in study_lines(status.done):
        print(line)
    if report:
        print(f"report  {build_report(status.done, out, title=chosen.title or None)}")


def _positive(value: int | None, option: str) -> int | None:
    if value is not None and value < 1:
        raise ValueError(f"{option} is {value}; give at least 1")
    return value


def plan(
    settings: Annotated[Path, typer.Argument(help="Settings of the plan.")] = Path("plan.toml"),
    out: Annotated[Path, typer.Option(help="Folder for answer and picture.")] = Path("runs/plan"),
    processes: Annotated[
        int | None, typer.Option(help="Local processes.", show_default="one per core, at most 8")
    ] = None,
    executor: Annotated[str, typer.Option(help="local or dask:ADDRESS.")] = "local",
) -> None:
    """Find the smallest cluster, or the largest load, that meets targets."""
    from sim.study import costcurve
    from sim.study.plan import Plan
    from sim.study.search import solve
    from sim.study.sweep import available_cores

    chosen = Plan.load(settings)
    cores = _positive(processes, "--processes") or min(available_cores(), 8)
    answer = solve(chosen, out, processes=cores, executor=executor)
    paths = costcurve.write(chosen, answer, out)
    for target in chosen.target:
        print(f"target   {target.sentence()}")
    print(costcurve.headline(chosen, answer))
    if answer.limit is None:
        print(f"curve    {paths['cost_curve.png']}")
        raise typer.Exit(1)
    print(costcurve.binding(answer))
    print(f"curve    {paths['cost_curve.png']}")
