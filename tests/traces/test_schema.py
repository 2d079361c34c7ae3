"""The canonical jobs table: what is filled in, what is derived, what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import TraceError, complete, schema
from traces.description import total_gpus

NAMES = [column.name for column in schema.COLUMNS]


def jobs(**columns: object) -> pd.DataFrame:
    given_columns = {"job": ["a", "b"], "submit_s": [0, 5.5], "duration_s": [60, 1], **columns}
    return pd.DataFrame(given_columns)


def test_missing_columns_take_their_default() -> None:
    table = complete(jobs(num_pods=[2, 3], gpus_per_pod=[8, 4]))
    assert list(table.columns) == NAMES
    assert table["walltime_s"].tolist() == [60, 1]
    assert table["min_member"].tolist() == [2, 3]
    assert table["last_pod_gpus"].tolist() == [8, 4]
    assert table["priority"].tolist() == [0, 0]
    assert table["queue"].tolist() == ["", ""]
    assert table["cpu_per_pod"].tolist() == [0, 0]
    assert table["outcome"].tolist() == ["completed", "completed"]


def test_columns_have_their_types_whatever_came_in() -> None:
    table = complete(
        jobs(num_pods=np.array([2, 3], "uint8"), gpus_per_pod=["8", "4"], priority=[1.0, -2.0])
    )
    assert {name: str(dtype) for name, dtype in table.dtypes.items()} == {
        column.name: column.dtype for column in schema.COLUMNS
    }
    assert table["gpus_per_pod"].tolist() == [8, 4]
    assert table["priority"].tolist() == [1, -2]


@pytest.mark.parametrize(
    ("gpus", "pods"),
    [(1, [1]), (5, [5]), (8, [8]), (9, [8, 1]), (12, [8, 4]), (16, [8, 8]), (23, [8, 8, 7])],
)
def test_gpus_become_pods_of_eight_and_a_remainder(gpus: int, pods: list[int]) -> None:
    (row,) = complete(
        pd.DataFrame({"job": ["a"], "submit_s": [0], "duration_s": [1], "gpus": [gpus]})
    ).to_dict("records")
    assert row["num_pods"] == len(pods)
    assert [row["gpus_per_pod"]] * (len(pods) - 1) == pods[:-1]
    assert row["last_pod_gpus"] == pods[-1]
    assert row["gpus_per_pod"] == pods[0]


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=20))
def test_gpus_are_neither_lost_nor_made(gpus: list[int]) -> None:
    names = [f"j{place}" for place in range(len(gpus))]
    table = complete(pd.DataFrame({"job": names, "submit_s": 0, "duration_s": 1, "gpus": gpus}))
    assert total_gpus(table).tolist() == gpus
    assert (table["last_pod_gpus"] >= 1).all()
    assert (table["last_pod_gpus"] <= table["gpus_per_pod"]).all()


def test_rows_are_put_in_order_of_submission_and_ties_stay() -> None:
    table = complete(
        pd.DataFrame(
            {"job": list("dbca"), "submit_s": [3, 1, 3, 0], "duration_s": 1, "gpus": [1, 2, 3, 4]}
        )
    )
    assert "".join(table["job"]) == "abdc"


def test_a_complete_table_stays_as_it_is() -> None:
    once = complete(jobs(gpus=[12, 1], walltime_s=[100, -1]))
    pd.testing.assert_frame_equal(complete(once), once)


def test_walltime_of_minus_one_or_none_means_the_run_time() -> None:
    table = complete(jobs(gpus=[1, 1], walltime_s=[-1, None]))
    assert table["walltime_s"].tolist() == [60, 1]


def test_a_job_of_no_duration_still_asks_for_time() -> None:
    table = complete(jobs(gpus=[1, 1], duration_s=[0, 2]))
    assert table["duration_s"].tolist() == [0, 2]
    assert 0 < table["walltime_s"].iloc[0] < 1e-6


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("submit_s", -1.0),
        ("submit_s", np.nan),
        ("duration_s", np.inf),
        ("walltime_s", 0.0),
        ("num_pods", 0),
        ("gpus_per_pod", -1),
        ("min_member", 3),
        ("last_pod_gpus", 9),
    ],
)
@pytest.mark.parametrize("is_complete", [False, True])
def test_a_bad_value_is_refused_in_any_table(column: str, value: float, is_complete: bool) -> None:
    """Also in one that has every column and type already, which is the quick way through."""
    table = jobs(num_pods=[2, 2], gpus_per_pod=[8, 8])
    if is_complete:
        table = complete(table)
    if column not in table:
        table[column] = [1, 1]
    kind = table[column].dtype
    table[column] = table[column].astype("float64")
    table.loc[1, column] = value
    if np.isfinite(value):
        table[column] = table[column].astype(kind)
    with pytest.raises(TraceError, match=rf"row 2, column '{column}'"):
        complete(table)


def test_two_jobs_of_one_name_are_refused_in_a_complete_table() -> None:
    table = complete(jobs(gpus=[1, 1]))
    table["job"] = pd.Series(["a", "a"], dtype="str")
    with pytest.raises(TraceError, match=r"row 2, column 'job': 'a' is in row 1 too"):
        complete(table)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"gpus": [1, 1], "prioritiy": [1, 1]}, "'prioritiy' may be 'pri"),
        ({"gpus": [1, 1], "zzzz": [1, 1]}, "column 'zzzz' is unknown; rename"),
        ({}, "column 'num_pods' is missing"),
        ({"num_pods": [1, 1]}, "column 'gpus_per_pod' is missing"),
        ({"gpus": [1, 1], "num_pods": [1, 1]}, "'gpus' and 'num_pods'; give one or the other"),
        ({"gpus": [1, 1], "last_pod_gpus": [1, 1]}, "'gpus' and 'last_pod_gpus'"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        complete(jobs(**columns))


def test_quorum_is_checked_against_the_pods_that_gpus_make() -> None:
    assert complete(jobs(gpus=[16, 8], min_member=[2, 1]))["min_member"].tolist() == [2, 1]
    with pytest.raises(TraceError, match=r"row 2, column 'min_member': '2' must not exceed"):
        complete(jobs(gpus=[16, 8], min_member=[2, 2]))


def test_flags_in_any_words() -> None:
    """Those that a table does not say are true."""
    assert complete(jobs(gpus=[1, 1]))[["evicts", "evictable"]].to_numpy().all()
    words = ["true", "No", "", "0", None, " FALSE ", "yes", "1"]
    many = jobs(job=list("abcdefgh"), submit_s=0.0, duration_s=1.0, gpus=1, evicts=words)
    found = complete(many.assign(evictable=[1, 0, True, 1.0, 0, None, False, 1]))
    assert found["evicts"].tolist() == [True, False, True, False, True, False, True, True]
    assert found["evictable"].tolist() == [True, False, True, True, False, True, False, True]
    assert complete(found)["evicts"].tolist() == found["evicts"].tolist()
    for column, value in (("evicts", "maybe"), ("evictable", "2")):
        with pytest.raises(TraceError, match=f"row 1, .*'{column}': '{value}' must be true or f"):
            complete(jobs(gpus=[1, 1]).assign(**{column: [value, "1"]}))
