"""`muster trace`: look at, convert and generate workloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at, convert and generate workloads.",
)

Kind = Literal["canonical", "swf", "philly", "openb", "helios", "acme"]


@app.command(epilog="Example: muster trace describe jobs.csv --gpus 512")
def describe(
    file: Annotated[Path, typer.Argument(help="Jobs table or public trace.")],
) -> None:
    """Print counts, quantiles of size and duration, and load."""


if __name__ == "__main__":
    app()
