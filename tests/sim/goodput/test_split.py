"""Goodput logs: every second of a run whose truth is known lands in its part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from sim.goodput.split import Split, plot_split, split
from sim.report.parts import Part
from tests.sim.goodput.goodput_logs import Job


def assert_true(found: Split, job: Job) -> None:
    for part in Part:
        assert found.seconds[part] == pytest.approx(job.truth[part], abs=1e-3), part
    assert found.wall_s == pytest.approx(job.now_s - 1e9, abs=1e-3)
    assert sum(found.seconds.values()) == pytest.approx(found.wall_s)
    assert found.lost_steps == job.lost_steps
    for one in found.attempts:
        assert sum(one.seconds.values()) == pytest.approx(one.wall_s)
        assert min(one.seconds.values()) >= 0


def test_a_run_with_a_kill_and_a_preemption(tmp_path: Path) -> None:
    job = Job(tmp_path, ranks=4)
    job.start()
    job.train(until=43)
    job.kill(detect_s=2.0)
    job.start(restore_s=0.4)
    job.train(until=87)
    job.preempt()
    job.start()
    job.train(until=120)
    job.finish()
    found = split([tmp_path])
    assert_true(found, job)
    assert [one.reason for one in found.attempts] == ["failed", "preempted", "finished"]
    assert [one.from_step for one in found.attempts] == [0, 25, 87]
    assert [one.lost_steps for one in found.attempts] == [18, 0, 0]
    assert sum(one.kept_steps for one in found.attempts) == 120
    # 18 steps were rolled back, 3 of them after the last that was logged
    assert found.seconds[Part.LOST_WORK] == pytest.approx(9.0)
    assert found.goodput_ratio == pytest.approx(found.seconds[Part.PRODUCTIVE] / found.wall_s)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lives=st.lists(
        st.tuples(
            st.sampled_from(["kill", "preempt"]),
            st.integers(1, 60),  # steps
            st.floats(0, 30),  # start-up
            st.floats(0, 60),  # until it is noticed, or until all have left
            st.floats(0, 300),  # until the next start
            st.floats(-7200, 7200),  # how far the wall clock is set in the midst of it
        ),
        max_size=4,
    ),
    log_every=st.integers(1, 20),
    save_every=st.integers(3, 40),
    data_wait_s=st.floats(0, 0.4),
    stall_s=st.floats(0, 2),
    stall_inside=st.booleans(),
    ranks=st.integers(1, 4),
)
def test_any_run_is_split_exactly(
    lives: list[tuple[str, int, float, float, float, float]],
    log_every: int,
    save_every: int,
    data_wait_s: float,
    stall_s: float,
    stall_inside: bool,
    ranks: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    job = Job(
        folder,
        ranks=ranks,
        log_every=log_every,
        save_every=save_every,
        data_wait_s=data_wait_s,
        stall_s=stall_s,
        stall_inside=stall_inside,
    )
    for how, steps, startup_s, leave_s, gap_s, set_s in lives:
        job.start(startup_s)
        job.train(until=job.step + steps)
        job.jump_s += set_s
        if how == "kill" and ranks > 1:
            job.kill(leave_s, gap_s)
        else:
            job.preempt(leave_s, gap_s)
    job.start()
    job.train(until=job.step + 2 * log_every + 1)
    job.finish()
    assert_true(split([folder]), job)


def test_when_nobody_could_say_how_it_ended_the_rest_is_recovery(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=60)  # logged at 60, saved at 50
    job.kill(everyone=True)
    job.start()
    job.train(until=80)
    job.finish()
    found = split([tmp_path])
    assert_true(found, job)
    assert found.attempts[0].reason == "lost"


def test_a_restart_may_roll_back_more_than_one_attempt(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=60)
    job.kill()
    job.start()
    job.train(until=80)
    job.kill()
    job.committed = 25  # the newer checkpoints turn out to be broken
    job.start()
    job.train(until=100)
    job.finish()
    found = split([tmp_path])
    assert_true(found, job)
    assert [one.lost_steps for one in found.attempts] == [35, 30, 0]


def test_a_run_that_goes_on_is_said_to_run(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=40)
    found = split([tmp_path])
    assert found.attempts[0].reason == "running"
    assert found.seconds[Part.LOST_WORK] == 0
    assert found.attempts[0].kept_steps == 40


def test_an_attempt_that_failed_at_last_keeps_what_was_committed(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=40)
    job.kill()
    found = split([tmp_path])
    assert found.attempts[0].lost_steps == 15
    assert found.seconds[Part.LOST_WORK] == pytest.approx(7.5)


def test_a_clock_set_back_between_attempts_is_told(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=30)
    job.preempt()
    job.jump_s = -500.0
    job.start()
    job.train(until=40)
    job.finish()
    found = split([tmp_path])
    assert any("the clock was set between them" in note for note in found.notes)
    assert min(found.seconds.values()) >= 0


def test_half_a_line_at_the_end_is_left_out(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=40)
    job.kill(everyone=True)
    whole = split([tmp_path]).seconds
    with (tmp_path / "run-0-0.jsonl").open("a") as file:
        file.write('{"v": 1, "run_id": "run", "att')
    found = split([tmp_path])
    assert found.seconds == whole
    last = len((tmp_path / "run-0-0.jsonl").read_text().splitlines())
    place = f"{tmp_path}/run-0-0.jsonl:{last}"
    assert found.notes == (f"{place}: incomplete line, left out; its process was killed",)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense\n", "not a goodput event"),
        ('{"v": 1, "run_id": "r", "att\n', "not a goodput event"),
        ("{good}\nnonsense\n{good}", ":2: not a goodput event"),
        ('{"v": 1, "run_id": "r", "attempt": 0, "rank": 0, "event": "exit"}\n', "t_unix_s"),
        ("{v2}\n", "version 2"),
        ("{steps}\n", "'steps' lacks step, num_steps"),
        ("{negative}\n", "dur_s is -1"),
        ("", "no goodput event"),
    ],
)
def test_other_bad_lines_name_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    good = {"v": 1, "run_id": "r", "attempt": 0, "rank": 0, "t_unix_s": 1.0, "t_mono_s": 1.0}
    forms = {
        "{good}": {**good, "event": "process_start"},
        "{v2}": {**good, "v": 2, "event": "process_start"},
        "{steps}": {**good, "event": "steps", "dur_s": 1.0},
        "{negative}": {**good, "event": "process_start", "dur_s": -1},
    }
    for name, fields in forms.items():
        line = line.replace(name, json.dumps(fields))
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=r"bad\.jsonl") as caught:
        split([path])
    assert says in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.jsonl.*No such file"):
        split([tmp_path / "absent.jsonl"])
    with pytest.raises(ValueError, match=r"holds no \*.jsonl"):
        split([tmp_path])


def test_the_table_shows_attempts_sum_and_shares(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=40)
    job.kill()
    job.start()
    job.train(until=60)
    job.finish()
    text = split([tmp_path]).table()
    title, head, *rows = text.splitlines()
    assert title == "goodput by attempt, seconds"
    assert head.split()[:4] == ["attempt", "end", "steps", "wall"]
    assert [row.split()[0] for row in rows] == ["0", "1", "all", "share"]
    assert "15 lost" in rows[3]
    assert "60 kept" in rows[2]


def test_the_picture_says_where_the_time_went(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.start()
    job.train(until=40)
    job.kill(gap_s=20.0)
    job.start()
    job.train(until=60)
    job.finish()
    found = split([tmp_path])
    ax = Figure().add_subplot()
    plot_split(found.frame(), ax)
    assert "most of the rest went into recovery" in ax.get_title(loc="left")
    assert len(ax.get_yticklabels()) == 3
    drawn_s = sum(bar.get_width() for bars in ax.containers for bar in bars)
    assert drawn_s == pytest.approx(2 * found.wall_s, rel=0.02)
