"""Queues with quota in the simulator: one queue is what no queues are, and jobs name a queue."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota
from scheduler.policies.spec import PolicySpec
from sim import run
from sim.commands.main import invoke
from sim.runs.folder import RunResult, read_config
from sim.schema.costs import Costs
from sim.study.study import Study

TABLES = ("jobs", "attempts", "pending", "allocation", "nodes")
GPUS = 48


def workload(seed: int, num_jobs: int = 120, queues: tuple[str, ...] = ("",)) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    duration_s = draw.integers(1, 90, num_jobs).astype(float)
    return pd.DataFrame(
        {
            "job": [f"j{i}" for i in range(num_jobs)],
            "queue": draw.choice(queues, num_jobs),
            "submit_s": np.sort(draw.integers(0, 400, num_jobs)).astype(float),
            "duration_s": duration_s,
            "walltime_s": duration_s * draw.integers(1, 3, num_jobs),
            "num_pods": draw.integers(1, 6, num_jobs),
            "gpus_per_pod": draw.choice([1, 2, 4, 8], num_jobs),
        }
    )


def quota(gpus: int, borrow: int | None = None) -> dict[str, dict[str, Quota]]:
    return {"all": {"gpus": Quota(gpus, borrow)}}


def alone(discipline: str, gpus: int) -> Queues:
    queue = Queue("only", quota=quota(gpus), discipline=Holding(discipline))
    return Queues((Flavor("all"),), (), (queue,))


def teams(*disciplines: str) -> Queues:
    """Return teams u, v, ... of one cohort that share all GPUs."""
    share = GPUS // len(disciplines)
    return Queues(
        (Flavor("all"),),
        (Cohort("c"),),
        tuple(
            Queue(name, "c", quota=quota(share), discipline=Holding(word))
            for name, word in zip("uvwxyz", disciplines, strict=False)
        ),
    )


@pytest.mark.parametrize("with_costs", [False, True])
@pytest.mark.parametrize("discipline", ["strict", "skip", "easy"])
def test_one_queue_with_all_the_quota_is_what_no_queues_are(
    discipline: str, *, with_costs: bool, tmp_path: Path
) -> None:
    costs = Costs(save_interval_s=10.0) if with_costs else None
    for seed, gpus in ((0, GPUS), (1, 10 * GPUS)):
        plain = run(
            workload(seed), nodes=6, policy=PolicySpec(discipline=discipline), costs=costs
        ).save(tmp_path / f"plain{seed}")
        queued = run(
            workload(seed), nodes=6, queues=alone(discipline, gpus), costs=costs, audit=True
        ).save(tmp_path / f"queued{seed}")
        for table in TABLES:
            first, second = ((at / f"{table}.parquet").read_bytes() for at in (plain, queued))
            assert first == second, table


def test_one_queue_with_less_quota_than_nodes_is_held_to_it() -> None:
    jobs = workload(0).assign(gpus_per_pod=2)
    result = run(jobs, nodes=6, queues=alone("strict", 24), audit=True)
    assert result.allocation["allocated_gpus"].max() == 24
    assert result.jobs["pending_quota_s"].sum() > 0
    assert result.queues["used_gpu_s"].sum() == pytest.approx(result.jobs["held_gpu_s"].sum())


def test_a_run_with_queues_keeps_its_words(tmp_path: Path) -> None:
    file = teams("strict", "easy")
    folder = run(workload(0, queues=("u", "v")), nodes=6, queues=file).save(tmp_path / "run")
    assert read_config(folder).queues == file
    assert RunResult.load(folder).config.queues == file
    plain = run(workload(0), nodes=6).save(tmp_path / "plain")
    assert read_config(plain).queues is None


def test_jobs_of_unknown_queues_are_refused_before_the_run_all_at_once() -> None:
    jobs = workload(0, 10, ("u",))
    jobs["queue"] = ["u", "uu", "uu", "", "q7", "q7", "q7", "u", "v", "v"]
    with pytest.raises(ValueError, match="the queues file lacks") as refused:
        run(jobs, nodes=6, queues=teams("strict", "strict"))
    text = str(refused.value)
    assert "queue 'q7' (3 jobs), queue 'uu' (2 jobs; did you mean 'u'?), no queue (1 job)" in text
    assert "its queues are u, v" in text and "'default' takes jobs without one" in text


def test_jobs_of_unknown_queues_may_be_left_out_and_the_others_run(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.csv"
    rows = [f"j{at},{at},10,1,{queue}" for at, queue in enumerate(["u", "uu", "v", "", "u"])]
    jobs.write_text("\n".join(["job,submit_s,duration_s,gpus,queue", *rows]), "utf-8")
    file = teams("strict", "strict")
    with pytest.raises(ValueError, match="or leave those jobs out with --on-bad-row skip"):
        run(jobs, nodes=6, queues=file)
    found = run(jobs, nodes=6, queues=file, on_bad_row="skip")
    assert found.jobs["job"].tolist() == ["j0", "j2", "j4"]
    assert found.rejected["value"].tolist() == ["uu", ""]
    assert found.rejected["row"].tolist() == ["job j1", "job j3"]
    assert list(found.manifest["left_out"].values()) == [2]
    jobs.write_text(f"job,submit_s,duration_s,gpus,queue\n{rows[1]}\n", "utf-8")
    with pytest.raises(ValueError, match=r"lacks: queue 'uu' .1 job; did you mean 'u'"):
        run(jobs, nodes=6, queues=file, on_bad_row="skip")


def test_words_of_one_queue_contradict_queues() -> None:
    with pytest.raises(ValueError, match="discipline 'easy' is for one queue"):
        run(workload(0), nodes=6, queues=teams("strict"), discipline="easy")
    with pytest.raises(ValueError, match="queues need admission gang, not pod"):
        run(workload(0), nodes=6, queues=teams("strict"), admission="pod")


def test_a_job_above_its_quota_never_fits_and_the_table_says_so() -> None:
    jobs = workload(0, 3, ("u",)).assign(num_pods=[1, 7, 9], gpus_per_pod=4)
    file = teams("strict", "strict")
    file.queues[0].quota = quota(24, 2)
    found = run(jobs, nodes=12, queues=file).jobs.set_index("job")
    assert found["outcome"].tolist() == ["completed", "never_fits", "never_fits"]
    assert found.loc["j1", "unmet"] == "exceeds the quota of u: asks 28 GPUs, can have 26 at most"


@pytest.mark.parametrize("seed", range(3))
def test_every_second_of_waiting_has_its_reason(seed: int) -> None:
    """With several queues and disciplines; the accounts of a run balance, and quota is a reason."""
    file = teams("strict", "skip", "easy")
    jobs = workload(seed, 150, ("u", "v", "w"))
    jobs["gpus_per_pod"] = np.minimum(jobs["gpus_per_pod"], 4)
    result = run(jobs, nodes=6, queues=file, audit=True)
    found = result.jobs
    assert (found["outcome"] == "completed").all()
    waits = found[[name for name in found if name.startswith("pending_")]].sum(axis=1)
    np.testing.assert_allclose(waits, found["start_s"] - found["submit_s"], atol=1e-6)
    assert found["pending_quota_s"].sum() > 0


def test_outages_and_costs_give_quota_back() -> None:
    """An audit after every event recounts usage; all of it is gone in the end."""
    from sim.engines.gangs import GangSimulation
    from sim.engines.workload import Workload
    from sim.schema.cluster import Cluster
    from sim.schema.config import RunConfig

    config = RunConfig(queues=teams("strict", "easy"), audit=True)
    jobs = workload(5, queues=("u", "v")).assign(gpus_per_pod=4)
    faults = [(20.0 * at, 20.0 * at + 30.0, at % 6) for at in range(1, 12)]
    simulation = GangSimulation(Workload(jobs), Cluster.uniform(6, 8).build(), config, faults)
    simulation.simulate()
    book = simulation.state.book
    assert book is not None
    assert not any(used for row in book.tree.usage for used in row)


def test_the_table_of_queues_adds_up() -> None:
    """Of 4 + 4 GPUs, `u` uses 6 for 10 s and `v`, later, 4 for 5 s: 2 are borrowed and lent."""
    jobs = pd.DataFrame(
        {
            "job": ["a", "b", "c"],
            "queue": ["u", "u", "v"],
            "submit_s": [0.0, 0.0, 2.0],
            "duration_s": [10.0, 10.0, 5.0],
            "num_pods": [4, 2, 4],
            "gpus_per_pod": [1, 1, 1],
        }
    )
    file = Queues(
        (Flavor("all"),),
        (Cohort("c"),),
        (Queue("u", "c", quota=quota(4)), Queue("v", "c", quota=quota(4))),
        {"team-v": "v"},
    )
    jobs.loc[2, "queue"] = "team-v"
    result = run(jobs, nodes=1, queues=file)
    u, v = result.queues.to_dict("records")
    assert (u["num_jobs"], u["num_started"], u["nominal_gpus"]) == (2, 2, 4)
    assert (u["used_gpu_s"], u["borrowed_gpu_s"], u["lent_gpu_s"]) == (60.0, 20.0, 0.0)
    assert (v["used_gpu_s"], v["borrowed_gpu_s"], v["lent_gpu_s"]) == (20.0, 0.0, 20.0)
    assert (v["wait_p50_s"], v["pending_quota_s"], v["cohort"]) == (8.0, 8.0, "c")
    assert u["share_ratio"] == 0.75
    assert result.summary["queues"]["v"]["wait_p95_s"] == 8.0


FILE = """
[[cohort]]
name = "c"
[[queue]]
name = "u"
cohort = "c"
quota.gpus = 24
[[queue]]
name = "v"
cohort = "c"
quota.gpus = 24
discipline = "easy"
"""


def test_the_command_and_an_arm_of_a_study_take_a_queues_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    workload(1, 40, ("u", "v")).to_csv("jobs.csv", index=False)
    Path("queues.toml").write_text(FILE)
    run_it = ["run", "--jobs", "jobs.csv", "--nodes", "6", "--no-report", "--out"]
    assert invoke([*run_it, "teams", "--queues", "queues.toml"]) == 0
    assert RunResult.load("teams").queues["num_started"].sum() == 40
    assert invoke(["validate", "teams"]) == 0
    assert invoke([*run_it, "plain"]) == 0
    assert RunResult.load("plain").queues.empty
    assert invoke(["report", "teams", "plain", "--out", "report"]) == 0
    capsys.readouterr()
    Path("queues.toml").write_text(FILE.replace('name = "u"', 'name = "uu"'))
    assert invoke([*run_it, "other", "--queues", "queues.toml"]) == 2
    said = capsys.readouterr().err
    assert "queue 'u'" in said and "did you mean 'uu'?" in said
    Path("queues.toml").write_text(FILE)
    Path("study.toml").write_text(
        'control_plane = "ideal"\nnodes = [6]\n[[workload]]\nname = "mine"\njobs = "jobs.csv"\n'
        '[[arm]]\nname = "one"\n[[arm]]\nname = "teams"\nqueues = "queues.toml"\n'
    )
    monkeypatch.chdir(tmp_path.parent)
    settings = str(tmp_path / "study.toml")
    out = str(tmp_path / "study")
    assert invoke(["study", "--settings", settings, "--out", out, "--processes", "1"]) == 0
    found = RunResult.load(tmp_path / "study" / "points" / "mine-6-teams-s0")
    assert [queue.name for queue in found.config.queues.queues] == ["u", "v"]  # type: ignore[union-attr]
    Path(settings).write_text(Path(settings).read_text().replace("queues.toml", "none.toml"))
    with pytest.raises(ValueError, match=r"arm 'teams'.*queues file '.*none\.toml'"):
        Study.load(settings)


def test_the_jobs_file_says_who_neither_evicts_nor_is_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of v, whose jobs hold what u may reclaim, only the one that can come back leaves for it."""
    monkeypatch.chdir(tmp_path)
    Path("queues.toml").write_text(FILE.replace('name = "u"', 'name = "u"\nreclaim = "any"'))
    jobs = "job,queue,submit_s,duration_s,num_pods,gpus_per_pod,evicts,evictable\n"
    jobs += "stays,v,0,1000,3,8,,no\nleaves,v,0,1000,3,8,,\n"
    run_it = ["run", "--jobs", "jobs.csv", "--nodes", "6", "--no-report", "--queues", "queues.toml"]
    for evicts, evicted in (("", ["leaves"]), ("false", [])):
        Path("jobs.csv").write_text(f"{jobs}claims,u,10,10,3,8,{evicts},\n")
        out = f"evicts-{evicts}"
        assert invoke([*run_it, "--out", out]) == 0
        attempts = RunResult.load(out).attempts
        assert attempts[attempts["outcome"] == "preempted"]["job"].tolist() == evicted
        pairs = attempts[["job", "evicted_for"]].to_numpy().tolist()
        assert [pair for pair in pairs if pair[1]] == [[name, "claims"] for name in evicted]


def test_words_of_queues_go_to_other_processes() -> None:
    file = teams("strict", "easy")
    assert pickle.loads(pickle.dumps(file)) == file
