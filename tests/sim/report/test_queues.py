"""What people are shown of queues: after a run, in reports, and between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, Victims
from sim import run
from sim.report.headlines import run_lines
from sim.report.queues import MOST_TOLD
from sim.runs.folder import RunResult

#: `u` borrows all 8 GPUs; `v` takes its 4 back after 5 s
JOBS = pd.DataFrame(
    {
        "job": ["a", "b", "c"],
        "queue": ["u", "u", "v"],
        "submit_s": [0.0, 0.0, 5.0],
        "duration_s": [3600.0, 3600.0, 1800.0],
        "num_pods": [4, 4, 4],
        "gpus_per_pod": [1, 1, 1],
    }
)


def teams(names: Sequence[str] = "uv", *, lend: int | None = None, **words: Victims) -> Queues:
    quota = {"all": {"gpus": Quota(4, lend=lend)}}
    queues = tuple(Queue(name, "c", quota=quota, **words) for name in names)
    return Queues((Flavor("all"),), (Cohort("c"),), queues, {"team-v": names[1]})


def of_run(result: RunResult) -> dict[str, list[str]]:
    """The lines of the queues that are printed, by queue, cut at two spaces."""
    lines = run_lines(result, Path("out"))
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    at = lines.index("queues") + 1
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[at:]}


def test_a_run_prints_what_each_queue_waited_used_borrowed_and_lost() -> None:
    result = run(JOBS, nodes=1, queues=teams(reclaim=Victims.ANY))
    found = of_run(result)
    assert found["queue"] == [
        "jobs", "wait p50", "p95", "waits for", "GPU time", "nominal",
        "borrowed", "lent", "evicted", "evicts", "lost",
    ]  # fmt: skip
    # `a` is evicted at 5 s, with 5 s x 4 GPUs of work; from 1805 s on it restarts for 750 s and
    # runs for an hour: `u` uses 4 x (5 + 3600 + 4350) GPU-seconds of all, `v` 4 x 1800. Until `b`
    # ends at 3600 s, `u` borrows 4 GPUs, but for the 1800 s of `c`
    u, v = found["u"], found["v"]
    assert u == ["2", "0 s", "0 s", "quota 71 %", "82 %", "50 %", "2.00", "0", "1", "0", "0.00556"]
    assert v == ["1", "0 s", "0 s", "–", "18 %", "50 %", "0", "2.00", "0", "1", "0"]


def test_columns_of_what_no_queue_did_are_left_out() -> None:
    found = of_run(run(JOBS, nodes=1, queues=teams(lend=0)))
    assert found["queue"] == ["jobs", "wait p50", "p95", "waits for", "GPU time", "nominal"]


def test_runs_of_one_queue_or_none_print_what_they_did() -> None:
    one = Queues((Flavor("all"),), (), (Queue("u", quota={"all": {"gpus": Quota(8)}}),))
    jobs = JOBS.assign(queue="u")
    plain, alone = (run_lines(run(jobs, nodes=1, queues=q), Path("out")) for q in (None, one))
    assert plain == alone
    assert "queues" not in plain


def test_of_many_queues_those_that_wait_most_are_told() -> None:
    names = [f"team-{at:02}" for at in range(60)]
    draw = np.random.default_rng(0)
    jobs = pd.DataFrame(
        {
            "job": [f"j{at}" for at in range(600)],
            "queue": draw.choice(names, 600),
            "submit_s": np.arange(600.0),
            "duration_s": 60.0,
            "num_pods": 1,
            "gpus_per_pod": 1,
        }
    )
    result = run(jobs, nodes=1, queues=teams(names))
    waited = result.jobs.filter(regex="^pending_").sum(axis=1).groupby(result.jobs["queue"]).sum()
    found = list(of_run(result))
    assert found[1 : MOST_TOLD + 1] == waited.nlargest(MOST_TOLD).index.tolist()
    assert found[MOST_TOLD + 1] == "and 50 more queues, in queues.parquet"
