"""What the trainer promises, measured with real processes on this machine.

    python bench/trainer.py                 all rows; bench/out/train.json; some minutes
    python bench/trainer.py --only stop     also: resume, save, overhead, goodput, nodes, gpu

Both sides of a comparison are measured in one process, in turns. Rows that need a GPU, or root for
real nodes, are shown as skipped where there is none. Ends with 1 if a row misses what it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scheduler import whole
from scheduler.controlplane import requirements
from trainer.local import TRAIN, Fault, Gang, supervise

OUT = Path(__file__).resolve().parent / "out" / "train.json"
WAIT_S = 600.0


@dataclass(frozen=True)
class Row:
    """One line of the table; `met` is None if it was not measured or must be nothing."""

    what: str
    value: float | None
    unit: str
    must: str = ""
    met: bool | None = None
    note: str = ""


def row(what: str, value: float | None, unit: str, must: str = "", note: str = "") -> Row:
    """Return a row; `must` is "<= NUMBER", "== NUMBER" or empty."""
    met = None
    if must and value is not None:
        relation, limit = must.split()
        met = value <= float(limit) if relation == "<=" else value == float(limit)
    return Row(what, value, unit, must, met, note)


def sets(**settings: Any) -> list[str]:
    """Return settings as arguments; `__` in a name is a dot."""
    return [
        word
        for name, value in settings.items()
        for word in ("--set", f"{name.replace('__', '.')}={json.dumps(value)}")
    ]


def events(out: Path, rank: int, kind: str | None = None) -> list[dict[str, Any]]:
    """Return a rank's lines of the goodput log."""
    lines = (out / "goodput" / f"rank_{rank:05d}.jsonl").read_text("utf-8").splitlines()
    return [one for one in map(json.loads, lines) if kind in (None, one["event"])]


# -- rows ----------------------------------------------------------------------------------------


def resume(folder: Path) -> list[Row]:
    """Compare final states of straight runs with those of runs that were stopped three times."""
    rows = []
    for ranks in (2, 4):
        for precision in ("float32", "bf16"):
            shape = {"steps": 24, "gpt__width": 256, "gpt__layers": 2, "gpt__context": 32}
            common = sets(
                **shape,
                global_batch=8,
                micro_batch=2,
                precision=precision,
                digest=True,
                deterministic=True,
                checkpoint__every_steps=4,
                data=__file__,
            )
            digests = []
            for name, cut in (("straight", False), ("cut", True)):
                out = folder / f"resume-{ranks}-{precision}-{name}"
                with Gang(out, ranks, [str(TRAIN), *sets(out=str(out)), *common]) as gang:
                    if cut:
                        _stop_three_times(gang)
                    gang.start()
                    assert gang.wait(WAIT_S) == [0] * ranks, gang.tail()
                ends = [events(out, rank, "exit")[-1] for rank in range(ranks)]
                digests.append({end["state_sha256"] for end in ends})
            same = len(digests[0] | digests[1]) == 1
            note = f"SHA-256 {min(digests[0])[:12]} and {min(digests[1])[:12]}"
            what = (
                f"final state after SIGTERM, kill -9, kill -9 in a save: {ranks} ranks, {precision}"
            )
            rows.append(row(what, float(same), "equal", "== 1", note))
    return rows


def _stop_three_times(gang: Gang) -> None:
    gang.start()
    gang.wait_step(3, WAIT_S)
    gang.pods[1].signal(signal.SIGTERM)
    gang.wait(WAIT_S)
    gang.start()
    os.kill(gang.wait_step(9, WAIT_S, rank=1).pid, signal.SIGKILL)
    gang.wait(WAIT_S)
    gang.start()
    beat = gang.wait_step(11, WAIT_S, rank=1)
    folder = gang.out / "checkpoints"
    seen = set(folder.glob("step_*"))
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        for path in set(folder.glob("step_*")) - seen:
            os.kill(beat.pid, signal.SIGSTOP)  # a commit needs all ranks
            time.sleep(0.3)
            if not (path / ".metadata").exists():
                gang.end()
                assert path.is_dir() and not (path / ".metadata").exists()
                return
            os.kill(beat.pid, signal.SIGCONT)
            seen.add(path)
    raise SystemExit("no save could be caught before its commit")


