"""Journals of earlier versions are read: times in float seconds, fewer reasons."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from scheduler.core.decisions import Admit, Wait
from scheduler.core.events import Admitted, GangSubmitted
from scheduler.core.model import Gang, Node, PodShape, Role, Selector
from scheduler.core.state import ClusterState, apply
from scheduler.core.times import FOREVER_US
from scheduler.journal.history import read
from scheduler.journal.lines import decode_item, encode, snapshot
from scheduler.journal.replay import replay
from scheduler.policies import catalog
from scheduler.policies.spec import PolicySpec
from sim.journals.recorded import Recorder
from tests.scheduler.core.driving import let_pass

STRICT = catalog.policy(PolicySpec())
#: 40 gangs on 3 nodes under EASY, with times of six decimals, written by the last version of it
FORMAT1 = Path(__file__).with_name("format1.jsonl.gz")

#: six nodes that are lost, cordoned and taken by others while gangs wait for CPUs and GPUs under
#: EASY, written by the last version of it
FORMAT2 = Path(__file__).with_name("format2.jsonl.gz")

#: a live cluster whose pods beyond a gang's minimum, and lost ranks, were gangs by themselves
SEVERAL = Path(__file__).with_name("several_gangs.jsonl.gz")


def test_a_journal_in_seconds_replays_with_equal_decisions(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(gzip.decompress(FORMAT1.read_bytes()))
    found = replay(path)
    assert (found.difference, found.num_decisions) == ("", 189)


def test_a_gang_whose_decisions_were_others_is_refused_by_name(tmp_path: Path) -> None:
    """What is a master and its equal workers now was of two shapes then."""
    lines = gzip.decompress(FORMAT1.read_bytes()).decode().splitlines()
    line = json.loads(lines[1])
    worker = line["v"]["gang"][1][0]
    line["v"]["gang"][1] = [{**worker, "count": 1, "name": "master"}, {**worker, "count": 2}]
    path = tmp_path / "journal.jsonl"
    path.write_text("\n".join([lines[0], json.dumps(line), *lines[2:]]) + "\n")
    says = r"journal.jsonl:2: gang 'j0' has equal pods in its roles 'master', 'worker'"
    with pytest.raises(ValueError, match=says):
        replay(path)


def test_its_waits_of_equal_pods_are_read() -> None:
    """They were a family of one size; a report of such a journal says who waited for what."""
    pod = [8, 0, 0]
    roles = [{"count": 1, "pod": pod, "name": "master"}, {"count": 7, "pod": pod}]
    seen = decode_item("Wait", {"family": roles, "fit_pods": 0, "free_pods": 1})
    assert seen == Wait((PodShape(8), Selector()), 0, 8)


def test_its_promises_count(tmp_path: Path) -> None:
    """The comparison can fail: a promise that is a microsecond off is a difference."""
    lines = gzip.decompress(FORMAT1.read_bytes()).decode().splitlines()
    at = next(i for i, line in enumerate(lines) if json.loads(line)["is"] == "Reserve")
    line = json.loads(lines[at])
    line["v"]["start_s"] += 1e-6
    lines[at] = json.dumps(line)
    path = tmp_path / "journal.jsonl"
    path.write_text("\n".join(lines) + "\n")
    assert f"journal.jsonl:{at + 1}: live Reserve" in replay(path).difference


def test_what_format_1_said_of_gpus_only_is_not_compared(tmp_path: Path) -> None:
    """CPUs bind: format 1 called that fragmentation, with seven GPUs free."""
    state = ClusterState([Node("n", PodShape(8, 8_000))])
    roles = (Role(1, PodShape(1, 8_000)),)
    gangs = [GangSubmitted(Gang(name, roles, i)) for i, name in enumerate("ab")]
    written = [json.loads(snapshot(0, state, {}))]
    for gang in gangs:
        apply(state, gang)
        for item in (gang, *let_pass(state, STRICT)):
            written.append(json.loads(encode(0, item)))
            if isinstance(item, Admit):
                started = Admitted(item.gang, item.placement, 0, FOREVER_US)
                written.append(json.loads(encode(0, started)))
    (at,) = [i for i, line in enumerate(written) if line["is"] == "Wait"]
    assert written[at]["v"].pop("short") == "cpu"
    written[at]["v"] = {**written[at]["v"], "free_pods": 7, "apart": "gpus"}
    written[0]["policy"] = dict.fromkeys(("order", "discipline", "backfill", "placement"))
    written[0]["policy"] |= {"order": "fifo", "discipline": "strict", "backfill": "none"}
    written[0]["policy"] |= {"placement": "pack"}
    path = tmp_path / "journal.jsonl"
    for form in (1, 2):
        written[0]["format"] = form
        path.write_text("".join(json.dumps(line) + "\n" for line in written))
        assert bool(replay(path).difference) is (form == 2)


def test_reasons_that_format_2_did_not_renew_are_not_missed(tmp_path: Path) -> None:
    """Where nodes were taken away it said nothing; its later `Wait`s follow from that."""
    path = tmp_path / "journal.jsonl"
    text = gzip.decompress(FORMAT2.read_bytes()).decode()
    path.write_text(text)
    found = replay(path)
    assert (found.difference, found.num_decisions) == ("", 379)
    path.write_text(text.replace('"format":2', '"format":3', 1))
    assert "the core now decides Wait" in replay(path).difference


def test_reasons_that_format_2_did_say_are_compared(tmp_path: Path) -> None:
    """Each of them with another number is a difference, and so is one more or less elsewhere."""
    lines = gzip.decompress(FORMAT2.read_bytes()).decode().splitlines()
    waits = [i for i, line in enumerate(lines) if json.loads(line)["is"] == "Wait"]
    path = tmp_path / "journal.jsonl"
    for at in waits[::7]:
        line = json.loads(lines[at])
        line["v"]["fit_pods"] += 1
        path.write_text("\n".join([*lines[:at], json.dumps(line), *lines[at + 1 :]]) + "\n")
        assert f"journal.jsonl:{at + 1}: live Wait" in replay(path).difference
    path.write_text("\n".join([*lines[: waits[0]], *lines[waits[0] + 1 :]]) + "\n")
    assert "the core now decides Wait" in replay(path).difference


def test_a_gang_that_was_several_replays_and_is_told_as_several_jobs(tmp_path: Path) -> None:
    """`n/g` ran with two pods beyond its minimum, lost one, and was joined by another later."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(gzip.decompress(SEVERAL.read_bytes()))
    found = replay(path)
    assert (found.difference, found.num_decisions) == ("", 37)
    names = {job.name for job in told_by(path).jobs}
    assert names == {"n/g", "n/g+1", "n/g+2", "n/g+3", "n/g+4", "n/h", "n/h+1"}


def told_by(path: Path) -> Recorder:
    """Return what a report makes of a journal."""
    recorder = Recorder()
    for entry in read([path]):
        recorder.take(entry)
    recorder.close()
    return recorder
