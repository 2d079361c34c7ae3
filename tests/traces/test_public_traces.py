"""Loaders of public traces: on small files here, and on the traces themselves where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import traces
from traces import TraceError, philly
from traces.description import total_gpus

Write = Callable[..., Path]

HELIOS = (
    "job_id,user,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue,vc",
    "1,u1,16,32,2,COMPLETED,2020-04-01 00:00:10,x,x,100,q,vcA",
    "2,u2,0,4,1,COMPLETED,2020-04-01 00:00:00,x,x,100,q,vcA",
    "3,u1,1,2,1,CANCELLED,2020-04-01 00:00:05,x,x,7,q,vcB",
    "4,u3,8,8,1,NODE_FAIL,2020-04-02 00:00:05,x,x,0,q,vcB",
    "5,u3,12,24,2,TIMEOUT,2020-04-01 00:01:05,x,x,50,q,vcB",
    "6,u3,12,24,2,CANCELLED by 7,2020-04-01 00:01:06,x,x,50,q,vcB",
)
ACME = (
    "job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,queue",
    "dlc1,u1,1.0,8,120,Pretrain,FAILED,2023-03-01 00:00:10+08:00,x,x,100,3.0",
    "dlc2,u2,1.0,1,4,Evaluation,COMPLETED,2023-03-01 00:00:00+08:00,x,x,100,3.0",
)
OPENB = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time",
    "p0,12000,16384,1,1000,,LS,Running,10,110",
    "p1,6000,1024,1,460,V100M16|V100M32,BE,Succeeded,5,6",
    "p2,500,512,0,0,T4,Burstable,Failed,20,20",
)
PHILLY = (
    "timestamp,duration,num_gpus,gpu_time,cluster",
    "2017-10-03 12:00:10,100,12,1200,vc1",
    "2017-10-03 12:00:00,7.5,1,7.5,vc2",
)


def test_helios_form(written: Write) -> None:
    loaded = traces.load(written(*HELIOS, name="cluster_log.csv"))
    jobs = loaded.jobs
    assert jobs["job"].tolist() == ["3", "1", "5", "6"]
    assert jobs["submit_s"].tolist() == [0, 5, 60, 61]
    assert total_gpus(jobs).tolist() == [1, 16, 12, 12]
    assert jobs["num_pods"].tolist() == [1, 2, 2, 2]
    assert jobs["cpu_per_pod"].tolist() == [2, 16, 12, 12]
    assert jobs["queue"].tolist() == ["vcB", "vcA", "vcB", "vcB"]
    assert jobs["outcome"].tolist() == ["cancelled", "completed", "failed", "cancelled"]
    assert loaded.rejected["line"].tolist() == [3, 5], "no GPU, and no run time"
    assert set(loaded.rejected["reason"]) == {"the job asks for no GPU", "the job never ran"}
    assert loaded.left_out == {"the job asks for no GPU": 1, "the job never ran": 1}


def test_acme_form(written: Write) -> None:
    jobs = traces.load(written(*ACME, name="trace_seren.csv")).jobs
    assert jobs["job"].tolist() == ["dlc2", "dlc1"]
    assert jobs["submit_s"].tolist() == [0, 10]
    assert jobs["queue"].tolist() == ["Evaluation", "Pretrain"]
    assert jobs["outcome"].tolist() == ["completed", "failed"]


def test_openb_form(written: Write) -> None:
    jobs = traces.load(written(*OPENB, name="openb_pod_list.csv")).jobs
    assert jobs["job"].tolist() == ["p1", "p0", "p2"]
    assert jobs["submit_s"].tolist() == [0, 5, 15]
    assert jobs["duration_s"].tolist() == [1, 100, 0]
    assert jobs["gpus_per_pod"].tolist() == [1, 1, 0], "a share counts as a whole GPU"
    assert jobs["gpu_model"].tolist() == ["", "", "T4"], "one of several models is any"
    assert jobs["cpu_per_pod"].tolist() == [6, 12, 0.5]
    assert jobs["mem_gib_per_pod"].tolist() == [1, 16, 0.5]
    assert jobs["queue"].tolist() == ["BE", "LS", "Burstable"]
    assert (jobs["num_pods"] == 1).all()


def test_philly_form(written: Write) -> None:
    jobs = traces.load(written(*PHILLY, name="philly.csv")).jobs
    assert jobs["submit_s"].tolist() == [0, 10]
    assert jobs["duration_s"].tolist() == [7.5, 100]
    assert total_gpus(jobs).tolist() == [1, 12]
    assert jobs["queue"].tolist() == ["vc2", "vc1"]


@pytest.mark.parametrize(
    ("lines", "row", "message"),
    [
        (HELIOS, "9,u,1.5,1,1,FAILED,2020-04-01,x,x,1,q,v", "'gpu_num': '1.5' must be a whole"),
        (HELIOS, "9,u,1,all,1,FAILED,2020-04-01,x,x,1,q,v", "'cpu_num': 'all' must be a number"),
        (HELIOS, "9,u,1,1,1,FAILED,yesterday,x,x,1,q,v", "'submit_time': 'yesterday' must be a da"),
        (HELIOS, "9,u,1,1,1,FAILED,2020-04-01,x,x,-1,q,v", "'duration': '-1' must be a number"),
        (HELIOS, "1,u,1,1,1,FAILED,2020-04-01,x,x,1,q,v", "'job_id': '1' is in line 2 too"),
        (OPENB, "p9,1,1,1,1,,LS,Running,10,9", "'deletion_time': '9.* must not precede creation"),
        (OPENB, "p0,1,1,1,1,,LS,Running,10,19", "'name': 'p0' is in line 2 too"),
        (OPENB, "p9,1,1,inf,1,,LS,Running,10,19", "'num_gpu': 'inf' must be a number"),
        (PHILLY, "2017-13-03 12:00:00,1,1,1,vc", "'timestamp': '2017-13-03 12:00:00' must be a da"),
        (PHILLY, "2017-10-03 12:00:00,1,0,1,vc", "'num_gpus': '0' must be a whole number"),
        (PHILLY, "2017-10-03 12:00:00,1,1", "has 3 fields, the header has 5"),
    ],
)
def test_bad_rows_of_public_forms(
    written: Write, lines: tuple[str, ...], row: str, message: str
) -> None:
    path = written(*lines, row)
    place = len(lines) + 1
    with pytest.raises(TraceError, match=f"1 bad value in 1 of .* rows: line {place}.*{message}"):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert place in loaded.rejected["line"].tolist()
    assert len(loaded.jobs) + len(loaded.rejected) == len(lines)


@pytest.mark.parametrize(("kind", "lines"), [("philly", OPENB), ("openb", ACME), ("acme", PHILLY)])
def test_a_file_of_another_form(written: Write, kind: str, lines: tuple[str, ...]) -> None:
    with pytest.raises(TraceError, match=r"column '.*' is missing; this format has"):
        traces.load(written(*lines), kind=kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "jobs", "rejected", "gpus", "duration_s"),
    [
        ("swf/NASA-iPSC-1993-3.1-cln.swf.gz", 18_066, 173, 303_638, 13_950_781.0),
        ("swf/alea-hpc2n-sample.swf.gz", 3_145, 25, 63_578, 31_853_357.0),
        ("swf/lublin_256.swf.gz", 10_000, 0, 221_010, 48_627_667.0),
        ("alibaba_openb_gpu2023/openb_pod_list_default.csv.gz", 7_255, 897, 6_571, 210_028_342.0),
        ("philly/philly_jobs_sia.csv.gz", 82_247, 0, 107_235, 1_080_390_950.0),
    ],
)
def test_public_traces(
    shared: Path, name: str, jobs: int, rejected: int, gpus: int, duration_s: float
) -> None:
    loaded = traces.load(shared / "traces" / name)
    assert (len(loaded.jobs), len(loaded.rejected)) == (jobs, rejected)
    assert total_gpus(loaded.jobs).sum() == gpus
    assert loaded.jobs["duration_s"].sum() == duration_s
    assert loaded.jobs["submit_s"].iloc[0] == 0.0
    assert loaded.jobs["job"].is_unique


@pytest.mark.slow
def test_the_carried_philly_list_is_the_published_one(shared: Path) -> None:
    published = traces.load(shared / "traces/philly/philly_jobs_sia.csv.gz").jobs
    carried = philly.canonical(philly.jobs())
    carried["submit_s"] -= carried["submit_s"].min()
    pd.testing.assert_frame_equal(carried, published)
