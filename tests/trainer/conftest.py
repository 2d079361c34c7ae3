"""Gangs of real processes for the tests of the trainer."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.forking import Forkery, Ranks
from trainer.local import TRAIN, Gang

#: a busy machine may take long to start Python with torch many times
START_S = 180.0
SHUTDOWN_S = 90.0  #: what the manifests give a pod to stop and save in
TINY_GPT = {
    "gpt.layers": 1,
    "gpt.width": 32,
    "gpt.context": 32,
    "global_batch": 8,
    "micro_batch": 2,
    "log_every": 5,
    "digest": True,
    "deterministic": True,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this folder that need torch skip where it is not installed, and say so."""
    if importlib.util.find_spec("torch") is not None:
        return
    missing = pytest.mark.skip(reason="needs torch, which `make test-train` installs")
    for item in items:
        if item.get_closest_marker("torch") is not None:
            item.add_marker(missing)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text that is quickly read."""
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(3000)), "ascii")
    return path


@pytest.fixture(scope="session")
def forkery() -> Iterator[Forkery]:
    """One process that has imported torch, for all tests."""
    made = Forkery()
    yield made
    made.close()


class Run:
    """One run in a folder of its own, started again and again."""

    def __init__(self, forkery: Forkery, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.settings = out, settings
        self.attempts: list[Ranks] = []
        self._forkery = forkery

    def start(self, ranks: int, settings: dict[str, Any] | None = None, **options: Any) -> Ranks:
        """Start an attempt."""
        args = sets(self.settings | (settings or {}) | {"out": str(self.out)})
        log = self.out / f"attempt_{len(self.attempts) + 1}.log"
        self.attempts.append(self._forkery.start(ranks, args, log, **options))
        return self.attempts[-1]


@pytest.fixture
def run(forkery: Forkery, tmp_path: Path, corpus_file: Path) -> Iterator[Callable[..., Run]]:
    """Make runs of a tiny GPT; whatever still runs at the end is killed."""
    made: list[Run] = []

    def make(name: str = "run", **settings: Any) -> Run:
        chosen = {**TINY_GPT, "data": str(corpus_file), **settings}
        made.append(Run(forkery, tmp_path / name, chosen))
        return made[-1]

    yield make
    for one in made:
        for attempt in one.attempts:
            attempt.kill()


@pytest.fixture
def gang(tmp_path: Path, corpus_file: Path) -> Iterator[Callable[..., Gang]]:
    """Make gangs of pods with launchers; whatever still runs at the end is killed."""
    made: list[Gang] = []

    def make(ranks: int, script: list[str] | None = None, **options: Any) -> Gang:
        out = tmp_path / "gang"
        chosen = {**TINY_GPT, "data": str(corpus_file), "out": str(out)}
        chosen |= options.pop("settings", {})
        made.append(Gang(out, ranks, script or [str(TRAIN), *sets(chosen)], **options))
        return made[-1]

    yield make
    for one in made:
        one.end()


def sets(settings: dict[str, Any]) -> list[str]:
    """Return settings as arguments of the trainer."""
    return [word for name, value in settings.items() for word in ("--set", f"{name}={toml(value)}")]


def toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)


def events(out: Path, rank: int = 0, kind: str | None = None) -> list[dict[str, Any]]:
    """Return a rank's lines of the goodput log."""
    lines = (out / "goodput" / f"rank_{rank:05d}.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [line for line in found if kind is None or line["event"] == kind]


def final_digest(out: Path, ranks: int) -> str:
    """Return the SHA-256 of the final state, after making sure that all ranks have the same."""
    found = {events(out, rank, "exit")[-1]["state_sha256"] for rank in range(ranks)}
    assert len(found) == 1
    return str(found.pop())
