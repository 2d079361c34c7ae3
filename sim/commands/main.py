"""The `muster` command. Libraries are imported by the subcommand that needs them."""

from __future__ import annotations

import sys

USAGE_ERROR, INTERRUPTED = 2, 130
#: commands that are done in parts, and keep those that are finished
GOES_ON = (["study"], ["plan"], ["train"], ["cluster", "up"], ["cluster", "down"])


def _interrupted(arguments: list[str]) -> int:
    goes_on = any(arguments[: len(command)] == command for command in GOES_ON)
    to = " to go on" if goes_on else ""
    print(f"\nmuster: interrupted; give the same command again{to}", file=sys.stderr)
    return INTERRUPTED


try:
    import gc
    import os
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, cast

    import typer

    from scheduler import compiled
    from scheduler.controlplane import cli as cli_cluster
    from scheduler.live import cli as cli_live
    from sim.commands import costs as cli_costs
    from sim.commands import queues as cli_queues
    from sim.commands import report as cli_report
    from sim.commands import run as cli_run
    from sim.commands import study as cli_study
    from sim.commands import trace as cli_trace
    from sim.commands import train as cli_train
    from sim.commands.options import WORDS, one_line, reader_options, with_options
except KeyboardInterrupt:  # these take longer than some people wait
    sys.exit(_interrupted(sys.argv[1:]))

if TYPE_CHECKING:
    from sim.runs.reader import Reader

app = typer.Typer(
    name="muster",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Gang admission for GPU clusters: simulate how many pods will be pending, and why.",
)
cli_run.register(app)
cli_study.register(app)
cli_report.register(app)
app.add_typer(cli_trace.app, name="trace")
app.add_typer(cli_queues.app, name="queues")
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
    """Run one command and return its exit code; user errors are one line on stderr."""
    # typer does not export the parent of all its usage errors by name
    usage_error = cast("type[Exception]", typer.BadParameter.__mro__[1])
    WORDS.set(tuple(arguments))
    try:
        code = app(args=arguments, prog_name="muster", standalone_mode=False)
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except usage_error as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if message.startswith("Usage:"):  # a group of commands without a command
            print(message, file=sys.stderr)
            return USAGE_ERROR
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "muster"
        return _usage(f"{one_line(message).rstrip('.')}; see {command} --help")
    except ValueError as error:
        return _usage(one_line(str(error)))
    except OSError as error:
        if error.filename is None:
            raise
        return _usage(f"{str(error.filename)!r}: {error.strerror}")
    if code == INTERRUPTED:
        return _interrupted(arguments)
    return code if isinstance(code, int) else 0


def _usage(message: str) -> int:
    print(f"muster: {message}", file=sys.stderr)
    return USAGE_ERROR


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            installed = version("muster-scheduler")
        except PackageNotFoundError:
            installed = "not installed, run from its source"
        print(f"muster {installed} ({compiled.which()})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: muster validate jobs.csv cluster.toml runs/easy")
@with_options(reader=reader_options)
def validate(
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(help="Jobs files, cluster, queues, study, plan or other TOML, runs."),
    ],
    reader: Reader,
) -> None:
    """Check schema and sanity of input files and run folders; the bad ones are named on stderr."""
    from sim.commands.validate import inspect

    code = 0
    for path in paths:
        try:
            print(f"{path}: {inspect(path, reader)}")
        except ValueError as error:
            code = _usage(one_line(str(error)))
        except OSError as error:
            code = _usage(f"{str(path)!r}: {error.strerror or error}")
    if code:
        raise typer.Exit(code)


if __name__ == "__main__":
    main()
