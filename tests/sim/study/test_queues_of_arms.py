"""Studies and plans whose arms name queues files, beside arms without one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sim.commands.main import invoke
from sim.runs.folder import RunResult

STRICT = """
[[cohort]]
name = "c"
[[queue]]
name = "u"
cohort = "c"
quota.gpus = { nominal = 4, borrow = 0, lend = 0 }
[[queue]]
name = "v"
cohort = "c"
quota.gpus = { nominal = 12, borrow = 0, lend = 0 }
"""
BORROW = re.sub(r"\{ nominal = (\d+).*\}", r'\1\nreclaim = "any"', STRICT)
STUDY = """
control_plane = "ideal"
nodes = [2]
[[workload]]
name = "month"
jobs = "jobs.csv"
[[arm]]
name = "none"
[[arm]]
name = "strict"
queues = "strict.toml"
[[arm]]
name = "borrow"
queues = "borrow.toml"
"""
PLAN = """
control_plane = "ideal"
[workload]
name = "month"
jobs = "jobs.csv"
[arm]
name = "strict"
queues = "strict.toml"
[vary]
what = "nodes"
low = 2
high = 4
[[target]]
metric = "queueing_delay_p95_s"
at_most = 60
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(80)],
            "queue": draw.choice(["u", "v"], 80),
            "submit_s": np.sort(draw.integers(0, 9000, 80)),
            "duration_s": draw.integers(100, 1500, 80),
            "num_pods": draw.integers(1, 4, 80),
            "gpus_per_pod": 1,
        }
    ).to_csv(tmp_path / "jobs.csv", index=False)
    files = {"strict": STRICT, "borrow": BORROW, "study": STUDY, "plan": PLAN}
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.chdir(tmp_path)


def study(*words: str) -> int:
    return invoke(["study", "--out", "out", "--processes", "1", *words])


def test_arms_with_and_without_queues_share_one_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert study() == 0
    text = Path("out/report.md").read_text("utf-8")
    table = pd.read_csv("out/tables/queues.csv").set_index(["arm", "queue"])
    assert set(table.index) == {(a, q) for a in ("none", "strict", "borrow") for q in "uv"}
    for arm in ("none", "strict", "borrow"):
        jobs = RunResult.load(f"out/points/month-2-{arm}-s0").jobs
        wait_s = (jobs["start_s"] - jobs["submit_s"]).groupby(jobs["queue"])
        medians = wait_s.apply(lambda s: np.quantile(s, 0.5, method="inverted_cdf"))
        if not table.loc[arm, "wait_p50_is_lower_bound"].any():
            assert table.loc[arm, "wait_p50_s"].to_dict() == medians.to_dict()
    assert "| strict | queues 2 of strict.toml, SHA-256 " in text
    assert "| borrow | queues 2 of borrow.toml, SHA-256 " in text
    assert "under strict than under none" in text
    capsys.readouterr()
    points = [f"out/points/month-2-{arm}-s0" for arm in ("none", "strict")]
    assert invoke(["diff", *points]) == 0
    diff = capsys.readouterr().out
    assert diff.startswith(
        f"A  {points[0]}  (no queues file)\nB  {points[1]}  (2 queues of strict.toml)\n"
    )
    # no command of the page gives words that a run with queues refuses, or leaves its queues out
    for line in re.findall(r"^    muster run .*", text, re.M):
        assert "--discipline" not in line or "strict" not in line.split("&&")[0]


