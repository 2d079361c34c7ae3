"""Data frames as jobs tables: their types, their index, and messages without options."""

from __future__ import annotations

import pandas as pd
import pytest

import traces
from traces import TraceError


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"job": ["a", "b"], "submit_s": [0, 60], "duration_s": [60, 120.5], "gpus": [8, 12]}
    )


@pytest.mark.parametrize(
    "jobs",
    [
        frame().set_index("job"),
        frame().assign(user=pd.Categorical(["u", None])),
        frame().assign(submit_s=pd.to_datetime(["1970-01-01 00:00", "1970-01-01 00:01"])),
        frame().assign(duration_s=pd.to_timedelta([60, 120.5], "s")),
        frame().assign(gpus=pd.Categorical([8, 12])),
    ],
    ids=["index", "categories", "dates", "lengths of time", "numbers of few values"],
)
def test_types_of_data_frames(jobs: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(
        traces.complete(jobs).drop(columns="user"), traces.complete(frame()).drop(columns="user")
    )


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (frame().assign(gpus=[True, False]), "column 'gpus': it holds true and false"),
        (frame().assign(user=pd.to_datetime(["2024", "2025"])), "column 'user': it holds dates"),
        (frame().assign(submit_s=["2024-01-01", "2024-01-02"]), "with pandas.to_datetime"),
        (frame().assign(submit_s=[0, 1.7e12]), "row 2, column 'submit_s': .* milliseconds"),
        (traces.complete(frame()).assign(submit_s=[0, 1.7e12]), "row 2, .* milliseconds"),
        (frame().assign(gpuz=1), r"rename it with jobs.rename\(columns=...\)"),
    ],
)
def test_data_frames_that_are_refused(jobs: pd.DataFrame, message: str) -> None:
    with pytest.raises(TraceError, match=message) as refused:
        traces.complete(jobs)
    assert "--" not in str(refused.value)


def test_tables_put_together() -> None:
    jobs = pd.concat([frame(), frame().assign(job=["c", "d"])])
    assert sorted(traces.complete(jobs)["job"]) == ["a", "b", "c", "d"]
    with pytest.raises(TraceError, match="'a' is in row 1 too"):
        traces.complete(pd.concat([frame(), frame()]))
