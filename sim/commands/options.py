"""Options that several commands share, declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from sim.schema.cluster import NodeShape

if TYPE_CHECKING:
    from sim.runs.reader import Reader
    from sim.study.targets import Target

#: what builders return and commands take, imported when they run
LATER = {"Reader": Any, "Target": Any, "NodeShape": Any}
Command = TypeVar("Command", bound=Callable[..., Any])

JobsOption = Annotated[
    Path | None, typer.Option(help="Jobs file: a table, or a log of a known format.")
]
DurationOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Upper limit, such as 90s, 30m, 6h or 2d.")
]


#: the words of the command line, after the program's name: reports print commands made from them
WORDS: ContextVar[tuple[str, ...]] = ContextVar("WORDS", default=())


def one_line(text: str) -> str:
    """Return a message without its line breaks."""
    return " ".join(text.split())


def one_of(words: Iterable[str]) -> str:
    """Return how help shows a choice."""
    return f"[{'|'.join(words)}]"


def node_options(
    gpus_per_node: Annotated[
        int | None, typer.Option(help="GPUs of each node; 0: none.", show_default="8")
    ] = None,
    cpu_per_node: Annotated[
        float | None, typer.Option(help="CPUs of each node.", show_default="no limit")
    ] = None,
    mem_gib_per_node: Annotated[
        float | None, typer.Option(help="GiB of memory of each node.", show_default="no limit")
    ] = None,
) -> NodeShape:
    """Return the shape of each of the --nodes."""
    return NodeShape(gpus_per_node, cpu_per_node, mem_gib_per_node)


def check_sizes(nodes: object, cluster: object, shape: NodeShape, *, needed: bool = True) -> None:
    """Raise ValueError if --nodes and --cluster are both given, or, where needed, neither."""
    if nodes is not None and cluster is not None:
        raise ValueError(
            "give --nodes N (and --gpus-per-node G) or --cluster FILE.toml, not both: a cluster "
            "file says how many nodes each of its pools has"
        )
    if cluster is not None and shape.given():
        name = shape.given()[0].replace("_", "-")
        raise ValueError(
            f"--{name} is for --nodes; a cluster file sets it for each pool: leave it out"
        )
    if needed and nodes is None and cluster is None:
        raise ValueError("give --nodes N (and --gpus-per-node G) or --cluster FILE.toml")


def reader_options(
    kind: Annotated[
        str | None,
        typer.Option(
            help="Format of the jobs file (docs/tables.md).", show_default="from its content"
        ),
    ] = None,
    on_bad_row: Annotated[
        Literal["fail", "skip"], typer.Option(help="skip: leave bad rows out and count them.")
    ] = "fail",
    rename: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="THEIRS=OURS",
            help="Column THEIRS of the file is muster's column OURS.",
        ),
    ] = None,
    ignore_extra: Annotated[
        bool, typer.Option("--ignore-extra", help="Ignore columns that muster does not know.")
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Columns of a file without a header line."),
    ] = None,
    dates: Annotated[
        Literal["day-first", "month-first"] | None,
        typer.Option(help="How dates such as 03/04/2026 are meant."),
    ] = None,
    gpus_per_pod: Annotated[
        int | None,
        typer.Option(help="For logs that count processors: processors per pod.", show_default="1"),
    ] = None,
) -> Reader:
    """Return how a jobs file is to be read."""
    from sim.runs.reader import Reader

    return Reader(
        kind=kind or "",
        on_bad_row=on_bad_row,
        map=dict(map(_renamed, rename or [])),
        ignore_extra=ignore_extra,
        columns=tuple(name.strip() for name in columns.split(",")) if columns else (),
        dates=dates or "",
        gpus_per_pod=gpus_per_pod,
    )


def _renamed(text: str) -> tuple[str, str]:
    theirs, equals, ours = text.rpartition("=")
    if not (theirs and equals and ours):
        raise ValueError(f"--map {text}: give THEIRS=OURS, such as --map gpu_count=gpus")
    return theirs, ours


#: targets of a plan: flag -> (metric, whether its value is a duration)
TARGETS = {
    "pending_p50": ("pending_pods_p50", False),
    "pending_p99": ("pending_pods_p99", False),
    "pending_max": ("pending_pods_max", False),
    "delay_p50": ("queueing_delay_p50_s", True),
    "delay_p95": ("queueing_delay_p95_s", True),
    "delay_p99": ("queueing_delay_p99_s", True),
    "jct_p95": ("jct_p95_s", True),
    "slowdown_p95": ("bounded_slowdown_p95", False),
}


def target_options(
    pending_p50: Annotated[
        float | None, typer.Option(help="Upper limit of pending pods, median.")
    ] = None,
    pending_p99: Annotated[
        float | None, typer.Option(help="Upper limit of pending pods, p99.")
    ] = None,
    pending_max: Annotated[
        float | None, typer.Option(help="Upper limit of pending pods, peak.")
    ] = None,
    delay_p50: DurationOption = None,
    delay_p95: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Upper limit of the p95 queueing delay.",
            show_default="30min if no target is given",
        ),
    ] = None,
    delay_p99: DurationOption = None,
    jct_p95: DurationOption = None,
    slowdown_p95: Annotated[
        float | None, typer.Option(help="Upper limit of bounded slowdown, p95.")
    ] = None,
    allocation: Annotated[
        float | None, typer.Option(help="Minimum allocation, from 0 to 1.")
    ] = None,
) -> tuple[Target, ...]:
    """Return the targets that are given: at most these values."""
    given = {name: value for name, value in locals().items() if value is not None}
    if not given:
        return ()
    from sim.report.wording import seconds
    from sim.study.targets import Target

    found = []
    for name, (metric, is_duration) in TARGETS.items():
        if name in given:
            flag = f"--{name.replace('_', '-')}"
            limit = seconds(given[name], flag) if is_duration else given[name]
            found.append(Target(metric=metric, at_most=limit))
    if allocation is not None:
        found.append(Target(metric="allocation_ratio", at_least=allocation))
    return tuple(found)


def with_options(**builders: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command the options of builders in place of its parameters of these names.

    The command gets what each builder returns; its help lists the options of both.
    """

    def decorate(command: Command) -> Command:
        parameters, own = [], {}
        shown = inspect.signature(command).parameters
        # what a builder returns need not be imported here to describe the options
        unknown = {str(shown[name].annotation): Any for name in builders}
        hints_of = functools.cache(
            functools.partial(get_type_hints, localns={**unknown, **LATER}, include_extras=True)
        )
        for name, parameter in shown.items():
            source: Callable[..., Any] = builders.get(name, command)
            hints = hints_of(source)
            new = inspect.signature(source).parameters if name in builders else {name: parameter}
            own[name] = list(new)
            parameters += [
                one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
                for one in new.values()
            ]

        def wrapped(**given: Any) -> Any:
            built = {
                name: build(**{one: given.pop(one) for one in own[name]})
                for name, build in builders.items()
            }
            return command(**given, **built)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    return decorate
