"""A quantile that jobs still waiting could only raise is marked wherever it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sim import run
from sim.report.headlines import run_lines, study_lines
from sim.report.report import build_report

DAY_S = 86400.0


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """Return a run of one day in which three of four jobs never start: `a` holds the node."""
    jobs = pd.DataFrame(
        [("a", 0.0, 10 * DAY_S), ("b", 10.0, 60.0), ("c", 20.0, 60.0), ("d", 86000.0, 60.0)],
        columns=["job", "submit_s", "duration_s"],
    )
    result = run(jobs.assign(num_pods=1, gpus_per_pod=8), nodes=1, until_s=DAY_S)
    lines = run_lines(result, tmp_path)
    assert "p50 ≥ 6.67 min, p95 ≥ 24.0 h" in next(one for one in lines if "queueing" in one)
    assert "p50 ≥ 24.0 h, p95 ≥ 24.0 h" in next(one for one in lines if "JCT" in one)
    return result.save(tmp_path / "cut", point={"workload": "w", "nodes": 1, "arm": "fifo"})


def test_on_stdout_of_a_study(cut: Path) -> None:
    assert study_lines([cut])[1].count("≥") == 2


def test_in_the_summary(cut: Path) -> None:
    summary = json.loads((cut / "summary.json").read_text("utf-8"))
    for name in ("queueing_delay_p50", "queueing_delay_p95", "jct_p50", "jct_p95", "slowdown_p95"):
        assert summary[f"{name}_is_lower_bound"] is True, name
    assert summary["queueing_delay_by_gpus"]["<=8"]["p50_is_lower_bound"] is True
    assert summary["makespan_is_lower_bound"] is True


def test_in_the_tables_of_a_report(cut: Path, tmp_path: Path) -> None:
    build_report([cut], tmp_path / "r")
    row = pd.read_csv(tmp_path / "r" / "tables" / "headline.csv").iloc[0]
    assert row["queueing_delay_p50_is_lower_bound"] and row["jct_p95_is_lower_bound"]
    by_size = pd.read_csv(tmp_path / "r" / "tables" / "delay_by_size.csv")
    assert by_size["p95_is_lower_bound"].tolist()[0]


def test_what_is_known_is_not_marked(tmp_path: Path) -> None:
    jobs = pd.DataFrame({"job": ["a", "b"], "submit_s": [0.0, 1.0], "duration_s": 60.0})
    result = run(jobs.assign(num_pods=1, gpus_per_pod=8), nodes=1)
    assert not [line for line in run_lines(result, tmp_path) if "≥" in line]
    assert result.summary["queueing_delay_p95_is_lower_bound"] is False
    assert (result.summary["makespan_s"], result.summary["makespan_is_lower_bound"]) == (
        120.0,
        False,
    )
