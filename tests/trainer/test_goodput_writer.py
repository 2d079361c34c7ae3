"""What the trainer writes is what the simulator reads."""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path

import pytest

from sim.goodput.log import read
from trainer.goodput import GoodputLog


def test_events_wait_until_the_attempt_has_its_number(tmp_path: Path) -> None:
    log = GoodputLog(tmp_path, "run", 0)
    log.start()
    assert log.path.read_bytes() == b""
    log.agree(3)
    log.write("exit", reason="finished", committed_step=0)
    log.close()
    (life,) = read([tmp_path]).lives
    assert (life.attempt, life.reason) == (3, "finished")
    assert GoodputLog(tmp_path, "run", 0).own_attempt == 4


def test_a_process_that_fails_before_has_its_own_count(tmp_path: Path) -> None:
    for attempt in (1, 2):
        log = GoodputLog(tmp_path, "run", 1)
        log.start()
        log.write("exit", reason="failed")
        log.close()
        assert read([tmp_path]).lives[-1].attempt == attempt


def test_other_ranks_tell_only_that_they_are_there(tmp_path: Path) -> None:
    log = GoodputLog(tmp_path, "run", 1)
    log.start()
    log.agree(1)
    log.write("steps", num_steps=1, dur_s=1.0)
    log.write("exit", reason="finished")
    log.close()
    (life,) = read([tmp_path]).lives
    assert [event.event for event in life.ranks[1]] == ["process_start", "exit"]


def test_half_a_line_of_a_killed_process_is_ended_by_the_next(tmp_path: Path) -> None:
    log = GoodputLog(tmp_path, "run", 0)
    log.start()
    log.close()
    with log.path.open("ab") as file:
        file.write(b'{"v":1,"run_id":"run","att')
    log = GoodputLog(tmp_path, "run", 0)
    log.start()
    log.close()
    found = read([tmp_path])
    assert [life.attempt for life in found.lives] == [1, 2]
    assert not found.torn


def test_a_full_disk_loses_events_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = GoodputLog(tmp_path, "run", 0)
    log.start()
    log.agree(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 20, before[1]))
    try:
        log.write("straggler", slow_rank=1, score=0.5)
        log.write("straggler", slow_rank=2, score=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.write("exit", reason="finished", committed_step=0)
    log.close()
    found = read([tmp_path])
    assert [one.event for one in found.lives[0].teller] == ["process_start", "exit"]
    assert not found.torn
    said = capsys.readouterr().err
    assert said.count("misses events, straggler first") == 1
    assert str(log.path) in said
    assert GoodputLog(tmp_path, "run", 0).own_attempt == 2


def test_a_line_that_is_no_event_is_named(tmp_path: Path) -> None:
    (tmp_path / "rank_00000.jsonl").write_text('{"attempt":1}\n{"atte{"attempt":2}\n', "utf-8")
    with pytest.raises(
        ValueError, match=r"rank_00000\.jsonl' has a line that is not an event: .*atte"
    ):
        GoodputLog(tmp_path, "run", 0)


def test_durations_do_not_come_from_the_clock_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = GoodputLog(tmp_path, "run", 0)
    log.start()
    true_unix_s = time.time
    monkeypatch.setattr(time, "time", lambda: true_unix_s() - 3600.0)
    log.mark("pg_ready", world_size=1, backend="gloo")
    log.close()
    first, second = read([tmp_path]).lives[0].teller
    assert second.t_unix_s < first.t_unix_s - 3000.0
    assert second.t_mono_s >= first.t_mono_s
    assert second.dur_s is not None
    assert 0.0 <= second.dur_s < 60.0


def test_threads_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    log = GoodputLog(tmp_path, "run", 0)
    log.agree(1)

    def write() -> None:
        for _ in range(200):
            log.write("save_committed", dur_s=1.0, bytes=1, mode="async")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(read([tmp_path]).lives[0].teller) == 800
