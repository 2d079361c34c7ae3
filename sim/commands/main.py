"""The `muster` command. Libraries are imported by the subcommand that needs them."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from scheduler import compiled
from scheduler.controlplane import cli as cli_cluster
from scheduler.live import cli as cli_live
from scheduler.policies import catalog
from sim.commands import costs as cli_costs
from sim.commands import trace as cli_trace
from sim.commands import train as cli_train
from sim.schema.config import Admission

if TYPE_CHECKING:
    from sim.runs.folder import RunResult

USAGE_ERROR, INTERRUPTED = 2, 130

app = typer.Typer(
    name="muster",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Gang admission for GPU clusters: simulate how many pods will be pending, and why.",
)
app.add_typer(cli_trace.app, name="trace")
app.add_typer(cli_cluster.app, name="cluster")
cli_live.register(app)
cli_costs.register(app)
cli_train.register(app)


def main() -> None:
    """Run the command line; the exit code is 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    # sums over tables need no threads, which only spin; what the user set holds
    if not any(f"{kind}_NUM_THREADS" in os.environ for kind in ("OPENBLAS", "GOTO", "OMP")):
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
    gc.set_threshold(50_000, 10, 10)  # libraries and tables stay; do not walk them again and again
    code = invoke(sys.argv[1:])
    gc.freeze()  # the process ends: nothing is worth collecting
    sys.exit(code)


def invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; what users can mend is one line on stderr."""
    # typer does not export the parent of all its usage errors by name
    usage_error = cast("type[Exception]", typer.BadParameter.__mro__[1])
    try:
        code = app(args=arguments, prog_name="muster", standalone_mode=False)
    except KeyboardInterrupt:
        return _interrupted()
    except usage_error as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if message.startswith("Usage:"):  # a group of commands without a command
            print(message, file=sys.stderr)
            return USAGE_ERROR
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "muster"
        return _usage(f"{_one_line(message).rstrip('.')}; see {command} --help")
    except ValueError as error:
        return _usage(_one_line(str(error)))
    except OSError as error:
        if error.filename is None:
            raise
        return _usage(f"{str(error.filename)!r}: {error.strerror}")
    if code == INTERRUPTED:
        return _interrupted()
    return code if isinstance(code, int) else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _usage(message: str) -> int:
    print(f"muster: {message}", file=sys.stderr)
    return USAGE_ERROR


def _interrupted() -> int:
    print("\nmuster: interrupted; give the same command again to go on", file=sys.stderr)
    return INTERRUPTED


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version("muster-scheduler")
        except PackageNotFoundError:
            installed = "not installed, run from its source"
        print(f"muster {installed} ({compiled.which()})")
        raise typer.Exit


def _one_of(words: Iterable[str]) -> str:
    return f"[{'|'.join(words)}]"


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Example: muster run --jobs jobs.csv --nodes 16 --discipline easy --out runs/easy"
)
def run(
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    jobs: Annotated[
        Path | None, typer.Option(help="Jobs table: CSV, CSV.gz, Parquet or SWF.")
    ] = None,
    snapshot: Annotated[
        Path | None,
        typer.Option(help="Instead of jobs and nodes: a live cluster as muster's /state tells it."),
    ] = None,
    journal: Annotated[
        list[Path] | None,
        typer.Option(help="Its journal, instead or besides: gangs arrive as they did."),
    ] = None,
    assumed_hours: Annotated[
        float, typer.Option(help="Run time of live gangs without walltime whose end is not known.")
    ] = 1.0,
    nodes: Annotated[int | None, typer.Option(help="Number of equal nodes.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(help="GPUs of each node.", show_default="8")
    ] = None,
    cluster: Annotated[Path | None, typer.Option(help="Cluster TOML, instead of --nodes.")] = None,
    order: Annotated[
        str | None,
        typer.Option(metavar=_one_of(catalog.ORDERS), help="Queue order.", show_default="fifo"),
    ] = None,
    discipline: Annotated[
        str | None,
        typer.Option(
            metavar=_one_of(catalog.DISCIPLINES),
            help="; ".join(f"{word}: {one.does}" for word, one in catalog.DISCIPLINES.items()),
            show_default="strict",
        ),
    ] = None,
    backfill: Annotated[
        str | None,
        typer.Option(
            metavar=_one_of(catalog.BACKFILLS), help="easy: an older way to write the discipline."
        ),
    ] = None,
    number: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A number that the discipline takes."),
    ] = None,
    admission: Annotated[
        Admission, typer.Option(help="Whole gangs, pods one by one, or pods until quorum.")
    ] = "gang",
    control_plane: Annotated[
        str, typer.Option(help="A name such as kubernetes, or a TOML file.")
    ] = "ideal",
    placement: Annotated[
        str | None,
        typer.Option(
            metavar=_one_of(catalog.PLACERS), help="Which nodes to take.", show_default="pack"
        ),
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="What starts, checkpoints and restarts cost: costs.toml.")
    ] = None,
    interrupts: Annotated[
        Path | None,
        typer.Option(help="TOML of [[interrupt]]: which job is cut when; with --costs."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of start times, costs and faults.")] = 0,
    audit: Annotated[
        bool, typer.Option("--audit", help="Check all accounts at each step.")
    ] = False,
    on_bad_row: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="skip: go on, and write the rows left out beside the run."),
    ] = "fail",
    until_days: Annotated[
        float | None, typer.Option(help="Stop at this day; by default the last job ends the run.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html beside the run.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier run in --out.")
    ] = False,
) -> None:
    """Simulate a jobs table on a cluster, or what a live cluster does next."""
    _refuse_overwrite(out, force)
    if until_days is not None and not until_days > 0:
        raise ValueError(f"--until-days is {until_days}; give a number above 0")
    until_s = None if until_days is None else until_days * 86400.0
    words = _policy_words(order, discipline, backfill, placement, number)
    if snapshot is not None or journal:
        if jobs is not None or nodes is not None or cluster is not None:
            raise ValueError(
                "--snapshot and --journal bring their own jobs and nodes; "
                "leave out --jobs, --nodes and --cluster"
            )
        if costs is not None:
            raise ValueError("--costs goes with --jobs; a live cluster's gangs go on without costs")
        result = _resumed(
            snapshot,
            journal or [],
            assumed_hours,
            words,
            admission=admission,
            control_plane=control_plane,
            seed=seed,
            audit=audit,
            until_s=until_s,
            label=out.name,
        )
        _finish_run(result, out, report)
        return
    if jobs is None:
        raise ValueError("give --jobs FILE, or --snapshot or --journal of a live cluster")
    if cluster is not None and gpus_per_node is not None:
        raise ValueError("--gpus-per-node goes with --nodes; a cluster file has its own")
    if nodes is None and cluster is None:
        raise ValueError("give --nodes N (and --gpus-per-node G) or --cluster FILE.toml")
    from sim.runs.experiment import run as simulate

    result = simulate(
        jobs,
        nodes=nodes,
        gpus_per_node=8 if gpus_per_node is None else gpus_per_node,
        cluster=cluster,
        progress=True,
        on_bad_row=on_bad_row,
        admission=admission,
        control_plane=control_plane,
        costs=costs,
        interrupt=interrupts,
        seed=seed,
        audit=audit,
        until_s=until_s,
        label=out.name,
        **words,
    )
    _finish_run(result, out, report)


def _policy_words(
    order: str | None,
    discipline: str | None,
    backfill: str | None,
    placement: str | None,
    numbers: list[str] | None,
) -> dict[str, Any]:
    """Return what the command line says of the policy."""
    given = {
        "order": order, "discipline": discipline, "backfill": backfill, "placement": placement,
    }  # fmt: skip
    words: dict[str, Any] = {name: word for name, word in given.items() if word is not None}
    if numbers:
        words["numbers"] = dict(map(_named_number, numbers))
    return words


def _named_number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--number {text}: give a name and a number, such as depth=3") from None


def _resumed(
    snapshot: Path | None,
    journal: list[Path],
    assumed_hours: float,
    words: dict[str, Any],
    **settings: Any,
) -> RunResult:
    """Simulate a live cluster; what of its policy is not given here is as it was live."""
    if not assumed_hours > 0:
        raise ValueError(f"--assumed-hours is {assumed_hours}; give a number above 0")
    if settings["admission"] != "gang":
        raise ValueError("a live cluster goes on with whole gangs; leave out --admission")
    from sim.journals.resumed import resume, scene
    from sim.runs.experiment import resolve

    built = scene(snapshot, journal, assumed_hours * 3600.0)
    config = resolve(None, {"policy": built.policy, **words, **settings})
    print(f"{'live':<11} {built.sentence()}")
    return resume(built, config, (snapshot or journal[-1]).name, progress=True)


def _finish_run(result: RunResult, out: Path, report: bool) -> None:
    result.save(out)
    _print_run(result, out)
    if report:
        print(f"report      {_build_report([out], out, known={out: result})}")


def _build_report(runs: Sequence[Path], out: Path, **options: Any) -> Path:
    from sim.report.artists import without_help_texts

    with without_help_texts():
        from sim.report.report import build_report
    return build_report(runs, out, **options)


def _refuse_overwrite(out: Path, force: bool) -> None:
    if out.is_file():
        raise ValueError(f"--out {str(out)!r} is a file; give a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    from sim.runs import owned
    from sim.runs.folder import is_run

    if not is_run(out):
        raise ValueError(f"--out {str(out)!r} is not empty and holds no run; give another folder")
    if not force:
        raise ValueError(f"--out {str(out)!r} holds an earlier run; give --force to replace it")
    owned.refuse_strangers(out, owned.RUN)


def _print_run(result: RunResult, out: Path) -> None:
    from sim.report.headlines import run_lines

    for line in run_lines(result, out):
        print(line)


@app.command(epilog="Example: muster study --settings study.toml --out runs/study --jobs 4")
def study(
    settings: Annotated[Path, typer.Option(help="Settings of the study.")] = Path("study.toml"),
    out: Annotated[Path, typer.Option(help="Folder for runs and report.")] = Path("runs/study"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Small form: the sizes of [quick].")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Every arm for all days of its workload; takes hours.")
    ] = False,
    jobs: Annotated[
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
            jobs=_positive(jobs, "--jobs") or min(available_cores(), 8),
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
        print(f"report  {_build_report(status.done, out, title=chosen.title or None)}")


def _positive(value: int | None, option: str) -> int | None:
    if value is not None and value < 1:
        raise ValueError(f"{option} is {value}; give at least 1")
    return value


@app.command(epilog="Example: muster report runs/fifo runs/easy --out runs/both")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs or studies, shown side by side; or the files of a live "
            "cluster's journal, the oldest first."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html.")] = Path("runs/report"),
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
) -> None:
    """Write report.html, report.md, pictures and tables of any runs."""
    journal = [path for path in runs if path.is_file()]
    folders = [folder for path in runs if path not in journal for folder in _runs_in(path)]
    if journal:
        from sim.journals.recorded import recorded

        live = recorded(journal)
        for line in live.manifest["set_aside"]:
            print(f"muster: set aside: {_one_line(line)}", file=sys.stderr)
        folders.append(live.save(out / "live"))
    print(f"report  {_build_report(folders, out, title=title)}")


def _runs_in(path: Path) -> list[Path]:
    """Return the run folders of a study, or the folder itself."""
    points = path / "points"
    return sorted(points.iterdir()) if points.is_dir() else [path]


@app.command(epilog="Example: muster diff runs/fifo runs/easy --top 20")
def diff(
    run_a: Annotated[Path, typer.Argument(help="A run.")],
    run_b: Annotated[Path, typer.Argument(help="Another run of the same jobs.")],
    top: Annotated[int, typer.Option(help="Jobs to list.")] = 10,
) -> None:
    """Say which jobs waited longer in one of two runs of the same jobs, and why."""
    from sim.report.diff import diff_runs

    print(diff_runs(run_a, run_b, top=top))


@app.command(epilog="Example: muster plan plan.toml --out runs/plan")
def plan(
    settings: Annotated[Path, typer.Argument(help="Settings of the plan.")] = Path("plan.toml"),
    out: Annotated[Path, typer.Option(help="Folder for answer and picture.")] = Path("runs/plan"),
    jobs: Annotated[
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
    cores = _positive(jobs, "--jobs") or min(available_cores(), 8)
    answer = solve(chosen, out, jobs=cores, executor=executor)
    paths = costcurve.write(chosen, answer, out)
    for target in chosen.target:
        print(f"target   {target.sentence()}")
    print(costcurve.headline(chosen, answer))
    if answer.limit is None:
        print(f"curve    {paths['cost_curve.png']}")
        raise typer.Exit(1)
    print(costcurve.binding(answer))
    print(f"curve    {paths['cost_curve.png']}")


@app.command(epilog="Example: muster validate jobs.csv cluster.toml runs/easy")
def validate(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Jobs tables, cluster, study, plan or control-plane TOML, runs."),
    ],
) -> None:
    """Check schema and sanity of input files and run folders."""
    from sim.commands.validate import inspect

    for path in paths:
        print(f"{path}: {inspect(path)}")


if __name__ == "__main__":
    main()
