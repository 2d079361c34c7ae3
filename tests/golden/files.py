"""Peers' results as they lie in a folder: what a file holds is told by its name and its content.

Per peer one folder, `<peer>/<trace>_<policy>.csv.gz` in that peer's manner; `bench/` has tables
with a column per peer and policy; `_traces/` has the traces. Inputs of the peers, and series of a
cluster's state over time, which are no results per job, lie among them.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

import traces
from tests.golden.scenarios import FOLDER
from traces.unpacking import unpacked

#: file names without their endings, by folder; `policy` as the peer calls it
NAMES = {
    "cqsim": r"(?P<trace>.+)_(?P<policy>[^_]+)",
    "helios": r"(?P<trace>.+)_(?P<policy>[^_]+)_consolidate",
    "tiresias": r"(?P<trace>.+)_(?P<policy>[^_]+)_count",
    "alibaba2020": r"(?P<trace>.+)_(?P<policy>[^_]+_[^_]+)",
}
TABLE = r"(?P<trace>.+)_start_times_all_peers"  #: in bench/
NO_TABLES = ("_traces", FOLDER)  #: folders of traces, and of scenarios
BESIDE = r"input_.+|.+_(order|seq|cluster)"  #: inputs and series
#: how columns of tables call peers
PEERS = {"ali": "alibaba2020"}
#: the cluster of all peers that say nothing of its size: 64 nodes of 8
USUAL_GPUS = 512
GPUS_PER_NODE = 8


class Result(NamedTuple):
    """The starts that a peer gave the jobs of a trace: a file, or a column of one."""

    golden: Path
    path: Path
    peer: str
    trace: str
    policy: str
    column: str = "start_time"

    @property
    def name(self) -> str:
        """Say which it is."""
        column = "" if self.column == "start_time" else f":{self.column}"
        return f"{self.path.parent.name}/{self.path.name}{column}"

    def table(self) -> pd.DataFrame:
        """Return the file, by job name.

        Raises:
            ValueError: it is no such table.
        """
        return _table(self.path, self.column)

    def jobs(self) -> pd.DataFrame:
        """Return the jobs in the order of their trace: job, submit_s, duration_s, gpus, walltime_s.

        Taken from the file where it has them, as what the peer was given is what it says itself.

        Raises:
            ValueError: neither the file nor a trace beside it has the jobs.
        """
        if self.peer == "cqsim" or self.path.parent.name == "bench":
            return _of_trace(self)
        table = self.table()
        gpus = next(column for column in ("gpus", "num_gpu", "num_inst") if column in table)
        each = table["gpus_per_inst"] if gpus == "num_inst" else 1
        found = pd.DataFrame(
            {
                "job": table.index,
                "submit_s": table["submit_time"].to_numpy(),
                "duration_s": table["duration"].to_numpy(),
                "gpus": (table[gpus] * each).to_numpy(),
            }
        )
        return found.assign(walltime_s=found["duration_s"]).sort_values(
            "job", key=lambda names: names.astype("int64")
        )

    def num_gpus(self) -> int:
        """Return the size of the cluster: as the trace says, or a series beside it, or as usual."""
        swf = self._beside("_traces", f"{self.trace}.swf")
        if swf is not None:
            said = re.search(r"^;\s*MaxProcs:\s*(\d+)", _text(swf), re.M)
            if said is None:
                raise ValueError(f"{swf}: its header has no MaxProcs, which {self.name} needs")
            return int(said[1])
        for series in sorted(self.golden.glob(f"tiresias/{self.trace}_*_cluster.csv*")):
            first = pd.read_csv(series, nrows=1)
            return int(first["idle_gpu"].iloc[0] + first["busy_gpu"].iloc[0])
        if self.path.parent.name == "cqsim":
            raise ValueError(f"{self.name}: no _traces/{self.trace}.swf says how large the pool is")
        return USUAL_GPUS

    def order(self) -> pd.Series:
        """Return names of jobs in the order in which Helios takes them (Q3).

        Raises:
            ValueError: no file says so, and jobs were submitted at one time.
        """
        path = self._beside("helios", f"{self.trace}_order.csv")
        if path is not None:
            return pd.read_csv(path)["job_id"].astype("str")
        jobs = self.jobs()
        if jobs["submit_s"].duplicated().any():
            raise ValueError(f"{self.name}: helios/{self.trace}_order.csv.gz is not there")
        return jobs.sort_values("submit_s")["job"]

    def nodes_by_cluster(self) -> dict[str, int]:
        """Return how many nodes each virtual cluster of the trace has.

        Raises:
            ValueError: no file of the traces says so.
        """
        paths = sorted(self.golden.glob("_traces/*_vc_nodes.csv*"))
        own = [p for p in paths if self.trace.startswith(p.name.partition("_vc_nodes")[0])]
        if not own and len(paths) != 1:
            raise ValueError(f"{self.name}: no _traces/{self.trace}_vc_nodes.csv has its clusters")
        table = pd.read_csv((own or paths)[-1], dtype={"vc": "str"})
        return dict(zip(table["vc"], table["nodes"], strict=True))

    def _beside(self, folder: str, name: str) -> Path | None:
        found = (self.golden / folder / name, self.golden / folder / f"{name}.gz")
        return next((path for path in found if path.is_file()), None)


@cache
def _text(path: Path) -> str:
    return unpacked(path).decode()


@cache
def _table(path: Path, column: str) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"vc": "str"})
    table = table.rename(columns={table.columns[0]: "job_id"})
    missing = {"submit_time", column} - set(table)
    if missing or not pd.api.types.is_integer_dtype(table["job_id"]):
        raise ValueError(f"{path}: no table of jobs by number with {', '.join(sorted(missing))}")
    return table.set_index(table["job_id"].astype("str").rename("job"))


def _of_trace(result: Result) -> pd.DataFrame:
    """Read the trace of a result; tables count jobs from 0 and SWF from 1."""
    from_zero = result.path.parent.name == "bench"
    csv = result._beside("_traces", f"{result.trace}.csv")
    if from_zero and csv is not None:
        table = pd.read_csv(csv)
        return pd.DataFrame(
            {
                "job": table["job_id"].astype("str"),
                "submit_s": table["submit_time"],
                "duration_s": table["duration"],
                "gpus": table["gpus"],
                "walltime_s": table["duration"],
            }
        )
    swf = result._beside("_traces", f"{result.trace}.swf")
    if swf is None:
        raise ValueError(f"{result.name}: its trace _traces/{result.trace}.swf is not there")
    jobs = traces.load(swf).jobs.rename(columns={"num_pods": "gpus"})
    if from_zero:
        jobs["job"] = (jobs["job"].astype("int64") - 1).astype("str")
    return jobs[["job", "submit_s", "duration_s", "gpus", "walltime_s"]]


def results(golden: Path) -> list[Result]:
    """Return all results of a folder; a file of unknown kind is one of no policy."""
    found = []
    for path in sorted(golden.glob("*/*")):
        folder = path.parent.name
        if folder in NO_TABLES or path.name.startswith((".", "README")):
            continue
        stem = re.sub(r"\.csv(\.gz)?$", "", path.name)
        if stem != path.name and folder == "bench" and (told := re.fullmatch(TABLE, stem)):
            for column in pd.read_csv(path, nrows=0).columns[2:]:
                peer, _, policy = column.partition("_")
                known = PEERS.get(peer, peer)
                found.append(Result(golden, path, known, told["trace"], policy, column))
        elif stem != path.name and re.fullmatch(BESIDE, stem):
            continue
        elif stem != path.name and (told := re.fullmatch(NAMES.get(folder, ""), stem)):
            found.append(Result(golden, path, folder, told["trace"], told["policy"]))
        else:
            found.append(Result(golden, path, folder, stem, ""))
    return found
