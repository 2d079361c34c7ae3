"""Files without a header, recognised by their first row."""

from __future__ import annotations

import re

from traces.formats.outcomes import GWF, PAI
from traces.formats.source import Source

#: Alibaba's cluster-trace-gpu-v2020: data/*.header of https://github.com/alibaba/clusterdata
PAI_TASKS = (
    "job_name", "task_name", "inst_num", "status", "start_time", "end_time",
    "plan_cpu", "plan_mem", "plan_gpu", "gpu_type",
)  # fmt: skip
PAI_TABLES = {
    "pai_task_table": PAI_TASKS,
    "pai_job_table": ("job_name", "inst_id", "user", "status", "start_time", "end_time"),
    "pai_instance_table": (
        "job_name", "task_name", "inst_name", "worker_name", "inst_id", "status",
        "start_time", "end_time", "machine",
    ),
}  # fmt: skip
#: the Grid Workload Format has so many fields; the eleventh is the status
GWF_FIELDS, GWF_STATUS = 29, 10
_NUMBER = re.compile(r"-?\d+(\.\d*)?")


def pai_table(source: Source) -> tuple[str, bool]:
    """Return which of Alibaba PAI's tables a file is, or "", and whether it has a header."""
    cells = source.header
    for name, columns in PAI_TABLES.items():
        if set(columns) - {"gpu_type", "machine"} <= set(cells):
            return name, True
        if len(cells) == len(columns):
            first = dict(zip(columns, cells, strict=True))
            times = first["start_time"], first["end_time"]
            if first["status"] in PAI and all(not t or _NUMBER.fullmatch(t) for t in times):
                return name, False
    return "", False


def pai(source: Source) -> str:
    """Say why a file is one of Alibaba PAI's tables; "" if it is none."""
    name, has_header = pai_table(source)
    if not name:
        return ""
    return f"it has the columns of {name}" if has_header else f"its first row is one of {name}"


def fields_of(line: str) -> list[str]:
    """Return the fields of a line, parted by tabs, by commas, or by blanks."""
    for mark in ("\t", ","):
        if mark in line:
            return [cell.strip() for cell in line.split(mark)]
    return line.split()


def gwf(source: Source) -> str:
    """Say why a file is in the Grid Workload Format; "" if it is not."""
    if source.name.endswith(".gwf"):
        return "its name ends in .gwf"
    for line in source.head.splitlines():
        if line.startswith("#"):
            if "grid workload format" in line.lower():
                return "its first lines name the Grid Workload Format"
        elif line.strip():
            cells = fields_of(line)
            names = {cell.lower() for cell in cells}
            if {"jobid", "submittime", "runtime"} <= names and names & {"nproc", "nprocs"}:
                return "it has the columns JobID, SubmitTime, RunTime, NProc"
            is_row = len(cells) == GWF_FIELDS and cells[GWF_STATUS] in GWF
            if is_row and all(_NUMBER.fullmatch(cell) for cell in cells[:5]):
                return f"its first row has the {GWF_FIELDS} fields of the format"
            return ""
    return ""


def gavel(source: Source) -> str:
    """Say why a file is a trace of Gavel; "" if it is not."""
    line = next((line for line in source.head.splitlines() if line.strip()), "")
    cells = line.split("\t")
    is_row = len(cells) >= 6 and "python" in cells[1] and _NUMBER.fullmatch(cells[-1].strip())
    return "its first row is a command, its steps and when it comes" if is_row else ""
