"""Options that several commands share, declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from sim.schema.cluster import NodeShape

if TYPE_CHECKING:
    from sim.runs.reader import Reader

Command = TypeVar("Command", bound=Callable[..., Any])

JobsOption = Annotated[
    Path | None, typer.Option(help="Jobs file: a table, or a log of a known format.")
]


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
    """Return what each of --nodes has."""
    return NodeShape(gpus_per_node, cpu_per_node, mem_gib_per_node)


def check_sizes(nodes: object, cluster: object, shape: NodeShape) -> None:
    """Raise ValueError unless --nodes or --cluster says how large the cluster is, and not both."""
    if nodes is not None and cluster is not None:
        raise ValueError(
            "give --nodes N (and --gpus-per-node G) or --cluster FILE.toml, not both: a cluster "
            "file says how many nodes each of its pools has"
        )
    if cluster is not None and shape.given():
        name = shape.given()[0].replace("_", "-")
        raise ValueError(f"--{name} goes with --nodes; a cluster file has its own: leave it out")
    if nodes is None and cluster is None:
        raise ValueError("give --nodes N (and --gpus-per-node G) or --cluster FILE.toml")


def reader_options(
    kind: Annotated[
        str | None,
        typer.Option(
            help="Format of the jobs file (docs/tables.md).", show_default="told from its content"
        ),
    ] = None,
    on_bad_row: Annotated[
        Literal["fail", "skip"], typer.Option(help="skip: leave bad rows out and count them.")
    ] = "fail",
    rename: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="THEIRS=OURS", help="A column's name there and here."),
    ] = None,
    ignore_extra: Annotated[
        bool, typer.Option("--ignore-extra", help="Pass over columns that muster does not know.")
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
        typer.Option(help="In logs that count processors: so many make one pod.", show_default="1"),
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


def with_options(**builders: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command the options of builders in place of its parameters of these names.

    The command gets what each builder returns; its help lists the options of both.
    """

    def decorate(command: Command) -> Command:
        parameters, own = [], {}
        shown = inspect.signature(command).parameters
        # what a builder returns need not be imported here to describe the options
        unknown = {str(shown[name].annotation): Any for name in builders}
        for name, parameter in shown.items():
            source: Callable[..., Any] = builders.get(name, command)
            hints = get_type_hints(source, localns={**unknown, "Reader": Any}, include_extras=True)
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
