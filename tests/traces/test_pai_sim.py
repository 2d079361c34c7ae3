"""Job lists of Alibaba PAI's simulator: GPUs of an instance times instances."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus

Write = Callable[..., Path]

JOBS = (
    "job_id,user,gpu_type,num_gpu,num_cpu,submit_time,duration,num_inst",
    "1,u1,V100,0.5,6,10,100,2",
    "2,u2,MISC,2,8,20,50,4",
    "3,u2,CPU,0,8,30,50,4",
)


def test_instances_are_pods(written: Write) -> None:
    loaded = traces.load(written(*JOBS))
    assert loaded.kind == "pai-simulator"
    assert loaded.jobs["num_pods"].tolist() == [2, 4]
    assert loaded.jobs["gpus_per_pod"].tolist() == [1, 2]
    assert loaded.jobs["cpu_per_pod"].tolist() == [6, 8]
    assert loaded.jobs["submit_s"].tolist() == [0, 10]
    assert loaded.left_out == {"the job asks for no GPU": 1}
    assert "instances that ask for a share of a GPU: 2;" in " ".join(loaded.notes)


def test_odd_rows_are_named(written: Write) -> None:
    with pytest.raises(TraceError, match="line 5, column 'num_inst': '0' must be a whole number"):
        traces.load(written(*JOBS, "4,u,V100,1,6,10,100,0"))


@pytest.mark.parametrize("name", ["big", "nodes"])
def test_lists_that_the_simulator_was_given(shared: Path, name: str) -> None:
    """By a count of its own."""
    path = shared / f"golden/alibaba2020/input_bench10000_{name}.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    loaded = traces.load(path)
    assert len(loaded.jobs) == len(rows) == 10_000
    assert total_gpus(loaded.jobs).sum() == sum(
        int(row["num_inst"]) * float(row["num_gpu"]) for row in rows
    )
    assert loaded.jobs["duration_s"].sum() == sum(float(row["duration"]) for row in rows)
