"""What is printed of one job, one pod, one GPU or one node is in the singular, everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from sim import run
from sim.commands.main import invoke
from sim.report.diff import diff_runs

PLURAL = re.compile(
    r"(?<![\d.,:–-])1 (?:pods|jobs|gangs|nodes|GPUs|rows|runs|lines|points|workloads|sizes|arms"
    r"|seeds|targets|values|attempts|users|hours|days|replications|files)\b"
)
JOBS = "job,submit_s,duration_s,num_pods,gpus_per_pod,user\nonly,0,600,1,1,ann\n"
STUDY = """
title = "One"
nodes = [1]
[[workload]]
name = "own"
jobs = "own.csv"
[[arm]]
name = "fifo"
"""
PLAN = """
title = "One"
seeds = [0]
nodes = 1
workload = { name = "own", jobs = "own.csv" }
arm = { name = "fifo" }
vary = { what = "nodes", low = 1, high = 2, step = 1 }
[[target]]
metric = "jct_p50_s"
at_most = 1e6
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    jobs = pd.DataFrame([("only", 0.0, 600.0), ("late", 60.0, 60.0)])
    jobs = jobs.set_axis(["job", "submit_s", "duration_s"], axis=1).assign(
        num_pods=1, gpus_per_pod=1
    )
    for rows, name in ((1, "one"), (2, "two")):
        result = run(jobs.head(rows), nodes=1, gpus_per_node=1, control_plane="kubernetes")
        result.save(root / name)
    return root


def test_validate_and_describe(
    tmp_path: Path,
    saved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.csv").write_text(JOBS)
    Path("study.toml").write_text(STUDY)
    Path("plan.toml").write_text(PLAN)
    Path("cluster.toml").write_text('[[pool]]\nname = "a"\nnodes = 1\ngpus_per_node = 1\n')
    files = ["own.csv", "study.toml", "plan.toml", "cluster.toml", str(saved / "one")]
    assert invoke(["validate", *files]) == 0
    assert invoke(["trace", "describe", "own.csv"]) == 0
    said = capsys.readouterr().out
    assert "1 job, 1 pod, largest 1 GPU" in said and "1 point (1 workload, 1 size" in said
    assert "1 (1 pod, 1 user)" in said and "cluster: 1 node, 1 GPU" in said
    assert not PLURAL.findall(said)


def test_diff_and_report(saved: Path, tmp_path: Path) -> None:
    said = diff_runs(saved / "one", saved / "two")
    assert "1 job in both" in said
    assert not PLURAL.findall(said)
    folders = [str(saved / name) for name in ("one", "two")]
    assert invoke(["report", *folders, "--out", str(tmp_path / "report")]) == 0
    for page in ("report.md", "report.html"):
        text = (tmp_path / "report" / page).read_text("utf-8")
        assert not PLURAL.findall(re.sub(r"<script.*?</script>", "", text, flags=re.S)), page