def stop(folder: Path) -> list[Row]:
    """SIGTERM one pod of four."""
    out = folder / "stop"
    script = [str(TRAIN), *sets(out=str(out), steps=100_000, global_batch=32, digest=True)]
    with Gang(out, 4, script) as gang:
        gang.start()
        gang.wait_step(10, WAIT_S)
        began_s = time.monotonic()
        gang.pods[2].signal(signal.SIGTERM)
        gang.wait(WAIT_S)
        took_s = time.monotonic() - began_s
    ends = [events(out, rank, "exit")[-1] for rank in range(4)]
    steps = {end["committed_step"] for end in ends} | {end["step"] for end in ends}
    states = {end["state_sha256"] for end in ends}
    ranks_s = max(end["t_mono_s"] for end in ends) - began_s
    return [
        row("different steps saved by four ranks, SIGTERM to one pod", len(steps), "", "== 1"),
        row("different states of the four ranks", len(states), "", "== 1"),
        row("from SIGTERM until all ranks have saved", ranks_s, "s"),
        row("from SIGTERM until all four launchers are gone", took_s, "s", "<= 10"),
    ]


def measured(folder: Path, what: str, ranks: int, **options: Any) -> dict[str, Any]:
    """Run this file's own measurement in a gang; return what rank 0 found."""
    out = folder / what
    script = [__file__, "--measure", what, "--folder", str(out)]
    with Gang(out, ranks, script, **options) as gang:
        gang.start()
        if any(gang.wait(WAIT_S)):
            raise SystemExit(gang.tail())
    found: dict[str, Any] = json.loads((out / "found.json").read_text("utf-8"))
    return found


def save(folder: Path) -> list[Row]:
    """Compare what a step loses to an asynchronous and to a synchronous save."""
    found = measured(folder, "save", 2)
    sync_s = statistics.median(found["sync_s"])
    first_s, later_s = found["async_s"][0], statistics.median(found["async_s"][1:])
    size = f"{found['parameters'] / 1e6:.3g} M parameters, {found['bytes'] / 1e6:,.0f} MB"
    return [
        row("synchronous save: step stall", 1000 * sync_s, "ms", "", size),
        row("asynchronous save: the first, which allocates buffers", 1000 * first_s, "ms"),
        row("asynchronous save: later ones", 1000 * later_s, "ms"),
        row("asynchronous over synchronous stall", 100 * later_s / sync_s, "%", "<= 25", size),
    ]


def overhead(folder: Path) -> list[Row]:
    """Compare a step inside a session with the same step in a bare loop."""
    found = measured(folder, "overhead", 2)
    bare_ms = 1000 * statistics.median(found["bare_s"])
    rows = [row("step of a bare DDP loop", bare_ms, "ms", "", found["what"])]
    for clock, name in (("s", "time"), ("cpu_s", "CPU time, which other programs disturb less")):
        over, note = on_top(found, clock)
        rows.append(row(f"log, vote, watchdog, heartbeat on top: {name}", over, "%", "<= 2", note))
    return rows


def on_top(found: dict[str, Any], clock: str) -> tuple[float, str]:
    """Return by how many percent a session's steps take longer, and how sure that is."""
    pairs = zip(found[f"session_{clock}"], found[f"bare_{clock}"], strict=True)
    ratios = [session / bare for session, bare in pairs]
    low, middle, high = (100 * (q - 1.0) for q in statistics.quantiles(ratios, n=4))
    what = f"{len(ratios)} pairs of {found['per']} steps"
    return middle, f"{what}, quartiles {low:.2g} and {high:.2g} %"


