"""The words of a policy: read once, the same at every edge, and refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scheduler.controller.settings import load as load_live
from scheduler.core.queueing import GangState
from scheduler.core.state import ClusterState
from scheduler.journal.history import read as read_journal
from scheduler.journal.lines import decode_policy, snapshot
from scheduler.policies import catalog
from scheduler.policies.passes import Pass
from scheduler.policies.spec import PolicySpec
from sim import RunResult, run
from sim.commands.main import invoke
from sim.runs.folder import read_config
from sim.study.settings import Arm, read_settings


def numbered(around: Pass, head: GangState) -> None:
    """Do nothing with two numbers."""


@pytest.fixture
def two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discipline that takes numbers."""
    choice = catalog.Choice(numbered, "nothing", depth=3, quantum_s=60.0)
    monkeypatch.setitem(catalog.DISCIPLINES, "numbered", choice)


@pytest.mark.parametrize(
    ("words", "base", "spec"),
    [
        ({}, PolicySpec(), PolicySpec()),
        ({}, PolicySpec("sjf", "easy", "spread"), PolicySpec("sjf", "easy", "spread")),
        ({"order": "sjf"}, PolicySpec("fifo", "skip"), PolicySpec("sjf", "skip")),
        ({"backfill": "easy"}, PolicySpec(), PolicySpec(discipline="easy")),
        ({"backfill": "easy"}, PolicySpec("fifo", "skip"), PolicySpec(discipline="easy")),
        (
            {"discipline": "strict", "backfill": "easy"},  # both defaults were often written out
            PolicySpec(),
            PolicySpec(discipline="easy"),
        ),
        ({"discipline": "skip", "backfill": "none"}, PolicySpec(), PolicySpec(discipline="skip")),
        ({"backfill": "none"}, PolicySpec(discipline="easy"), PolicySpec()),
        (
            {"backfill": "none"},
            PolicySpec(discipline="skip"),
            PolicySpec(discipline="skip"),
        ),
    ],
)
def test_words_are_read_over_those_of_a_base(
    words: dict[str, object], base: PolicySpec, spec: PolicySpec
) -> None:
    assert catalog.read(words, base) == spec


REFUSED = [
    ({"order": "lifo"}, "order 'lifo' is unknown; choose one of fifo, priority, sjf, smallest"),
    ({"discipline": "lax"}, "discipline 'lax' is unknown; choose one of strict, skip, easy"),
    ({"discipline": 3}, "discipline 3 is unknown"),
    ({"backfill": "hard"}, "backfill 'hard' is unknown; choose one of none, easy"),
    ({"placement": "best"}, "placement 'best' is unknown; choose one of pack, spread, first-fit"),
    (
        {"discipline": "skip", "backfill": "easy"},
        "discipline 'skip' and backfill 'easy' both say which gangs may pass a head that does "
        "not fit; leave backfill out",
    ),
    (
        {"numbers": {"depth": 3}},
        "number 'depth' belongs to discipline 'numbered', not to 'strict'",
    ),
    (
        {"discipline": "numbered", "numbers": {"width": 3}},
        "number 'width' is unknown; discipline 'numbered' takes depth, quantum_s",
    ),
    (
        {"discipline": "numbered", "numbers": {"depth": -1}},
        "number 'depth' is -1; give a number of 0 or more",
    ),
]


