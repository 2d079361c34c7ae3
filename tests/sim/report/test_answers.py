"""The head of a report answers in words what its tables say in numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from sim import run
from sim.report.report import build_report


def small(*rows: tuple[str, float, float, int]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["job", "submit_s", "duration_s", "num_pods"])
    return frame.assign(gpus_per_pod=8)


def head(page: Path) -> str:
    """Return what `report.md` says before its first section."""
    return (page.parent / "report.md").read_text("utf-8").split("\n## ")[0]


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide gang waits for the node that small ones keep taking under `skip`."""
    root = tmp_path_factory.mktemp("arms")
    jobs = small(
        ("first", 0, 4000, 3),
        ("wide", 60, 600, 4),
        *((f"small-{i}", 120 + i, 3000, 1) for i in range(4)),
        ("last", 9000, 60, 1),
    )
    runs = [
        run(jobs, nodes=4, discipline=word, label=word).save(root / word)
        for word in ("skip", "strict")
    ]
    return build_report(runs, root / "report")


def test_the_strict_queue_comes_first_and_the_head_says_what_waits(arms: Path) -> None:
    text = head(arms)
    assert "On 4 nodes strict (whole gangs, strict FIFO) leaves " in text
    assert re.search(
        r"reasons, on average: capacity \d+ %, behind head \d+ %\. Capacity means: less is", text
    )
    assert re.search(r"The peak is 8 pods at day 0 00:02: [a-z ]+ \d+ %", text)


def test_it_says_what_would_help_and_whom_that_costs(arms: Path) -> None:
    text = head(arms)
    assert "skip (whole gangs, FIFO; others may pass it) leaves" in text
    # wide: 3940 s under strict; under skip only after the last small job
    wide = re.search(r"gangs of 9 to 64 GPUs wait (\S+ \S+) instead of 1.09 h under strict", text)
    assert wide, text
    assert "day 0 " in text


def test_one_seed_and_one_size_are_said_to_leave_growth_unknown(arms: Path) -> None:
    text = head(arms)
    assert "is not known: there are runs of one cluster size only, 4 nodes" in text
    assert "One seed and " in text


def test_each_sentence_leads_to_a_place_on_the_page(arms: Path) -> None:
    page = arms.read_text("utf-8")
    links = set(re.findall(r'href="#([^"]+)"', page))
    places = ("curves-largest", "table", "sizes", "growth", "episodes", "days")
    assert {f"w1-{part}" for part in places} <= links
    assert links <= set(re.findall(r'id="([^"]+)"', page))


def test_one_run_says_that_nothing_else_was_tried(tmp_path: Path) -> None:
    folder = run(small(("a", 0, 60, 1), ("b", 1, 60, 1)), nodes=1, label="own").save(tmp_path / "r")
    text = head(build_report([folder], tmp_path / "report"))
    assert "Not known: only own was simulated." in text


def test_several_seeds_give_medians_and_how_often_an_arm_is_the_best(tmp_path: Path) -> None:
    jobs = small(("first", 0, 4000, 3), ("wide", 60, 600, 4), ("one", 120, 3000, 1))
    runs = [
        run(jobs, nodes=4, discipline=word, label=word, seed=seed, control_plane="kubernetes").save(
            tmp_path / f"{word}-{seed}"
        )
        for word in ("strict", "easy")
        for seed in range(3)
    ]
    page = build_report(runs, tmp_path / "report")
    text = head(page)
    assert "(medians of 3 seeds)" in text
    assert "has the fewest pods pending at p99 in 3 of 3 seeds." in text
    rows = re.findall(r"^\| 4 \| (\S+) \| 3 \|", (page.parent / "report.md").read_text(), re.M)
    assert rows[:2] == ["strict", "easy"]
    table = pd.read_csv(page.parent / "tables" / "headline.csv")
    assert len(table[table["is_shared_window"]]) == 6


def test_a_page_of_many_runs_tells_the_episodes_of_one_seed(tmp_path: Path) -> None:
    jobs = small(("first", 0, 4000, 3), ("wide", 60, 600, 4), ("one", 120, 3000, 1))
    runs = [
        run(jobs, nodes=nodes, discipline=word, label=word, seed=seed).save(
            tmp_path / f"{word}-{nodes}-{seed}"
        )
        for nodes in (4, 5)
        for word in ("strict", "easy")
        for seed in range(2)
    ]
    page = build_report(runs, tmp_path / "report")
    text = page.read_text("utf-8")
    assert "Those of 4 more runs are in tables/episodes.csv." in text
    assert len(pd.read_csv(page.parent / "tables" / "headline.csv")) >= len(runs)
