"""`muster report` and `muster diff`: compare runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sim.commands.options import one_line


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: muster report runs/fifo runs/easy --out runs/both")(report)
    app.command(epilog="Example: muster diff runs/fifo runs/easy --top 20")(diff)


def build_report(runs: Sequence[Path], out: Path, **options: Any) -> Path:
    """Write the report of these runs into `out`; return the path of its page."""
    from sim.report.artists import without_help_texts

    with without_help_texts():
        from sim.report.report import build_report as build
    return build(runs, out, **options)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of runs or studies, shown side by side; or the files of a live "
            "cluster's journal, the oldest first."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html.")] = Path("runs/report"),
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
) -> None:
    """Write report.html, report.md, pictures and tables of any runs."""
    journal = [path for path in runs if path.is_file()]
    folders = [folder for path in runs if path not in journal for folder in _runs_in(path)]
    if journal:
        from sim.journals.recorded import recorded

        live = recorded(journal)
        for line in live.manifest["set_aside"]:
            print(f"muster: set aside: {one_line(line)}", file=sys.stderr)
        live.manifest["journal"] = [str(path) for path in journal]
        folders.append(live.save(out / "live"))
    print(f"report  {build_report(folders, out, title=title)}")


def _runs_in(path: Path) -> list[Path]:
    """Return the run folders of a study, or the folder itself."""
    points = path / "points"
    return sorted(points.iterdir()) if points.is_dir() else [path]


def diff(
    run_a: Annotated[Path, typer.Argument(help="A run.")],
    run_b: Annotated[Path, typer.Argument(help="Another run of the same jobs.")],
    top: Annotated[int, typer.Option(help="Jobs to list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every queue.")] = False,
) -> None:
    """Say which jobs and queues waited longer in one of two runs of the same jobs, and why."""
    from sim.report import diff as compared

    found = compared.compare(run_a, run_b)
    if as_json:
        print(json.dumps(compared.as_json(found, top=top), indent=1))
    else:
        print(compared.text(found, top=top))
