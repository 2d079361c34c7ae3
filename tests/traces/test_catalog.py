"""The table of formats: each is recognised as itself alone, and documented."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import traces
from traces.formats import catalog
from traces.formats.source import Source

Write = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]

GWF_ROW = "\t".join(["1", "10", "0", "5", "2", *["-1"] * 5, "1", "u", *["-1"] * 17])
#: kind -> the beginning of such a file
BEGINNINGS = {
    "philly-log": json.dumps(
        [{"status": "Pass", "jobid": "a", "attempts": [], "submitted_time": "2017-10-07 01:11:00"}]
    ),
    "gwf": GWF_ROW,
    "batsim": '{"nb_res": 4, "jobs": [{"id": 1, "subtime": 0, "res": 1, "profile": "p"}]}',
    "philly": "timestamp,duration,num_gpus,gpu_time,cluster",
    "openb": "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time",
    "pai": "j1,worker,1.0,Terminated,1739162.0,1739200.0,600.0,29.5,50.0,MISC",
    "pai-simulator": "job_id,user,gpu_type,num_gpu,num_cpu,submit_time,duration,num_inst",
    "muri": "job_id,num_gpu,submit_time,iterations,model_name,duration,iteration_time",
    "tiresias": "job_id,num_gpu,submit_time,iterations,model_name,duration,interval",
    "helios": "job_id,user,gpu_num,cpu_num,node_num,state,submit_time,duration,queue,vc",
    "acme": "job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,duration,queue",
    "jobs": "job,submit_s,duration_s,gpus",
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_content_tells_the_format(written: Write, kind: str) -> None:
    source = Source(written(BEGINNINGS[kind], name="file"))
    chosen, why = catalog.choose(source, None)
    assert chosen.kind == kind
    assert why


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_every_format_is_documented(kind: str) -> None:
    text = (ROOT / "docs/tables.md").read_text("utf-8")
    table = text.partition("## Formats")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert any(f"`{kind}`" in row for row in rows)


@pytest.mark.parametrize("one", catalog.FORMATS, ids=catalog.KINDS)
def test_every_format_has_a_reader(one: catalog.Format) -> None:
    assert callable(one.reader().read)


def test_only_formats_of_processors_take_gpus_per_pod(written: Write) -> None:
    with pytest.raises(traces.TraceError, match=r"count processors \(.*swf.*gwf.*batsim.*\)"):
        traces.load(written("job,submit_s,duration_s,gpus", "a,0,1,8"), gpus_per_pod=8)
