"""Two gangs that each want the whole cluster: stuck pod by pod, taking turns, or in sequence."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench import deadlock
from sim import run

NODES = 10


def jobs(*rows: tuple[str, float, float, int]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["job", "submit_s", "duration_s", "num_pods"])
    return table.assign(gpus_per_pod=8)


TOGETHER = jobs(("a", 0.0, 1000.0, NODES), ("b", 0.0, 1000.0, NODES))
DRAINING = jobs(
    *((f"small-{i}", 0.0, 100.0 * (i + 1), 1) for i in range(NODES)),
    ("a", 1.0, 1000.0, NODES),
    ("b", 2.0, 1000.0, NODES),
)


def test_pod_mode_deadlocks_and_recovers_by_the_rendezvous_timeout() -> None:
    result = run(TOGETHER, nodes=NODES, admission="pod")
    first = result.attempts[result.attempts["attempt"] == 1]
    assert set(first["outcome"]) == {"rendezvous_timeout"}
    assert first["num_nodes"].tolist() == [5, 5]  # half the cluster each
    assert (first["end_s"] == 600.0).all()
    assert (result.jobs["outcome"] == "completed").all()
    assert result.jobs["lost_gpu_s"].sum() == 2 * 5 * 8 * 600.0
    held = result.jobs["pending_own_partial_hold_s"].sum()
    assert held == pytest.approx(2 * 300.0)  # half the pods of each wait 600 s


def test_pod_mode_deadlock_lasts_as_long_as_the_timeout_says() -> None:
    result = run(TOGETHER, nodes=NODES, admission="pod", timeouts={"rendezvous_s": 60.0})
    first = result.attempts[result.attempts["attempt"] == 1]
    assert (first["end_s"] == 60.0).all()


def test_permit_mode_takes_turns_holding_what_comes_free() -> None:
    result = run(DRAINING, nodes=NODES, admission="permit")
    timeouts = result.attempts[result.attempts["outcome"] == "permit_timeout"]
    assert set(timeouts["job"]) == {"a", "b"}
    assert len(timeouts) > 4
    assert (result.jobs["outcome"] == "completed").all()


@pytest.mark.parametrize("table", [TOGETHER, DRAINING], ids=["together", "draining"])
def test_gang_mode_runs_them_one_after_the_other(table: pd.DataFrame) -> None:
    result = run(table, nodes=NODES, admission="gang", audit=True)
    gangs = result.jobs.set_index("job")
    assert gangs.loc["b", "start_s"] == gangs.loc["a", "end_s"]
    assert (result.jobs["attempts"] == 1).all()
    assert result.jobs["lost_gpu_s"].sum() == 0.0


def test_the_table_in_the_documents_is_what_the_simulator_says(repository: Path) -> None:
    text = (repository / "docs/simulator.md").read_text("utf-8")
    found = deadlock.table().astype(str)
    lines = ["| " + " | ".join(row) + " |" for row in found.itertuples(index=False)]
    assert len(lines) == 6
    assert "\n".join(lines) in text, "docs/simulator.md: run python bench/deadlock.py and paste"
