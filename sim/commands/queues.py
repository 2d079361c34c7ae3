"""`muster queues`: read queues of other schedulers, and show a queues file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler import whole
from sim.commands.options import check_sizes, node_options, with_options

if TYPE_CHECKING:
    from sim.schema.cluster import NodeShape

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Read queues of Kueue, KAI, Volcano and Slurm, and show a queues file.",
)


@app.command("import", epilog="Example: muster queues import clusterqueues.yaml --out queues.toml")
@with_options(shape=node_options)
def import_queues(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(help="Outputs of kubectl get -o yaml, or of sacctmgr -P show assoc tree."),
    ],
    out: Annotated[Path, typer.Option(help="The queues file.")] = Path("queues.toml"),
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Nodes of the cluster: what no quota covers may be borrowed."),
    ] = None,
    shape: NodeShape,
    cluster: Annotated[
        Path | None, typer.Option(help="The same as a cluster TOML file.", metavar="FILE")
    ] = None,
) -> None:
    """Write the queues of another scheduler as a queues file, and say what has no counterpart."""
    from scheduler.policies.queuesfile import write
    from sim.queues.importing import read
    from sim.report.wording import counted
    from sim.schema.cluster import Cluster

    check_sizes(nodes, cluster, shape, needed=False)
    size = Cluster.load(cluster) if cluster else shape.of(nodes) if nodes else None
    found = read(files, size.totals() if size else {})
    queues = found.queues
    title = f"From {found.system}: {', '.join(path.name for path in files)}"
    whole.write_bytes(out, write(queues, [title, *(f"- {note}" for note in found.notes)]).encode())
    counts = ((queues.queues, "queue"), (queues.cohorts, "cohort"), (queues.flavors, "flavor"))
    print(f"{found.system}: {', '.join(counted(len(some), noun) for some, noun in counts)}")
    for note in found.notes:
        print(f"  {note}", file=sys.stderr)
    print(f"queues  {out}")


@app.command(epilog="Example: muster queues show queues.toml")
def show(file: Annotated[Path, typer.Argument(help="A queues file.")]) -> None:
    """Print the tree: what each queue has, may borrow and lends, and what it could have at most."""
    from scheduler.policies.queuesfile import lines_of
    from sim.queues import shown
    from sim.report.wording import aligned
    from sim.schema.queues import load

    queues = load(file)
    for line in aligned(shown.rows(queues), left=shown.LEFT):
        print(line)
    for line in lines_of(queues.sharing):
        print(f"sharing: {line}")
