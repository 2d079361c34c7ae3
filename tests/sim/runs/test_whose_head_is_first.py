"""`muster run --queues`: each word of [sharing] changes who starts first, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.core.queues import Serve, Sharing
from scheduler.policies.spec import PolicySpec
from sim import run
from sim.commands.main import invoke
from sim.runs.folder import RunResult
from tests.sim.engines.test_queues import GPUS, TABLES, alone, workload

#: one node of 8 GPUs, and quota of queues a and b for 2 of them
FILE = """
[[cohort]]
name = "root"
[[queue]]
name = "a"
cohort = "root"
quota.gpus = 2
[[queue]]
name = "b"
cohort = "root"
weight = {weight}
quota.gpus = 2
[[queue]]
name = "c"
cohort = "root"
quota.gpus = 8
[sharing]
half_life_s = 3600
"""
HEADER = "job,queue,submit_s,duration_s,num_pods,gpus_per_pod,priority\n"
#: a runs for an hour; then c fills the node once more
USED = "g,a,0,3600,1,8,0\n"


def first(tmp_path: Path, words: str, jobs: str, weight: int = 1) -> str:
    """Return which queue's job starts first of a-next and b-next, which want all of the node."""
    (tmp_path / "jobs.csv").write_text(HEADER + USED + jobs)
    (tmp_path / "queues.toml").write_text(FILE.format(weight=weight) + words)
    files = [f"--jobs={tmp_path}/jobs.csv", f"--queues={tmp_path}/queues.toml"]
    out = tmp_path / "run"
    assert invoke(["run", *files, "--nodes", "1", "--no-report", f"--out={out}"]) == 0
    started = RunResult.load(out).jobs.set_index("job")["start_s"]
    return str(started[["a-next", "b-next"]].idxmin())[0]


def after(time_s: int) -> str:
    """Return jobs: c fills the node at that time, and a and b come while it does."""
    return (
        f"x,c,{time_s},60,1,8,0\na-next,a,{time_s + 1},60,1,8,0\nb-next,b,{time_s + 2},60,1,8,0\n"
    )


@pytest.mark.parametrize(
    ("words", "whose"),
    [
        ("", "a"),
        ("heads = 'borrowing'", "a"),
        ("heads = 'share'", "a"),
        ("heads = 'share'\nk = 1", "b"),
        ("heads = 'usage'", "b"),
        ("heads = 'fair-tree'", "b"),
    ],
)
def test_who_used_much_of_late_comes_later(words: str, whose: str, tmp_path: Path) -> None:
    assert first(tmp_path, words, after(3600)) == whose


def test_use_is_forgotten_though_nobody_waited_when_it_ended(tmp_path: Path) -> None:
    assert first(tmp_path, "heads = 'usage'", after(100 * 3600)) == "a"


@pytest.mark.parametrize(("words", "whose"), [("", "a"), ("heads = 'share'", "b")])
def test_the_smaller_share_by_its_weight_comes_first(
    words: str, whose: str, tmp_path: Path
) -> None:
    assert first(tmp_path, words, after(3600), weight=2) == whose


@pytest.mark.parametrize(
    ("words", "whose"),
    [
        ("", "b"),
        ("age_s = 3600\nage_priority = 4", "b"),
        ("age_s = 3600\nage_priority = 7", "a"),
        ("age_s = 1\nage_priority = 7", "b"),
    ],
)
def test_a_wait_adds_to_the_priority_up_to_a_bound(words: str, whose: str, tmp_path: Path) -> None:
    """a waits for an hour, and b for 600 s with 5 more priority: 7 > 5 + 7 / 6, and 4 < 5."""
    jobs = "a-next,a,0,60,1,8,0\nb-next,b,3000,60,1,8,5\n"
    assert first(tmp_path, words, jobs) == whose


@pytest.mark.parametrize("word", ["share", "usage", "fair-tree"])
def test_one_queue_with_all_the_quota_is_what_no_queues_are(word: str, tmp_path: Path) -> None:
    sharing = Sharing(Serve(word), half_life_s=50.0, age_s=20.0, age_priority=3)
    queues = replace(alone("easy", GPUS), sharing=sharing)
    plain = run(workload(0), nodes=6, policy=PolicySpec(discipline="easy")).save(tmp_path / "plain")
    queued = run(workload(0), nodes=6, queues=queues).save(tmp_path / "queued")
    for table in TABLES:
        first, second = ((at / f"{table}.parquet").read_bytes() for at in (plain, queued))
        assert first == second, table
