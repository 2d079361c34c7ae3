"""Slurm's accounting: columns, times, resources, states, arrays, requeues and parts of jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus
from traces.formats import sacct, tres

Write = Callable[..., Path]
SAMPLE = Path(__file__).parents[1] / "samples" / "sacct.txt"
#: the columns that the README asks for, and one job's values
ROW = {
    "JobID": "7",
    "JobIDRaw": "7",
    "User": "ada",
    "Account": "vision",
    "Partition": "gpu",
    "State": "COMPLETED",
    "Submit": "2026-10-01T08:00:00",
    "Start": "2026-10-01T08:01:00",
    "End": "2026-10-01T09:01:00",
    "ElapsedRaw": "3600",
    "TimelimitRaw": "120",
    "NNodes": "2",
    "NCPUS": "64",
    "ReqTRES": "billing=64,cpu=64,gres/gpu=8,mem=512G,node=2",
    "AllocTRES": "billing=64,cpu=64,gres/gpu:a100=8,gres/gpu=8,mem=512G,node=2",
}


@pytest.fixture
def log(written: Write) -> Callable[..., Path]:
    """Write a log of rows that differ from `ROW` in what is given; None leaves a column out."""

    def write(*rows: dict[str, str | None], delimiter: str = "|", end: str = "") -> Path:
        whole = [{**ROW, **row} for row in rows or ({},)]
        names = [name for name, value in whole[0].items() if value is not None]
        lines = [names, *([str(row[name]) for name in names] for row in whole)]
        return written(*(delimiter.join(line) + end for line in lines), name="jobs.txt")

    return write


def job(path: Path, **options: object) -> dict[str, object]:
    """Return the only job of a log."""
    (row,) = traces.load(path, **options).jobs.to_dict("records")  # type: ignore[arg-type]
    return row


@pytest.mark.parametrize("name", ["NodeList", "Elapsed"])
def test_commas_between_cells_and_within_them(log: Write, name: str) -> None:
    more: dict[str, str | None] = {"NodeList": "n[1,3-4]", "Elapsed": "01:00:00"}
    rows = (
        {"JobID": "102_[1,3%2]", "State": "PENDING", "Start": "Unknown", "AllocTRES": ""},
        {"JobID": "8", "ReqTRES": "cpu=64,mem=512G,node=2"},
        {"JobID": "9", name: more[name]},
    )
    first = {name: more[name]}
    expected = traces.load(log(first, *({**first, **row} for row in rows)))
    found = traces.load(log(first, *({**first, **row} for row in rows), delimiter=","))
    assert found.jobs["job"].tolist() == ["7", "8", "9"]
    assert found.jobs.equals(expected.jobs)
    assert found.num_bad == 0


def test_the_sample(written: Write) -> None:
    loaded = traces.load(SAMPLE)
    jobs = loaded.jobs.set_index("job")
    assert (loaded.kind, loaded.num_bad) == ("sacct", 0)
    assert loaded.why == "it has sacct's columns JobID, JobIDRaw, User, Account"
    assert jobs.index.tolist() == ["2001", "2002_1", "2005", "2006", "2006#2", "2007", "2009"]
    assert loaded.offset_s == datetime(2026, 10, 1, 8, tzinfo=UTC).timestamp()
    assert jobs["submit_s"].tolist() == [0, 60, 180, 240, 960, 3600, 5400]
    assert jobs["duration_s"].tolist() == [7200, 1800, 3630, 600, 7200, 600, 1200]
    assert jobs["walltime_s"].tolist() == [86400, 7200, 3600, 14400, 14400, 1800, 172800]
    assert jobs["num_pods"].tolist() == [2, 1, 1, 1, 1, 2, 1]
    assert jobs["gpus_per_pod"].tolist() == [8, 1, 0, 8, 8, 4, 4]
    assert total_gpus(loaded.jobs).tolist() == [16, 1, 0, 8, 8, 8, 4]
    assert jobs["user"].tolist() == ["ada", "bo", "cy", "ada", "ada", "dee", "dee"]
    assert jobs["queue"].tolist() == ["gpu", "gpu", "cpu", "gpu", "gpu", "gpu", "gpu"]
    assert jobs["outcome"].tolist() == [
        "completed", "completed", "failed", "failed", "completed", "completed", "unfinished",
    ]  # fmt: skip
    assert jobs.loc["2005", ["cpu_per_pod", "mem_gib_per_pod"]].tolist() == [32, 128]
    assert (jobs["gpu_model"] == "").all(), "what a job got is not what it needs"
    assert dict(loaded.left_out) == {sacct.STEP: 3, sacct.PENDING: 1, sacct.NEVER_RAN: 1}
    notes = "\n".join(loaded.notes)
    for part in (
        "array tasks that had not started: 9",
        "requeued jobs: 1;",
        "heterogeneous jobs: 1; their parts (2 in all)",
        "jobs still running when the file ends: 1;",
        "jobs without a GPU: 1;",
        "h100 (6)",
    ):
        assert part in notes


def test_counts_of_the_sample_by_hand() -> None:
    """Lines whose id has no dot and that started, counted without the reader."""
    rows = [line.split("|") for line in SAMPLE.read_text().splitlines()[1:]]
    ran = [row for row in rows if "." not in row[0] and row[7] not in ("None", "Unknown")]
    parts = sum("+" in row[0] for row in ran) - len({row[0][:4] for row in ran if "+" in row[0]})
    loaded = traces.load(SAMPLE)
    assert len(loaded.jobs) == len(ran) - parts
    assert len(rows) == len(ran) + sum(loaded.left_out.values())
    gpus = sum(int(row[14].partition("gres/gpu=")[2].partition(",")[0] or 0) for row in ran)
    assert total_gpus(loaded.jobs).sum() == gpus


@pytest.mark.parametrize("delimiter", ["|", ";", "\t"])
@pytest.mark.parametrize("end", ["", "of the line"])
def test_delimiters_and_a_delimiter_at_the_end_of_each_line(
    log: Write, delimiter: str, end: str
) -> None:
    path = log({}, {"JobID": "8"}, delimiter=delimiter, end=delimiter if end else "")
    assert traces.load(path).jobs["job"].tolist() == ["7", "8"]


def test_a_table_with_commas_and_quotes(written: Write) -> None:
    lines = [",".join(f'"{cell}"' for cell in cells) for cells in (ROW, ROW.values())]
    assert job(written(*lines, name="jobs.csv"))["num_pods"] == 2


def test_commas_that_cannot_be_told_apart(log: Write) -> None:
    with pytest.raises(TraceError, match="sacct -a -P"):
        traces.load(log({"User": "a,b"}, delimiter=","))


@pytest.mark.parametrize("end", ["", "|"])
@pytest.mark.parametrize("width", ["", "%30"])
def test_a_log_without_a_header(log: Write, width: str, end: str) -> None:
    whole = log({}, {"JobID": "8"}, end=end).read_text().splitlines()
    path = log()
    path.write_text("\n".join(whole[1:]) + "\n")
    with pytest.raises(TraceError, match=r"sacct without a header line; .*--columns JobID,User"):
        traces.load(path)
    columns = tuple(f"{name.lower()}{width}" for name in ROW)
    assert traces.load(path, columns=columns).jobs["job"].tolist() == ["7", "8"]
    with pytest.raises(TraceError, match=r"--columns names 3 columns, the first row has 1[56]"):
        traces.load(path, columns=columns[:3])


def test_a_header_that_is_there_and_given(log: Write) -> None:
    assert job(log(), columns=tuple(ROW))["job"] == "7"


def test_any_order_and_subset_of_columns(log: Write) -> None:
    few = dict.fromkeys(ROW)
    for name in ("AllocTRES", "Elapsed", "Submit", "JobIDRaw"):
        few[name] = ROW.get(name, "01:00:00")
    path = log({**few, "JobIDRaw": "7"})
    found = job(path)
    assert (found["job"], found["num_pods"], found["gpus_per_pod"]) == ("7", 2, 4)
    assert (found["duration_s"], found["walltime_s"]) == (3600, 3600)
    assert (found["user"], found["queue"], found["outcome"]) == ("", "", "unknown")


@pytest.mark.parametrize(
    ("without", "what"),
    [
        (("AllocTRES", "ReqTRES"), r"their GPUs \(AllocTRES\)"),
        (("Submit",), r"when jobs were submitted \(Submit\)"),
        (("ElapsedRaw", "End"), r"how long they ran \(ElapsedRaw\)"),
        (("Submit", "ElapsedRaw", "Start"), r"\(Submit\) and how long they ran"),
    ],
)
def test_a_log_that_lacks_something_is_refused_with_the_command(
    log: Write, without: tuple[str, ...], what: str
) -> None:
    path = log(dict.fromkeys(without))
    with pytest.raises(
        TraceError, match=f"lacks .*{what}.*: sacct -a -P -S .*AllocTRES > jobs.txt"
    ):
        traces.load(path)


@pytest.mark.parametrize(
    ("values", "duration_s"),
    [
        ({"ElapsedRaw": "90"}, 90),
        ({"ElapsedRaw": None, "Elapsed": "2-03:04:05"}, 183_845),
        ({"ElapsedRaw": None, "Elapsed": "03:04:05"}, 11_045),
        ({"ElapsedRaw": None, "Elapsed": "04:05.250"}, 245.25),
        ({"ElapsedRaw": "", "Elapsed": "00:01:30"}, 90),
        ({"ElapsedRaw": None}, 3600),
        ({"ElapsedRaw": "0"}, 0),
    ],
)
def test_run_times(log: Write, values: dict[str, str | None], duration_s: float) -> None:
    assert job(log(values))["duration_s"] == duration_s


@pytest.mark.parametrize(
    ("values", "walltime_s"),
    [
        ({"TimelimitRaw": "90"}, 5400),
        ({"TimelimitRaw": "30"}, 1800),
        ({"TimelimitRaw": None, "Timelimit": "1-00:00:00"}, 86_400),
        ({"TimelimitRaw": "", "Timelimit": "00:30:00"}, 1800),
        *(({"TimelimitRaw": word}, 3600) for word in (
            "", "UNLIMITED", "Partition_Limit", "INVALID", "None", "0", "4294967295",
        )),
        ({"TimelimitRaw": None, "Timelimit": "Partition_Limit"}, 3600),
        ({"TimelimitRaw": None}, 3600),
    ],
)  # fmt: skip
def test_time_limits(log: Write, values: dict[str, str | None], walltime_s: float) -> None:
    loaded = traces.load(log(values))
    assert loaded.jobs["walltime_s"].tolist() == [walltime_s]
    assert any("without a time limit: 1;" in note for note in loaded.notes) == (walltime_s == 3600)


@pytest.mark.parametrize(
    ("submit", "unix_s"),
    [
        ("1790841600", 1790841600),
        ("2026-10-01T08:00:00", 1790841600),
        ("2026-10-01 08:00:00", 1790841600),
        ("2026-10-01T10:00:00+0200", 1790841600),
        ("2026-10-01T10:00:00+02:00", 1790841600),
    ],
)
def test_dates(log: Write, submit: str, unix_s: float) -> None:
    values = dict.fromkeys(("Submit", "Start", "End"), submit)
    assert traces.load(log(values)).offset_s == unix_s


@pytest.mark.parametrize(
    ("values", "pods"),
    [
        ({}, (2, 4, 4)),
        ({"AllocTRES": "cpu=1,gres/gpu=8,node=1"}, (2, 4, 4)),
        ({"NNodes": None, "AllocTRES": "gres/gpu=8,node=4"}, (4, 2, 2)),
        ({"NNodes": None, "AllocNodes": "4"}, (4, 2, 2)),
        ({"AllocTRES": "gres/gpu:a100=6,gres/gpu:v100=2,node=2"}, (2, 4, 4)),
        ({"AllocTRES": "gres/gpu:a100=8"}, (2, 4, 4)),
        ({"AllocTRES": "gres/gpu:nvidia_a100-sxm4-40gb=8,gres/gpu=8"}, (2, 4, 4)),
        ({"AllocTRES": ""}, (2, 4, 4)),
        ({"AllocTRES": None}, (2, 4, 4)),
        ({"AllocTRES": "", "ReqTRES": "", "NCPUS": "4"}, (2, 0, 0)),
        ({"AllocTRES": "cpu=8,node=2", "ReqTRES": ""}, (2, 0, 0)),
        ({"AllocTRES": None, "ReqTRES": None, "AllocGRES": "gpu:8"}, (2, 4, 4)),
        ({"AllocTRES": None, "ReqTRES": None, "AllocGRES": "gpu:tesla:8"}, (2, 4, 4)),
        ({"AllocTRES": None, "ReqTRES": None, "ReqGRES": "gpu:a100:8(S:0-1)"}, (2, 4, 4)),
        ({"AllocTRES": None, "ReqTRES": None, "ReqGRES": "gres:gpu:8"}, (2, 4, 4)),
        ({"AllocTRES": None, "ReqTRES": None, "ReqGRES": "craynetwork:1"}, (2, 0, 0)),
        ({"NNodes": "3"}, (3, 3, 2)),
        ({"NNodes": "4", "AllocTRES": "gres/gpu=10"}, (4, 3, 1)),
        ({"NNodes": "1"}, (1, 8, 8)),
        ({"NNodes": "1", "AllocTRES": "gres/gpu=16"}, (2, 8, 8)),
        ({"NNodes": "1K", "AllocTRES": "gres/gpu=8192"}, (1024, 8, 8)),
        ({"NNodes": None, "AllocTRES": "gres/gpu=20"}, (3, 8, 4)),
        ({"AllocTRES": "gres/shard=4,cpu=2", "ReqTRES": "", "NNodes": "1"}, (1, 1, 1)),
    ],
)
def test_gpus_and_nodes(
    log: Write, values: dict[str, str | None], pods: tuple[int, int, int]
) -> None:
    found = job(log(values))
    assert (found["num_pods"], found["gpus_per_pod"], found["last_pod_gpus"]) == pods


@pytest.mark.parametrize(("size", "pods"), [(4, (2, 4, 4)), (2, (4, 2, 2)), (3, (3, 3, 2))])
def test_pods_are_no_larger_than_the_nodes_of_the_cluster(
    log: Write, size: int, pods: tuple[int, int, int]
) -> None:
    found = job(log(), gpus_per_node=size)
    assert (found["num_pods"], found["gpus_per_pod"], found["last_pod_gpus"]) == pods
    assert found["cpu_per_pod"] == 64 / pods[0]


@pytest.mark.parametrize(
    ("values", "gib"),
    [
        ({}, 256),
        ({"AllocTRES": "mem=1T"}, 512),
        ({"AllocTRES": "mem=187.50G"}, 93.75),
        ({"AllocTRES": "mem=2048M"}, 1),
        ({"AllocTRES": "mem=2048"}, 1),
        ({"AllocTRES": "cpu=64", "ReqTRES": "", "ReqMem": "4Gc"}, 128),
        ({"AllocTRES": "cpu=64", "ReqTRES": "", "ReqMem": "64Gn"}, 64),
        ({"AllocTRES": "cpu=64", "ReqTRES": "", "ReqMem": "64G"}, 32),
        ({"AllocTRES": "cpu=64", "ReqTRES": "", "ReqMem": "0n"}, 0),
    ],
)
def test_memory_of_a_pod(log: Write, values: dict[str, str | None], gib: float) -> None:
    assert job(log(values))["mem_gib_per_pod"] == gib


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("COMPLETED", "completed"), ("CANCELLED by 1000", "cancelled"), ("CANCELLED+", "cancelled"),
        ("cancelled", "cancelled"), ("FAILED", "failed"), ("TIMEOUT", "failed"),
        ("NODE_FAIL", "failed"), ("OUT_OF_MEMORY", "failed"), ("PREEMPTED", "failed"),
        ("DEADLINE", "failed"), ("BOOT_FAIL", "failed"), ("REQUEUED", "failed"),
        ("RUNNING", "unfinished"), ("SUSPENDED", "unfinished"), ("OUT_OF_ME+", "failed"),
        ("REVOKED", "cancelled"), ("RESIZING", "completed"), ("SPECIAL_EXIT", "failed"),
        ("STOPPED", "unfinished"), ("COMPLETING", "unfinished"), ("CANCELLED by root", "cancelled"),
    ],
)  # fmt: skip
def test_states(log: Write, state: str, outcome: str) -> None:
    loaded = traces.load(log({"State": state}))
    assert loaded.jobs["outcome"].tolist() == [outcome]
    assert not any("unknown outcome" in note for note in loaded.notes)


def test_a_state_that_is_not_known_is_counted_and_named(log: Write) -> None:
    rows = [{"State": "ASLEEP"}, {"State": "ASLEEP", "JobID": "8"}, {"State": "S+", "JobID": "9"}]
    loaded = traces.load(log(*rows))
    assert loaded.jobs["outcome"].tolist() == ["unknown"] * 3
    assert any("'ASLEEP' (2), 'S+' (1)" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"State": "PENDING", "Start": "Unknown", "ElapsedRaw": "0"}, sacct.PENDING),
        ({"State": "PENDING", "Start": "2026-10-02T00:00:00", "ElapsedRaw": "0"}, sacct.PENDING),
        ({"State": "CONFIGURING", "ElapsedRaw": ""}, sacct.PENDING),
        ({"State": "CANCELLED by 7", "Start": "None", "ElapsedRaw": "0"}, sacct.NEVER_RAN),
        ({"State": "CANCELLED", "Start": "Unknown", "ElapsedRaw": "0"}, sacct.NEVER_RAN),
        ({"State": "FAILED", "Start": "", "ElapsedRaw": "0"}, sacct.NEVER_RAN),
        ({"State": "CANCELLED", "Start": ROW["End"], "ElapsedRaw": "0", "AllocTRES": ""},
         sacct.NEVER_RAN),
        ({"State": "CANCELLED", "ElapsedRaw": "0", "AllocTRES": "", "TimelimitRaw": "soon"},
         sacct.NEVER_RAN),
    ],
)  # fmt: skip
def test_rows_that_never_ran_are_left_out_and_counted(
    log: Write, values: dict[str, str | None], reason: str
) -> None:
    loaded = traces.load(log({"JobID": "6"}, values))
    assert loaded.jobs["job"].tolist() == ["6"]
    assert dict(loaded.left_out) == {reason: 1}
    assert (loaded.num_bad, loaded.rejected["line"].tolist()) == (0, [3])


def test_a_job_that_failed_at_once_ran(log: Write) -> None:
    assert job(log({"State": "FAILED", "ElapsedRaw": "0"}))["duration_s"] == 0


def test_no_job_ran(log: Write) -> None:
    with pytest.raises(TraceError, match="none of its 1 jobs ran; 1 left out: the job had not"):
        traces.load(log({"State": "PENDING", "Start": "Unknown"}))


@pytest.mark.parametrize(
    ("job_id", "tasks"),
    [
        ("102_[1-10%2]", 10), ("102_[1-10]", 10), ("102_[1,3,5-7]", 5), ("102_[0-8:4,9]", 4),
        ("102_[7]", 1), ("102_[1-3,...]", 3),
    ],
)  # fmt: skip
def test_arrays_that_wait(log: Write, job_id: str, tasks: int) -> None:
    waits = {"JobID": job_id, "State": "PENDING", "Start": "Unknown", "ElapsedRaw": "0"}
    loaded = traces.load(log({"JobID": "102_0"}, waits))
    assert loaded.jobs["job"].tolist() == ["102_0"]
    assert f"array tasks that had not started: {tasks}, in 1 of" in "".join(loaded.notes)


@pytest.mark.parametrize(
    "step", ["7.batch", "7.extern", "7.0", "7.12", "7.interactive", "102_7.batch", "7+1.0"]
)
def test_steps_are_left_out_and_counted_even_torn_ones(log: Write, step: str) -> None:
    path = log({}, {"JobID": step, "Submit": "", "State": "RUNNING"})
    path.write_text(path.read_text() + f"{step}|torn\n")
    loaded = traces.load(path)
    assert loaded.jobs["job"].tolist() == ["7"]
    assert (dict(loaded.left_out), len(loaded.rejected)) == ({sacct.STEP: 2}, 0)


def test_attempts_are_jobs_in_order_of_their_start(log: Write) -> None:
    again = {"Submit": "2026-10-01T09:02:00", "Start": "2026-10-01T09:03:00", "ElapsedRaw": "60"}
    loaded = traces.load(log(again, {"State": "NODE_FAIL"}, {"JobID": "9"}))
    assert loaded.jobs["job"].tolist() == ["7", "9", "7#2"]
    assert loaded.jobs["duration_s"].tolist() == [3600, 3600, 60]


def test_a_row_that_two_exports_share_counts_once_with_its_latest_state(log: Write) -> None:
    running = {"State": "RUNNING", "End": "Unknown", "ElapsedRaw": "60"}
    loaded = traces.load(log(running, {}))
    assert loaded.jobs["duration_s"].tolist() == [3600]
    assert dict(loaded.left_out) == {sacct.REPEATED: 1}


def test_exports_that_were_put_together(log: Write) -> None:
    lines = log({}, {"JobID": "8"}).read_text().splitlines()
    path = log()
    path.write_text("\n".join([lines[0], lines[1], lines[0], lines[2]]) + "\n")
    loaded = traces.load(path)
    assert loaded.jobs["job"].tolist() == ["7", "8"]
    assert any("further header lines: 1" in note for note in loaded.notes)


@pytest.mark.parametrize(("day", "is_said"), [("2026-09-30", False), ("2026-09-20", True)])
def test_a_log_that_begins_in_the_middle(log: Write, day: str, is_said: bool) -> None:
    long = {"JobID": "6", "Submit": f"{day}T10:00:00", "Start": f"{day}T10:00:00"}
    loaded = traces.load(log({**long, "ElapsedRaw": "999999"}, {}))
    said = [note for note in loaded.notes if "before the first one of the log ended: 2" in note]
    assert bool(said) == is_said


def test_clusters_count_their_jobs_each_from_one(log: Write) -> None:
    loaded = traces.load(log({"Cluster": "east"}, {"Cluster": "west"}))
    assert loaded.jobs["job"].tolist() == ["east:7", "west:7"]
    loaded = traces.load(log({"Cluster": "east"}, {"Cluster": "east", "JobID": "8"}))
    assert loaded.jobs["job"].tolist() == ["7", "8"]


def test_a_job_that_started_before_submit_counts_from_its_start(log: Write) -> None:
    late = {"Submit": "2026-10-01T08:02:00"}
    loaded = traces.load(log({"JobID": "6"}, late))
    assert loaded.jobs["submit_s"].tolist() == [0, 60]
    assert any("Start before Submit (requeued): 1;" in note for note in loaded.notes)


def test_a_job_that_runs_lasts_until_the_latest_time_of_the_log(log: Write) -> None:
    no_elapsed = {"ElapsedRaw": None, "State": "RUNNING", "End": "Unknown"}
    loaded = traces.load(log(no_elapsed, {**no_elapsed, "JobID": "8", "End": ROW["End"]}))
    assert loaded.jobs["duration_s"].tolist() == [3600, 3600]


def test_parts_of_a_heterogeneous_job_are_one_gang(log: Write) -> None:
    leader = {"JobID": "7+0", "NNodes": "1", "AllocTRES": "cpu=4,node=1", "ReqTRES": ""}
    loaded = traces.load(log(leader, {"JobID": "7+1"}, {"JobID": "8"}))
    assert loaded.jobs["job"].tolist() == ["8", "7"]
    assert loaded.jobs["num_pods"].tolist() == [2, 2]
    assert loaded.jobs["gpus_per_pod"].tolist() == [4, 4]
    assert loaded.jobs["cpu_per_pod"].tolist() == [32, 34]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Submit": "yesterday"}, "'Submit': 'yesterday' must be a date"),
        ({"Start": "10:30"}, "'Start': '10:30' must be a date"),
        ({"Submit": "Unknown"}, "'Submit': 'Unknown' is no time"),
        ({"Submit": ""}, "'Submit': '' is missing"),
        ({"ElapsedRaw": "INVALID", "End": "Unknown"}, "'INVALID' is no time, and Start and End"),
        ({"ElapsedRaw": "-5"}, "'-5' must be a number of seconds, at least 0"),
        ({"ElapsedRaw": "1e3x"}, "'ElapsedRaw': '1e3x' must be a number of seconds"),
        ({"ElapsedRaw": "", "Start": "2026-10-01T10:00:00"}, "'ElapsedRaw': '' is missing"),
        ({"TimelimitRaw": "an hour"}, "'TimelimitRaw': 'an hour' must be a number of minutes"),
        ({"NNodes": "two"}, "'NNodes': 'two' must be a count"),
        ({"AllocTRES": "gres/gpu=many"}, "'AllocTRES': 'gres/gpu=many' must be resources such"),
        ({"AllocTRES": "gres/gpu=9999999999"}, "must be 2,147,483,647 GPUs at most"),
        ({"JobID": "seven"}, "'JobID': 'seven' must be a job's id"),
        ({"JobID": ""}, "'JobID': '' must be a job's id"),
    ],
)
def test_bad_rows_are_named(log: Write, values: dict[str, str | None], message: str) -> None:
    path = log({"JobID": "6"}, {**values, **({"JobIDRaw": ""} if "JobID" in values else {})})
    with pytest.raises(TraceError, match=f"in 1 of 2 rows: line 3, .*{message}"):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert (loaded.jobs["job"].tolist(), loaded.num_bad) == (["6"], 1)


@pytest.mark.parametrize("name", ['"quoted', "müller", "名前", "#hash", "a;b", "x,y"])
def test_names_are_kept_as_they_are(log: Write, name: str) -> None:
    assert job(log({"User": name}, end="|"))["user"] == name


@pytest.mark.parametrize(
    ("text", "gpus", "model", "strange"),
    [
        ("billing=1,energy=5,gres/gpumem=3G,gres/gpuutil=7,gres/gpu=2", 2, "", ""),
        ("gres/gpu:A100=2", 2, "A100", ""),
        ("gres/gpu:a100=1,gres/gpu:h100=1", 2, "a100+h100", ""),
        ("gres/gpu:a100=0,gres/gpu=0", 0, "", ""),
        ("gres/npu=8,license/matlab=1", None, "", "gres/npu"),
    ],
)
def test_tres(text: str, gpus: float | None, model: str, strange: str) -> None:
    import pandas as pd

    found = tres.tres(pd.Series([text])).iloc[0]
    assert (None if pd.isna(found["gpus"]) else found["gpus"]) == gpus
    assert (found["model"], found["strange"]) == (model, strange)


def test_other_resources_are_counted_and_named(log: Write) -> None:
    loaded = traces.load(log({"AllocTRES": "cpu=1,gres/npu=8,node=1", "ReqTRES": ""}))
    notes = "\n".join(loaded.notes)
    assert "ignored other resources: gres/npu (1)" in notes
    assert "no job has GPUs: if some used them" in notes


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (["JobID           JobName  Partition", "------------ ---------- ----------", "1 a b"],
         "sacct in columns of fixed width"),
        (["             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)"],
         "the output of squeue"),
        (["JOBID|PARTITION|NAME|USER|ST|TIME"], "the output of squeue"),
        (["JobId=7 JobName=a UserId=u(1) GroupId=g(1)"], "the output of scontrol show job"),
        (['{"meta": {"plugin": {"type": "openapi/slurmdbd"}}, "jobs": []}'], "sacct as JSON"),
    ],
)  # fmt: skip
def test_other_outputs_of_slurm_are_refused_with_the_command(
    written: Write, lines: list[str], what: str
) -> None:
    with pytest.raises(TraceError, match=rf"{what}.*: sacct -a -P -S"):
        traces.load(written(*lines, name="jobs.txt"))
