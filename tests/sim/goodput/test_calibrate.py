"""Costs come back out of logs that were made with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim import run
from sim.goodput.calibrate import calibrate, table
from sim.report.parts import Part
from sim.schema.costs import Interrupt, Kind, Quantity, load, write
from tests.sim.goodput.goodput_logs import Job


def test_known_costs_come_back(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    startup_s = draw.uniform(2.0, 6.0, 41).tolist()
    detect_s = draw.uniform(1.0, 9.0, 41).tolist()
    for at in range(20):
        job = Job(tmp_path, run_id=f"r{at}", ranks=3, stall_s=0.3, commit_s=0.7)
        job.start(startup_s[2 * at], compile_s=1.5)
        job.train(until=43)
        job.kill(detect_s[at], gap_s=3.0)
        job.start(startup_s[2 * at + 1], restore_s=0.4, compile_s=1.5)
        job.train(until=70)
        job.preempt(drain_s=1.5, gap_s=3.0)
        job.start(startup_s[40], restore_s=0.4, compile_s=1.5)
        job.train(until=100)
        job.finish(shutdown_s=0.6)
    found = calibrate([tmp_path])
    assert found.measured == "20 runs, 60 attempts, 3 ranks"
    constants = {
        "step_s": 0.5, "restore_s": 0.4, "first_step_extra_s": 1.5, "save_stall_s": 0.3,
        "save_commit_s": 0.7, "final_save_s": 0.3, "shutdown_s": 0.6, "stop_s": 1.8,
        "recreate_s": 3.0,
    }  # fmt: skip
    for name, seconds in constants.items():
        quantity = getattr(found, name)
        assert np.allclose(quantity.knots(), seconds, atol=2e-3), name
        assert quantity.num_samples > 0
        assert quantity.how
    assert found.save_interval_s == pytest.approx(25 * 0.5, rel=1e-3)
    known = Quantity.of(detect_s[:20], "")
    assert np.allclose(found.detect_s.knots(), known.knots(), atol=2e-3)
    assert found.detect_s.num_samples == 20
    known = Quantity.of([*startup_s[:40], *[startup_s[40]] * 20], "")
    assert np.allclose(found.startup_s.knots(), known.knots(), atol=2e-3)


def test_costs_are_written_and_read_back(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=60)
    job.finish()
    found = calibrate([tmp_path])
    write(found, tmp_path / "costs.toml")
    again = load(tmp_path / "costs.toml")
    assert again.startup_s == found.startup_s
    assert again.save_interval_s == found.save_interval_s
    assert again.detect_s.knots() == (0.0,) * 6
    assert "num_samples = 1" in (tmp_path / "costs.toml").read_text()
    text = table(again)
    assert "detect_s" in text
    assert "–" in text


def test_logs_without_steps_say_so(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    with pytest.raises(ValueError, match="no interval of steps"):
        calibrate([tmp_path])


def scenario(folder: Path, kill: int, preempt: int, steps: int) -> Job:
    """Let the made-up trainer be killed, preempted, and finish."""
    folder.mkdir()
    job = Job(folder, ranks=4, commit_s=0.2)
    job.start()
    job.train(until=kill)
    job.kill()
    job.start()
    job.train(until=preempt)
    job.preempt()
    job.start()
    job.train(until=steps)
    job.finish()
    return job


def test_a_simulated_run_takes_what_the_logged_one_took(tmp_path: Path) -> None:
    scenario(tmp_path / "taught", kill=63, preempt=107, steps=160)
    costs = calibrate([tmp_path / "taught"])
    job = scenario(tmp_path / "compared", kill=43, preempt=87, steps=120)
    table = pd.DataFrame(
        {
            "job": ["a"],
            "submit_s": [0.0],
            "duration_s": [120 * costs.step_s.mean_s],
            "num_pods": [4],
            "gpus_per_pod": [1],
        }
    )
    cuts = (
        Interrupt(job="a", kind=Kind.KILL, at_step=43),
        Interrupt(job="a", kind=Kind.PREEMPT, at_step=87),
    )
    found = run(table, nodes=4, gpus_per_node=1, costs=costs, interrupt=cuts).jobs.iloc[0]
    truth = dict(job.truth)
    truth[Part.PRODUCTIVE] += truth.pop(Part.DATA_WAIT)
    for part, seconds in truth.items():
        assert found[f"{part}_s"] == pytest.approx(seconds, rel=0.01, abs=0.05), part
    assert found["end_s"] == pytest.approx(job.now_s - 1e9, rel=0.005)
