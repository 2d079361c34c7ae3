"""The formats: what each is called, who writes it, and how a file of it is recognised.

One table, in the order in which formats are tried. A reader is imported when a file needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import NamedTuple, Protocol, cast

from traces.formats import headless
from traces.formats.interface import Options, Reading
from traces.formats.mistaken import ALWAYS, UNKNOWN, refuse
from traces.formats.source import Source
from traces.schema import TraceError


class Reader(Protocol):
    """A module that reads one format."""

    def read(self, source: Source, options: Options) -> Reading:
        """Return the jobs of a file.

        Raises:
            TraceError: the file is not of this format, or has bad rows that may not be skipped.
        """


class Format(NamedTuple):
    """One row of the table."""

    kind: str  #: what `--kind` calls it
    module: str  #: in this package
    about: str  #: for help and messages
    recognised: Callable[[Source], str]  #: why a file is of this format, or ""
    counts_processors: bool = False  #: `gpus_per_pod` says how many of them make a pod

    def reader(self) -> Reader:
        """Import and return the module that reads it."""
        return cast(Reader, import_module(f"traces.formats.{self.module}"))


def _named(*endings: str) -> Callable[[Source], str]:
    def recognised(source: Source) -> str:
        found = next((ending for ending in endings if source.name.endswith(ending)), "")
        return f"its name ends in {found}" if found else ""

    return recognised


def _with_columns(*needed: str) -> Callable[[Source], str]:
    def recognised(source: Source) -> str:
        has = set(source.header)
        return f"it has the columns {_list(needed)}" if has.issuperset(needed) else ""

    return recognised


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def _containing(pattern: str, what: str) -> Callable[[Source], str]:
    seen = re.compile(pattern)

    def recognised(source: Source) -> str:
        return what if not source.is_parquet and seen.search(source.head) else ""

    return recognised


def _swf_lines(source: Source) -> str:
    lines = [line for line in source.head.splitlines()[:200] if line.strip()]
    jobs = [line.split() for line in lines if not line.lstrip().startswith((";", "#"))]
    numeric = bool(jobs) and all(re.fullmatch(r"-?\d+(\.\d+)?", cell) for cell in jobs[0])
    return "its lines have the 18 numbers of SWF" if numeric and len(jobs[0]) == 18 else ""


def slurm_name(name: str) -> str:
    """Return a column of sacct in small letters, without the width of --format=JobID%30."""
    return re.sub(r"%-?\d+$", "", name.strip()).lower()


def _slurm(source: Source) -> str:
    """sacct's own names; a log that lacks some is still one, and refused with the way out."""
    has = [name for name in source.header if slurm_name(name) in SACCT_COLUMNS]
    names_jobs = {"jobid", "jobidraw"} & set(map(slurm_name, has))
    return f"it has sacct's columns {_list(has[:4])}" if names_jobs and len(has) > 1 else ""


def _with_keys(*needed: str) -> Callable[[Source], str]:
    """Recognise JSON by keys, of which the beginning of the file has all."""

    def recognised(source: Source) -> str:
        head = source.head.lstrip()
        found = head[:1] in ("[", "{") and all(f'"{key}"' in head for key in needed)
        return f"it is JSON with {_list(needed)}" if found else ""

    return recognised


def _parquet(source: Source) -> str:
    return "it is a Parquet table" if source.is_parquet else ""


def _table(source: Source) -> str:
    if source.name.endswith((".csv", ".tsv", ".psv")):
        return f"its name ends in .{source.name.rpartition('.')[2]}"
    known = {"job", "submit_s", "duration_s"} & set(source.header)
    return f"it has the columns {_list(sorted(known))}" if len(known) > 1 else ""


#: of sacct, in small letters: a table with an id of jobs and another of these is its output
SACCT_COLUMNS = frozenset((
    "jobid", "jobidraw", "jobname", "user", "account", "partition", "qos", "state", "submit",
    "eligible", "start", "end", "elapsed", "elapsedraw", "timelimit", "timelimitraw", "nnodes",
    "ncpus", "nodelist", "allocnodes", "alloccpus", "allocgres", "alloctres", "reqcpus",
    "reqnodes", "reqgres", "reqmem", "reqtres", "exitcode", "cputimeraw", "uid", "group",
))  # fmt: skip
HELIOS_COLUMNS = ("job_id", "user", "gpu_num", "state", "submit_time", "duration")
TIRESIAS_COLUMNS = ("job_id", "num_gpu", "submit_time", "duration")

