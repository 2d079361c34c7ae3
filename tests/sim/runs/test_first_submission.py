"""Time counts from the first submission, on whatever clock the jobs come."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sim import RunResult, run
from sim.commands.main import invoke
from sim.report.headlines import run_lines
from sim.report.report import build_report
from sim.runs.reader import origin
from sim.study.search import solve
from sim.study.study import run_study
from tests.sim.study.settings_files import plan_of, study_of

#: three jobs of a node each, ten minutes apart, on one node: b waits 50 min, c 100 min
JOBS = (("a", 0.0), ("b", 600.0), ("c", 1200.0))
ZEROS = [0.0, 5.0, 7.5e6, 1_700_000_000.0, 1_700_000_000.25, 4e9]


def table(zero_s: float) -> pd.DataFrame:
    jobs = pd.DataFrame(JOBS, columns=["job", "submit_s"])
    return jobs.assign(submit_s=jobs["submit_s"] + zero_s, duration_s=3600.0, gpus=8)


@pytest.fixture(params=ZEROS)
def jobs_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "jobs.csv"
    table(request.param).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("admission", ["gang", "pod", "permit"])
@pytest.mark.parametrize("zero_s", ZEROS)
def test_a_table_of_any_clock_gives_the_same_run(zero_s: float, admission: str) -> None:
    found = run(table(zero_s), nodes=1, admission=admission)
    assert found.jobs["submit_s"].tolist() == [0.0, 600.0, 1200.0]
    assert found.summary["pending_pods_p99"] == 1
    assert found.summary["allocation_ratio"] == pytest.approx(1.0)
    assert found.summary["queueing_delay_p95_s"] == pytest.approx(6000.0, abs=30.0)
    assert found.manifest["offset_s"] == zero_s


def test_a_file_is_read_as_its_table(jobs_file: Path) -> None:
    offset_s = float(pd.read_csv(jobs_file)["submit_s"].min())
    found = run(jobs_file, nodes=1)
    assert found.jobs["start_s"].tolist() == [0.0, 3600.0, 7200.0]
    assert found.manifest["offset_s"] == offset_s


def test_times_can_be_left_as_they_are() -> None:
    assert run(table(5.0), nodes=1, from_first=False).jobs["submit_s"].tolist()[0] == 5.0


def test_until_days_counts_from_there_and_a_line_says_so(
    jobs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--jobs", str(jobs_file), "--nodes", "1", "--until-days", "30", "--no-report"]
    assert invoke([*words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "3 (3 completed)" in said
    result = RunResult.load(tmp_path / "run")
    offset_s = result.manifest["offset_s"]
    assert (f"times       {origin(offset_s)}" in said) == (offset_s > 0)
    assert result.manifest["last_submit_s"] == 1200.0


def test_a_study_and_a_plan_say_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(1_700_000_000.0).to_csv("jobs.csv", index=False)
    says = "times     count from 2023-11-14 22:13:20 UTC, the first submission"
    alone = ["--jobs", "jobs.csv", "--processes", "1"]
    assert invoke(["study", *alone, "--nodes", "1", "--no-report"]) == 0
    assert says in capsys.readouterr().out.splitlines()
    assert invoke(["plan", *alone]) == 0
    assert says in capsys.readouterr().out.splitlines()


def test_unix_time_is_said_as_a_date_and_another_clock_in_seconds() -> None:
    assert origin(1_700_000_000.0) == "count from 2023-11-14 22:13:20 UTC, the first submission"
    assert origin(5.0) == "count from the first submission, 5 s on the clock of the jobs"


def test_days_of_a_study_count_from_there(jobs_file: Path, tmp_path: Path) -> None:
    study = study_of(tmp_path, jobs="jobs.csv", days=1.0)
    (done,) = run_study(study, tmp_path / "out", processes=1, progress=False).done
    summary = json.loads((done / "summary.json").read_text())
    assert summary["num_jobs"] == 3
    assert summary["pending_pods_p99"] == 1


def test_a_plan_says_what_is_true(jobs_file: Path, tmp_path: Path) -> None:
    """Three jobs that overlap need three nodes for nobody to wait."""
    plan = plan_of(tmp_path, jobs="jobs.csv", low=1, high=6, metric="pending_pods_max", at_most=0)
    answer = solve(plan, tmp_path / "out", processes=1, progress=False)
    assert answer.limit is not None
    assert answer.limit.mean == 3


def test_a_plan_of_jobs_that_all_come_at_once_measures_the_whole_run(tmp_path: Path) -> None:
    """On two nodes one of three waits, for half of the run; at first it is one all the time."""
    table(0.0).assign(submit_s=5.0).to_csv(tmp_path / "jobs.csv", index=False)
    for metric, at_most, nodes in (("pending_pods_max", 0, 3), ("pending_pods_mean", 0.5, 2)):
        plan = plan_of(tmp_path, jobs="jobs.csv", low=1, high=6, metric=metric, at_most=at_most)
        answer = solve(plan, tmp_path / metric, processes=1, progress=False)
        assert answer.limit is not None
        assert answer.limit.mean == nodes, metric


def test_jobs_that_all_come_at_once_have_the_figures_of_the_whole_run(tmp_path: Path) -> None:
    found = run(table(0.0).assign(submit_s=5.0), nodes=1)
    assert found.summary["window_s"] == 10_800.0
    assert found.summary["pending_pods_mean"] == pytest.approx(1.0)
    assert found.summary["allocation_ratio"] == pytest.approx(1.0)
    assert "nan" not in " ".join(run_lines(found, tmp_path)).replace("pending", "")


@pytest.mark.parametrize("submit_s", [[0.0, 100.0, 100.0], [7.0, 7.0, 7.0]])
def test_jobs_of_no_time_at_the_very_end_are_counted(submit_s: list[float], tmp_path: Path) -> None:
    found = run(table(0.0).assign(submit_s=submit_s, duration_s=0.0), nodes=1)
    assert found.summary["queueing_delay_by_gpus"]["<=8"]["num_jobs"] == 3
    assert found.summary["queueing_delay_p95_s"] == 0.0
    page = build_report([found.save(tmp_path / "run")], tmp_path / "page")
    assert pd.read_csv(page.parent / "tables/headline.csv")["num_jobs"].tolist() == [3]


def test_figures_that_do_not_exist_are_null(tmp_path: Path) -> None:
    folder = run(table(0.0).assign(gpu_model="A100"), nodes=1).save(tmp_path / "run")
    summary = json.loads(
        (folder / "summary.json").read_text("utf-8"),
        parse_constant=lambda word: pytest.fail(f"{word} is no JSON"),
    )
    assert summary["outcomes"] == {"never_fits": 3}
    assert summary["queueing_delay_p50_s"] is None
