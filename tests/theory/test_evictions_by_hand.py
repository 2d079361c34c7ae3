"""Schedules with evictions, worked out by hand: who has to leave, for whom, and who does not.

Jobs are named by their letters in the drawings. A restart costs nothing here, and all work that an
evicted job did is lost: its second bar is as long as its whole run.
"""

from __future__ import annotations

import pandas as pd
import pytest

from scheduler.core.queues import Cohort, Flavor, Queue, Queues, Quota, Victims
from sim import run
from sim.runs.folder import RunResult
from sim.schema.config import Faults
from sim.schema.costs import Costs, Quantity

ANY, NEVER, LOWER = Victims.ANY, Victims.NEVER, Victims.LOWER_PRIORITY
Row = tuple[str, str, float, float, int, int]


def queue(name: str, gpus: int, **words: object) -> Queue:
    quota = {"all": {"gpus": Quota(gpus)}}
    return Queue(name, str(words.pop("cohort", "c")), quota=quota, **words)  # type: ignore[arg-type]


def file(*queues: Queue) -> Queues:
    return Queues((Flavor("all"),), (Cohort("c"),), queues)


def reclaiming(a: int, b: int, **of_b: object) -> Queues:
    """Return queues a, which may reclaim from anybody, and b."""
    return file(queue("a", a, reclaim=ANY), queue("b", b, **of_b))


def play(
    queues: Queues,
    *rows: Row,
    nodes: int = 1,
    gpus_per_node: int = 8,
    costs: Costs | None = None,
    order: str = "fifo",
) -> RunResult:
    """Run jobs, given as name, queue, submission, duration, pods of one GPU, and priority."""
    jobs = pd.DataFrame(
        rows, columns=["job", "queue", "submit_s", "duration_s", "num_pods", "priority"]
    )
    jobs = jobs.assign(gpus_per_pod=1, walltime_s=jobs["duration_s"])
    faults = Faults(restart_overhead_s=0.0)
    return run(
        jobs,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        queues=queues,
        costs=costs,
        faults=faults,
        order=order,
        audit=True,
    )


def lives(result: RunResult, job: str) -> list[tuple[float, float, str]]:
    """Return start, end and outcome of each attempt of a job."""
    mine = result.attempts[result.attempts["job"] == job]
    return [(row.start_s, row.end_s, row.outcome) for row in mine.itertuples()]


def ran(result: RunResult, job: str) -> tuple[float, float]:
    """Return start and end of a job that was never interrupted."""
    ((start_s, end_s, outcome),) = lives(result, job)
    assert outcome == "completed"
    return start_s, end_s


def waited_s(result: RunResult, job: str) -> dict[str, float]:
    """Return what a job waited for, and how long."""
    row = result.jobs.set_index("job").loc[job]
    names = [name for name in row.index if name.startswith("pending_") and row[name]]
    return {name.removeprefix("pending_").removesuffix("_s"): float(row[name]) for name in names}


def evicted(result: RunResult) -> set[str]:
    return set(result.attempts.loc[result.attempts["outcome"] == "preempted", "job"])


def test_a_queue_reclaims_what_another_borrows() -> None:
    """Queue b uses 8 of 4 + 4. At 5, P of a needs 3: Y, which lost least, and nobody else, goes.

    Y is back at 8, when P has ended.
    """
    result = play(
        reclaiming(4, 4), ("X", "b", 0, 20, 4, 0), ("Y", "b", 2, 20, 4, 0), ("P", "a", 5, 3, 3, 0)
    )
    assert evicted(result) == {"Y"}
    assert ran(result, "P") == (5.0, 8.0)
    assert ran(result, "X") == (0.0, 20.0)
    assert lives(result, "Y") == [(2.0, 5.0, "preempted"), (8.0, 28.0, "completed")]
    assert waited_s(result, "P") == {}
    assert waited_s(result, "Y") == {"quota": 3.0}
    lost = result.jobs.set_index("job")["lost_gpu_s"]
    assert lost["Y"] == 3 * 4 and lost["X"] == lost["P"] == 0
    table = result.queues.set_index("queue")
    assert table["preemptions"].to_dict() == {"a": 0, "b": 1}
    assert table["preempted_lost_gpu_s"].to_dict() == {"a": 0.0, "b": 12.0}
    assert table["preempting_lost_gpu_s"].to_dict() == {"a": 12.0, "b": 0.0}


def test_two_of_two_leave_where_one_of_four_lost_more() -> None:
    """The candidates go in order of what is lost: W 8 and V 10 GPU-seconds, then X 12."""
    rows = [("V", "b", 0, 20, 2, 0), ("W", "b", 1, 20, 2, 0), ("X", "b", 2, 20, 4, 0)]
    result = play(reclaiming(4, 4), *rows, ("P", "a", 5, 3, 3, 0))
    assert evicted(result) == {"V", "W"}


def test_whoever_may_stay_after_all_does() -> None:
    """W lost less and goes first, but X alone makes the room: W stays."""
    rows = [("X", "b", 0, 20, 6, 0), ("W", "b", 4, 20, 1, 0), ("Y", "b", 4, 20, 1, 0)]
    result = play(reclaiming(4, 4), *rows, ("P", "a", 5, 3, 4, 0))
    assert evicted(result) == {"X"}


def test_a_queue_within_its_own_quota_loses_nobody() -> None:
    """Both are within nominal, but only 8 GPUs exist of 6 + 6: P waits for an end."""
    result = play(reclaiming(6, 6), ("X", "b", 0, 20, 6, 0), ("P", "a", 5, 3, 4, 0))
    assert evicted(result) == set()
    assert ran(result, "P") == (20.0, 23.0)


