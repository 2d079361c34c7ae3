"""One line from a jobs file to a report or an answer, without a settings file."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sim import RunResult, run
from sim.commands.main import invoke
from sim.runs.reader import Reader
from sim.schema.cluster import NodeShape
from sim.study.from_jobs import ARMS, Given, node_range
from sim.study.settings import check_name
from sim.study.study import Study

HEADER = "job,submit_s,duration_s,gpus\n"
#: on nodes of 4 GPUs: pods of 4, 4, 4 + 4 + 4 + 4 and 2 GPUs
GANGS = HEADER + "a,0,3600,8\nb,600,3600,4\nc,1200,3600,16\nd,1300,600,2\n"
SINGLE = HEADER + "".join(f"j{i},{600 * i},3000,{1 + i % 4}\n" for i in range(12))
CPU = "job,submit_s,duration_s,num_pods,gpus_per_pod,cpu_per_pod\n" + "".join(
    f"{name},{600 * i},3600,{pods},0,40\n"
    for i, (name, pods) in enumerate(zip("abc", (5, 1, 4)))  # noqa: B905
)
TWO_KINDS = """
[[pool]]
name = "small"
nodes = 2
gpus_per_node = 4
gpu_model = "A100"
[[pool]]
name = "large"
nodes = 3
gpu_model = "H100"
"""
CPU_POOL = '[[pool]]\nname = "cpu"\nnodes = {}\ngpus_per_node = 0\ncpu_per_node = 64\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with jobs and clusters."""
    for name, text in (
        ("gangs.csv", GANGS),
        ("single.csv", SINGLE),
        ("cpu.csv", CPU),
        ("two.toml", TWO_KINDS),
        ("cpu5.toml", CPU_POOL.format(5)),
        ("cpu10.toml", CPU_POOL.format(10)),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def points(out: str) -> dict[str, RunResult]:
    return {path.name: RunResult.load(path) for path in sorted(Path(out, "points").iterdir())}


def pods_of(result: RunResult) -> dict[str, tuple[int, int]]:
    table = result.jobs
    return dict(
        zip(table["job"], zip(table["num_pods"], table["gpus_per_pod"], strict=True), strict=True)
    )


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("中文 任务", "中文-任务"),
        ("$x_1$", "x_1"),
        ("été", "été"),
        ("x" * 240, "x" * 100),
        ("中" * 80, "中" * 33),
        ("$", "jobs"),
    ],
)
def test_a_workload_has_the_name_of_its_file(file: str, name: str) -> None:
    jobs = Path(f"{file}.csv")
    given = Given(jobs, Reader(), (2,), NodeShape(None, None, None), (), None, "ideal")
    assert given.name == name
    check_name(given.name, "the workload")


def test_files_of_a_study_may_have_long_names_of_any_script(folder: Path) -> None:
    Path(f"{'中' * 80}.csv").write_text(SINGLE)
    words = ["--nodes", "2", "--arms", "gang-fifo", "--out", "out", "--no-report"]
    assert invoke(["study", "--jobs", f"{'中' * 80}.csv", "--processes", "1", *words]) == 0
    assert list(points("out")) == [f"{'中' * 33}-2-gang-fifo-s0"]


@pytest.mark.slow
def test_one_line_from_jobs_to_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "study --jobs gangs.csv --nodes 2,4 --gpus-per-node 4 --processes 1"
    assert invoke(command.split()) == 0
    said = capsys.readouterr().out
    found = points("runs/study-gangs")
    assert set(found) == {f"gangs-{n}-{arm}-s0" for n in (2, 4) for arm in ARMS}
    assert "report  runs/study-gangs/report.html" in said
    assert Path("runs/study-gangs/report.html").is_file()
    assert pods_of(found["gangs-4-gang-easy-s0"]) == {
        "a": (2, 4), "b": (1, 4), "c": (4, 4), "d": (1, 2),
    }  # fmt: skip
    before = {name: one.manifest["point"]["sha256"] for name, one in found.items()}
    again = "study --settings runs/study-gangs/study.toml --out runs/study-gangs --no-report"
    assert invoke(again.split()) == 0
    assert invoke(f"{command} --no-report".split()) == 0
    after = points("runs/study-gangs")
    assert {name: one.manifest["point"]["sha256"] for name, one in after.items()} == before


