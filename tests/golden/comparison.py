"""Compare peers' results with ours, job by job."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sim import RunResult
from tests.golden.files import Result
from tests.golden.peers import Start


def differences(ours: RunResult | Mapping[str, Start], peer: Result) -> pd.DataFrame:
    """Return the jobs that start at another time than the peer's.

    Raises:
        ValueError: one side has a job that the other has not; names the peer's file.
    """
    if isinstance(ours, RunResult):
        starts = ours.jobs.set_index("job")["start_s"]
    else:
        starts = pd.Series({name: start.start_s for name, start in ours.items()})
    theirs = peer.table()[peer.column]
    if sorted(starts.index) != sorted(theirs.index):
        raise ValueError(
            f"{peer.name}: {len(starts)} jobs here, {len(theirs)} there, or other names"
        )
    both = pd.DataFrame({"ours_s": starts.reindex(theirs.index), "peer_s": theirs})
    return both[both["ours_s"] != both["peer_s"]]


def same_starts(ours: RunResult | Mapping[str, Start], peer: Result) -> None:
    """Fail with the first jobs that start at another time than the peer's."""
    moved = differences(ours, peer)
    assert moved.empty, f"{peer.name}: {len(moved)} jobs start elsewhere\n{moved.head()}"


def same_ends(ours: RunResult, peer: Result) -> None:
    """Fail if a job ends at another time, where the peer says when."""
    theirs = peer.table().get("end_time")
    if theirs is not None:
        ends = ours.jobs.set_index("job")["end_s"].reindex(theirs.index)
        assert (ends == theirs).all(), f"{peer.name}: {(ends != theirs).sum()} jobs end elsewhere"


def mean_wait_s(result: RunResult) -> float:
    """Return the mean queueing delay to the hundredth of a second, as the peers' tables do."""
    return round(float((result.jobs["start_s"] - result.jobs["submit_s"]).mean()), 2)
