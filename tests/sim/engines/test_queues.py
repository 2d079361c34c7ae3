"""Queues with quota in the simulator: one queue is what no queues are, and jobs name a queue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota
from scheduler.policies.spec import PolicySpec
from sim import run
from sim.runs.folder import RunResult, read_config
from sim.schema.costs import Costs

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
