"""What a live session wrote down is what the core decides."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scheduler import compiled
from scheduler.core.events import Admitted, Considered, GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role, Selector, Slice
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US, to_us
from scheduler.journal.file import Journal
from scheduler.journal.history import read
from scheduler.journal.lines import Gap, decode_item, encode, lines, snapshot
from scheduler.journal.replay import replay
from scheduler.policies import catalog
from scheduler.policies.decide import decide
from scheduler.policies.spec import PolicySpec
from sim.commands.main import invoke
from sim.journals.recorded import recorded

POLICY = PolicySpec(discipline="easy")


class Session:
    """A short live session: gangs come, the core decides, the journal is told."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.policy = catalog.policy(POLICY)
        self.begin(0.0)

    def begin(self, now_s: float) -> None:
        """Make the state anew; what ran is gone."""
        nodes = [Node(f"n{i}", PodShape(8)) for i in range(4)]
        self.state = ClusterState(nodes, order=self.policy.order)
        self.journal.begin(now_s, snapshot(now_s, self.state, POLICY, 1000.0))

    def submit(self, name: str, pods: int, now_s: float) -> None:
        """Let a gang come."""
        role = Role(pods, PodShape(8), Selector())
        event = GangSubmitted(Gang(name, (role,), submit_us=to_us(now_s)))
        apply(self.state, event)
        self.journal.write(encode(now_s, event))

    def decide(self, now_s: float) -> None:
        """Run a pass to its end."""
        while True:
            for decision in decide(self.state, self.policy, to_us(now_s)):
                name = type(decision).__name__
                self.journal.write(encode(now_s, decision), rests=name == "Considered")
                if name == "Considered":
                    apply(self.state, decision)
                    return
                if name == "Admit":
                    event = Admitted(decision.gang, decision.placement, to_us(now_s), FOREVER_US)
                    apply(self.state, event)
                    self.journal.write(encode(now_s, event))
                else:
                    apply(self.state, decision)


def session(path: Path, tamper: bool = False) -> None:
    """Write the journal of a short session: three gangs, of which two fit."""
    told = Session(Journal(path, 1 << 20))
    for i, pods in enumerate((2, 3, 2)):
        told.submit(f"g{i}", pods, 1.0)
    told.decide(1.5)
    told.journal.close()
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


