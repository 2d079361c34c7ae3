"""`muster run`: one job list under one policy, or what a live cluster does next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.policies import catalog
from sim.commands.options import (
    WORDS,
    JobsOption,
    check_sizes,
    node_options,
    one_of,
    reader_options,
    with_options,
)
from sim.commands.report import build_report
from sim.schema.cluster import Cluster, NodeShape
from sim.schema.config import Admission

if TYPE_CHECKING:
    from sim.runs.folder import RunResult
    from sim.runs.reader import Reader


#: options that decide where a run goes, and nothing of what is in it
WHERE = ("out", "report", "force")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: muster run --jobs jobs.csv --nodes 16 --discipline easy --out runs/easy"
    )(run)


@with_options(reader=reader_options, shape=node_options)
def run(
    *,
    jobs: JobsOption = None,
    nodes: Annotated[int | None, typer.Option(help="Number of equal nodes.")] = None,
    shape: NodeShape,
    cluster: Annotated[Path | None, typer.Option(help="Cluster TOML, instead of --nodes.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    snapshot: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --jobs and --nodes: a live cluster, saved from muster's /state."
        ),
    ] = None,
    journal: Annotated[
        list[Path] | None,
        typer.Option(
            help="Journal of a live cluster, alone or with --snapshot: gangs arrive as they did."
        ),
    ] = None,
    assumed_hours: Annotated[
        float,
        typer.Option(
            help="Run time to assume for live gangs that have no walltime and no known end."
        ),
    ] = 1.0,
    order: Annotated[
        str | None,
        typer.Option(metavar=one_of(catalog.ORDERS), help="Queue order.", show_default="fifo"),
    ] = None,
    discipline: Annotated[
        str | None,
        typer.Option(
            metavar=one_of(catalog.DISCIPLINES),
            help="; ".join(f"{word}: {one.does}" for word, one in catalog.DISCIPLINES.items()),
            show_default="strict",
        ),
    ] = None,
    backfill: Annotated[
        str | None,
        typer.Option(
            metavar=one_of(catalog.BACKFILLS), help="easy: an older way to write the discipline."
        ),
    ] = None,
    number: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A parameter of the discipline."),
    ] = None,
    admission: Annotated[
        Admission,
        typer.Option(
            help="Whole gangs, pods one by one, or pods held until the gang has its quorum."
        ),
    ] = "gang",
    control_plane: Annotated[
        str, typer.Option(help="A name such as kubernetes, or a TOML file.")
    ] = "ideal",
    placement: Annotated[
        str | None,
        typer.Option(
            metavar=one_of(catalog.PLACERS), help="Which nodes to take.", show_default="pack"
        ),
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="What starts, checkpoints and restarts cost: costs.toml.")
    ] = None,
    queues: Annotated[
        Path | None,
        typer.Option(help="TOML of queues with quota (docs/queues.md); each has a discipline."),
    ] = None,
    interrupts: Annotated[
        Path | None,
        typer.Option(help="TOML of [[interrupt]]: when each job is interrupted; needs --costs."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of start times, costs and faults.")] = 0,
    audit: Annotated[
        bool, typer.Option("--audit", help="Check all accounting at every step.")
    ] = False,
    until_days: Annotated[
        float | None, typer.Option(help="Stop at this day; by default the last job ends the run.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html beside the run.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier run in --out.")
    ] = False,
    reader: Reader,
) -> None:
    """Simulate a jobs table on a cluster, or what a live cluster does next.

    The same command again, as after Ctrl-C in its report, goes on from the run that is there.
    """
    asked = _asked({name: value for name, value in locals().items() if name not in WHERE})
    earlier = None if force else _earlier(out, asked)
    if earlier is not None:
        print(f"{'run':<11} already exists; --force simulates it again")
        _say(earlier, out, report)
        return
    _refuse_overwrite(out, force)
    if until_days is not None and not until_days > 0:
        raise ValueError(f"--until-days is {until_days}; give a number above 0")
    until_s = None if until_days is None else until_days * 86400.0
    words = _policy_words(order, discipline, backfill, placement, number)
    if snapshot is not None or journal:
        if jobs is not None or nodes is not None or cluster is not None or shape.given():
            raise ValueError(
                "--snapshot and --journal have their own jobs and nodes; "
                "leave out --jobs, --nodes and --cluster"
            )
        if queues is not None:
            raise ValueError("--queues needs --jobs; gangs of a live cluster have one queue")
        if costs is not None:
            raise ValueError("--costs needs --jobs; gangs of a live cluster have no costs")
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
        _finish_run(result, out, report, asked)
        return
    if jobs is None:
        raise ValueError("give --jobs FILE, or --snapshot or --journal of a live cluster")
    check_sizes(nodes, cluster, shape)
    where = shape.of(nodes or 0) if cluster is None else Cluster.load(cluster)
    from sim.runs.experiment import run as simulate

    result = simulate(
        jobs,
        cluster=where,
        progress=True,
        **reader.given(),
        admission=admission,
        control_plane=control_plane,
        queues=queues,
        costs=costs,
        interrupt=interrupts,
        seed=seed,
        audit=audit,
        until_s=until_s,
        label=out.name,
        **words,
    )
    _finish_run(result, out, report, asked)


def _policy_words(
    order: str | None,
    discipline: str | None,
    backfill: str | None,
    placement: str | None,
    numbers: list[str] | None,
) -> dict[str, Any]:
    """Return the policy settings of the command line."""
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
    """Simulate a live cluster; settings of its policy that are not given here are the live ones."""
    if not assumed_hours > 0:
        raise ValueError(f"--assumed-hours is {assumed_hours}; give a number above 0")
    if settings["admission"] != "gang":
        raise ValueError(
            "a live cluster is simulated with gang admission only; leave out --admission"
        )
    from sim.journals.resumed import resume, scene
    from sim.runs.experiment import resolve

    built = scene(snapshot, journal, assumed_hours * 3600.0)
    config = resolve(None, {"policy": built.policy, **words, **settings})
    print(f"{'live':<11} {built.sentence()}")
    return resume(built, config, (snapshot or journal[-1]).name, progress=True)


def _asked(said: dict[str, Any]) -> str:
    """Return a digest of all inputs of a run: its options, the files they name, this code."""
    import hashlib
    import secrets

    import msgspec

    from sim.study.settings import code_sha256, digest

    def of_file(name: Any) -> str:
        path = Path(name)
        if path.exists() and not path.is_dir():
            if not path.is_file():  # a pipe: it is read once, and tells nobody what will come
                return secrets.token_hex()
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return str(name)  # whoever reads it says what it is not

    said = {**said, "control_plane": of_file(said["control_plane"])}
    return digest([msgspec.to_builtins(said, enc_hook=of_file), code_sha256()])


def _earlier(out: Path, asked: str) -> RunResult | None:
    """Return the run in a folder if it is the one that was asked for."""
    if not out.is_dir():
        return None
    from sim.runs.folder import RunResult, is_run, read_manifest

    if not is_run(out) or read_manifest(out).get("asked_sha256") != asked:
        return None
    try:
        return RunResult.load(out)
    except ValueError:  # damaged since
        return None


def _finish_run(result: RunResult, out: Path, report: bool, asked: str) -> None:
    result.manifest["asked_sha256"] = asked
    result.manifest["command"] = list(WORDS.get())
    result.save(out)
    _say(result, out, report)


def _say(result: RunResult, out: Path, report: bool) -> None:
    from sim.runs.reader import said_of_input

    for what, text in said_of_input(result.manifest):
        print(f"{what:<11} {text}")
    _print_run(result, out)
    if report:
        print(f"report      {build_report([out], out, known={out: result})}")


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
