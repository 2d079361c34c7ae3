"""FCFS and EASY as the textbook has them, on logs of real machines, through the public `run`.

The mean waits are known from two other implementations of the same rules: one decision pass per
instant, after its completions and its submissions; jobs are expected to end at their estimates.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from sim import RunResult, run
from tests.golden.comparison import differences, mean_wait_s
from tests.golden.files import Result

PROCESSORS = {
    "hpc2n_c": 240,
    "hpc2n_perfect_c": 240,
    "lublin256_c": 256,
    "nasa_c": 128,
    "ricc20k_c": 8192,
    "ricc20k_perfect_c": 8192,
}
SLOW = pytest.mark.slow


Known = Callable[[str], Path]


@cache
def textbook(path: Path, backfill: str) -> RunResult:
    """A pool of processors is one node that holds them all."""
    return run(path, nodes=1, gpus_per_node=PROCESSORS[path.stem], backfill=backfill)


@pytest.mark.parametrize(
    ("trace", "backfill", "wait_s"),
    [
        ("hpc2n_c", "none", 5588.63),
        ("hpc2n_perfect_c", "none", 5601.35),
        pytest.param("lublin256_c", "none", 2388443.76, marks=SLOW),
        pytest.param("nasa_c", "none", 8.08, marks=SLOW),
        pytest.param("ricc20k_c", "none", 16672.46, marks=SLOW),
        ("hpc2n_c", "easy", 3470.19),
        ("hpc2n_perfect_c", "easy", 3373.10),
        pytest.param("lublin256_c", "easy", 97155.99, marks=SLOW),
        pytest.param("nasa_c", "easy", 4.07, marks=SLOW),
        pytest.param("ricc20k_c", "easy", 9736.80, marks=SLOW),
        pytest.param("ricc20k_perfect_c", "easy", 9558.22, marks=SLOW),
    ],
)
def test_mean_wait_is_the_textbooks(known: Known, trace: str, backfill: str, wait_s: float) -> None:
    assert mean_wait_s(textbook(known(f"{trace}.swf"), backfill)) == wait_s


@pytest.mark.parametrize(
    ("trace", "num_different", "largest_s"),
    [
        ("hpc2n_perfect_c", 2, 389.0),
        pytest.param("lublin256_c", 279, 173_887.0, marks=SLOW),
        pytest.param("nasa_c", 0, 0.0, marks=SLOW),
        pytest.param("ricc20k_perfect_c", 2_756, 8_011.0, marks=SLOW),
    ],
)
def test_easy_differs_from_cqsim_where_a_pass_per_event_does(
    golden: Path, known: Known, trace: str, num_different: int, largest_s: float
) -> None:
    """Where estimates are exact, CQSim's pass after every event (Q1) is all that is different.

    How many jobs it moves is known from an implementation of both.
    """
    ours = textbook(known(f"{trace}.swf"), "easy")
    path = golden / "cqsim" / f"{trace}_easy.csv.gz"
    moved = differences(ours, Result(golden, path, "cqsim", trace, "easy"))
    assert len(moved) == num_different
    assert (moved["ours_s"] - moved["peer_s"]).abs().max() == largest_s or num_different == 0
