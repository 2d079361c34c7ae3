"""Gangs of real processes for the tests of the trainer."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.local import TRAIN, Gang

#: a busy machine may take long to start Python with torch many times
START_S = 180.0
TINY_GPT = {
    "gpt.layers": 1,
    "gpt.width": 32,
    "gpt.context": 32,
    "global_batch": 8,
    "micro_batch": 2,
    "data": "file",
    "log_every": 5,
    "digest": True,
    "deterministic": True,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of this folder that need torch skip where it is not installed, and say so."""
    if importlib.util.find_spec("torch") is not None:
        return
    missing = pytest.mark.skip(reason="needs torch: make .venv/train.stamp")
    for item in items:
        if item.get_closest_marker("torch") is not None:
            item.add_marker(missing)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text that is quickly read."""
    path = tmp_path_factory.mktemp("corpus") / "text"
    path.write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(3000)), "ascii")
    return path


@pytest.fixture
def gang(tmp_path: Path, corpus_file: Path) -> Iterator[Callable[..., Gang]]:
    """Make gangs in folders of this test; whatever still runs at its end is killed."""
    made: list[Gang] = []

    def make(ranks: int, name: str = "run", **options: Any) -> Gang:
        out = tmp_path / name
        settings = {**TINY_GPT, **options.pop("settings", {}), "out": str(out)}
        if settings["data"] == "file":
            settings["data"] = str(corpus_file)
        script = options.pop("script", None) or [str(TRAIN), *sets(settings)]
        made.append(Gang(out, ranks, script, **options))
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
