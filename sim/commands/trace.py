"""`muster trace`: look at, convert and generate workloads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from scheduler import whole
from sim.commands.options import reader_options, with_options

if TYPE_CHECKING:
    import pandas as pd

    import traces
    from sim.runs.reader import Reader

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Describe, convert and generate workloads.",
)

FileArgument = Annotated[
    Path, typer.Argument(help="Jobs file: a table, or a log of a known format.")
]
GpusPerNodeOption = Annotated[
    int,
    typer.Option(min=0, help="GPUs of a node: jobs with more are divided into pods of this size."),
]


@app.command(epilog="Example: muster trace describe jobs.csv --gpus 512")
@with_options(reader=reader_options)
def describe(
    *,
    file: FileArgument,
    gpus: Annotated[
        int | None, typer.Option(help="GPUs of a cluster: print the load on it.")
    ] = None,
    gpus_per_node: GpusPerNodeOption = 8,
    reader: Reader,
) -> None:
    """Print how the file was read, counts, quantiles of size and duration, and load."""
    loaded = _load(file, reader, gpus_per_node)
    from sim.runs.reader import origin
    from traces import description

    found = description.describe(loaded.jobs, gpus)
    print(description.how_read(loaded))
    if loaded.offset_s:
        print(f"times           {origin(loaded.offset_s)}")
    print(f"\n{found}")


@app.command(epilog="Example: muster trace convert trace.swf jobs.parquet --gpus-per-pod 8")
@with_options(reader=reader_options)
def convert(
    *,
    file: FileArgument,
    out: Annotated[Path, typer.Argument(help="Jobs table: .csv, .csv.gz or .parquet.")],
    gpus_per_node: GpusPerNodeOption = 8,
    reader: Reader,
) -> None:
    """Write a trace as a jobs table; rows left out go to OUT.rejected.csv."""
    if out.exists() and file.exists() and file.samefile(out):
        raise ValueError(f"{str(out)!r} is the file to convert; give OUT another name")
    loaded = _load(file, reader, gpus_per_node)
    from traces import description

    _write(loaded.jobs, out)
    print(description.how_read(loaded), file=sys.stderr)
    if len(loaded.rejected):
        beside = out.with_name(f"{out.name}.rejected.csv")
        with whole.replacing(beside) as part:
            loaded.rejected.to_csv(part, index=False)
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
        Literal["philly"] | None,
        typer.Option(help="Real jobs, as many copies as the cluster needs."),
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
    from sim.schema.cluster import COMMAND_LINE, Cluster
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
    workload.check(COMMAND_LINE)
    _write(workload.make(Cluster.uniform(gpus, 1), seed).jobs, out)


@app.command(epilog="Example: muster trace validate-model --out runs/model")
def validate_model(
    out: Annotated[Path, typer.Option(help="Folder for page, table and picture.")] = Path(
        "runs/model"
    ),
) -> None:
    """Compare generated workloads with the published figures they are calibrated to."""
    from sim.commands.modelcheck import write

    print(write(out))


def _load(file: Path, reader: Reader, gpus_per_node: int) -> traces.LoadedJobs:
    loaded = reader.read(file, gpus_per_node, progress=True)
    if loaded.jobs.empty:
        raise ValueError(f"jobs file {str(file)!r} holds no jobs")
    return loaded


def _write(jobs: pd.DataFrame, out: Path) -> None:
    import traces
    from sim.report.wording import counted

    if out.parent != Path() and not out.parent.is_dir():
        raise ValueError(f"{str(out)!r}: folder {str(out.parent)!r} does not exist")
    path = traces.convert(jobs, out)
    print(f"{counted(len(jobs), 'job')}: {path}")
