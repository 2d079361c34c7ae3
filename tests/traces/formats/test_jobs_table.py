"""muster's own table: dialects, containers, types of Parquet, and files given by mistake."""

from __future__ import annotations

import bz2
import datetime as dt
import decimal
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import traces
from traces import TraceError
from traces.description import total_gpus

Write = Callable[..., Path]
LINES = ("job,submit_s,duration_s,gpus", "a,0,60,8", "b,60,120.5,12")
TEXT = "\n".join(LINES) + "\n"


def check(path: Path, **options: Any) -> traces.LoadedJobs:
    """Load the two jobs of `LINES`."""
    loaded = traces.load(path, **options)
    assert loaded.jobs["job"].tolist() == ["a", "b"]
    assert loaded.jobs["submit_s"].tolist() == [0, 60]
    assert loaded.jobs["duration_s"].tolist() == [60, 120.5]
    assert total_gpus(loaded.jobs).tolist() == [8, 12]
    return loaded


DIALECTS = {
    "semicolons": TEXT.replace(",", ";").encode(),
    "tabs": TEXT.replace(",", "\t").encode(),
    "bars": TEXT.replace(",", "|").encode(),
    "delimiter at the end": TEXT.replace("\n", ",\n").encode(),
    "mark of UTF-8": b"\xef\xbb\xbf" + TEXT.encode(),
    "UTF-16, small end first": b"\xff\xfe" + TEXT.encode("utf-16-le"),
    "UTF-16, big end first": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "sep=": f"sep=;\n{TEXT.replace(',', ';')}".encode(),
    "sep= of another letter": f"sep=^\n{TEXT.replace(',', '^')}".encode(),
    "quoted sep=": f'"sep=,"\r\n{TEXT}'.encode(),
    "sep= in UTF-16": f"sep=\t\r\n{TEXT.replace(',', chr(9))}".encode("utf-16"),
    "comments": f"# made by x\n#\n{TEXT}# the end, really\n".encode(),
    "Windows": TEXT.replace("\n", "\r\n").encode(),
    "old Mac": TEXT.replace("\n", "\r").encode(),
    "no line end": TEXT.rstrip("\n").encode(),
    "blank lines": f"\n\n{TEXT}\n\n".encode(),
    "quotes": b'"job","submit_s","duration_s","gpus"\n"a","0","60","8"\n"b","60","120.5","12"',
    "blanks": TEXT.replace(",", " , ").encode(),
    "other order": b"gpus,duration_s,submit_s,job\n8,60,0,a\n12,120.5,60,b\n",
    "pandas index": b",job,submit_s,duration_s,gpus\n0,a,0,60,8\n1,b,60,120.5,12\n",
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(tmp_path: Path, dialect: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_bytes(DIALECTS[dialect])
    check(path)


@pytest.mark.parametrize("name", ["#1", "# two", '"#3"'])
@pytest.mark.parametrize("place", [1, 2])
def test_a_job_whose_name_begins_with_a_hash_is_not_lost(
    written: Write, name: str, place: int
) -> None:
    lines = [*LINES[:place], f"{name},0,60,8", *LINES[place:], "# a comment"]
    jobs = traces.load(written(*lines)).jobs["job"]
    assert sorted(jobs) == sorted(["a", "b", name.strip('"')])
    jobs = traces.load(written(*lines[1:]), columns=tuple(LINES[0].split(","))).jobs["job"]
    assert sorted(jobs) == sorted(["a", "b", name.strip('"')])


@pytest.mark.parametrize("cell", ["0,5", "1,000", "1.234,5", "1,234.5", "-0,5"])
def test_decimal_commas_are_refused_with_the_reason(written: Write, cell: str) -> None:
    lines = [line.replace(",", ";") for line in LINES]
    with pytest.raises(
        TraceError, match=f"'{cell}' must be a number.*with a point before decimals"
    ):
        traces.load(written(*lines, f"c;90;{cell};8"))


@pytest.mark.parametrize("word", ["NA", "N/A", "NaN", "nan", "None", "NULL", "null", "", "<NA>",
                                  "none", "NONE", "Null", "#N/A"])  # fmt: skip
def test_words_for_missing_values(written: Write, word: str) -> None:
    header = LINES[0] + ",user,priority,walltime_s,gpu_model"
    (job,) = traces.load(written(header, f"a,0,60,8,{word},{word},{word},{word}")).jobs.to_dict(
        "records"
    )
    assert (job["user"], job["priority"], job["walltime_s"], job["gpu_model"]) == ("", 0, 60, "")
    with pytest.raises(TraceError, match=r"column 'duration_s': .* must be a number"):
        traces.load(written(LINES[0], f"a,0,{word},8"))


def test_a_job_may_have_such_a_name(written: Write) -> None:
    assert traces.load(written(LINES[0], "None,0,60,8")).jobs["job"].tolist() == ["None"]


def test_columns_at_the_end_without_a_name_and_a_value(written: Write) -> None:
    """Spreadsheets write them; one with a value is a column without a name."""
    path = written(*(f"{line},,," for line in LINES))
    assert check(path).notes == ()
    with pytest.raises(TraceError, match="column '' occurs twice"):
        traces.load(written(LINES[0] + ",,,", *(f"{line},,1," for line in LINES[1:])))


def test_names_in_capitals_are_hinted_at(written: Write) -> None:
    with pytest.raises(TraceError, match=r"'JOB' may be 'job', 'SUBMIT_S' may be 'submit_s'"):
        traces.load(written(LINES[0].upper(), *LINES[1:]))


MORE = ("x,cost", "1,2", "3,4")


def test_extra_columns_are_named_at_once_and_may_be_passed_over(written: Write) -> None:
    path = written(*(f"{line},{more}" for line, more in zip(LINES, MORE, strict=True)))
    with pytest.raises(TraceError, match="columns 'x', 'cost' are unknown; rename them"):
        traces.load(path)
    loaded = check(path, ignore_extra=True)
    assert loaded.notes == ("ignored the columns 'x', 'cost'",)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"name": "job"}, ""),
        ({"name": "job", "job": "name"}, ""),
        ({"nome": "job"}, "--map nome=job: the file has no column 'nome'; it has name, job"),
        ({"name": "gpus"}, "--map name=gpus: there is another column 'gpus'; rename that one too"),
        ({"name": "x", "job": "x"}, "there is another column 'x'"),
    ],
)
def test_columns_are_renamed(
    tmp_path: Path, names: dict[str, str], message: str, kind: str
) -> None:
    table = pd.DataFrame({"name": ["a", "b"], "job": [1, 2], "submit_s": [0, 60],
                          "duration_s": [60, 120.5], "gpus": [8, 12]})  # fmt: skip
    if names == {"name": "job"}:
        table = table.drop(columns="job")
    path = tmp_path / f"jobs.{kind}"
    getattr(table, f"to_{kind}")(path, index=False)
    if message:
        with pytest.raises(TraceError, match=message):
            traces.load(path, map=names)
    else:
        check(path, map=names, ignore_extra=True)


