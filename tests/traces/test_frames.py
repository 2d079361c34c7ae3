"""Data frames as jobs tables: their types, their index, and messages without options."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import traces
from traces import TraceError


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"job": ["a", "b"], "submit_s": [0, 60], "duration_s": [60, 120.5], "gpus": [8, 12]}
    )


def objects(*values: object) -> pd.Series:
    """Return a column of Python's own objects."""
    return pd.Series(values, dtype=object)


def of_arrow(values: Sequence[object], arrow: pa.DataType) -> pd.Series:
    """Return a column that pandas leaves in Arrow's type."""
    return pd.Series(pa.array(values, arrow).to_pandas(types_mapper=pd.ArrowDtype))


SECONDS = (dt.timedelta(seconds=60), dt.timedelta(seconds=120, milliseconds=500))
DATES = (dt.datetime(1970, 1, 1), dt.datetime(1970, 1, 1, 0, 1))
TOKYO = dt.timezone(dt.timedelta(hours=9))


@pytest.mark.parametrize(
    "jobs",
    [
        frame().set_index("job"),
        frame().assign(user=pd.Categorical(["u", None])),
        frame().assign(submit_s=pd.to_datetime(["1970-01-01 00:00", "1970-01-01 00:01"])),
        frame().assign(duration_s=pd.to_timedelta([60, 120.5], "s")),
        frame().assign(gpus=pd.Categorical([8, 12])),
        frame().assign(duration_s=objects(*SECONDS)),
        frame().assign(duration_s=objects(*(np.timedelta64(one, "ms") for one in SECONDS))),
        frame().assign(duration_s=pd.Categorical(objects(*SECONDS))),
        frame().assign(submit_s=objects(*DATES)),
        frame().assign(submit_s=objects(*(np.datetime64(one, "ms") for one in DATES))),
        frame().assign(
            submit_s=objects(pd.Timestamp(0, tz="UTC"), pd.Timestamp(60, unit="s", tz=TOKYO))
        ),
        frame().assign(duration_s=of_arrow(SECONDS, pa.duration("ms"))),
        frame().assign(submit_s=of_arrow(DATES, pa.timestamp("s", "Asia/Tokyo"))),
        frame().assign(submit_s=of_arrow(DATES, pa.timestamp("us"))),
    ],
    ids=[
        "index", "categories", "dates", "lengths of time", "numbers of few values",
        "lengths as objects", "lengths of numpy", "lengths of few values", "dates as objects",
        "dates of numpy", "zones that differ", "lengths of Arrow", "zone of Arrow",
        "dates of Arrow",
    ],
)  # fmt: skip
def test_types_of_data_frames(jobs: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        traces.complete(jobs).drop(columns="user"), traces.complete(frame()).drop(columns="user")
    )


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (frame().assign(gpus=[True, False]), "column 'gpus': it holds true and false"),
        (frame().assign(evicts=pd.to_timedelta([1, 2], "s")), "evicts.*; write true or false"),
        (frame().assign(user=pd.to_datetime(["2024", "2025"])), "column 'user': it holds dates"),
        (frame().assign(submit_s=["2024-01-01", "2024-01-02"]), "with pandas.to_datetime"),
        (frame().assign(submit_s=[0, 1.7e12]), "row 2, column 'submit_s': .* milliseconds"),
        (traces.complete(frame()).assign(submit_s=[0, 1.7e12]), "row 2, .* milliseconds"),
        (frame().assign(duration_s=objects(60, SECONDS[0])), "lengths of time beside other values"),
        (frame().assign(duration_s=objects(SECONDS[0], 60)), "lengths of time beside other values"),
        (frame().assign(duration_s=[60 + 0j, 1j]), "column 'duration_s': it holds complex numbers"),
        (frame().assign(user=objects(*SECONDS)), "column 'user': it holds lengths of time"),
        (frame().assign(gpuz=1), r"rename it with jobs.rename\(columns=...\)"),
    ],
)
def test_data_frames_that_are_refused(jobs: pd.DataFrame, message: str) -> None:
    with pytest.raises(TraceError, match=message) as refused:
        traces.complete(jobs)
    assert "--" not in str(refused.value)


@pytest.mark.parametrize(
    "flags",
    [[False, True], objects(False, None), pd.array([False, None], "boolean"), [0.0, np.nan]],
    ids=["numpy", "objects", "with missing ones", "numbers"],
)
def test_flags_in_data_frames(flags: object) -> None:
    assert traces.complete(frame().assign(evictable=flags))["evictable"].tolist() == [False, True]


def test_tables_put_together() -> None:
    jobs = pd.concat([frame(), frame().assign(job=["c", "d"])])
    assert sorted(traces.complete(jobs)["job"]) == ["a", "b", "c", "d"]
    with pytest.raises(TraceError, match="'a' is in row 1 too"):
        traces.complete(pd.concat([frame(), frame()]))
