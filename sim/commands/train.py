"""`muster train`: a gang of real training processes on this machine, with injected faults."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler import whole

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.local import Fault, Gang

SAY_S = 5.0  #: between lines where there is no terminal
#: what a short run on a laptop takes instead of the trainer's own defaults
SHORT = ["steps=100", "checkpoint.every_steps=20", "health.step_timeout_s=60"]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example: muster train --ranks 4 --kill-rank 2 --at-step 30")(train)


def train(
    ranks: Annotated[int, typer.Option(min=1, help="Number of ranks, one per pod.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps.", show_default="the config's, or 100")
    ] = None,
    kill_rank: Annotated[int | None, typer.Option(help="Kill -9 this rank, once.")] = None,
    at_step: Annotated[
        int | None, typer.Option(min=1, help="... after this step.", show_default="30")
    ] = None,
    preempt_at_step: Annotated[
        int | None, typer.Option(min=1, help="Send SIGTERM to all pods after this step, once.")
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
    """Train on this machine as in a cluster, with kills and preemptions, and show what they cost.

    Each rank's pod gets what a PyTorchJob's operator injects; after a failure all pods start again.
    Run the same command again to resume from the last checkpoint.
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
            from sim.runs import owned

            owned.refuse_strangers(out, owned.TRAINING)
            shutil.rmtree(out.resolve())
    # --out may be a link, as to a large disk; the folder inside tells the next command what it is
    (out.resolve() / "goodput").mkdir(parents=True, exist_ok=True)


def _run(config: TrainConfig, ranks: int, faults: list[Fault], out: Path) -> None:
    import msgspec

    from trainer.local import TRAIN, Gang, supervise

    resolved = out / "config.toml"
    whole.write_bytes(resolved, msgspec.toml.encode(_without_none(msgspec.to_builtins(config))))
    with Gang(out, ranks, [str(TRAIN), "--config", str(resolved)]) as gang:
        progress = Progress(gang, config.steps)
        try:
            for news in supervise(gang, faults):
                progress.show(news)
        except RuntimeError as error:
            print(f"muster: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            gang.end(grace_s=30.0)  # a stop saves; a second Ctrl-C kills
            raise
        finally:
            progress.close()


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out None, which TOML cannot express."""
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value is not None
    }


class Progress:
    """One line per rank on a terminal; elsewhere events, and progress now and then."""

    def __init__(self, gang: Gang, steps: int) -> None:
        from sim.runs.progress import bar

        self._gang, self._steps = gang, steps
        self._said_s = time.monotonic()
        ranks = range(gang.ranks) if sys.stderr.isatty() else ()
        self._bars = [bar(steps, f"rank {rank}", position=rank) for rank in ranks]

    def show(self, news: str | None) -> None:
        """Show new events, if any, and the state of the ranks."""
        ranks = [self._rank(rank) for rank in range(self._gang.ranks)]
        for shown, (step, state) in zip(self._bars, ranks, strict=False):
            shown.n = shown.n if step is None else step
            shown.set_postfix_str(f"attempt {self._gang.attempt}, {state}", refresh=False)
            shown.update(0)
        if self._bars:
            if news is not None:
                self._bars[0].write(news, file=sys.stderr)
            return
        if news is not None or time.monotonic() - self._said_s > SAY_S:
            self._said_s = time.monotonic()
            told = ", ".join(f"rank {n} {state}" for n, (_, state) in enumerate(ranks))
            print(news if news is not None else told, file=sys.stderr, flush=True)

    def _rank(self, rank: int) -> tuple[int | None, str]:
        beat = self._gang.beat(rank)
        if beat is not None:
            return beat.step, f"has done {beat.step} of {self._steps}"
        ended = rank >= len(self._gang.pods) or self._gang.pods[rank].exit_code is not None
        return None, "has ended" if ended else "starts"

    def close(self) -> None:
        """Leave the last state on the screen."""
        for shown in self._bars:
            shown.close()


def _summarize(out: Path) -> None:
    from sim.goodput.split import save_picture, split

    found = split([out / "goodput"])
    print(found.table())
    picture = out / "time_split.png"
    save_picture(found, picture)
    print(f"picture  {picture}")
    print(
        f"log      {out / 'goodput'}; its costs for the simulator: muster calibrate {out}/goodput"
    )
