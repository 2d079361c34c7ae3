"""The loop closed: what real gangs do is measured, and comes out when they are simulated.

Two gangs run side by side, so that whatever else the machine does hits both, with faults at
different steps, a moment apart: neither starts, which takes all cores, while the other recovers.
Both teach the costs: one kill and one preemption alone say little of the next (beside other work
the same recovery took up to 20 % longer). The simulator is told nothing else of a gang than its
number of steps and the steps of its faults, and its measured parts must come out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pytest

from sim import run
from sim.goodput.calibrate import calibrate
from sim.goodput.split import Split, split
from sim.report.parts import Part
from sim.schema.costs import Costs, Interrupt, Kind
from trainer.local import TRAIN, Fault, Gang, supervise

RANKS, STEPS, SAVE_EVERY = 4, 300, 50
SETTINGS = {
    "steps": STEPS,
    "log_every": 10,
    "checkpoint.every_steps": SAVE_EVERY,
    "device": "cpu",
}
TIMEOUT_S = 700.0
#: a part is compared if it takes so much of the wall time
SHARE, WITHIN = 0.05, 0.15
SEEDS = 20


def faults(kill: int, preempt: int) -> tuple[Fault, Fault]:
    return (Fault("kill", at_step=kill, rank=2), Fault("preempt", at_step=preempt))


def execute(runs: dict[Path, Sequence[Fault]]) -> None:
    """Run gangs side by side to their ends, and see that their logs tell of all the time."""
    until_s = time.monotonic() + TIMEOUT_S
    with ExitStack() as stack:
        going, began_unix_s = {}, {}
        for out, struck in runs.items():
            script = [str(TRAIN)]
            for name, value in ({"out": str(out)} | SETTINGS).items():
                script += ["--set", f"{name}={value}"]
            gang = stack.enter_context(Gang(out, RANKS, script))
            began_unix_s[out] = time.time()
            going[out] = (gang, supervise(gang, struck))
        while going:
            for out, (gang, told) in list(going.items()):
                assert time.monotonic() < until_s, gang.tail()
                try:
                    next(told)
                except StopIteration:
                    del going[out]
    for out in runs:
        found = split([out / "goodput"])
        last = found.attempts[-1]
        wall_s = last.begin_unix_s + last.wall_s - began_unix_s[out]
        # from the moment at which the harness starts the pods to the exit of the last rank
        assert found.wall_s == pytest.approx(wall_s, rel=0.01)
        assert sum(found.seconds.values()) == pytest.approx(found.wall_s, rel=1e-6)


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
@pytest.mark.torch
@pytest.mark.timeout(900)
def test_a_simulated_run_splits_its_time_as_the_executed_one(tmp_path: Path) -> None:
    scripts = {
        tmp_path / "one": faults(kill=130, preempt=210),
        tmp_path / "other": faults(kill=140, preempt=220),
    }
    execute(scripts)
    logs = {out: out / "goodput" for out in scripts}
    costs = calibrate(list(logs.values()))
    for out, script in scripts.items():
        measured = split([logs[out]])
        assert [one.reason for one in measured.attempts] == ["failed", "preempted", "finished"]
        table = compared(measured, simulate(costs, script))
        print(f"\n{measured.table()}\n{table.round(3)}")
        large = table[table["share"] >= SHARE]
        assert {Part.PRODUCTIVE, Part.STARTUP} <= set(large.index)
        assert (large["off"].abs() <= WITHIN).all(), f"\n{table.round(3)}"
        # the whole also by costs that only the other taught
        taught = calibrate([log for where, log in logs.items() if where != out])
        whole = sum(simulate(taught, script).values()) / measured.wall_s
        assert whole == pytest.approx(1.0, abs=WITHIN)
