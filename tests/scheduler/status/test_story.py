"""The curve and the stories, and what a journal gives back of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from scheduler.journal.file import Journal
from scheduler.journal.lines import lines
from scheduler.journal.replay import replay
from scheduler.status.story import DAY_S, MOST_MOMENTS, Memory
from tests.scheduler.journal.test_replay import Session


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 1_000_000.0}
    monkeypatch.setattr(time, "time", lambda: now["s"])
    return now


def test_a_successor_reads_the_last_day(tmp_path: Path, clock: dict[str, float]) -> None:
    journal = Journal(tmp_path / "journal.jsonl", 1 << 20)
    memory = Memory(journal.write)
    memory.note("n/old", "planned", "two days ago")
    memory.point({"capacity": 1})
    clock["s"] += 2 * DAY_S
    for minute in range(3):
        memory.point({"capacity": minute})
        memory.note("n/a", "planned", str(minute))
        clock["s"] += 60
        if minute == 0:  # what is set aside is read, too
            journal.full = True
            journal.begin(0.0, b'{"t":0.0,"is":"Snapshot"}')
    journal.close()
    assert len(journal.files()) == 2
    successor = Memory()
    successor.read(journal.files())
    assert [point["capacity"] for point in successor.points] == [0, 1, 2]
    assert [moment.text for moment in successor.story("n/a", 0.0)] == ["0", "1", "2"]
    assert [m.text for m in successor.story("n/a", clock["s"] - 120)] == ["1", "2"], "one life"
    assert not successor.story("n/old", 0.0)


def test_the_core_does_not_see_these_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    told = Session(Journal(path, 1 << 20))
    memory = Memory(told.journal.write)
    told.submit("g0", 2, 1.0)
    memory.note("n/g0", "planned", "x")
    memory.point({"capacity": 3})
    told.submit("g1", 3, 1.0)
    told.decide(1.5)
    told.journal.close()
    assert len(list(lines(path))) == len(path.read_bytes().splitlines()) - 2
    done = replay(path)
    assert not done.difference and done.num_decisions >= 2
    assert Memory().read([path]) == 2


def test_lines_that_are_torn_or_strange_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    memory = Memory(Journal(path, 1 << 20).write)
    now = time.time()
    strange = ({"unix_s": "x"}, {"unix_s": now, "capacity": "many"}, {}, {"unix_s": 1.0})
    told = [{"t": 0.0, "is": kind, "v": v} for kind in ("Pending", "Told") for v in strange]
    torn = '{"t":0.0,"is":"Told","v":{"ga'
    text = "\n".join(json.dumps(line, separators=(",", ":")) for line in told)
    path.write_text(f"{text}\n{torn}")
    assert memory.read([path, tmp_path / "none"]) == 0 and not memory.points


def test_long_stories_keep_their_beginning_and_old_gangs_go(clock: dict[str, float]) -> None:
    memory = Memory()
    for number in range(3 * MOST_MOMENTS):
        memory.note("n/a", "waits", str(number))
    kept = [moment.text for moment in memory.story("n/a", 0.0)]
    assert (len(kept), kept[0], kept[-1]) == (MOST_MOMENTS, "0", str(3 * MOST_MOMENTS - 1))
    clock["s"] += DAY_S + 1
    memory.forget_old(["n/a"])
    assert memory.story("n/a", 0.0), "it is still there"
    memory.forget_old([])
    assert not memory.story("n/a", 0.0)


def test_a_clock_that_goes_back_leaves_the_curve_in_order(clock: dict[str, float]) -> None:
    memory = Memory()
    for step in (0, 60, -3600, 60):
        clock["s"] += step
        memory.point({"capacity": 1})
    times = [point["unix_s"] for point in memory.points]
    assert times == sorted(times)
