"""The Python interface: `from sim import run`, its result, and the folder it saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sim import Cluster, RunResult, run
from sim.schema import tables
from sim.schema.cluster import Pool

FRAMES = ("jobs", "attempts", "pending", "allocation", "nodes")

#: every way of scheduling, with the settings that matter to it
ARMS: dict[str, dict[str, Any]] = {
    "fifo": {},
    "sjf-skip": {"order": "sjf", "discipline": "skip", "placement": "spread"},
    "smallest": {"order": "smallest", "placement": "first-fit"},
    "priority-easy": {"order": "priority", "backfill": "easy"},
    "pod": {"admission": "pod"},
    "permit": {"admission": "permit"},
}


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    """Sixty gangs of one to six pods, more than four nodes hold at a time."""
    draw = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "job": [f"j{i:02}" for i in range(60)],
            "submit_s": np.sort(draw.uniform(0.0, 3600.0, 60)),
            "duration_s": draw.uniform(10.0, 900.0, 60),
            "walltime_s": 1000.0,
            "num_pods": draw.integers(1, 7, 60),
            "gpus_per_pod": draw.choice([1, 2, 4, 8], 60),
            "priority": draw.integers(0, 3, 60),
            "user": draw.choice(["ada", "bo"], 60),
        }
    )


def test_the_example_of_the_readme(tmp_path: Path, jobs: pd.DataFrame) -> None:
    jobs.to_csv(tmp_path / "jobs.csv", index=False)
    result = run(tmp_path / "jobs.csv", nodes=16, backfill="easy")
    assert result.summary["pending_pods_max"] >= 0
    waits = result.jobs["start_s"] - result.jobs["submit_s"]
    assert (waits >= 0).all()
    assert result.save(tmp_path / "easy").is_dir()


def test_columns_that_users_rely_on(jobs: pd.DataFrame) -> None:
    found = run(jobs, nodes=4, gpus_per_node=16).jobs
    reasons = [f"pending_{reason}_s" for reason in tables.REASONS]
    promised = "job submit_s start_s end_s gpus num_pods attempts outcome"
    assert set(promised.split()) | set(reasons) <= set(found.columns)
    assert found.columns.tolist() == tables.JOBS.names
    assert found["job"].tolist() == jobs["job"].tolist()
    assert all(isinstance(name, str) for name in found["job"])
    assert found["gpus"].tolist() == (jobs["num_pods"] * jobs["gpus_per_pod"]).tolist()
    assert (found["user"] == jobs["user"]).all()


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_ends_every_job_under_audit(jobs: pd.DataFrame, arm: str) -> None:
    result = run(jobs, nodes=6, control_plane="kubernetes", audit=True, **ARMS[arm])
    found = result.jobs
    assert set(found["outcome"]) == {"completed"}
    assert np.allclose(
        result.attempts.groupby("job")["held_gpu_s"].sum().reindex(found["job"]),
        found["held_gpu_s"],
    )
    ran = found["held_gpu_s"] - found["lost_gpu_s"]
    useful = found["gpus"] * found["duration_s"]
    assert (ran >= useful * (1 - 1e-9)).all()
    waited = found.filter(regex=r"^pending_.*_s$").sum(axis=1)
    assert (waited <= found["end_s"] - found["submit_s"] + 1e-6).all()
    assert (waited > 0).any()


@pytest.mark.parametrize("arm", ["priority-easy", "pod", "permit"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    jobs: pd.DataFrame, tmp_path: Path, arm: str
) -> None:
    def saved(name: str, seed: int) -> dict[str, bytes]:
        result = run(jobs, nodes=6, control_plane="kubernetes", seed=seed, **ARMS[arm])
        folder = result.save(tmp_path / name)
        return {frame: (folder / f"{frame}.parquet").read_bytes() for frame in FRAMES}

    first = saved("a", 3)
    assert saved("b", 3) == first
    assert saved("c", 4)["jobs"] != first["jobs"]


def test_order_of_rows_in_the_input_does_not_matter(jobs: pd.DataFrame) -> None:
    mixed = jobs.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(run(jobs, nodes=6).jobs, run(mixed, nodes=6).jobs)


def test_a_saved_run_reads_back_the_same(jobs: pd.DataFrame, tmp_path: Path) -> None:
    result = run(jobs, nodes=4, order="sjf", label="mine", until_s=1800.0)
    again = RunResult.load(result.save(tmp_path / "run"))
    assert again.config == result.config
    assert again.cluster == result.cluster
    assert again.summary == json.loads(json.dumps(result.summary))
    assert again.manifest["label"] == "mine"
    for name in FRAMES:
        pd.testing.assert_frame_equal(
            getattr(again, name), getattr(result, name), check_dtype=False
        )


def test_files_of_a_run_have_the_schemas_of_the_docs(jobs: pd.DataFrame, tmp_path: Path) -> None:
    folder = run(jobs, nodes=6).save(tmp_path / "run")
    for name in FRAMES:
        schema = getattr(tables, name.upper())
        assert pq.read_schema(folder / f"{name}.parquet").equals(schema)
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.parquet" for name in FRAMES),
        "config.toml",
        "manifest.json",
        "summary.json",
        "timeline.json",
    }


def test_a_folder_without_manifest_is_not_a_run(jobs: pd.DataFrame, tmp_path: Path) -> None:
    folder = run(jobs, nodes=6).save(tmp_path / "run")
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not a finished run"):
        RunResult.load(folder)
    with pytest.raises(ValueError, match="holds no run"):
        run(jobs, nodes=6).save(folder)


def test_a_run_that_is_cut_marks_what_is_left(jobs: pd.DataFrame) -> None:
    result = run(jobs, nodes=4, until_s=900.0)
    outcomes = result.jobs["outcome"]
    assert {"completed", "unfinished"} <= set(outcomes)
    assert (result.jobs["end_s"].dropna() <= 900.0).all()
    assert result.jobs.loc[outcomes == "unfinished", "end_s"].isna().all()


def test_two_policies_face_the_same_jobs(jobs: pd.DataFrame) -> None:
    given = ["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod"]
    first = run(jobs, nodes=4).jobs[given]
    for settings in ARMS.values():
        pd.testing.assert_frame_equal(run(jobs, nodes=4, **settings).jobs[given], first)


def test_a_cluster_of_pools(jobs: pd.DataFrame) -> None:
    where = Cluster((Pool("big", 3), Pool("small", 4, gpus_per_node=4)))
    result = run(jobs, cluster=where)
    assert result.nodes.groupby("pool")["gpus"].sum().to_dict() == {"big": 24, "small": 16}
    assert "never_fits" in set(result.jobs["outcome"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ordre": "fifo"}, "setting 'ordre' is unknown; choose among admission"),
        ({"order": "lifo"}, "order 'lifo' is unknown"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"until_s": 0.0}, "give a time after 0"),
        ({"control_plane": "fast"}, "nor one of ideal, kubernetes"),
        ({"nodes": 0}, "nodes is 0; give at least 1"),
        ({"nodes": None}, "either a number of nodes or a cluster"),
        ({"cluster": Cluster.uniform(1)}, "not both"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    jobs: pd.DataFrame, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(jobs, **{"nodes": 4, **settings})


def test_an_empty_table_is_refused(jobs: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no rows"):
        run(jobs.iloc[:0], nodes=4)