def test_pods_one_by_one_are_compared_only_where_jobs_have_several(folder: Path) -> None:
    command = "study --jobs single.csv --nodes 2 --gpus-per-node 4 --no-report --processes 1"
    assert invoke(command.split()) == 0
    assert set(points("runs/study-single")) == {"single-2-gang-fifo-s0", "single-2-gang-easy-s0"}


def test_what_flags_say_is_in_the_settings_that_are_kept(folder: Path) -> None:
    theirs = SINGLE.replace("gpus", "cards,colour").replace("\n", ",red\n").replace(",red", "", 1)
    (folder / "theirs.csv").write_text(theirs)
    command = (
        "study --jobs theirs.csv --map cards=gpus --ignore-extra --cluster two.toml "
        "--arms gang-easy,gang-fifo --days 0.05 --control-plane ideal --on-bad-row skip "
        "--no-report --processes 1 --out out"
    )
    assert invoke(command.split()) == 0
    kept = Study.load("out/study.toml")
    assert [arm.name for arm in kept.arm] == ["gang-easy", "gang-fifo"]
    assert kept.arm[0].policy.discipline == "easy"
    assert kept.workload[0].days == 0.05
    assert kept.workload[0].reader.given() == {
        "on_bad_row": "skip", "map": {"cards": "gpus"}, "ignore_extra": True,
    }  # fmt: skip
    assert kept.control_plane == "ideal"
    assert [size.name for size in kept.sizes()] == ["two"]
    assert {point.name for point in kept.points()} == set(points("out"))


def test_a_study_toml_of_somebody_else_stays(folder: Path) -> None:
    Path("out").mkdir()
    Path("out/study.toml").write_text("mine\n")
    command = "study --jobs single.csv --nodes 2 --no-report --processes 1 --out out"
    assert invoke(command.split()) == 0
    assert Path("out/study.toml").read_text() == "mine\n"


BAD = [
    ("study --jobs none.csv --nodes 2", "'none.csv'"),
    ("study --jobs bad.csv --nodes 2", "'-1' must be"),
    ("study --jobs huge.csv --nodes 2", "job 'a' asks for 4,000,000,000 GPUs"),
    ("study --jobs gangs.csv --nodes 2,x", "give whole numbers with commas"),
    ("study --jobs gangs.csv --nodes 0", "nodes has 0; give counts of at least 1"),
    ("study --jobs gangs.csv --nodes 2,2", "'2'"),
    ("study --jobs gangs.csv --nodes 2 --days 0", "days is 0"),
    ("study --jobs gangs.csv --nodes 2 --arms gang-fast", "choose among gang-fifo, gang-easy"),
    ("study --jobs gangs.csv --nodes 2 --control-plane fast", "nor one of ideal"),
    ("study --jobs gangs.csv", "give --nodes N"),
    ("study --jobs gangs.csv --nodes 2 --cluster two.toml", "not both"),
    ("study --jobs gangs.csv --cluster two.toml --gpus-per-node 4", "a cluster file sets it"),
    ("study --jobs gangs.csv --cluster two.toml,none.toml", "'none.toml'"),
    ("study --jobs gangs.csv --nodes 2 --settings study.toml", "a [[workload]] of a settings file"),
    ("study --jobs gangs.csv --nodes 2 --quick", "--quick is for a settings file"),
    ("study --nodes 2", "--nodes goes with --jobs FILE"),
    ("study --gpus-per-node 4", "--gpus-per-node goes with --jobs FILE"),
    ("study --on-bad-row skip", "--on-bad-row goes with --jobs FILE"),
    ("plan --jobs none.csv", "'none.csv'"),
    ("plan --jobs gangs.csv --nodes 4", "give LOW-HIGH"),
    ("plan --jobs gangs.csv --nodes 4-2", "give 0 < low < high"),
    ("plan --jobs gangs.csv --nodes 4-8 --cluster two.toml", "not both"),
    ("plan --jobs gangs.csv --delay-p95 soon", "--delay-p95 is 'soon'"),
    ("plan --jobs wide.csv", "1 of 1 jobs (such as 'a') ask for more per pod than a node has"),
    ("plan --jobs gangs.csv plan.toml", "both say what to simulate"),
    ("plan --delay-p95 30m", "a target goes with --jobs FILE"),
]


