"""Standard Workload Format: fields, walltimes, processors as GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus
from traces.formats import swf

Write = Callable[..., Path]

#: job, submit, wait, run, used, cpu, memory, asked, walltime, memory, status, user, ...
LINES = (
    "; Version: 2.2",
    ";",
    "1 100 0 50 4 -1 -1 4 200 -1 1 7 -1 -1 -1 -1 -1 -1",
    "2 110 5 60 12 -1 -1 16 -1 -1 0 8 -1 -1 -1 -1 -1 -1",
    "   3   90 0 7 -1 -1 -1 9 0 -1 5 8 -1 -1 -1 -1 -1 -1 19 twenty",
)


def test_fields_become_columns(written: Write) -> None:
    jobs = traces.load(written(*LINES, name="log.swf")).jobs
    assert jobs["job"].tolist() == ["3", "1", "2"]
    assert jobs["submit_s"].tolist() == [0, 10, 20], "time zero is the first submission"
    assert jobs["duration_s"].tolist() == [7, 50, 60]
    assert jobs["walltime_s"].tolist() == [7, 200, 60], "-1 and 0 mean the run time"
    assert jobs["num_pods"].tolist() == [9, 4, 12], "used processors; asked where unknown"
    assert jobs["gpus_per_pod"].tolist() == [1, 1, 1]
    assert jobs["user"].tolist() == ["user-8", "user-7", "user-8"]
    assert jobs["outcome"].tolist() == ["cancelled", "completed", "failed"]


def test_times_count_from_the_start_that_the_header_says(written: Write) -> None:
    loaded = traces.load(written("; UnixStartTime: 1700000000", *LINES, name="log.swf"))
    assert loaded.offset_s == 1_700_000_090
    assert loaded.jobs["submit_s"].tolist() == [0, 10, 20]
    unknown = traces.load(written("; UnixStartTime: -1", *LINES, name="log.swf"))
    assert unknown.offset_s == 90


def test_lines_with_another_number_of_fields_are_counted_and_named(written: Write) -> None:
    assert not any("18 fields" in note for note in traces.load(
        written(*LINES[:-1], name="log.swf")).notes)  # fmt: skip
    short = "4 120 0 9 4 -1 -1 4 200 -1 1 7"
    loaded = traces.load(written(*LINES, short, name="log.swf"))
    assert len(loaded.jobs) == 4
    (note,) = (note for note in loaded.notes if "18 fields" in note)
    assert "2 (line 5 has 20, line 6 has 12)" in note


def test_processors_make_pods(written: Write) -> None:
    jobs = traces.load(written(*LINES, name="log.swf"), gpus_per_pod=8).jobs
    assert jobs["num_pods"].tolist() == [2, 1, 2]
    assert jobs["gpus_per_pod"].tolist() == [8, 4, 8]
    assert jobs["last_pod_gpus"].tolist() == [1, 4, 4]
    assert total_gpus(jobs).tolist() == [9, 4, 12]


def test_jobs_that_never_ran_are_set_aside_and_listed(written: Write) -> None:
    path = written(
        *LINES,
        "4 120 0 -1 4 -1 -1 4 200 -1 5 7 -1 -1 -1 -1 -1 -1",
        "5 120 0 0 4 -1 -1 4 200 -1 5 7 -1 -1 -1 -1 -1 -1",
        "6 120 0 9 0 -1 -1 -1 200 -1 5 7 -1 -1 -1 -1 -1 -1",
        name="log.swf",
    )
    loaded = traces.load(path)
    assert len(loaded.jobs) == 3
    assert loaded.rejected["line"].tolist() == [6, 7, 8]
    assert loaded.rejected["column"].tolist() == ["run", "run", "processors"]
    assert loaded.rejected["value"].tolist() == ["-1", "0", "0"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4 x 0 5 4 -1 -1 4 9", "column 'submit': 'x' must be a number, at least 0"),
        ("4 -5 0 5 4 -1 -1 4 9", "column 'submit': '-5' must be a number, at least 0"),
        ("4 0 0 inf 4 -1 -1 4 9", "column 'run': 'inf' must be a number"),
        ("4 0 0 5 4.5 -1 -1 4 9", "column 'processors': '4.5' must be a whole number"),
        ("four 0 0 5 4 -1 -1 4 9", "column 'job': 'four' must be a whole number"),
        ("1 0 0 5 4 -1 -1 4 9", "column 'job': '1' is in line 3 too"),
        ("4 0 0 5 4", r" has fewer than 9 fields \(5\)"),
    ],
)
def test_bad_lines(written: Write, line: str, message: str) -> None:
    path = written(*LINES, line, name="log.swf")
    with pytest.raises(TraceError, match=rf"1 of 4 rows: line 6,? ?{message.strip()}"):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert len(loaded.jobs) == 3
    assert loaded.rejected["line"].tolist() == [6]


ONE = "{job} {submit} 0 {run} {used} -1 -1 8 600 -1 {status} 1 1 1 1 1 -1 -1"


def line(
    job: object, status: object, run: object = 50, submit: object = 0, used: object = 8
) -> str:
    return ONE.format(job=job, submit=submit, run=run, used=used, status=status)


@pytest.mark.parametrize("last", [3, 4])
@pytest.mark.parametrize("summary", [0, 1, 5, -1])
def test_partial_executions_beside_a_summary_are_left_out(
    written: Write, summary: int, last: int
) -> None:
    lines = [line(1, 1), line(2, summary, 300, 10), line(2, 2, 100, 10), line(2, last, 200, 10)]
    for order in (lines, lines[::-1]):
        loaded = traces.load(written(*order, line(3, 1, 50, 20), name="log.swf"))
        jobs = loaded.jobs
        assert jobs["job"].tolist() == ["1", "2", "3"]
        assert jobs["duration_s"].tolist() == [50, 300, 50]
        assert jobs["outcome"][1] == {0: "failed", 1: "completed", 5: "cancelled"}.get(
            summary, "unknown"
        )
        assert dict(loaded.left_out) == {swf.IN_SUMMARY: 2}
        assert loaded.num_bad == 0


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [((2, 2, 3), "completed"), ((2, 2, 4), "failed"), ((2, 2, 2), "unfinished")],
)
def test_partial_executions_without_a_summary_are_one_job(
    written: Write, statuses: tuple[int, ...], outcome: str
) -> None:
    parts = [
        line(2, status, 100, 10, used) for status, used in zip(statuses, (8, 4, 8), strict=True)
    ]
    loaded = traces.load(written(line(1, 1), *parts, line(3, 4, 70, 20), name="log.swf"))
    assert loaded.jobs["job"].tolist() == ["1", "2", "3"]
    assert loaded.jobs["duration_s"].tolist() == [50, 300, 70]
    assert loaded.jobs["num_pods"].tolist() == [8, 8, 8]
    assert loaded.jobs["outcome"].tolist() == ["completed", outcome, "failed"]
    assert dict(loaded.left_out) == {swf.ADDED: 2}
    assert any("only partial executions: 2;" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("1", "completed"), ("1.0", "completed"), ("0", "failed"), ("5", "cancelled"),
     ("-1", "unknown"), ("4", "failed"), ("7", "unknown"), ("done", "unknown")],
)  # fmt: skip
def test_outcomes(written: Write, status: str, outcome: str) -> None:
    loaded = traces.load(written(line(1, status), name="log.swf"))
    assert loaded.jobs["outcome"].tolist() == [outcome]
    strange = [note for note in loaded.notes if "unknown outcome" in note]
    assert len(strange) == (status in ("7", "done"))
    assert all(repr(status) in note for note in strange)


def test_numbers_with_a_fraction(written: Write) -> None:
    path = written("1.0 0.5 0 50.25 4.0 -1 -1 4.0 200.0 -1 1.0 7.0 -1 -1 -1 -1 -1 -1", name="l.swf")
    (job,) = traces.load(path).jobs.to_dict("records")
    assert (job["job"], job["user"], job["outcome"]) == ("1", "user-7", "completed")
    assert (job["duration_s"], job["num_pods"], job["walltime_s"]) == (50.25, 4, 200)


@pytest.mark.parametrize("user", ["-1", "-1.0"])
def test_a_user_that_is_not_known(written: Write, user: str) -> None:
    path = written(f"1 0 0 50 4 -1 -1 4 200 -1 1 {user} -1 -1 -1 -1 -1 -1", name="log.swf")
    assert traces.load(path).jobs["user"].tolist() == [""]


@pytest.mark.parametrize(
    "header", ["Job Submit Wait Run Procs CPU Mem", "job_id submit_time", "#id"]
)
def test_header_lines_without_a_semicolon(written: Write, header: str) -> None:
    loaded = traces.load(written(header, line(1, 1), name="log.swf"))
    assert loaded.jobs["job"].tolist() == ["1"]
    assert any("header in line 1" in note for note in loaded.notes) == (not header.startswith("#"))


@pytest.mark.parametrize("name", ["log.txt", "log"])
def test_a_log_is_recognised_by_its_lines(written: Write, name: str) -> None:
    loaded = traces.load(written("; Version: 2.2", line(1, 1), name=name))
    assert (loaded.kind, loaded.why) == ("swf", "its lines have the 18 numbers of SWF")


def test_no_job_ran(written: Write) -> None:
    with pytest.raises(TraceError, match="none of its 1 jobs ran"):
        traces.load(written("1 0 0 -1 4 -1 -1 4 9", name="log.swf"))
