"""How `run` and the commands read jobs: pods by node, options, and the line of a large file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from time import sleep
from typing import Any

import pandas as pd
import pytest

import traces
from sim import run
from sim.commands.main import invoke
from sim.runs import reader
from sim.runs.reader import Reader
from sim.schema.cluster import Cluster, Pool

MIXED = Cluster((Pool("small", 2, 4, "A100"), Pool("large", 3, 8, "H100")))


def jobs() -> pd.DataFrame:
    rows = [("a", 8, "A100"), ("b", 16, "H100"), ("c", 12, ""), ("d", 3, "A100"), ("e", 0, "")]
    frame = pd.DataFrame(rows, columns=["job", "gpus", "gpu_model"])
    return frame.assign(submit_s=0.0, duration_s=60.0)


@pytest.mark.parametrize(
    ("cluster", "pods"),
    [
        (Cluster.uniform(9, 4), [2, 4, 3, 1, 1]),
        (Cluster.uniform(9, 8), [1, 2, 2, 1, 1]),
        (MIXED, [2, 2, 2, 1, 1]),
    ],
    ids=["4", "8", "mixed"],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_a_table_and_its_file_are_cut_by_the_nodes(
    tmp_path: Path, cluster: Cluster, pods: list[int], as_file: bool
) -> None:
    given: Any = jobs()
    if as_file:
        given.to_csv(tmp_path / "jobs.csv", index=False)
        given = tmp_path / "jobs.csv"
    found = run(given, cluster=cluster).jobs
    assert found["job"].tolist() == list("abcde")
    assert found["num_pods"].tolist() == pods
    assert found["gpus"].tolist() == [8, 16, 12, 3, 0]


def test_pods_that_the_table_gives_stay_as_they_are() -> None:
    given = pd.DataFrame({"job": ["a"], "submit_s": 0.0, "duration_s": 1.0, "num_pods": 2,
                          "gpus_per_pod": 6})  # fmt: skip
    for cluster in (Cluster.uniform(2, 8), MIXED):
        assert run(given, cluster=cluster).jobs["gpus_per_pod"].tolist() == [6]


def test_convert_cuts_for_the_nodes_that_it_is_given(tmp_path: Path) -> None:
    jobs().to_csv(tmp_path / "jobs.csv", index=False)
    for words, pods in (([], [1, 2, 2, 1, 1]), (["--gpus-per-node", "4"], [2, 4, 3, 1, 1])):
        out = tmp_path / "out.csv"
        assert invoke(["trace", "convert", str(tmp_path / "jobs.csv"), str(out), *words]) == 0
        assert pd.read_csv(out)["num_pods"].tolist() == pods


class Terminal(StringIO):
    """A stderr that is a terminal, or is not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def slow(until: Callable[[], bool]) -> Callable[..., traces.LoadedJobs]:
    """Return a `traces.load` that reads once a condition holds."""
    load = traces.load

    def read(*given: Any, **more: Any) -> traces.LoadedJobs:
        for _ in range(500):
            if until():
                break
            sleep(0.02)
        return load(*given, **more)

    return read


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_line_says_how_long_a_large_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    path = tmp_path / "jobs.csv"
    jobs().to_csv(path, index=False)
    said = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(reader, "LARGE_BYTES", 1)
    monkeypatch.setattr(reader, "EVERY_S", {True: 0.05, False: 0.1})
    monkeypatch.setattr(traces, "load", slow(lambda: "reading" in said.getvalue()))
    assert len(Reader().read(path, progress=True).jobs) == 5
    assert said.getvalue().lstrip("\r").startswith("reading jobs.csv, 0 MB: 0 s")
    assert said.getvalue().endswith("\r" if is_terminal else "\n")


def test_a_small_file_and_a_quiet_reader_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "jobs.csv"
    jobs().to_csv(path, index=False)
    Reader().read(path, progress=True)
    Reader().read(path)
    assert capsys.readouterr() == ("", "")
