"""Read peers' results and compare them with ours, job by job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sim import RunResult
from tests.golden.peers import Start


def peer_result(path: Path) -> pd.DataFrame:
    """Return a peer's per-job table, by job name."""
    table = pd.read_csv(path)
    return table.set_index(table["job_id"].astype("str").rename("job"))


def differences(
    ours: RunResult | Mapping[str, Start], peer: pd.DataFrame, column: str = "start_time"
) -> pd.DataFrame:
    """Return the jobs that start at another time than the peer's `column` says.

    Raises:
        ValueError: one side has a job that the other has not.
    """
    if isinstance(ours, RunResult):
        starts = ours.jobs.set_index("job")["start_s"]
    else:
        starts = pd.Series({name: start.start_s for name, start in ours.items()})
    if sorted(starts.index) != sorted(peer.index):
        raise ValueError(f"{len(starts)} jobs here, {len(peer)} there, or other names")
    both = pd.DataFrame({"ours_s": starts.reindex(peer.index), "peer_s": peer[column]})
    return both[both["ours_s"] != both["peer_s"]]


def mean_wait_s(result: RunResult) -> float:
    """Return the mean queueing delay to the hundredth of a second, as the peers' tables do."""
    return round(float((result.jobs["start_s"] - result.jobs["submit_s"]).mean()), 2)