def test_a_gang_within_nominal_that_finds_no_nodes_reclaims_from_borrowers() -> None:
    """Quotas add up to 12 on 8 GPUs. Queue b borrows 2, so P, with all the quota, has X leave."""
    result = play(reclaiming(6, 6), ("X", "b", 0, 20, 8, 0), ("P", "a", 5, 3, 2, 0))
    assert evicted(result) == {"X"}
    assert ran(result, "P") == (5.0, 8.0)


@pytest.mark.parametrize("within", [LOWER, NEVER])
def test_priority_counts_inside_a_queue_that_says_so(within: Victims) -> None:
    result = play(
        file(queue("a", 4, within=within), queue("b", 4)),
        ("X", "a", 0, 20, 4, 1),
        ("Y", "b", 0, 20, 4, 0),
        ("E", "a", 2, 1, 4, 1),
        ("P", "a", 5, 3, 4, 2),
        order="priority",
    )
    assert evicted(result) == ({"X"} if within is LOWER else set())
    assert ran(result, "P")[0] == (5.0 if within is LOWER else 20.0)


def test_a_gang_that_has_just_begun_is_left_for_its_minimum_runtime() -> None:
    """X may be evicted from 10 on; nothing else happens then, and P starts at once."""
    queues = reclaiming(4, 4, min_runtime_s=10.0)
    result = play(queues, ("X", "b", 0, 20, 8, 0), ("P", "a", 5, 3, 4, 0))
    assert ran(result, "P") == (10.0, 13.0)
    assert lives(result, "X")[0] == (0.0, 10.0, "preempted")


def test_victims_on_the_wrong_nodes_stay() -> None:
    """P needs a whole node of 4. All that b borrows is 4 GPUs, but 2 on each node, beside k's."""
    rows = [
        ("K", "k", 0, 99, 2),
        ("X", "b", 1, 20, 2),
        ("L", "k", 2, 99, 2),
        ("Y", "b", 3, 20, 2),
        ("P", "a", 5, 5, 4),
    ]
    jobs = pd.DataFrame(rows, columns=["job", "queue", "submit_s", "duration_s", "gpus_per_pod"])
    jobs = jobs.assign(num_pods=1, walltime_s=99.0)
    queues = file(queue("a", 4, reclaim=ANY), queue("b", 0), queue("k", 4))
    result = run(jobs, nodes=2, gpus_per_node=4, queues=queues, audit=True)
    assert evicted(result) == set()
    assert ran(result, "P")[0] == 99.0


def test_a_head_that_never_fits_evicts_nobody_and_its_follower_may() -> None:
    """N asks for 9 of at most 8 and is gone at once; P behind it reclaims its queue's own."""
    result = play(
        reclaiming(4, 4),
        ("X", "b", 0, 20, 8, 0),
        ("N", "a", 4, 3, 9, 0),
        ("P", "a", 5, 3, 4, 0),
    )
    assert result.jobs.set_index("job").loc["N", "outcome"] == "never_fits"
    assert lives(result, "X")[0] == (0.0, 5.0, "preempted")
    assert ran(result, "P") == (5.0, 8.0)


#: a job that is told to stop takes 10 s to leave, and is back 1 s later
GRACE = Costs(stop_s=Quantity(p50=10.0), recreate_s=Quantity(p50=1.0))


def test_what_becomes_free_is_kept_from_a_third_gang_and_from_victims() -> None:
    """X and Y leave from 5 to 15. P gets all they had, and not T, nor they, who are back at 16."""
    result = play(
        file(queue("a", 8, reclaim=ANY), queue("b", 0), queue("t", 0)),
        ("X", "b", 0, 100, 4, 0),
        ("Y", "b", 0, 100, 4, 0),
        ("T", "t", 1, 5, 1, 0),
        ("P", "a", 5, 10, 8, 0),
        costs=GRACE,
    )
    assert lives(result, "X")[0] == (0.0, 15.0, "preempted")
    assert lives(result, "Y")[0] == (0.0, 15.0, "preempted")
    assert ran(result, "P") == (15.0, 25.0)
    assert waited_s(result, "P") == {"preempting": 10.0}
    assert ran(result, "T")[0] > 25.0
    assert lives(result, "X")[1][0] == 25.0


def test_preemptors_of_one_queue_do_not_wait_for_each_others_victims() -> None:
    """Four of them, one grace: all start at 15, each on what its victim leaves."""
    result = play(
        reclaiming(8, 0),
        *[(f"X{i}", "b", 0, 100, 2, 0) for i in range(4)],
        *[(f"P{i}", "a", 5, 10, 2, 0) for i in range(4)],
        costs=GRACE,
    )
    assert [ran(result, f"P{i}") for i in range(4)] == [(15.0, 25.0)] * 4
    assert all(len(lives(result, f"X{i}")) == 2 for i in range(4))


def test_what_leaves_already_is_used_before_others_are_evicted() -> None:
    """X of 4 leaves for P of 1: Q and R, which come meanwhile, get the rest, and Y stays."""
    result = play(
        reclaiming(4, 4),
        ("Y", "b", 0, 100, 4, 0),
        ("X", "b", 2, 100, 4, 0),
        ("P", "a", 5, 10, 1, 0),
        ("Q", "a", 6, 10, 2, 0),
        ("R", "a", 7, 10, 1, 0),
        costs=GRACE,
    )
    assert evicted(result) == {"X"}
    assert [ran(result, name)[0] for name in "PQR"] == [15.0, 15.0, 15.0]
