"""`muster calibrate` and `muster plan-checkpoint`: what restarts cost, and how often to save."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: muster calibrate runs/train/*.jsonl --out costs.toml")(calibrate)
    app.command(
        "plan-checkpoint",
        epilog="Example: muster plan-checkpoint --mtbf 6h --save 30s --restore 2min",
    )(plan_checkpoint)


def calibrate(
    logs: Annotated[
        list[Path], typer.Argument(help="Goodput logs of a trainer: files, or folders of *.jsonl.")
    ],
    out: Annotated[Path, typer.Option(help="File for the costs.")] = Path("costs.toml"),
    picture: Annotated[
        Path | None, typer.Option(help="PNG or SVG of where the runs' time went.")
    ] = None,
) -> None:
    """Turn goodput logs into costs for `muster run --costs`, and say where the time went."""
    from sim.goodput.calibrate import calibrate_log, table
    from sim.goodput.log import read
    from sim.goodput.split import save_picture, split_log
    from sim.schema import costs

    log = read(logs)
    found, spent = calibrate_log(log), split_log(log)
    print(spent.table())
    print(f"\ncosts, seconds, from {found.measured}\n{table(found)}")
    costs.write(found, out)
    print(f"costs    {out}")
    if picture is not None:
        save_picture(spent, picture)
        print(f"picture  {picture}")


def plan_checkpoint(
    mtbf: Annotated[
        str, typer.Option(help="Mean time between failures of the job; of one node with --nodes.")
    ],
    save: Annotated[str, typer.Option(help="How long a checkpoint stops the job.")],
    restore: Annotated[
        str, typer.Option(help="Time from a failure until steps continue, restore included.")
    ] = "0s",
    nodes: Annotated[
        int | None, typer.Option(help="Nodes of the job; a failure of any node stops it.")
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(help="Work to simulate.", show_default="400 times the MTBF"),
    ] = None,
    shape: Annotated[
        float,
        typer.Option(help="Gamma shape of times between failures: 1 memoryless, below 1 bursts."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the failures.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for picture and table.")] = Path(
        "runs/checkpoint"
    ),
) -> None:
    """Say how often to save a checkpoint, by formula, and check it by simulation."""
    from sim.goodput.checkpoints import Question, answer_lines, check, write
    from sim.report.wording import seconds

    if nodes is not None and nodes < 1:
        raise ValueError(f"--nodes is {nodes}; give at least 1")
    mtbf_s = seconds(mtbf, "--mtbf") / (nodes or 1)
    question = Question(
        mtbf_s=mtbf_s,
        save_s=seconds(save, "--save"),
        restore_s=seconds(restore, "--restore"),
        work_s=400.0 * mtbf_s if days is None else days * 86400.0,
        seed=seed,
        shape=shape,
    )
    question.check()
    found = check(question)
    for line in answer_lines(found):
        print(line)
    print(f"picture  {write(found, out)}")
