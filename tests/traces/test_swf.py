"""Standard Workload Format: fields, walltimes, processors as GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus

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


def test_no_job_ran(written: Write) -> None:
    with pytest.raises(TraceError, match="none of its 1 jobs ran"):
        traces.load(written("1 0 0 -1 4 -1 -1 4 9", name="log.swf"))