FORMATS: tuple[Format, ...] = (
    Format("journal", "journal", "muster's journal of a live cluster",
           _containing(r'\A\{(?:"n":\d+,)?"t": ?[^\n,]*, ?"is": ?"\w+"', "it begins like one")),
    Format("audit", "audit", "audit log of a Kubernetes API server",
           _containing(r'"apiVersion": ?"audit\.k8s\.io/', "its events are of audit.k8s.io")),
    Format("pods", "pods", "Kubernetes pods: kubectl get pods -A -o json",
           _containing(r'\A\s*[\[{](?s:.*)"kind": ?"Pod(?:List)?"', "it holds Pods")),
    Format("philly-log", "philly_log", "Microsoft Philly's cluster_job_log: JSON",
           _with_keys("jobid", "attempts", "submitted_time")),
    Format("swf", "swf", "Standard Workload Format of the Parallel Workloads Archive",
           lambda source: _named(".swf")(source) or _swf_lines(source), counts_processors=True),
    Format("gwf", "gwf", "Grid Workload Format of the Grid Workloads Archive", headless.gwf,
           counts_processors=True),
    Format("batsim", "batsim", "Batsim's workloads: JSON with jobs and profiles",
           lambda source: _with_keys("jobs", "subtime")(source)
           or _with_keys("nb_res", "profiles")(source), counts_processors=True),
    Format("sacct", "sacct", "Slurm's accounting: sacct -P", _slurm),
    Format("philly", "philly_list", "Philly jobs as a CSV: timestamp, duration, num_gpus, cluster",
           _with_columns("timestamp", "num_gpus", "cluster")),
    Format("openb", "openb", "Alibaba cluster-trace-gpu-v2023: openb pods",
           _with_columns("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")),
    Format("pai", "pai", "Alibaba cluster-trace-gpu-v2020: pai_task_table.csv", headless.pai),
    Format("pai-simulator", "pai_sim", "Alibaba PAI's simulator: pai_job_no_estimate_100K.csv, ...",
           _with_columns(*TIRESIAS_COLUMNS, "num_inst")),
    Format("muri", "tiresias", "Muri's traces: Tiresias' columns and iteration_time, milliseconds",
           _with_columns(*TIRESIAS_COLUMNS, "iteration_time")),
    Format("tiresias", "tiresias", "Tiresias' and Chronus' lists: job_id, num_gpu, duration, ...",
           _with_columns(*TIRESIAS_COLUMNS)),
    Format("helios", "helios", "HeliosData: cluster_log.csv", _with_columns(*HELIOS_COLUMNS, "vc")),
    Format("acme", "helios", "AcmeTrace: trace_seren.csv, trace_kalos.csv",
           _with_columns(*HELIOS_COLUMNS)),
    Format("jobs", "jobs", "muster's own jobs table: CSV or Parquet (docs/tables.md)",
           lambda source: _parquet(source) or _table(source)),
)  # fmt: skip
KINDS = tuple(one.kind for one in FORMATS)


def choose(source: Source, kind: str | None) -> tuple[Format, str]:
    """Return the format of a file, and why it is that one.

    Raises:
        TraceError: the kind is unknown, or nothing says what the file is, or it is a file that
            people give by mistake, such as a PDF document.
    """
    refuse(source, () if source.is_parquet else ALWAYS)
    if kind is not None:
        for one in FORMATS:
            if one.kind == kind:
                return one, "--kind says so"
        raise TraceError(f"kind {kind!r} is unknown; choose one of {_list(KINDS)}")
    for one in FORMATS:
        if why := one.recognised(source):
            return one, why
    refuse(source, UNKNOWN)
    shown = _list(source.header[:8]) if source.header else "nothing"
    raise TraceError(
        f"jobs file {str(source)!r}: neither its name nor its first line ({shown:.200}) matches "
        f"a known format; name the format with --kind ({_list(KINDS)})"
    )