def test_a_file_without_a_header(written: Write) -> None:
    path = written(*LINES[1:])
    check(path, columns=("job", "submit_s", "duration_s", "gpus"))
    check(written(*LINES), columns=("job", "submit_s", "duration_s", "gpus"))
    with pytest.raises(TraceError, match="--columns names 3 columns, the first row has 4"):
        traces.load(path, columns=("job", "submit_s", "duration_s"))


def packed_zip(text: bytes, *names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names or ("jobs.csv",):
            archive.writestr(name, text)
    return stream.getvalue()


def packed_tar(text: bytes, mode: str = "w", names: tuple[str, ...] = ("in/jobs.csv",)) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return stream.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "csv.gz": gzip.compress,
    "csv.bz2": bz2.compress,
    "csv.xz": lzma.compress,
    "csv.zst": lambda text: pa.Codec("zstd").compress(text, asbytes=True),
    "csv.zip": packed_zip,
    "zip": packed_zip,
    "tar": packed_tar,
    "tar.gz": lambda text: packed_tar(text, "w:gz"),
    "tgz": lambda text: packed_tar(text, "w:gz"),
    "tar.xz": lambda text: packed_tar(text, "w:xz"),
    "csv.gz.gz": lambda text: gzip.compress(gzip.compress(text)),
}


