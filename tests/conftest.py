"""Fixtures and settings that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import matplotlib as mpl
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
#: public traces and peers' results; they lie beside the repository and are not part of it
SHARED = REPOSITORY.parent / "shared"

mpl.use("Agg")

# No deadline: a busy machine is not a failure. HYPOTHESIS_PROFILE=thorough searches for longer.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "quick")
)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of public traces and peers' results; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the traces and golden results of the folder 'shared' beside the clone")
    return SHARED
