"""A study finishes whatever happens to it, and its rows do not depend on how it was run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from sim.study import study as study_module
from sim.study.settings import DECIDING, code_sha256, source_sha256
from sim.study.study import Study, make_jobs, outcome, run_point, run_study
from sim.study.sweep import Shard
from traces.windows import CARRY_IN_S, carried_in

SETTINGS = """
title = "Small"
control_plane = "kubernetes"
nodes = [16, 32]
seeds = [0]

[[workload]]
name = "openai_like"
profile = "openai_like"
load = 0.7
days = 1.0
window_days = 0.25

[[arm]]
name = "pod"
admission = "pod"

[[arm]]
name = "gang-easy"
backfill = "easy"

[quick]
nodes = [16]
days = 0.1
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture
def small(settings: Path) -> Study:
    return Study.load(settings)


def tables_of(out: Path) -> dict[str, bytes]:
    """Return every Parquet file of a study by its path in it."""
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.parquet")}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until `condition` holds; the process must still live then."""
    while not condition():
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the study ended with {process.returncode} before the test could stop it")


def test_points_are_the_product_of_sizes_workloads_and_arms(small: Study) -> None:
    assert [point.name for point in small.points()] == [
        "openai_like-16-pod-s0",
        "openai_like-16-gang-easy-s0",
        "openai_like-32-pod-s0",
        "openai_like-32-gang-easy-s0",
    ]


def test_all_arms_have_the_same_window_and_in_full_all_days(small: Study) -> None:
    assert [point.window_days for point in small.points()[:2]] == [0.25, 0.25]
    assert small.points()[0].config.until_s == 0.25 * 86400
    assert [point.window_days for point in small.full().points()[:2]] == [1.0, 1.0]
    jobs = [study.points()[0].jobs_file(Path("out")) for study in (small, small.full())]
    assert jobs[0].suffix == jobs[1].suffix == ".parquet"


def test_points_travel_to_other_processes_whole(small: Study) -> None:
    for point in small.points():
        assert pickle.loads(pickle.dumps(point)) == point


def test_quick_form_takes_its_sizes_and_shortens_every_window(small: Study) -> None:
    quick = small.shortened()
    assert quick.nodes == (16,)
    assert [point.window_days for point in quick.points()] == [0.1, 0.1]