@pytest.mark.parametrize("ending", CONTAINERS)
def test_containers(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"jobs.{ending}"
    path.write_bytes(CONTAINERS[ending](TEXT.encode()))
    check(path)
    path.write_bytes(path.read_bytes()[: 520 if ending == "tar" else -20])
    with pytest.raises(TraceError, match=r"is not a valid .* file"):
        traces.load(path)


@pytest.mark.parametrize("ending", ["gz", "zip"])
def test_a_packed_parquet_table(tmp_path: Path, ending: str) -> None:
    stream = io.BytesIO()
    table = {"job": ["a", "b"], "submit_s": [0, 60], "duration_s": [60, 120.5], "gpus": [8, 12]}
    pq.write_table(pa.table(table), stream)
    path = tmp_path / f"jobs.parquet.{ending}"
    path.write_bytes({"gz": gzip.compress, "zip": packed_zip}[ending](stream.getvalue()))
    check(path)


def test_an_archive_of_several_files_names_them(tmp_path: Path) -> None:
    path = tmp_path / "jobs.zip"
    path.write_bytes(packed_zip(TEXT.encode(), "a.csv", "b.csv"))
    with pytest.raises(TraceError, match=r"archive of 2 files \(a.csv, b.csv\); unpack it"):
        traces.load(path)
    path = tmp_path / "jobs.tar"
    path.write_bytes(packed_tar(TEXT.encode(), names=("a.csv", "b.csv")))
    with pytest.raises(TraceError, match=r"archive of 2 files \(a.csv, b.csv\); unpack it"):
        traces.load(path)


MISTAKES = [
    ("jobs.csv", b"", "is empty"),
    ("jobs.txt", b"", r"first line \(nothing\)"),
    ("jobs.csv.gz", gzip.compress(b""), "is empty"),
    ("jobs.csv", b"\xef\xbb\xbf", "is empty"),
    ("jobs.csv", b"\n\n", "is empty"),
    ("jobs.csv", b"# only a comment\n", "is empty"),
    ("jobs.swf", b"", "has no job lines"),
    ("jobs.parquet", b"", "is not a Parquet table"),
    ("jobs.csv", TEXT.encode("utf-16-le"), "UTF-16 text without a byte order mark; save it as"),
    ("jobs.csv", TEXT.encode("utf-16-be"), "UTF-16 text without a byte order mark; save it as"),
    ("jobs.csv", TEXT.encode() + b"c,0,\0,8\n", "not text: it has NUL bytes"),
    ("jobs.xlsx", packed_zip(b"x", "[Content_Types].xml", "xl/workbook.xml"),
     "an Excel workbook.*; save its sheet as CSV"),
    ("jobs.csv", packed_zip(b"x", "[Content_Types].xml", "xl/book.xml"), "an Excel workbook"),
    ("jobs.ods", packed_zip(b"x", "mimetype", "META-INF/manifest.xml"), "OpenDocument"),
    ("jobs.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an old Excel workbook"),
    ("jobs.csv", b"%PDF-1.7\n%\xe2\xe3", "a PDF document; save the table as CSV"),
    ("jobs.csv", b"<!DOCTYPE html>\n<html><body>404</body>", "a web page; fetch the file"),
    ("jobs.csv", b"\n<html>\n", "a web page"),
    ("jobs.csv", b"<?xml version='1.0'?>", "an XML document"),
    ("jobs.json", b'[{"a": 1}]', "JSON in a form that muster does not know; write its jobs as CSV"),
    ("jobs.csv.gz", gzip.compress(b"%PDF-1.7\n"), "a PDF document"),
    ("jobs.pkl", b"\x80\x05\x95abc", "a Python pickle"),
    ("jobs.feather", b"ARROW1\0\0", "an Arrow or Feather table"),
    ("jobs.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS"),
    ("pods.yaml", b"apiVersion: v1\nitems:\n- apiVersion: v1\n  kind: Pod\n",
     "YAML of Kubernetes.*kubectl get pods -A -o json"),
    ("pod.csv", b"---\nkind: Pod\napiVersion: v1\n", "YAML of Kubernetes"),
    ("audit.yaml", b"apiVersion: audit.k8s.io/v1\nkind: Event\n", "audit log .* as YAML; .*JSON"),
    ("p.txt", b"NAMESPACE   NAME   READY   STATUS    RESTARTS   AGE\nn  a  1/1  Running  0  3d\n",
     "a table .*that kubectl prints.*-o json"),
    ("p.txt", b"NAME    READY   STATUS    RESTARTS   AGE   IP\na   1/1   Running   0   3d   -\n",
     "a table .*that kubectl prints"),
    ("p.txt", b"NAME   STATUS     COMPLETIONS   DURATION   AGE\na   Complete   1/1   5s   3d\n",
     "a table .*that kubectl prints"),
    ("p.txt", b"Name:             a\nNamespace:        default\n", "description that kubectl"),
    ("s.txt", b"JobID           JobName  Partition      State\n101               train   gpu  OK\n",
     "sacct in columns of fixed width.*sacct -a -P"),
    ("s.txt", b"JobID    Submit\n-------- ----------\n101   2026\n", "fixed width.*sacct -a -P"),
    ("s.txt", b"101               train        gpu       acct          8  COMPLETED      0:0\n",
     "fixed width and without a header line.*sacct -a -P"),
    ("s.txt", b"     JOBID PARTITION     NAME     USER ST\n   101   gpu   a   b   R\n",
     "squeue.*sacct -a -P"),
    ("s.txt", b"JobId=101 JobName=train\n", "scontrol show job.*sacct -a -P"),
    ("s.txt", b"PARTITION AVAIL  TIMELIMIT\ngpu up 1-00\n", "sinfo.*sacct -a -P"),
    ("jobs.txt", b"01/03/2024 08:00:00;E;1.server;user=u\n", "an accounting log of PBS"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_files_given_by_mistake_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        traces.load(path)


TABLE: dict[str, pa.Array] = {
    "job": pa.array(["a", "b"]),
    "submit_s": pa.array([0, 60]),
    "duration_s": pa.array([60, 120.5]),
    "gpus": pa.array([8, 12]),
}
SECONDS = [dt.timedelta(seconds=60), dt.timedelta(seconds=120, milliseconds=500)]
DATES = [dt.datetime(2024, 3, 31, 1), dt.datetime(2024, 3, 31, 1, 1)]
READ: dict[str, dict[str, pa.Array]] = {
    **{f"duration in {unit}": {"duration_s": pa.array(SECONDS, pa.duration(unit))}
       for unit in ("ms", "us", "ns")},
    **{f"date in {unit}": {"submit_s": pa.array(DATES, pa.timestamp(unit))}
       for unit in ("s", "ms", "us", "ns")},
    **{f"zone in {unit}": {"submit_s": pa.array(DATES, pa.timestamp(unit, "Europe/Berlin"))}
       for unit in ("s", "ms", "us", "ns")},
    "time since the start": {"submit_s": pa.array([dt.timedelta(), SECONDS[0]])},
    "dates as text": {"submit_s": pa.array(["2024-03-31 01:00:00", "2024-03-31 01:01:00"])},
    "dates as words": {"submit_s": pa.array(DATES, pa.timestamp("s")).dictionary_encode()},
    "decimals": {"duration_s": pa.array([decimal.Decimal("60.0"), decimal.Decimal("120.5")])},
    "numbers as text": {"duration_s": pa.array(["60", "120.5"])},
    "small floats": {"duration_s": pa.array(np.array([60, 120.5], np.float16))},
    "unsigned": {"gpus": pa.array([8, 12], pa.uint64())},
    "categories": {"gpus": pa.array([8, 12]).dictionary_encode(),
                   "job": pa.array(["a", "b"]).dictionary_encode()},
    "long text": {"job": pa.array(["a", "b"], pa.large_string())},
    "missing": {"user": pa.nulls(2), "priority": pa.nulls(2), "walltime_s": pa.nulls(2)},
}  # fmt: skip


def parquet(path: Path, columns: dict[str, pa.Array]) -> Path:
    target = path / "jobs.parquet"
    pq.write_table(pa.table({**TABLE, **columns}), target)
    return target


@pytest.mark.parametrize("case", READ)
def test_types_of_parquet(tmp_path: Path, case: str) -> None:
    loaded = check(parquet(tmp_path, READ[case]))
    submit = READ[case].get("submit_s")
    is_dated = submit is not None and "since" not in case
    assert loaded.offset_s == (1_711_846_800.0 if is_dated else 0.0)


def test_whole_seconds_and_days_in_parquet(tmp_path: Path) -> None:
    days = pa.array([dt.date(2024, 3, 1), dt.date(2024, 3, 2)])
    seconds = pa.array([60, 120], pa.int64()).cast(pa.duration("s"))
    jobs = traces.load(parquet(tmp_path, {"submit_s": days, "duration_s": seconds})).jobs
    assert jobs["submit_s"].tolist() == [0, 86_400]
    assert jobs["duration_s"].tolist() == [60, 120]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("duration_s", [True, False], "it holds true and false; write seconds"),
        ("gpus", [True, None], "it holds true and false; write numbers"),
        ("job", [True, False], "it holds true and false; write text"),
        ("duration_s", DATES, "it holds dates and times .*; write seconds"),
        ("user", DATES, "it holds dates and times .*; write text"),
        ("priority", SECONDS, "it holds lengths of time .*; write numbers"),
        ("job", [b"a", b"b"], "jobs.parquet, column 'job': it holds bytes; write text"),
        ("user", [["a"], ["b"]], "it holds lists or records; write text"),
        ("user", [{"a": 1}, {"a": 2}], "it holds lists or records; write text"),
        ("submit_s", [dt.time(10, 30), dt.time(11, 30)], "'10:30:00' must be a number"),
        ("submit_s", ["10:30", "11:30"], "'10:30' must be a number"),
        ("submit_s", ["03/04/2020", "05/06/2020"], "--dates day-first or --dates month-first"),
        ("duration_s", [SECONDS[0], None], "row 2, column 'duration_s': '' must be a number"),
    ],
)
def test_types_of_parquet_that_are_refused(
    tmp_path: Path, column: str, values: list[object], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        traces.load(parquet(tmp_path, {column: pa.array(values)}))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array(["u", None]).dictionary_encode(), ["u", ""]),
        (pa.array([7, None]), ["7", ""]),
        (pa.array([7.5, 8.0]), ["7.5", "8"]),
        (pa.array([2**60, 7]), [str(2**60), "7"]),
    ],
)
def test_names_in_parquet(tmp_path: Path, values: pa.Array, names: list[str]) -> None:
    loaded = traces.load(parquet(tmp_path, {"user": values, "job": pa.array([3, 4])}))
    assert loaded.jobs["user"].tolist() == names
    assert loaded.jobs["job"].tolist() == ["3", "4"]


