"""Tables say which resource was short, and what of a request no node offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.report.headlines import run_lines
from sim.report.report import build_report
from sim.runs.experiment import run
from sim.schema.cluster import Cluster, Pool
from sim.schema.tables import RESOURCES

SHORT = [f"short_{resource}_s" for resource in RESOURCES]
WANTING = ["pending_capacity_s", "pending_fragmentation_s", "pending_held_by_others_s"]


def jobs(*rows: dict[str, Any]) -> pd.DataFrame:
    base = {"submit_s": 0.0, "duration_s": 100.0, "num_pods": 1, "gpus_per_pod": 1}
    return pd.DataFrame([{"job": name, **base, **row} for name, row in zip("abcdef", rows)])  # noqa: B905


@pytest.mark.parametrize("admission", ["gang", "pod", "permit"])
@pytest.mark.parametrize("gpus", [1, 0])
def test_cpus_that_bind_are_told_from_gpus(admission: str, gpus: int) -> None:
    cluster = Cluster((Pool("p", 1, 8, cpu_per_node=8.0),))
    asks = {"cpu_per_pod": 8.0, "gpus_per_pod": gpus}
    table = run(
        jobs(asks, {**asks, "submit_s": 1.0}), cluster=cluster, admission=admission, audit=True
    ).jobs.set_index("job")
    assert table.loc["b", "pending_capacity_s"] > 90
    assert table.loc["b", "short_cpu_s"] == table.loc["b", "pending_capacity_s"]
    assert table.loc["b", "short_gpus_s"] == 0
    assert (table.loc["a", SHORT] == 0).all()


def test_memory_that_is_free_apart_is_told() -> None:
    cluster = Cluster((Pool("p", 2, 8, mem_gib_per_node=64.0),))
    table = run(
        jobs(
            {"num_pods": 2, "gpus_per_pod": 5, "mem_gib_per_pod": 40.0},
            {"submit_s": 1.0, "mem_gib_per_pod": 30.0},
        ),
        cluster=cluster,
    ).jobs.set_index("job")
    assert table.loc["b", "pending_fragmentation_s"] == pytest.approx(99.0)
    assert table.loc["b", "short_memory_s"] == pytest.approx(99.0)


@pytest.mark.parametrize("admission", ["gang", "pod", "permit"])
def test_every_second_of_want_is_of_one_resource(admission: str) -> None:
    cluster = Cluster((Pool("p", 3, 8, cpu_per_node=16.0, mem_gib_per_node=64.0),))
    many = pd.DataFrame(
        [
            {
                "job": f"j{i:02}",
                "submit_s": float(i),
                "duration_s": 20.0 + i % 7,
                "num_pods": 1 + i % 5,
                "gpus_per_pod": (1, 2, 4, 8)[i % 4],
                "cpu_per_pod": (1.0, 8.0, 16.0)[i % 3],
                "mem_gib_per_pod": (4.0, 30.0)[i % 2],
            }
            for i in range(30)
        ]
    )
    # pod by pod the gangs keep each other from starting; half an hour tells enough
    table = run(many, cluster=cluster, admission=admission, until_s=1800.0, audit=True).jobs
    assert table[SHORT].sum(axis=1).to_numpy() == pytest.approx(table[WANTING].sum(axis=1))
    assert (table[["short_gpus_s", "short_cpu_s"]].sum() > 0).all()
    assert table["short_other_s"].sum() == 0


@pytest.mark.parametrize("admission", ["gang", "pod", "permit"])
def test_where_only_gpus_are_asked_for_only_gpus_are_short(admission: str) -> None:
    table = run(
        jobs({"gpus_per_pod": 5}, {"gpus_per_pod": 4}, {"gpus_per_pod": 8}),
        nodes=1,
        admission=admission,
    ).jobs
    assert table["short_gpus_s"].to_numpy() == pytest.approx(table[WANTING].sum(axis=1))
    assert table["short_gpus_s"].sum() > 0
    assert (table[SHORT[1:]] == 0).all(axis=None)


@pytest.mark.parametrize("admission", ["gang", "pod"])
def test_a_job_that_never_fits_says_why(admission: str) -> None:
    cluster = Cluster(
        (
            Pool("h100", 2, 8, "H100", cpu_per_node=96.0, mem_gib_per_node=512.0),
            Pool("v100", 2, 4, "V100", cpu_per_node=64.0, mem_gib_per_node=256.0),
        )
    )
    table = run(
        jobs(
            {},
            {"gpu_model": "h100"},
            {"gpus_per_pod": 16},
            {"pool": "v100", "gpu_model": "H100"},
            {"mem_gib_per_pod": 600.0},
            {"num_pods": 3, "gpus_per_pod": 8},
        ),
        cluster=cluster,
        admission=admission,
    ).jobs.set_index("job")
    assert table["outcome"].tolist() == ["completed", *["never_fits"] * 5]
    assert table["unmet"].tolist() == [
        "",
        "asks for GPU model 'h100'; models here: H100, V100",
        "needs 16 GPUs per pod, the largest node has 8 (pool 'h100')",
        "asks for GPU model 'H100' in pool 'v100'; models in pool 'v100': V100; "
        "pools with 'H100': h100",
        "needs 600 GiB of memory per pod, the largest node has 512 GiB (pool 'h100')",
        "needs 3 pods of 8 GPUs; empty, the 4 nodes that it may use hold 2",
    ]


def test_the_lines_of_a_run_say_which_resource_was_short(tmp_path: Path) -> None:
    cluster = Cluster((Pool("p", 1, 8, cpu_per_node=8.0),))
    asks = {"cpu_per_pod": 8.0}
    lines = run_lines(run(jobs(asks, asks), cluster=cluster), tmp_path)
    assert "short of    CPUs 100 %" in lines
    lines = run_lines(run(jobs({"gpus_per_pod": 8}, {"gpus_per_pod": 8}), nodes=1), tmp_path)
    assert not any(line.startswith("short of") for line in lines)


def test_the_last_line_of_a_run_says_why(tmp_path: Path) -> None:
    table = jobs(*[{"gpu_model": "A100"}] * 3, {"gpus_per_pod": 16}, {"gpus_per_pod": 8})
    lines = run_lines(run(table, nodes=4), tmp_path)
    at = next(i for i, line in enumerate(lines) if line.startswith("never fits"))
    assert lines[at : at + 3] == [
        "never fits  On 4 nodes 4 of 5 jobs (4 pods, 70 % of the GPU-hours asked for) can never "
        "start; no figure counts them.",
        "            3 (as 'a'): asks for GPU model 'A100'; no node states its model",
        "            1 ('d'): needs 16 GPUs per pod, the largest node has 8 (pool 'node')",
    ]


BINDING = [
    ("cpu", {"cpu_per_node": 8.0}, {"cpu_per_pod": 8.0}, "it needs 8 CPUs (1 pod) and 0 of 8"),
    (
        "memory",
        {"mem_gib_per_node": 64.0},
        {"mem_gib_per_pod": 40.0},
        "it needs 40 GiB of memory (1 pod) and 24 of 64 GiB",
    ),
    ("pods", {"pods_per_node": 1}, {}, "it needs 1 pod slot (1 pod) and 0 of 1"),
]


@pytest.mark.parametrize("gpus", [1, 0])
@pytest.mark.parametrize(("resource", "node", "asks", "says"), BINDING, ids=["cpu", "mem", "pods"])
def test_what_binds_is_named_with_its_numbers(
    tmp_path: Path, resource: str, node: dict[str, Any], asks: dict[str, Any], gpus: int, says: str
) -> None:
    asks = {**asks, "gpus_per_pod": gpus}
    cluster = Cluster((Pool("p", 1, 8, **node),))
    result = run(jobs(asks, {**asks, "submit_s": 1.0}, {"submit_s": 2.0, **asks}), cluster=cluster)
    waits = result.jobs.set_index("job").loc["b"]
    assert waits["pending_capacity_s"] == waits[f"short_{resource}_s"] > 90
    assert waits["pending_fragmentation_s"] == waits["short_gpus_s"] == 0
    folder = result.save(tmp_path / "run")
    assert f"First in the queue is gang b: {says} are free;" in " ".join(
        build_report([folder], tmp_path / "page").with_suffix(".md").read_text("utf-8").split()
    )


def test_what_is_free_apart_is_enough_in_number(tmp_path: Path) -> None:
    cluster = Cluster((Pool("p", 2, 8, cpu_per_node=8.0),))
    asks = {"num_pods": 2, "gpus_per_pod": 1, "cpu_per_pod": 5.0}
    late = {"submit_s": 1.0, "cpu_per_pod": 6.0}
    result = run(jobs(asks, late, {**late, "submit_s": 2.0}), cluster=cluster)
    folder = result.save(tmp_path / "run")
    said = build_report([folder], tmp_path / "page").with_suffix(".md").read_text("utf-8")
    assert "it needs 6 CPUs (1 pod) and 6 of 16 are free, enough in number;" in said
