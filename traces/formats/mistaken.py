"""Files that people give by mistake: what each is, and how to get one that can be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from traces.formats import headless
from traces.formats.source import LINE_END, Source
from traces.schema import TraceError

#: what gives a log that `sacct` reads
SACCT = (
    "sacct -a -P -S 2026-10-01 -o JobID,JobIDRaw,User,Account,Partition,State,Submit,Start,End,"
    "ElapsedRaw,TimelimitRaw,NNodes,NCPUS,ReqTRES,AllocTRES > jobs.txt"
)
#: a cell of JobID: 101, 102_7, 102_[1-10%2], 103+0, and steps of these
JOB_ID = r"\d+(?:_\d+|_\[[^\]]*\]?|\+\d+)?(?:\.\w+(?:\+\d+)?)?"

#: words of the headers of sacct's columns, beside its id of jobs
_SACCT_WORDS = {
    "jobname", "partition", "account", "alloccpus", "state", "exitcode", "user", "elapsed",
    "elapsedraw", "submit", "start", "end", "ncpus", "nnodes", "reqtres", "alloctres",
}  # fmt: skip
_AS_JSON = "get it with: kubectl get pods -A -o json > pods.json"
_AS_CSV = "save the table as CSV"
_FROM_PANDAS = "write the table as CSV or Parquet, as with DataFrame.to_parquet"
_PAI = "give pai_task_table.csv of the same trace"
_UNPACK = "unpack it and name the file with the jobs"


class Mistake(NamedTuple):
    """A kind of file that is not a jobs file."""

    what: str
    found: Callable[[Source], object]
    instead: str


def _begins(*marks: bytes) -> Callable[[Source], bool]:
    return lambda source: source.content.startswith(marks)


def _matches(pattern: str) -> Callable[[Source], object]:
    form = re.compile(pattern, re.IGNORECASE)
    return lambda source: form.match(source.head)


def _utf_16(source: Source) -> bool:
    start = source.content[:1024]
    return any(2 * start[half::2].count(0) > len(start[half::2]) for half in (0, 1))


def _fixed_width(source: Source) -> bool:
    """True for what sacct prints without -P, with or without the dashes below its header."""
    lines = [line for line in LINE_END.split(source.head) if line.strip()][:2]
    if not lines or re.search(r"[|,;\t]", lines[0]):
        return False
    words = lines[0].lower().split()
    if len(lines) == 2 and re.fullmatch(r"[-\s]*--[-\s]*", lines[1]):
        return any(word.startswith("jobid") for word in words)
    return words[0] in ("jobid", "jobidraw") and len(_SACCT_WORDS & set(words)) > 1


def _yaml_of_kubernetes(source: Source) -> object:
    start = r"(?:\s*(?:---|#[^\n]*)?\n)*(?:- )?(?:apiVersion|kind|items|metadata):"
    return re.match(start, source.head) and re.search(r"(?m)^[- ]*apiVersion:\s*\S", source.head)


def _sia(source: Source) -> bool:
    has = set(source.header)
    return has >= {"time", "application", "num_replicas"} and "duration_s" not in has


#: whatever else the file seems to be
ALWAYS: tuple[Mistake, ...] = (
    Mistake("a PDF document", _begins(b"%PDF"), _AS_CSV),
    Mistake("an old Excel workbook (.xls)", _begins(b"\xd0\xcf\x11\xe0"), _AS_CSV),
    Mistake("a web page", _matches(r"\s*<(!doctype html|html|head|body)\b"),
            "fetch the file that the page links to"),
    Mistake("an XML document", _matches(r"\s*<\?xml\b"), _AS_CSV),
    Mistake("a Git LFS pointer, not the file itself",
            _matches("version https://git-lfs"), "fetch the file with git lfs pull"),
    Mistake("an SQLite database", _begins(b"SQLite format 3\0"), _AS_CSV),
    Mistake("an Arrow or Feather table", _begins(b"ARROW1", b"FEA1"), _FROM_PANDAS),
    Mistake("an ORC table", _begins(b"ORC"), _FROM_PANDAS),
    Mistake("an HDF5 file", _begins(b"\x89HDF"), _FROM_PANDAS),
    Mistake("a Python pickle", _begins(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
            _FROM_PANDAS),
    Mistake("a 7z or RAR archive", _begins(b"7z\xbc\xaf", b"Rar!"), _UNPACK),
    Mistake("UTF-16 text without a byte order mark",
            lambda source: source.head.count("\0") and _utf_16(source),
            "save it as UTF-8, as with iconv -f UTF-16LE -t UTF-8"),
    Mistake("not text: it has NUL bytes", lambda source: "\0" in source.head,
            "fetch it again, or export it as CSV"),
    Mistake("the output of squeue, which has no times of jobs that ended",
            _matches(r"\s*JOBID[\s|]+PARTITION[\s|]+NAME\b"), SACCT),
    Mistake("the output of sacct in columns of fixed width, which truncates values",
            _fixed_width, SACCT),
    Mistake("the output of sinfo or of scontrol show node, which has nodes and no jobs",
            _matches(r"\s*(PARTITION\s+AVAIL\b|NodeName=)"), SACCT),
    Mistake("the audit policy or an audit log of Kubernetes as YAML",
            lambda source: _yaml_of_kubernetes(source) and "audit.k8s.io/" in source.head,
            "give the log that the API server writes (--audit-log-path) as JSON, one event a line"),
    Mistake("YAML of Kubernetes, of which muster reads the JSON form", _yaml_of_kubernetes,
            _AS_JSON),
    Mistake("a table or a description that kubectl prints for people, without the times of pods",
            _matches(r"\s*(NAMESPACE\s+)?(NAME\s+READY\s+STATUS\b|NAME\b.*\sAGE\b|LAST SEEN\s)"
                     r"|Name: +\S+\s+Namespace: |pod/\S+\s"), _AS_JSON),
    Mistake("the output of scontrol show job, which forgets jobs minutes after they end",
            _matches(r"\s*JobId=\d+"), SACCT),
    Mistake("an accounting log of PBS",
            _matches(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d;[A-Z];"),
            "convert it to SWF or to a jobs table (docs/tables.md)"),
    Mistake("Alibaba's pai_job_table, which does not say how many GPUs a job asked for",
            lambda source: headless.pai_table(source)[0] == "pai_job_table", _PAI),
    Mistake("Alibaba's pai_instance_table, which does not say how many GPUs a job asked for",
            lambda source: headless.pai_table(source)[0] == "pai_instance_table", _PAI),
    Mistake("a trace of Gavel, which says how many steps a job trains and not how long that takes",
            headless.gavel, "write a jobs table (docs/tables.md) whose duration_s is the steps "
            "divided by Gavel's throughput of that model, in steps per second"),
    Mistake("a workload of Sia or Pollux, which says when jobs come and not how long they run",
            _sia, "add a column duration_s and give it with --map name=job --map time=submit_s "
            "--map num_replicas=gpus --ignore-extra, or take sia-simulator/traces/philly.csv of "
            "the same artifact"),
)  # fmt: skip

#: where no format is recognised
UNKNOWN: tuple[Mistake, ...] = (
    Mistake("the output of sacct in columns of fixed width and without a header line",
            _matches(rf"\s*{JOB_ID}\s[^|,;\t\n]*\s(COMPLETED|FAILED|CANCELLED|TIMEOUT|RUNNING|"
                     r"PENDING|OUT_OF_ME\S*|NODE_FAIL)\b"), SACCT),
    Mistake("the output of sacct without a header line", _matches(rf"{JOB_ID}\|.*\|"),
            "give its columns as you gave them to sacct: --columns JobID,User,..., or leave out "
            "-n (--noheader)"),
    Mistake("the output of sacct as JSON",
            _matches(r'(?s)\s*\{.{0,4000}?"(slurm|slurmrestd|openapi)\b'), SACCT),
    Mistake("JSON in a form that muster does not know", _matches(r"\s*[\[{]"),
            "write its jobs as CSV with the columns job, submit_s, duration_s and gpus "
            "(docs/tables.md)"),
)  # fmt: skip


def refuse(source: Source, mistakes: tuple[Mistake, ...]) -> None:
    """Raise TraceError if a file is one of these mistakes."""
    for one in mistakes:
        if one.found(source):
            raise TraceError(f"jobs file {str(source)!r} is {one.what}; {_way_out(one)}")


def _way_out(mistake: Mistake) -> str:
    return f"get the log with: {SACCT}" if mistake.instead is SACCT else mistake.instead