def test_types_that_pandas_cannot_make_again(tmp_path: Path) -> None:
    """pandas writes the name of such a type into the file, and does not know it when it reads."""
    words = pa.array(["u", None]).dictionary_encode()
    user = pd.Series(pd.array(words, dtype=pd.ArrowDtype(words.type)))
    frame().assign(user=user).to_parquet(tmp_path / "jobs.parquet")
    assert check(tmp_path / "jobs.parquet").jobs["user"].tolist() == ["u", ""]


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["a", "b"], name="job"),
        pd.MultiIndex.from_tuples([("a", "u"), ("b", "v")], names=["job", "user"]),
        pd.MultiIndex.from_tuples([("a", 0), ("b", 1)], names=["job", None]),
    ],
)
def test_the_index_of_a_data_frame(tmp_path: Path, index: pd.Index) -> None:
    table = pd.DataFrame({"submit_s": [0, 60], "duration_s": [60, 120.5], "gpus": [8, 12]}, index)
    table.to_parquet(tmp_path / "jobs.parquet")
    check(tmp_path / "jobs.parquet")


def test_jobs_without_gpus(written: Write) -> None:
    jobs = traces.load(written(LINES[0] + ",cpu_per_pod", "a,0,60,0,4"), gpus_per_node=0).jobs
    assert jobs[["num_pods", "gpus_per_pod", "cpu_per_pod"]].to_numpy().tolist() == [[1, 0, 4]]