def test_jobs_that_one_arm_shuts_out_are_told_of_that_arm(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = pd.read_csv("jobs.csv")
    jobs.loc[(jobs["queue"] == "u").idxmax(), "num_pods"] = 5
    jobs.to_csv("jobs.csv", index=False)
    assert study() == 0
    text = capsys.readouterr().out
    assert "never fits  On 2 nodes under strict 1 of 80 jobs (5 pods," in text
    assert "These arms run different jobs, so their figures are not comparable." in text
    assert "These sizes" not in text
    page = Path("out/report.md").read_text("utf-8")
    assert page.count("**Left out.** On 2 nodes under strict 1 of 80 jobs") == 1
    assert "the sizes run different jobs" not in page
    # where all arms lack it, none is named
    Path("borrow.toml").write_text(STRICT)
    Path("study.toml").write_text(STUDY.replace('[[arm]]\nname = "none"\n', ""))
    assert study() == 0
    text = capsys.readouterr().out
    assert "never fits  On 2 nodes 1 of 80 jobs" in text
    assert "These arms" not in text


def test_an_edited_queues_file_runs_its_arm_again_and_no_other() -> None:
    def made() -> dict[str, int]:
        return {
            arm: Path(f"out/points/month-2-{arm}-s0/manifest.json").stat().st_mtime_ns
            for arm in ("none", "strict", "borrow")
        }

    assert study("--no-report") == 0
    first = made()
    assert study("--no-report") == 0
    assert made() == first
    Path("borrow.toml").write_text(BORROW.replace("12", "11"))
    assert study("--no-report") == 0
    again = made()
    assert {arm for arm in again if again[arm] != first[arm]} == {"borrow"}


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("study.toml", "strict.toml", "strikt.toml",
         "arm 'strict': queues file 'strikt.toml': No such file or directory\n"),
        ("study.toml", '"strict.toml"', "7",
         "arm 'strict': queues is 7; give the path of a queues file, as text\n"),
        ("study.toml", "queues =", "queues_file =",
         "arm 'strict': queues_file is unknown; give queues = 'FILE'\n"),
        ("study.toml", "queues =", "queue =",
         "arm 'strict': queue is unknown; did you mean queues? Else choose one of name, "),
        ("study.toml", '"strict.toml"', '""',
         "arm 'strict': queues is ''; give the path of a queues file, as text\n"),
        ("study.toml", '"strict.toml"', '"strict.toml"\ndiscipline = "easy"',
         "set discipline in the queues file, and leave it out here\n"),
        ("strict.toml", "lend = 0", "lent = 0",
         "arm 'strict': queues file 'strict.toml' has 2 faults: (1) queue 'u': quota of gpus: "
         "'lent' is unknown; did you mean 'lend'? Else choose one of nominal, borrow, lend; (2) "),
        ("borrow.toml", 'name = "v"', 'name = "w"',
         "arm 'borrow' (queues file 'borrow.toml') on workload 'month': jobs are for queues that "
         "the queues file lacks: queue 'v' ("),
        ("borrow.toml", "[[cohort]]", '[[flavor]]\nname = "h100"\ngpu_model = "H100"\n[[cohort]]',
         "arm 'borrow'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_queues_file_is_said_before_anything_runs(
    file: str, old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))
    assert study() == 2
    error = capsys.readouterr().err
    assert said in error
    assert "points," not in error
    assert "fields at the top" not in error
    assert not Path("out").exists()


def test_queues_of_generated_jobs_are_checked_before_the_first_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    generated = 'profile = "philly"\nload = 0.5\ndays = 0.2'
    Path("study.toml").write_text(STUDY.replace('jobs = "jobs.csv"', generated))
    assert study() == 2
    error = capsys.readouterr().err
    assert re.search(r"arm '(strict|borrow)' \(queues file '\1.toml'\) on workload", error)
    assert not list(Path("out").glob("points/*"))


def test_a_plan_says_that_quota_binds_and_not_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["plan", "plan.toml", "--out", "plan", "--processes", "1"]) == 1
    text = capsys.readouterr().out
    assert "of the waiting is for quota, which more nodes do not raise: raise it in s" in text
    assert "raise vary.high" not in text


SACCT = """JobID|User|Account|Partition|State|Submit|Start|End|ElapsedRaw|NNodes|AllocTRES
1|ada|u|gpu|COMPLETED|2026-10-01T08:00:00|2026-10-01T08:00:00|2026-10-01T09:00:00|3600|1|gres/gpu=4
2|bob|v|gpu|COMPLETED|2026-10-01T08:00:00|2026-10-01T08:00:00|2026-10-01T09:00:00|3600|1|gres/gpu=4
"""


def test_accounts_of_slurm_are_queues_where_they_are_mapped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("log.txt").write_text(SACCT)
    words = ["run", "--jobs", "log.txt", "--nodes", "2", "--queues", "strict.toml", "--out", "run"]
    assert invoke([*words, "--no-report"]) == 2
    error = capsys.readouterr().err
    assert "queue 'gpu' (2 jobs)" in error
    assert "its partition here; with --map Account=queue it is its account" in error
    assert invoke([*words, "--no-report", "--map", "Account=queue"]) == 0
    assert RunResult.load("run").queues["num_started"].tolist() == [1, 1]
    # in a settings file in its own words
    text = STUDY.replace("jobs.csv", "log.txt")
    Path("study.toml").write_text(text)
    assert study("--no-report") == 2
    error = capsys.readouterr().err
    assert 'with map = { Account = "queue" } it is its account' in error
    mapped = text.replace('"log.txt"', '"log.txt"\nmap = { Account = "queue" }')
    Path("study.toml").write_text(mapped)
    assert study("--no-report") == 0


@pytest.mark.parametrize("file", ["study.toml", "plan.toml"])
def test_validate_says_that_an_arm_lacks_queues_of_the_jobs(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["validate", file]) == 0
    Path("strict.toml").write_text(STRICT.replace('name = "v"', 'name = "w"'))
    assert invoke(["validate", file]) == 2
    error = capsys.readouterr().err
    assert "arm 'strict': jobs are for queues that the queues file lacks: queue 'v' (" in error
