"""What a live session wrote down is what the core decides."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import pytest

from scheduler import catalog
from scheduler.events import Admitted, GangSubmitted
from scheduler.live.journal import Journal, decode_item, encode, snapshot
from scheduler.live.replay import replay
from scheduler.model import Gang, Node, PodShape, Role, Selector, Slice
from scheduler.policy import decide
from scheduler.state import ClusterState, apply

NAMES = {"order": "fifo", "discipline": "strict", "backfill": "easy", "placement": "pack"}


def session(path: Path, tamper: bool = False) -> None:
    """Write the journal of a short session: three gangs, of which two fit."""
    journal = Journal(path, 1 << 20)
    policy = catalog.policy(*NAMES.values())
    state = ClusterState([Node(f"n{i}", PodShape(8)) for i in range(4)], order=policy.order)
    journal.write(snapshot(0.0, state, NAMES))
    for i, pods in enumerate((2, 3, 2)):
        role = Role(pods, PodShape(8), Selector())
        event = GangSubmitted(Gang(f"g{i}", (role,), submit_s=float(i), walltime_s=inf))
        apply(state, event)
        journal.write(encode(1.0, event))
    done = False
    while not done:
        for decision in decide(state, policy, 1.5):
            journal.write(encode(1.5, decision))
            name = type(decision).__name__
            if name == "Admit":
                event = Admitted(decision.gang, decision.placement, 1.5, inf)
                apply(state, event)
                journal.write(encode(1.5, event))
            else:
                apply(state, decision)
            done = name == "Considered"
    journal.close()
    if tamper:
        path.write_text(
            path.read_text().replace('"gang":"g0","placement"', '"gang":"g2","placement"')
        )


def test_equal_decisions(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    session(path)
    done = replay(path)
    assert not done.difference
    assert done.num_decisions >= 3
    assert done.num_states == 1


def test_another_decision_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    session(path, tamper=True)
    assert "journal.jsonl:5" in replay(path).difference


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    session(path)
    path.write_bytes(path.read_bytes()[:-3])
    assert not replay(path).difference


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"t": 1.0}', "no journal line"),
        ("not json", "no journal line"),
        ('{"t": 1.0, "is": "Nonsense", "v": {}}', "'Nonsense'"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "journal.jsonl"
    session(path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=f"journal.jsonl:\\d+: .*{says}"):
        replay(path)


def test_infinity_survives() -> None:
    item = Admitted("g", (Slice(0, 0, 2, 1),), 3.0, inf)
    line = json.loads(encode(3.0, item))
    assert decode_item(line["is"], line["v"]) == item
