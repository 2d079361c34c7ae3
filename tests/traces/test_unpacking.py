"""Packed files of strangers: no more is unpacked than a stated bound, which can be raised."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sim
import traces
from sim.runs.folder import RunResult
from traces.schema import TraceError
from traces.unpacking import GIB, SETTING, read_parquet

JOBS = pd.DataFrame({"job": ["a", "b"], "submit_s": [0.0, 1.0], "duration_s": 60.0, "gpus": 8})
REFUSED = rf"unpacks to .* GiB are allowed; if you know where it comes from, set {SETTING} to more"


def lines(path: Path, num_bytes: int) -> Path:
    """Write a jobs table of so many bytes, packed."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"job,submit_s,duration_s,gpus\na,0,60,8\n")
        for _ in range(num_bytes >> 20):
            file.write(b"\n" * (1 << 20))
    return path


def numbers(path: Path, num_bytes: int) -> Path:
    """Write one number again and again."""
    column = pa.array(np.zeros(num_bytes // 8))
    pq.write_table(pa.table({"submit_s": column}), path)
    return path


def texts(path: Path, num_bytes: int) -> Path:
    """Write one long text again and again, which the file has once."""
    word = pa.array(["x" * (1 << 16)])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * (num_bytes >> 16)), word)
    pq.write_table(pa.table({"job": column}), path)
    return path


def lists(path: Path, num_bytes: int) -> Path:
    """Write a row that holds one number again and again."""
    values = pa.array(np.zeros(num_bytes // 8))
    column = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    pq.write_table(pa.table({"job": column}), path)
    return path


BOMBS = [
    (lines, "jobs.csv.gz"),
    (lines, "jobs.swf.gz"),
    (numbers, "jobs.parquet"),
    (texts, "jobs.parquet"),
    (lists, "jobs.parquet"),
]


@pytest.mark.parametrize(("make", "name"), BOMBS)
def test_a_small_file_that_unpacks_to_too_much_is_refused(
    make: Callable[[Path, int], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / name, 64 << 20)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setenv(SETTING, "0.05")
    with pytest.raises(TraceError, match=REFUSED):
        traces.load(path)


def test_the_bound_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "jobs.csv.gz", 1 << 20)
    monkeypatch.setenv(SETTING, "0.0009")
    with pytest.raises(TraceError, match=REFUSED):
        traces.load(path)
    monkeypatch.setenv(SETTING, "0.002")
    assert traces.load(path).jobs["job"].tolist() == ["a"]
    monkeypatch.setenv(SETTING, "inf")
    assert len(traces.load(path).jobs) == 1


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan"])
def test_a_bound_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SETTING, text)
    with pytest.raises(TraceError, match=f"{SETTING} is {text!r}; give a number of GiB above 0"):
        traces.load(lines(tmp_path / "jobs.csv.gz", 1 << 20))


def test_tables_of_a_run_are_bounded_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sim.run(JOBS, nodes=2).save(tmp_path / "run")
    texts(folder / "jobs.parquet", 64 << 20)
    monkeypatch.setenv(SETTING, "0.05")
    with pytest.raises(ValueError, match=REFUSED):
        RunResult.load(folder)


def test_long_texts_that_fit_are_read_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is on what there is, not on what there could be."""
    table = pd.DataFrame({"job": ["x" * 50_000, *map(str, range(5_000))], "gpus": 1, "note": None})
    table.to_parquet(tmp_path / "jobs.parquet")
    monkeypatch.setenv(SETTING, str(4e6 / GIB))
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "jobs.parquet"), table)
