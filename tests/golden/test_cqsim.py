"""CQSim's EASY, job by job, with its quirks Q1 (a pass per event) and Q2 (true run times)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import traces
from tests.golden.comparison import differences, peer_result
from tests.golden.peers import cqsim_easy

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("trace", "processors"),
    [
        ("hpc2n_c", 240),
        ("hpc2n_perfect_c", 240),
        pytest.param("lublin256_c", 256, marks=SLOW),
        pytest.param("nasa_c", 128, marks=SLOW),
        pytest.param("ricc20k_c", 8192, marks=SLOW),
        pytest.param("ricc20k_perfect_c", 8192, marks=SLOW),
    ],
)
def test_easy_with_the_quirks_is_cqsims_job_by_job(
    golden: Path, trace: str, processors: int
) -> None:
    jobs = traces.load(golden / "_traces" / f"{trace}.swf").jobs
    ours = cqsim_easy(jobs, processors)
    peer = peer_result(golden / "cqsim" / f"{trace}_easy.csv.gz")
    assert differences(ours, peer).empty


def test_without_true_run_times_as_many_jobs_move_as_are_known_to(golden: Path) -> None:
    jobs = traces.load(golden / "_traces" / "hpc2n_c.swf").jobs
    ours = cqsim_easy(jobs, 240, true_run_times=False)
    moved = differences(ours, peer_result(golden / "cqsim" / "hpc2n_c_easy.csv.gz"))
    assert len(moved) == 462
    assert (moved["ours_s"] - moved["peer_s"]).abs().max() == 53_096.0
    starts = pd.Series({name: start.start_s for name, start in ours.items()})
    submits = jobs.set_index("job")["submit_s"]
    assert round(float((starts - submits).mean()), 2) == 3470.40


@pytest.mark.parametrize("size", [2500, pytest.param(10000, marks=SLOW)])
def test_easy_on_the_gpu_trace_is_cqsims_job_by_job(golden: Path, size: int) -> None:
    jobs = traces.load(golden / "_traces" / f"bench{size}.swf").jobs
    jobs["job"] = (jobs["job"].astype("int64") - 1).astype("str")  # counted from 0 elsewhere
    peer = pd.read_csv(golden / "bench" / f"bench{size}_start_times_all_peers.csv.gz", index_col=0)
    peer.index = peer.index.astype("str")
    assert differences(cqsim_easy(jobs, 512), peer, "cqsim_easy").empty
