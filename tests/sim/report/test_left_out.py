"""Jobs that can never run are counted and named beside every figure that leaves them out."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sim import run
from sim.commands.main import invoke
from sim.report.headlines import run_lines, study_lines
from sim.report.report import build_report
from sim.runs.reader import kept_rows_text

JOBS = pd.DataFrame(
    [("big", 0.0, 3600.0, 4), ("b", 10.0, 600.0, 1), ("c", 20.0, 600.0, 1), ("d", 4e3, 600.0, 1)],
    columns=["job", "submit_s", "duration_s", "num_pods"],
).assign(gpus_per_pod=8)
SAYS = "On 2 nodes 1 of 4 jobs (4 pods, 89 % of the GPU-hours asked for) can never start; "


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return runs of the same jobs on two and on four nodes; `big` asks for four."""
    root = tmp_path_factory.mktemp("left-out")
    return [
        run(JOBS, nodes=nodes).save(
            root / f"n{nodes}",
            point={"workload": "own", "nodes": nodes, "arm": "fifo", "jobs_sha256": "a" * 64},
        )
        for nodes in (2, 4)
    ]


@pytest.fixture(scope="module")
def report(sizes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(sizes, tmp_path_factory.mktemp("report")).parent


def test_stdout_of_a_run_names_them(tmp_path: Path) -> None:
    lines = "\n".join(run_lines(run(JOBS, nodes=2), tmp_path))
    assert SAYS in lines
    assert "1 ('big'): needs 4 pods of 8 GPUs" in lines


def test_one_of_a_thing_is_said_in_the_singular(tmp_path: Path) -> None:
    one = pd.DataFrame([("a", 0.0, 60.0, 1), ("b", 0.0, 60.0, 1)], columns=JOBS.columns[:4])
    lines = run_lines(run(one[:1].assign(gpus_per_pod=1), nodes=1, gpus_per_node=1), tmp_path)
    assert lines[0] == "cluster     1 node, 1 GPU"
    assert lines[1].endswith(", 1 pod")
    lines = run_lines(run(one.assign(gpus_per_pod=8), nodes=1), tmp_path)
    assert any(", max 1 pod (" in line for line in lines)


def test_stdout_of_a_study_counts_them_and_does_not_compare_sizes(sizes: list[Path]) -> None:
    header, small, large, *rest = study_lines(sizes)
    assert header.endswith("never fit")
    assert small.split()[-1] == "1"
    assert not large.endswith("1")
    assert any(SAYS in line for line in rest)
    assert "different jobs" in rest[-1]
    assert "never fit" not in study_lines(sizes[1:])[0]


def test_the_summary_counts_them(sizes: list[Path]) -> None:
    small, large = (json.loads((one / "summary.json").read_text("utf-8")) for one in sizes)
    assert (small["left_out"]["num_jobs"], small["left_out"]["num_pods"]) == (1, 4)
    assert small["left_out"]["gpu_h_ratio"] == pytest.approx(32 / (32 + 4.0))
    assert small["left_out"]["requests"][0]["first_job"] == "big"
    assert large["left_out"]["num_jobs"] == 0


def test_the_head_the_table_and_the_text_of_a_report_name_them(report: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (report / name).read_text("utf-8")
        assert text.count(SAYS) == 2, name  # in the head and below the table
        assert "without 1 that never fits" in text
        assert "not comparable" in text


def test_growth_is_not_fitted_over_sizes_that_run_different_jobs(report: Path) -> None:
    text = (report / "report.md").read_text("utf-8")
    assert (
        "the sizes run different jobs (3 of 4 jobs on 2 nodes and 4 of 4 jobs on 4 nodes)" in text
    )
    assert "to the power" not in text
    growth = pd.read_csv(report / "tables" / "growth.csv").iloc[0]
    assert pd.isna(growth["exponent"])
    assert "different jobs" in growth["why_unknown"]


def test_every_table_counts_them(report: Path) -> None:
    for name in ("headline", "reasons", "delay_by_size", "curves", "peaks", "days", "episodes"):
        table = pd.read_csv(report / "tables" / f"{name}.csv")
        assert set(table.loc[table["nodes"] == 2, "num_never_fits"]) <= {1}, name
        assert set(table.loc[table["nodes"] == 4, "num_never_fits"]) == {0}, name


def test_sound_rows_that_are_no_jobs_are_not_called_bad(tmp_path: Path) -> None:
    result = run(JOBS, nodes=4)
    never = "the job never ran"
    result.rejected = pd.DataFrame(
        {"line": [3, 4, 9], "column": ["state", "state", "submit_s"], "reason": [never, never, "x"]}
    )
    result.manifest |= {
        "num_rejected_rows": 3, "num_bad_rows": 1, "left_out": {"the job never ran": 2},
    }  # fmt: skip
    folder = result.save(tmp_path / "run")
    assert (
        f"left out    1 bad row (submit_s 1) and 2 rows that are no jobs to run, kept in "
        f"{folder / 'rejected.csv'}" in run_lines(result, folder)
    )
    text = build_report([folder], tmp_path).with_suffix(".md").read_text("utf-8")
    assert "2 rows of the jobs file were left out: the job never ran." in text
    assert "1 row of the jobs file was bad and left out; rejected.csv in the run's folder" in text


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ({"a step": 3, "the job never ran": 1}, "1 of the 4 rows that are no jobs to run"),
        ({"the job never ran": 1}, "1 row that is no job to run"),
    ],
    ids=["steps-are-not-kept", "all-are-kept"],
)
def test_only_rows_that_are_kept_are_said_to_be_kept(left_out: dict[str, int], says: str) -> None:
    rejected = pd.DataFrame({"line": [4], "column": ["state"], "reason": ["the job never ran"]})
    assert kept_rows_text(rejected, left_out) == says


def test_bad_rows_of_a_study_are_counted_and_their_place_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"j{i},{60 * i},600,1,8\n" for i in range(3))
    Path("bad.csv").write_text(
        f"job,submit_s,duration_s,num_pods,gpus_per_pod\n{rows}x,9,-1,1,8\ny,9,9\nz,9,-2,1,8\n"
    )
    options = ["--control-plane", "ideal", "--processes", "1", "--on-bad-row", "skip", "--out", "o"]
    said = "3 bad rows (duration_s 2, number of cells 1), kept in "
    command = ["study", "--jobs", "bad.csv", "--nodes", "2", "--arms", "gang-fifo"]
    assert invoke([*command, *options]) == 0
    shown = capsys.readouterr().out
    [place] = Path("o/workloads").glob("bad-*.rejected.csv")
    assert f"left out  {said}{place.resolve()}" in shown
    text = Path("o/report.md").read_text("utf-8")
    assert r"left out; workloads/bad-\*.rejected.csv in the study's folder has them" in text
    options[-1] = "p"
    assert invoke(["plan", "--jobs", "bad.csv", "--nodes", "1-2", *options]) == 0
    assert said in capsys.readouterr().out
