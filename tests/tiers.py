"""Which tests run together: a tier is what its tests need of the machine.

| tier | its tests need | they are | command |
|---|---|---|---|
| test | Python's libraries | all others | `make test` |
| live | programs of a control plane, built with Go | marked `k8s` | `make test-live` |
| train | torch | marked `torch` | `make test-train` |
| e2e | real nodes: root, a C compiler, torch | in `tests/e2e` | `make test-e2e` |

`tests/test_tiers.py` holds folders and marks together. `pytest --tier live` picks one.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath

import pytest

#: every test that was collected, before any choice
COLLECTED = pytest.StashKey[tuple[pytest.Item, ...]]()
#: folders of tests that share one cluster, or need all cores: one process runs them, in turn
TOGETHER = ("cluster", "e2e", "trainer")
#: fixtures that start the one cluster of a folder, with the first test that asks for it
SHARED_CLUSTERS = frozenset({"watcher", "rig"})


class Tier(StrEnum):
    """What tests need."""

    TEST = "test"
    LIVE = "live"
    TRAIN = "train"
    E2E = "e2e"


def folder_of(nodeid: str) -> str:
    """Return the folder below `tests` in which a test lies; empty for those in none."""
    parts = PurePosixPath(nodeid.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 else ""


def tier_of(item: pytest.Item) -> Tier:
    """Return the tier of a test."""
    if folder_of(item.nodeid) == "e2e":
        return Tier.E2E
    if item.get_closest_marker("k8s"):
        return Tier.LIVE
    return Tier.TRAIN if item.get_closest_marker("torch") else Tier.TEST


def shares_a_cluster(item: pytest.Item) -> bool:
    """True if a test uses the cluster of all, of played or of real nodes, that lives to the end."""
    return not SHARED_CLUSTERS.isdisjoint(getattr(item, "fixturenames", ()))


def misplaced(folder: str, k8s: bool, torch: bool) -> str:
    """Say what is wrong with the marks of a test in this folder; empty if nothing is."""
    if k8s and torch:
        return "is marked k8s and torch: a test belongs to one tier"
    if k8s != (folder in ("cluster", "e2e")):
        if k8s:
            return "is marked k8s: its place is tests/cluster, or tests/e2e for real nodes"
        return "is not marked k8s: without a cluster its place is tests/<package>/<room>"
    if torch and folder != "trainer":
        return "is marked torch: its place is tests/trainer"
    return ""