def goodput(folder: Path) -> list[Row]:
    """Kill and preempt a gang; hold the parts of its time against its clock."""
    from sim.goodput.split import split

    out = folder / "goodput"
    shape = sets(steps=60, global_batch=16, checkpoint__every_steps=10)
    with Gang(out, 2, [str(TRAIN), *sets(out=str(out)), *shape]) as gang:
        for _ in supervise(gang, [Fault("kill", 25, 1), Fault("preempt", 40)]):
            pass
    lines = [one for rank in range(2) for one in events(out, rank)]
    starts = [one for one in lines if one["event"] == "process_start"]
    begin_s = min(one["t_unix_s"] - one["dur_s"] - one["launcher_s"] for one in starts)
    wall_s = max(e["t_unix_s"] for e in lines) - begin_s
    found = split([out / "goodput"])
    parts_s = sum(found.seconds.values())
    note = f"{len(found.attempts)} attempts, {found.lost_steps} steps lost"
    off = 100 * abs(parts_s - wall_s) / wall_s
    return [
        row("wall time of a run that was killed and preempted", wall_s, "s", "", note),
        row("parts of its time, off by", off, "%", "<= 1", f"sum {parts_s:.3f} s"),
        row("part that no event explains", 100 * _other(found) / wall_s, "%"),
    ]


def _other(found: Any) -> float:
    from sim.report.parts import Part

    return float(found.seconds[Part.OTHER])


def nodes(folder: Path) -> list[Row]:
    """Train on four real nodes, and recover there: what bench/e2e.py measures."""
    from bench import e2e

    lack = requirements.lack()
    if lack:
        return [row("four real nodes", None, "", "", f"skipped: {lack}")]
    return [Row(**one) for one in e2e.measure(folder / "cluster", repeats=3)]


def gpu(folder: Path) -> list[Row]:
    """Train the GPT on a GPU: nccl, bf16, compiled, beside the bare loop."""
    names = ("tokens per second", "MFU", "log, vote, watchdog, heartbeat on top")
    try:
        import torch

        lack = "" if torch.cuda.is_available() else "skipped: torch finds no GPU here"
    except ImportError:
        lack = "skipped: torch is not installed"
    if lack:
        return [row(f"GPU, nccl, bf16, compiled: {name}", None, "", "", lack) for name in names]
    found = measured(folder, "gpu", 1)
    over, sure = on_top(found, "s")
    last = events(folder / "gpu" / "run", 0, "steps")[-1]
    note = found["what"]
    return [
        row(
            f"GPU, nccl, bf16, compiled: {names[0]}",
            last["tokens"] / last["dur_s"],
            "1/s",
            "",
            note,
        ),
        row(f"GPU, nccl, bf16, compiled: {names[1]}", last.get("mfu"), "ratio", "", note),
        row(f"GPU, nccl, bf16, compiled: {names[2]}", over, "%", "<= 2", sure),
    ]


# -- measurements, in a process of the gang ------------------------------------------------------


