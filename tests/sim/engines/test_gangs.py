"""Gang mode: what happens at an instant, and what is written down of it."""

from __future__ import annotations

import pandas as pd
import pytest

from sim import run


def jobs(*rows: tuple[str, float, float, int, int]) -> pd.DataFrame:
    columns = ["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod"]
    return pd.DataFrame(rows, columns=columns)


def starts(table: pd.DataFrame) -> dict[str, float]:
    return dict(zip(table["job"], table["start_s"], strict=True))


def test_capacity_freed_at_an_instant_serves_those_submitted_at_it() -> None:
    table = jobs(("a", 0.0, 10.0, 2, 8), ("b", 10.0, 10.0, 2, 8), ("c", 10.0, 5.0, 1, 8))
    assert starts(run(table, nodes=2, audit=True).jobs) == {"a": 0.0, "b": 10.0, "c": 20.0}


def test_all_submissions_of_an_instant_are_ordered_before_any_is_admitted() -> None:
    table = jobs(("long", 0.0, 100.0, 1, 8), ("short", 0.0, 1.0, 1, 8))
    assert starts(run(table, nodes=1, order="sjf").jobs) == {"long": 1.0, "short": 0.0}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"a": 0.0, "b": 10.0, "c": 15.0}),
        ({"discipline": "skip"}, {"a": 0.0, "b": 22.0, "c": 2.0}),
        ({"backfill": "easy"}, {"a": 0.0, "b": 10.0, "c": 15.0}),
    ],
)
def test_what_a_head_that_does_not_fit_does_to_the_next(
    settings: dict[str, str], expected: dict[str, float]
) -> None:
    table = jobs(("a", 0.0, 10.0, 1, 8), ("b", 1.0, 5.0, 2, 8), ("c", 2.0, 20.0, 1, 8))
    assert starts(run(table, nodes=2, audit=True, **settings).jobs) == expected


@pytest.mark.parametrize("order", ["fifo", "priority", "sjf", "smallest"])
def test_ties_of_every_order_go_by_submission_and_then_by_row(order: str) -> None:
    rows = [("first", 0.0), ("z", 2.0), ("y", 2.0), ("a", 2.0), ("last", 1.0)]
    jobs = pd.DataFrame(rows, columns=["job", "submit_s"])
    jobs = jobs.assign(duration_s=10.0, walltime_s=20.0, num_pods=1, gpus_per_pod=8)
    starts = run(jobs, nodes=1, order=order).jobs.sort_values("start_s")["job"]
    assert starts.tolist() == ["first", "last", "z", "y", "a"]


def test_reasons_of_a_hand_worked_run() -> None:
    table = jobs(
        ("a", 0.0, 10.0, 2, 5),  # 3 GPUs stay free on both nodes
        ("b", 1.0, 10.0, 3, 2),  # needs 6 GPUs, has room for 2 pods: fragmentation
        ("c", 2.0, 10.0, 1, 1),  # fits, behind b
        ("d", 3.0, 10.0, 2, 8),  # needs 16 GPUs: capacity
        ("e", 4.0, 10.0, 3, 8),  # never fits
    )
    found = run(table, nodes=2, audit=True).jobs.set_index("job")
    assert found.loc["b", "pending_fragmentation_s"] == 9.0
    assert found.loc["c", "pending_behind_head_s"] == 8.0
    assert found.loc["d", "pending_capacity_s"] == 17.0
    assert found.loc["e", "outcome"] == "never_fits"
    assert found["attempts"].tolist() == [1, 1, 1, 1, 0]
    assert found.filter(like="pending_").sum(axis=1).tolist() == [0.0, 9.0, 8.0, 17.0, 0.0]


def test_a_horizon_leaves_what_is_not_done_unfinished() -> None:
    table = jobs(("a", 0.0, 10.0, 1, 8), ("b", 1.0, 10.0, 1, 8), ("c", 2.0, 10.0, 1, 8))
    result = run(table, nodes=1, until_s=15.0)
    found = result.jobs.set_index("job")
    assert found["outcome"].tolist() == ["completed", "unfinished", "unfinished"]
    assert found["attempts"].tolist() == [1, 1, 0]
    assert found.loc["b", "start_s"] == 10.0
    assert found["end_s"].isna().tolist() == [False, True, True]
    assert found.loc["b", "held_gpu_s"] == 5.0 * 8
    assert found.loc["b", "lost_gpu_s"] == 0.0
    assert found.loc["c", "pending_capacity_s"] == 13.0
    assert result.attempts["outcome"].tolist() == ["completed", "unfinished"]


def test_words_of_a_log_are_not_taken_for_what_became_of_a_job_in_the_run() -> None:
    table = jobs(("a", 0.0, 10.0, 1, 8), ("b", 1.0, 10.0, 1, 8), ("c", 2.0, 10.0, 1, 8))
    table["outcome"] = ["unfinished", "never_fits", "failed"]
    result = run(table, nodes=1)
    assert result.jobs["outcome"].tolist() == ["unknown", "unknown", "failed"]
    assert result.summary["num_jobs"] == 3
    assert result.summary["left_out"]["num_jobs"] == 0


def test_labels_of_the_jobs_table_stay() -> None:
    table = jobs(("a", 0.0, 10.0, 1, 8), ("b", 0.0, 10.0, 1, 8))
    table = table.assign(outcome=["failed", "cancelled"], user=["x", "y"])
    found = run(table, nodes=2).jobs
    assert found["outcome"].tolist() == ["failed", "cancelled"]
    assert found["user"].tolist() == ["x", "y"]


def test_the_curves_are_steps_at_the_events() -> None:
    table = jobs(("a", 0.0, 10.0, 2, 8), ("b", 4.0, 10.0, 2, 8))
    result = run(table, nodes=2)
    pending = result.pending[result.pending["reason"] == "capacity"]
    assert pending[["time_s", "pods", "gpus"]].to_numpy().tolist() == [[4.0, 2, 16], [10.0, 0, 0]]
    steps = result.allocation[["time_s", "allocated_gpus", "useful_gpus"]].to_numpy().tolist()
    assert steps == [[0.0, 16, 16], [20.0, 0, 0]]


def test_a_cold_node_delays_its_first_gang_alone() -> None:
    plane = {"name": "cold", "pull_cold_s": 300.0, "warm_at_start": False, "start_warm_s": 2.0}
    table = jobs(("a", 0.0, 10.0, 2, 8), ("b", 0.0, 10.0, 3, 8), ("c", 0.0, 10.0, 3, 8))
    found = run(table, nodes=3, control_plane=plane).jobs.set_index("job")
    assert found["pending_starting_s"].tolist() == [302.0, 302.0, 2.0]
    assert found["start_s"].tolist() == [302.0, 614.0, 626.0]
