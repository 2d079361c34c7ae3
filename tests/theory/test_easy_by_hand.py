"""EASY schedules worked out by hand, drawn, and read from the drawing."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import pytest

from sim import run


class Drawn(NamedTuple):
    """A job as the drawing shows it: one row per GPU, one column per second."""

    start_s: int
    end_s: int
    gpus: int


def read_drawing(drawing: str) -> dict[str, Drawn]:
    """Return each job of a drawing; a row `gpu 2-5 |...` stands for four GPUs."""
    jobs: dict[str, Drawn] = {}
    for line in drawing.splitlines():
        label, bar, cells = line.partition("|")
        if not bar:
            continue
        first, _, last = label.removeprefix("gpu").strip().partition("-")
        num_rows = int(last or first) - int(first) + 1
        for job in sorted(set(cells) - {" "}):
            start_s, end_s = cells.index(job), cells.rindex(job) + 1
            assert cells[start_s:end_s] == job * (end_s - start_s), f"{job} stops in between"
            before = jobs.get(job, Drawn(start_s, end_s, 0))
            assert before[:2] == (start_s, end_s), f"{job} is not one rectangle"
            jobs[job] = Drawn(start_s, end_s, before.gpus + num_rows)
    return jobs


def table(*rows: tuple[str, float, float, float, int], gpus_per_pod: int = 1) -> pd.DataFrame:
    columns = ["job", "submit_s", "walltime_s", "duration_s", "num_pods"]
    return pd.DataFrame(rows, columns=columns).assign(gpus_per_pod=gpus_per_pod)


TEN_GPUS = table(
    ("A", 0, 10, 8, 6),
    ("B", 1, 8, 8, 8),
    ("C", 2, 20, 20, 2),
    ("D", 3, 7, 2, 2),
    ("E", 4, 6, 6, 1),
    ("F", 4, 5, 2, 2),
    ("G", 9, 3, 3, 1),
)


def test_easy_on_ten_gpus() -> None:
    """A and D end before their walltimes of 10 and 7 s; the others end when they said.

    1   B needs 8 of 10 GPUs, 4 are free. A must end by 10: B's shadow time, with 2 GPUs to spare.
    2   C would end at 22, later than 10, but takes no more than the 2 spare GPUs: starts.
    3   D ends by 10, in time for B: starts on the last 2 GPUs. Nothing is spare any more.
    4   E and F find no free GPU.
    5   D is done early; 2 GPUs are free. E comes first, but ends at 11 > 10 and no GPU is spare.
        F ends by 10: starts.
    7   F is done early. E would end at 13: it waits with 2 GPUs free, behind B.
    8   A is done early: B starts, 2 s before its shadow time. With C all GPUs are taken.
    16  B is done: E and G start.
    """
    drawing = """
                     1111111111222
           01234567890123456789012
    gpu 0 |AAAAAAAABBBBBBBBEEEEEE
    gpu 1 |AAAAAAAABBBBBBBBGGG
    gpu 2-5 |AAAAAAAABBBBBBBB
    gpu 6-7 |   DDFF BBBBBBBB
    gpu 8-9 |  CCCCCCCCCCCCCCCCCCCC
    """
    expected = read_drawing(drawing.replace("    gpu", "gpu"))
    jobs = run(TEN_GPUS, nodes=1, gpus_per_node=10, backfill="easy").jobs.set_index("job")
    found = {str(row.Index): Drawn(row.start_s, row.end_s, row.gpus) for row in jobs.itertuples()}
    assert found == expected
    waits = jobs.loc["E"]
    assert waits["pending_behind_head_s"] == 1.0  # from 7 to 8
    assert waits["pending_capacity_s"] == 11.0


def test_fcfs_on_the_same_jobs() -> None:
    """Without backfill C, D and all others wait for B."""
    jobs = run(TEN_GPUS, nodes=1, gpus_per_node=10).jobs.set_index("job")
    assert jobs["start_s"].to_dict() == {
        "A": 0.0,
        "B": 8.0,
        "C": 8.0,
        "D": 16.0,
        "E": 16.0,
        "F": 16.0,
        "G": 16.0,
    }


def test_easy_promises_to_the_head_alone() -> None:
    """What a conservative plan would do otherwise: D may delay C, the second of the queue.

    EASY knows that B starts at 10 with 2 GPUs to spare, and gives them to D until 23. Under
    conservative backfilling C would have all ten GPUs from 15 on, and D would wait until 20.
    """
    jobs = table(("A", 0, 10, 10, 8), ("B", 1, 5, 5, 8), ("C", 2, 5, 5, 10), ("D", 3, 20, 20, 2))
    starts = run(jobs, nodes=1, gpus_per_node=10, backfill="easy").jobs.set_index("job")["start_s"]
    assert starts.to_dict() == {"A": 0.0, "B": 10.0, "D": 3.0, "C": 23.0}


@pytest.mark.parametrize(("walltime_s", "start_s"), [(8.0, 2.0), (8.5, 15.0)])
def test_a_gang_may_end_exactly_at_the_shadow_time(walltime_s: float, start_s: float) -> None:
    """At 2 s the head is due at 10: 8 s are short enough, 8.5 s are not."""
    jobs = table(("A", 0, 10, 10, 6), ("B", 1, 5, 5, 10), ("C", 2, walltime_s, 4, 4))
    starts = run(jobs, nodes=1, gpus_per_node=10, backfill="easy").jobs["start_s"]
    assert starts.tolist() == [0.0, 10.0, start_s]


def test_spare_room_is_counted_in_pods_of_the_heads_shape() -> None:
    """Four nodes of 8 GPUs; the head H wants two whole nodes and gets them when A ends at 10.

    By then 22 GPUs are free, 6 more than H needs, but 3 + 3 of them lie beside B and C. P's 3 GPUs
    fit beside B: it starts. Q's 4 fit on the idle node alone, which H needs: it waits, although 4
    GPUs are fewer than are spare.
    """
    jobs = pd.DataFrame(
        [
            ("A", 0.0, 10.0, 1, 8),
            ("B", 0.0, 100.0, 1, 5),
            ("C", 0.0, 100.0, 1, 5),
            ("H", 1.0, 10.0, 2, 8),
            ("P", 2.0, 50.0, 1, 3),
            ("Q", 3.0, 50.0, 1, 4),
        ],
        columns=["job", "submit_s", "duration_s", "num_pods", "gpus_per_pod"],
    )
    result = run(jobs, nodes=4, backfill="easy")
    starts = result.jobs.set_index("job")["start_s"]
    assert starts.to_dict() == {"A": 0.0, "B": 0.0, "C": 0.0, "H": 10.0, "P": 2.0, "Q": 20.0}
    waits = result.jobs.set_index("job").loc["Q"]
    assert waits["pending_behind_head_s"] == 7.0  # until H has the idle node
    assert waits["pending_fragmentation_s"] + waits["pending_capacity_s"] == 10.0
