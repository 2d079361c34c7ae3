"""The loop closed: what a real gang does is measured, simulated, and compared with another run.

Two runs teach the costs; a third has its faults at other steps and is told to the simulator only
by its number of steps and the steps of its faults. Its measured parts must come out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from sim import run
from sim.calibrate import calibrate
from sim.costs import Costs, Interrupt, Kind
from sim.goodput import Part, Split, split
from trainer.local import TRAIN, Fault, Gang, supervise

pytest.importorskip("torch", reason="needs torch, which `make test` installs")

RANKS, STEPS, SAVE_EVERY = 4, 400, 50
SETTINGS = {
    "steps": STEPS,
    "log_every": 10,
    "global_batch": 32,
    "micro_batch": 8,
    "gpt.width": 128,
    "gpt.context": 128,
    "checkpoint.every_steps": SAVE_EVERY,
    "device": "cpu",
}
TIMEOUT_S = 280.0
#: a part is compared if it takes so much of the wall time
SHARE, WITHIN = 0.05, 0.15
SEEDS = 20


def faults(kill: int, preempt: int) -> tuple[Fault, Fault]:
    return (Fault("kill", at_step=kill, rank=2), Fault("preempt", at_step=preempt))


def execute(out: Path, struck: Sequence[Fault]) -> Path:
    """Run a gang to its end; return the folder of its goodput logs."""
    script = [str(TRAIN)]
    for name, value in ({"out": str(out)} | SETTINGS).items():
        script += ["--set", f"{name}={value}"]
    began_unix_s = time.time()
    until_s = time.monotonic() + TIMEOUT_S
    with Gang(out, RANKS, script) as gang:
        for _ in supervise(gang, struck):
            assert time.monotonic() < until_s, gang.tail()
    found = split([out / "goodput"])
    last = max(found.attempts, key=lambda one: one.begin_unix_s)
    wall_s = last.begin_unix_s + last.wall_s - began_unix_s
    # the whole story is told: from the moment the harness started the pods to the last exit
    assert found.wall_s == pytest.approx(wall_s, rel=0.01)
    assert sum(found.seconds.values()) == pytest.approx(found.wall_s, rel=1e-6)
    return out / "goodput"


def simulate(costs: Costs, struck: Sequence[Fault]) -> dict[Part, float]:
    """Return the seconds by part, the mean over seeds."""
    job = pd.DataFrame(
        {
            "job": ["train"],
            "submit_s": [0.0],
            "duration_s": [STEPS * costs.step_s.mean_s],
            "num_pods": [RANKS],
            "gpus_per_pod": [1],
        }
    )
    script = tuple(
        Interrupt(job="train", kind=Kind(one.kind), at_step=one.at_step) for one in struck
    )
    rows = []
    for seed in range(SEEDS):
        result = run(
            job, nodes=RANKS, gpus_per_node=1, costs=costs, interrupt=script, seed=seed, audit=True
        )
        assert result.manifest["interrupts_not_met"] == 0
        rows.append(result.jobs.iloc[0])
    mean = pd.DataFrame(rows).mean(numeric_only=True)
    parts = {part: float(mean.get(f"{part}_s", 0.0)) for part in Part}
    assert sum(parts.values()) == pytest.approx(float(mean["end_s"] - mean["start_s"]))
    return parts


def compared(measured: Split, simulated: dict[Part, float]) -> pd.DataFrame:
    """Return both, with waits for data counted as part of the steps they belong to."""
    seconds = dict(measured.seconds)
    seconds[Part.PRODUCTIVE] += seconds.pop(Part.DATA_WAIT)
    table = pd.DataFrame({"measured_s": seconds, "simulated_s": simulated}).dropna()
    table["share"] = table["measured_s"] / measured.wall_s
    table["off"] = table["simulated_s"] / table["measured_s"].replace(0.0, float("nan")) - 1.0
    return table


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_simulated_run_splits_its_time_as_the_executed_one(tmp_path: Path) -> None:
    script = faults(kill=130, preempt=270)
    taught = [execute(tmp_path / "before", faults(kill=90, preempt=230))]
    logs = execute(tmp_path / "compared", script)
    taught.append(execute(tmp_path / "after", faults(kill=170, preempt=320)))
    measured = split([logs])
    assert [one.reason for one in measured.attempts] == ["failed", "preempted", "finished"]
    table = compared(measured, simulate(calibrate(taught), script))
    print(f"\n{measured.table()}\n{table.round(3)}")
    large = table[table["share"] >= SHARE]
    assert {Part.PRODUCTIVE, Part.STARTUP, Part.RECOVERY} <= set(large.index)
    assert (large["off"].abs() <= WITHIN).all(), f"\n{table.round(3)}"
    whole = table["simulated_s"].sum() / measured.wall_s
    assert whole == pytest.approx(1.0, abs=WITHIN)
