"""A plugin of pytest: write down how a run went, for `tests/run.py` to sum (`--outcomes FILE`)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

#: what pytest's closing line counts, in its order
COUNTED = ("failed", "passed", "skipped", "xfailed", "xpassed", "error")


class Outcomes(msgspec.Struct):
    """How a run of pytest went."""

    seconds: float = 0.0
    counts: dict[str, int] = {}
    #: by test, in which phases: setup, call, teardown, `end` (that of the session), or collect
    failed: dict[str, list[str]] = {}
    skipped: dict[str, str] = {}  #: why, by test or file
    passed_alone: list[str] = []  #: of those that failed


class Recorder:
    """Notes what the terminal's reporter counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began_s = time.perf_counter()
        self._last = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if nextitem is None:
            self._last = item.nodeid

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        stats: dict[str, list[Any]] = terminalreporter.stats
        found = Outcomes(time.perf_counter() - self._began_s)
        found.counts = {kind: len(stats[kind]) for kind in COUNTED if stats.get(kind)}
        for report in _reports(stats, "failed", "error"):
            phase = getattr(report, "when", "collect")
            if phase == "teardown" and report.nodeid == self._last:
                phase = "end"
            found.failed.setdefault(report.nodeid, []).append(phase)
        for report in _reports(stats, "skipped"):
            why = report.longrepr
            text = why[2] if isinstance(why, tuple) else str(why)
            found.skipped[report.nodeid] = text.removeprefix("Skipped: ")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(msgspec.json.encode(found))


def _reports(stats: dict[str, list[Any]], *kinds: str) -> Iterable[Any]:
    return (report for kind in kinds for report in stats.get(kind, ()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="write down there how the run went")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--outcomes")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(path))