def test_study_runs_its_points_and_keeps_finished_ones(small: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run_study(small, out, processes=1, progress=False)
    assert not first.missing
    manifests = {path: (path / "manifest.json").stat().st_mtime_ns for path in first.done}
    second = run_study(small, out, processes=1, progress=False)
    assert second.done == first.done
    assert {path: (path / "manifest.json").stat().st_mtime_ns for path in second.done} == manifests
    assert sorted(path.name for path in out.iterdir()) == ["points", "workloads"]


def test_manifest_names_the_point_and_what_decides_its_rows(small: Study, tmp_path: Path) -> None:
    point = small.points()[1]
    folder = run_point(point, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["point"]["workload"] == "openai_like"
    assert manifest["point"]["nodes"] == 16
    assert manifest["point"]["arm"] == "gang-easy"
    assert manifest["point"]["code_sha256"] == code_sha256()
    assert manifest["point"]["sha256"] == point.identity()["sha256"]


def test_arms_meet_the_same_jobs_and_a_window_is_their_beginning(
    small: Study, tmp_path: Path
) -> None:
    pod, easy = small.points()[:2]
    whole = make_jobs(easy, tmp_path)
    assert make_jobs(pod, tmp_path).equals(whole)
    assert len(list((tmp_path / "workloads").iterdir())) == 1
    seen = pd.read_parquet(run_point(pod, tmp_path) / "jobs.parquet")
    assert seen["job"].tolist() == whole.loc[whole["submit_s"] < 21600.0, "job"].tolist()


def test_a_run_that_begins_late_carries_in_what_would_run_then() -> None:
    day = 86400.0
    jobs = pd.DataFrame(
        {
            "job": ["over", "ends", "runs", "long", "later"],
            "submit_s": [0.0, day / 2, day / 2, day - 1.0, day + 60.0],
            "duration_s": [3600.0, day / 2, day, 9 * day, 100.0],
            "walltime_s": [3600.0, day, 3 * day, 9 * day, 200.0],
        }
    )
    found = carried_in(jobs, 1.0).set_index("job")
    assert found.index.tolist() == ["runs", "later", "long"]
    assert found["submit_s"].tolist() == [0.0, 60.0, CARRY_IN_S / 2]
    assert found["duration_s"].tolist() == [day / 2, 100.0, 9 * day - 1.0]
    assert found["walltime_s"].tolist() == [2.5 * day, 200.0, 9 * day - 1.0]


def test_a_run_may_begin_late_when_no_job_runs(tmp_path: Path) -> None:
    later = "".join(f"j{i},{86400 + 60 * i},600,700,1,8\n" for i in range(4))
    header = "job,submit_s,duration_s,walltime_s,num_pods,gpus_per_pod\n"
    (tmp_path / "jobs.csv").write_text(f"{header}over,0,600,700,1,8\n{later}")
    path = tmp_path / "study.toml"
    path.write_text(
        "nodes = [2]\n[[workload]]\nname = 'late'\njobs = 'jobs.csv'\ncarry_in_days = 0.5\n"
        "days = 1.0\n[[arm]]\nname = 'fifo'\n"
    )
    point = Study.load(path).points()[0]
    jobs = point.workload.make(point.size.cluster, point.seed).jobs
    assert jobs["job"].tolist() == ["j0", "j1", "j2", "j3"]
    assert jobs["submit_s"].tolist() == [43200.0 + 60 * i for i in range(4)]
    assert jobs["duration_s"].tolist() == [600.0] * 4
    assert jobs["walltime_s"].tolist() == [700.0] * 4


@pytest.mark.parametrize(
    "source", ['profile = "openai_like"', 'superpose = "philly"'], ids=["profile", "superpose"]
)
def test_a_cluster_that_carries_jobs_in_is_busy_from_the_first_hour_on(
    settings: Path, source: str
) -> None:
    settings.write_text(
        SETTINGS.replace('profile = "openai_like"', f"{source}\ncarry_in_days = 10.25")
        .replace("load = 0.7", "load = 0.9")
        .replace("nodes = [16, 32]", "nodes = [256]")
    )
    point = Study.load(settings).points()[0]
    jobs = point.workload.make(point.size.cluster, point.seed).jobs
    assert jobs["submit_s"].is_monotonic_increasing
    assert jobs["submit_s"].max() < point.workload.days * 86400.0
    assert jobs["job"].is_unique
    first = jobs[jobs["submit_s"] + jobs["duration_s"] > CARRY_IN_S]
    first = first[first["submit_s"] < CARRY_IN_S]
    gpus = (first["num_pods"] - 1) * first["gpus_per_pod"] + first["last_pod_gpus"]
    assert 0.5 < gpus.sum() / point.size.num_gpus < 1.5


@pytest.mark.parametrize(
    "change",
    [
        {"control_plane": "ideal"},
        {"gpus_per_node": 4},
        {"timeouts": {"rendezvous_s": 300.0}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changed_settings_make_a_finished_point_run_again(
    small: Study, tmp_path: Path, change: dict[str, object]
) -> None:
    point = small.points()[0]
    run_point(point, tmp_path)
    assert point.is_done(tmp_path)
    changed = msgspec.convert({**msgspec.to_builtins(small), **change}, Study)
    assert not changed.points()[0].is_done(tmp_path)


def test_changed_code_makes_a_finished_point_run_again(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = small.points()[0]
    run_point(point, tmp_path)
    monkeypatch.setattr(study_module.settings, "code_sha256", lambda: "another")
    assert not point.is_done(tmp_path)


def test_changed_title_and_jobs_of_other_arms_do_not(small: Study, tmp_path: Path) -> None:
    run_point(small.points()[0], tmp_path)
    changed = msgspec.structs.replace(small, title="Another", arm=small.arm[:1])
    assert changed.points()[0].is_done(tmp_path)


def test_folder_without_manifest_is_not_finished(small: Study, tmp_path: Path) -> None:
    point = small.points()[0]
    folder = run_point(point, tmp_path)
    (folder / "manifest.json").unlink()
    assert not point.is_done(tmp_path)
    run_point(point, tmp_path)
    assert point.is_done(tmp_path)


def test_shards_make_all_points_and_no_point_twice(small: Study, tmp_path: Path) -> None:
    one = run_study(small, tmp_path, processes=1, shard=Shard.parse("0/2"), progress=False)
    assert (len(one.done), len(one.missing)) == (2, 2)
    before = {path: (path / "manifest.json").stat().st_mtime_ns for path in one.done}
    two = run_study(small, tmp_path, processes=1, shard=Shard.parse("1/2"), progress=False)
    assert not two.missing
    assert all((path / "manifest.json").stat().st_mtime_ns == at for path, at in before.items())
    assert outcome(small, tmp_path) == two


@pytest.mark.parametrize("text", ["4/4", "1", "-1/2", "a/b", "1/0"])
def test_impossible_shards_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give i/n"):
        Shard.parse(text)


@pytest.mark.slow
def test_processes_give_the_rows_of_one_process(small: Study, tmp_path: Path) -> None:
    run_study(small, tmp_path / "one", processes=1, progress=False)
    run_study(small, tmp_path / "two", processes=2, progress=False)
    assert tables_of(tmp_path / "one") == tables_of(tmp_path / "two")


@pytest.fixture
def dask_address() -> Iterator[str]:
    distributed = pytest.importorskip(
        "distributed", reason="needs distributed: pip install 'muster-scheduler[dask]'"
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_dask_cluster_gives_the_rows_of_one_process(
    small: Study, tmp_path: Path, dask_address: str
) -> None:
    run_study(small, tmp_path / "local", processes=1, progress=False)
    status = run_study(small, tmp_path / "dask", executor=f"dask:{dask_address}", progress=False)
    assert not status.missing
    assert tables_of(tmp_path / "local") == tables_of(tmp_path / "dask")


@pytest.mark.parametrize("executor", ["ray", "dask", "dask:"])
def test_unknown_executor_is_refused(small: Study, tmp_path: Path, executor: str) -> None:
    with pytest.raises(ValueError, match="give local or dask:ADDRESS"):
        run_study(small, tmp_path, executor=executor, progress=False)


def start(settings: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start `muster study` in a session of its own, as a terminal would."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "sim.commands.main", "study", "--no-report"),
            *("--processes", "2", "--settings", str(settings), "--out", str(out)),
        ],
        cwd=settings.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_half_way_and_started_again_gives_the_same(
    tmp_path: Path, how: signal.Signals
) -> None:
    settings = tmp_path / "study.toml"
    settings.write_text(SETTINGS.replace("[16, 32]", "[16, 24, 32, 40, 48, 56, 64, 72]"))
    small = Study.load(settings)
    out = tmp_path / "out"
    with start(settings, out) as process:
        try:
            wait_for(lambda: any((out / "points").glob("*/manifest.json")), process)
            # Ctrl-C reaches all processes of the terminal; a kill only the one it names.
            if how == signal.SIGINT:
                os.killpg(process.pid, how)
            else:
                process.send_signal(how)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    half = outcome(small, out)
    assert half.done
    assert half.missing, "the study was over before it could be stopped"
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert b"Traceback" not in errors
        assert {path.name for path in out.iterdir()} == {"points", "workloads"}
        assert not list(out.rglob(".partial-*"))
    for folder in (out / "points").iterdir():
        assert (folder / "manifest.json").is_file(), "an unfinished run has its final name"
    assert not run_study(small, out, processes=2, progress=False).missing
    run_study(small, tmp_path / "whole", processes=1, progress=False)
    assert tables_of(out) == tables_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nodes = [16, 32]", "nodes = []", "nodes is empty"),
        ("nodes = [16, 32]", "nodes = [0]", "give counts of at least 1"),
        ("nodes = [16, 32]", "nodes = [16, 16]", "'16' occurs twice"),
        ("seeds = [0]", "seeds = [-1]", "give 0 or more"),
        ("load = 0.7", "", "load is missing"),
        ("load = 0.7", "load = -1.0", "give a number above 0"),
        ("load = 0.7", "load = 0.7\ncarry_in_days = -1.0", "carry_in_days is -1.0"),
        ('admission = "pod"', 'admission = "pod"\norder = "sjf"', "needs admission gang"),
        ('profile = "openai_like"', "", "give one of profile, superpose and jobs"),
        ('profile = "openai_like"', 'jobs = "none.csv"', "none.csv': No such file"),
        ('profile = "openai_like"', 'superpose = "acme"', "only 'philly' is known"),
        ("window_days = 0.25", "window_days = 2.0", r"window_days of workload 'openai_like' is 2"),
        ("window_days = 0.25", "window_days = 0.0", "more than 0 and at most days"),
        ("window_days = 0.25", "[workload.window_days]\npod = 0.25", "window_days"),
        ('name = "gang-easy"', 'name = "pod"', "'pod' occurs twice"),
        ('name = "gang-easy"', 'name = "gang/easy"', "use letters"),
        (
            'backfill = "easy"',
            'backfill = "hard"',
            "backfill 'hard' is unknown",
        ),
        ('title = "Small"', "nodse = 3", "unknown field `nodse`"),
        ('title = "Small"', "title = ", "study settings"),
        ('control_plane = "kubernetes"', 'control_plane = "none.toml"', "neither a readable file"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: Path, old: str, new: str, message: str
) -> None:
    assert old in SETTINGS
    settings.write_text(SETTINGS.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        Study.load(settings)


def test_missing_settings_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        Study.load(tmp_path / "study.toml")


def test_study_of_the_repository_has_the_points_of_the_readme(repository: Path) -> None:
    study = Study.load(repository / "study.toml")
    assert study.nodes == (2500, 5000, 7500)
    assert [arm.name for arm in study.arm] == ["pod", "permit", "gang-fifo", "gang-easy"]
    assert [one.name for one in study.workload] == ["openai_like", "philly"]


@pytest.mark.parametrize("room", DECIDING)
def test_a_changed_line_in_a_deciding_room_changes_the_hash(
    repository: Path, tmp_path: Path, room: str
) -> None:
    for each in DECIDING:
        shutil.copytree(repository / each, tmp_path / each)
    before = source_sha256(tmp_path)
    assert before == code_sha256()
    deepest = sorted((tmp_path / room).rglob("*.py"), key=lambda path: len(path.parts))[-1]
    deepest.write_text(deepest.read_text("utf-8") + "# another line\n", "utf-8")
    assert source_sha256(tmp_path) != before


def test_a_room_without_source_is_an_error_not_an_empty_hash(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scheduler/core has no source"):
        source_sha256(tmp_path)
