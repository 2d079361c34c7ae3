"""The record of a local cluster: what is run from it, and with which keys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scheduler.controlplane import cluster as clusters
from scheduler.controlplane import components
from scheduler.controlplane.record import load

NOBODY = 65534


@pytest.mark.parametrize("content", ["", "{}"])
def test_the_folder_of_another_user_is_left_alone(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner would read the cluster's keys, and choose what root starts."""
    if os.geteuid():
        pytest.skip("only root can give a folder to another user")
    folder = tmp_path / "theirs"
    folder.mkdir()
    if content:
        (folder / "cluster.json").write_text(content)
    os.chown(folder, NOBODY, NOBODY)
    monkeypatch.setattr(components, "build", lambda *args, **more: {})
    with pytest.raises(ValueError, match=f"belongs to user {NOBODY}"):
        clusters.up(folder)
    with pytest.raises(ValueError, match=f"belongs to user {NOBODY}"):
        load(folder)
    assert [path.name for path in folder.iterdir()] == (["cluster.json"] if content else [])


def test_a_folder_that_is_not_there_holds_no_cluster(tmp_path: Path) -> None:
    assert load(tmp_path / "none") is None
