"""Every scenario has a test that takes it, or is named with the reason why none does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.golden import (
    test_kai,
    test_kueue_cycles,
    test_kueue_quota,
    test_kueue_usage,
    test_kueue_victims,
)
from tests.golden.scenarios import scenarios

TESTS = (test_kai, test_kueue_cycles, test_kueue_quota, test_kueue_usage, test_kueue_victims)
TAKEN = {kind for test in TESTS for kind in test.KINDS}
#: kinds that begin with these words are for later
LATER = {"topology": "muster places gangs by the order of nodes, not by levels of a topology"}


def test_every_kind_has_a_test(golden: Path) -> None:
    kinds = {one.kind for one in scenarios(golden)} - TAKEN
    unknown = {kind for kind in kinds if kind.partition("-")[0] not in LATER}
    assert not unknown, f"no test takes scenarios of kind {', '.join(sorted(unknown))}"
    if kinds:
        pytest.skip("; ".join(f"{k}: {LATER[k.partition('-')[0]]}" for k in sorted(kinds)))


def test_files_are_read_packed_or_not_under_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "kueue"
    folder.mkdir()
    told = {"file": "quota", "scenarios": [{"id": "a"}, {"id": "b", "kind": "shares"}]}
    (folder / "mine.json").write_text(json.dumps(told))
    (folder / "others.json.gz").write_bytes(gzip.compress(json.dumps(told).encode()))
    assert [(one.kind, one.name) for one in scenarios(tmp_path)] == [
        ("quota", "a"),
        ("shares", "b"),
    ] * 2
