"""Grid Workload Format: its fields, with and without names, and jobs that never ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces import TraceError

Write = Callable[..., Path]

HEAD = ("# A grid, in the Grid Workload Format", "#", "# 1 JobID", "# 2 SubmitTime")


def row(
    job: str, submit: str, run: str, used: str, *, asked: str = "-1", limit: str = "-1",
    status: str = "1", user: str = "u1", queue: str = "-1", site: str = "s1",
) -> str:  # fmt: skip
    fields = [job, submit, "-1", run, used, "-1", "-1", asked, limit, "-1", status, user]
    fields += ["-1", "-1", queue, "-1", site]
    return "\t".join([*fields, *["-1"] * (29 - len(fields))])


ROWS = (
    row("1", "1100000000", "100", "4", limit="300", queue="q1"),
    row("2", "1100000010", "50.5", "-1", asked="16", status="0", user="-1"),
    row("3", "1100000020", "-1", "-1", asked="2", status="5"),
    row("4", "1100000030", "7", "-1"),
    row("5", "1100000040", "7", "1", status="-1"),
)


@pytest.mark.parametrize("name", ["anon_jobs.gwf", "grid.txt"])
def test_jobs_of_a_grid(written: Write, name: str) -> None:
    loaded = traces.load(written(*HEAD, *ROWS, name=name))
    jobs = loaded.jobs
    assert loaded.kind == "gwf"
    assert loaded.offset_s == 1100000000
    assert jobs["job"].tolist() == ["1", "2", "5"]
    assert jobs["submit_s"].tolist() == [0, 10, 40]
    assert jobs["duration_s"].tolist() == [100, 50.5, 7]
    assert jobs["walltime_s"].tolist() == [300, 50.5, 7]
    assert jobs["num_pods"].tolist() == [4, 16, 1], "those asked for where those used are unknown"
    assert jobs["user"].tolist() == ["u1", "", "u1"]
    assert jobs["queue"].tolist() == ["q1", "s1", "s1"]
    assert jobs["outcome"].tolist() == ["completed", "failed", "unknown"]
    assert loaded.left_out == {
        "the job has no run time: it never ran": 1,
        "the job has no processors: it never ran": 1,
    }
    assert loaded.rejected["line"].tolist() == [7, 8]


def test_processors_may_be_cut_into_larger_pods(written: Write) -> None:
    jobs = traces.load(written(*ROWS, name="x.gwf"), gpus_per_pod=8).jobs
    assert jobs["num_pods"].tolist() == [1, 2, 1]


def test_rows_alone_tell_the_format(written: Write) -> None:
    loaded = traces.load(written(*ROWS, name="x.log"))
    assert loaded.kind == "gwf"
    assert "29 fields" in loaded.why


def test_a_run_time_of_0_is_less_than_a_second_unless_the_job_failed(written: Write) -> None:
    short = row("6", "1100000050", "0", "1"), row("7", "1100000050", "0", "1", status="0")
    loaded = traces.load(written(*ROWS, *short, name="x.gwf"))
    assert loaded.jobs["job"].tolist() == ["1", "2", "5", "6"]
    assert loaded.left_out["the job has no run time: it never ran"] == 2


def test_named_columns(written: Write) -> None:
    loaded = traces.load(
        written(
            "WorkflowID, JobID , SubmitTime, RunTime, NProcs, ReqNProcs, Dependencies",
            "0 , 1 , 10, 20, 2, 2,",
            "0 , 2 , 11, 21, 1, 1, 1",
            name="trace.csv",
        )
    )
    assert loaded.kind == "gwf"
    assert loaded.jobs["duration_s"].tolist() == [20, 21]
    assert loaded.jobs["num_pods"].tolist() == [2, 1]
    assert "Dependencies is ignored" in " ".join(loaded.notes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row("1", "1100000050", "5", "1"), "line 10, column 'JobID': '1' is in line 5 too"),
        (row("9", "-1", "5", "1"), "line 10, column 'SubmitTime': '-1' must be a number"),
        (row("9", "1100000050", "soon", "1"), "line 10, column 'RunTime': 'soon' must be"),
        (row("9", "1100000050", "5", "1.5"), "line 10, column 'NProc': '1.5' must be a whole"),
        ("9 1100000050 0 5 1", "line 10 has 5 fields, fewer than 11"),
    ],
)
def test_odd_rows_are_named(written: Write, line: str, message: str) -> None:
    path = written(*HEAD, *ROWS, line, name="x.gwf")
    with pytest.raises(TraceError, match=message):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert loaded.num_bad == 1
    assert len(loaded.jobs) == 3


def test_an_unknown_status_is_counted_and_named(written: Write) -> None:
    loaded = traces.load(written(*ROWS, row("9", "1100000050", "5", "1", status="7"), name="x.gwf"))
    assert "'7' (1)" in " ".join(loaded.notes)
