"""Each day of a run has its peak, found in the exact curve and told in one line."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from sim import RunResult, run
from sim.report.days import by_start, part_name, peaks_by_part
from sim.report.episodes import find_episodes
from sim.report.report import build_report
from sim.report.sparkline import HEIGHT, WIDTH, sparkline
from sim.report.waiting import find_waits
from sim.runs.metrics import Window
from sim.runs.steps import allocation_steps, pending_steps
from sim.runs.summary import submission_window

DAY_S = 86400.0


@pytest.fixture(scope="module")
def three_days() -> RunResult:
    """On day 1 three jobs wait for `long`, on day 2 one; nothing waits on day 0."""
    jobs = pd.DataFrame(
        [
            ("early", 0.0, 60.0, 1),
            ("long", DAY_S + 3600.0, 7200.0, 2),
            ("a", DAY_S + 4000.0, 60.0, 1),
            ("wide", DAY_S + 4100.0, 60.0, 2),
            ("b", DAY_S + 4200.0, 60.0, 1),
            ("late", 2 * DAY_S, 3600.0, 2),
            ("last", 2 * DAY_S + 1800.0, 60.0, 1),
            ("end", 3 * DAY_S - 1.0, 1.0, 1),
        ],
        columns=["job", "submit_s", "duration_s", "num_pods"],
    )
    return run(jobs.assign(gpus_per_pod=8), nodes=2, label="fifo")


def peaks(result: RunResult, window: Window) -> pd.DataFrame:
    curve = pending_steps(result.pending, float(result.manifest["end_s"]))
    waits = find_waits(result.jobs, result.attempts)
    return peaks_by_part(curve.clip(window.start_s, window.end_s), window, result.jobs, waits)


def test_each_day_has_the_highest_state_of_its_curve(three_days: RunResult) -> None:
    window = submission_window(three_days.jobs, float(three_days.manifest["end_s"]))
    table = peaks(three_days, window)
    assert table["start_s"].tolist() == [0.0, DAY_S, 2 * DAY_S]
    assert table["peak_pods"].tolist() == [0, 4, 1]
    assert table["peak_s"].tolist()[1:] == [DAY_S + 4200.0, 2 * DAY_S + 1800.0]
    assert table["largest_job"].tolist()[1:] == ["wide", "last"]
    none, day_1, _ = by_start(table).values()
    assert none.lines() == ("none",)
    assert day_1.lines() == (
        "4 pods at 01:10",
        "capacity 100 %",
        "50 % in gangs of up to 8 GPUs",
        "largest: wide, 16 GPUs, waited 1.67 min",
    )


def test_short_windows_have_hours(three_days: RunResult) -> None:
    table = peaks(three_days, Window(DAY_S, DAY_S + 7200.0, 2 * DAY_S))
    assert table["start_s"].tolist() == [DAY_S, DAY_S + 3600.0]
    assert part_name(DAY_S + 3600.0, 3600.0) == "day 1 01:00"
    assert part_name(2 * DAY_S, DAY_S) == "day 2"


def test_a_report_says_which_days_it_covers(three_days: RunResult, tmp_path: Path) -> None:
    page = build_report([three_days.save(tmp_path / "run")], tmp_path / "report")
    text = (page.parent / "report.md").read_text("utf-8")
    assert "these runs cover days 0 to 2." in text
    assert "| day 1 | 4 pods at 01:10; capacity 100 %; 50 % in gangs of" in text
    assert len(pd.read_csv(page.parent / "tables" / "days.csv")) == 3


def test_an_episode_has_a_picture_whose_top_is_its_peak(three_days: RunResult) -> None:
    end_s = float(three_days.manifest["end_s"])
    highest, *_ = find_episodes(
        pending_steps(three_days.pending, end_s),
        allocation_steps(three_days.allocation, end_s),
        three_days.jobs,
        three_days.attempts,
        num_gpus=16,
    )
    svg = sparkline(highest)
    assert "peak 4 pods at day 1 01:10" in svg
    numbers = [[int(n) for n in re.findall(r"V(-?\d+)", path)] for path in svg.split("<path")[2:]]
    assert numbers
    assert min(min(ys) for ys in numbers) == 0  # the peak reaches the top
    assert all(0 <= y <= HEIGHT for ys in numbers for y in ys)
    assert all(int(x) <= WIDTH for x in re.findall(r"H(\d+)", svg))
