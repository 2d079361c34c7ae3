"""Jobs files: what is read, how bad rows are named, and that none vanishes."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import traces
from traces import TraceError, schema
from traces.formats import rows
from traces.schema import EMPTY

HEADER = "job,submit_s,duration_s,num_pods,gpus_per_pod,walltime_s,priority,min_member"
GOOD = "good,0,60,2,8,90,1,2"
Write = Callable[..., Path]


def test_csv_with_blank_lines_blanks_and_a_byte_order_mark(written: Write) -> None:
    path = written("\ufeff", "job, submit_s ,duration_s,gpus", "", " a , 1, 2.5e1 ,12", "")
    loaded = traces.load(path)
    (row,) = loaded.jobs.to_dict("records")
    assert (row["job"], row["submit_s"], row["duration_s"]) == ("a", 0.0, 25.0)
    assert loaded.offset_s == 1.0
    assert (row["num_pods"], row["gpus_per_pod"], row["last_pod_gpus"]) == (2, 8, 4)
    assert loaded.rejected.empty


def test_quotes_keep_commas_and_lines_are_counted_through_them(written: Write) -> None:
    path = written("job,submit_s,duration_s,gpus", '"a, b",0,1,1', '"two\nlines",0,1,1', "c,0,x,1")
    with pytest.raises(TraceError, match="1 bad value in 1 of 3 rows: line 5, column 'duration_s'"):
        traces.load(path)
    jobs = traces.load(path, on_bad_row="skip").jobs
    assert jobs["job"].tolist() == ["a, b", "two\nlines"]


@pytest.mark.parametrize(
    "row",
    [
        "b,1,60,2,8,,1,2", " b , 1,60, 2,8,90,1,2", "b,1.50,6e1,2,8,90,1,2", "b,007,60,2,8,-1,1,2",
        ",,,,,,,", "", "  ", "b,x,60,2,8,90,1,2", ",1,60,2,8,90,1,2", "b,1,60",
        "b,+1,60,2,8,90,1,2",
        "b,0x10,60,2,8,90,1,2", "b,1_000,60,2,8,90,1,2", "b,9999999999999999,60,2,8,90,1,2",
    ],
)  # fmt: skip
def test_rows_read_at_once_are_those_read_line_by_line(written: Write, row: str) -> None:
    """Lines that end as on Windows, and quotes, are looked at one by one."""
    rows = [HEADER, GOOD, row, "last,9,60,2,8,90,1,2"]
    at_once = traces.load(written(*rows, name="plain.csv"), on_bad_row="skip")
    for name, others in (
        ("windows.csv", [f"{line}\r" for line in rows]),
        ("quoted.csv", [*rows[:3], '"last",9,60,2,8,90,1,2']),
    ):
        one_by_one = traces.load(written(*others, name=name), on_bad_row="skip")
        pd.testing.assert_frame_equal(at_once.jobs, one_by_one.jobs)
        pd.testing.assert_frame_equal(at_once.rejected, one_by_one.rejected)


@pytest.mark.parametrize("first_field", ["job", '"job"'])
def test_a_second_mark_of_byte_order_belongs_to_the_first_column(
    written: Write, first_field: str
) -> None:
    path = written("\ufeff\ufeff" + HEADER.replace("job", first_field, 1), GOOD)
    with pytest.raises(TraceError, match="job"):
        traces.load(path)


def test_sha256_is_that_of_the_file(written: Write) -> None:
    import hashlib

    path = written(HEADER, GOOD)
    assert traces.load(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


BAD_ROWS = [
    ("a,-1,60,2,8,90,1,2", "submit_s", "-1", "must be a number, at least 0"),
    ("a,,60,2,8,90,1,2", "submit_s", "", "must be a number, at least 0"),
    (
        "a,soon,60,2,8,90,1,2",
        "submit_s",
        "soon",
        "must be a number, at least 0, or a date such as 2024-03-01 08:00:00",
    ),
    ("a,inf,60,2,8,90,1,2", "submit_s", "inf", "must be a number, at least 0"),
    (
        "a,1e16,60,2,8,90,1,2",
        "submit_s",
        "1e16",
        "looks like microseconds since 1970; divide by 1000000",
    ),
    ("a,0,nan,2,8,90,1,2", "duration_s", "nan", "must be a number, at least 0"),
    ("a,0,-0.5,2,8,90,1,2", "duration_s", "-0.5", "must be a number, at least 0"),
    (
        'a,0,"1,000",2,8,90,1,2',
        "duration_s",
        "1,000",
        "must be a number, at least 0; write it without commas, with a point before decimals",
    ),
    ("a,0,1_000,2,8,90,1,2", "duration_s", "1_000", "must be a number, at least 0"),
    ("a,0,60,0,8,90,1,1", "num_pods", "0", "must be a whole number, at least 1"),
    ("a,0,60,2.5,8,90,1,2", "num_pods", "2.5", "must be a whole number, at least 1"),
    (
        "a,0,60,3000000000,8,90,1,2",
        "num_pods",
        "3000000000",
        "must be a whole number, at least 1 and at most 2,147,483,647",
    ),
    ("a,0,60,,8,90,1,1", "num_pods", "", "must be a whole number, at least 1"),
    ("a,0,60,2,-8,90,1,2", "gpus_per_pod", "-8", "must be a whole number, at least 0"),
    ("a,0,60,2,eight,90,1,2", "gpus_per_pod", "eight", "must be a whole number, at least 0"),
    ("a,0,60,2,8,0,1,2", "walltime_s", "0", "must be a number above 0"),
    ("a,0,60,2,8,-2,1,2", "walltime_s", "-2", "must be a number above 0"),
    ("a,0,60,2,8,90,high,2", "priority", "high", "must be a whole number"),
    ("a,0,60,2,8,90,1.5,2", "priority", "1.5", "must be a whole number"),
    ("a,0,60,2,8,90,1,3", "min_member", "3", "must not exceed 'num_pods'"),
    ("a,0,60,2,8,90,1,0", "min_member", "0", "must be a whole number, at least 1"),
    (",0,60,2,8,90,1,2", "job", "", "must be a name"),
    ("good,0,60,2,8,90,1,2", "job", "good", "is in line 2 too"),
    ("a,0,60", "", "", "has 3 fields, the header has 8"),
    ("a,0,60,2,8,90,1,2,9,10", "", "", "has 10 fields, the header has 8"),
]


@pytest.mark.parametrize(("row", "column", "value", "reason"), BAD_ROWS)
def test_a_bad_row_is_named_by_line_column_and_value(
    written: Write, row: str, column: str, value: str, reason: str
) -> None:
    path = written(HEADER, GOOD, "", row)
    with pytest.raises(TraceError) as caught:
        traces.load(path)
    text = str(caught.value)
    where = f"line 4, column {column!r}: {value!r} {reason}" if column else f"line 4 {reason}"
    assert text.startswith(f"{path}: 1 bad value in 1 of 2 rows: {where}")
    assert text.endswith("correct them, or leave those rows out with --on-bad-row skip")
    assert "\n" not in text

    loaded = traces.load(path, on_bad_row="skip")
    assert loaded.jobs["job"].tolist() == ["good"]
    (rejected,) = loaded.rejected.to_dict("records")
    assert rejected == {
        "line": 4,
        "column": column,
        "value": value,
        "reason": reason,
        "row": row.replace('"', ""),
    }


def test_every_bad_value_of_a_row_is_told_and_the_row_counts_once(written: Write) -> None:
    path = written(HEADER, GOOD, "a,-1,x,2,8,90,1,2", "b,0,60,0,8,90,1,1")
    with pytest.raises(TraceError, match="3 bad values in 2 of 3 rows"):
        traces.load(path)
    rejected = traces.load(path, on_bad_row="skip").rejected
    assert rejected["line"].tolist() == [3, 4]
    assert "column 'submit_s': '-1'" in rejected["reason"][0]
    assert (rejected["column"][0], rejected["value"][0]) == ("duration_s", "x")


def test_many_bad_values_are_counted_not_listed(written: Write) -> None:
    path = written(HEADER, *(f"j{place},x,60,2,8,90,1,2" for place in range(1000)))
    with pytest.raises(TraceError, match=r"1,000 bad values in 1,000 of 1,000 rows") as caught:
        traces.load(path)
    assert f"and {1000 - rows.MOST_SHOWN} more" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_long_value_is_cut_in_the_message_and_kept_in_the_table(written: Write) -> None:
    path = written(HEADER, GOOD, f"a,{'9' * 3000},60,2,8,90,1,2")
    with pytest.raises(TraceError) as caught:
        traces.load(path)
    assert len(str(caught.value)) < 500
    assert traces.load(path, on_bad_row="skip").rejected["value"][0] == "9" * 3000


@pytest.mark.parametrize(
    ("lines", "name", "message"),
    [
        ([""], "jobs.csv", "is empty; a jobs table needs a header line and a row"),
        ([HEADER], "jobs.csv", "has a header and no rows; add a job"),
        (["job,submit_s,gpus", "a,0,1"], "jobs.csv", "column 'duration_s' is missing"),
        (["job,job,submit_s", "a,b,0"], "jobs.csv", "column 'job' occurs twice; keep one"),
        (["job,submit,duration_s,gpus", "a,0,1,1"], "jobs.csv", "'submit' may be 'submit_s'"),
        ([HEADER, '"open,0,60,2,8,90,1,2'], "jobs.csv", "line 2: .* check the quotes"),
        ([HEADER, "a,x,60,2,8,90,1,2"], "jobs.csv", "1 bad value in 1 of 1 row: "),
        (["a,b", "1,2"], "jobs.txt", "neither its name nor its first line"),
        ([HEADER, GOOD], "jobs.csv.gz", "is not a valid gzip file"),
        ([HEADER, GOOD], "jobs.parquet", "is not a Parquet table"),
        (["; only a header"], "jobs.swf", "has no job lines"),
        (["a" * 200_000], "jobs.csv", "line 1: field larger than field limit"),
    ],
)
def test_a_file_that_is_no_jobs_table(
    written: Write, lines: list[str], name: str, message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        traces.load(written(*lines, name=name))


def test_skipping_never_leaves_an_empty_table(written: Write) -> None:
    with pytest.raises(TraceError, match="none of its 1 rows is a job"):
        traces.load(written(HEADER, "a,x,60,2,8,90,1,2"), on_bad_row="skip")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"jobs file .*none.csv': No such file"):
        traces.load(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="is a folder; give a file in it"):
        traces.load(tmp_path)


def test_a_file_cut_short_and_one_in_another_encoding(tmp_path: Path) -> None:
    whole = gzip.compress(f"{HEADER}\n{GOOD}\n".encode())
    path = tmp_path / "cut.csv.gz"
    path.write_bytes(whole[:-6])
    with pytest.raises(TraceError, match=r"is not a valid gzip file.*fetch it again"):
        traces.load(path)
    path = tmp_path / "latin.csv"
    path.write_bytes(f"{HEADER}\nM\xfcller,0,60,2,8,90,1,2\n".encode("latin-1"))
    with pytest.raises(TraceError, match=rf"is not UTF-8 text \(byte {len(HEADER) + 2}\)"):
        traces.load(path)


def test_unknown_choices_are_refused(written: Write) -> None:
    path = written(HEADER, GOOD)
    with pytest.raises(TraceError, match="kind 'slurm' is unknown; choose one of "):
        traces.load(path, kind="slurm")
    with pytest.raises(TraceError, match="--on-bad-row is 'drop'; choose fail or skip"):
        traces.load(path, on_bad_row="drop")
    with pytest.raises(TraceError, match="--gpus-per-pod is for files that count processors"):
        traces.load(path, gpus_per_pod=8)


def test_bad_rows_of_parquet_are_named_by_row(tmp_path: Path) -> None:
    path = tmp_path / "jobs.parquet"
    pd.DataFrame(
        {
            "job": ["a", "b", "c"],
            "submit_s": [0.0, np.nan, 1.0],
            "duration_s": [[1], [2], [3]],
            "gpus": pd.array([1, None, 3], dtype="Int64"),
        }
    ).to_parquet(path)
    with pytest.raises(
        TraceError, match=r"5 bad values in 3 of 3 rows: row 1, column 'duration_s'"
    ):
        traces.load(path)
    pd.DataFrame(
        {"job": ["a", "a"], "submit_s": [0, 1], "duration_s": [1, 1], "gpus": [8, 8]}
    ).to_parquet(path)
    with pytest.raises(TraceError, match=r"row 2, column 'job': 'a' is in row 1 too"):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert loaded.rejected["line"].tolist() == [2]
    assert loaded.rejected["row"].tolist() == ["a,1,1,8"]


NAMES = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8
).filter(lambda name: name == name.strip() and name not in EMPTY)
TABLES = st.lists(
    st.fixed_dictionaries(
        {
            "submit_s": st.floats(0, 1e9),
            "duration_s": st.floats(0, 1e9),
            "walltime_s": st.floats(1e-3, 1e9),
            "num_pods": st.integers(1, 5000),
            "gpus_per_pod": st.integers(0, 16),
            "priority": st.integers(-schema.INT_MAX, schema.INT_MAX),
            "cpu_per_pod": st.floats(0, 1e4),
            "queue": NAMES,
            "user": NAMES | st.just(""),
            "gpu_model": NAMES | st.just(""),
        }
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(rows=TABLES)
def test_what_is_written_is_read_again(
    rows: list[dict[str, object]], ending: str, tmp_path: Path
) -> None:
    jobs = traces.complete(
        pd.DataFrame(rows).assign(job=[f"job {place}" for place in range(len(rows))])
    )
    path = traces.convert(jobs, tmp_path / f"jobs.{ending}")
    again = traces.load(path)
    from_zero = jobs.assign(submit_s=jobs["submit_s"] - jobs["submit_s"].min())
    pd.testing.assert_frame_equal(again.jobs, from_zero, check_exact=True)
    assert again.offset_s == jobs["submit_s"].min()
    assert again.rejected.empty
    first = traces.convert(again.jobs, path).read_bytes()
    if ending == "csv.gz":
        assert first[4:8] == bytes(4), "no time of writing in it"
    assert traces.convert(again.jobs, path).read_bytes() == first


CELLS = st.one_of(
    st.sampled_from(["", "0", "1", "8", "-1", "2.5", "1e3", "x", "nan", "inf", "1e400", "0x10"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),  # NUL: no text
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=6), min_size=1, max_size=8))
def test_every_row_is_a_job_or_a_rejected_row(rows: list[list[str]], tmp_path: Path) -> None:
    import csv

    path = tmp_path / "jobs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["job", "submit_s", "duration_s", "gpus", "walltime_s"])
        writer.writerow(["first", "0", "1", "1", ""])
        writer.writerows(rows)
    filled = sum(
        any(cell.strip() for cell in row) and (len(row) == 5 or not row[0].startswith("#"))
        for row in rows
    )
    loaded = traces.load(path, on_bad_row="skip")
    assert len(loaded.jobs) + len(loaded.rejected) == filled + 1
    assert loaded.rejected["line"].is_unique
    assert loaded.jobs["job"].is_unique
    pd.testing.assert_frame_equal(traces.complete(loaded.jobs), loaded.jobs)
    numbers = loaded.jobs.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy(float)).all()
    assert (numbers[["submit_s", "duration_s"]] >= 0).all(axis=None)


def test_equal_tables_in_all_forms(written: Write, tmp_path: Path) -> None:
    """A table typed by hand, converted and converted back, is the same in every form."""
    path = written(HEADER, GOOD, "b,1.25,3.5,1,4,,,")
    jobs = traces.load(path).jobs
    for ending in ("csv", "csv.gz", "parquet"):
        target = traces.convert(jobs, tmp_path / f"again.{ending}")
        pd.testing.assert_frame_equal(traces.load(target).jobs, jobs)
    with pytest.raises(TraceError, match=r"end its name in .csv, .csv.gz or .parquet"):
        traces.convert(jobs, tmp_path / "jobs.xlsx")
