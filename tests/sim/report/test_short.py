"""A report says which resource was short, and what no node offers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sim.report.report import build_report
from sim.runs.experiment import run
from sim.schema.cluster import Cluster, Pool


def report_of(table: pd.DataFrame, folder: Path, cpu_per_node: float | None) -> str:
    """Run jobs on two nodes of 8 GPUs and return the report's text."""
    cluster = Cluster((Pool("h100", 2, 8, "H100", cpu_per_node=cpu_per_node),))
    run(table, cluster=cluster).save(folder / "run")
    build_report([folder / "run"], folder / "report")
    assert (folder / "report" / "report.html").is_file()
    return (folder / "report" / "report.md").read_text("utf-8")


def jobs(*rows: tuple[str, float, int, int, float]) -> pd.DataFrame:
    columns = ["job", "submit_s", "num_pods", "gpus_per_pod", "cpu_per_pod"]
    return pd.DataFrame(rows, columns=columns).assign(duration_s=600.0)


def test_cpus_that_were_short_are_told(tmp_path: Path) -> None:
    table = jobs(("a", 0, 2, 1, 8), ("b", 10, 2, 1, 8), ("c", 20, 2, 8, 1))
    text = report_of(table, tmp_path, 8.0)
    assert "by waiting time: CPUs 100 %." in text
    assert "First in the queue is gang b: it needs 16 CPUs (2 pods) and 0 of 16 are free" in text


def test_where_only_gpus_were_short_nothing_is_told_of_others(tmp_path: Path) -> None:
    text = report_of(jobs(("a", 0, 2, 8, 0), ("b", 10, 2, 8, 0)), tmp_path, None)
    assert "too little of" not in text and "can never run" not in text
    assert "it needs 16 GPUs (2 pods) and 0 of 16 are free" in text


def test_jobs_that_never_fit_are_counted_with_what_is_missing(tmp_path: Path) -> None:
    table = jobs(("a", 0, 1, 8, 0), *((f"b{i}", 1, 1, 16, 0) for i in range(3)), ("c", 2, 3, 8, 0))
    text = report_of(table, tmp_path, None)
    assert (
        "On 2 nodes 4 of 5 jobs (6 pods, 90 % of the GPU-hours asked for) can never start; no"
        in text
    )
    assert "- 3 (as 'b0'): needs 16 GPUs per pod, the largest node has 8 (pool 'h100')" in text
    assert "- 1 ('c'): needs 3 pods of 8 GPUs; empty, the 2 nodes that it may use hold 2" in text
