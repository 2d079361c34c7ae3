"""Where the peers' results lie."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """The folder of peers' results; skips where it is absent."""
    folder = shared / "golden"
    if not folder.is_dir():
        pytest.skip("needs the peers' results in the folder 'shared/golden' beside the clone")
    return folder
