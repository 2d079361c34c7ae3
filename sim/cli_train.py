"""`muster train`: a gang of real training processes on this machine, with faults to order."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.local import Fault, Gang

#: what a short run on a laptop takes instead of the trainer's own defaults
SHORT = ["steps=100", "checkpoint.every_steps=20", "health.step_timeout_s=60"]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example: muster train --ranks 4 --kill-rank 2 --at-step 30")(train)


def train(
    ranks: Annotated[int, typer.Option(min=1, help="Ranks, each in a pod of its own.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps.", show_default="the config's, or 100")
    ] = None,
    kill_rank: Annotated[int | None, typer.Option(help="Kill -9 this rank, once.")] = None,
    at_step: Annotated[
        int | None, typer.Option(min=1, help="... after this step.", show_default="30")
    ] = None,
    preempt_at_step: Annotated[
        int | None, typer.Option(min=1, help="SIGTERM to all pods after this step, once.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML of the trainer.", show_default="a small GPT")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as gpt.layers=4.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/train"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier run in --out.")
    ] = False,
) -> None:
    """Train on this machine as in a cluster, be killed and preempted, and see what it cost.

    Each rank's pod gets what a PyTorchJob's operator injects; after a failure all pods start anew.
    The same command again goes on from the last checkpoint.
    """
    if importlib.util.find_spec("torch") is None:
        raise ValueError(
            "muster train needs torch; install it with: pip install 'muster-scheduler[train]' "
            "(in a clone: make .venv/train.stamp)"
        )
    faults = _faults(ranks, kill_rank, at_step, preempt_at_step)
    chosen = _config(config, setting or [], steps, ranks, out)
    for fault in faults:
        if fault.at_step >= chosen.steps:
            raise ValueError(
                f"{fault}, but there are only {chosen.steps} steps; give an earlier one"
            )
    _prepare(out, force)
    _run(chosen, ranks, faults, out)
    _summarize(out)


def _faults(
    ranks: int, kill_rank: int | None, at_step: int | None, preempt_at_step: int | None
) -> list[Fault]:
    from trainer.local import Fault

    if at_step is not None and kill_rank is None:
        raise ValueError(f"--at-step {at_step} goes with --kill-rank RANK")
    faults = []
    if kill_rank is not None:
        if not 0 <= kill_rank < ranks:
            raise ValueError(f"--kill-rank {kill_rank}: with --ranks {ranks} give 0 to {ranks - 1}")
        faults.append(Fault("kill", at_step if at_step is not None else 30, kill_rank))
    if preempt_at_step is not None:
        faults.append(Fault("preempt", preempt_at_step))
    return sorted(faults, key=lambda fault: fault.at_step)


def _config(
    path: Path | None, sets: list[str], steps: int | None, ranks: int, out: Path
) -> TrainConfig:
    from trainer.config import TrainConfig, load

    short = [] if path is not None else [*SHORT, f"global_batch={8 * ranks}"]
    last = [f"out={json.dumps(str(out))}"] + ([] if steps is None else [f"steps={steps}"])
    chosen = load(TrainConfig, path, [*short, *sets, *last])
    chosen.share(ranks, 0)
    return chosen


def _prepare(out: Path, force: bool) -> None:
    if out.is_file():
        raise ValueError(f"--out {str(out)!r} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        if not (out / "goodput").is_dir():
            raise ValueError(
                f"--out {str(out)!r} is not empty and holds no training run; give another folder"
            )
        if force:
            shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def _run(config: TrainConfig, ranks: int, faults: list[Fault], out: Path) -> None:
    import msgspec

    from trainer.local import TRAIN, Gang, supervise

    resolved = out / "config.toml"
    resolved.write_bytes(msgspec.toml.encode(_without_none(msgspec.to_builtins(config))))
    with Gang(out, ranks, [str(TRAIN), "--config", str(resolved)]) as gang:
        try:
            with _progress(gang, config.steps) as show:
                for news in supervise(gang, faults):
                    show(news)
        except RuntimeError as error:
            print(f"muster: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            gang.end(grace_s=30.0)  # a stop saves; a second Ctrl-C kills
            raise


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out what TOML has no word for."""
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value is not None
    }


@contextmanager
def _progress(gang: Gang, steps: int) -> Iterator[Any]:
    """Show one line per rank, and what happens in between."""
    from sim.progress import bar

    bars = [bar(steps, f"rank {rank}", position=rank, leave=True) for rank in range(gang.ranks)]

    def show(news: str | None) -> None:
        if news is not None:
            bars[0].write(news, file=sys.stderr)
        for rank, shown in enumerate(bars):
            beat = gang.beat(rank)
            running = gang.pods[rank].exit_code is None if rank < len(gang.pods) else False
            state = "ended" if not running else "starts" if beat is None else "trains"
            shown.n = beat.step if beat is not None else shown.n
            shown.set_postfix_str(f"attempt {gang.attempt}, {state}", refresh=False)
            shown.update(0)

    yield show
    for shown in bars:
        shown.refresh()
        shown.close()


def _summarize(out: Path) -> None:
    from sim.goodput import save_picture, split

    found = split([out / "goodput"])
    print(found.table())
    picture = out / "time_split.png"
    save_picture(found, picture)
    print(f"picture  {picture}")
    print(
        f"log      {out / 'goodput'}; its costs for the simulator: muster calibrate {out}/goodput"
    )