def test_it_says_whether_compiled_code_decided(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    session(path)
    assert json.loads(path.read_text().splitlines()[0])["core"] == compiled.which()


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
        ('{"t": 1.0}', "not a journal line"),
        ("not json", "not a journal line"),
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


def test_a_limit_that_there_is_not_survives() -> None:
    item = Admitted("g", (Slice(0, 0, 2, 1),), 3_000_000, FOREVER_US)
    line = json.loads(encode(3.0, item))
    assert decode_item(line["is"], line["v"]) == item


def test_times_of_earlier_journals_are_seconds() -> None:
    value = {"gang": "g", "placement": [[0, 0, 2, 1]], "now_s": 0.3, "expected_end_s": "inf"}
    item = Admitted("g", (Slice(0, 0, 2, 1),), 300_000, FOREVER_US)
    assert decode_item("Admitted", value) == item
    gang = ["g", [{"count": 1, "pod": [8, 0, 0]}], -4.1, "inf", 0, "", 0, 0]
    seen = decode_item("GangSubmitted", {"gang": gang, "present": 1})
    assert isinstance(seen, GangSubmitted)
    assert (seen.gang.submit_us, seen.gang.walltime_us) == (-4_100_000, FOREVER_US)


def kinds(path: Path) -> list[str]:
    return [json.loads(line)["is"] for line in path.read_text().splitlines()]


def without(path: Path, which: Callable[[int, str], bool], numbered: bool) -> str:
    """Take lines out, and their numbers if asked; return what the replay then says."""
    lines = path.read_text().splitlines()
    kept = [line for i, line in enumerate(lines) if not which(i, json.loads(line)["is"])]
    assert len(kept) < len(lines)
    text = "\n".join(kept) + "\n"
    path.write_text(text if numbered else re.sub(r'"n":\d+,', "", text))
    return replay(path).difference


def test_every_decision_that_is_missing_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    session(path)
    before = kinds(path)
    assert {"Admit", "Wait"} < set(before) and before[-1] == "Considered"
    for at, kind in enumerate(before):
        if kind in ("Admit", "Admitted", "Wait", "Considered"):
            session(path := tmp_path / f"without-{at}.jsonl")
            said = without(path, lambda i, _, at=at: i == at, numbered=False)
            assert said, f"line {at + 1}, {kind}"


def test_decisions_that_are_missing_before_an_event_or_a_snapshot(tmp_path: Path) -> None:
    for then in ("event", "snapshot"):
        path = tmp_path / f"{then}.jsonl"
        told = Session(Journal(path, 1 << 20))
        told.submit("g0", 2, 1.0)
        told.submit("g1", 3, 1.0)
        told.decide(1.5)
        if then == "event":
            told.submit("g2", 1, 2.0)
        else:
            told.begin(2.0)
        told.journal.close()
        assert not replay(path).difference
        said = without(path, lambda _, kind: kind in ("Wait", "Considered"), numbered=False)
        assert "but the core now also decides" in said


def test_a_pass_that_is_missing_as_a_whole_is_seen_by_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    session(path)
    with path.open("ab") as file:
        file.write(b'{"n":99,"t":3.0,"is":"Considered","v":{}}\n')
    with pytest.raises(ValueError, match="line 99 of its snapshot follows line"):
        replay(path)


@contextmanager
def full_at(size: int, pid: int = 0) -> Iterator[None]:
    """Let no file of a process grow beyond `size`: its writes end there, and then fail."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_a_gap_and_nothing_torn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal.jsonl"
    told = Session(Journal(path, 1 << 20))
    told.submit("g0", 2, 1.0)
    told.decide(1.5)
    told.journal.flush()
    whole = path.read_bytes()
    told.submit("g1", 1, 2.0)
    told.decide(2.5)
    with full_at(len(whole) + 40):
        told.journal.flush()
        assert told.journal.failing and told.journal.num_lost == 4
        assert path.stat().st_size == len(whole) + 40, "a line is torn"
        assert not told.journal.writable()
        told.submit("g2", 1, 3.0)
        told.journal.flush()
        told.begin(3.5)
        assert told.journal.failing and told.journal.num_lost == 7, "the snapshot and gap, too"
    assert told.journal.writable()
    told.begin(4.0)
    assert not told.journal.failing
    told.submit("g3", 2, 4.0)
    told.decide(4.5)
    told.journal.close()
    assert path.read_bytes().startswith(whole)
    assert kinds(path)[len(whole.splitlines()) :][:2] == ["Gap", "Snapshot"]

    done = replay(path)
    assert not done.difference and done.num_states == 2
    (gap,) = done.gaps
    assert "7 lines lost: File too large" in gap
    assert invoke(["replay", str(path)]) == 0
    printed = capsys.readouterr()
    assert "1 gaps" in printed.out and "7 lines lost" in printed.err
    assert [e.item for e in read([path]) if isinstance(e.item, Gap)] == [Gap(7, "File too large")]
    run = recorded([path])
    assert run.manifest["gaps"] == [
        {"from_s": 1.5, "to_s": 4.0, "lost": 7, "why": "File too large"}
    ]
    assert invoke(["report", str(path), "--out", str(tmp_path / "report")]) == 0
    for name in ("report.html", "report.md"):
        page = (tmp_path / "report" / name).read_text()
        assert "7 lines of the journal are missing, from 1.50 s to 4.00 s" in page


def test_the_next_process_does_not_go_on_with_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    session(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n":77,"t":9.0,"is":"Gang')
    session(path)
    assert path.read_bytes() == whole + whole
    assert not replay(path).difference and replay(path).num_states == 2
    path.write_bytes(b'{"n":0,"t":0.0,"is":"Snap')
    session(path)
    assert path.read_bytes() == whole


def test_a_journal_that_cannot_be_set_aside_is_still_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    told = Session(Journal(path, 2000))
    (tmp_path / "journal.jsonl.1" / "in the way").mkdir(parents=True)
    while not told.journal.full:
        told.decide(1.0)
    told.begin(2.0)
    assert not told.journal.full, "or every step would try again"
    told.begin(3.0)
    told.journal.close()
    assert not replay(path).difference


def test_where_nothing_can_be_written_the_session_goes_on() -> None:
    told = Session(Journal(Path("/dev/full"), 1 << 20))
    told.submit("g0", 2, 1.0)
    told.decide(1.5)
    assert told.journal.failing and not told.journal.writable()
    told.journal.close()
    assert told.journal.num_lost == 5, "a snapshot, an event, and a pass of two and an end"


def test_a_word_before_the_first_snapshot_of_a_process_follows_nothing(tmp_path: Path) -> None:
    """Another process wrote what stands before it, and did not say how many lines."""
    state = ClusterState(())
    for _ in range(3):
        journal = Journal(tmp_path / "journal.jsonl", 1 << 20)
        journal.write(b'{"t":0.0,"is":"Told","v":{}}')
        journal.begin(0.0, snapshot(0.0, state, PolicySpec(), 1.0))
        journal.write(encode(1.0, Considered()))
        journal.write(encode(2.0, Considered()))
        journal.close()
    assert len(list(lines(tmp_path / "journal.jsonl"))) == 9


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc here")
def test_a_file_that_opens_but_cannot_be_read_is_named() -> None:
    with pytest.raises(OSError, match="/proc/self/mem"):
        replay(Path("/proc/self/mem"))
