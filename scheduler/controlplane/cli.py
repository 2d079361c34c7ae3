"""`muster cluster`: a real control plane on this machine, for tests, demos and first steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A real Kubernetes control plane on this machine, without Docker.",
)
Dir = Annotated[
    Path | None, typer.Option("--dir", help="Folder of the cluster.", show_default=False)
]


def _folder(named: Path | None) -> Path:
    from scheduler.controlplane.cluster import default_dir

    return named or default_dir()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@app.command()
def up(
    nodes: Annotated[
        int | None,
        typer.Option(min=0, help="Simulated nodes.", show_default="100; 0 with kubelets"),
    ] = None,
    kubelets: Annotated[
        int,
        typer.Option(min=0, max=64, help="Real nodes: kubelet, containerd and runc; needs root."),
    ] = 0,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs per node.", show_default="8; 1 on real nodes")
    ] = None,
    without: Annotated[str, typer.Option(help="`muster`: stock scheduling, for comparison.")] = "",
    folder: Dir = None,
) -> None:
    """Start a cluster. Examples: muster cluster up --nodes 100; muster cluster up --kubelets 4"""
    from scheduler.controlplane import cluster

    if without not in ("", "muster"):
        raise ValueError(f"--without {without!r}: only muster can be left out")
    where = _folder(folder)
    if nodes is None:
        nodes = 0 if kubelets else 100
    if not nodes and not kubelets:
        raise ValueError("--nodes 0 without --kubelets: a cluster needs nodes")
    cluster.up(
        where,
        nodes=nodes,
        gpus=8 if gpus is None else gpus,
        kubelets=kubelets,
        kubelet_gpus=1 if gpus is None else gpus,
        with_muster=not without,
        say=_say,
    )
    _say('ready; to use it, run: eval "$(muster cluster env)"')


@app.command()
def down(folder: Dir = None) -> None:
    """Stop the cluster and remove its data. Example: muster cluster down"""
    from scheduler.controlplane import cluster

    _say("ended" if cluster.down(_folder(folder)) else "no cluster is running")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    folder: Dir = None,
) -> None:
    """List the cluster's components. Example: muster cluster status --json"""
    from scheduler.controlplane import record

    found = record.load(_folder(folder))
    rows = [
        {"name": p.name, "pid": p.pid, "log": p.log, "healthy": found.healthy(p.name)}
        for p in (found.processes if found else ())
        if found
    ]
    complete = found is not None and found.complete
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(
                f"{row['name']:26}{'well' if row['healthy'] else 'ILL':6}"
                f"{row['pid']:>8}  {row['log']}"
            )
    if found is None:
        _say("no cluster is running; start one with: muster cluster up")
    elif not complete:
        _say("the last muster cluster up was interrupted; run it again to finish")
    if not complete or not all(row["healthy"] for row in rows):
        raise typer.Exit(1)


@app.command()
def node(
    what: Annotated[str, typer.Argument(metavar="on|off", show_default=False)],
    name: Annotated[str, typer.Argument(show_default=False)],
    folder: Dir = None,
) -> None:
    """Switch a real node off or on. Example: muster cluster node off kubelet-2"""
    from scheduler.controlplane import cluster

    if what not in ("on", "off"):
        raise ValueError(f"{what!r} is neither on nor off")
    cluster.power(_folder(folder), name, on=what == "on")


@app.command()
def env(folder: Dir = None) -> None:
    """Print shell exports. Example: eval "$(muster cluster env)" """
    from scheduler.controlplane import record

    found = record.load(_folder(folder))
    if found is None:
        raise ValueError("no cluster is running; start one with: muster cluster up")
    print(f"export KUBECONFIG={found.kubeconfig}")
    print(f"export MUSTER_API_URL={found.api_url}")
    print(f"export MUSTER_URL={found.status_url}")


@app.command()
def demo(
    count: Annotated[
        int, typer.Option(min=1, help="PyTorchJobs, besides one that never fits.")
    ] = 12,
    seed: Annotated[int, typer.Option(help="Seed of sizes and run times.")] = 0,
    limit_s: Annotated[
        float | None, typer.Option(help="Stop then.", show_default="300; 60 without muster")
    ] = None,
    folder: Dir = None,
) -> None:
    """Run a mixed set of PyTorchJobs on the cluster. Example: muster cluster demo"""
    import asyncio

    from scheduler.controlplane import record
    from scheduler.controlplane.demo import check, show
    from scheduler.controlplane.demo_view import Screen

    found = check(record.load(_folder(folder)))
    if limit_s is None:
        limit_s = 300.0 if found.with_muster else 60.0
    if not limit_s > 0:
        raise ValueError(f"--limit-s is {limit_s}; give seconds above 0")
    screen = Screen(sys.stdout)
    done = asyncio.run(show(found, count=count, seed=seed, limit_s=limit_s, screen=screen))
    if not done and found.with_muster:
        raise typer.Exit(1)
