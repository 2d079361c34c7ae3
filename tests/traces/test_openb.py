"""Alibaba's openb pods: phases, pods that never ran, shares and lists of models."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces import TraceError

Write = Callable[..., Path]

HEADER = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,"
    "creation_time,deletion_time,scheduled_time"
)
PODS = (
    HEADER,
    "ran,12000,16384,1,1000,T4,LS,Succeeded,100,400,150",
    "broke,6000,1024,2,1000,V100M16|V100M32,BE,Failed,110,130,110",
    "waits,6000,1024,8,1000,,BE,Pending,120,900,",
    "serves,500,512,1,460,,LS,Running,130,900,131",
)


def test_phases_and_times(written: Write) -> None:
    loaded = traces.load(written(*PODS))
    jobs = loaded.jobs
    assert loaded.kind == "openb"
    assert jobs["job"].tolist() == ["ran", "broke", "serves"]
    assert jobs["submit_s"].tolist() == [0, 10, 30], "a pod is submitted when it is created"
    assert jobs["duration_s"].tolist() == [250, 20, 769], "and runs from when it is scheduled"
    assert jobs["outcome"].tolist() == ["completed", "failed", "unfinished"]
    assert jobs["gpus_per_pod"].tolist() == [1, 2, 1]
    assert jobs["gpu_model"].tolist() == ["T4", "", ""]
    assert loaded.left_out == {"the pod was never scheduled: it never ran": 1}
    assert loaded.rejected["line"].tolist() == [4]
    assert loaded.num_bad == 0
    said = " ".join(loaded.notes)
    assert "pods that ask for a share of a GPU: 1;" in said
    assert "pods with several GPU models in gpu_spec: 1;" in said
    assert "deleted or the log ended: 1;" in said


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,1,1,1,1000,,LS,Failed,10,30,9", "'scheduled_time': '9' must not precede creation"),
        ("x,1,1,1,1000,,LS,Failed,10,30,31", "'deletion_time': '30' must not precede scheduling"),
        ("x,1,1,1,half,,LS,Failed,10,30,10", "'gpu_milli': 'half' must be a number"),
        ("x,1,1,1,1000,,LS,Failed,10,,10", "'deletion_time': '' must be a number"),
    ],
)
def test_odd_rows_are_named(written: Write, row: str, message: str) -> None:
    with pytest.raises(TraceError, match=f"line 6.*{message}"):
        traces.load(written(*PODS, row))


def test_a_pending_pod_never_ran_whatever_its_times(written: Write) -> None:
    pods = (*PODS, "planned,1,1,1,1000,,LS,Pending,10,30,10")
    assert traces.load(written(*pods)).left_out == {"the pod was never scheduled: it never ran": 2}
    unscheduled = [line.rpartition(",")[0] for line in PODS]
    loaded = traces.load(written(*unscheduled))
    assert loaded.jobs["job"].tolist() == ["ran", "broke", "serves"]
    assert loaded.left_out == {"the pod was never scheduled: it never ran": 1}


def test_an_unknown_phase_is_counted_and_named(written: Write) -> None:
    loaded = traces.load(written(*PODS, "x,1,1,1,1000,,LS,Evicted,10,30,10"))
    assert "jobs with an unknown outcome in column 'pod_phase': 1, 'Evicted' (1)" in (
        " ".join(loaded.notes)
    )


@pytest.mark.parametrize("name", ["default", "gpuspec33", "cpu250"])
def test_published_lists(shared: Path, name: str) -> None:
    """Every row is a job or counted as left out, by a count of its own."""
    path = shared / f"traces/alibaba_openb_gpu2023/openb_pod_list_{name}.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    ran = [row for row in rows if row["scheduled_time"]]
    words = {"Succeeded": "completed", "Failed": "failed", "Running": "unfinished"}
    loaded = traces.load(path)
    assert len(loaded.jobs) == len(ran)
    assert sum(loaded.left_out.values()) == len(rows) - len(ran)
    assert loaded.num_bad == 0
    assert Counter(loaded.jobs["outcome"]) == Counter(words[row["pod_phase"]] for row in ran)
    assert loaded.jobs["gpus_per_pod"].sum() == sum(int(row["num_gpu"]) for row in ran)
    assert loaded.jobs["duration_s"].sum() == sum(
        float(row["deletion_time"]) - float(row["scheduled_time"]) for row in ran
    )
    assert (loaded.jobs["gpu_model"] != "").sum() == sum(
        bool(row["gpu_spec"]) and "|" not in row["gpu_spec"] for row in ran
    )
    if name == "default":
        assert len(rows) == 8152
        assert (loaded.jobs["outcome"] == "failed").sum() == 1870
        assert sum(loaded.left_out.values()) == 897


def test_a_list_without_times_is_refused(written: Write) -> None:
    path = written("name,cpu_milli,memory_mib,num_gpu,gpu_milli", "p0,12000,16384,1,1000")
    with pytest.raises(TraceError, match=r"no times.*openb_pod_list_default.csv"):
        traces.load(path)
