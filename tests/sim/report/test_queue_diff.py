"""Two runs of the same jobs under two queues files: each figure counted again from the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, Victims
from sim import run
from sim.commands.main import invoke
from sim.report.diff import as_json, compare, diff_runs
from sim.runs.folder import RunResult

NODES = 2


def workload(num_jobs: int = 120, queues: tuple[str, ...] = ("u", "v", "w")) -> pd.DataFrame:
    draw = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(num_jobs)],
            "queue": draw.choice(queues, num_jobs),
            "submit_s": np.sort(draw.integers(0, 20_000, num_jobs)).astype(float),
            "duration_s": draw.integers(300, 3000, num_jobs).astype(float),
            "num_pods": draw.integers(1, 4, num_jobs),
            "gpus_per_pod": 1,
        }
    )


def quotas(
    nominal: dict[str, int],
    *,
    is_strict: bool = False,
    aliases: dict[str, str] | None = None,
) -> Queues:
    limit = 0 if is_strict else None
    queues = tuple(
        Queue(
            name,
            "c",
            quota={"all": {"gpus": Quota(gpus, limit, limit)}},
            reclaim=Victims.NEVER if is_strict else Victims.ANY,
        )
        for name, gpus in nominal.items()
    )
    return Queues((Flavor("all"),), (Cohort("c"),), queues, aliases or {})


TEAMS = {"u": 4, "v": 4, "w": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    files = {"none": None, "strict": quotas(TEAMS, is_strict=True), "borrow": quotas(TEAMS)}
    return {
        name: run(workload(), nodes=NODES, queues=file).save(root / name)
        for name, file in files.items()
    }


def counted(folder: Path, horizon_s: float) -> dict[str, dict[str, Any]]:
    """Return the figures of each queue from jobs and attempts."""
    result = RunResult.load(folder)
    jobs = result.jobs.assign(
        wait_s=result.jobs["start_s"].clip(upper=horizon_s) - result.jobs["submit_s"]
    )
    evicted = result.attempts[result.attempts["outcome"] == "preempted"]
    whose = evicted["job"].map(jobs.set_index("job")["queue"])
    found = {}
    for queue, mine in jobs.groupby("queue"):
        is_over = mine["end_s"].max() <= horizon_s
        end_s = mine["end_s"].max() if is_over else horizon_s
        found[str(queue)] = {
            "wait_p50_s": np.quantile(mine["wait_s"], 0.5, method="inverted_cdf"),
            "wait_p95_s": np.quantile(mine["wait_s"], 0.95, method="inverted_cdf"),
            "makespan_s": end_s - mine["submit_s"].min(),
            "makespan_is_lower_bound": not is_over,
            "used_gpu_h": mine["held_gpu_s"].sum() / 3600,
            "preemptions": (whose == queue).sum(),
            "lost_gpu_h": evicted.loc[whose == queue, "lost_gpu_s"].sum() / 3600,
        }
    return found


@pytest.mark.parametrize(("a", "b"), [("strict", "borrow"), ("none", "borrow")])
def test_figures_are_those_of_the_tables(folders: dict[str, Path], a: str, b: str) -> None:
    found = as_json(compare(folders[a], folders[b]))
    assert {one["queue"] for one in found["queues"]} == set(TEAMS)
    horizon_s = min(RunResult.load(folders[name]).manifest["end_s"] for name in (a, b))
    for side, name in (("a", a), ("b", b)):
        expected = counted(folders[name], horizon_s)
        for one in found["queues"]:
            mine = dict(expected[one["queue"]])
            if name == "none":  # nobody has quota, and nobody is evicted
                assert one[side]["preemptions"] is None
                del mine["preemptions"], mine["lost_gpu_h"]
            for figure, value in mine.items():
                assert one[side][figure] == pytest.approx(value), (name, one["queue"], figure)
    assert found["num_jobs"] == sum(one["num_jobs"] for one in found["queues"]) == 120
    assert sum(one["b"]["preemptions"] for one in found["queues"]) > 0
    assert found["only_in_a"] == found["only_in_b"] == []


def test_text_says_who_gains_and_who_loses(folders: dict[str, Path]) -> None:
    text = diff_runs(folders["strict"], folders["borrow"])
    found = as_json(compare(folders["strict"], folders["borrow"]))
    verdicts = [one["wait_p95_is"] for one in found["queues"]]
    for verdict, words in (("less in b", "less"), ("longer in b", "longer")):
        num = verdicts.count(verdict)
        count = f"{num} queue" + (" waits" if num == 1 else "s wait")
        assert (f"  {count} {words} at p95 under B than under A" in text) == (num > 0)
    assert "\nGPU time by queue, in GPU-hours of the whole runs:\n" in text
    # both ways round, gains are losses
    back = as_json(compare(folders["borrow"], folders["strict"]))["queues"]
    mirrored = {"less in b": "longer in b", "longer in b": "less in b"}
    assert {one["queue"]: mirrored.get(one["wait_p95_is"]) for one in back} == {
        one["queue"]: one["wait_p95_is"] if one["wait_p95_is"] in mirrored else None
        for one in found["queues"]
    }


def test_without_several_queues_nothing_is_said_of_them(folders: dict[str, Path]) -> None:
    assert "queue" not in diff_runs(folders["none"], folders["none"])
    assert as_json(compare(folders["none"], folders["none"]))["queues"] is None


def test_queues_of_one_run_only_and_jobs_that_moved_are_said(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """In B the jobs of `w` are those of `x`, and nobody has `idle`."""
    file = quotas({"u": 4, "v": 4, "x": 8, "idle": 0}, aliases={"w": "x"})
    other = run(workload(), nodes=NODES, queues=file).save(tmp_path / "other")
    text = diff_runs(folders["borrow"], other)
    moved = (workload()["queue"] == "w").sum()
    assert "  1 queue of A that B lacks: w.\n" in text
    assert "  2 queues of B that A lacks: idle and x.\n" in text or (
        "  2 queues of B that A lacks: x and idle.\n" in text
    )
    assert f"  {moved} jobs are in another queue in B; such rows name both.\n" in text
    rows = [line.split("  ") for line in text.splitlines() if "w -> x" in line]
    assert len(rows) == 2  # of waits, and of GPU time
    # without a file, its labels are the queues of the file of the other run
    assert "lacks: idle" in diff_runs(folders["none"], other)
    assert "another queue" not in diff_runs(folders["none"], other)


def test_totals_of_a_queue_whose_jobs_are_in_several_rows_are_not_repeated(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """In B all jobs are of `u`."""
    file = quotas({"u": 16, "idle": 0}, aliases={"v": "u", "w": "u"})
    other = run(workload(), nodes=NODES, queues=file).save(tmp_path / "other")
    found = as_json(compare(folders["borrow"], other))["queues"]
    assert [one["queue_b"] for one in found] == ["u"] * 3
    held = RunResult.load(other).jobs["held_gpu_s"].sum() / 3600
    assert sum(one["b"]["used_gpu_h"] for one in found) == pytest.approx(held)
    assert all(one["b"]["preemptions"] is None for one in found)


def test_jobs_that_run_for_another_time_are_said(folders: dict[str, Path], tmp_path: Path) -> None:
    jobs = workload()
    jobs.loc[3, "duration_s"] += 5.0
    other = run(jobs, nodes=NODES).save(tmp_path / "other")
    text = diff_runs(folders["none"], other)
    assert "not the same jobs: 1 job of these has another run time or other GPUs in B" in text
    assert "such as 'j3'" in text
    assert "not the same jobs" not in diff_runs(folders["none"], folders["strict"])


def test_the_command_prints_json(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["diff", str(folders["strict"]), str(folders["borrow"]), "--top", "2", "--json"]
    assert invoke(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(
        json.dumps(as_json(compare(folders["strict"], folders["borrow"]), top=2))
    )
    assert len(found["longest"]["a"]) == 2
    assert invoke([*words[:-2], "-1"]) == 2