def measure_save(folder: Path) -> dict[str, Any]:
    """Save a model of 25 M parameters both ways, in turns, while it trains."""
    import torch

    from trainer.config import CheckpointConfig, GptConfig, RunConfig
    from trainer.model import Gpt, loss_of
    from trainer.session import Session

    never = CheckpointConfig(every_steps=10**9, keep=1)
    took_s: dict[str, list[float]] = {"sync": [], "async": []}
    with Session(RunConfig(out=str(folder / "run"), checkpoint=never)) as session:
        shape = GptConfig(layers=8, heads=8, width=512, context=32)
        plain = Gpt(shape)
        model = session.parallel(plain)
        optimizer = torch.optim.AdamW(model.parameters())
        saver = session._checkpoints
        for step in session.steps(model, optimizer, until=25):
            tokens = torch.randint(0, 256, (1, 32), device=session.device)
            loss_of(model(tokens), tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 4 == 3:
                saver.wait()
                mode = "async" if step % 8 == 3 else "sync"
                saver.save(step + 1, model, optimizer, mode=mode)
                assert saver.stall_s is not None
                took_s[mode].append(saver.stall_s)
        saver.wait()
    size = events(folder / "run", 0, "save_staged")[0]["bytes"] if session.launch.rank == 0 else 0
    return {
        "parameters": sum(one.numel() for one in plain.parameters()),
        "bytes": size,
        "sync_s": took_s["sync"],
        "async_s": took_s["async"],
    }


def measure_overhead(folder: Path, *, on_gpu: bool = False) -> dict[str, Any]:
    """Time the same step in a session and in a bare loop, in turns of some steps."""
    import torch

    from trainer.config import CheckpointConfig, GptConfig, RunConfig
    from trainer.model import Gpt, flops_per_token, loss_of
    from trainer.session import Session

    never = CheckpointConfig(every_steps=10**9)
    shape = (
        GptConfig(layers=12, heads=12, width=768, context=1024) if on_gpu else GptConfig(width=128)
    )
    batch, pairs, per = (16, 12, 20) if on_gpu else (8, 320, 10)
    took: dict[str, list[float]] = {
        f"{side}_{clock}": [] for side in ("session", "bare") for clock in ("s", "cpu_s")
    }

    def keep(side: str, began: tuple[float, float], ended: tuple[float, float]) -> None:
        for clock, begin_s, end_s in zip(("s", "cpu_s"), began, ended, strict=True):
            took[f"{side}_{clock}"].append((end_s - begin_s) / per)

    with Session(RunConfig(out=str(folder / "run"), checkpoint=never)) as session:
        model = session.parallel(Gpt(shape), compiled=on_gpu)
        optimizer = torch.optim.AdamW(model.parameters())
        tokens = torch.randint(0, 256, (batch, shape.context), device=session.device)
        flops = flops_per_token(model, shape)

        def one_step() -> Any:
            with torch.autocast(session.device.type, torch.bfloat16, enabled=on_gpu):
                loss = loss_of(model(tokens), tokens)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        def now() -> tuple[float, float]:
            if on_gpu:
                torch.cuda.synchronize()
            return time.perf_counter(), time.process_time()

        began = now()
        for step in session.steps(model, optimizer, until=(pairs + 2) * per):
            if step % per == 0:
                ended = now()
                if step >= 2 * per:  # the first round warms up
                    keep("session", began, ended)
                bare_began = now()
                for _ in range(per):
                    one_step()
                if per <= step <= pairs * per:
                    keep("bare", bare_began, now())
                began = now()
            loss = one_step()
            count = session.launch.world_size * batch * shape.context
            session.note(tokens=count, flops=count * flops, loss=loss)
    parameters = sum(one.numel() for one in model.parameters())
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    what = f"GPT of {parameters / 1e6:.3g} M parameters, {session.launch.world_size} ranks, {name}"
    return {**took, "per": per, "what": what}


def measure(what: str, folder: Path) -> None:
    """Carry out one measurement; rank 0 writes what it found."""
    match what:
        case "save":
            found = measure_save(folder)
        case _:
            found = measure_overhead(folder, on_gpu=what == "gpu")
    if os.environ["RANK"] == "0":
        whole.write_text(folder / "found.json", json.dumps(found))


# -- report --------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path], list[Row]]] = {
    "resume": resume,
    "stop": stop,
    "save": save,
    "overhead": overhead,
    "goodput": goodput,
    "nodes": nodes,
    "gpu": gpu,
}
WORDS = {True: "yes", False: "NO", None: ""}


def line(one: Row) -> str:
    """Return a row of the table."""
    value = "" if one.value is None else f"{one.value:,.3g}"
    return f"| {one.what} | {value} {one.unit} | {one.must} | {WORDS[one.met]} | {one.note} |"


def main() -> int:
    """Measure, print, write; 1 if a row misses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.folder)
        return 0
    rows: list[Row] = []
    print("| what | value | target | met | note |\n|---|---:|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        for name in given.only or PARTS:
            for one in PARTS[name](Path(folder)):
                rows.append(one)
                print(line(one), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    whole.write_text(given.out, json.dumps([asdict(one) for one in rows], indent=1) + "\n")
    missed = [one for one in rows if one.met is False]
    print(f"{len(missed)} of {len(rows)} rows miss; {given.out}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
