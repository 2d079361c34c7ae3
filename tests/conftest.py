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


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the control plane before the first test that needs it: it takes longer than a test may.

    Where it cannot be built, the tests say so themselves.
    """
    needing = [item for item in session.items if item.get_closest_marker("k8s")]
    if not needing or session.config.option.collectonly:
        return
    from scheduler.controlplane import components, requirements

    real_nodes = not requirements.lack() and any("e2e" in item.path.parts for item in needing)
    if not components.lack(real_nodes=real_nodes):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        say = print if reporter is None else reporter.write_line
        components.build(say, real_nodes=real_nodes)


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