def test_the_table_of_a_run_is_read_without_its_results(tmp_path: Path) -> None:
    jobs = traces.load(_written(tmp_path / "jobs.csv")).jobs
    table = jobs.drop(columns=["min_member", "gpu_model", "pool", "last_pod_gpus"])
    table["gpus"], table["start_s"], table["end_s"] = total_gpus(jobs), 1.0, 2.0
    table["attempts"], table["held_gpu_s"], table["pending_capacity_s"] = 1, 5.0, 6.0
    table["outcome"] = ["completed", "never_fits"]
    table.to_parquet(tmp_path / "jobs.parquet")
    loaded = check(tmp_path / "jobs.parquet")
    pd.testing.assert_frame_equal(loaded.jobs.drop(columns="outcome"), jobs.drop(columns="outcome"))
    assert loaded.jobs["outcome"].tolist() == ["completed", "unknown"]
    assert "the table of a run: its 6 columns of results are ignored" in loaded.notes[0]


def _written(path: Path) -> Path:
    path.write_text(TEXT)
    return path


HEADER = LINES[0]


@pytest.mark.parametrize(
    ("submit_s", "message"),
    [
        ("1700000000000", "looks like milliseconds since 1970; divide by 1000;"),
        ("1700000000000.5", "looks like milliseconds since 1970; divide by 1000;"),
        ("1700000000000000", "looks like microseconds since 1970; divide by 1000000;"),
        ("1700000000000000000", "looks like nanoseconds since 1970; divide by 1000000000;"),
        ("20240301080000", "looks like a date; write it as 2024-03-01 08:00:00;"),
        ("202403010800", "looks like a date; write it as 2024-03-01 08:00:00;"),
        ("1 March 2024", "must be a number, at least 0, or a date such as 2024-03-01 08:00:00"),
    ],
)
def test_submissions_that_are_no_seconds(written: Write, submit_s: str, message: str) -> None:
    path = written(HEADER, "a,0,60,8", f"b,{submit_s},60,8")
    with pytest.raises(TraceError, match=f"line 3, column 'submit_s': '{submit_s}' {message}"):
        traces.load(path)


