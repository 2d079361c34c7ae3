"""A small file of each of some formats: what is read of it, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

import traces
from traces.description import total_gpus

SAMPLES = Path(__file__).parents[1] / "samples"
#: file -> format, jobs, GPUs, GPU-seconds, rows left out
FOUND = {
    "jobs.csv": ("jobs", 3, 20, 57_600.0, 0),
    "sacct.txt": ("sacct", 7, 45, 189_000.0, 5),
    "partial.swf": ("swf", 3, 20, 3_800.0, 4),
    "cluster_log.csv": ("helios", 2, 17, 1_607.0, 2),
    "philly.csv": ("philly", 2, 13, 1_207.5, 0),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_sample(name: str) -> None:
    loaded = traces.load(SAMPLES / name)
    gpus = total_gpus(loaded.jobs)
    assert (
        loaded.kind,
        len(loaded.jobs),
        gpus.sum(),
        (gpus * loaded.jobs["duration_s"]).sum(),
        sum(loaded.left_out.values()),
    ) == FOUND[name]
    assert loaded.num_bad == 0


@pytest.mark.parametrize("options", [{"columns": ("a", "b")}, {"map": {"a": "job"}}])
def test_options_of_tables_are_refused_for_logs_that_are_none(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(traces.TraceError, match=f"--{name} "):
        traces.load(SAMPLES / "partial.swf", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("job,submit_s,duration_s", "column 'num_pods' is missing"),
        ("job,submit_s,duration_s,num_pods", "column 'gpus_per_pod' is missing"),
        ("job,submit_s,duration_s,gpus,num_pods", "it has 'gpus' and 'num_pods'"),
        ("job,submit_s,duration_s,gpus,last_pod_gpus", "it has 'gpus' and 'last_pod_gpus'"),
    ],
)
def test_columns_are_checked_in_a_table_without_a_fault(
    tmp_path: Path, header: str, message: str
) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(f"{header}\n{','.join(['1'] * (header.count(',') + 1))}\n")
    with pytest.raises(traces.TraceError, match=message):
        traces.load(path)
