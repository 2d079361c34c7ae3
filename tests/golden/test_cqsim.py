"""CQSim's EASY, job by job, with its quirks Q1 (a pass per event) and Q2 (true run times)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tests.golden.comparison import differences, same_starts
from tests.golden.files import Result
from tests.golden.peers import cqsim_easy


def takes(result: Result) -> bool:
    return (result.peer, result.policy) == ("cqsim", "easy")


def test_easy_with_the_quirks_is_cqsims_job_by_job(result: Result) -> None:
    same_starts(cqsim_easy(result.jobs(), result.num_gpus()), result)


def test_without_true_run_times_as_many_jobs_move_as_are_known_to(
    golden: Path, known: Callable[[str], Path]
) -> None:
    known("hpc2n_c.swf")
    path = golden / "cqsim" / "hpc2n_c_easy.csv.gz"
    peer = Result(golden, path, "cqsim", "hpc2n_c", "easy")
    jobs = peer.jobs()
    ours = cqsim_easy(jobs, 240, true_run_times=False)
    moved = differences(ours, peer)
    assert len(moved) == 462
    assert (moved["ours_s"] - moved["peer_s"]).abs().max() == 53_096.0
    starts = pd.Series({name: start.start_s for name, start in ours.items()})
    assert round(float((starts - jobs.set_index("job")["submit_s"]).mean()), 2) == 3470.40
