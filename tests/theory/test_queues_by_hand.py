"""Schedules of several queues with quota, worked out by hand: who starts, who waits, and for what.

Jobs are named by their letters in the drawings; each is of queue `a` or `b`.
"""

from __future__ import annotations

from textwrap import dedent

import pandas as pd
import pytest

from scheduler.core.queues import Cohort, Flavor, Holding, Queue, Queues, Quota
from sim import run
from sim.runs.folder import RunResult
from tests.theory.test_easy_by_hand import Drawn, read_drawing

GPUS = 8


def queues(
    a: int,
    b: int,
    *,
    cohort: str = "",
    discipline: str = "strict",
    a_lends: int | None = None,
) -> Queues:
    """Return queues a and b with so many GPUs each; both of a cohort, or of none."""
    return Queues(
        (Flavor("all"),),
        (Cohort(cohort),) if cohort else (),
        (
            Queue("a", cohort, quota={"all": {"gpus": Quota(a, lend=a_lends)}}),
            Queue(
                "b",
                cohort,
                quota={"all": {"gpus": Quota(b)}},
                discipline=Holding(discipline),
            ),
        ),
    )


def play(file: Queues, *rows: tuple[str, str, float, float, int]) -> RunResult:
    """Run jobs, given as name, queue, submission, duration and GPUs, on one node of 8."""
    jobs = pd.DataFrame(rows, columns=["job", "queue", "submit_s", "duration_s", "num_pods"])
    jobs = jobs.assign(gpus_per_pod=1, walltime_s=jobs["duration_s"])
    return run(jobs, nodes=1, gpus_per_node=GPUS, queues=file, audit=True)


def picture(drawing: str) -> dict[str, Drawn]:
    return read_drawing(dedent(drawing))


def drawn(result: RunResult) -> dict[str, Drawn]:
    return {
        row.Index: Drawn(row.start_s, row.end_s, row.gpus)
        for row in result.jobs.set_index("job").itertuples()
    }


def waited_s(result: RunResult, job: str) -> dict[str, float]:
    """Return what a job waited for, and how long."""
    row = result.jobs.set_index("job").loc[job]
    names = [name for name in row.index if name.startswith("pending_") and row[name]]
    return {name.removeprefix("pending_").removesuffix("_s"): float(row[name]) for name in names}


def test_a_queue_borrows_and_the_lender_waits_for_quota() -> None:
    """Of 4 + 4 GPUs, a uses 6 from 1 on. B keeps the 2 left of b's own, so D does not borrow them.

    B gets its 4 once A has ended, and D fits the quota of a then.
    """
    result = play(
        queues(4, 4, cohort="c"),
        ("A", "a", 0, 10, 4),
        ("C", "a", 1, 10, 2),
        ("B", "b", 2, 5, 4),
        ("D", "a", 3, 4, 2),
    )
    assert drawn(result) == picture("""
        gpu 0-3 |AAAAAAAAAABBBBB
        gpu 4-5 | CCCCCCCCCC
        gpu 6-7 |          DDDD
    """)
    assert waited_s(result, "B") == {"quota": 8.0}


def test_what_is_not_lent_is_there_at_once() -> None:
    """The queue b keeps nothing back, a keeps all: C would borrow from b, D from a."""
    result = play(
        queues(4, 4, cohort="c", a_lends=0),
        ("A", "b", 0, 10, 4),
        ("D", "b", 1, 5, 2),
        ("B", "a", 2, 5, 4),
    )
    assert drawn(result) == picture("""
        gpu 0-1 |AAAAAAAAAADDDDD
        gpu 2-3 |AAAAAAAAAA
        gpu 4-7 |  BBBBB
    """)
    assert waited_s(result, "D") == {"quota": 9.0}


ACROSS = (
    ("A", "a", 0, 4, 4),
    ("B", "b", 1, 3, 6),
    ("C", "a", 2, 1, 2),
)


def test_a_strict_head_without_nodes_holds_them_against_other_queues() -> None:
    """B has the quota and finds 4 of 6 GPUs: C, which would fit, may not start before it."""
    result = play(queues(6, 6), *ACROSS)
    assert drawn(result) == picture("""
        gpu 0-3 |AAAABBB
        gpu 4-5 |    BBB
        gpu 6-7 |    C
    """)
    assert waited_s(result, "B") == {"capacity": 3.0}
    assert waited_s(result, "C") == {"behind_head": 2.0}


