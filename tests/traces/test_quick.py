"""Large tables are read at once, and no job is different for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import traces
from traces import TraceError, schema
from traces.formats import jobs
from traces.formats.interface import Options, Reading
from traces.formats.quick import quick
from traces.formats.source import Source

Write = Callable[..., Path]
HEADER = "job,submit_s,duration_s,num_pods,gpus_per_pod,walltime_s,priority,user"
FLAGS = HEADER.replace("priority", "evicts")
GOOD = "good,0,60,2,8,90,1,ann"
WORDS = [
    "", "0", "1", "8", "-1", "2.5", "1e3", "x", "nan", "NA", "inf", "0x10", " 1", "007", "+1",
    "true", "False", "no", "1.0",
]  # fmt: skip
CELLS = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(codec="utf-8", exclude_characters='\n\r"'), max_size=4),
)
ROWS = st.lists(st.lists(CELLS, min_size=8, max_size=8), min_size=1, max_size=5)


def outcome(read: Callable[[], Reading]) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Return what a reader says or raises."""
    try:
        found = read()
    except TraceError as error:
        return str(error), pd.DataFrame(), pd.DataFrame()
    return "", found.jobs, found.rejected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(rows=ROWS, header=st.sampled_from([HEADER, FLAGS]), ending=st.sampled_from(["\n", "\r\n"]))
def test_a_table_read_at_once_is_the_one_read_cell_by_cell(
    rows: list[list[str]], header: str, ending: str, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.csv"
    lines = [header, GOOD, *(",".join(cells) for cells in rows)]
    path.write_bytes(ending.join([*lines, ""]).encode())
    at_once = outcome(lambda: jobs.read(Source(path), Options("skip")))
    by_cell = outcome(lambda: jobs._read_by_cell(Source(path), Options("skip")))
    assert at_once[0] == by_cell[0]
    pd.testing.assert_frame_equal(at_once[1], by_cell[1])
    pd.testing.assert_frame_equal(at_once[2], by_cell[2])


@pytest.mark.parametrize(
    "lines",
    [
        [HEADER, GOOD, "b,1,60,2,8,,0,bob", "c,2,6.5,1,0,-1,0,"],
        ['"' + HEADER.replace(",", '","') + '"', GOOD],
        ["# made by hand", HEADER, GOOD],
        [HEADER.replace(",", ";"), GOOD.replace(",", ";")],
        [FLAGS, GOOD, "b,1,60,2,8,90,false,bob", "c,1,60,2,8,90,,bob"],
    ],
)
def test_plain_tables_are_read_at_once(written: Write, lines: list[str]) -> None:
    source = Source(written(*lines))
    assert quick(source, Options()) is not None


def test_a_reader_takes_the_quick_way_where_it_can(
    written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(HEADER, GOOD)
    monkeypatch.setattr("traces.formats.jobs.read_table", lambda *_: pytest.fail("cell by cell"))
    assert len(traces.load(path).jobs) == 1


@pytest.mark.parametrize(
    "line",
    ['"b",1,60,2,8,,0,bob', " b,1,60,2,8,,0,bob", "#b,1,60,2,8,,0,bob", "b,1,60,2,8,,0,Jürgen",
     "b,1,60", "", "b,soon,60,2,8,,0,bob", "NA,1,60,2,8,,0,bob", "b,1,60,,8,,0,bob"],
)  # fmt: skip
def test_whatever_is_odd_is_looked_at_cell_by_cell(written: Write, line: str) -> None:
    assert quick(Source(written(HEADER, GOOD, line)), Options()) is None


@settings(max_examples=200)
@given(names=st.lists(st.text(max_size=20), min_size=1, max_size=30))
def test_names_are_found_distinct_only_if_they_are(names: list[str]) -> None:
    column = pd.Series(names, dtype="str")
    if schema.is_all_distinct(column):
        assert len(set(names)) == len(names)
        assert all(name.strip() for name in names)


def test_numbered_names_are_found_distinct() -> None:
    names = pd.Series([f"job-{number}" for number in range(100_000)], dtype="str")
    assert schema.is_all_distinct(names)
    names.iloc[-1] = "job-7"
    assert not schema.is_all_distinct(names)


def test_a_column_of_one_text_is_like_any_other(written: Write) -> None:
    loaded = traces.load(written("job,submit_s,duration_s,gpus", "a,0,1,1", "b,1,1,1")).jobs
    assert loaded["outcome"].tolist() == ["completed"] * 2
    assert loaded["queue"].tolist() == ["", ""]
    assert (loaded["queue"] == "").all()
    assert loaded["priority"].dtype == np.int32
