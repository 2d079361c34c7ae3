"""Alibaba PAI's task table: gangs of tasks, shares, tables that have no GPUs."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus

Write = Callable[..., Path]

HEADER = (
    "job_name,task_name,inst_num,status,start_time,end_time,plan_cpu,plan_mem,plan_gpu,gpu_type"
)
TASKS = (
    "j1,tensorflow,1.0,Terminated,1739162.0,1739200.0,600.0,29.5,50.0,MISC",
    "j2,ps,2.0,Terminated,1739100.0,1739300.0,600.0,10.0,,",
    "j2,worker,4.0,Terminated,1739110.0,1739290.0,400.0,20.0,100.0,V100",
    "j2,evaluator,1.0,Failed,1739120.0,1739310.0,400.0,20.0,100.0,V100",
    "j3,worker,2.0,Terminated,1739162.0,1739200.0,800.0,10.0,800.0,V100",
    "j3,chief,1.0,Terminated,1739152.0,1739200.0,800.0,10.0,200.0,V100",
    "j4,worker,1.0,Waiting,,,600.0,10.0,100.0,T4",
    "j5,worker,1.0,Running,1739162.0,,600.0,10.0,100.0,T4",
)


@pytest.mark.parametrize("lines", [TASKS, (HEADER, *TASKS)], ids=["as published", "with header"])
def test_tasks_become_gangs(written: Write, lines: tuple[str, ...]) -> None:
    loaded = traces.load(written(*lines, name="anything.txt"))
    jobs = loaded.jobs.set_index("job")
    assert loaded.kind == "pai"
    assert list(jobs.index) == ["j2", "j3", "j1"]
    assert loaded.offset_s == 1739110.0
    assert jobs["submit_s"].tolist() == [0, 42, 52]
    assert jobs["duration_s"].tolist() == [200, 48, 38], "from the first start to the last end"
    assert jobs["num_pods"].tolist() == [5, 3, 1]
    assert total_gpus(loaded.jobs).tolist() == [5, 18, 1], "a share counts as a whole GPU"
    assert jobs["gpus_per_pod"].tolist() == [1, 8, 1]
    assert jobs["cpu_per_pod"].tolist() == [4, 8, 6]
    assert jobs["outcome"].tolist() == ["failed", "completed", "completed"]
    assert set(jobs["gpu_model"]) == {""}, "which GPUs a task got is not what it asked for"
    assert loaded.left_out == {
        "the task asks for no GPU, such as a parameter server": 1,
        "the task never started": 1,
        "the task has no end: its run time is unknown": 1,
    }
    assert loaded.num_bad == 0
    said = " ".join(loaded.notes)
    assert "instances that ask for a share of a GPU: 1;" in said
    assert "jobs with several GPU tasks: 2;" in said
    assert "jobs with tasks of different GPUs per instance: 1;" in said
    assert "no submissions" in said


def test_the_table_as_it_is_published(written: Write, tmp_path: Path) -> None:
    path = tmp_path / "pai_task_table.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(written(*TASKS, name="pai_task_table.csv"), "pai_task_table.csv")
    loaded = traces.load(path)
    assert loaded.kind == "pai"
    assert len(loaded.jobs) == 3


@pytest.mark.parametrize(
    ("lines", "table"),
    [
        (("j,i,u,Terminated,4550000.0,4551000.0",), "pai_job_table"),
        (("j,i,u,Waiting,4550000.0,",), "pai_job_table"),
        (("job_name,inst_id,user,status,start_time,end_time", "j,i,u,Failed,1,2"), "pai_job_table"),
        (("j,worker,n,w,i,Failed,1.0,2.0,m",), "pai_instance_table"),
    ],
)
def test_tables_without_gpus_are_refused(
    written: Write, lines: tuple[str, ...], table: str
) -> None:
    message = f"{table}, which does not say how many GPUs.*give pai_task_table.csv"
    with pytest.raises(TraceError, match=message):
        traces.load(written(*lines, name="table.csv"))


def test_the_sample_without_gpus_is_refused(shared: Path) -> None:
    with pytest.raises(TraceError, match=r"pai_job_table.*give pai_task_table\.csv"):
        traces.load(shared / "cases/inputs/pai_job_table.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,w,1.5,Failed,1,2,1,1,100,T4", "line 9, column 'inst_num': '1.5' must be a whole"),
        ("x,w,1,Failed,2,1,1,1,100,T4", "line 9, column 'end_time': '1' must not precede start"),
        ("x,w,1,Failed,1,2,1,1,lots,T4", "line 9, column 'plan_gpu': 'lots' must be a number"),
        (",w,1,Failed,1,2,1,1,100,T4", "line 9, column 'job_name': '' must be a name"),
        ("x,w,1,Failed,1,2,1", "line 9 has 7 fields, the header has 10"),
    ],
)
def test_odd_rows_are_named(written: Write, row: str, message: str) -> None:
    path = written(*TASKS, row, name="pai_task_table.csv")
    with pytest.raises(TraceError, match=message):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert loaded.num_bad == 1
    assert len(loaded.jobs) == 3


def test_an_unknown_status_is_counted_and_named(written: Write) -> None:
    loaded = traces.load(written(*TASKS, "x,w,1,Killed,1,2,1,1,100,T4"))
    assert "'Killed' (1)" in " ".join(loaded.notes)
    assert loaded.jobs.set_index("job").loc["x", "outcome"] == "unknown"