@pytest.mark.parametrize(
    ("first", "second", "is_said"),
    [(20240229, 20240301, True), (20240229, 20240260, False), (20240301, 20240301.5, False)],
)
def test_days_written_as_numbers_are_named(
    written: Write, first: float, second: float, is_said: bool
) -> None:
    notes = traces.load(written(HEADER, f"a,{first},60,8", f"b,{second},60,8")).notes
    assert any("look like dates, such as 20240229," in note for note in notes) == is_said


def test_milliseconds_in_parquet_and_in_other_formats(written: Write, tmp_path: Path) -> None:
    ms = pa.array([1_700_000_000_000, 1_700_000_060_000])
    with pytest.raises(TraceError, match="row 1, column 'submit_s': '1700000000000' looks like mi"):
        traces.load(parquet(tmp_path, {"submit_s": ms}))
    path = written("job_id,num_gpu,submit_time,duration", "7,1,1700000000000,5")
    with pytest.raises(TraceError, match=r"job '7': .* 1700000000000, looks like milliseconds"):
        traces.load(path)


@pytest.mark.parametrize(
    ("times", "notes"),
    [
        ([0, 1.7e9, 1.7e9], ["1 job is submitted 53.9 years before all others, such as 'j0'"]),
        ([1.7e9, 1.7e9, 4e9], ["1 job is submitted 72.9 years after all others, such as 'j2'"]),
        ([0, 1.7e9, 1.7e9, 4e9], ["1 job is submitted 53.9 years before", "72.9 years after"]),
        ([1.6e9, 1.7e9], []),
    ],
)
def test_a_job_years_away_from_the_others_is_named(
    written: Write, times: list[float], notes: list[str]
) -> None:
    found = traces.load(
        written(HEADER, *(f"j{place},{time:.0f},60,8" for place, time in enumerate(times)))
    ).notes
    assert len(found) == len(notes)
    assert all(part in note for part, note in zip(notes, found, strict=True))


