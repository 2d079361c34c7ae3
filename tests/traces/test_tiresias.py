"""Job lists of Tiresias, Chronus and Muri, in seconds and milliseconds; workloads without times."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus

Write = Callable[..., Path]

TIRESIAS = (
    "job_id,num_gpu,submit_time,iterations,model_name,duration,interval",
    "0,1,10,606,vgg19,164,30",
    "1,12,40,133,vgg11,147,23",
)
MURI = (
    "job_id,num_gpu,submit_time,iterations,model_name,batch_size,duration,interval,"
    "iteration_time,resource_time_0,resource_time_1,resource_time_2,priority",
    "0,4,0,4881447,bert,4,927475000,11174000,190,0.5,163,18,0",
    "1,4,1456000,4874384,bert,4,926133000,1456000,190,0.5,163,18,1",
    "2,1,352430000,30272,bert,4,5751690,603000,190,0.5,163,18,0",
)
SIA = ("name,time,application,num_replicas,batch_size", "cifar10-1,670.66,cifar10,8,2048")
GAVEL = "ResNet-18\tpython3 main.py --data_dir=/data/cifar10\t--num_steps\t3168\t4\t1"


def test_tiresias_is_in_seconds(written: Write) -> None:
    loaded = traces.load(written(*TIRESIAS))
    assert loaded.kind == "tiresias"
    assert loaded.jobs["submit_s"].tolist() == [0, 30]
    assert loaded.jobs["duration_s"].tolist() == [164, 147]
    assert total_gpus(loaded.jobs).tolist() == [1, 12]
    assert not loaded.notes


def test_muri_is_in_milliseconds(written: Write) -> None:
    loaded = traces.load(written(*MURI))
    assert loaded.kind == "muri"
    assert loaded.jobs["submit_s"].tolist() == [0, 1456, 352430]
    assert loaded.jobs["duration_s"].tolist() == [927475, 926133, 5751.69]
    assert "milliseconds" in " ".join(loaded.notes)


def test_muri_that_somebody_turned_into_seconds(written: Write) -> None:
    loaded = traces.load(written(MURI[0], "0,4,0,4881447,bert,4,927475,11,190,0.5,163,18,0"))
    assert loaded.jobs["duration_s"].tolist() == [927475]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,1,50,1,m,1,1", "line 4, column 'job_id': '0' is in line 2 too"),
        ("7,-1,50,1,m,1,1", "line 4, column 'num_gpu': '-1' must be a whole number, at least 0"),
        ("7,1,soon,1,m,1,1", "line 4, column 'submit_time': 'soon' must be a number"),
        ("7,1,50,1,m,-1,1", "line 4, column 'duration': '-1' must be a number"),
    ],
)
def test_odd_rows_are_named(written: Write, row: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        traces.load(written(*TIRESIAS, row))


def test_the_published_chronus_list(shared: Path) -> None:
    """By a count of its own."""
    path = shared / "traces/philly/chronus_trace_job_Philly_MIX1.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    loaded = traces.load(path)
    assert loaded.kind == "tiresias"
    assert len(rows) == 30_940
    rows = [row for row in rows if row["num_gpu"] != "0"]
    assert len(loaded.jobs) == len(rows)
    assert loaded.left_out == {"the job asks for no GPU": 30_940 - len(rows)}
    assert total_gpus(loaded.jobs).sum() == sum(int(row["num_gpu"]) for row in rows)
    assert loaded.jobs["duration_s"].sum() == sum(float(row["duration"]) for row in rows)
    assert loaded.jobs["user"].nunique() == len({row["user"] for row in rows})
    last = max(int(row["submit_time"]) for row in rows)
    assert loaded.offset_s + loaded.jobs["submit_s"].max() == last


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (SIA, r"not how long they run; .*--map name=job --map time=submit_s"),
        ((GAVEL,), r"says how many steps a job trains and not how long"),
    ],
)
def test_workloads_without_run_times_are_refused(
    written: Write, lines: tuple[str, ...], message: str
) -> None:
    for name in ("workload-1.csv", "msr_0.trace"):
        with pytest.raises(TraceError, match=message):
            traces.load(written(*lines, name=name))


def test_the_way_out_of_a_workload_without_run_times(written: Write) -> None:
    path = written(f"{SIA[0]},duration_s", f"{SIA[1]},600")
    names = {"name": "job", "time": "submit_s", "num_replicas": "gpus"}
    loaded = traces.load(path, map=names, ignore_extra=True)
    assert loaded.kind == "jobs"
    assert loaded.jobs["duration_s"].tolist() == [600]
    assert loaded.jobs["gpus_per_pod"].tolist() == [8]
