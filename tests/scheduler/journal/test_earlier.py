"""Journals of earlier versions are read: format 1 had times in float seconds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from scheduler.journal.replay import replay

#: 40 gangs on 3 nodes under EASY, with times of six decimals, written by the last version of it
FORMAT1 = Path(__file__).with_name("format1.jsonl.gz")


def test_a_journal_in_seconds_replays_with_equal_decisions(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(gzip.decompress(FORMAT1.read_bytes()))
    found = replay(path)
    assert (found.difference, found.num_decisions) == ("", 189)


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