def test_outcomes_may_have_the_words_of_other_formats(written: Write) -> None:
    words = ["COMPLETED", "CANCELLED by 5", "Failed", "Killed", "running", "", "odd", "Canceled"]
    rows = [f"j{place},{place},60,8,{word}" for place, word in enumerate(words)]
    loaded = traces.load(written(f"{HEADER},outcome", *rows))
    assert loaded.jobs["outcome"].tolist() == [
        "completed", "cancelled", "failed", "cancelled", "unfinished", "completed", "unknown",
        "cancelled",
    ]  # fmt: skip
    (note,) = loaded.notes
    assert note.startswith("jobs with an unknown outcome in column 'outcome': 1, 'odd' (1)")


def test_outcomes_in_parquet(tmp_path: Path) -> None:
    words = pa.array(["TIMEOUT", "unknown"])
    loaded = traces.load(parquet(tmp_path, {"outcome": words}))
    assert loaded.jobs["outcome"].tolist() == ["failed", "unknown"]
    assert loaded.notes == ()


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {"job": ["a", "b"], "submit_s": [0, 60], "duration_s": [60, 120.5], "gpus": [8, 12]}
    )


def test_periods_are_refused(tmp_path: Path) -> None:
    months = pd.period_range("2024-01", periods=2, freq="M")
    path = tmp_path / "jobs.parquet"
    for column, wanted in (("submit_s", "seconds or dates"), ("user", "text")):
        jobs = frame().assign(**{column: months})
        jobs.to_parquet(path)
        message = rf"column '{column}': it holds periods \(period\[M\]\); write {wanted}"
        with pytest.raises(TraceError, match=message):
            traces.load(path)
        with pytest.raises(TraceError, match=f"jobs table, {message}"):
            traces.complete(jobs)


def test_an_index_that_is_a_column_too(tmp_path: Path) -> None:
    jobs = frame().set_index("job", drop=False)
    jobs.to_parquet(tmp_path / "jobs.parquet")
    check(tmp_path / "jobs.parquet")
    assert traces.complete(jobs)["job"].tolist() == ["a", "b"]


@pytest.mark.parametrize("first", ["a,0,60,8", "1,0,60,8"])
def test_a_table_whose_first_row_is_a_job(written: Write, first: str) -> None:
    with pytest.raises(TraceError, match=r"first row \(., 0, 60, 8\) is data, .* --columns job,"):
        traces.load(written(first, LINES[2]))


def test_too_many_pods_name_the_most(written: Write) -> None:
    with pytest.raises(TraceError, match=r"'3000000000' must be .* and at most 2,147,483,647"):
        traces.load(written(HEADER, "a,0,60,3000000000"))


def test_rows_that_begin_as_comments_are_counted(written: Write) -> None:
    loaded = traces.load(written(*LINES, "#c,70,60,8", "# a comment", "#d,80,60,8"))
    assert loaded.jobs["job"].tolist() == ["a", "b", "#c", "#d"]
    assert any(
        "begin with # and have as many cells as the header: 2;" in note
        and "the first on line 4: '#c'" in note
        for note in loaded.notes
    )
    assert not any("begin with #" in note for note in traces.load(written(*LINES)).notes)
