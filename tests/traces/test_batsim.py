"""Batsim's workloads: delays, sequences of them, and profiles that need a platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import traces
from traces import TraceError
from traces.description import total_gpus

Write = Callable[..., Path]

PROFILES: dict[str, Any] = {
    "short": {"type": "DelayProfile", "delay": 10},
    "old": {"type": "delay", "delay": 20.5},
    "fails": {"type": "DelayProfile", "delay": 5, "ret": 1},
    "both": {"type": "SequentialCompositionProfile", "repeat": 2, "seq": ["short", "old"]},
    "homo": {"type": "ParallelTaskHomogeneousProfile", "cpu": 1e7, "com": 1e6},
    "mixed": {"type": "composed", "seq": ["short", "homo"]},
    "loop": {"type": "composed", "seq": ["short", "loop", "loop"]},
    "odd": {"type": "DelayProfile", "delay": "long"},
    "empty": {"type": "DelayProfile"},
}
JOBS: list[dict[str, Any]] = [
    {"id": 0, "subtime": 5, "walltime": 100, "res": 1, "profile": "short"},
    {"id": "b", "subtime": 6.5, "res": 3, "profile": "old"},
    {"id": "c", "subtime": 7, "walltime": 15, "res": 2, "profile": "both"},
    {"id": "d", "subtime": 8, "walltime": -1, "res": 16, "profile": "fails"},
]


def workload(written: Write, *jobs: dict[str, Any]) -> Path:
    content = {"nb_res": 32, "jobs": [*JOBS, *jobs], "profiles": PROFILES}
    return written(json.dumps(content, indent=1), name="workload.json")


def test_delays_and_sequences_of_delays(written: Write) -> None:
    loaded = traces.load(workload(written))
    jobs = loaded.jobs
    assert loaded.kind == "batsim"
    assert jobs["job"].tolist() == ["0", "b", "c", "d"]
    assert jobs["submit_s"].tolist() == [0, 1.5, 2, 3]
    assert jobs["duration_s"].tolist() == [10, 20.5, 15, 5], "the walltime ends a job"
    assert jobs["walltime_s"].tolist() == [100, 20.5, 15, 5]
    assert jobs["num_pods"].tolist() == [1, 3, 2, 16]
    assert jobs["outcome"].tolist() == ["completed", "completed", "failed", "failed"]
    assert "run into their walltime, which ends them: 1;" in " ".join(loaded.notes)


def test_resources_may_be_cut_into_larger_pods(written: Write) -> None:
    jobs = traces.load(workload(written), gpus_per_pod=8).jobs
    assert jobs["num_pods"].tolist() == [1, 1, 1, 2]
    assert total_gpus(jobs).tolist() == [1, 3, 2, 16]


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"profile": "homo"}, "'profile': 'homo' is of type ParallelTaskHomog.*on the platform"),
        ({"profile": "mixed"}, "'profile': 'mixed' is of type ParallelTaskHomogeneousProfile"),
        ({"profile": "loop"}, "'profile': 'loop' is a sequence of itself"),
        ({"profile": "gone"}, "'profile': 'gone' 'gone' is not among the profiles"),
        ({"profile": "odd"}, "'profile': 'odd' 'odd' is no sound profile"),
        ({"profile": "empty"}, "'profile': 'empty' must have a delay"),
        ({"res": 0}, "'res': '0' must be a whole number, at least 1"),
        ({"subtime": None}, "'subtime': '' must be a number"),
        ({"id": "b"}, "'id': 'b' is in item 2 too"),
        ({"res": "many"}, "item 5 is not a job of a workload .*Expected `int"),
    ],
)
def test_odd_jobs_are_named(written: Write, job: dict[str, Any], message: str) -> None:
    path = workload(written, {"id": "x", "subtime": 9, "res": 1, "profile": "short", **job})
    with pytest.raises(
        TraceError, match=f"item 5.*{message}" if "item 5" not in message else message
    ):
        traces.load(path)
    loaded = traces.load(path, on_bad_row="skip")
    assert loaded.num_bad == 1
    assert len(loaded.jobs) == 4


def test_a_workload_that_was_cut_off(written: Write) -> None:
    path = written('{"jobs": [{"id": 1, "subtime": 2}], "profiles": {', name="w.json")
    with pytest.raises(TraceError, match="is not a Batsim workload"):
        traces.load(path)


@pytest.mark.parametrize("opening", ['{"jobs": ', '{"nb_res": 1, "profiles": {"p": '])
def test_json_that_nests_too_deeply(written: Write, opening: str) -> None:
    path = written(opening * 100_000, name="w.json")
    with pytest.raises(TraceError, match="is not a Batsim workload"):
        traces.load(path, kind="batsim")