@pytest.mark.parametrize("discipline", ["skip", "easy"])
def test_a_head_of_another_discipline_lets_others_pass(discipline: str) -> None:
    """With `easy`, because C has ended by the time that B is promised."""
    result = play(queues(6, 6, discipline=discipline), *ACROSS)
    assert drawn(result) == picture("""
        gpu 0-3 |AAAABBB
        gpu 4-5 |  C BBB
    """)


def test_a_promise_holds_against_every_queue() -> None:
    """B is promised to start at 4 with 2 GPUs to spare. Queue a is strict, b easy.

    2   C ends before 4 and D takes one of the spare GPUs; both start. E would take two.
    7   B and D are done: E starts.
    """
    result = play(
        queues(8, 6, discipline="easy"),
        ("A", "a", 0, 4, 4),
        ("B", "b", 1, 3, 6),
        ("C", "a", 2, 1, 1),
        ("D", "a", 2, 5, 1),
        ("E", "a", 2, 5, 2),
    )
    assert drawn(result) == picture("""
        gpu 0-3 |AAAABBB
        gpu 4-5 |    BBBEEEEE
        gpu 6   |  C
        gpu 7   |  DDDDD
    """)


OWN = (("A", "b", 0, 4, 3), ("B", "b", 1, 2, 2), ("C", "b", 2, 2, 1), ("D", "a", 2, 2, 4))


def test_a_head_without_quota_blocks_its_own_queue_only() -> None:
    """B of 2 exceeds the quota of 4 beside A: C waits behind it, D of the other queue does not."""
    result = play(queues(4, 4), *OWN)
    assert drawn(result) == picture("""
        gpu 0-1 |AAAABB
        gpu 2   |AAAACC
        gpu 3-6 |  DD
    """)
    assert waited_s(result, "B") == {"quota": 3.0}
    assert waited_s(result, "C") == {"behind_head": 2.0}


@pytest.mark.parametrize("discipline", ["skip", "easy"])
def test_a_head_without_quota_is_passed_in_its_queue(discipline: str) -> None:
    result = play(queues(4, 4, discipline=discipline), *OWN)
    assert drawn(result) == picture("""
        gpu 0-1 |AAAABB
        gpu 2   |AAAA
        gpu 3   |  CC
        gpu 4-7 |  DD
    """)


def test_quotas_may_add_up_to_more_than_the_nodes() -> None:
    """Both may use all 8 GPUs: who came first starts first, and what lacks is capacity."""
    result = play(queues(8, 8), ("A", "a", 0, 5, 8), ("B", "b", 1, 5, 4), ("C", "a", 2, 1, 2))
    assert drawn(result) == picture("""
        gpu 0-1 |AAAAABBBBB
        gpu 2-3 |AAAAABBBBB
        gpu 4-5 |AAAAAC
        gpu 6-7 |AAAAA
    """)
    assert waited_s(result, "B") == {"capacity": 4.0}
    assert waited_s(result, "C") == {"capacity": 3.0}


def test_who_borrows_less_is_served_first() -> None:
    """At 4, C is older, but borrows: B, within its own quota, takes the GPUs."""
    result = play(
        queues(4, 4, cohort="c"),
        ("A", "b", 0, 4, 6),
        ("D", "a", 0, 9, 2),
        ("C", "a", 1, 2, 6),
        ("B", "b", 2, 2, 4),
    )
    assert drawn(result) == picture("""
        gpu 0-3 |AAAABBCC
        gpu 4-5 |AAAA  CC
        gpu 6-7 |DDDDDDDDD
    """)


def test_arrivals_within_what_is_not_lent_start_at_once_where_nodes_are() -> None:
    """A flood of b, which may borrow nothing of a, costs a no second."""
    flood = [(f"B{i}", "b", 0.0, 50.0, 1) for i in range(40)]
    steady = [(f"A{i}", "a", float(3 * i), 3.0, 4) for i in range(20)]
    rows = sorted([*flood, *steady], key=lambda row: row[2])
    jobs = play(queues(4, 4, cohort="c", a_lends=0), *rows).jobs
    mine = jobs[jobs["queue"] == "a"]
    assert (mine["start_s"] == mine["submit_s"]).all()
    assert jobs[jobs["queue"] == "b"]["pending_quota_s"].sum() > 0
