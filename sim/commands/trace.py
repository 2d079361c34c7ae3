"""`muster trace`: look at, convert and generate workloads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scheduler import whole

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at, convert and generate workloads.",
)

BadRow = Literal["fail", "skip"]
Kind = Literal["jobs", "swf", "philly", "openb", "helios", "acme"]

FileArgument = Annotated[Path, typer.Argument(help="Jobs table or public trace.")]
KindOption = Annotated[
    Kind | None, typer.Option(help="Form of the file.", show_default="told from name and header")
]
GpusPerPodOption = Annotated[
    int | None, typer.Option(help="SWF only: processors that make one pod.", show_default="1")
]
BadRowOption = Annotated[BadRow, typer.Option(help="skip: leave bad rows out and count them.")]


@app.command(epilog="Example: muster trace describe jobs.csv --gpus 512")
def describe(
    file: FileArgument,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of a cluster: print the load on it.")
    ] = None,
    kind: KindOption = None,
    gpus_per_pod: GpusPerPodOption = None,
    on_bad_row: BadRowOption = "fail",
) -> None:
    """Print counts, quantiles of size and duration, and load."""
    jobs, _ = _load(file, kind, gpus_per_pod, on_bad_row)
    from traces import description

    print(description.describe(jobs, gpus))


@app.command(epilog="Example: muster trace convert trace.swf jobs.parquet --gpus-per-pod 8")
def convert(
    file: FileArgument,
    out: Annotated[Path, typer.Argument(help="Jobs table: .csv, .csv.gz or .parquet.")],
    kind: KindOption = None,
    gpus_per_pod: GpusPerPodOption = None,
    on_bad_row: BadRowOption = "fail",
) -> None:
    """Write a trace as a jobs table; with --on-bad-row skip, bad rows go to OUT.rejected.csv."""
    jobs, rejected = _load(file, kind, gpus_per_pod, on_bad_row)
    _write(jobs, out)
    if len(rejected):
        beside = out.with_name(f"{out.name}.rejected.csv")
        with whole.replacing(beside) as part:
            rejected.to_csv(part, index=False)
        print(f"rows left out: {beside}")


@app.command(
    epilog="Example: muster trace generate jobs.parquet --profile openai_like --gpus 20000 "
    "--days 30 --load 0.85"
)
def generate(
    out: Annotated[Path, typer.Argument(help="Jobs table: .csv, .csv.gz or .parquet.")],
    gpus: Annotated[int, typer.Option(help="GPUs of the cluster.")],
    profile: Annotated[
        str | None,
        typer.Option(help="acme, seren, kalos, helios, philly, mixed or openai_like."),
    ] = None,
    superpose: Annotated[
        Literal["philly"] | None, typer.Option(help="Real jobs, copied up to the cluster's size.")
    ] = None,
    days: Annotated[float, typer.Option(help="Time over which jobs are submitted.")] = 30.0,
    load: Annotated[float, typer.Option(help="GPU-seconds / (capacity x time).")] = 0.85,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    tail_scale: Annotated[
        float | None,
        typer.Option(
            help="How the largest gangs grow with the cluster, 0 to 1; with --profile.",
            show_default="1",
        ),
    ] = None,
) -> None:
    """Generate a workload, or scale real jobs to a cluster."""
    from sim.study.settings import WorkloadSettings

    if superpose is not None and tail_scale is not None:
        raise ValueError("--tail-scale goes with --profile; real jobs keep their size")
    workload = WorkloadSettings(
        name="generated",
        profile=profile or "",
        superpose=superpose or "",
        load=load,
        days=days,
        tail_scale=1.0 if tail_scale is None else tail_scale,
    )
    if (profile is None) == (superpose is None):
        raise ValueError("give --profile NAME or --superpose philly")
    if gpus < 1:
        raise ValueError(f"--gpus is {gpus}; give at least 1")
    if seed < 0:
        raise ValueError(f"--seed is {seed}; give 0 or more")
    workload.check("the command line")
    _write(workload.make(gpus, seed), out)


@app.command(epilog="Example: muster trace validate-model --out runs/model")
def validate_model(
    out: Annotated[Path, typer.Option(help="Folder for page, table and picture.")] = Path(
        "runs/model"
    ),
) -> None:
    """Compare generated workloads with the published figures they are calibrated to."""
    from sim.commands.modelcheck import write

    print(write(out))


def _load(
    file: Path, kind: Kind | None, gpus_per_pod: int | None, on_bad_row: BadRow
) -> tuple[pd.DataFrame, pd.DataFrame]:
    import traces

    loaded = traces.load(file, kind=kind, gpus_per_pod=gpus_per_pod, on_bad_row=on_bad_row)
    if loaded.jobs.empty:
        raise ValueError(f"jobs file {str(file)!r} holds no jobs")
    if len(loaded.rejected):
        print(f"{len(loaded.rejected):,} rows left out", file=sys.stderr)
    return loaded.jobs, loaded.rejected


def _write(jobs: pd.DataFrame, out: Path) -> None:
    import traces

    if out.parent != Path() and not out.parent.is_dir():
        raise ValueError(f"{str(out)!r}: folder {str(out.parent)!r} does not exist")
    path = traces.convert(jobs, out)
    print(f"{len(jobs):,} jobs: {path}")
