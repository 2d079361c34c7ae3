"""What people are shown of queues: after a run, in reports, and between two runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, Victims
from sim import run
from sim.report.answers import describe
from sim.report.gains import Change
from sim.report.headlines import run_lines
from sim.report.queues import MOST_TOLD, pending_of, told
from sim.report.report import build_report
from sim.runs.folder import RunResult
from sim.runs.metrics import Quantile
from sim.runs.steps import pending_steps
from sim.schema.config import RunConfig

#: `u` borrows all 8 GPUs; `v` takes its 4 back after 5 s
JOBS = pd.DataFrame(
    {
        "job": ["a", "b", "c"],
        "queue": ["u", "u", "v"],
        "submit_s": [0.0, 0.0, 5.0],
        "duration_s": [3600.0, 3600.0, 1800.0],
        "num_pods": [4, 4, 4],
        "gpus_per_pod": [1, 1, 1],
    }
)


def teams(
    names: Sequence[str] = "uv",
    *,
    lend: int | None = None,
    borrow: int | None = None,
    **words: Victims,
) -> Queues:
    quota = {"all": {"gpus": Quota(4, borrow, lend)}}
    queues = tuple(Queue(name, "c", quota=quota, **words) for name in names)
    return Queues((Flavor("all"),), (Cohort("c"),), queues, {"team-v": names[1]})


def of_run(result: RunResult) -> dict[str, list[str]]:
    """The lines of the queues that are printed, by queue, cut at two spaces."""
    lines = run_lines(result, Path("out"))
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    at = [line.startswith("queues ") for line in lines].index(True) + 1
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[at:]}


def test_a_run_prints_what_each_queue_waited_used_borrowed_and_lost() -> None:
    result = run(JOBS, nodes=1, queues=teams(reclaim=Victims.ANY))
    found = of_run(result)
    assert found["queue"] == [
        "jobs", "wait p50", "p95", "waits for", "GPU time", "nominal",
        "borrowed", "lent", "evicted", "evicts", "lost",
    ]  # fmt: skip
    # `a` is evicted at 5 s, with 5 s x 4 GPUs of work; from 1805 s on it restarts for 750 s and
    # runs for an hour: `u` uses 4 x (5 + 3600 + 4350) GPU-seconds of all, `v` 4 x 1800. Until `b`
    # ends at 3600 s, `u` borrows 4 GPUs, but for the 1800 s of `c`
    u, v = found["u"], found["v"]
    assert u == ["2", "0 s", "0 s", "quota 71 %", "82 %", "50 %", "2.00", "0", "1", "0", "0.00556"]
    assert v == ["1", "0 s", "0 s", "–", "18 %", "50 %", "0", "2.00", "0", "1", "0"]
    lost = {name: one["evicted_for"] for name, one in result.summary["queues"].items()}
    assert lost == {"u": {"v": {"preemptions": 1, "lost_gpu_s": 20.0}}, "v": {}}


def test_columns_of_what_no_queue_did_are_left_out() -> None:
    found = of_run(run(JOBS, nodes=1, queues=teams(lend=0)))
    assert found["queue"] == ["jobs", "wait p50", "p95", "waits for", "GPU time", "nominal"]


def test_runs_of_one_queue_or_none_print_what_they_did() -> None:
    one = Queues((Flavor("all"),), (), (Queue("u", quota={"all": {"gpus": Quota(8)}}),))
    jobs = JOBS.assign(queue="u")
    plain, alone = (run_lines(run(jobs, nodes=1, queues=q), Path("out")) for q in (None, one))
    assert plain == alone
    assert not any(line.startswith("queues") for line in plain)


def test_of_many_queues_those_that_wait_most_are_told() -> None:
    names = [f"team-{at:02}" for at in range(60)]
    draw = np.random.default_rng(0)
    jobs = pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(600)],
            "queue": draw.choice(names, 600),
            "submit_s": np.arange(600.0),
            "duration_s": 60.0,
            "num_pods": 1,
            "gpus_per_pod": 1,
        }
    )
    result = run(jobs, nodes=1, queues=teams(names))
    waited = result.jobs.filter(regex="^pending_").sum(axis=1).groupby(result.jobs["queue"]).sum()
    found = list(of_run(result))
    assert found[1 : MOST_TOLD + 1] == waited.nlargest(MOST_TOLD).index.tolist()
    assert found[MOST_TOLD + 1] == "and 50 more queues, in queues.parquet"


# -- reports -----------------------------------------------------------------------------------


def many(num_jobs: int = 130) -> pd.DataFrame:
    """Jobs of twelve queues, of which the first asks for the most."""
    draw = np.random.default_rng(3)
    queues = [f"q{at:02}" for at in range(12)]
    return pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(num_jobs)],
            "queue": draw.choice(queues, num_jobs, p=[0.34, *[0.06] * 11]),
            "submit_s": np.sort(draw.integers(0, 40_000, num_jobs)).astype(float),
            "duration_s": draw.integers(500, 4000, num_jobs).astype(float),
            "num_pods": draw.integers(1, 5, num_jobs),
            "gpus_per_pod": 1,
        }
    )


def of_twelve(*, lend: int | None = None, **words: Victims) -> Queues:
    quota = {"all": {"gpus": Quota(2, lend=lend, borrow=lend)}}
    queues = tuple(Queue(f"q{at:02}", "c", quota=quota, **words) for at in range(12))
    return Queues((Flavor("all"),), (Cohort("c"),), queues)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the same jobs without queues, with strict quotas, and with borrowing and reclaim."""
    root = tmp_path_factory.mktemp("arms")
    files = {"none": None, "strict": of_twelve(lend=0), "borrow": of_twelve(reclaim=Victims.ANY)}
    return {
        name: run(many(), nodes=2, queues=file, label=name, until_s=90_000.0).save(root / name)
        for name, file in files.items()
    }


