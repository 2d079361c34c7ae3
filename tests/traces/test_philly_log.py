"""Microsoft Philly's cluster_job_log: attempts, times that are missing, odd items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus

Write = Callable[..., Path]


def attempt(start: str | None, end: str | None, *gpus: int) -> dict[str, Any]:
    """Return an attempt on servers of so many GPUs; times are of 7 October 2017."""
    return {
        "start_time": f"2017-10-07 {start}" if start not in (None, "None") else start,
        "end_time": f"2017-10-07 {end}" if end not in (None, "None") else end,
        "detail": [
            {"ip": f"m{number}", "gpus": [f"gpu{gpu}" for gpu in range(count)]}
            for number, count in enumerate(gpus)
        ],
    }


def job(name: str, *attempts: dict[str, Any], status: str = "Pass", **more: Any) -> dict[str, Any]:
    return {
        "status": status,
        "vc": "vc1",
        "jobid": name,
        "attempts": list(attempts),
        "submitted_time": "2017-10-07 01:11:39",
        "user": "u1",
        **more,
    }


LOG = [
    job("one", attempt("01:12:09", "01:13:23", 2)),
    job("two", attempt("01:12:09", "01:13:23", 8, 8), attempt("01:13:30", "01:14:30", 8, 8)),
    job("never", status="Killed"),
    job("runs", attempt("01:12:00", "01:13:00", 1), attempt("01:14:00", "None", 1)),
    job("lost", attempt(None, "01:20:00", 1), status="Failed"),
    job("gap", attempt("01:12:00", None, 1), attempt("01:13:00", "01:13:40", 1), status="Failed"),
    job("bare", attempt("01:12:00", "01:13:00"), status="Failed"),
    job("moved", attempt("01:12:00", "01:12:10", 4), attempt("01:12:10", "01:12:30", 8)),
    job("odd", attempt("01:12:00", "01:12:01", 1), status="Preempted"),
]


def test_jobs_of_a_log(written: Write) -> None:
    loaded = traces.load(written(json.dumps(LOG), name="cluster_job_log"))
    jobs = loaded.jobs.set_index("job")
    assert loaded.kind == "philly-log"
    assert list(jobs.index) == ["one", "two", "gap", "moved", "odd"]
    assert jobs["duration_s"].tolist() == [74, 134, 40, 30, 1], "what lies between is waiting"
    assert total_gpus(loaded.jobs).tolist() == [2, 16, 1, 4, 1], "GPUs of the first attempt"
    assert jobs["outcome"].tolist() == ["completed", "completed", "failed", "completed", "unknown"]
    assert set(jobs["queue"]) == {"vc1"}
    assert set(jobs["user"]) == {"u1"}
    assert loaded.left_out == {
        "the job has no attempt: it never ran": 1,
        "the job was still running when the log ended: its run time is unknown": 1,
        "no attempt of the job has both a start and an end: its run time is unknown": 1,
        "no attempt of the job names its GPUs": 1,
    }
    assert loaded.num_bad == 0
    said = " ".join(loaded.notes)
    assert "jobs with several attempts: 3;" in said
    assert "jobs with other GPUs in a later attempt: 1;" in said
    assert "attempts without a start or an end: 1;" in said
    assert "no zone" in said
    assert "'Preempted' (1)" in said


def test_json_lines_and_an_array_are_the_same(written: Write) -> None:
    array = traces.load(written(json.dumps(LOG), name="log.json"))
    lines = traces.load(written(*map(json.dumps, LOG), "", name="log.jsonl"))
    assert array.jobs.equals(lines.jobs)
    assert array.left_out == lines.left_out


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"jobid": 7}, "item 10 is not a job of this log .*Expected `str"),
        ({"jobid": "one"}, "item 10, column 'jobid': 'one' is in item 1 too"),
        ({"submitted_time": "None"}, "item 10, column 'submitted_time': '' must be a date"),
        ({"submitted_time": "soon"}, "item 10, column 'submitted_time': 'soon' must be a date"),
        ({"attempts": [attempt("02:00:00", "01:00:00", 1)]}, "item 10.*must not precede start_t"),
        ({"attempts": [attempt("25:00:00", "01:00:00", 1)]}, "item 10.*'start_time': .*25:00"),
    ],
)
def test_odd_items_are_named(written: Write, item: dict[str, Any], message: str) -> None:
    odd = {**job("x", attempt("01:12:00", "01:12:01", 1)), **item}
    path = written(json.dumps([*LOG, odd]), name="cluster_job_log")
    with pytest.raises(TraceError, match=message):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert loaded.num_bad == 1
    assert len(loaded.jobs) == 5


def test_a_log_that_was_cut_off(written: Write) -> None:
    path = written(json.dumps(LOG)[:-20], name="cluster_job_log")
    with pytest.raises(TraceError, match=r"is not sound JSON: .*was it cut off"):
        traces.load(path)


def test_json_that_nests_too_deeply(written: Write) -> None:
    with pytest.raises(TraceError, match="is not sound JSON"):
        traces.load(written("[" * 100_000, name="log"), kind="philly-log")
    deep = '{"jobid": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path = written(*map(json.dumps, LOG), deep, name="log.jsonl")
    with pytest.raises(TraceError, match="line 10 is not a job of this log"):
        traces.load(path)


def test_the_example_of_the_log(shared: Path) -> None:
    loaded = traces.load(shared / "cases/inputs/cluster_job_log")
    assert loaded.jobs["duration_s"].tolist() == [74]
    assert loaded.jobs["gpus_per_pod"].tolist() == [2]
    assert loaded.jobs["outcome"].tolist() == ["completed"]
