"""A journal with a line that cannot be, nodes that come and go, and a snapshot taken after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.events import GangFinished, GangSubmitted, NodeAdded, NodeCordoned, NodeReturned
from scheduler.core.model import Node
from scheduler.journal.history import events_of
from sim.commands.main import invoke
from sim.journals.recorded import recorded
from sim.journals.resumed import resume, scene
from sim.schema.config import RunConfig
from tests.sim.journals.test_report import EIGHT, Live, gang, nodes

HUGE = f'{{"count":{2**63 - 1},"pod":[8],"selector":["",""],"name":"worker"}}'
BAD = [
    b"not json",
    b'{"t":2.0,"is":"GangSubmitted","v":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"t":2.0,"is":"GangSubmitted","v":' + b"[" * 9000 + b"]" * 9000 + b"}",
    b'{"t":2.0,"is":"Nonsense","v":{}}',
    b'{"t":2.0,"is":"GangFinished"}',
    b'{"t":' + b"9" * 400 + b',"is":"GangFinished","v":{"gang":"a"}}',
    b'{"t":2.0,"is":"GangFinished","v":{"gang":"nobody"}}',
    b'{"t":2.0,"is":"Admitted","v":{"gang":"late","placement":[[0,7,9,1]],"now_us":2000000,'
    b'"expected_end_us":9000000}}',
    f'{{"t":2.0,"is":"GangSubmitted","v":{{"gang":["x",[{HUGE}]],"present":null}}}}'.encode(),
    f'{{"t":2.0,"is":"GangResized","v":{{"gang":"late","roles":[{HUGE}]}}}}'.encode(),
    b'{"t":2.0,"is":"NodeAdded","v":{"node":{"name":"x","capacity":[9223372036854775807]}}}',
    b'{"t":2.0,"is":"ForeignPodBound","v":{"pod":"p","node":"node-0",'
    b'"shape":[9223372036854775807]}}',
]


def with_bad_line(path: Path, bad: bytes) -> Live:
    """Play two gangs of which one waits for the other, with a bad line between."""
    live = Live(path, nodes(2))
    live.tell(1.0, GangSubmitted(gang("early", 2, submit_s=1.0)))
    live.decide(1.0)
    live.tell(2.0, GangSubmitted(gang("late", 2, submit_s=2.0)))
    live.write(bad)
    live.decide(2.0)
    live.tell(5.0, GangFinished("early"))
    live.decide(5.0)
    live.tell(9.0, GangFinished("late"))
    return live


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_one_bad_line_is_set_aside_and_named(
    bad: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_bad_line(tmp_path / "journal.jsonl", bad).path
    number = path.read_bytes().splitlines().index(bad) + 1
    run = recorded([path])
    assert run.jobs["job"].tolist() == ["early", "late"]
    assert run.jobs["start_s"].tolist() == [1.0, 5.0]
    assert run.manifest["num_set_aside"] == 1
    assert f"journal.jsonl:{number}: " in run.manifest["set_aside"][0]
    assert invoke(["report", str(path), "--out", str(tmp_path / "out")]) == 0
    assert f"set aside: {path}:{number}: " in capsys.readouterr().err
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "1 line of the journal was set aside" in text and f"jsonl:{number}" in text
    arguments = ["run", "--journal", str(path), "--out", str(tmp_path / "run"), "--no-report"]
    assert invoke(arguments) == 0
    assert f"set aside: {path}:{number}: " in capsys.readouterr().out
    assert invoke(["replay", str(path)]) in (1, 2), "replay is the proof: it forgives nothing"
    said = capsys.readouterr()
    assert "journal.jsonl:" in said.out + said.err


def test_without_the_line_the_journal_is_read_as_well(tmp_path: Path) -> None:
    """Lines are numbered, so that none is missing unseen: it is said, and the rest is shown."""
    live = with_bad_line(tmp_path / "journal.jsonl", b'{"t":2.0,"is":"Nonsense","v":{}}')
    lines = live.path.read_bytes().splitlines()
    numbered = [b'{"n":%d,%b' % (n, line[1:]) for n, line in enumerate(lines)]
    del numbered[next(n for n, line in enumerate(lines) if b"Nonsense" in line)]
    live.path.write_bytes(b"\n".join([*numbered, b""]))
    run = recorded([live.path])
    assert run.jobs["job"].tolist() == ["early", "late"]
    assert "lines were removed" in run.manifest["set_aside"][0]


def test_after_a_bad_snapshot_nothing_is_followed_until_the_next(tmp_path: Path) -> None:
    live = with_bad_line(tmp_path / "journal.jsonl", b'{"t":2.0,"is":"Snapshot","format":3}')
    assert recorded([live.path]).jobs["job"].tolist() == ["early", "late"]
    live.begin(20.0, nodes(2))
    live.tell(21.0, GangSubmitted(gang("again", 1, submit_s=21.0)))
    live.decide(21.0)
    live.tell(25.0, GangFinished("again"))
    run = recorded([live.path])
    assert run.jobs["job"].tolist() == ["early", "late", "again"]
    assert run.jobs["start_s"].isna().tolist() == [False, True, False]


# -- nodes that come and go, and snapshots after the journal -----------------------------------


def test_nodes_that_join_while_a_journal_runs_are_there(tmp_path: Path) -> None:
    """Also where a new snapshot tells of them, as live muster does."""
    live = Live(tmp_path / "journal.jsonl", nodes(1))
    live.tell(1.0, GangSubmitted(gang("large", 3, submit_s=1.0, walltime_s=60.0)))
    live.decide(1.0)
    live.tell(10.0, NodeAdded(Node("node-new", EIGHT)))
    live.decide(10.0)
    waiting = live.state
    live.begin(20.0, [*nodes(1), Node("node-new", EIGHT), Node("a-third", EIGHT)])
    for event in events_of(waiting):
        live.tell(20.0, event)
    live.decide(20.0)
    built = scene(None, [live.path], 3600.0)
    assert [name for _, name, is_open in built.doors if is_open] == ["node-new", "a-third"]
    result = resume(built, RunConfig(), "journal.jsonl")
    assert result.jobs["outcome"].tolist() == ["completed"]
    assert result.jobs["start_s"].tolist() == [pytest.approx(20.0)]
    away = result.nodes.set_index("node")["unavailable_gpu_s"].to_dict()
    assert away == {"node-0": 0.0, "node-new": pytest.approx(80.0), "a-third": pytest.approx(160.0)}


def test_nodes_that_close_open_and_leave_do_so_again(tmp_path: Path) -> None:
    live = Live(tmp_path / "journal.jsonl", nodes(2))
    live.tell(1.0, GangSubmitted(gang("runs", 1, submit_s=1.0, walltime_s=100.0)))
    live.decide(1.0)
    live.tell(2.0, NodeCordoned("node-1"))
    live.tell(3.0, GangSubmitted(gang("waits", 1, submit_s=3.0, walltime_s=10.0)))
    live.decide(3.0)
    live.tell(30.0, NodeReturned("node-1"))
    live.decide(30.0)
    live.tell(45.0, GangFinished("waits"))
    running = events_of(live.state)
    live.begin(50.0, nodes(1))
    for event in running:
        live.tell(50.0, event)
    live.decide(50.0)
    built = scene(None, [live.path], 3600.0)
    assert built.doors == [(2.0, "node-1", False), (30.0, "node-1", True), (50.0, "node-1", None)]
    result = resume(built, RunConfig(), "journal.jsonl")
    start_s = result.jobs.set_index("job")["start_s"].to_dict()
    assert start_s["waits"] == pytest.approx(30.0)


def test_a_snapshot_taken_after_the_journal_submits_nothing_again(tmp_path: Path) -> None:
    live = Live(tmp_path / "journal.jsonl", nodes(2))
    for number in range(4):
        live.tell(1.0 + number, GangSubmitted(gang(f"g-{number}", 2, submit_s=1.0 + number)))
        live.decide(1.0 + number)
    live.tell(6.0, GangFinished("g-0"))
    live.decide(6.0)
    for at_s in (6.0, 6.5, 600.0):
        built = scene(live.write_state(at_s), [live.path], 3600.0)
        assert [one.name for one in built.gangs] == ["g-1", "g-2", "g-3"]
        assert "0 arrive later" in built.sentence()