@pytest.mark.parametrize(("command", "says"), BAD, ids=[command for command, _ in BAD])
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, says: str
) -> None:
    (folder / "bad.csv").write_text(HEADER + "a,0,-1,8\n")
    header = "job,submit_s,duration_s,num_pods,gpus_per_pod\n"
    (folder / "huge.csv").write_text(header + "a,0,1,1000000,4000\n")
    (folder / "wide.csv").write_text(header + "a,0,1,1,16\n")
    before = sorted(folder.rglob("*"))
    assert invoke([*command.split(), "--out", "deep/out"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("muster: ")
    assert says in line
    assert sorted(path for path in folder.rglob("*") if path.name != "deep") == before


def test_gpus_are_cut_by_the_largest_node_that_the_job_may_use(folder: Path) -> None:
    (folder / "mixed.csv").write_text(
        HEADER.strip() + ",gpu_model,pool\n"
        "a,0,60,8,A100,\nb,0,60,16,H100,\nc,0,60,12,,\nd,0,60,6,,small\ne,0,60,16,,nowhere\n"
    )
    cut = {"a": (2, 4), "b": (2, 8), "c": (2, 8), "d": (2, 4), "e": (2, 8)}
    assert pods_of(run("mixed.csv", cluster="two.toml")) == cut
    command = "study --jobs mixed.csv --cluster two.toml --arms gang-fifo --no-report --out out"
    assert invoke(command.split()) == 0
    assert pods_of(points("out")["mixed-two-gang-fifo-s0"]) == cut


@pytest.mark.parametrize("gpus_per_node", [1, 3, 4, 16])
def test_gpus_are_cut_by_the_node_that_flags_give(folder: Path, gpus_per_node: int) -> None:
    flags = f"run --jobs gangs.csv --nodes 16 --gpus-per-node {gpus_per_node} --no-report"
    assert invoke([*flags.split(), "--out", "out"]) == 0
    jobs = RunResult.load("out").jobs
    assert jobs["gpus"].tolist() == [8, 4, 16, 2]
    assert jobs["num_pods"].tolist() == [-(-gpus // gpus_per_node) for gpus in (8, 4, 16, 2)]
    assert (jobs["outcome"] == "completed").all()


def test_a_study_over_nodes_of_two_sizes_cuts_for_each(folder: Path) -> None:
    command = "study --jobs gangs.csv --cluster two.toml,four.toml --arms gang-fifo --no-report"
    (folder / "four.toml").write_text('[[pool]]\nname = "p"\nnodes = 5\ngpus_per_node = 4\n')
    assert invoke([*command.split(), "--out", "out"]) == 0
    found = points("out")
    assert pods_of(found["gangs-two-gang-fifo-s0"])["c"] == (2, 8)
    assert pods_of(found["gangs-four-gang-fifo-s0"])["c"] == (4, 4)


@pytest.mark.parametrize("where", ["--cluster cpu5.toml", "--gpus-per-node 0 --cpu-per-node 64"])
def test_nodes_without_gpus_run_jobs_without_gpus(
    folder: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    size = where if "cluster" in where else f"--nodes 5 {where}"
    assert invoke(f"run --jobs cpu.csv {size} --out run".split()) == 0
    said = capsys.readouterr().out
    assert "5 nodes, 0 GPUs" in said
    assert "short of    CPUs 100 %" in said
    assert RunResult.load("run").jobs["start_s"].tolist() == [0.0, 3600.0, 3600.0]
    assert invoke(f"study --jobs cpu.csv {size} --arms gang-easy --out study".split()) == 0
    assert "40.1 min  50.1 min" in capsys.readouterr().out
    assert Path("study/report.html").is_file()
    settings = "cluster = ['cpu5.toml']" if "cluster" in where else (
        "nodes = [5]\ngpus_per_node = 0\ncpu_per_node = 64"
    )  # fmt: skip
    Path("s.toml").write_text(
        f"{settings}\n[[workload]]\nname = 'w'\njobs = 'cpu.csv'\n[[arm]]\nname = 'a'\n"
    )
    assert invoke(["study", "--settings", "s.toml", "--no-report", "--out", "toml"]) == 0
    (only,) = points("toml").values()
    assert (only.jobs["outcome"] == "completed").all()


def test_a_plan_finds_the_smallest_of_cluster_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = "plan --jobs cpu.csv --cluster cpu10.toml,cpu5.toml --delay-p95 10m --out p"
    assert invoke(flags.split()) == 0
    assert "meets the target: cpu10 (10 nodes, 0 GPUs)." in capsys.readouterr().out
    Path("plan.toml").write_text(
        "cluster = ['cpu5.toml', 'cpu10.toml']\n[workload]\nname = 'w'\njobs = 'cpu.csv'\n"
        "[arm]\nname = 'a'\ndiscipline = 'easy'\n[vary]\nwhat = 'cluster'\n"
        "[[target]]\nmetric = 'queueing_delay_p95_s'\nat_most = {}\n".replace("{}", "600")
    )
    assert invoke(["plan", "--out", "q"]) == 0
    assert "meets the target: cpu10" in capsys.readouterr().out
    assert (
        invoke(
            [
                "plan",
                "--jobs",
                "cpu.csv",
                "--cluster",
                "cpu5.toml",
                "--delay-p95",
                "10m",
                "--out",
                "r",
            ]
        )
        == 1
    )
    assert "even cpu5 (5 nodes, 0 GPUs) miss" in capsys.readouterr().out
    assert invoke(["plan", "--jobs", "gangs.csv", "--cluster", "cpu5.toml", "--out", "s"]) == 1
    assert "4 jobs can never run: 4 (as 'a'): " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("jobs", "flags", "answer"),
    [
        ("gangs.csv", "--gpus-per-node 4 --pending-max 0", 8),
        ("gangs.csv", "--gpus-per-node 8 --pending-max 0", 4),
        ("cpu.csv", "--gpus-per-node 0 --cpu-per-node 64 --delay-p99 1min", 10),
    ],
)
def test_a_plan_searches_where_the_answer_is(
    folder: Path, capsys: pytest.CaptureFixture[str], jobs: str, flags: str, answer: int
) -> None:
    command = f"plan --jobs {jobs} --control-plane ideal {flags} --out p"
    assert invoke(command.split()) == 0
    assert f"meets the target: {answer} nodes" in capsys.readouterr().out
    assert json.loads(Path("p/plan.json").read_text())["limit"]["mean"] == answer


def test_the_range_of_a_plan_reaches_from_the_largest_job_to_where_nobody_waits() -> None:
    table = run(pd.DataFrame([("a", 0, 9, 8), ("b", 3, 9, 20)], columns=HEADER.strip().split(",")),
                nodes=4).jobs.assign(cpu_per_pod=0.0, mem_gib_per_pod=0.0)  # fmt: skip
    from sim.schema.cluster import NodeShape

    low, high = node_range(table, NodeShape())
    assert low == 3
    assert 4 <= high <= 8