@pytest.mark.usefixtures("two_numbers")
@pytest.mark.parametrize(("words", "text"), REFUSED)
def test_what_is_wrong_is_said_in_the_same_words_at_every_edge(
    words: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a value of the wrong type the command line cannot know: there all words are text."""
    (tmp_path / "jobs.csv").write_text("job,submit_s,duration_s,num_pods,gpus_per_pod\na,0,1,1,1\n")
    flags = [
        part
        for name, word in words.items()
        for part in (
            (f"--{name}", str(word))
            if name != "numbers"
            else ("--number", "=".join(map(str, *word.items())))
        )
    ]
    arguments = ["run", "--jobs", str(tmp_path / "jobs.csv"), "--nodes", "1", "--no-report"]
    assert invoke([*arguments, "--out", str(tmp_path / "out"), *flags]) == 2
    said = text.replace("discipline 3", "discipline '3'").replace("is -1;", "is -1.0;")
    assert said in capsys.readouterr().err

    (tmp_path / "live.toml").write_bytes(msgspec.toml.encode({"policy": words}))
    (tmp_path / "plan.toml").write_bytes(msgspec.toml.encode({"arm": {"name": "a", **words}}))
    edges: list[Callable[[], object]] = [
        lambda: catalog.read(words),
        lambda: run(tmp_path / "jobs.csv", nodes=1, **words),
        lambda: load_live(tmp_path / "live.toml"),
        lambda: read_settings(tmp_path / "plan.toml", OneArm, what="plan"),
    ]
    if words.get("backfill") != "easy":  # what a record says was decided, contradiction or not
        edges.append(lambda: decode_policy({**asdict(PolicySpec()), **words}))
    for edge in edges:
        with pytest.raises(ValueError, match=re.escape(text)):
            edge()


class OneArm(msgspec.Struct, forbid_unknown_fields=True):
    """Settings with an arm, as studies and plans have them."""

    arm: Arm


@pytest.mark.parametrize("admission", ["pod", "permit"])
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"order": "sjf"}, "order 'sjf' needs admission gang; with admission"),
        ({"discipline": "skip"}, "discipline 'skip' needs admission gang; with admission"),
        ({"backfill": "easy"}, "discipline 'easy' needs admission gang; with admission"),
    ],
)
def test_pods_that_queue_one_by_one_have_no_discipline(
    admission: str,
    words: dict[str, str],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("job,submit_s,duration_s,num_pods,gpus_per_pod\na,0,1,1,1\n")
    ((name, word),) = words.items()
    flags = ["--admission", admission, f"--{name}", word]
    assert invoke(["run", "--jobs", str(jobs), "--nodes", "1", "--out", "o", *flags]) == 2
    assert f"{text} {admission}" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"{text} {admission}"):
        run(jobs, nodes=1, admission=admission, **words)
    settings = {"arm": {"name": "a", "admission": admission, **words}}
    (tmp_path / "plan.toml").write_bytes(msgspec.toml.encode(settings))
    with pytest.raises(ValueError, match=rf"arm 'a' in plan: {text} {admission}"):
        read_settings(tmp_path / "plan.toml", OneArm, what="plan").arm.check("plan")


@pytest.mark.usefixtures("two_numbers")
def test_numbers_travel_as_they_are(tmp_path: Path) -> None:
    given = PolicySpec("sjf", "numbered", "spread", {"depth": 5.0, "quantum_s": 60.0})
    words = {**asdict(given), "numbers": {"depth": 5}}
    assert catalog.read(words) == given, "the number that was not given has its default"
    assert catalog.read({"numbers": {"depth": 4}}, given).numbers == {
        "depth": 4.0,
        "quantum_s": 60.0,
    }
    assert catalog.read({"discipline": "skip"}, given).numbers == {}
    assert catalog.policy(given).numbers == given.numbers

    jobs = tmp_path / "jobs.csv"
    jobs.write_text("job,submit_s,duration_s,num_pods,gpus_per_pod\na,0,1,1,1\n")
    flags = ["--discipline", "numbered", "--number", "depth=5", "--order", "sjf"]
    flags += ["--placement", "spread", "--no-report", "--out", str(tmp_path / "o")]
    assert invoke(["run", "--jobs", str(jobs), "--nodes", "1", *flags]) == 0
    assert read_config(tmp_path / "o").policy == given
    loaded = RunResult.load(tmp_path / "o")
    assert loaded.config.policy == given
    assert loaded.manifest["policy"] == asdict(given)

    (tmp_path / "live.toml").write_bytes(msgspec.toml.encode({"policy": words}))
    assert load_live(tmp_path / "live.toml").policy == given
    line = snapshot(0.0, ClusterState(()), given)
    assert decode_policy(msgspec.json.decode(line)["policy"]) == given
    (tmp_path / "plan.toml").write_bytes(msgspec.toml.encode({"arm": {"name": "a", **words}}))
    assert read_settings(tmp_path / "plan.toml", OneArm, what="plan").arm.policy == given


def test_a_live_muster_orders_by_priority_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "live.toml").write_text('[policy]\nbackfill = "easy"\n')
    assert load_live(tmp_path / "live.toml").policy == PolicySpec("priority", "easy")
    (tmp_path / "live.toml").write_text('[policy]\nordre = "fifo"\n')
    with pytest.raises(
        ValueError, match=r"live\.toml: 'ordre' is not a setting of a policy; choose"
    ):
        load_live(tmp_path / "live.toml")


OLD = [
    ({"discipline": "strict", "backfill": "none"}, "strict"),
    ({"discipline": "skip", "backfill": "none"}, "skip"),
    ({"discipline": "strict", "backfill": "easy"}, "easy"),
    ({"discipline": "skip", "backfill": "easy"}, "easy"),  # backfill won, in silence
]


@pytest.mark.parametrize(("words", "discipline"), OLD)
def test_records_of_earlier_versions_are_read_as_they_decided(
    words: dict[str, str], discipline: str, tmp_path: Path
) -> None:
    old = {"order": "sjf", **words, "placement": "spread"}
    spec = PolicySpec("sjf", discipline, "spread")
    journal = tmp_path / "journal.jsonl"
    line = {"t": 0.0, "is": "Snapshot", "format": 1, "policy": old, "nodes": []}
    journal.write_bytes(msgspec.json.encode(line) + b"\n")
    (begin,) = read_journal([journal])
    assert begin.item.policy == spec  # type: ignore[union-attr]

    result = run(_jobs(tmp_path), nodes=1, label="old")
    folder = result.save(tmp_path / "run")
    config = msgspec.toml.decode((folder / "config.toml").read_bytes())
    del config["run"]["policy"]
    config["run"] |= old
    (folder / "config.toml").write_bytes(msgspec.toml.encode(config))
    assert read_config(folder).policy == spec
    assert RunResult.load(folder).config.policy == spec


def _jobs(folder: Path) -> Path:
    path = folder / "jobs.csv"
    path.write_text("job,submit_s,duration_s,num_pods,gpus_per_pod\na,0,1,1,1\n")
    return path
