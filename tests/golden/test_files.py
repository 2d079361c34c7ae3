"""Every file of peers' results is compared, or named with the policy that muster has not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden import test_cqsim, test_gpu_peers, test_helios
from tests.golden.files import Result, results


def takes(result: Result) -> bool:
    return not any(test.takes(result) for test in (test_cqsim, test_gpu_peers, test_helios))


def test_it_has_no_policy_here(result: Result) -> None:
    if not result.policy:
        pytest.skip(f"{result.name}: no results per job of a known peer")
    pytest.skip(f"{result.name}: muster has no policy '{result.policy}' of {result.peer}")


def test_results_are_found_by_their_files(golden: Path, known: Callable[[str], Path]) -> None:
    """Of the usual folder all that today's policies cover: 10 + 4 + 6 + 12 files, 33 columns."""
    known("bench2500.csv")
    found = results(golden)
    compared = [one for one in found if not takes(one)]
    columns = [one for one in compared if one.path.parent.name == "bench"]
    assert (len(compared) - len(columns), len(columns)) == (32, 33)
    named = {one.policy for one in found if takes(one)} - {""}
    assert named == {"cons", "srtf", "dlas-gpu", "sjf", "shortest", "shortest-gpu"}


def test_a_table_without_a_log_beside_it_is_of_the_usual_cluster(
    golden: Path, known: Callable[[str], Path], tmp_path: Path
) -> None:
    for folder in ("_traces", "bench"):
        (tmp_path / folder).mkdir()
    shutil.copy(known("bench2500.csv"), tmp_path / "_traces" / "mine.csv")
    table = golden / "bench" / "bench2500_start_times_all_peers.csv.gz"
    shutil.copy(table, tmp_path / "bench" / "mine_start_times_all_peers.csv.gz")
    easy, fcfs = (
        next(one for one in results(tmp_path) if one.column == f"cqsim_{policy}")
        for policy in ("easy", "fcfs")
    )
    test_cqsim.test_easy_with_the_quirks_is_cqsims_job_by_job(easy)
    test_gpu_peers.test_every_job_starts_and_ends_as_the_peers_does(fcfs)


def test_another_folder_may_have_other_traces_sizes_and_peers(
    golden: Path, known: Callable[[str], Path], tmp_path: Path
) -> None:
    swf = known("hpc2n_c.swf").read_text()
    for folder in ("_traces", "cqsim", "someone"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_traces" / "my_own_trace.swf").write_text(swf.replace(": 240", ": 250"))
    shutil.copy(golden / "cqsim" / "hpc2n_c_fcfs.csv.gz", tmp_path / "cqsim" / "a_b_fcfs.csv.gz")
    shutil.copy(
        golden / "cqsim" / "hpc2n_c_fcfs.csv.gz", tmp_path / "cqsim" / "my_own_trace_fcfs.csv.gz"
    )
    (tmp_path / "cqsim" / "my_own_trace_easy.csv").write_text("a,b\n1,2\n")
    (tmp_path / "someone" / "trace_policy.csv").touch()
    orphan, broken, mine, other = results(tmp_path)
    assert (mine.trace, mine.policy, mine.num_gpus()) == ("my_own_trace", "fcfs", 250)
    with pytest.raises(AssertionError, match=r"cqsim/my_own_trace_fcfs.csv.gz: \d+ jobs start"):
        test_gpu_peers.test_every_job_starts_and_ends_as_the_peers_does(mine)
    with pytest.raises(ValueError, match=r"cqsim/a_b_fcfs.csv.gz: its trace _traces/a_b.swf is"):
        orphan.jobs()
    with pytest.raises(ValueError, match=r"my_own_trace_easy.csv: no table of jobs"):
        broken.table()
    assert takes(other)
    with pytest.raises(pytest.skip.Exception, match=r"someone/trace_policy.csv: no results"):
        test_it_has_no_policy_here(other)
