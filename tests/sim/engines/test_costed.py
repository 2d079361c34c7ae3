"""Runs with costs: schedules worked out by hand, and books that balance whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.times import FOREVER_US
from sim import RunResult, run
from sim.commands.validate import inspect
from sim.engines.costed import CostedSimulation
from sim.engines.course import Course
from sim.engines.workload import Workload
from sim.schema.cluster import Cluster
from sim.schema.config import RunConfig
from sim.schema.costs import Costs, Interrupt, Kind, Quantity, load, load_interrupts
from sim.schema.tables import GOODPUT_PARTS


def constant(**seconds: float) -> Costs:
    """Costs that are always the same."""
    interval_s = seconds.pop("save_interval_s", 0.0)
    fields = {name: Quantity(p50=value) for name, value in seconds.items()}
    return Costs(save_interval_s=interval_s, **fields)


COSTS = constant(
    save_interval_s=100.0,
    step_s=2.0,
    startup_s=10.0,
    restore_s=5.0,
    first_step_extra_s=3.0,
    save_stall_s=1.0,
    save_commit_s=4.0,
    final_save_s=2.0,
    shutdown_s=1.0,
    stop_s=6.0,
    detect_s=20.0,
    recreate_s=30.0,
)
JOB = pd.DataFrame(
    {"job": ["a"], "submit_s": [0.0], "duration_s": [250.0], "num_pods": [2], "gpus_per_pod": [8]}
)


def simulate(jobs: pd.DataFrame = JOB, nodes: int = 2, **settings: Any) -> RunResult:
    return run(jobs, nodes=nodes, audit=True, **{"costs": COSTS, **settings})


def parts(result: RunResult) -> list[dict[str, float]]:
    """Return what is not 0 of each attempt."""
    rows = result.attempts[list(GOODPUT_PARTS)].to_dict("records")
    return [{name.removesuffix("_s"): s for name, s in row.items() if s} for row in rows]


def test_a_job_that_nothing_happens_to() -> None:
    result = simulate()
    # 13 s until the first step is as others are, 250 s of work, stalls at 100 and 200, last save
    assert result.jobs["end_s"].tolist() == [13.0 + 250.0 + 2.0 + 2.0 + 1.0]
    assert parts(result) == [
        {"productive": 250.0, "startup": 13.0, "save_stall": 4.0, "other": 1.0}
    ]
    assert result.summary["goodput_ratio"] == pytest.approx(250.0 / 268.0)
    assert result.summary["allocation_ratio"] == 1.0
    assert result.attempts["lost_gpu_s"].tolist() == [0.0]


def test_a_killed_job_goes_on_from_what_was_committed() -> None:
    result = simulate(interrupt=(Interrupt(job="a", kind=Kind.KILL, at_step=80),))
    # step 80 is at work 160, 13 + 160 + 1 after the start; 60 s are lost
    first, second = result.attempts.to_dict("records")
    assert first["outcome"] == "killed"
    assert first["end_s"] == 174.0 + 20.0
    assert second["created_s"] == 194.0 + 30.0
    assert parts(result)[0] == {
        "productive": 100.0,
        "startup": 13.0,
        "save_stall": 1.0,
        "lost_work": 60.0,
        "recovery": 20.0,
    }
    assert parts(result)[1] == {
        "productive": 150.0,
        "startup": 13.0,
        "restore": 5.0,
        "save_stall": 3.0,
        "other": 1.0,
    }
    assert first["lost_gpu_s"] == 80.0 * 16
    job = result.jobs.iloc[0]
    assert job["end_s"] == 224.0 + 13.0 + 5.0 + 150.0 + 1.0 + 2.0 + 1.0
    assert job["recovery_s"] == 20.0 + 30.0
    assert sum(job[part] for part in GOODPUT_PARTS) == job["end_s"] - job["start_s"]


def test_a_checkpoint_that_is_not_committed_yet_is_worth_nothing() -> None:
    # work 102 is reached 3 s after the checkpoint at 100 began; it is committed after 4 s
    result = simulate(interrupt=(Interrupt(job="a", kind=Kind.KILL, at_step=51),))
    assert parts(result)[0]["lost_work"] == 102.0
    assert "restore" not in parts(result)[1]
    result = simulate(interrupt=(Interrupt(job="a", kind=Kind.KILL, at_step=53),))
    assert parts(result)[0]["lost_work"] == 6.0


@pytest.mark.parametrize(
    ("until_s", "saved_us"),
    [(116.0, -FOREVER_US), (118.0, 113_000_000), (217.0, 113_000_000), (219.0, 214_000_000)],
)
def test_the_core_knows_what_a_gang_has_saved(until_s: float, saved_us: int) -> None:
    """Checkpoints begin at work 100 and 200, 113 and 214 s after the start, and take 4 s."""
    config = RunConfig(costs=COSTS, until_s=until_s, audit=True)
    one = CostedSimulation(Workload(JOB), Cluster.uniform(2, 8).build(), config, [])
    one.simulate()
    member = one.state.gangs["a"]
    assert (member.admitted_us, member.saved_us) == (0, saved_us)


def test_a_preempted_job_loses_nothing() -> None:
    result = simulate(interrupt=(Interrupt(job="a", kind=Kind.PREEMPT, at_step=80),))
    assert result.attempts["outcome"].tolist() == ["preempted", "completed"]
    assert parts(result)[0] == {
        "productive": 160.0,
        "startup": 13.0,
        "save_stall": 1.0 + 2.0,
        "recovery": 4.0,
    }
    assert parts(result)[1]["productive"] == 90.0
    assert parts(result)[1]["save_stall"] == 1.0 + 2.0  # at 200, and at the end
    assert result.attempts["lost_gpu_s"].iloc[0] == 4.0 * 16


def test_a_job_told_to_stop_while_it_starts_has_nothing_to_save() -> None:
    result = simulate(interrupt=(Interrupt(job="a", kind=Kind.PREEMPT, at_s=4.0),))
    assert parts(result)[0] == {"startup": 4.0, "recovery": 6.0}
    assert parts(result)[1]["productive"] == 250.0


def test_interrupts_come_once_and_in_order() -> None:
    both = (
        Interrupt(job="a", kind=Kind.KILL, at_step=70),
        Interrupt(job="a", kind=Kind.PREEMPT, at_step=110),
    )
    result = simulate(interrupt=both)
    assert result.attempts["outcome"].tolist() == ["killed", "preempted", "completed"]
    assert result.manifest["interrupts_not_met"] == 0
    assert [one["productive"] for one in parts(result)] == [100.0, 120.0, 30.0]


def test_an_interrupt_whose_job_does_not_run_is_counted() -> None:
    result = simulate(interrupt=(Interrupt(job="a", kind=Kind.KILL, at_s=9999.0),))
    assert result.attempts["outcome"].tolist() == ["completed"]
    assert result.manifest["interrupts_not_met"] == 1


def test_gangs_hold_their_nodes_until_the_loss_of_one_is_noticed() -> None:
    config = RunConfig(costs=COSTS, audit=True)
    jobs = pd.concat([JOB, JOB.assign(job="b", submit_s=1.0)])
    nodes = Cluster.uniform(3, 8).build()
    outages = [(150.0, 1000.0, 0)]
    records = CostedSimulation(Workload(jobs), nodes, config, outages).run()
    rows = records.attempts.to_dict("records")
    assert [(row["job"], row["outcome"]) for row in rows] == [
        (0, "node_lost"), (1, "completed"), (0, "completed")
    ]  # fmt: skip
    assert rows[0]["end_s"] == 150.0 + 20.0
    assert rows[1]["admitted_s"] == 170.0
    assert rows[0]["lost_work_s"] == 150.0 - 13.0 - 1.0 - 100.0
    # a is made again at 200, but b has the two nodes that are left until it ends
    assert rows[2]["created_s"] == 200.0
    assert rows[2]["admitted_s"] == rows[1]["end_s"]
    assert records.node_unavailable_gpu_s[0] == (records.end_s - 170.0) * 8


def test_a_node_that_comes_back_unnoticed_still_cost_its_gang_an_attempt() -> None:
    config = RunConfig(costs=COSTS, audit=True)
    nodes = Cluster.uniform(2, 8).build()
    records = CostedSimulation(Workload(JOB), nodes, config, [(150.0, 155.0, 1)]).run()
    assert records.attempts["outcome"].tolist() == ["node_lost", "completed"]
    assert records.node_unavailable_gpu_s.sum() == 0


@given(
    interval_s=st.floats(0, 300),
    stall_s=st.floats(0, 50),
    commit_s=st.floats(0, 400),
    final_s=st.floats(0, 20),
    startup_s=st.floats(0, 50),
    from_s=st.floats(0, 500),
    left_s=st.floats(0.1, 5000),
    at=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_a_course_in_closed_form_equals_one_step_by_step(
    interval_s: float,
    stall_s: float,
    commit_s: float,
    final_s: float,
    startup_s: float,
    from_s: float,
    left_s: float,
    at: list[float],
) -> None:
    costs = Costs(
        save_interval_s=interval_s if interval_s > 1 else 0.0,
        save_stall_s=Quantity(min=stall_s / 2, p50=stall_s, max=2 * stall_s),
        save_commit_s=Quantity(p50=commit_s),
        final_save_s=Quantity(p50=final_s),
        startup_s=Quantity(p50=startup_s),
    )
    course = Course(costs, 0, 0, 0, from_s, from_s + left_s)
    last_work_s = from_s
    for ran_s in sorted(ratio * course.total_s for ratio in at):
        now = course.at(ran_s)
        spent_s = now.startup_s + now.restore_s + now.working_s + now.save_stall_s + now.other_s
        assert spent_s == pytest.approx(ran_s, abs=1e-6)
        assert min(now) >= -1e-9
        assert now.work_s >= last_work_s - 1e-9
        assert from_s <= now.committed_s <= now.work_s + 1e-6
        if costs.save_interval_s:
            assert now.work_s - now.committed_s <= costs.save_interval_s + commit_s + 1e-6
        last_work_s = now.work_s
        if now.working_s and now.work_s < course.work_s:
            assert course.reaches_s(now.work_s) <= ran_s + 1e-6
    for save in range(1, min(course.num_saves, 5) + 1):
        begins_s, committed_s = course.save_s(save)
        saved_s = course.at(begins_s).work_s
        assert course.at(committed_s + 1e-6).committed_s >= saved_s - 1e-6
        before = course.at(committed_s - 1e-4)
        if committed_s - begins_s > 1e-3 and before.work_s < course.work_s:
            assert before.committed_s < saved_s - 1e-6
    assert course.at(course.total_s).work_s == pytest.approx(from_s + left_s)
    middle_s = from_s + left_s / 2
    assert course.at(course.reaches_s(middle_s)).work_s == pytest.approx(middle_s)


def spread(**seconds: float) -> Costs:
    """Costs that vary."""
    interval_s = seconds.pop("save_interval_s")
    fields = {
        name: Quantity(min=s / 4, p10=s / 2, p50=s, p90=2 * s, p99=3 * s, max=4 * s)
        for name, s in seconds.items()
    }
    return Costs(save_interval_s=interval_s, **fields)


SPREAD = spread(
    save_interval_s=1800.0, step_s=1.0, startup_s=90.0, restore_s=60.0, first_step_extra_s=20.0,
    save_stall_s=4.0, save_commit_s=40.0, final_save_s=30.0, shutdown_s=5.0, stop_s=40.0,
    detect_s=60.0, recreate_s=20.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    """Forty gangs on twenty nodes that often fail."""
    return pd.DataFrame(
        [(f"j{i:02}", 600.0 * i, 40_000.0, 1 + i % 7, 8) for i in range(40)],
        columns=["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod"],
    )


FAULTS = {"source": "calibrated", "per_1000_node_days": 500.0}


@pytest.mark.parametrize("backfill", ["none", "easy"])
def test_books_balance_under_faults_and_preemptions(many: pd.DataFrame, backfill: str) -> None:
    interrupts = tuple(
        Interrupt(job=f"j{i:02}", kind=Kind.PREEMPT, at_step=15_000) for i in range(0, 40, 3)
    )
    result = run(
        many, nodes=20, costs=SPREAD, faults=FAULTS, interrupt=interrupts, backfill=backfill,
        control_plane="kubernetes", audit=True, seed=2,
    )  # fmt: skip
    jobs, attempts = result.jobs, result.attempts
    assert set(jobs["outcome"]) == {"completed"}
    assert {"node_lost", "preempted"} <= set(attempts["outcome"])
    assert np.allclose(jobs["productive_s"], jobs["duration_s"])
    sums = jobs[list(GOODPUT_PARTS)].sum(axis=1)
    assert np.allclose(sums, jobs["end_s"] - jobs["start_s"])
    ran = attempts.dropna(subset=["start_s"])
    assert np.allclose(ran[list(GOODPUT_PARTS)].sum(axis=1), ran["end_s"] - ran["start_s"])
    held = (jobs["gpus"] * jobs["duration_s"]).sum() / jobs["held_gpu_s"].sum()
    assert result.summary["goodput_ratio"] == pytest.approx(held)
    assert result.manifest["interrupts_not_met"] == 0


def test_the_same_seed_gives_the_same_bytes_and_costs_do_not_change_the_faults(
    many: pd.DataFrame, tmp_path: Path
) -> None:
    def saved(name: str, seed: int) -> bytes:
        result = run(many, nodes=20, costs=SPREAD, faults=FAULTS, seed=seed)
        return (result.save(tmp_path / name) / "attempts.parquet").read_bytes()

    assert saved("a", 3) == saved("b", 3)
    assert saved("c", 4) != saved("a2", 3)


def test_a_run_with_costs_reads_back_and_is_sound(many: pd.DataFrame, tmp_path: Path) -> None:
    interrupt = (Interrupt(job="j01", kind=Kind.KILL, at_step=100),)
    result = run(many, nodes=20, costs=SPREAD, interrupt=interrupt)
    again = RunResult.load(result.save(tmp_path / "run"))
    assert again.config == result.config
    assert set(GOODPUT_PARTS) <= set(again.jobs.columns) & set(again.attempts.columns)
    assert "40 jobs" in inspect(tmp_path / "run")


def test_without_costs_the_tables_are_as_they_were(many: pd.DataFrame, tmp_path: Path) -> None:
    result = run(many, nodes=20)
    folder = result.save(tmp_path / "run")
    assert not set(GOODPUT_PARTS) & set(result.jobs.columns)
    assert "goodput_ratio" not in result.summary
    assert "costs" not in (folder / "config.toml").read_text()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"costs": COSTS, "admission": "pod"}, "costs need admission gang"),
        ({"interrupt": (Interrupt(job="a", kind=Kind.KILL, at_s=1.0),)}, "interrupts need costs"),
        ({"costs": COSTS, "interrupt": (Interrupt(job="b", kind=Kind.KILL, at_s=1.0),)}, "'b'"),
        (
            {"costs": COSTS, "interrupt": (Interrupt(job="a", kind=Kind.KILL, at_step=125),)},
            "the job ends at step 125",
        ),
        ({"costs": Costs(startup_s=Quantity(p50=2.0, p90=1.0))}, "each must be at least"),
        ({"costs": Costs(save_interval_s=-1.0)}, "save_interval_s is -1"),
        (
            {"costs": Costs(), "interrupt": (Interrupt(job="a", kind=Kind.KILL, at_step=1),)},
            "costs.toml has no step_s",
        ),
        ({"costs": COSTS, "interrupt": (Interrupt(job="a", kind=Kind.KILL),)}, "at_step or at_s"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        run(JOB, nodes=2, **settings)
    assert says in str(caught.value)


def test_files_of_costs_and_interrupts(tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text("save_interval_s = 600\nstartup_s = { p50 = 20, p90 = 30 }\n")
    costs = load(path)
    assert costs.startup_s.knots() == (20.0, 20.0, 20.0, 30.0, 30.0, 30.0)
    assert 20.0 < costs.startup_s.mean_s < 30.0
    path.write_text("startup = 3\n")
    with pytest.raises(ValueError, match=r"costs\.toml'.*startup.*save_interval_s"):
        load(path)
    script = tmp_path / "scenario.toml"
    script.write_text('[[interrupt]]\njob = "a"\nat_step = 30\nkind = "kill"\n')
    assert load_interrupts(script) == (Interrupt(job="a", kind=Kind.KILL, at_step=30),)
    script.write_text('[[interrupt]]\njob = "a"\nat_step = 30\nkind = "maim"\n')
    with pytest.raises(ValueError, match="maim"):
        load_interrupts(script)


def test_draws_follow_the_quantiles() -> None:
    quantity = Quantity(p50=10.0, min=5.0, p10=6.0, p90=30.0, p99=90.0, max=100.0)
    drawn = quantity.draw(np.random.default_rng(1), 200_000)
    found = np.quantile(drawn, Quantity.AT[1:-1])
    assert np.allclose(found, (6.0, 10.0, 30.0, 90.0), rtol=0.03)
    assert drawn.mean() == pytest.approx(quantity.mean_s, rel=0.01)
