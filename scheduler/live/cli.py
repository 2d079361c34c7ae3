"""`muster live` and the commands beside it."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from scheduler import compiled

log = logging.getLogger("muster")
#: what a line is about, given as `extra`
ABOUT = ("gang", "pod", "node")


class Lines(logging.Formatter):
    """Structured logs: one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in ABOUT if hasattr(record, name)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def live(
    config: Annotated[Path, typer.Option(help="Settings, a TOML file; see docs/live.md.")],
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Admit gangs on a Kubernetes cluster. Example: muster live --config muster.toml"""
    import uvloop

    from scheduler.controller.settings import load
    from scheduler.kube.lease import LeaseLostError
    from scheduler.live.service import serve

    if not config.is_file():
        raise ValueError(f"--config {str(config)!r}: no such file")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    settings = load(config)
    log.info("starting; the core is %s", compiled.which())
    try:
        uvloop.run(serve(settings))
    except ValueError:
        raise  # for the user, who reads it at the start
    except Exception as error:
        for one in leaves(error):
            meant = isinstance(one, LeaseLostError)  # where it happened tells nothing
            log.critical("muster exits: %s", one or repr(one), exc_info=None if meant else one)
        raise typer.Exit(1) from None


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the single errors of an exception, which may be a group."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


def ungate(
    kubeconfig: Annotated[
        str, typer.Option(help="Default: KUBECONFIG, ~/.kube/config, or in-cluster.")
    ] = "",
    context: Annotated[str, typer.Option(help="In the kubeconfig; default: the current one.")] = "",
    namespace: Annotated[str, typer.Option(help="Only pods of this namespace.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Pods of all namespaces.")] = False,
) -> None:
    """Release gated pods, and resume jobs that muster suspended. Example: muster ungate --all"""
    if bool(namespace) == everything:
        raise ValueError("give --namespace NAME or --all")
    import asyncio

    from scheduler.live.uninstall import resume
    from scheduler.live.uninstall import ungate as take_off

    try:
        count, unserved = asyncio.run(take_off(kubeconfig, context, namespace))
        print(f"{count} pods ungated")
        if unserved:
            print(
                f"{unserved} pods without a node name a scheduler that goes away with muster. A "
                "pod's scheduler cannot be changed: create them again with another schedulerName"
            )
    finally:
        if resumed := asyncio.run(resume(kubeconfig, context, namespace)):
            print(f"resumed {resumed} jobs that muster had suspended")


def replay(
    journal: Annotated[Path, typer.Argument(help="journal.jsonl of a live muster.")],
) -> None:
    """Check that the core decides the same again. Example: muster replay journal.jsonl"""
    from scheduler.journal.replay import replay as feed

    done = feed(journal)
    for gap in done.gaps:
        print(gap, file=sys.stderr)
    if done.difference:
        print(done.difference, file=sys.stderr)
        raise typer.Exit(1)
    gaps = f", {len(done.gaps)} gaps" if done.gaps else ""
    print(
        f"{done.num_decisions} decisions in {done.num_lines} lines equal, "
        f"{done.num_states} states{gaps}"
    )


def register(app: typer.Typer) -> None:
    """Add the commands to `muster`."""
    app.command()(live)
    app.command()(ungate)
    app.command()(replay)