@pytest.fixture(scope="module")
def page(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report([*folders.values()], tmp_path_factory.mktemp("page") / "report")


def test_a_report_has_a_table_of_queues_that_adds_up(page: Path, folders: dict[str, Path]) -> None:
    table = pd.read_csv(page.parent / "tables" / "queues.csv").set_index(["arm", "queue"])
    assert len(table) == 3 * 12
    for arm, folder in folders.items():
        result = RunResult.load(folder)
        mine = table.loc[arm]
        jobs = result.jobs.assign(
            wait_s=result.jobs["start_s"] - result.jobs["submit_s"],
            pod_h=result.jobs.filter(regex="^pending_").sum(axis=1)
            * result.jobs["num_pods"]
            / 3600,
        )
        inside = jobs[jobs["outcome"] != "never_fits"].groupby("queue")
        assert mine["num_jobs"].to_dict() == inside.size().to_dict()
        waited = mine.filter(regex="^waited_").sum(axis=1)
        assert waited.to_dict() == pytest.approx(inside["pod_h"].sum().to_dict())
        for at in (0.5, 0.95):
            expected = inside["wait_s"].apply(
                lambda s, at=at: float(np.quantile(s, at, method="inverted_cdf"))
            )
            assert mine[f"wait_p{at * 100:.0f}_s"].to_dict() == expected.to_dict()
        used = jobs.groupby("queue")["held_gpu_s"].sum() / 3600
        assert mine["used_gpu_h"].to_dict() == pytest.approx(used.to_dict())
        assert mine["share_ratio"].sum() == pytest.approx(1.0)
    assert table.loc["none", "borrowed_gpu_h"].isna().all()
    assert (table.loc["strict", "borrowed_gpu_h"] == 0).all()
    assert table.loc["borrow", "preemptions"].sum() > 0


def test_a_report_says_who_gains_and_who_loses_by_queue(page: Path) -> None:
    table = pd.read_csv(page.parent / "tables" / "queues.csv").set_index(["arm", "queue"])
    before, after = (table.loc[arm, "wait_p95_s"] for arm in ("none", "borrow"))
    by_s = after - before
    is_equal = by_s.abs() <= np.maximum(60.0, 0.1 * np.minimum(before, after))
    less, longer = by_s[(by_s < 0) & ~is_equal], by_s[(by_s > 0) & ~is_equal]
    text = (page.parent / "report.md").read_text("utf-8")
    for some, word in ((less, "less"), (longer, "longer")):
        count = f"{len(some)} queue" + ("s wait" if len(some) != 1 else " waits")
        assert bool(len(some)) == (f"{count} {word} at p95 under borrow than under none" in text)
        if len(some):
            most = some.abs().idxmax()
            assert re.search(rf"{count} {word} at p95 under borrow[^.(]*{most} \(", text)


def test_a_page_shows_the_queues_that_wait_most_and_folds_the_others(page: Path) -> None:
    text = page.read_text("utf-8")
    part = text[text.index('id="w1-queues"') : text.index('id="w1-sizes"')]
    assert "<details><summary>4 more queues</summary>" in part
    assert part.count("<figure>") == 2  # of the two arms with quota
    svg = (page.parent / "pictures" / "queues-DataFrame-2-strict-s0.svg").read_text("utf-8")
    assert "other queues" in svg
    assert "quota" in svg
    assert "queues 12, SHA-256" in text


def test_a_page_says_who_was_evicted_for_whom(page: Path, folders: dict[str, Path]) -> None:
    table = pd.read_csv(page.parent / "tables" / "evictions.csv")
    attempts = RunResult.load(folders["borrow"]).attempts
    evicted = attempts[attempts["outcome"] == "preempted"]
    assert set(table["arm"]) == {"borrow"}
    assert table["preemptions"].sum() == len(evicted)
    assert table["lost_gpu_h"].sum() == pytest.approx(evicted["lost_gpu_s"].sum() / 3600)
    most = table.loc[table["lost_gpu_h"].idxmax()]
    row = f"| borrow | {most['queue']} | {most['for_queue']} | {most['preemptions']} | "
    assert row in (page.parent / "report.md").read_text("utf-8")
    assert "<summary>Who was evicted for whom</summary>" in page.read_text("utf-8")


def test_curves_of_the_others_are_their_sum(folders: dict[str, Path]) -> None:
    result = RunResult.load(folders["borrow"])
    table, end_s = result.pending_by_queue, result.manifest["end_s"]
    some = [f"q{at:02}" for at in range(5, 12)]
    together = pending_of(table, some, end_s)
    parts = [pending_steps(table[table["queue"] == name], end_s) for name in some]
    for time_s, row in zip(together.time_s, together.values, strict=True):
        assert (sum(part.at(time_s) for part in parts) == row).all()


def test_jobs_that_a_quota_shuts_out_are_named(tmp_path: Path) -> None:
    jobs = JOBS.assign(num_pods=[4, 5, 4])
    runs = [
        run(jobs, nodes=2, queues=file, label=name).save(tmp_path / name)
        for name, file in (("none", None), ("strict", teams(lend=0, borrow=0)))
    ]
    text = (build_report(runs, tmp_path / "report").parent / "report.md").read_text("utf-8")
    assert "1 job can never start under strict, and no wait counts it: u (1)." in text


def test_queues_without_jobs_are_not_told_as_those_of_one_arm_only(tmp_path: Path) -> None:
    runs = [
        run(JOBS, nodes=2, queues=file, label=name).save(tmp_path / name)
        for name, file in (("none", None), ("teams", teams("uvx")))
    ]
    text = (build_report(runs, tmp_path / "report").parent / "report.md").read_text("utf-8")
    assert "| x | teams | 0 |" in text
    assert "Only under" not in text


def test_a_report_of_one_queue_or_none_has_no_part_for_queues(tmp_path: Path) -> None:
    one = Queues((Flavor("all"),), (), (Queue("u", quota={"all": {"gpus": Quota(8)}}),))
    jobs = JOBS.assign(queue="u")
    runs = [run(jobs, nodes=1, queues=q).save(tmp_path / f"{q is None}") for q in (None, one)]
    page = build_report(runs, tmp_path / "report")
    assert "-queues" not in page.read_text("utf-8")


def test_waits_of_which_bounds_hide_the_difference_are_not_called_gains() -> None:
    def change(before: float, after: float, bounds: str = "") -> float:
        return Change("q", Quantile(before, "b" in bounds), Quantile(after, "a" in bounds)).longer_s

    assert change(100, 300) == 200
    assert change(100, 150) == 0  # less than a minute
    assert change(7000, 7600) == 0  # less than a tenth
    assert change(7000, 6000) == -1000
    assert change(100, 300, "a") == 200  # what still waits can only raise it
    assert np.isnan(change(100, 300, "b"))
    assert change(300, 100, "b") == -200
    assert np.isnan(change(300, 100, "a"))
    assert np.isnan(change(100, 100, "ab"))


def test_arms_are_described_by_their_queues_file() -> None:
    config = RunConfig(queues=teams(), queues_file="teams.toml")
    assert describe(config) == "whole gangs, FIFO, 2 queues of teams.toml"
    assert describe(RunConfig()) == "whole gangs, strict FIFO"
    # the same file with other words is another one
    other = RunConfig(queues=teams(lend=0), queues_file="teams.toml")
    assert told(config) != told(other)
    assert told(config).startswith("2 of teams.toml, SHA-256 ")
